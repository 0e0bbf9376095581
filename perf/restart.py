"""Restarts: how soon each process of an engine is back after kill -9, with a hundred thousand live orders.

One engine in a fresh folder on a real disk, one shard. A burst of orders leaves the live ones; once that is settled
each process is killed in turn, some times each. *back* is from the kill to when the supervisor has heard from the next
process that it does its duty; with it comes what that process has found. At last everything is killed at once, the
supervisor too, and the engine is started again: *ready* is from the start of its program to when it accepts orders.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import sys
import time
from contextlib import suppress
from typing import Any, Final

from perf.engine import Engine, arguments_parser, machine, running_engine, say_machine, start_engine, wait_ready
from perf.load import Load, burst, owners, settle
from perf.reconcile import SETTINGS_HERE

from tradeengine.cli.database import connect
from tradeengine.ipc.client import ask, open_client

GOALS_S: Final = {"matcher-0": 3.0, "settlement": 3.0, "publisher": 3.0, "front-0": 3.0, "risk": 5.0}
GOAL_ENGINE_S: Final = 10.0
TIMEOUT_S: Final = 120.0
LOOK_S: Final = 0.005


def main() -> int:
    """Measure and print."""
    arguments = _arguments()
    say_machine(arguments.dir)
    print("topology   1 shard, 1 front, embedded PostgreSQL; nobody trades while processes are killed")
    with running_engine(arguments.dir, SETTINGS_HERE) as engine:
        figures = _measure(engine, arguments)
    print(json.dumps({"machine": machine(), **figures}))
    return 0


def _measure(engine: Engine, arguments: argparse.Namespace) -> dict[str, Any]:
    with connect(engine.settings()) as connection, open_client(engine.data_dir) as wiring:
        load = Load.prepared(connection, wiring, owners(), "r")
        burst(load, load.make(arguments.commands))
        settle(load)
    figures: dict[str, Any] = {}
    for name, goal_s in GOALS_S.items():
        runs = [_restart(engine, name) for _ in range(arguments.runs)]
        back = [run["back_s"] for run in runs]
        figures[name] = {
            "back_median_s": round(statistics.median(back), 3),
            "back_max_s": round(max(back), 3),
            "goal_met": max(back) <= goal_s,
            "found": runs[-1]["recovered"],
        }
        print(f"{name:10} back median {statistics.median(back):.3f} s, max {max(back):.3f} s; {runs[-1]['recovered']}")
    whole = [_restart_all(engine) for _ in range(arguments.runs)]
    _stop(engine)
    figures["engine"] = {
        "ready_median_s": round(statistics.median(whole), 3),
        "ready_max_s": round(max(whole), 3),
        "goal_met": max(whole) <= GOAL_ENGINE_S,
    }
    print(f"engine     ready median {statistics.median(whole):.3f} s, max {max(whole):.3f} s")
    return figures


def _restart(engine: Engine, name: str) -> dict[str, Any]:
    """Kill an actor and wait until the next one is ready."""
    before = _status(engine)[name]["pid"]
    began_s = time.perf_counter()
    os.kill(before, signal.SIGKILL)
    while (actor := _status(engine)[name])["pid"] in {0, before} or actor["state"] != "ready":
        if time.perf_counter() - began_s > TIMEOUT_S:
            raise RuntimeError(f"{name} did not come back: {actor}")
        time.sleep(LOOK_S)
    return {"back_s": time.perf_counter() - began_s, "recovered": actor["recovered"]}


def _restart_all(engine: Engine) -> float:
    """Kill every process at once but the database, which outlives its owner, and start the engine on what is left."""
    status = ask(engine.data_dir, "status")
    pids = [status["pid"], *(actor["pid"] for actor in status["actors"] if actor["role"] != "database")]
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    began_s = time.perf_counter()
    wait_ready(start_engine(engine.data_dir, SETTINGS_HERE))
    return time.perf_counter() - began_s


def _stop(engine: Engine) -> None:
    """End the engine that was started last, before its folder is removed."""
    pid = ask(engine.data_dir, "status")["pid"]
    os.kill(pid, signal.SIGTERM)
    os.waitpid(pid, 0)


def _status(engine: Engine) -> dict[str, dict[str, Any]]:
    return {actor["name"]: actor for actor in ask(engine.data_dir, "status")["actors"]}


def _arguments() -> argparse.Namespace:
    parser = arguments_parser(__doc__)
    parser.add_argument("--commands", type=int, default=520_000, help="a fifth of an order stays from each")
    parser.add_argument("--runs", type=int, default=5, help="kills of each process")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
