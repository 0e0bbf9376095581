"""The soak's local client: commands over a ring of its own, fast until everything that fills has filled, then steadily.

Eight of ten commands trade, one rests, one cancels such an order. ``python -m perf.soak_ring '{"data_dir": …,
"rate_per_s": …, "warm_up_commands": …}'`` writes a line of JSON per interval as ``perf.soak_rest`` does, ``warm`` in it
once the warm-up is done, and ends when its input ends, after everything that it sent is settled.
"""

from __future__ import annotations

import json
import os
import select
import sys
import time
from collections import deque
from pathlib import Path
from typing import Any, Final

from perf.load import WINDOW, Load, owners, settle
from perf.soak_rest import INTERVAL_S, Tally
from perf.traffic import CYCLE

from tradeengine.cli.database import connect
from tradeengine.core.records import Reason
from tradeengine.ipc.client import open_client
from tradeengine.settings_files import load_settings

TURN_S: Final = 0.02
"""Between two batches."""
BACKLOG_MAX: Final = 20_000
"""Unsettled events at which the load waits: an engine that refuses is not what is looked at."""
PATIENCE_S: Final = 0.0005


def main() -> int:
    """Warm up, then send at the rate until the input ends."""
    wanted = json.loads(sys.argv[1])
    settings = load_settings(None, {"engine.data_dir": wanted["data_dir"]})
    with connect(settings) as connection, open_client(Path(wanted["data_dir"])) as wiring:
        sender = Sender(Load.prepared(connection, wiring, owners("soak"), "s"))
        sender.warm_up(wanted["warm_up_commands"])
        sender.send_steadily(wanted["rate_per_s"])
    return 0


class Sender:
    """Sends, hears and tells."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._tally = Tally()
        self._told_s = time.monotonic()
        self._told = {"commands": 0, "trades": 0}
        self._refused: dict[int, int] = {}

    def warm_up(self, commands: int) -> None:
        """Send as fast as settlement keeps up."""
        load = self._load
        while load.sent < commands and not _input_ended():
            room = min(load.writer.free(), WINDOW // 4 - (load.sent - load.answered), 2000)
            if load.unsettled() < BACKLOG_MAX and room >= CYCLE:
                load.send(load.make(room // CYCLE * CYCLE, cancelling=True))
            elif not len(load.hear()):
                time.sleep(PATIENCE_S)
            load.hear()
            self._tell_in_time()
        load.hear_all()
        settle(load)
        self._tally.counts["warm"] = 1
        self._tell()

    def send_steadily(self, rate_per_s: float) -> None:
        """Send a batch each turn; less when settlement does not keep up."""
        load, started_s, first = self._load, time.monotonic(), self._load.sent
        batches: deque[tuple[int, float]] = deque()
        while not _input_ended():
            now_s = time.monotonic()
            due = int((now_s - started_s) * rate_per_s) - (load.sent - first)
            due = min(due, load.writer.free(), CYCLE * (1 + int(rate_per_s * TURN_S)))
            if due >= CYCLE and load.unsettled() < BACKLOG_MAX:
                load.send(load.make(due // CYCLE * CYCLE, cancelling=True))
                batches.append((load.sent, time.perf_counter()))
            self._hear(batches)
            self._tell_in_time()
        load.hear_all()
        settle(load)
        self._tell()

    def _hear(self, batches: deque[tuple[int, float]]) -> None:
        """Spend a turn with hearing; a batch is answered when as many commands are as were sent with it."""
        load, end_s = self._load, time.perf_counter() + TURN_S
        while (left_s := end_s - time.perf_counter()) > 0:
            load.hear()
            while batches and batches[0][0] <= load.answered:
                self._tally.take("local", time.perf_counter() - batches.popleft()[1])
            time.sleep(min(left_s, PATIENCE_S) if batches else left_s)

    def _tell_in_time(self) -> None:
        if time.monotonic() - self._told_s >= INTERVAL_S:
            self._tell()

    def _tell(self) -> None:
        load, counts = self._load, self._tally.counts
        counts["commands"] += load.sent - self._told["commands"]
        counts["trades"] += load.trades - self._told["trades"]
        self._told = {"commands": load.sent, "trades": load.trades}
        for reason, count in load.refused.items():
            if count > self._refused.get(reason, 0):
                self._tally.object(f"over the ring {count} commands were refused: {Reason(reason).name}")
        self._refused = dict(load.refused)
        self._told_s = time.monotonic()
        self._tally.tell()


def _input_ended() -> bool:
    """Whether whoever started this program wants it to end."""
    readable: list[Any]
    readable, _, _ = select.select([0], [], [], 0)
    return bool(readable) and not os.read(0, 4096)


if __name__ == "__main__":
    sys.exit(main())
