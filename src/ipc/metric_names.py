"""Names of what each role counts and measures: the supervisor lays out the metric pages by them.

What each means is in ``ipc.metric_help``, how ``/metrics`` shows them in ``ipc.metric_families``.

Rule 1: every name ends in its unit, before its labels: ``busy_us``, ``refusals{reason="limit_exceeded"}``. A role asks
its page for a name (``page.counter("commands")``) and gets its place; a name that is not here is an error at the
actor's start.
Rule 2: labels come from lists that are fixed here, or, in spare places, from what the front has of routes, statuses and
error codes; nothing that a client wrote becomes a label.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from tradeengine.core.records import Reason

if TYPE_CHECKING:
    from collections.abc import Sequence


class RoleMetrics(NamedTuple):
    """What one role's page holds."""

    counters: tuple[str, ...] = ()
    gauges: tuple[str, ...] = ()
    histograms: tuple[str, ...] = ()
    spare_counters: int = 0
    spare_histograms: int = 0


WARNING_LINES: Final = 'log_lines{level="warning"}'
ERROR_LINES: Final = 'log_lines{level="error"}'
EVERYWHERE: Final = ("busy_us", "records_in", "records_out", WARNING_LINES, ERROR_LINES)
"""Counters of every role but the clients'."""
TASKS: Final = "tasks"
"""Gauge of each role that runs an event loop."""

OTHER_REQUESTS: Final = 'http_requests{route="other",method="other",code="other"}'
OTHER_DURATIONS: Final = 'http_request_us{route="other",method="other"}'
OTHER_REFUSALS: Final = 'http_refusals{error="other"}'
"""What would need more spare places than there are."""
CLOSE_CODES: Final = (1012, 1013, 4001, 4003, 4008, 4009)
"""With which we close streams."""
GONE: Final = "gone"
"""A client of a stream that left by itself."""
OTHER: Final = "other"


def refusals(reason: Reason) -> str:
    """Name risk's counter of what it refused for a reason."""
    return f'refusals{{reason="{reason.name.lower()}"}}'


def rejections(reason: Reason) -> str:
    """Name a matcher's counter of the orders that it rejected for a reason."""
    return f'rejections{{reason="{reason.name.lower()}"}}'


def stream_closed(code: str) -> str:
    """Name a front's counter of stream sessions that ended with a close code."""
    return f'stream_closed{{code="{code}"}}'


def process_cpu(actor: str, role: str) -> str:
    """Name the supervisor's counter of the processor time that an actor's processes have used."""
    return f'process_cpu_us{{actor="{actor}",role="{role}"}}'


def process_resident(actor: str, role: str) -> str:
    """Name the supervisor's gauge of the memory that an actor's process holds."""
    return f'process_resident_memory_bytes{{actor="{actor}",role="{role}"}}'


def operator_metrics(processes: Sequence[tuple[str, str]]) -> RoleMetrics:
    """Lay out the supervisor's page, which has what it sees of the processes, each by name and role."""
    own = ROLE_METRICS["operator"]
    return own._replace(
        counters=(*own.counters, *(process_cpu(name, role) for name, role in processes)),
        gauges=(*own.gauges, *(process_resident(name, role) for name, role in processes)),
    )


ROLE_METRICS: Final[dict[str, RoleMetrics]] = {
    "risk": RoleMetrics(
        counters=(
            *EVERYWHERE,
            *("commands", "forwarded", "repeated", "funded", "events"),
            *(refusals(reason) for reason in Reason if reason >= Reason.INVALID_REQUEST),
        ),
        gauges=("open_orders", "accepting"),
        histograms=("batch_commands", "batch_events"),
    ),
    "matcher": RoleMetrics(
        counters=(
            *EVERYWHERE,
            *("commands", "events", "trades", "orders_placed", "groups", "journal_bytes", "expiries"),
            *(rejections(reason) for reason in Reason if Reason.FOK_NOT_FILLED <= reason <= Reason.BOOK_FULL),
        ),
        gauges=(
            "open_orders",
            "journal_segment_bytes",
            "command_sequence",
            "event_sequence",
            "recovered_commands",
            "recovery_ms",
        ),
        histograms=("batch_commands", "round_latency_us", "sync_latency_us", "command_latency_us"),
    ),
    "settlement": RoleMetrics(
        counters=(*EVERYWHERE, "events", "trades", "orders", "postings", "fundings", "transactions", "errors"),
        gauges=("backlog_events", "pending_fundings"),
        histograms=("batch_events", "transaction_latency_us", "commit_latency_us", "settle_latency_us"),
    ),
    "publisher": RoleMetrics(
        counters=(*EVERYWHERE, "events", "depth_writes", "ticker_writes", "messages", "lapped"),
        gauges=(TASKS, "lag_events"),
        histograms=("batch_events", "publish_latency_us"),
    ),
    "shadow": RoleMetrics(
        counters=(*EVERYWHERE, "commands", "segments", "trades", "snapshots", "mismatches", "pruned_segments"),
        gauges=("snapshot_sequence",),
        histograms=("segment_latency_ms", "snapshot_latency_ms"),
    ),
    "keeper": RoleMetrics(
        counters=(
            *EVERYWHERE,
            *("partitions_made", "partitions_dropped", "lock_timeouts"),
            *("depth_rows_stored", "depth_rows_removed", "errors"),
            *("reconciliations", "reconciliations_failed"),
        ),
        gauges=(
            TASKS,
            *("partitions_kept", "maintenance_done_at_s", "depth_done_at_s"),
            *("audit_broken", "audit_done_at_s"),
            *("differences", "reconciled_at_s", "census_us"),
        ),
        histograms=("maintenance_latency_ms", "depth_latency_ms", "audit_latency_ms", "reconciliation_latency_ms"),
    ),
    "wallet": RoleMetrics(
        counters=(
            *EVERYWHERE,
            *("transfers_delivered", "deposits_reserved", "withdrawals_released"),
            *("requests", "unavailable", "refused", "waits", "deaths", "errors"),
        ),
        gauges=(TASKS, "outbox_pending", "outbox_oldest_age_s", "dead_letters", "breaker_state", "in_flight"),
        histograms=("request_latency_us", "delivery_latency_ms", "round_latency_us"),
    ),
    "front": RoleMetrics(
        counters=(
            *EVERYWHERE,
            *("requests", "errors", "orders_sent", "outcomes_unknown", "lapped", "rate_limited"),
            *("connections_opened", "connections_refused", "requests_malformed", "requests_shed"),
            *("pool_connects", "pool_failures"),
            *("audit_rows", "audit_failures"),
            *("stream_messages", "stream_snapshots", "stream_lapped", "stream_opened", "stream_merges"),
            *(stream_closed(str(code)) for code in (*CLOSE_CODES, GONE, OTHER)),
            *(OTHER_REQUESTS, OTHER_REFUSALS),
        ),
        gauges=(
            TASKS,
            *("in_flight", "requests_in_work", "connections"),
            *("stream_clients", "stream_channels", "stream_waiting_bytes"),
            *("pool_size", "pool_in_use", "pool_waiting"),
            "audit_waiting_bytes",
        ),
        histograms=(
            "request_latency_us",
            "command_latency_us",
            "query_latency_us",
            "stream_latency_us",
            "pool_wait_us",
            OTHER_DURATIONS,
        ),
        spare_counters=1024,
        spare_histograms=256,
    ),
    "operator": RoleMetrics(
        counters=(*EVERYWHERE, "clock_steps"),
        gauges=(
            TASKS,
            *("symbols_listed", "memory_bytes"),
            *("disk_free_bytes", "disk_size_bytes", "disk_low_water_bytes"),
            *("clock_offset_ns", "clock_error_max_ns", "clock_synchronised", "clock_step_ns"),
        ),
    ),
    "client": RoleMetrics(),
}
