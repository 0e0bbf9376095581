"""Verification: a million trades, replayed and compared, in peace and while trading goes on.

One engine in a fresh folder on a real disk, one shard. Bursts of orders make the trades; two fifths of all commands
make one each, a fifth rests and is cancelled. Once that is settled ``tradeengine verify`` runs again and again: first
while nobody trades, then while a client sends commands at a fixed rate, each at its own time. What counts is the whole
command, its start included. The commands' latencies, beside those of the same rate without it, say what it costs.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from typing import Any, Final

from perf.engine import PROGRAM, Engine, arguments_parser, environment_of, machine, running_engine, say_machine
from perf.figures import say
from perf.load import SETTINGS, Load, beside, burst, open_loop, owners, say_latency, settle

from tradeengine.cli.database import connect
from tradeengine.ipc.client import open_client

BURST: Final = 500_000
SETTINGS_HERE: Final = {**SETTINGS, "KEEPER_RECONCILE_INTERVAL_S": 0}


def main() -> int:
    """Measure and print."""
    arguments = _arguments()
    say_machine(arguments.dir)
    print("topology   verify (niceness 10) → files, PostgreSQL; beside it client → risk → matcher-0 → settlement")
    with running_engine(arguments.dir, SETTINGS_HERE) as engine:
        figures = _measure(engine, arguments)
    print(json.dumps({"machine": machine(), **figures}))
    return 0


def _measure(engine: Engine, arguments: argparse.Namespace) -> dict[str, Any]:
    with connect(engine.settings()) as connection, open_client(engine.data_dir) as wiring:
        load = Load.prepared(connection, wiring, owners(), "v")
        while load.trades < arguments.trades:
            burst(load, load.make(BURST, cancelling=load.sent > 0))
            settle(load)
        connection.execute("VACUUM ANALYZE")
        figures = {"quiet": _say("quiet", [verify(engine) for _ in range(arguments.runs)])}
        without = open_loop(load, arguments.rate, arguments.seconds)
        figures["latency_us_without"] = say_latency("alone", without)
        busy, latencies = _under_load(load, engine, arguments)
        figures["busy"] = _say("busy", busy)
        figures["latency_us_with"] = say_latency("beside", latencies)
    return figures


def verify(engine: Engine) -> dict[str, Any]:
    """Run the command once; gives what it says, and what it took. Raises RuntimeError when anything differs."""
    began_s = time.perf_counter()
    command = [*PROGRAM, "verify", "--json", "--data-dir", str(engine.data_dir)]
    with subprocess.Popen(command, env=environment_of(SETTINGS_HERE), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        told = json.loads(process.stdout.read() or "{}")
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"verify ended with {process.returncode}: {told.get('differences')}")
    return {
        **told,
        "seconds": time.perf_counter() - began_s,
        "processor_s": used.ru_utime + used.ru_stime,
        "memory_mib": used.ru_maxrss / 1024,
    }


def _under_load(
    load: Load, engine: Engine, arguments: argparse.Namespace
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Verify again and again while commands are sent."""
    found: list[dict[str, Any]] = []

    def ask(over: threading.Event) -> None:
        while not over.is_set():
            found.append(verify(engine))

    with beside(ask):
        latencies = open_loop(load, arguments.rate, arguments.seconds)
    return found, latencies


def _say(name: str, found: list[dict[str, Any]]) -> dict[str, Any]:
    seconds = [told["seconds"] for told in found]
    (shard,) = found[-1]["shards"]
    figures = {
        "runs": len(found),
        "seconds_median": round(statistics.median(seconds), 2),
        "seconds_max": round(max(seconds), 2),
        "processor_s": round(found[-1]["processor_s"], 2),
        "memory_mib_max": round(max(told["memory_mib"] for told in found)),
        "trades_per_s": round(statistics.median(told["trades_per_s"] for told in found)),
        "shard_s": shard["duration_s"],
        "ledger_s": found[-1]["ledger_s"],
        **{
            count: shard[count]
            for count in ("next_command", "next_event", "trades", "orders", "live_orders", "segments")
        },
        "journal_mib": round(shard["byte_count"] / 2**20),
        "postings": found[-1]["ledger"]["postings"],
    }
    return say(name, figures)


def _arguments() -> argparse.Namespace:
    parser = arguments_parser(__doc__)
    parser.add_argument("--trades", type=int, default=1_000_000, help="so many at least")
    parser.add_argument("--runs", type=int, default=3, help="verifications while nobody trades")
    parser.add_argument("--rate", type=float, default=2_000, help="commands per second beside the others")
    parser.add_argument("--seconds", type=float, default=20.0, help="for how long")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
