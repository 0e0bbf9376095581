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
from pathlib import Path
from typing import Any, Final

from perf.engine import DEFAULT_DIR, Engine, filesystem, fund_accounts, machine, running_engine
from perf.pipeline import ACCOUNTS, MIDDLE_PRICE, SETTINGS, SYMBOL, Load, burst, open_loop, settle
from perf.traffic import Traffic

from tradeengine.cli.database import connect
from tradeengine.ipc.client import open_client
from tradeengine.settings_files import load_settings
from tradeengine.storage.directory import load_directory

BURST: Final = 500_000
TAKERS: Final = 4
SETTINGS_HERE: Final = {**SETTINGS, "KEEPER_RECONCILE_INTERVAL_S": 0}


def main() -> int:
    """Measure and print."""
    arguments = _arguments()
    kind = filesystem(arguments.dir)
    if kind in {"tmpfs", "ramfs"}:
        sys.stderr.write(f"{arguments.dir} is on {kind}: name a folder on a real disk with --dir\n")
        return 1
    print(f"machine    {machine()}; journal on {kind}")
    print("topology   verify (niceness 10) → files, PostgreSQL; beside it client → risk → matcher-0 → settlement")
    with running_engine(arguments.dir, SETTINGS_HERE) as engine:
        figures = _measure(engine, arguments)
    print(json.dumps({"machine": machine(), **figures}))
    return 0


def _measure(engine: Engine, arguments: argparse.Namespace) -> dict[str, Any]:
    settings = load_settings(None, {"engine.data_dir": str(engine.data_dir)})
    with connect(settings) as connection, open_client(engine.data_dir) as wiring:
        row = load_directory(connection).symbol(SYMBOL)
        assert row is not None
        amounts = {row.spec.base: row.spec.base.parse("100000"), row.spec.quote: row.spec.quote.parse("100000000")}
        names = [f"perf-{number}" for number in range(ACCOUNTS)]
        accounts = fund_accounts(connection, names, amounts, wiring.settings.limits.accounts_max)
        middle = row.spec.parse_price(MIDDLE_PRICE)
        load = Load(wiring, Traffic(row.spec, middle, accounts, wiring.ingress_number, "v", TAKERS), row.spec.shard)
        while load.trades < arguments.trades:
            burst(load, load.make(BURST, cancelling=load.sent > 0))
            settle(load)
        connection.execute("VACUUM ANALYZE")
        figures = {"quiet": _say("quiet", [verify(engine) for _ in range(arguments.runs)])}
        without = open_loop(load, arguments.rate, arguments.seconds)
        figures["latency_us_without"] = _say_latency("alone", without)
        busy, latencies = _under_load(load, engine, arguments)
        figures["busy"] = _say("busy", busy)
        figures["latency_us_with"] = _say_latency("beside", latencies)
    return figures


def verify(engine: Engine) -> dict[str, Any]:
    """Run the command once; gives what it says, and what it took. Raises RuntimeError when anything differs."""
    began_s = time.perf_counter()
    command = [sys.executable, "-m", "tradeengine.cli.app", "verify", "--json", "--data-dir", str(engine.data_dir)]
    environment = os.environ | {f"TRADEENGINE_{name}": str(value) for name, value in SETTINGS_HERE.items()}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
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
    over = threading.Event()

    def ask() -> None:
        while not over.is_set():
            found.append(verify(engine))

    asker = threading.Thread(target=ask)
    asker.start()
    latencies = open_loop(load, arguments.rate, arguments.seconds)
    over.set()
    asker.join()
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
    print(f"{name:10} {', '.join(f'{key} {value:,}' for key, value in figures.items())}", flush=True)
    return figures


def _say_latency(name: str, figures: dict[str, Any]) -> dict[str, int]:
    latencies: dict[str, int] = figures["latency_us"]
    texts = ", ".join(f"{key} {value:,} µs" for key, value in latencies.items())
    print(f"{name:10} {figures['rate_per_s']:,.0f} commands/s: {texts}", flush=True)
    return latencies


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dir", type=Path, default=DEFAULT_DIR, help="folder on a real disk for the engine's data")
    parser.add_argument("--trades", type=int, default=1_000_000, help="so many at least")
    parser.add_argument("--runs", type=int, default=3, help="verifications while nobody trades")
    parser.add_argument("--rate", type=float, default=2_000, help="commands per second beside the others")
    parser.add_argument("--seconds", type=float, default=20.0, help="for how long")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
