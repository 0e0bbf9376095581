"""One writer for all requests: what waits together is made in one transaction and shares its commit.

Every transfer touches the exchange's fee account, so transactions side by side would wait for each other's commit,
one after the other; together they wait once. A group is whatever came while the group before was on its way, so a
request alone never waits for company.
It refuses to know requests and answers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Final

import trio

from tradeengine.wallet_service.store import Entry, Made, make_entries
from tradeengine.web.database import Database
from tradeengine.web.errors import ApiError

GROUP_MAX: Final = 128
WAITING_MAX: Final = 4096
"""Requests that may wait; more are refused at once."""


@dataclass(slots=True, eq=False)
class _Waiting:
    entry: Entry
    done: trio.Event = field(default_factory=trio.Event)
    outcome: Made | Exception | None = None


class Writer:
    """Makes entries. ``run`` must be running."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._send, self._receive = trio.open_memory_channel[_Waiting](math.inf)

    async def make(self, entry: Entry) -> Made:
        """Make one entry; durable when this returns. Raises ApiError DATABASE_UNAVAILABLE, ENGINE_OVERLOADED."""
        if self._send.statistics().current_buffer_used >= WAITING_MAX:
            raise ApiError("ENGINE_OVERLOADED", "Too many requests wait for the database; try again.")
        waiting = _Waiting(entry)
        self._send.send_nowait(waiting)
        await waiting.done.wait()
        assert waiting.outcome is not None
        if isinstance(waiting.outcome, Exception):
            raise waiting.outcome
        return waiting.outcome

    async def run(self) -> None:
        """Make what is asked for, group after group, for ever."""
        while True:
            group = [await self._receive.receive()]
            while len(group) < GROUP_MAX:
                try:
                    group.append(self._receive.receive_nowait())
                except trio.WouldBlock:
                    break
            await self._make_group(group)

    async def _make_group(self, group: list[_Waiting]) -> None:
        try:
            outcomes = await self._database.run(make_entries, [waiting.entry for waiting in group])
        except Exception as error:
            if len(group) > 1 and not isinstance(error, ApiError):
                # The database refused all for the sake of one: nobody else shall suffer for it.
                for waiting in group:
                    await self._make_group([waiting])
                return
            for waiting in group:
                waiting.outcome = error
        else:
            for waiting, outcome in zip(group, outcomes, strict=True):
                waiting.outcome = outcome
        for waiting in group:
            waiting.done.set()
