"""What a transfer to the wallet costs: the reference service and the engine's client for it, without an engine.

A service is started as a user would start it, with a database of its own in a fresh directory; the load is the client
that the engine uses, in this process, with so many transfers of five legs in flight between ten users and the exchange:

- ``transfers``: whole transfers, ten at once: transfers per second, and how long one takes;
- ``single``: one at a time;
- ``legs``: leg by leg, ten at once.

``python -m perf.wallet_service [--seconds N]``; its last line is one JSON object.
"""

from __future__ import annotations

import itertools
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
import trio
from perf.engine import PROGRAM, arguments_parser, filesystem, machine, private_folder
from perf.figures import goals_met

from tradeengine.actors.data_dir import read_secret
from tradeengine.wallet.http import HttpWallet, open_http
from tradeengine.wallet.legs import LegsWallet
from tradeengine.wallet.port import Direction, Holding, Leg, Progress, Transfer, Wallet

USERS: Final = 10
GOALS: Final = {"transfers_per_s": 500.0, "transfers_p99_ms": 100.0}
IN_FLIGHT: Final = 10


def main() -> int:
    """Run all phases and print what they say."""
    parser = arguments_parser(__doc__)
    parser.add_argument("--seconds", type=float, default=10.0, help="length of each phase")
    arguments = parser.parse_args()
    with private_folder(arguments.dir) as folder, running_service(folder / "data") as (url, secret):
        print(f"machine    {machine()}")
        print(f"topology   1 service, embedded PostgreSQL on {filesystem(folder)}; the client in this process")
        figures = trio.run(measure, url, secret, arguments.seconds)
    print(json.dumps({**figures, "machine": machine(), "goals_met": goals_met(figures, GOALS)}))
    return 0


async def measure(url: str, secret: str, seconds: float) -> dict[str, Any]:
    """Run the phases; print each, return the figures."""
    figures: dict[str, Any] = {}
    async with open_http(url, secret, timeout_s=20.0, connections_max=IN_FLIGHT) as wallet:
        await fund(wallet)
        ids = itertools.count()
        await run_phase(wallet, ids, 2.0, IN_FLIGHT)
        for name, asked, in_flight in (
            ("transfers", wallet, IN_FLIGHT),
            ("single", wallet, 1),
            ("legs", LegsWallet(wallet), IN_FLIGHT),
        ):
            took_s, busy_s = await run_phase(asked, ids, seconds, in_flight)
            per_s = len(took_s) / seconds
            p50, p99 = (float(np.percentile(took_s, q)) * 1000 for q in (50, 99))
            print(
                f"{name:10} {in_flight:2} in flight {per_s:7.1f}/s   p50 {p50:.1f} ms   p99 {p99:.1f}   "
                f"client {busy_s / len(took_s) * 1000:.2f} ms of CPU each"
            )
            figures |= {f"{name}_per_s": per_s, f"{name}_p50_ms": p50, f"{name}_p99_ms": p99}
    return figures


async def run_phase(wallet: Wallet, ids: Iterator[int], seconds: float, in_flight: int) -> tuple[list[float], float]:
    """Make transfers for a while; returns how long each took, and the CPU time of this process, in seconds."""
    took_s: list[float] = []
    cpu_began_s = time.process_time()
    until_s = trio.current_time() + seconds

    async def work() -> None:
        while trio.current_time() < until_s:
            transfer = make_transfer(next(ids))
            began_s = time.perf_counter()
            await wallet.transfer(transfer, Progress())
            took_s.append(time.perf_counter() - began_s)

    async with trio.open_nursery() as nursery:
        for _ in range(in_flight):
            nursery.start_soon(work)
    return took_s, time.process_time() - cpu_began_s


def make_transfer(number: int) -> Transfer:
    """Give the transfer of a trade between two of the users."""
    buyer, seller = f"user-{number % USERS}", f"user-{(number * 7 + 3) % USERS}"
    legs = (
        Leg(buyer, "USDT", "50.025", Direction.DEBIT),
        Leg(buyer, "BTC", "0.001", Direction.CREDIT),
        Leg(seller, "BTC", "0.001", Direction.DEBIT),
        Leg(seller, "USDT", "49.95", Direction.CREDIT),
        Leg("exchange", "USDT", "0.075", Direction.CREDIT),
    )
    return Transfer(str(number), legs)


async def fund(wallet: HttpWallet) -> None:
    """Give every user more than they will spend."""
    for user, asset in itertools.product((f"user-{number}" for number in range(USERS)), ("USDT", "BTC")):
        await wallet.deposit(f"{user} {asset}", user, asset, "1000000000")
        await wallet.reserve(Holding(f"{user} {asset}", user, asset, "1000000000"))


@contextmanager
def running_service(data_dir: Path) -> Iterator[tuple[str, str]]:
    """Run a service; gives its URL and its secret."""
    process, url = start_service(data_dir)
    try:
        yield url, read_secret(data_dir / "wallet")
    finally:
        stop_service(process)


def start_service(data_dir: Path, port: int = 0) -> tuple[subprocess.Popen[str], str]:
    """Start a service; returns its process, and its URL once it is ready. port: 0 is any free one."""
    command = [*PROGRAM, "wallet", "--port", str(port), "--data-dir", str(data_dir)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line.startswith("ready "), line
    return process, line.split()[1].rstrip(";")


def stop_service(process: subprocess.Popen[str]) -> None:
    """Ask a service to stop, and wait for its end."""
    process.send_signal(signal.SIGTERM)
    process.wait(60)


if __name__ == "__main__":
    sys.exit(main())
