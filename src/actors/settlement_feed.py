"""What settlement feeds to risk out of PostgreSQL: deposits and withdrawals, and the settings of accounts.

Both are rows first, in the order of numbers that commit in order, so that one number says what was fed. Deposits and
withdrawals go in once per life of this process: after a restart all that are pending go again, and risk passes over
those it knows. Settings are whole states: those above the version that risk has taken over go again.

Rule 1: as many as the ring has room for, never more; the rest waits for the next round.
Rule 2: PostgreSQL announces what is new. It is looked for now and then all the same: an announcement may be lost.
It refuses to know what risk makes of it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import psycopg
from numpy.typing import NDArray

from tradeengine.core.records import command_dtype
from tradeengine.ipc.crashpoints import crash_point
from tradeengine.storage.account_settings import pending_settings
from tradeengine.storage.funding import CHANNEL, count_pending, pending_commands

if TYPE_CHECKING:
    from tradeengine.ipc.ring import RingWriter

LOOK_S: Final = 1.0
"""New rows are looked for this often though none was announced."""
BATCH_MAX: Final = 1024

Connection = psycopg.Connection[Any]


class Feed:
    """One ring to risk, and how far each kind of row has been fed."""

    def __init__(
        self,
        ingress: RingWriter,
        ingress_number: int,
        settings_applied: Callable[[], int],
        show_pending: Callable[[int], None],
    ) -> None:
        """Begin with what risk does not have yet.

        ingress: the ring to risk, ``ingress_number`` its number. settings_applied: says the highest version of settings
        that risk has taken over. show_pending: told how many deposits and withdrawals have no outcome yet.
        """
        self._ingress = ingress
        self._ingress_number = ingress_number
        self._settings_applied = settings_applied
        self._show_pending = show_pending
        self._fed_number = 0
        self._fed_version = -1
        self.look_at_s = 0.0

    def begin(self, connection: Connection) -> None:
        """Listen for what is new on a connection, and look at once."""
        connection.add_notify_handler(self._hear)
        connection.execute(f"LISTEN {CHANNEL}")
        self.look_at_s = 0.0

    def __call__(self, connection: Connection) -> int:
        """Feed what is new; returns how many commands went in. Raises psycopg.Error."""
        # Raises when the server has closed the connection, which an idle engine would not notice otherwise.
        connection.pgconn.consume_input()
        while (notice := connection.pgconn.notifies()) is not None:
            self._hear(notice)
        now_s = time.monotonic()
        if now_s < self.look_at_s:
            return 0
        settings, no_more_settings = self._feed_settings(connection)
        fundings, no_more_fundings = self._feed_fundings(connection)
        # Perhaps there are more: look again at once.
        self.look_at_s = now_s + LOOK_S if no_more_settings and no_more_fundings else 0.0
        return settings + fundings

    def _feed_settings(self, connection: Connection) -> tuple[int, bool]:
        if self._fed_version < 0:
            self._fed_version = self._settings_applied()
        room = self._room()
        commands = pending_settings(connection, self._fed_version, room)
        if len(commands):
            self._publish(commands)
            self._fed_version = int(commands["version"][-1])
        return len(commands), len(commands) < room

    def _feed_fundings(self, connection: Connection) -> tuple[int, bool]:
        room = self._room()
        commands = pending_commands(connection, self._fed_number, room)
        self._show_pending(count_pending(connection))
        if len(commands):
            self._publish(commands)
            self._fed_number = int(commands["funding_number"][-1])
        return len(commands), len(commands) < room

    def _room(self) -> int:
        return min(self._ingress.free(), BATCH_MAX)

    def _publish(self, commands: NDArray[np.void]) -> None:
        commands["ingress_ring"] = self._ingress_number
        commands["ingress_sequence"] = self._ingress.head + np.arange(len(commands))
        commands["timestamp_ns"] = time.time_ns()
        crash_point("settlement.before_feed")
        self._ingress.publish(commands.view(command_dtype))
        crash_point("settlement.after_feed")

    def _hear(self, _notice: object) -> None:
        """Take note that something new was announced."""
        self.look_at_s = 0.0
