"""Whether the engine's processes grow: resident memory of each actor while orders, cancels and trades go on.

One engine with the default rings and limits, one shard, one front. Two programs load it at fixed rates: one over a ring
of its own (eight of ten commands trade, one rests, one cancels such an order), one over HTTP (an order that rests, an
offer, the order that takes it, the cancel of the first; book and own orders are read in between). Meanwhile the control
socket says which process each actor is, and ``/proc`` how much of it is resident: *own* is memory that nobody shares
by design (the heap), *rings* is shared memory, counted in each process that has touched it.

The first figure is from before the load, the last from after settlement has everything. What is filled once (rings,
tables, the book's arrays, caches with a bound) grows in the first half only; what leaks grows in the second as well.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final

import httpx2
from perf.engine import DEFAULT_DIR, Engine, filesystem, fund_accounts, machine, running_engine
from perf.pipeline import ACCOUNTS, MIDDLE_PRICE, SYMBOL, Load, settle
from perf.traffic import CYCLE, Traffic

from tradeengine.actors.data_dir import read_secret
from tradeengine.cli.database import connect
from tradeengine.core.records import Reason
from tradeengine.ipc.client import ask, open_client
from tradeengine.settings_files import load_settings
from tradeengine.storage.directory import load_directory
from tradeengine.web.auth import issue_token

TAKERS: Final = 4
TURN_S: Final = 0.02
"""Between two batches over the ring."""
BACKLOG_MAX: Final = 50_000
"""Unsettled events at which the ring's load waits: an engine that refuses is not what is looked at."""
PER: Final = 100_000
USERS: Final = ("soak-maker", "soak-taker")
SETTINGS: Final = {"LOG_LEVEL": "warning", "REQUESTS_USER_PER_S": 1_000_000}


@dataclass(frozen=True)
class Sample:
    """One look at a process: KiB that are resident, and those of them that are its own or in shared memory."""

    pid: int
    rss: int
    own: int
    rings: int


Round = dict[str, Sample]


def main() -> int:
    """Run the soak; prints a line per actor, and one line of JSON at the end."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--rate", type=float, default=2_000.0, help="commands per second over the ring")
    parser.add_argument("--http-rate", type=float, default=50.0, help="requests per second over HTTP")
    parser.add_argument("--interval", type=float, default=1.0, help="seconds between two looks at the memory")
    parser.add_argument("--dir", type=Path, default=DEFAULT_DIR, help="where the data directory is made; a real disk")
    arguments = parser.parse_args()
    with running_engine(arguments.dir, SETTINGS) as engine:
        print(f"machine    {machine()}")
        print(f"topology   1 shard, 1 front, embedded PostgreSQL, fdatasync on {filesystem(engine.data_dir)}; 2 loads")
        figures = soak(engine, arguments)
    print(json.dumps({**figures, "machine": machine()}))
    return 0


def soak(engine: Engine, arguments: argparse.Namespace) -> dict[str, Any]:
    """Load and look; returns what was sent, and the growth of each actor."""
    names = fund(engine)
    rounds = [look(engine)]
    with ProcessPoolExecutor(2, get_context("spawn")) as programs:
        loads: tuple[Future[dict[str, int]], ...] = (
            programs.submit(load_ring, str(engine.data_dir), names, arguments.rate, arguments.seconds),
            programs.submit(load_http, str(engine.data_dir), engine.url, arguments.http_rate, arguments.seconds),
        )
        while not all(load.done() for load in loads):
            time.sleep(arguments.interval)
            rounds.append(look(engine))
    ring, http = (load.result() for load in loads)
    rounds.append(look(engine))
    commands = ring["commands"] + http["commands"]
    print(f"sent       {commands:,} commands: {ring} over the ring, {http} over HTTP")
    return {"seconds": arguments.seconds, "ring": ring, "http": http, "actors": say(rounds, commands)}


def say(rounds: list[Round], commands: int) -> dict[str, dict[str, float]]:
    """Print and return each actor's memory in MiB at the start, half way and at the end, and per 100,000 commands."""
    found = {}
    print(
        f"{'MiB':12} {'start':>7} {'half':>7} {'end':>7} {'growth':>7} {'own':>7} {'rings':>7} {'own, second half':>17}"
    )
    for name, first in rounds[0].items():
        # Of an actor that was started again only the new process is compared.
        own_rounds = [seen[name] for seen in rounds if name in seen]
        last = own_rounds[-1]
        own_rounds = [sample for sample in own_rounds if sample.pid == last.pid]
        first, half = own_rounds[0], own_rounds[len(own_rounds) // 2]
        figures = {
            "start": first.rss,
            "half": half.rss,
            "end": last.rss,
            "growth": last.rss - first.rss,
            "own_growth": last.own - first.own,
            "rings_growth": last.rings - first.rings,
            "own_growth_second_half": last.own - half.own,
        }
        found[name] = {key: round(kib / 1024, 2) for key, kib in figures.items()}
        print(f"{name:12} {' '.join(f'{value:7.1f}' for value in found[name].values())}", end="")
        # The second half had half of the commands.
        found[name]["growth_per_100k"] = round((last.rss - first.rss) / 1024 * PER / commands, 3)
        found[name]["own_growth_per_100k_second_half"] = round((last.own - half.own) / 1024 * PER / (commands / 2), 3)
        print(f"   per 100,000 commands: {found[name]['growth_per_100k']:.2f} MiB,", end="")
        print(f" own in the second half {found[name]['own_growth_per_100k_second_half']:.2f}")
    return found


def look(engine: Engine) -> Round:
    """Give the memory of the supervisor and of each actor that runs."""
    status = ask(engine.data_dir, "status")
    pids = {"supervisor": status["pid"]} | {actor["name"]: actor["pid"] for actor in status["actors"] if actor["pid"]}
    return {name: measure(pid) for name, pid in pids.items()}


def measure(pid: int) -> Sample:
    """Read what the kernel says of a process."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    kib = {name: int(value.split()[0]) for name, _, value in (line.partition(":") for line in lines) if "kB" in value}
    return Sample(pid, kib["VmRSS"], kib["RssAnon"], kib["RssShmem"])


def fund(engine: Engine) -> list[str]:
    """Give the ring's accounts and the users over HTTP money; returns the names of the former."""
    names = [f"soak-{number}" for number in range(ACCOUNTS)]
    settings = load_settings(None, {"engine.data_dir": str(engine.data_dir)})
    with connect(settings) as connection:
        row = load_directory(connection).symbol(SYMBOL)
        assert row is not None
        amounts = {row.spec.base: row.spec.base.parse("100000"), row.spec.quote: row.spec.quote.parse("100000000")}
        fund_accounts(connection, [*names, *USERS], amounts, settings.limits.accounts_max)
    return names


def load_ring(data_dir: str, names: list[str], rate_per_s: float, seconds: float) -> dict[str, int]:
    """Send commands over a ring at a rate, a batch at a time; less when settlement does not keep up."""
    settings = load_settings(None, {"engine.data_dir": data_dir})
    with connect(settings) as connection, open_client(Path(data_dir)) as wiring:
        row = load_directory(connection).symbol(SYMBOL)
        assert row is not None
        # They exist: nothing is added, the accounts' ids are read.
        accounts = fund_accounts(connection, names, {}, wiring.settings.limits.accounts_max)
        traffic = Traffic(row.spec, row.spec.parse_price(MIDDLE_PRICE), accounts, wiring.ingress_number, "s", TAKERS)
        load = Load(wiring, traffic, row.spec.shard)
        started_s = time.monotonic()
        while (now_s := time.monotonic() - started_s) < seconds:
            due = min(int(now_s * rate_per_s) - load.sent, load.writer.free(), CYCLE * int(rate_per_s * TURN_S))
            if due >= CYCLE and load.unsettled() < BACKLOG_MAX:
                load.send(load.make(due // CYCLE * CYCLE, cancelling=True))
            load.hear()
            time.sleep(TURN_S)
        load.hear_all()
        settle(load)
    refused = {Reason(reason).name: count for reason, count in load.refused.items()}
    return {"commands": load.sent, "trades": load.trades, **refused}


def load_http(data_dir: str, url: str, rate_per_s: float, seconds: float) -> dict[str, int]:
    """Place, trade, cancel and read over HTTP at a rate; returns how many of each."""
    secret = read_secret(Path(data_dir)).encode()
    maker, taker = (
        {"Authorization": f"Bearer {issue_token(secret, user, 'user', int(seconds) + 600)}"} for user in USERS
    )
    counts = {"commands": 0, "trades": 0, "cancels": 0, "reads": 0, "failures": 0}
    with httpx2.Client(base_url=f"{url}/api/v1", trust_env=False, timeout=30) as client:
        started_s, calls = time.monotonic(), 0

        def call(method: str, path: str, who: dict[str, str], order: dict[str, str] | None = None) -> Any:
            nonlocal calls
            time.sleep(max(started_s + calls / rate_per_s - time.monotonic(), 0))
            calls += 1
            answer = client.request(method, path, headers=who, json=order)
            counts["failures"] += not answer.is_success
            counts["commands"] += method != "GET"
            return answer.json()["data"] if answer.is_success else None

        while time.monotonic() - started_s < seconds:
            resting = call("POST", "/orders", maker, make_order("buy", "40000.00"))
            call("POST", "/orders", maker, make_order("sell", "50000.00"))
            counts["trades"] += bool(call("POST", "/orders", taker, make_order("buy", "50000.00")))
            call("GET", "/orders?limit=50", maker)
            call("GET", "/orderbook/BTC/USDT?depth=50", taker)
            counts["reads"] += 2
            if resting is not None:
                call("DELETE", f"/orders/{resting['order']['id']}", maker)
                counts["cancels"] += 1
    return counts


def make_order(side: str, price: str) -> dict[str, str]:
    """Make an order of the smallest kind."""
    return {"symbol": SYMBOL, "side": side, "type": "limit", "quantity": "0.001", "price": price}


if __name__ == "__main__":
    sys.exit(main())
