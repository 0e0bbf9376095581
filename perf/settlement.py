"""How fast settlement writes into PostgreSQL: trades with postings and order states, on one connection, on a real disk.

Two runs on a fresh embedded server with every commit synced. *Throughput*: a stream from the real order book, settled
in full batches as fast as it goes. *Visibility*: a publisher process writes 1,000 trades a second into a real event
ring, and the settlement duty works as in the engine; measured is from publication to the return of COMMIT.

    python -m perf.settlement [--trades N] [--batch N] [--seconds N] [--dir DIR]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from typing import Any

import numpy as np
import psycopg
from numpy.typing import NDArray
from perf.engine import arguments_parser, filesystem, machine, private_folder

from tradeengine.actors.settlement import SettlementDuty
from tradeengine.core import book
from tradeengine.core.ids import make_order_id
from tradeengine.core.records import (
    CommandKind,
    EventKind,
    OrderType,
    SelfTradePrevention,
    Side,
    TimeInForce,
    command_dtype,
    event_dtype,
)
from tradeengine.core.symbols import SymbolSpec
from tradeengine.ipc.metric_names import ROLE_METRICS
from tradeengine.ipc.metrics import MetricPage
from tradeengine.ipc.ring import ReaderSpec, Ring
from tradeengine.settings_files import load_seeds
from tradeengine.storage.directory import seed_directory
from tradeengine.storage.embedded import open_embedded
from tradeengine.storage.migrate import migrate
from tradeengine.storage.settle import RISK_SHARD, Settler

Events = NDArray[np.void]

ACCOUNTS = 1000
COMMANDS_PER_MS = 40
RING_SLOTS = 1 << 18


def main() -> None:
    """Run both and print what was measured; the last line is JSON."""
    arguments = _arguments()
    if arguments.publish:
        publish(json.loads(arguments.publish))
        return
    with private_folder(arguments.dir) as folder, open_embedded(folder) as pg:
        migrate(pg.dsn)
        with psycopg.connect(pg.dsn, autocommit=True) as connection:
            directory = seed_directory(connection, load_seeds(), shards=1, assets_max=64, symbols_max=64)
            version = connection.info.server_version // 10_000
        specs = [row.spec for row in directory.symbols.values()]
        print(f"machine     {machine()}")
        print(f"database    PostgreSQL {version} embedded on {filesystem(folder)}, fsync and synchronous_commit on")
        print(f"topology    1 shard, {len(specs)} symbols, {ACCOUNTS} accounts, 1 connection")
        figures = throughput(pg.dsn, specs, arguments.trades, arguments.batch)
        figures |= visibility(pg.dsn, specs, arguments.seconds, int(figures["next_sequence"]))
    del figures["next_sequence"]
    print(json.dumps(figures))


def throughput(dsn: str, specs: list[SymbolSpec], trades: int, batch: int) -> dict[str, float]:
    """Settle a stream in full batches."""
    events = make_stream(specs, trades, first_sequence=0, timestamp_ms=time.time_ns() // 1_000_000 - 3_600_000)
    with psycopg.connect(dsn) as connection:
        settler = Settler(connection, 1)
        durations, totals = [], {"trades": 0, "orders": 0, "postings": 0}
        started = time.perf_counter()
        for start in range(0, len(events), batch):
            before = time.perf_counter()
            settled = settler.settle({0: events[start : start + batch]})
            durations.append(time.perf_counter() - before)
            for name in totals:
                totals[name] += getattr(settled, name)
        seconds = time.perf_counter() - started
    rate = totals["trades"] / seconds
    print(
        f"throughput  {totals['trades']} trades, {totals['orders']} order rows, {totals['postings']} postings, "
        f"{len(events)} events in {seconds:.2f} s, {batch} events a transaction"
    )
    print(f"            {rate:.0f} trades/s; transaction {_percentiles(durations)}")
    return {
        "trades_per_s": round(rate),
        "events_per_s": round(len(events) / seconds),
        "orders_per_s": round(totals["orders"] / seconds),
        "postings_per_s": round(totals["postings"] / seconds),
        "transaction_p50_ms": _ms(durations, 50),
        "transaction_p99_ms": _ms(durations, 99),
        "next_sequence": len(events),
    }


def visibility(dsn: str, specs: list[SymbolSpec], seconds: int, first_sequence: int) -> dict[str, float]:
    """Let a publisher process write 1,000 trades a second and measure until each is committed."""
    gate = [ReaderSpec("settlement", gating=True)]
    ring = Ring.create("events.0", event_dtype, RING_SLOTS, gate, first_sequence=first_sequence)
    own = Ring.create("events.risk", event_dtype, 64, gate)
    ingress = Ring.create("ingress", command_dtype, 64, [ReaderSpec("risk", gating=True)])
    role = ROLE_METRICS["settlement"]
    page = MetricPage.create("metrics", "settlement", role.counters, role.gauges, role.histograms)
    duty = SettlementDuty(
        {0: ring.reader("settlement"), RISK_SHARD: own.reader("settlement")},
        ingress.writer({}),
        lambda: Settler(psycopg.connect(dsn), 1),
        page,
        ingress_number=0,
        settings_applied=lambda: 0,
        batch_events_max=20_000,
        tell=lambda _state, _text: None,
    )
    duty()
    given = json.dumps(
        {"fd": ring.fd, "first": first_sequence, "trades": 1000 * seconds, "symbols": len(specs), "dsn": dsn}
    )
    publisher = subprocess.Popen([sys.executable, "-m", "perf.settlement", "--publish", given], pass_fds=[ring.fd])
    latencies: list[NDArray[np.int64]] = []
    reader = ring.reader("settlement")
    while publisher.poll() is None or duty.backlog():
        first = reader.ring.statistics().readers[0].cursor
        if duty():
            now_ns = time.time_ns()
            events = ring.slots(first, reader.ring.statistics().readers[0].cursor - first)
            latencies.append(now_ns - events["timestamp_ns"][events["kind"] == EventKind.TRADED])
        else:
            time.sleep(0.0005)
    transactions = page.snapshot().counters["transactions"]
    duty.close()
    found = np.concatenate(latencies) / 1e9
    print(
        f"visibility  1000 trades/s for {seconds} s, {transactions} transactions; from publication to COMMIT "
        f"{_percentiles(found)}"
    )
    return {"visible_p50_ms": _ms(found, 50), "visible_p99_ms": _ms(found, 99), "visible_max_ms": _ms(found, 100)}


def publish(given: dict[str, Any]) -> None:
    """Publish a stream at its pace: what the matcher does in the engine."""
    from tradeengine.storage.directory import load_directory

    with psycopg.connect(given["dsn"], autocommit=True) as connection:
        specs = [row.spec for row in load_directory(connection).symbols.values()]
    now_ms = time.time_ns() // 1_000_000
    events = make_stream(specs, given["trades"], first_sequence=given["first"], timestamp_ms=now_ms, list_symbols=False)
    writer = Ring.attach(given["fd"], event_dtype, writable=True).writer({})
    made = np.cumsum(events["kind"] == EventKind.TRADED)
    started = time.perf_counter()
    position = 0
    while position < len(events):
        due = int((time.perf_counter() - started) * 1000)
        end = int(np.searchsorted(made, due, side="right"))
        if end > position:
            piece = events[position:end]
            piece["timestamp_ns"] = time.time_ns()
            writer.publish(piece)
            position = end
        time.sleep(0.0005)


def make_stream(
    specs: list[SymbolSpec], trades: int, *, first_sequence: int, timestamp_ms: int, list_symbols: bool = True
) -> Events:
    """Let the real book make a stream with about so many trades: limit orders near the touch, two of five trade."""
    limits = book.BookLimits(orders_max=1 << 20, symbols_max=64, levels_max=4096, accounts_max=4096, shard=0)
    state = book.make_book(limits)
    buffer = np.zeros(1 << 16, event_dtype)
    listed = np.concatenate([spec.to_command(CommandKind.LIST_SYMBOL).view(command_dtype) for spec in specs])
    listed["timestamp_ns"] = timestamp_ms * 1_000_000
    _, count = book.apply(state, listed, 0, 0, buffer)
    pieces = [buffer[:count].copy()] if list_symbols else []
    random = np.random.default_rng(7)
    made = 0
    while made < trades:
        commands = _place(specs, random, timestamp_ms, 4000)
        timestamp_ms += 4000 // COMMANDS_PER_MS
        index, first = 0, book.next_command_sequence(state)
        while index < len(commands):
            index, count = book.apply(state, commands, first, index, buffer)
            pieces.append(buffer[:count].copy())
            made += int((pieces[-1]["kind"] == EventKind.TRADED).sum())
    events = np.concatenate(pieces)
    events["sequence"] = np.arange(first_sequence, first_sequence + len(events))
    return events


def _place(specs: list[SymbolSpec], random: np.random.Generator, timestamp_ms: int, count: int) -> Events:
    commands = np.zeros(count, command_dtype)
    moment = timestamp_ms + np.arange(count) // COMMANDS_PER_MS
    commands["kind"] = CommandKind.PLACE
    commands["timestamp_ns"] = moment * 1_000_000
    commands["order_id"] = [make_order_id(int(ms), 0, 0, place % COMMANDS_PER_MS) for place, ms in enumerate(moment)]
    commands["account_id"] = random.integers(16, 16 + ACCOUNTS, count)
    commands["symbol_id"] = random.integers(0, len(specs), count)
    commands["side"] = random.integers(0, 2, count)
    commands["order_type"] = OrderType.LIMIT
    commands["time_in_force"] = TimeInForce.GTC
    commands["self_trade_prevention"] = SelfTradePrevention.CANCEL_TAKER
    # A narrow band around the middle: orders rest and are hit a moment later.
    middle = np.array([spec.price_ticks_max // 100 for spec in specs])[commands["symbol_id"]]
    commands["price_ticks"] = middle + random.integers(-20, 21, count)
    smallest = np.array([_lots(spec) for spec in specs])[commands["symbol_id"]]
    commands["quantity_lots"] = smallest * random.integers(1, 6, count)
    unit = np.array([spec.tick_lot_units for spec in specs])[commands["symbol_id"]]
    lot = np.array([spec.lot_units for spec in specs])[commands["symbol_id"]]
    notional = commands["price_ticks"] * commands["quantity_lots"] * unit
    commands["hold_units"] = np.where(
        commands["side"] == Side.BUY, notional + notional // 500 + 10, commands["quantity_lots"] * lot
    )
    commands["client_order_id"] = np.char.add(b"perf-", np.char.mod(b"%d", commands["order_id"]).astype("S31"))
    return commands


def _lots(spec: SymbolSpec) -> int:
    """Smallest quantity that is worth enough at the middle."""
    price = spec.price_ticks_max // 100 - 20
    return max(spec.quantity_lots_min, -(-spec.notional_units_min // (price * spec.tick_lot_units)))


def _percentiles(seconds: Any) -> str:
    return ", ".join(f"p{percent} {_ms(seconds, percent)} ms" for percent in (50, 90, 99, 100))


def _ms(seconds: Any, percent: float) -> float:
    return round(float(np.percentile(np.asarray(seconds), percent)) * 1000, 2)


def _arguments() -> argparse.Namespace:
    parser = arguments_parser(__doc__)
    parser.add_argument("--trades", type=int, default=200_000)
    parser.add_argument("--batch", type=int, default=20_000, help="events in one transaction")
    parser.add_argument("--seconds", type=int, default=10, help="length of the visibility run")
    parser.add_argument("--publish", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
