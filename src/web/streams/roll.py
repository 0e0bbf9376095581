"""The roll: which clients are connected to a front, in a table that every front can read.

Rule 1: it is brought up to date once a second, of so many rows at most: with very many clients it lags a few seconds.
Rule 2: a front that starts clears its rows; what a dead one left is known by its process id.
It refuses to know who asks, and what the clients are told.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

import numpy as np

from tradeengine.core.tables import CONNECTION_CHANNELS_BYTES_MAX, connection_dtype
from tradeengine.web.streams.channels import BALANCES, ORDERS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from tradeengine.ipc.seqlock import SeqlockTable
    from tradeengine.web.streams.session import Session

ROWS_PER_TURN: Final = 500
"""Of a turn's work others are held up: these take about two milliseconds."""


class Roll:
    """One front's rows."""

    def __init__(self, table: SeqlockTable) -> None:
        """table: this front's own ``connections``."""
        self._table = table
        self._rows: dict[Session, int] = {}
        self._ids: dict[Session, int] = {}
        self._free = list(range(table.rows - 1, -1, -1))
        self._last_id = 0
        self._pid = os.getpid()
        self._shown_count = 0
        for row in range(table.rows):
            if table.version(row):  # never written: nothing to clear, and no memory to take
                table.write_rows((row,), np.zeros(1, connection_dtype))

    def show(self, sessions: set[Session]) -> None:
        """Bring the rows up to date: of who has gone at once, of the others in turns."""
        gone = [session for session in self._rows if session not in sessions]
        for session in gone:
            del self._ids[session]
        freed = [self._rows.pop(session) for session in gone]
        if freed:
            self._table.write_rows(freed, np.zeros(len(freed), connection_dtype))
            self._free += freed
        self._show(self._next_turn(sessions))

    def _next_turn(self, sessions: set[Session]) -> list[Session]:
        # In the order of their coming, so that their numbers are, too.
        new = sorted((session for session in sessions if session not in self._rows), key=lambda new: new.since_ns)
        if len(sessions) <= ROWS_PER_TURN:
            return [*new, *self._rows]
        new = new[:ROWS_PER_TURN]
        known = list(self._rows)
        start = self._shown_count % max(len(known), 1)
        turn = (known + known)[start : start + min(ROWS_PER_TURN - len(new), len(known))]
        self._shown_count = start + len(turn)
        return new + turn

    def _show(self, sessions: Iterable[Session]) -> None:
        rows, records = [], []
        for session in sessions:
            row = self._row_of(session)
            if row is not None:
                rows.append(row)
                records.append(self._record(session))
        if rows:
            self._table.write_rows(rows, np.array(records, connection_dtype))

    def _row_of(self, session: Session) -> int | None:
        """Find a client's row; a new one gets the next. None: it came while others that have gone still had theirs."""
        row = self._rows.get(session)
        if row is None and self._free:
            row = self._rows[session] = self._free.pop()
            # Never twice: of two who came in the same microsecond one is a little later.
            self._last_id = self._ids[session] = max(session.since_ns // 1000, self._last_id + 1)
        return row

    def _record(self, session: Session) -> tuple[int, int, int, int, int, int, int, bytes, bytes, bytes]:
        names = [ORDERS] * (session.orders is not None) + [BALANCES] * session.wants_balances
        names += session.channels.values()
        return (
            self._ids[session],
            self._pid,
            session.since_ns,
            session.waiting_bytes,
            session.sent_count,
            len(names),
            int(session.binary),
            session.caller.identity.name.encode() if session.caller is not None else b"",
            session.address.encode(),
            _as_many_as_fit(names),
        )


def _as_many_as_fit(names: list[str]) -> bytes:
    text = " ".join(names[:CONNECTION_CHANNELS_BYTES_MAX]).encode()
    return (
        text if len(text) <= CONNECTION_CHANNELS_BYTES_MAX else text[:CONNECTION_CHANNELS_BYTES_MAX].rpartition(b" ")[0]
    )


def read_roll(tables: Iterable[SeqlockTable], pids: Sequence[int]) -> list[tuple[int, np.void]]:
    """Copy the rows of all fronts' clients: front and row, newest first.

    tables: by front. pids: the fronts' processes; rows of earlier ones are left out. Raises SeqlockBusy.
    """
    found = [(front, record) for front, table in enumerate(tables) for record in _taken_rows(table, pids[front])]
    return sorted(found, key=lambda entry: (int(entry[1]["connection_id"]), entry[0]), reverse=True)


def _taken_rows(table: SeqlockTable, pid: int) -> Iterable[np.void]:
    # Rows that nobody ever wrote take no memory, and shall not begin to.
    rows = [row for row in range(table.rows) if table.version(row)]
    records = table.read_rows(rows)
    taken: Iterable[np.void] = records[(records["connection_id"] > 0) & (records["pid"] == pid)]
    return taken
