"""What streams cost: many WebSocket clients, how much reaches them, how late, and what each of them takes.

An engine is started as a user would start it; a local client trades on it at a steady rate, and other processes are the
WebSocket clients (``perf.stream_clients``). Parts:

fan-out    clients that listen to the book and the trades of one symbol; each step of the load makes one change of the
           book and one trade. Delivered messages per second are what the clients parsed; what was merged counts not.
idle       memory of the front per client that listens and hears nothing, and processor time for a hundred of them.
orders     orders placed over one connection, so many on their way at a time.
stalled    the fan-out beside one client that stops reading, against the same without it.
fronts     the most that two fronts deliver, against one; it says something only where there are cores for it.

``python -m perf.streams [--parts …]``; its last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from perf.engine import Engine, arguments_parser, filesystem, fund_traders, machine, running_engine
from perf.figures import percentile
from perf.picture import draw
from perf.stream_clients import Client
from perf.traffic import CYCLE, Traffic

from tradeengine.cli.database import connect
from tradeengine.ipc.client import ask, open_client
from tradeengine.ipc.wiring import Wiring

SYMBOL: Final = "BTC/USDT"
CHANNELS: Final = [f"book:{SYMBOL}", f"trades:{SYMBOL}"]
MESSAGES_PER_STEP: Final = 2
PARTS: Final = ("fan-out", "idle", "orders", "stalled", "fronts")
SETTINGS: Final = {
    "STREAMS_CONNECTIONS_PER_ADDRESS_MAX": 10_000,
    "STREAMS_CONNECTIONS_MAX": 10_000,
    "STREAMS_CONNECTIONS_PER_USER_MAX": 1000,
    "STREAMS_MESSAGES_PER_S_MAX": 1_000_000,
    "LIMITS_OPEN_ORDERS_MAX": 200_000,
    "LOG_LEVEL": "warning",
}
GOALS: Final = {"delivered_per_s": 20_000, "clients": 1000, "half_load_p99_ms": 50.0, "idle_client_kib": 50.0}
PLACER: Final = "perf-placer"
"""The user who places orders over a connection; the others trade on the ring."""
CROWD_PROCESSES: Final = 2
PERCENTILES: Final = (50, 90, 99, 99.9)
WINDOW: Final = 64
"""Orders on their way over the one connection."""


@dataclass(frozen=True)
class Stage:
    """An engine, a way to trade on it, and where its fronts listen."""

    engine: Engine
    trader: Trader
    port: int


def main() -> int:
    """Run the parts that were asked for."""
    arguments = _arguments()
    print(f"machine    {machine()}; journal on {filesystem(arguments.dir)}")
    figures: dict[str, Any] = {"machine": machine(), "clients": arguments.clients}
    parts = arguments.parts.split(",")
    with stage(arguments.dir, fronts=1) as here:
        if "idle" in parts:
            figures |= idle(here, arguments)
        if "orders" in parts:
            figures |= orders(here, arguments.seconds)
        if "fan-out" in parts:
            figures |= fan_out(here, arguments)
        if "stalled" in parts:
            figures |= stalled(here, arguments)
    if "fronts" in parts:
        figures["most_delivered_per_s"] = {}
        for fronts in (1, 2):
            with stage(arguments.dir, fronts=fronts) as here:
                figures["most_delivered_per_s"][fronts] = most(here, arguments)
    print(json.dumps(figures))
    return 0


@contextmanager
def stage(parent: Path, *, fronts: int) -> Iterator[Stage]:
    """Start an engine with funded accounts."""
    with running_engine(parent, SETTINGS | {"ENGINE_FRONTS": fronts}) as engine:
        settings = engine.settings()
        with connect(settings) as connection, open_client(engine.data_dir) as wiring:
            names = [PLACER, *(f"perf-{number}" for number in range(8))]
            symbol, (_, *accounts) = fund_traders(connection, SYMBOL, names, settings.limits.accounts_max)
            middle_ticks = symbol.parse_price("50000.00")
            traffic = Traffic(symbol, middle_ticks, accounts, wiring.ingress_number, "s", 1)
            yield Stage(engine, Trader(wiring, traffic), engine.port)


class Trader:
    """Sends ten commands per step: one trade, and orders that rest or are cancelled."""

    def __init__(self, wiring: Wiring, traffic: Traffic) -> None:
        self._traffic = traffic
        self._writer = wiring.ring_writer(wiring.ingress_name)
        self._first = self._writer.head
        self._sent = 0

    def trade(self, steps_per_s: float, seconds: float) -> int:
        """Trade at a steady rate; returns how many steps that were."""
        steps, started_s = int(steps_per_s * seconds), time.perf_counter()
        for step in range(steps):
            commands = self._traffic.commands(np.arange(self._sent, self._sent + CYCLE), None)
            commands["ingress_sequence"] = self._first + self._sent + np.arange(CYCLE)
            commands["timestamp_ns"] = time.time_ns()
            self._writer.publish(commands)
            self._sent += CYCLE
            pause_s = started_s + (step + 1) / steps_per_s - time.perf_counter()
            if pause_s > 0:
                time.sleep(pause_s)
        return steps


class Crowd:
    """Clients in processes of their own, so that a message's last reader does not wait for all others to be read."""

    def __init__(
        self, port: int, count: int, *, path: str = "/ws/stream", subscribe: Any = None, silent: int = 0
    ) -> None:
        shares = [count // CROWD_PROCESSES, count - count // CROWD_PROCESSES * (CROWD_PROCESSES - 1)]
        self._processes = []
        for number, share in enumerate([shares[0]] * (CROWD_PROCESSES - 1) + [shares[1]]):
            stalled = 0 if number else silent
            wanted = {"port": port, "count": share + stalled, "path": path, "subscribe": subscribe, "stalled": stalled}
            self._processes.append(
                subprocess.Popen(
                    [sys.executable, "-m", "perf.stream_clients", json.dumps(wanted)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
        for process in self._processes:
            assert process.stdout is not None
            if process.stdout.readline().strip() != "ready":
                raise RuntimeError("the clients could not connect; what they said is above")

    def begin(self) -> None:
        """Forget what was counted."""
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.write("begin\n")
            process.stdin.flush()

    def end(self) -> Counted:
        """Disconnect; returns what all of them counted."""
        counts: Counter[str] = Counter()
        latencies_ms: Counter[int] = Counter()
        for process in self._processes:
            output, _ = process.communicate()
            counted = json.loads(output.splitlines()[-1])
            counts.update(counted["counts"])
            latencies_ms.update({int(latency): count for latency, count in counted["latencies_ms"].items()})
        return Counted(counts, latencies_ms)


@dataclass(frozen=True)
class Counted:
    """Messages by type, and how many were so many milliseconds late."""

    counts: Counter[str]
    latencies_ms: Counter[int]

    def percentiles(self) -> dict[str, int]:
        """Give the latency's percentiles, in milliseconds."""
        if not self.latencies_ms:
            return {}
        return {f"p{percent:g}": percentile(self.latencies_ms, percent) for percent in PERCENTILES}


def fan_out(here: Stage, arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure steps of load, each with the same clients."""
    rows = [_step(here, arguments.clients, load, arguments.seconds) for load in arguments.loads]
    few = _step(here, 100, 1000, arguments.seconds)
    if arguments.picture:
        shown = [row for row in rows if row["latency_ms"]]
        draw(
            arguments.picture,
            f"Streams: latency against load, {arguments.clients} clients, one front",
            ("messages delivered per second, all clients together", "milliseconds from the command to the client"),
            [row["delivered_per_s"] for row in shown],
            {name: [row["latency_ms"][name] for row in shown] for name in ("p50", "p99", "p99.9")},
        )
    half = next((row for row in rows if row["wanted_per_s"] == GOALS["delivered_per_s"] // 2), rows[0])
    return {"fan_out": rows, "floor": few, "half_load_p99_ms": half["latency_ms"]["p99"]}


def _step(here: Stage, clients: int, wanted_per_s: float, seconds: float, *, silent: int = 0) -> dict[str, Any]:
    """Deliver so many messages per second to so many clients for a while."""
    steps_per_s = wanted_per_s / clients / MESSAGES_PER_STEP
    crowd = Crowd(here.port, clients, subscribe={"channels": CHANNELS}, silent=silent)
    here.trader.trade(steps_per_s, 1.0)
    time.sleep(0.3)
    crowd.begin()
    before, started_s = here.engine.processor_s(), time.perf_counter()
    steps = here.trader.trade(steps_per_s, seconds)
    elapsed_s = time.perf_counter() - started_s
    after = here.engine.processor_s()
    time.sleep(0.5)
    counted = crowd.end()
    counts = counted.counts
    delivered = counts.get("trade_executed", 0) + counts.get("orderbook_update", 0)
    row = {
        "clients": clients,
        "wanted_per_s": wanted_per_s,
        "delivered_per_s": round(delivered / elapsed_s),
        "trades_missing": steps * clients - counts.get("trade_executed", 0),
        "updates_merged": steps * clients - counts.get("orderbook_update", 0),
        "latency_ms": counted.percentiles(),
        "processor": {
            name: round((after[name] - before[name]) / elapsed_s, 2)
            for name in after
            if name.startswith(("front", "publisher"))
        },
    }
    others = {
        name: count for name, count in counts.items() if name.startswith(("closed", "ended", "error", "trades_g"))
    }
    print(f"fan-out    {row} {others or ''}", flush=True)
    return row


def idle(here: Stage, arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure what clients cost that listen and hear nothing."""
    pid = next(actor["pid"] for actor in ask(here.engine.data_dir, "status")["actors"] if actor["name"] == "front-0")
    quiet = {"channels": ["trades:ETH/BTC"]}
    Crowd(here.port, 10, subscribe=quiet).end()
    time.sleep(1)
    empty_kib, empty_share = _memory_kib(pid), _share(here.engine, arguments.seconds)
    crowd = Crowd(here.port, 100, subscribe=quiet)
    hundred_share = _share(here.engine, arguments.seconds)
    crowd.end()
    crowd = Crowd(here.port, arguments.clients, subscribe=quiet)
    time.sleep(1)
    each_kib = (_memory_kib(pid) - empty_kib) / arguments.clients
    crowd.end()
    figures = {
        "idle_client_kib": round(each_kib, 1),
        "idle_hundred_processor": round(hundred_share - empty_share, 4),
        "idle_front_processor": round(empty_share, 4),
    }
    print(f"idle       {figures}", flush=True)
    return figures


def orders(here: Stage, seconds: float) -> dict[str, Any]:
    """Place orders over one connection and count the answers."""
    client = Placer(here.port)
    client.send({"op": "auth", "id": "a", "access_token": here.engine.token(PLACER)})
    client.wait_for(1)
    place = {"op": "place", "symbol": SYMBOL, "side": "buy", "type": "limit", "quantity": "0.001"}
    started_s, sent = time.perf_counter(), 0
    while time.perf_counter() - started_s < seconds:
        while sent - client.answered + 1 < WINDOW:
            client.send(place | {"id": sent, "price": f"{40_000 + sent % 1000}.00"})
            sent += 1
        client.wait_for(client.answered + 1)
    client.wait_for(sent + 1)
    elapsed_s = time.perf_counter() - started_s
    refused = client.counts.get("error", 0)
    figures = {"orders_per_s": round(sent / elapsed_s), "orders_refused": refused}
    print(f"orders     {figures}, {WINDOW} on their way", flush=True)
    return figures


class Placer(Client):
    """A connection that counts answers."""

    def __init__(self, port: int) -> None:
        super().__init__(port, "/ws/stream", {}, [])

    @property
    def answered(self) -> int:
        """Answers so far."""
        return self.counts.get("ack", 0) + self.counts.get("error", 0)

    def wait_for(self, count: int) -> None:
        """Return when so many answers have come."""
        while self.answered < count:
            if not self.receive():
                raise ConnectionError("the server closed the connection")


def stalled(here: Stage, arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure the others beside a client that stops reading, in turns with the same without it."""
    rows: dict[int, list[float]] = {0: [], 1: []}
    for _ in range(arguments.runs):
        for silent in (0, 1):
            row = _step(here, 100, 10_000, arguments.seconds, silent=silent)
            rows[silent].append(row["latency_ms"]["p99"])
    return {"others_p99_ms": {"without": rows[0], "beside one that stalls": rows[1]}}


def most(here: Stage, arguments: argparse.Namespace) -> int:
    """Find the most that is delivered, by doubling the load until it is not followed."""
    best, load = 0, 20_000.0
    while load <= 640_000:
        row = _step(here, arguments.clients // 2, load, arguments.seconds)
        best = max(best, row["delivered_per_s"])
        if row["delivered_per_s"] < 0.9 * load or row["latency_ms"]["p99"] > 1000:
            break
        load *= 2
    return best


def _share(engine: Engine, seconds: float) -> float:
    """Give the front's share of a core over a while."""
    before = engine.processor_s()["front-0"]
    time.sleep(seconds)
    return (engine.processor_s()["front-0"] - before) / seconds


def _memory_kib(pid: int) -> int:
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return next(int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:"))


def _arguments() -> argparse.Namespace:
    parser = arguments_parser(__doc__)
    parser.add_argument("--parts", default=",".join(PARTS), help="which parts, separated by commas")
    parser.add_argument("--clients", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=8.0, help="length of each step")
    parser.add_argument("--picture", type=Path, help="where the fan-out's picture goes (SVG)")
    parser.add_argument("--runs", type=int, default=3, help="turns of the stalled part")
    parser.add_argument(
        "--loads",
        type=lambda text: [float(part) for part in text.split(",")],
        default=[2000, 5000, 10_000, 20_000, 40_000, 80_000],
        help="delivered messages per second of the fan-out's steps",
    )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
