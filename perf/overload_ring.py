"""A local client's commands at a pace, below and far beyond what settlement carries, for ``perf.overload``.

What is beyond is refused by risk (``SETTLEMENT_BACKLOG``, ``ENGINE_OVERLOADED``), or finds no room in the ring: then
the client holds it back, and counts it. A latency is from the time when a command was due.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Final

import numpy as np
from perf.engine import running_engine
from perf.load import Load, owners, settle, sustained
from perf.overload_client import LEAD_S
from perf.traffic import CYCLE, Indices

from tradeengine.cli.database import connect
from tradeengine.core.records import EventKind, Reason, byte, event_dtype
from tradeengine.ipc.client import open_client

SETTINGS: Final = {"LOG_LEVEL": "error", "LIMITS_OPEN_ORDERS_MAX": 200_000}
CAPACITY_S: Final = 10.0
BACKLOG: Final = 30_000
LOADS: Final = (0.9, 2.0)
PATIENCE_S: Final = 30.0


class Paced(Load):
    """A client that knows which of its commands were refused."""

    refused_index: list[Indices]

    def hear(self) -> Indices:
        """Take what events there are; refusals are looked at before they are counted."""
        for reader in self.readers:
            position = reader.cursor
            events = reader.poll_matching(byte(event_dtype, "ingress_ring"), self._ring) if reader.available() else None
            if events is not None:
                self.refused_index.append(
                    (events["ingress_sequence"] - self.first_sequence)[events["kind"] == EventKind.REFUSED]
                )
            reader.seek(position)
        return super().hear()


def measure_ring(parent: Path, seconds: float, turns: int) -> dict[str, Any]:
    """Find what is carried, then drive it below and far beyond, in turns."""
    with (
        running_engine(parent, SETTINGS) as engine,
        connect(engine.settings()) as connection,
        open_client(engine.data_dir) as wiring,
    ):
        load = Paced.prepared(connection, wiring, owners("overload"), "o")
        load.refused_index = []
        capacity_per_s = sustained(load, CAPACITY_S, BACKLOG)["commands_per_s"]
        rows: dict[float, list[dict[str, Any]]] = {times: [] for times in LOADS}
        for _ in range(turns):
            for times in LOADS:
                rows[times].append(drive(load, capacity_per_s * times, seconds))
                print(f"ring       {capacity_per_s * times:7.0f}/s {rows[times][-1]}", flush=True)
                settle(load)
    figures: dict[str, Any] = {"capacity_per_s": round(capacity_per_s), "lost": 0}
    return figures | {f"at_{times:g}": rows[times] for times in LOADS}


def drive(load: Paced, rate_per_s: float, seconds: float) -> dict[str, Any]:
    """Send each command at its own time, if the ring has room for it, and wait for all answers."""
    first, refused_before = load.sent, dict(load.refused)
    load.refused_index.clear()
    due_s, sent_at = [], 0
    ended: list[tuple[float, Indices]] = []
    held_back = 0
    started_s = time.perf_counter()
    while (now_s := time.perf_counter() - started_s) < seconds or load.answered < load.sent:
        if now_s > seconds + PATIENCE_S:
            raise TimeoutError(f"{load.sent - load.answered} commands have no answer")
        due = int(min(now_s, seconds) * rate_per_s) - sent_at
        room = min(load.writer.free(), due) // CYCLE * CYCLE
        if room:
            load.send(load.make(room, cancelling=True))
            due_s.append(np.arange(sent_at, sent_at + room) / rate_per_s)
            sent_at += room
        if due - room >= CYCLE:
            # Who cannot write now does without these: they count as refused by the ring.
            held_back += due - room
            sent_at += due - room
        done = load.hear()
        if len(done):
            ended.append((time.perf_counter() - started_s, done - first))
        elif not room:
            time.sleep(0.0002)
    return _summary(load, np.concatenate(due_s), ended, first, held_back, refused_before, seconds)


def _summary(
    load: Paced,
    due_s: np.ndarray[Any, np.dtype[np.float64]],
    ended: list[tuple[float, Indices]],
    first: int,
    held_back: int,
    refused_before: dict[int, int],
    seconds: float,
) -> dict[str, Any]:
    latencies_s = np.zeros(len(due_s))
    for at_s, index in ended:
        latencies_s[index] = at_s - due_s[index]
    is_refused = np.zeros(len(due_s), bool)
    is_refused[np.concatenate([np.zeros(0, np.int64), *load.refused_index]) - first] = True
    counted = due_s >= LEAD_S
    figures: dict[str, Any] = {"held_back_per_s": round(held_back / seconds)}
    for kind, which in (("answered", counted & ~is_refused), ("refused", counted & is_refused)):
        figures[f"{kind}_per_s"] = round(np.count_nonzero(which) / (seconds - LEAD_S))
        if which.any():
            p50, p99 = np.percentile(latencies_s[which] * 1000, (50, 99)).tolist()
            figures |= {f"{kind}_p50_ms": round(p50, 2), f"{kind}_p99_ms": round(p99, 2)}
    reasons = {
        Reason(reason).name: count - refused_before.get(reason, 0)
        for reason, count in load.refused.items()
        if count > refused_before.get(reason, 0)
    }
    return figures | {"refused": reasons}
