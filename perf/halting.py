"""How soon a halt takes effect while a local client fills its ring with orders: POST to event, and POST to answer.

The client writes orders as fast as risk takes them, four tenths of which trade, so that every ring between it and the
matcher is as full as it gets; settlement falls behind, until new orders are refused for that. Meanwhile the symbol is
halted and resumed over HTTP, again and again. A halt has taken effect when its event is published: no trade of the
symbol has a later place. The answer comes after that, and after the audit log's record is on the disk.

The effect is seen by a thread that looks each half millisecond; so much may be too much.
"""

from __future__ import annotations

import json
import multiprocessing
import statistics
import sys
import threading
import time
from pathlib import Path
from typing import Any, Final

import httpx2
import numpy as np
from perf.engine import Engine, arguments_parser, filesystem, fund_traders, machine, running_engine
from perf.load import MIDDLE_PRICE, SYMBOL, TAKERS, owners
from perf.traffic import CYCLE, Traffic

from tradeengine.cli.database import connect
from tradeengine.core.records import EventKind, TradingState, byte, event_dtype, trading_event_dtype
from tradeengine.ipc.client import LocalClient, open_client
from tradeengine.ipc.ring import RingFull
from tradeengine.ipc.ring_reader import Lapped
from tradeengine.settings_files import load_settings

BATCH: Final = 1024
PAUSE_S: Final = 0.15
"""Between a resume and the next halt: time for the rings to fill again."""
LOOK_S: Final = 0.0005
GOAL_MS: Final = 100.0
_KIND: Final = byte(event_dtype, "kind")


def main() -> int:
    """Run the benchmark; prints one line of JSON at the end."""
    parser = arguments_parser(__doc__)
    parser.add_argument("--halts", type=int, default=200)
    arguments = parser.parse_args()
    with running_engine(arguments.dir, {"LOG_LEVEL": "warning"}) as engine:
        print(f"machine    {machine()}")
        print(f"topology   1 shard, 1 front, embedded PostgreSQL, fdatasync on {filesystem(engine.data_dir)}; 1 client")
        figures = measure(engine, arguments.halts)
    figures |= {"machine": machine(), "goal_ms": GOAL_MS, "goal_met": figures["effect_p99_ms"] <= GOAL_MS}
    print(json.dumps(figures))
    return 0


def measure(engine: Engine, halts: int) -> dict[str, Any]:
    """Halt and resume under load; returns the figures."""
    context = multiprocessing.get_context("spawn")
    stop, sent = context.Event(), context.Value("q", 0)
    load = context.Process(target=fill, args=(str(engine.data_dir), stop, sent))
    load.start()
    watch = Watch(engine)
    answers_ms, effects_ms, queues = [], [], []
    try:
        while sent.value == 0 and load.is_alive():
            time.sleep(0.01)
        with engine.client("perf", "admin") as client:
            for _ in range(halts):
                time.sleep(PAUSE_S)
                queues.append(watch.queue())
                started_ns = time.time_ns()
                sequence = post(client, "halt")
                answers_ms.append((time.time_ns() - started_ns) / 1e6)
                effects_ms.append((watch.seen_ns(sequence) - started_ns) / 1e6)
                post(client, "resume")
    finally:
        stop.set()
        load.join()
        watch.close()
    figures = {
        "halts": halts,
        "commands_sent": sent.value,
        "queue_median": statistics.median(queues),
        "queue_max": max(queues),
    }
    for name, values in (("effect", effects_ms), ("answer", answers_ms)):
        low, high = np.percentile(values, [50, 99])
        figures |= {f"{name}_p50_ms": round(float(low), 2), f"{name}_p99_ms": round(float(high), 2)}
        print(f"{name:10} p50 {low:.2f} ms   p99 {high:.2f}   max {max(values):.2f}")
    print(f"queue      {figures['queue_median']:.0f} commands before the matcher at a halt, at most {max(queues)}")
    return figures


def post(client: httpx2.Client, change: str) -> int:
    """Set the symbol's state; returns the sequence of the event that did it."""
    answer = client.post(f"/admin/trading/{change}/{SYMBOL.replace('/', '-')}", json={"reason": "a benchmark"})
    answer.raise_for_status()
    return int(answer.json()["data"]["sequence"])


class Watch:
    """Sees when each event of a trading state is published, and how many commands wait for the matcher."""

    def __init__(self, engine: Engine) -> None:
        self._stop = threading.Event()
        self._seen: dict[int, int] = {}
        self._context = open_client(engine.data_dir)
        wiring = self._context.__enter__()
        self._reader = wiring.ring_reader("events.0")
        self._reader.seek(self._reader.head)
        self._metrics = engine.metrics
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def seen_ns(self, sequence: int) -> int:
        """Wait for an event that was answered; gives when it was first seen."""
        deadline_s = time.monotonic() + 10
        while sequence not in self._seen:
            assert time.monotonic() < deadline_s, f"event {sequence} was never seen"
            time.sleep(LOOK_S)
        return self._seen[sequence]

    def queue(self) -> int:
        """Count the commands that wait for the matcher."""
        metrics = self._metrics()
        waiting = [value for name, value in metrics.items() if "ring_lag" in name and 'ring="commands.0"' in name]
        return int(max(waiting, default=0))

    def close(self) -> None:
        """End the thread, and leave the engine."""
        self._stop.set()
        self._thread.join()
        self._context.__exit__(None, None, None)

    def _look(self) -> None:
        while not self._stop.is_set():
            try:
                events = self._reader.poll_matching(_KIND, int(EventKind.TRADING_STATE_SET))
            except Lapped:
                continue
            now_ns = time.time_ns()
            for event in events.view(trading_event_dtype):
                if event["trading_state"] == TradingState.HALTED:
                    self._seen[int(event["sequence"])] = now_ns
            if not len(events):
                time.sleep(LOOK_S)


def fill(data_dir: str, stop: Any, sent: Any) -> None:
    """Write orders as fast as there is room for them, whatever becomes of them."""
    settings = load_settings(None, {"engine.data_dir": data_dir})
    with connect(settings) as connection, open_client(Path(data_dir)) as wiring:
        symbol, accounts = fund_traders(connection, SYMBOL, owners("halting"), wiring.settings.limits.accounts_max)
        traffic = Traffic(symbol, symbol.parse_price(MIDDLE_PRICE), accounts, wiring.ingress_number, "h", TAKERS)
        line = LocalClient(wiring)
        count = 0
        while not stop.is_set():
            # Whole tens: each order of a taker finds its maker's.
            batch = traffic.commands(np.arange(count, count + BATCH // CYCLE * CYCLE), None)
            while not stop.is_set():
                try:
                    line.submit(batch)
                    break
                except RingFull:
                    time.sleep(0.0002)
            count += len(batch)
            sent.value = count


if __name__ == "__main__":
    sys.exit(main())
