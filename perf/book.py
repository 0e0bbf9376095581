"""How fast the book is: the production kernel with fees, holds, prevention and full events, on one core.

Beside it, in turns with it, runs a plain-Python book on the same stream; the ratio of the two is what can be compared
between machines and minutes. Whatever is timed is also checked: trades, volume and the checksum over all of them.

``python -m perf.book [--workload FILE.bin …] [--ops N] [--runs N]``; without files it makes both kinds itself. The
stops part puts 10,000 stops beside a book and times trades that trigger none, and one that triggers ten.
The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from perf.engine import machine
from perf.reference_book import ReferenceBook, chain
from perf.workloads import (
    CANCELS,
    MIDDLE,
    PREFILL,
    Workload,
    listing,
    make_chain,
    make_mixed,
    read_workload,
    to_commands,
)

from tradeengine.core.book import BookLimits, BookState, apply, make_book, next_command_sequence
from tradeengine.core.records import (
    CommandKind,
    EventKind,
    OrderType,
    Side,
    command_dtype,
    event_dtype,
)

BATCH: Final = 1024
"""Commands in one call: what a matcher under load takes from its ring."""
EVENTS_BUFFER: Final = 4096
RUNS: Final = 5
LIMITS: Final = BookLimits(orders_max=1 << 20, symbols_max=4, levels_max=4096, accounts_max=4096, shard=0)
STOPS: Final = 10_000
STOP_TRADES: Final = 2_000


@dataclass(frozen=True)
class Timing:
    """One pass over a stream: seconds, and per call of ``BATCH`` commands its microseconds per command."""

    seconds: float
    us_per_command: NDArray[np.float64]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workload", type=Path, action="append", default=[], metavar="FILE.bin")
    parser.add_argument("--ops", type=int, default=1_000_000)
    parser.add_argument("--runs", type=int, default=RUNS)
    arguments = parser.parse_args()
    print(f"machine   {machine()}")
    print(f"topology  one process, one core, no rings; {BATCH} commands a call, events of {event_dtype.itemsize} bytes")
    workloads = [read_workload(path) for path in arguments.workload] or [
        make_mixed(arguments.ops, 20_000, 7),
        make_chain(arguments.ops, 2_000, 7),
    ]
    figures = {workload.name: measure(workload, arguments.runs) for workload in workloads}
    stops = measure_stops()
    first = figures[workloads[0].name]
    print(json.dumps(first | {"workloads": figures, "stops": stops}))


def measure(workload: Workload, runs: int) -> dict[str, Any]:
    """Time kernel and plain book in turns; print a table; give the medians."""
    prefill = int(np.count_nonzero(workload.rows["op"] == PREFILL))
    commands = to_commands(workload.rows)
    checksum_ok = check(workload, commands)
    count = len(commands) - prefill
    timings, ratios = [], []
    for _ in range(runs):
        timing = time_kernel(commands, prefill)
        ratios.append(time_reference(workload, prefill) / timing.seconds)
        timings.append(timing)
    seconds = statistics.median(timing.seconds for timing in timings)
    per_command = np.concatenate([timing.us_per_command for timing in timings])
    p50, p99, p999 = np.percentile(per_command, (50, 99, 99.9))
    ratio = statistics.median(ratios)
    print(
        f"{workload.name:9} {count / seconds:12,.0f} commands/s {workload.trades / seconds:12,.0f} trades/s   "
        f"per command in a batch p50 {p50:.3f} p99 {p99:.3f} p99.9 {p999:.3f} µs   "
        f"{ratio:.1f} × plain Python ({min(ratios):.1f} … {max(ratios):.1f})   "
        f"checksum {'ok' if checksum_ok else 'WRONG'}"
    )
    return {
        "commands_per_s": round(count / seconds),
        "trades_per_s": round(workload.trades / seconds),
        "trades": workload.trades,
        "checksum_ok": checksum_ok,
        "ratio_to_plain_python": round(ratio, 2),
    }


def check(workload: Workload, commands: NDArray[np.void]) -> bool:
    """Run once and compare every trade with what the stream says must come out."""
    book, buffer = new_book(), np.zeros(EVENTS_BUFFER, event_dtype)
    trades = volume = checksum = 0
    for start in range(0, len(commands), BATCH):
        for events in run(book, commands[start : start + BATCH], buffer):
            traded = events[events["kind"] == EventKind.TRADED]
            trades += len(traded)
            volume += int(traded["quantity_lots"].sum())
            fields = ("maker_order_id", "order_id", "price_ticks", "quantity_lots")
            for maker, taker, price, lots in zip(*(traded[name].tolist() for name in fields), strict=True):
                checksum = chain(checksum, maker, taker, price, lots)
    return (trades, volume, checksum) == (workload.trades, workload.volume, workload.checksum)


def time_kernel(commands: NDArray[np.void], prefill: int) -> Timing:
    """Fill the book untimed, then time the rest call by call."""
    book, buffer = new_book(), np.zeros(EVENTS_BUFFER, event_dtype)
    for start in range(0, prefill, BATCH):
        _drain(book, commands[start : min(start + BATCH, prefill)], buffer)
    spent, sizes = [], []
    for start in range(prefill, len(commands), BATCH):
        batch = commands[start : start + BATCH]
        started_ns = time.perf_counter_ns()
        _drain(book, batch, buffer)
        spent.append(time.perf_counter_ns() - started_ns)
        sizes.append(len(batch))
    spent_ns = np.array(spent, np.float64)
    return Timing(float(spent_ns.sum()) / 1e9, spent_ns / np.array(sizes) / 1e3)


def time_reference(workload: Workload, prefill: int) -> float:
    """Seconds that the plain book takes for the same commands."""
    names = ("op", "side", "id", "price", "lots")
    rows = list(zip(*(workload.rows[name].tolist() for name in names), strict=True))
    book = ReferenceBook()
    for _, side, order_id, price, lots in rows[:prefill]:
        book.place(side, order_id, price, lots)
    started_s = time.perf_counter()
    for op, side, order_id, price, lots in rows[prefill:]:
        if op == CANCELS:
            book.cancel(order_id)
        else:
            book.place(side, order_id, price, lots)
    return time.perf_counter() - started_s


def measure_stops() -> dict[str, float]:
    """Time single trades with and without 10,000 stops beside the book, in turns, and a trade that triggers ten."""
    without, beside = [], []
    for _ in range(RUNS):
        without.append(_trade_us(_book_with_stops(0)))
        beside.append(_trade_us(_book_with_stops(STOPS)))
    triggering = statistics.median(_trigger_us(_book_with_stops(STOPS)) for _ in range(RUNS * 3))
    ratio = statistics.median(after / before for before, after in zip(without, beside, strict=True))
    print(
        f"stops     a trade {statistics.median(without):.2f} µs without, {statistics.median(beside):.2f} µs beside "
        f"{STOPS:,} stops ({ratio:.2f} ×); a trade that triggers ten {triggering:.1f} µs; calls of one command"
    )
    return {"trade_beside_stops_ratio": round(ratio, 3), "trade_triggering_ten_us": round(triggering, 2)}


def _trade_us(book: BookState) -> float:
    """Median of one call with a taker that trades once, high enough above all stops to trigger none."""
    buffer, spent = np.zeros(EVENTS_BUFFER, event_dtype), []
    _drain(book, _orders(Side.SELL, MIDDLE, STOP_TRADES, first_id=1_000_000), buffer)
    takers = _orders(Side.BUY, MIDDLE, STOP_TRADES, first_id=2_000_000)
    for place in range(STOP_TRADES):
        started_ns = time.perf_counter_ns()
        _drain(book, takers[place : place + 1], buffer)
        spent.append(time.perf_counter_ns() - started_ns)
    return statistics.median(spent) / 1e3


def _trigger_us(book: BookState) -> float:
    """Time one call with a taker whose trade reaches the stop prices of exactly ten sell stops."""
    buffer = np.zeros(EVENTS_BUFFER, event_dtype)
    _drain(book, _orders(Side.BUY, MIDDLE - 1_000, 1, first_id=1_000_000), buffer)
    _drain(book, _orders(Side.BUY, MIDDLE - 1_001, 10, first_id=1_000_010), buffer)
    taker = _orders(Side.SELL, MIDDLE - 1_000, 1, first_id=2_000_000)
    started_ns = time.perf_counter_ns()
    done, written = apply(book, taker, next_command_sequence(book), 0, buffer)
    spent_ns = time.perf_counter_ns() - started_ns
    assert done == 1
    assert np.count_nonzero(buffer["kind"][:written] == EventKind.TRIGGERED) == 10
    return spent_ns / 1e3


def _book_with_stops(count: int) -> BookState:
    """Make a book in which ``count`` sell stops wait, ten at each price from 1,000 ticks below the middle downward."""
    book, buffer = new_book(), np.zeros(EVENTS_BUFFER, event_dtype)
    stops = _orders(Side.SELL, 0, count, first_id=100)
    stops["order_type"] = OrderType.STOP
    stops["stop_price_ticks"] = MIDDLE - 1_000 - np.arange(count) // 10 * 2
    for start in range(0, count, BATCH):
        _drain(book, stops[start : start + BATCH], buffer)
    return book


def _orders(side: Side, price_ticks: int, count: int, *, first_id: int) -> NDArray[np.void]:
    """Make orders of one lot, alike but for their ids."""
    rows = np.zeros(count, [("op", "u1"), ("side", "u1"), ("id", "<u4"), ("price", "<i4"), ("lots", "<i4")])
    rows["op"], rows["side"], rows["price"], rows["lots"] = 1, side, price_ticks, 1
    rows["id"] = first_id + np.arange(count)
    commands = to_commands(rows)
    assert commands.dtype == command_dtype
    assert np.all(commands["kind"] == CommandKind.PLACE)
    return commands


def new_book() -> BookState:
    """Make a book in which the one symbol is listed."""
    book = make_book(LIMITS)
    _drain(book, listing(), np.zeros(8, event_dtype))
    return book


def _drain(book: BookState, commands: NDArray[np.void], buffer: NDArray[np.void]) -> None:
    """Apply all commands; their events stay in the buffer only until the next piece, as in the matcher."""
    first, done, count = next_command_sequence(book), 0, len(commands)
    while done < count:
        done, _ = apply(book, commands, first, done, buffer)


def run(book: BookState, commands: NDArray[np.void], buffer: NDArray[np.void]) -> list[NDArray[np.void]]:
    """Apply all commands; copies of the pieces of events."""
    pieces, first, done = [], next_command_sequence(book), 0
    while done < len(commands):
        done, written = apply(book, commands, first, done, buffer)
        pieces.append(buffer[:written].copy())
    return pieces


if __name__ == "__main__":
    main()
