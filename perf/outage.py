"""PostgreSQL away under load: whether an order is refused or anything lost, and how soon settlement has caught up.

An engine with default settings, beside a PostgreSQL of its own that is stopped ``immediate``, as a power cut would, and
started again after a while. A local client sends orders at a steady rate all the time, four of ten of which take one
that rests; beside it somebody places, repeats and cancels over HTTP every second, what is oldest first. A repeat cannot
be looked up meanwhile: it is OUTCOME_UNKNOWN, to be repeated again.

The goals: 60 seconds away at 1,000 orders/s refuse nobody and are caught up with in 30; in longer outages new orders
are refused with ``SETTLEMENT_BACKLOG`` once the backlog is full, and cancels of live orders work all the while. At the
end PostgreSQL has every order that was accepted and none that was refused, and everything reconciles.
``python -m perf.outage [--seconds N] [--rate N]``; its last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx2
from perf.engine import Engine, arguments_parser, filesystem, fund_traders, machine, private_folder, running_engine
from perf.load import SYMBOL, Load, beside, owners
from perf.traffic import CYCLE

from tradeengine.cli.database import connect
from tradeengine.cli.reconcile import run_reconcile
from tradeengine.core.records import Reason
from tradeengine.ipc.client import open_client
from tradeengine.settings import Settings
from tradeengine.settings_files import load_settings
from tradeengine.storage.embedded import Embedded, open_embedded, start_embedded

BEFORE_S: Final = 5.0
AFTER_S_MAX: Final = 300.0
CAUGHT_UP_EVENTS: Final = 2_000
"""Settlement has caught up when it is no further behind than a second's events."""
GOAL_CAUGHT_UP_S: Final = 30.0
GOAL_NONE_REFUSED_S: Final = 60.0
CANCELS_KEPT: Final = 20
"""Orders of before the outage, beside one for each second of it, that are there to be cancelled."""
VISITOR: Final = "outage-visitor"
ORDER: Final = {"symbol": "ETH/USDT", "side": "buy", "type": "limit", "quantity": "0.01", "price": "1000"}
PAUSE_S: Final = 0.002


def main() -> int:
    """Run an outage; returns 0 when the goals are met."""
    arguments = _arguments()
    with (
        private_folder(arguments.dir) as folder,
        open_embedded(folder) as server,
        running_engine(arguments.dir, {"DATABASE_DSN": server.dsn, "LOG_LEVEL": "warning"}) as engine,
    ):
        print(f"machine    {machine()}")
        print(f"topology   1 shard, 1 front, PostgreSQL beside it, fdatasync on {filesystem(engine.data_dir)}")
        settings = load_settings(
            None, {"engine.data_dir": str(engine.data_dir), "database.dsn": server.dsn}, environ={}
        )
        figures = measure(engine, settings, server, folder, arguments)
    figures |= {"machine": machine(), "seconds_away": arguments.seconds, "rate_per_s": arguments.rate}
    figures["goals_met"] = not figures["faults"]
    print("\n".join(f"FAULT      {fault}" for fault in figures["faults"]) or "verdict    all goals are met")
    print(json.dumps(figures))
    return 0 if figures["goals_met"] else 1


@dataclass
class Visitor:
    """Somebody over HTTP: places, repeats that, and cancels something older, every second, and notes the answers."""

    http: httpx2.Client
    live: list[str] = field(default_factory=list)
    answers: dict[str, Counter[str]] = field(default_factory=dict)
    slowest_ms: dict[str, float] = field(default_factory=dict)
    phase: str = "before"

    def place(self, name: str) -> httpx2.Response:
        """Place an order of that name."""
        return self._call("POST", "/orders", json=ORDER | {"client_order_id": name})

    def round(self, number: int) -> None:
        """Do what is done every second."""
        if self.phase != "before":
            self._call("DELETE", f"/orders/{self.live.pop(0)}")
        placed = self.place(f"outage-{number}")
        if placed.status_code == 201:
            self._call("POST (repeat)", "/orders", json=ORDER | {"client_order_id": f"outage-{number}"})
            self.live.append(placed.json()["data"]["order"]["id"])

    def _call(self, what: str, path: str, **options: Any) -> httpx2.Response:
        began_s = time.perf_counter()
        answer = self.http.request(what.partition(" ")[0], path, **options)
        took_ms = (time.perf_counter() - began_s) * 1000
        code = str(answer.status_code)
        if not answer.is_success:
            code += f" {answer.json()['error']['code']}"
        self.answers.setdefault(f"{self.phase}: {what}", Counter())[code] += 1
        self.slowest_ms[self.phase] = round(max(took_ms, self.slowest_ms.get(self.phase, 0.0)), 1)
        return answer


def measure(
    engine: Engine, settings: Settings, server: Embedded, folder: Path, arguments: argparse.Namespace
) -> dict[str, Any]:
    """Load, take PostgreSQL away, bring it back, wait until all is settled, and compare."""
    with connect(settings) as connection, open_client(engine.data_dir) as wiring:
        names = owners("outage")
        load = Load.prepared(connection, wiring, names, "o")
        fund_traders(connection, SYMBOL, [VISITOR], settings.limits.accounts_max)
        visitor = Visitor(engine.client(VISITOR))
        visitor.live = [
            visitor.place(f"kept-{number}").json()["data"]["order"]["id"]
            for number in range(CANCELS_KEPT + int(arguments.seconds) + int(AFTER_S_MAX))
        ]
        connection.close()
        with beside(steady(load, arguments.rate)), beside(visits(visitor)):
            figures = outage(load, visitor, server, folder, arguments.seconds)
        load.hear_all()
        figures["drained_s"] = round(_wait(lambda: load.unsettled() == 0), 1)
    figures |= {
        "orders": load.sent,
        "refused": {Reason(reason).name: count for reason, count in load.refused.items()},
        "http": {name: dict(counts) for name, counts in visitor.answers.items()},
        "http_slowest_ms": visitor.slowest_ms,
    }
    figures["faults"] = [*compare(settings, load, names), *judge(figures, visitor, arguments)]
    for name, value in figures.items():
        print(f"{name:22} {value}")
    return figures


def outage(load: Load, visitor: Visitor, server: Embedded, folder: Path, seconds: float) -> dict[str, Any]:
    """Take PostgreSQL away for so long; returns what was seen until settlement has caught up."""
    time.sleep(BEFORE_S)
    sent, head = load.sent, load.readers[0].ring.head
    visitor.phase = "away"
    os.kill(server.pid, signal.SIGQUIT)  # ``immediate``: no checkpoint, no goodbye
    began_s = time.monotonic()
    full_s = 0.0
    while time.monotonic() - began_s < seconds:
        time.sleep(0.1)
        if load.refused and not full_s:
            full_s = time.monotonic() - began_s
    backlog = load.unsettled()
    events = (load.readers[0].ring.head - head) / (load.sent - sent - sum(load.refused.values()))
    start_embedded(folder)
    visitor.phase = "back"
    caught_up_s = _wait(lambda: load.unsettled() <= CAUGHT_UP_EVENTS)
    visitor.phase = "after"
    time.sleep(BEFORE_S)
    return {
        "backlog_events": backlog,
        "events_per_order": round(events, 2),
        "first_refused_after_s": round(full_s, 1) or None,
        "caught_up_s": round(caught_up_s, 1),
    }


def compare(settings: Settings, load: Load, names: list[str]) -> list[str]:
    """Look whether PostgreSQL has every order that was accepted, once, and whether all agree; returns what differs."""
    faults = []
    query = "SELECT count(*) FROM orders o JOIN accounts a ON a.id = o.account_id WHERE a.name = ANY(%s)"
    with connect(settings) as connection:
        row: Any = connection.execute(query, (names,)).fetchone()
    accepted = load.sent - sum(load.refused.values())
    if row[0] != accepted:
        faults.append(f"{accepted} orders were accepted, PostgreSQL has {row[0]}")
    if run_reconcile(settings, as_json=False):
        faults.append("the reconciliation found differences")
    return faults


def judge(figures: dict[str, Any], visitor: Visitor, arguments: argparse.Namespace) -> list[str]:
    """Say which goals were missed."""
    faults = []
    allowed = {"SETTLEMENT_BACKLOG"} if arguments.seconds > GOAL_NONE_REFUSED_S else set()
    if set(figures["refused"]) - allowed:
        faults.append(f"orders were refused: {figures['refused']}")
    for what, counts in visitor.answers.items():
        good = {"200", "201"} | {f"503 {reason}" for reason in allowed if "DELETE" not in what}
        if "repeat" in what:
            good.add("504 OUTCOME_UNKNOWN")
        if set(counts) - good:
            faults.append(f"{what} was answered {dict(counts)}")
    if arguments.seconds <= GOAL_NONE_REFUSED_S and figures["caught_up_s"] > GOAL_CAUGHT_UP_S:
        faults.append(f"settlement took {figures['caught_up_s']} s to catch up")
    return faults


def steady(load: Load, rate_per_s: int) -> Callable[[threading.Event], None]:
    """Send orders at that rate; whole tens, so that takers find makers."""

    def send(stop: threading.Event) -> None:
        started_s, first = time.monotonic(), load.sent
        while not stop.is_set():
            due = int((time.monotonic() - started_s) * rate_per_s) - (load.sent - first)
            if due >= CYCLE:
                load.send(load.make(min(due, load.writer.free()) // CYCLE * CYCLE))
            load.hear()
            time.sleep(PAUSE_S)

    return send


def visits(visitor: Visitor) -> Callable[[threading.Event], None]:
    """Let the visitor do its round every second."""

    def visit(stop: threading.Event) -> None:
        number = 0
        while not stop.wait(1.0):
            visitor.round(number)
            number += 1

    return visit


def _wait(is_so: Callable[[], bool]) -> float:
    """Wait until something is so; returns for how long. Raises TimeoutError."""
    began_s = time.monotonic()
    while not is_so():
        if time.monotonic() - began_s > AFTER_S_MAX:
            raise TimeoutError(f"it was not so after {AFTER_S_MAX:.0f} s")
        time.sleep(0.05)
    return time.monotonic() - began_s


def _arguments() -> argparse.Namespace:
    parser = arguments_parser(__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="how long PostgreSQL is away")
    parser.add_argument("--rate", type=int, default=1000, help="orders per second")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
