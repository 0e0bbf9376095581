"""Overload: at twice the load that it carries the engine answers what it carries, as soon as ever; the rest is refused.

Three ways in, each on an engine that ``tradeengine up`` starts, one shard, one front. For each the capacity is found
first; then 0.9 × and 2 × of it take turns, and the figures are medians of the turns.

http     an open loop of ``POST /orders`` (``perf.overload_client``) from one address. Beside it, from other addresses:
         a client who places 20 orders a second, one who cancels, and one who asks for ``/health``.
stream   orders over one WebSocket connection, an open loop too, beside another connection with 20 orders a second.
ring     a local client's commands, paced; what finds no room in the ring is held back by the client and counted.

A latency is from the time when a request was due. ``python -m perf.overload [--parts …]``; the last line is one JSON
object.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any, Final

from perf.engine import Engine, arguments_parser, filesystem, fund_traders, machine, running_engine
from perf.overload_client import TIMEOUT_S
from perf.overload_ring import measure_ring
from perf.overload_stream import StreamLoad, run_streams

from tradeengine.cli.database import connect
from tradeengine.ipc.client import ask

SYMBOL: Final = "BTC/USDT"
PARTS: Final = ("http", "stream", "ring")
USERS: Final = ("overload-flood", "overload-quiet", "overload-cancels")
LIMIT: Final = 1_000_000
SETTINGS: Final = {
    "LOG_LEVEL": "error",
    "REQUESTS_USER_PER_S": LIMIT,
    "REQUESTS_USER_BURST": LIMIT,
    "REQUESTS_ADDRESS_PER_S": LIMIT,
    "REQUESTS_ADDRESS_BURST": LIMIT,
    "STREAMS_MESSAGES_PER_S_MAX": LIMIT,
    "LIMITS_OPEN_ORDERS_MAX": 200_000,
}
"""No limit of users or addresses, so that it is load and not a rule that is refused."""
CONNECTIONS: Final = 1000
FIRST_RATE_PER_S: Final = 150.0
STEP: Final = 1.25
STEP_S: Final = 4.0
REFUSED_SHARE_MAX: Final = 0.02
P99_MS_MAX: Final = 400.0
QUIET_PER_S: Final = 20.0
LOADS: Final = (0.9, 2.0)
SHOWN: Final = tuple(f"{kind}_{what}" for kind in ("answered", "refused") for what in ("per_s", "p50_ms", "p99_ms"))


def main() -> int:
    """Measure the parts that were asked for; returns 1 when something was neither answered nor refused."""
    arguments = _arguments()
    print(f"machine    {machine()}; journal on {filesystem(arguments.dir)}")
    print("topology   1 shard, 1 front, embedded PostgreSQL; the clients are programs of their own")
    parts = arguments.parts.split(",")
    figures: dict[str, Any] = {"machine": machine()}
    if "http" in parts or "stream" in parts:
        with running_engine(arguments.dir, SETTINGS) as engine:
            clients = Clients(engine)
            if "http" in parts:
                figures["http"] = measure_http(clients, arguments)
            if "stream" in parts:
                figures["stream"] = measure_stream(clients, arguments)
    if "ring" in parts:
        figures["ring"] = measure_ring(arguments.dir, arguments.seconds, arguments.turns)
    lost = sum(figures.get(part, {}).get("lost", 0) for part in PARTS)
    print(json.dumps(figures))
    return 1 if lost else 0


class Clients:
    """Starts clients of an engine, with funded users."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.port = engine.port
        settings = engine.settings()
        with connect(settings) as connection:
            fund_traders(connection, SYMBOL, USERS, settings.limits.accounts_max)
        self.tokens = [engine.token(user) for user in USERS]

    def start(self, user: int, rate_per_s: float, seconds: float, call: tuple[str, str, Any]) -> subprocess.Popen[str]:
        """Start an open loop over HTTP. call: method, path, body. Each user has an address of its own."""
        method, path, body = call
        wanted = {
            "port": self.port,
            "token": self.tokens[user % len(self.tokens)],
            "rate_per_s": rate_per_s,
            "seconds": seconds,
            "connections": CONNECTIONS,
            "timeout_s": TIMEOUT_S,
            "address": f"127.0.0.{user + 1}",
            "method": method,
            "path": path,
            "body": body,
        }
        program = [sys.executable, "-m", "perf.overload_client", json.dumps(wanted)]
        return subprocess.Popen(program, stdout=subprocess.PIPE, text=True)

    def memory_mib(self) -> float:
        """Give the memory of the front's own."""
        actors = ask(self.engine.data_dir, "status")["actors"]
        pid = next(actor["pid"] for actor in actors if actor["name"] == "front-0")
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1024


def finish(client: subprocess.Popen[str]) -> dict[str, Any]:
    """Wait for a client's figures."""
    output, _ = client.communicate()
    if client.returncode:
        raise RuntimeError(f"a client ended with {client.returncode}; what it said is above")
    figures: dict[str, Any] = json.loads(output.splitlines()[-1])
    return figures


PLACE: Final = {"symbol": SYMBOL, "side": "buy", "type": "limit", "quantity": "0.001", "price": "45000.00"}
ORDER: Final = ("POST", "/api/v1/orders", PLACE)
CANCEL: Final = ("DELETE", f"/api/v1/orders?symbol={SYMBOL}", None)
HEALTH: Final = ("GET", "/health", None)


def find_capacity(what: str, first_per_s: float, drive: Callable[[float], dict[str, Any]]) -> float:
    """Raise the rate until it is not carried, also when it is tried once more; returns the last that was."""
    capacity_per_s, rate_per_s, misses = 0.0, first_per_s, 0
    while misses < 2:
        row = drive(rate_per_s)
        print(f"{what:10} {rate_per_s:7.0f}/s {_say(row)}", flush=True)
        if row["answered_per_s"] >= rate_per_s * (1 - REFUSED_SHARE_MAX) and row["answered_p99_ms"] <= P99_MS_MAX:
            capacity_per_s, rate_per_s, misses = rate_per_s, rate_per_s * STEP, 0
        else:
            misses += 1
    assert capacity_per_s, "not even the first rate was carried"
    return capacity_per_s


def measure_http(clients: Clients, arguments: argparse.Namespace) -> dict[str, Any]:
    """Find what ``POST /orders`` carries, then drive it below and far beyond."""
    finish(clients.start(0, 50, 3, ORDER))
    capacity_per_s = find_capacity("http", FIRST_RATE_PER_S, lambda rate: finish(clients.start(0, rate, STEP_S, ORDER)))
    turns: dict[float, list[dict[str, dict[str, Any]]]] = {load: [] for load in LOADS}
    memory_mib = [clients.memory_mib()]
    for _ in range(arguments.turns):
        for load in LOADS:
            turns[load].append(_turn(clients, capacity_per_s * load, arguments.seconds))
        memory_mib.append(clients.memory_mib())
    return {
        "capacity_per_s": round(capacity_per_s, 1),
        **{f"at_{load:g}": _medians(turns[load]) for load in LOADS},
        "memory_mib": [round(value, 1) for value in memory_mib],
        "lost": sum(_lost(row) for rows in turns.values() for turn in rows for row in turn.values()),
    }


def _turn(clients: Clients, rate_per_s: float, seconds: float) -> dict[str, dict[str, Any]]:
    """Drive one load, with the others beside it."""
    others = {
        "quiet": clients.start(1, QUIET_PER_S, seconds, ORDER),
        "cancels": clients.start(2, QUIET_PER_S / 2, seconds, CANCEL),
        "health": clients.start(3, QUIET_PER_S / 2, seconds, HEALTH),
    }
    rows = {"flood": finish(clients.start(0, rate_per_s, seconds, ORDER))}
    rows |= {name: finish(client) for name, client in others.items()}
    for name, row in rows.items():
        print(f"  {name:8} {row['offered_per_s']:7.0f}/s {_say(row)}", flush=True)
    return rows


def _medians(turns: list[dict[str, dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    found = {}
    for name in turns[0]:
        rows = [turn[name] for turn in turns]
        shown: dict[str, Any] = {}
        for key in SHOWN:
            values = [row[key] for row in rows if row[key] is not None]
            shown[key] = round(median(values), 2) if values else None
        answers: dict[str, int] = {}
        for row in rows:
            for what, count in row["answers"].items():
                answers[what] = answers.get(what, 0) + count
        found[name] = shown | {"answers": answers}
    return found


def _lost(row: dict[str, Any]) -> int:
    """Count what was neither answered nor refused, and refusals that do not say when to come again."""
    answers = row["answers"]
    lost = sum(answers.get(what, 0) for what in ("timed out", "closed", "not sent"))
    return int(lost + row.get("without_retry_after", 0))


def _say(row: dict[str, Any]) -> str:
    times = [f"{row[key]:.0f}" if row[key] is not None else "–" for key in SHOWN]
    return (
        f"answered {times[0]:>5}/s p50 {times[1]:>5} ms p99 {times[2]:>5} ms, refused {times[3]:>5}/s"
        f" p50 {times[4]:>4} ms p99 {times[5]:>4} ms   {row['answers']}"
    )


def measure_stream(clients: Clients, arguments: argparse.Namespace) -> dict[str, Any]:
    """Find what one WebSocket connection carries, then drive it below and far beyond, beside a quiet one."""
    capacity_per_s = find_capacity(
        "stream",
        4 * FIRST_RATE_PER_S,
        lambda rate: run_streams(clients.port, [StreamLoad(clients.tokens[0], rate)], STEP_S, PLACE)[0],
    )
    turns: dict[float, list[dict[str, dict[str, Any]]]] = {load: [] for load in LOADS}
    for _ in range(arguments.turns):
        for load in LOADS:
            loads = [StreamLoad(clients.tokens[0], capacity_per_s * load), StreamLoad(clients.tokens[1], QUIET_PER_S)]
            flood, quiet = run_streams(clients.port, loads, arguments.seconds, PLACE)
            turns[load].append({"flood": flood, "quiet": quiet})
            for name, row in turns[load][-1].items():
                print(f"  {name:8} {row['offered_per_s']:7.0f}/s {_say(row)}", flush=True)
    return {
        "capacity_per_s": round(capacity_per_s, 1),
        **{f"at_{load:g}": _medians(turns[load]) for load in LOADS},
        "lost": sum(_lost(row) for rows in turns.values() for turn in rows for row in turn.values()),
    }


def _arguments() -> argparse.Namespace:
    parser = arguments_parser(__doc__)
    parser.add_argument("--parts", default=",".join(PARTS), help="which parts, separated by commas")
    parser.add_argument(
        "--seconds", type=float, default=8.0, help="length of each turn; its first second is not counted"
    )
    parser.add_argument("--turns", type=int, default=3, help="turns of each load")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
