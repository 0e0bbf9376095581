"""The whole way: local client → risk → journal (fdatasync) → matcher → event back, one shard, settlement attached.

Three parts, each on the engine that ``tradeengine up`` starts in a fresh folder on a real disk:

burst      half a million commands as fast as the rings take them: the time from the first one published to the last
           answer seen. Settlement works meanwhile and is behind at the end; the rings are large enough for that.
sustained  commands as fast as settlement keeps up, for a minute; the rate counts until PostgreSQL has the last of them.
open loop  10,000 commands a second, each at its own time; a latency is from that time to the answer seen, so a stall
           counts against every command that was due in it.

A command's answer is its last event. The client spins; it is no part of the engine.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
import psycopg
from perf.engine import DEFAULT_DIR, Engine, filesystem, fund_accounts, machine, running_engine
from perf.traffic import CANCEL_LAG, CYCLE, Indices, Records, Traffic

from tradeengine.cli.database import connect
from tradeengine.core.records import EventFlag, EventKind, Reason, byte, event_dtype
from tradeengine.core.symbols import SymbolSpec
from tradeengine.ipc.client import open_client
from tradeengine.ipc.ring_reader import RingReader
from tradeengine.ipc.wiring import REFUSALS, Wiring
from tradeengine.settings_files import load_settings
from tradeengine.storage.directory import load_directory

SYMBOL: Final = "BTC/USDT"
MIDDLE_PRICE: Final = "50000"
ACCOUNTS: Final = 64
WINDOW: Final = 16_384
WARM_UP_S: Final = 1.0
"""Of the open loop: the first commands after a start touch memory that nobody has touched before."""
ANSWER_TIMEOUT_S: Final = 60.0
_WATCHED_METRICS: Final = (
    "tradeengine_matcher_commands_total",
    "tradeengine_matcher_groups_total",
    "tradeengine_matcher_sync_latency_seconds_sum",
)
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


def main() -> int:
    """Run the parts that were asked for and print what was measured."""
    arguments = _arguments()
    kind = filesystem(arguments.dir)
    if kind in {"tmpfs", "ramfs"}:
        sys.stderr.write(f"{arguments.dir} is on {kind}: name a folder on a real disk with --dir\n")
        return 1
    print(f"machine    {machine()}; journal on {kind}")
    print("topology   client (spinning) → risk → matcher-0 (fdatasync per group) → event ring → client; settlement,")
    print("           publisher, shadow and a front attached; actors sleep on eventfds, nothing is pinned")
    share = arguments.takers / CYCLE
    print(f"traffic    {2 * share:.0%} of the commands are orders that trade, {share:.1f} trades per command; {SYMBOL}")
    with running_engine(arguments.dir, SETTINGS) as engine:
        figures = _measure(engine, arguments)
    print(json.dumps(figures))
    return 0


def _measure(engine: Engine, arguments: argparse.Namespace) -> dict[str, Any]:
    settings = load_settings(None, {"engine.data_dir": str(engine.data_dir)})
    figures: dict[str, Any] = {"machine": machine(), "trades_per_command": arguments.takers / CYCLE}
    with connect(settings) as connection, open_client(engine.data_dir) as wiring:
        row = load_directory(connection).symbol(SYMBOL)
        assert row is not None
        symbol = row.spec
        accounts = _accounts(connection, symbol, wiring)
        middle_ticks = symbol.parse_price(MIDDLE_PRICE)
        traffic = Traffic(symbol, middle_ticks, accounts, wiring.ingress_number, "b", arguments.takers)
        load = Load(wiring, traffic, symbol.shard)
        if arguments.rate:
            open_loop(load, arguments.rate, WARM_UP_S)
            with _watched(engine):
                figures["open_loop"] = _say("open loop", open_loop(load, arguments.rate, arguments.open_seconds))
        if arguments.burst:
            runs = []
            for _ in range(arguments.runs):
                commands = load.make(arguments.burst)
                with _watched(engine):
                    runs.append(_say("burst", burst(load, commands)))
                print(f"           settled {settle(load):.1f} s later")
            figures["burst_commands_per_s"] = round(statistics.median(run["commands_per_s"] for run in runs))
        if arguments.seconds:
            with _watched(engine):
                figures["sustained"] = _say("sustained", sustained(load, arguments.seconds, arguments.backlog))
        figures["refused"] = {Reason(reason).name: count for reason, count in load.refused.items()}
        trades = connection.execute("SELECT count(*) FROM trades").fetchone()
        figures["trades_in_postgresql_agree"] = trades is not None and trades[0] == load.trades
    _say("checked", {name: figures[name] for name in ("refused", "trades_in_postgresql_agree")})
    return figures


@contextmanager
def _watched(engine: Engine) -> Iterator[None]:
    """Say what a part cost each actor, and how large the matcher's groups were."""
    metrics, processor_s, started_s = engine.metrics(), engine.processor_s(), time.perf_counter()
    yield
    elapsed_s = time.perf_counter() - started_s
    after = engine.processor_s()
    shares = ", ".join(f"{name} {(after[name] - processor_s[name]) / elapsed_s:.0%}" for name in processor_s)
    commands, groups, sync_s = (
        sum(value - metrics.get(name, 0) for name, value in engine.metrics().items() if name.startswith(prefix))
        for prefix in _WATCHED_METRICS
    )
    print(f"           processor {shares}")
    count = max(groups, 1)
    print(f"           group {commands / count:,.1f} commands, sync {sync_s * 1e6 / count:,.0f} µs, on average")


def _accounts(connection: psycopg.Connection[Any], symbol: SymbolSpec, wiring: Wiring) -> list[int]:
    names = [f"perf-{number}" for number in range(ACCOUNTS)]
    amounts = {symbol.base: symbol.base.parse("100000"), symbol.quote: symbol.quote.parse("100000000")}
    return fund_accounts(connection, names, amounts, wiring.settings.limits.accounts_max)


def _say(name: str, figures: dict[str, Any]) -> dict[str, Any]:
    rounded = {key: round(value, 3) if isinstance(value, float) else value for key, value in figures.items()}
    texts = (
        f"{key} {value:,}" if isinstance(value, int | float) else f"{key} {value}" for key, value in rounded.items()
    )
    print(f"{name:10} {', '.join(texts)}")
    return rounded


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dir", type=Path, default=DEFAULT_DIR, help="folder on a real disk for the engine's data")
    parser.add_argument("--takers", type=int, default=4, help="of ten commands, how many make a trade each: 1 to 4")
    parser.add_argument("--burst", type=int, default=500_000, help="commands of a burst; 0: none")
    parser.add_argument("--runs", type=int, default=3, help="bursts, of which the median counts")
    parser.add_argument("--seconds", type=float, default=60.0, help="length of the sustained part; 0: none")
    parser.add_argument("--backlog", type=int, default=200_000, help="unsettled events at which the client waits")
    parser.add_argument("--rate", type=float, default=10_000, help="commands per second of the open loop; 0: none")
    parser.add_argument("--open-seconds", type=float, default=10.0, help="length of the open loop")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
