"""How long questions about the past take over HTTP, with ten million trades stored.

An engine is started in a directory of its own; its database is filled directly, with random trades over some months and
the candles that they make, and with candles alone for the years before, as an engine has that keeps trades for some
months and candles for ever. Then one connection asks, each time at another random place:

- ``candles``: a thousand of every time frame, the newest before an end;
- ``statistics``: the last 24 hours;
- ``historical``: a thousand trades from a start.

``python -m perf.market_data [--trades N] [--questions N]``; its last line is one JSON object.
"""

from __future__ import annotations

import argparse
import http.client
import json
import random
import sys
import time
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import urlsplit

import numpy as np
import psycopg
from numpy.typing import NDArray
from perf.engine import Engine, arguments_parser, filesystem, machine, running_engine

from tradeengine.core.feed import TIME_FRAME_NAMES
from tradeengine.core.ids import first_id_at
from tradeengine.core.times import format_ms
from tradeengine.storage.bulk import copy_in, int4, int8, text, timestamp
from tradeengine.storage.candles import AGGREGATE_TRADES
from tradeengine.storage.directory import load_directory
from tradeengine.storage.embedded import running_embedded
from tradeengine.storage.partitions import Partitions

SYMBOLS: Final = ("BTC/USDT", "ETH/USDT")
DAYS: Final = 120
CANDLE_DAYS: Final = 1100
DAY_MS: Final = 86_400_000
LIMIT: Final = 1000
WARM_UP: Final = 20
CANDLES_GOAL_MS: Final = 50.0
STATISTICS_GOAL_MS: Final = 10.0


def main() -> int:
    """Fill, ask, print what was measured; the last line is JSON."""
    arguments = parse_arguments()
    print(f"machine     {machine()}")
    with running_engine(arguments.dir, {}) as engine:
        server = running_embedded(engine.data_dir)
        assert server is not None
        now_ms = time.time_ns() // 1_000_000
        with psycopg.connect(server.dsn, autocommit=True) as connection:
            started_s = time.perf_counter()
            fill(connection, arguments.trades, now_ms)
            seconds = time.perf_counter() - started_s
        print(f"topology    1 shard, 1 front, embedded PostgreSQL on {filesystem(engine.data_dir)}; 1 connection asks")
        print(
            f"stored      {arguments.trades} trades of {len(SYMBOLS)} symbols over {DAYS} days, candles over "
            f"{CANDLE_DAYS} days; filled in {seconds:.0f} s"
        )
        figures = measure(engine, arguments.questions, now_ms)
    figures |= {"machine": machine(), "trades": arguments.trades, "goals_met": goals_met(figures)}
    print(json.dumps(figures))
    return 0


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = arguments_parser(__doc__)
    parser.add_argument("--trades", type=int, default=10_000_000)
    parser.add_argument("--questions", type=int, default=300, help="of each kind")
    return parser.parse_args()


def measure(engine: Engine, questions: int, now_ms: int) -> dict[str, Any]:
    """Ask everything; print each kind, return the figures."""
    ask = Asker(engine.url)
    figures: dict[str, Any] = {}
    draw = random.Random(7)

    def note(name: str, make_path: Callable[[], str], least_count: int) -> None:
        for _ in range(WARM_UP):
            ask(make_path())
        durations_ms, counts = zip(*(ask(make_path()) for _ in range(questions)), strict=True)
        assert min(counts) >= least_count, f"{name}: only {min(counts)} rows"
        figures[f"{name}_p50_ms"] = percentile(durations_ms, 50)
        figures[f"{name}_p99_ms"] = percentile(durations_ms, 99)
        print(
            f"{name:16} {questions} questions   p50 {figures[f'{name}_p50_ms']:6.2f} ms   p90 "
            f"{percentile(durations_ms, 90):6.2f}   p99 {figures[f'{name}_p99_ms']:6.2f}   max {max(durations_ms):6.2f}"
        )

    for time_frame, name in TIME_FRAME_NAMES.items():
        earliest_ms = now_ms - CANDLE_DAYS * DAY_MS + (LIMIT + 2) * time_frame * 60_000

        def make_path(name: str = name, earliest_ms: int = earliest_ms) -> str:
            end = format_ms(draw.randrange(earliest_ms, now_ms))
            return f"/api/v1/candles/{draw.choice(SYMBOLS)}?tf={name}&limit={LIMIT}&end={end}"

        note(f"candles_{name}", make_path, LIMIT)
    note("statistics", lambda: f"/api/v1/statistics/24h/{draw.choice(SYMBOLS)}", 0)
    first_ms, last_ms = now_ms - (DAYS - 1) * DAY_MS, now_ms - DAY_MS
    note(
        "historical",
        lambda: (
            f"/api/v1/historical/trades/{draw.choice(SYMBOLS)}?limit={LIMIT}"
            f"&start={format_ms(draw.randrange(first_ms, last_ms))}"
        ),
        LIMIT,
    )
    return figures


class Asker:
    """One connection that is kept."""

    def __init__(self, url: str) -> None:
        address = urlsplit(url)
        self._connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=60)

    def __call__(self, path: str) -> tuple[float, int]:
        """Ask; gives the milliseconds until the answer was read whole, and how many rows it has (0: it is no list)."""
        started_s = time.perf_counter()
        self._connection.request("GET", path)
        answer = self._connection.getresponse()
        body = answer.read()
        elapsed_ms = (time.perf_counter() - started_s) * 1000
        assert answer.status == 200, body
        data = json.loads(body)["data"]
        return elapsed_ms, len(data) if isinstance(data, list) else 0


def percentile(values: Any, percent: float) -> float:
    """One percentile, rounded."""
    return round(float(np.percentile(np.asarray(values), percent)), 2)


def goals_met(figures: dict[str, Any]) -> dict[str, bool]:
    """Hold the figures against the goals."""
    names = [name for name in figures if name.endswith("_p99_ms") and not name.startswith("historical")]
    return {
        name: figures[name] <= (CANDLES_GOAL_MS if name.startswith("candles") else STATISTICS_GOAL_MS) for name in names
    }


def fill(connection: psycopg.Connection[Any], count: int, now_ms: int) -> None:
    """Store trades up to now, a day a transaction, and candles from long before them."""
    symbols = load_directory(connection)
    specs = [row.spec for name in SYMBOLS if (row := symbols.symbol(name)) is not None]
    partitions = Partitions(connection)
    rng = np.random.default_rng(7)
    edges_ms = now_ms - np.arange(DAYS, -1, -1) * DAY_MS
    for start_ms, end_ms in zip(edges_ms[:-1].tolist(), edges_ms[1:].tolist(), strict=True):
        partitions.cover("trades", first_id_at(start_ms), first_id_at(end_ms))
        with connection.transaction():
            copy_in(connection, "trades", make_trades(rng, [spec.symbol_id for spec in specs], start_ms, end_ms, count))
    ids = [spec.symbol_id for spec in specs]
    for table, column, unit in (("candles_1m", "minute", "minute"), ("candles_1h", "hour", "hour")):
        connection.execute(
            f"INSERT INTO {table} SELECT symbol_id, date_trunc('{unit}', executed_at) AS {column}, {AGGREGATE_TRADES} "  # noqa: S608 - made of our own names
            "FROM trades GROUP BY 1, 2"
        )
        connection.execute(
            f"INSERT INTO {table} SELECT symbol_id, begins, 100000, 100100, 99900, 100050, 700, 7000000, 7 "  # noqa: S608
            f"FROM unnest(%s::int[]) AS symbol_id, generate_series(date_trunc('{unit}', to_timestamp(%s)), "
            f"to_timestamp(%s), interval '1 {unit}') AS begins ON CONFLICT DO NOTHING",
            (ids, (now_ms - CANDLE_DAYS * DAY_MS) // 1000, (now_ms - DAYS * DAY_MS) // 1000),
        )
        connection.execute(f"VACUUM ANALYZE {table}")
    connection.execute("VACUUM ANALYZE trades")
    connection.execute("CHECKPOINT")


def make_trades(
    rng: np.random.Generator, symbol_ids: list[int], start_ms: int, end_ms: int, count: int
) -> dict[str, Any]:
    """Make a day's share of the trades, at random moments and prices."""
    share = count // DAYS
    moments_ms = np.sort(rng.integers(start_ms, end_ms, share))
    # Ids of one millisecond differ in their counters.
    trade_ids = np.array([first_id_at(int(moment)) for moment in moments_ms], np.int64) + np.arange(share) % 60_000
    symbol_id = rng.choice(symbol_ids, share)
    price = 100_000 + rng.integers(-500, 501, share)
    lots = rng.integers(1, 1000, share)
    sides: NDArray[np.bytes_] = np.array([b"buy", b"sell"])
    return {
        "id": int8(trade_ids),
        "price_ticks": int8(price),
        "quantity_lots": int8(lots),
        "notional_units": int8(price * lots),
        "taker_fee_units": int8(lots),
        "maker_fee_units": int8(lots),
        "taker_order_id": int8(trade_ids),
        "maker_order_id": int8(trade_ids - 1000),
        "sequence": int8(np.arange(share)),
        "executed_at": timestamp(moments_ms * 1_000_000),
        "taker_account_id": int4(rng.integers(16, 1000, share)),
        "maker_account_id": int4(rng.integers(16, 1000, share)),
        "symbol_id": int4(symbol_id),
        "taker_side": text(sides[rng.integers(0, 2, share)]),
    }


if __name__ == "__main__":
    sys.exit(main())
