"""Reconciliation: a hundred thousand live orders and a million postings, compared while trading goes on.

One engine in a fresh folder on a real disk, one shard. A burst of orders makes the trades and leaves the orders; once
that is settled the keeper is asked again and again: first while nobody trades, then while a client sends commands at a
fixed rate, each at its own time. What counts is the time from the request to the answer in PostgreSQL. The commands'
latencies, beside those of the same rate without a reconciliation, say what it costs traders; *census* is how long risk
or the matcher stood still.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import threading
import time
from typing import Any, Final

import psycopg
from perf.engine import Engine, arguments_parser, machine, running_engine, say_machine
from perf.figures import say
from perf.load import SETTINGS, Load, beside, burst, open_loop, owners, say_latency, settle

from tradeengine.cli.database import connect
from tradeengine.ipc.client import open_client
from tradeengine.settings import Settings
from tradeengine.storage.reconciliations import Reconciliation, request_reconciliation, wait_reconciliation

TIMEOUT_S: Final = 300.0
SETTINGS_HERE: Final = {**SETTINGS, "LIMITS_ORDERS_MAX": 1 << 18, "KEEPER_RECONCILE_INTERVAL_S": 0}
"""Rings for the burst; as many orders as by default, because that is what a census goes through."""


def main() -> int:
    """Measure and print."""
    arguments = _arguments()
    say_machine(arguments.dir)
    print("topology   keeper (niceness 10 while it compares) → risk, matcher-0, PostgreSQL; client → risk → matcher-0")
    with running_engine(arguments.dir, SETTINGS_HERE) as engine:
        figures = _measure(engine, arguments)
    print(json.dumps({"machine": machine(), **figures}))
    return 0


def _measure(engine: Engine, arguments: argparse.Namespace) -> dict[str, Any]:
    settings = engine.settings()
    with connect(settings) as connection, open_client(engine.data_dir) as wiring:
        load = Load.prepared(connection, wiring, owners(), "r")
        burst(load, load.make(arguments.commands))
        settle(load)
        connection.execute("VACUUM ANALYZE")
        quiet = [reconcile(connection) for _ in range(arguments.runs)]
        figures = {"quiet": _say("quiet", quiet)}
        without = open_loop(load, arguments.rate, arguments.seconds)
        figures["latency_us_without"] = say_latency("alone", without)
        busy, latencies = _under_load(load, settings, arguments)
        figures["busy"] = _say("busy", busy)
        figures["latency_us_with"] = say_latency("beside", latencies)
    return figures


def _under_load(
    load: Load, settings: Settings, arguments: argparse.Namespace
) -> tuple[list[tuple[float, Reconciliation]], dict[str, Any]]:
    """Reconcile again and again while commands are sent."""
    found: list[tuple[float, Reconciliation]] = []

    def ask(over: threading.Event) -> None:
        with connect(settings) as connection:
            while not over.is_set():
                found.append(reconcile(connection))

    with beside(ask):
        latencies = open_loop(load, arguments.rate, arguments.seconds)
    return found, latencies


def reconcile(connection: psycopg.Connection[Any]) -> tuple[float, Reconciliation]:
    """Ask once; returns the seconds to the answer, and the answer. Raises RuntimeError when anything differs."""
    began_s = time.perf_counter()
    number = request_reconciliation(connection, "perf")
    found = wait_reconciliation(connection, number, timeout_s=TIMEOUT_S, interval_s=0.01)
    if found.difference_count != 0:
        raise RuntimeError(f"reconciliation: {found.error or found.differences}")
    return time.perf_counter() - began_s, found


def _say(name: str, found: list[tuple[float, Reconciliation]]) -> dict[str, Any]:
    seconds = [seconds for seconds, _ in found]
    checked = found[-1][1].checked
    assert checked is not None
    figures = {
        "runs": len(found),
        "seconds_median": round(statistics.median(seconds), 3),
        "seconds_max": round(max(seconds), 3),
        "census_ms_max": max((answer.checked or {})["census_us"] for _, answer in found) / 1000,
        **{count: checked[count] for count in ("postings", "trades", "orders", "book_orders", "balances")},
    }
    return say(name, figures)


def _arguments() -> argparse.Namespace:
    parser = arguments_parser(__doc__)
    parser.add_argument("--commands", type=int, default=500_000, help="two postings and a fifth of an order from each")
    parser.add_argument("--runs", type=int, default=5, help="reconciliations while nobody trades")
    parser.add_argument("--rate", type=float, default=2_000, help="commands per second beside the others")
    parser.add_argument("--seconds", type=float, default=20.0, help="for how long")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
