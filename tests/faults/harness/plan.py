"""The plan of a round: the engine's shape and settings, who trades, and all strikes, made from a seed alone."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Final

from tests.faults.harness.faults import FAULTS, WEIGHTS, Shape, Strike
from tests.faults.harness.intents import Intent, Lane, Way, intents_of

USERS: Final = ("ada", "ben", "cleo", "dan")
LANES: Final = (
    *(Lane(user, Way.HTTP) for user in USERS),
    *(Lane(user, Way.STREAM) for user in USERS[:2]),
    Lane(USERS[0], Way.BANK),
)
PAUSE_S_MAX: Final = 1.5
WAITS_SHARE: Final = 0.6
WALLET_SHARE: Final = 0.2
SHOWN_INTENTS: Final = 12


@dataclass(frozen=True)
class Plan:
    """All that a round does."""

    seed: int
    shape: Shape
    settings: dict[str, str]
    strikes: tuple[Strike, ...]

    def lines(self) -> Iterator[str]:
        """Write it down for people."""
        yield f"seed {self.seed}: {self.shape}"
        yield from (f"  {name}={value}" for name, value in self.settings.items())
        for lane in LANES:
            for intent in islice(intents_of(self.seed, lane), SHOWN_INTENTS):
                yield f"  {line_of(intent)}"
            yield f"  {lane.name} and so on"
        yield from (f"  strike {number}: {strike}" for number, strike in enumerate(self.strikes))


def line_of(intent: Intent) -> str:
    """Write an intent on one line."""
    words = (str(value) for value in intent.body.values())
    return " ".join([intent.name, intent.kind, intent.target or "", *words])


def make_plan(
    seed: int, faults: Sequence[str], strike_count: int, only: Sequence[str] = (), pause_s_max: float = PAUSE_S_MAX
) -> Plan:
    """Draw a plan with strikes of these faults; only: at processes and points whose names begin so."""
    chance = random.Random(seed)
    shape = Shape(shards=chance.randint(1, 2), fronts=chance.randint(1, 2), wallet=chance.random() < WALLET_SHARE)
    return Plan(seed, shape, _settings(chance), tuple(_strikes(chance, shape, faults, strike_count, only, pause_s_max)))


def _settings(chance: random.Random) -> dict[str, str]:
    """Draw sizes: small ones are met sooner. Whoever dies often is not given up, and soon started again."""
    events_slots = chance.choice((4096, 16384, 65536))
    return {
        "TRADEENGINE_RINGS_EVENTS_SLOTS": str(events_slots),
        "TRADEENGINE_SETTLEMENT_BACKLOG_EVENTS_MAX": str(events_slots // 2),
        "TRADEENGINE_RINGS_FEED_SLOTS": str(chance.choice((64, 1024, 16384))),
        "TRADEENGINE_JOURNAL_SEGMENT_BYTES": str(chance.choice((65536, 262144, 1048576))),
        "TRADEENGINE_SUPERVISOR_RESTART_COUNT_MAX": "100000",
        "TRADEENGINE_SUPERVISOR_RESTART_BACKOFF_MS_MAX": "400",
        "TRADEENGINE_DEMO_ENABLED": "false",
    }


def _strikes(
    chance: random.Random,
    shape: Shape,
    faults: Sequence[str],
    count: int,
    only: Sequence[str],
    pause_s_max: float,
) -> Iterator[Strike]:
    drawn = 0
    while drawn < count and faults:
        name = chance.choices(faults, [WEIGHTS[fault] for fault in faults])[0]
        strike = FAULTS[name].draw(chance, shape)
        if only and not any(struck.startswith(tuple(only)) for struck in (*strike.targets, strike.point)):
            continue
        drawn += 1
        pause_s = round(chance.uniform(0.0, pause_s_max), 2)
        yield replace(strike, fault=name, pause_s=pause_s, waits=strike.waits and chance.random() < WAITS_SHARE)
