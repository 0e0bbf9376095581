"""A load for a shard: a local client that sends orders over a ring, and the ways to send them: burst, pace, open loop.

A command's answer is its last event. The client spins; it is no part of the engine.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Final, Self

import numpy as np
import psycopg
from perf.engine import fund_traders
from perf.traffic import CANCEL_LAG, CYCLE, Indices, Records, Traffic

from tradeengine.core.records import EventFlag, EventKind, byte, event_dtype
from tradeengine.ipc.ring_reader import RingReader
from tradeengine.ipc.wiring import REFUSALS, Wiring

SYMBOL: Final = "BTC/USDT"
MIDDLE_PRICE: Final = "50000"
ACCOUNTS: Final = 64
TAKERS: Final = 4
"""Of ten commands, how many make a trade each."""
WINDOW: Final = 16_384
ANSWER_TIMEOUT_S: Final = 60.0
PERCENTILES: Final = (50, 90, 99, 99.9, 100)
SETTINGS: Final = {
    "RINGS_INGRESS_SLOTS": 1 << 16,
    "RINGS_COMMANDS_SLOTS": 1 << 20,
    "RINGS_EVENTS_SLOTS": 1 << 21,
    "SETTLEMENT_BACKLOG_EVENTS_MAX": 1 << 20,
    "LIMITS_ORDERS_MAX": 1 << 20,
    "LIMITS_OPEN_ORDERS_MAX": 1 << 18,
    "LOG_LEVEL": "warning",
}
"""Larger than the defaults: a burst of half a million commands makes 700,000 events before settlement has them, and
leaves 100,000 orders in the book."""


class Load:
    """A client's ends, and what it has sent and seen."""

    def __init__(self, wiring: Wiring, traffic: Traffic, shard: int) -> None:
        self.traffic = traffic
        self.writer = wiring.ring_writer(wiring.ingress_name)
        self.readers: list[RingReader] = [wiring.ring_reader(f"events.{shard}"), wiring.ring_reader(REFUSALS)]
        for reader in self.readers:
            reader.seek(reader.head)
        self._ring = wiring.ingress_number
        self._far_ids = np.zeros(4 * CANCEL_LAG, np.int64)
        self.first_sequence = self.writer.head
        self.sent = 0
        self.answered = 0
        self.trades = 0
        self.refused: dict[int, int] = {}

    @classmethod
    def prepared(
        cls, connection: psycopg.Connection[Any], wiring: Wiring, names: Sequence[str], tag: str, takers: int = TAKERS
    ) -> Self:
        """Fund accounts of these names, whose orders it will send. tag: what their client order ids begin with."""
        symbol, accounts = fund_traders(connection, SYMBOL, names, wiring.settings.limits.accounts_max)
        middle_ticks = symbol.parse_price(MIDDLE_PRICE)
        traffic = Traffic(symbol, middle_ticks, accounts, wiring.ingress_number, tag, takers)
        return cls(wiring, traffic, symbol.shard)

    def make(self, count: int, *, cancelling: bool = False) -> Records:
        """Make the next commands without sending them."""
        index = np.arange(self.sent, self.sent + count)
        return self.traffic.commands(index, self._cancelled(index) if cancelling else None)

    def send(self, commands: Records) -> None:
        """Publish commands that ``make`` made last."""
        commands["ingress_sequence"] = self.first_sequence + self.sent + np.arange(len(commands))
        commands["timestamp_ns"] = time.time_ns()
        self.writer.publish(commands)
        self.sent += len(commands)

    def hear(self) -> Indices:
        """Take what events there are; returns the indices of the commands that they end."""
        ended = [np.zeros(0, np.int64)]
        for reader in self.readers:
            if not reader.available():
                continue
            events = reader.poll_matching(byte(event_dtype, "ingress_ring"), self._ring)
            index = events["ingress_sequence"] - self.first_sequence
            last = (events["flags"] & EventFlag.LAST_OF_COMMAND) != 0
            ended.append(index[last])
            kinds = events["kind"]
            self.trades += int(np.count_nonzero(kinds == EventKind.TRADED))
            far = (kinds == EventKind.ACCEPTED) & (index % CYCLE >= self.traffic.far_first)
            self._far_ids[index[far] % len(self._far_ids)] = events["order_id"][far]
            for reason in events["reason"][kinds == EventKind.REFUSED].tolist():
                self.refused[reason] = self.refused.get(reason, 0) + 1
        done = np.concatenate(ended)
        self.answered += len(done)
        return done

    def hear_all(self) -> None:
        """Wait until every command is answered. Raises TimeoutError."""
        deadline_s = time.monotonic() + ANSWER_TIMEOUT_S
        while self.answered < self.sent:
            if len(self.hear()):
                deadline_s = time.monotonic() + ANSWER_TIMEOUT_S
            elif time.monotonic() > deadline_s:
                raise TimeoutError(f"{self.sent - self.answered} commands have no answer")

    def unsettled(self) -> int:
        """Count the shard's events that settlement has not committed."""
        readers = self.readers[0].ring.statistics().readers
        return next(reader.lag for reader in readers if reader.name == "settlement")

    def _cancelled(self, index: Indices) -> Indices:
        target = self.traffic.cancelled_index(index)
        return np.where(target >= 0, self._far_ids[target % len(self._far_ids)], 0)


def burst(load: Load, commands: Records) -> dict[str, float]:
    """Push commands that were made before; returns the rate from the first published to the last answered."""
    trades_before, count = load.trades, len(commands)
    started_s = time.perf_counter()
    position = 0
    while position < count:
        free = min(load.writer.free(), count - position)
        if free:
            load.send(commands[position : position + free])
            position += free
        load.hear()
    load.hear_all()
    elapsed_s = time.perf_counter() - started_s
    return {
        "commands": count,
        "seconds": elapsed_s,
        "commands_per_s": count / elapsed_s,
        "trades": load.trades - trades_before,
        "unsettled_events_at_the_end": load.unsettled(),
    }


def settle(load: Load) -> float:
    """Wait until PostgreSQL has everything; returns how long that took."""
    started_s = time.perf_counter()
    while load.unsettled():
        time.sleep(0.01)
    return time.perf_counter() - started_s


def sustained(load: Load, seconds: float, backlog_max: int) -> dict[str, float]:
    """Send as fast as settlement keeps up; returns the rate until the last command is settled."""
    trades_before, sent_before = load.trades, load.sent
    started_s = time.perf_counter()
    deepest = 0
    while time.perf_counter() - started_s < seconds:
        backlog = load.unsettled()
        deepest = max(deepest, backlog)
        room = min(load.writer.free(), WINDOW - (load.sent - load.answered), 4096)
        if backlog < backlog_max and room >= CYCLE:
            load.send(load.make(room // CYCLE * CYCLE, cancelling=True))
        elif not len(load.hear()):
            time.sleep(0.0005)
        load.hear()
    load.hear_all()
    settle(load)
    elapsed_s = time.perf_counter() - started_s
    commands, trades = load.sent - sent_before, load.trades - trades_before
    return {
        "commands": commands,
        "seconds": elapsed_s,
        "commands_per_s": commands / elapsed_s,
        "trades_per_s": trades / elapsed_s,
        "trades_per_command": trades / commands,
        "unsettled_events_max": deepest,
    }


def open_loop(load: Load, rate_per_s: float, seconds: float) -> dict[str, Any]:
    """Send each command at its own time; returns percentiles of the latency from that time."""
    count = int(rate_per_s * seconds)
    due_s = np.arange(count) / rate_per_s
    commands, first = load.make(count), load.sent
    latencies_s = np.zeros(count)
    position = done = 0
    started_s = time.perf_counter()
    while done < count:
        now_s = time.perf_counter() - started_s
        due = min(int(now_s * rate_per_s) + 1, count, position + load.writer.free())
        if due > position:
            load.send(commands[position:due])
            position = due
        ended = load.hear() - first
        if len(ended):
            latencies_s[ended] = time.perf_counter() - started_s - due_s[ended]
            done += len(ended)
        if now_s > seconds + ANSWER_TIMEOUT_S:
            raise TimeoutError(f"{count - done} commands have no answer")
    values = np.percentile(latencies_s * 1e6, PERCENTILES).tolist()
    return {
        "rate_per_s": rate_per_s,
        "commands": count,
        "latency_us": {f"p{name:g}": round(value) for name, value in zip(PERCENTILES, values, strict=True)},
    }


@contextmanager
def beside(work: Callable[[threading.Event], None]) -> Iterator[None]:
    """Let a thread work while the block runs, until the event that it is given is set.

    What stops the thread before is raised when the block ends.
    """
    over = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        working = pool.submit(work, over)
        try:
            yield
        finally:
            over.set()
        working.result()


def owners(prefix: str = "perf") -> list[str]:
    """Name the accounts whose orders a load sends."""
    return [f"{prefix}-{number}" for number in range(ACCOUNTS)]


def say_latency(name: str, figures: dict[str, Any]) -> dict[str, int]:
    """Print what an open loop measured; returns its percentiles."""
    latencies: dict[str, int] = figures["latency_us"]
    texts = ", ".join(f"{key} {value:,} µs" for key, value in latencies.items())
    print(f"{name:10} {figures['rate_per_s']:,.0f} commands/s: {texts}", flush=True)
    return latencies
