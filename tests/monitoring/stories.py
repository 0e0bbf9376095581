"""For each alert the series that make it fire, and those that only just do not: what promtool plays in ``test_rules``.

A story has four hours of health, one of a fault, one of health again. ``below`` is as near to the fault as may be
without an alarm; ``above`` is a little worse than that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

STEP_S: Final = 30
HEALTHY_S: Final = 4 * 3600
FAULTY_S: Final = 3600
AGAIN_S: Final = 3600
INSTANCE: Final = 'job="tradeengine",instance="engine"'


@dataclass(frozen=True)
class Gauge:
    """A series that has one value."""

    value: float


@dataclass(frozen=True)
class Counter:
    """A series that grows by so much in a minute."""

    per_minute: float


@dataclass(frozen=True)
class Moment:
    """A series that says when something happened last: always so many seconds ago."""

    age_s: float


Value = Gauge | Counter | Moment
Series = dict[str, Value]


@dataclass(frozen=True)
class Story:
    """One alert. Series are named without the labels of the engine; one that a phase does not name is as before."""

    alert: str
    healthy: Mapping[str, Value]
    below: Mapping[str, Value]
    above: Mapping[str, Value]
    labels: Mapping[str, str] = field(default_factory=dict)
    """What the alert says about where it is."""


def series(name: str, first: Value, fault: Value) -> dict[str, str]:
    """Give a series for promtool: as ``first``, then as ``fault``, then as ``first`` again."""
    metric, _, labels = name.partition("{")
    labels = labels.removesuffix("}")
    values, counted, time_s = [], 0.0, 0
    for value, seconds in ((first, HEALTHY_S), (fault, FAULTY_S), (first, AGAIN_S)):
        steps = seconds // STEP_S
        match value:
            case Gauge():
                values.append(f"{value.value}x{steps - 1}")
            case Counter():
                each = value.per_minute * STEP_S / 60
                values.append(f"{counted}+{each}x{steps - 1}")
                counted += each * steps
            case Moment():
                values.append(f"{time_s - value.age_s}+{STEP_S}x{steps - 1}")
        time_s += seconds
    return {"series": f"{metric}{{{INSTANCE}{',' if labels else ''}{labels}}}", "values": " ".join(values)}


def latencies(metric: str, labels: str, buckets: Mapping[str, float]) -> Series:
    """Give the buckets of a histogram: how many of a minute's values are at most each bound."""
    comma = "," if labels else ""
    return {f'{metric}_bucket{{{labels}{comma}le="{bound}"}}': Counter(count) for bound, count in buckets.items()}


def _orders(quick: float) -> Series:
    buckets = {"0.032767": quick, "0.065535": 100.0, "+Inf": 100.0}
    return latencies("tradeengine_front_command_latency_seconds", 'actor="front-0"', buckets)


def _syncs(quick: float) -> Series:
    buckets = {"0.016383": quick, "0.032767": 100.0, "+Inf": 100.0}
    return latencies("tradeengine_matcher_sync_latency_seconds", 'actor="matcher-0"', buckets)


def _requests(failed: float) -> Series:
    name = 'tradeengine_http_requests_total{{actor="front-0",route="/api/v1/orders",method="POST",code="{}"}}'
    return {name.format("201"): Counter(1000 - failed), name.format("503"): Counter(failed)}


def _ring(ring: str, reader: str, lag: float) -> Series:
    return {
        f'tradeengine_ring_lag_records{{ring="{ring}",reader="{reader}"}}': Gauge(lag),
        f'tradeengine_ring_capacity_records{{ring="{ring}"}}': Gauge(1000),
    }


def _one(name: str, healthy: Value, below: Value, above: Value) -> tuple[Series, Series, Series]:
    return {name: healthy}, {name: below}, {name: above}


STORIES: Final = (
    Story("EngineDown", *_one("up", Gauge(1), Gauge(1), Gauge(0))),
    Story("OrdersNotAccepted", *_one('tradeengine_risk_accepting{actor="risk"}', Gauge(1), Gauge(1), Gauge(0))),
    Story("OrderLatencyHigh", _orders(100), _orders(98), _orders(97.5)),
    Story("JournalSyncSlow", _syncs(100), _syncs(98), _syncs(97.5), {"actor": "matcher-0"}),
    Story(
        "OutcomesUnknown",
        *_one('tradeengine_front_outcomes_unknown_total{actor="front-0"}', Counter(0), Counter(0), Counter(1)),
    ),
    Story("HttpErrorRate", _requests(0), _requests(10), _requests(11)),
    Story(
        "FrontOverloaded",
        *_one('tradeengine_front_requests_shed_total{actor="front-0"}', Counter(0), Counter(60), Counter(66)),
        {"actor": "front-0"},
    ),
    Story(
        "SymbolHalted",
        *_one('tradeengine_symbol_trading_state{symbol="X/Y"}', Gauge(1), Gauge(1), Gauge(2)),
        {"symbol": "X/Y"},
    ),
    Story(
        "ActorDown",
        *_one('tradeengine_actor_state{actor="publisher",role="publisher"}', Gauge(2), Gauge(3), Gauge(4)),
        {"actor": "publisher"},
    ),
    Story(
        "ShardFenced",
        *_one('tradeengine_actor_state{actor="matcher-1",role="matcher"}', Gauge(2), Gauge(4), Gauge(5)),
        {"actor": "matcher-1"},
    ),
    Story(
        "ActorSilent",
        *_one(
            'tradeengine_actor_heartbeat_timestamp_seconds{actor="shadow",role="shadow"}',
            Moment(1),
            Moment(60),
            Moment(61),
        ),
        {"actor": "shadow"},
    ),
    Story(
        "ActorRestarting",
        *_one('tradeengine_actor_restarts_total{actor="keeper"}', Counter(0), Counter(2 / 15.5), Counter(1)),
        {"actor": "keeper"},
    ),
    Story(
        "ActorErrors",
        *_one(
            'tradeengine_actor_log_lines_total{actor="wallet",role="wallet",level="error"}',
            Counter(0),
            Counter(0),
            Counter(1),
        ),
        {"actor": "wallet"},
    ),
    Story(
        "RingNearlyFull",
        _ring("commands.0", "matcher-0", 0),
        _ring("commands.0", "matcher-0", 400),
        _ring("commands.0", "matcher-0", 401),
        {"ring": "commands.0", "reader": "matcher-0"},
    ),
    Story(
        "ShadowMismatch",
        *_one('tradeengine_shadow_mismatches_total{actor="shadow"}', Counter(0), Counter(0), Counter(1)),
    ),
    Story(
        "SettlementLagRecords",
        _ring("events.1", "settlement", 0),
        _ring("events.1", "settlement", 250),
        _ring("events.1", "settlement", 251),
        {"ring": "events.1"},
    ),
    Story(
        "SettlementLagSeconds",
        *_one('tradeengine_settlement_lag_seconds{ring="events.0"}', Gauge(0), Gauge(60), Gauge(61)),
    ),
    Story(
        "ReconciliationDifference",
        *_one('tradeengine_keeper_differences{actor="keeper"}', Gauge(0), Gauge(0), Gauge(1)),
    ),
    Story(
        "ReconciliationStale",
        *_one('tradeengine_keeper_reconciled_timestamp_seconds{actor="keeper"}', Moment(60), Moment(900), Moment(901)),
    ),
    Story(
        "MaintenanceStale",
        *_one(
            'tradeengine_keeper_maintenance_done_timestamp_seconds{actor="keeper"}',
            Moment(60),
            Moment(10_800),
            Moment(10_801),
        ),
    ),
    Story("WalletBreakerOpen", *_one('tradeengine_wallet_breaker_state{actor="wallet"}', Gauge(0), Gauge(0), Gauge(1))),
    Story(
        "WalletLag",
        *_one('tradeengine_wallet_outbox_oldest_age_seconds{actor="wallet"}', Gauge(0), Gauge(300), Gauge(301)),
    ),
    Story("WalletDeadLetters", *_one('tradeengine_wallet_dead_letters{actor="wallet"}', Gauge(0), Gauge(0), Gauge(1))),
    Story(
        "DiskLow",
        {"tradeengine_operator_disk_free_bytes": Gauge(9e9), "tradeengine_operator_disk_low_water_bytes": Gauge(1e9)},
        {"tradeengine_operator_disk_free_bytes": Gauge(2e9)},
        {"tradeengine_operator_disk_free_bytes": Gauge(1.99e9)},
    ),
    Story(
        "ActorMemoryGrows",
        *_one(
            'tradeengine_process_resident_memory_bytes{actor="front-0",role="front"}',
            Gauge(1e8),
            Gauge(6.36e8),
            Gauge(6.37e8),
        ),
        {"actor": "front-0"},
    ),
    Story(
        "DatabasePoolExhausted",
        *_one('tradeengine_front_pool_waiting{actor="front-0"}', Gauge(0), Gauge(0), Gauge(1)),
        {"actor": "front-0"},
    ),
    Story(
        "AuditSpooled",
        *_one('tradeengine_front_audit_waiting_bytes{actor="front-1"}', Gauge(0), Gauge(0), Gauge(1)),
        {"actor": "front-1"},
    ),
    Story("AuditBroken", *_one('tradeengine_keeper_audit_broken{actor="keeper"}', Gauge(0), Gauge(0), Gauge(1))),
    Story("ClockUnsynchronised", *_one("tradeengine_operator_clock_synchronised", Gauge(1), Gauge(1), Gauge(0))),
    Story("ClockStepped", *_one("tradeengine_operator_clock_steps_total", Counter(0), Counter(0), Counter(1))),
)
