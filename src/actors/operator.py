"""The operator: the supervisor as a party on the rings. It lists symbols and keeps the directory page.

A symbol is a row first (pending). The operator sends LIST_SYMBOL for it; the matcher confirms with an event, and
settlement turns the row to listed. Local clients and administrators list symbols in the same way on rings of their own;
the operator sees in the ``touch`` table that there is a new one and publishes its name.

Rule 1: the directory repeats the database; a version is published only when something changed.
It refuses to know processes.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import psycopg
import structlog
import trio

from tradeengine.actors.errors import StartError
from tradeengine.core.records import CommandKind, EventFlag, EventKind, Reason, byte, command_dtype, event_dtype
from tradeengine.ipc.directory import write_directory
from tradeengine.ipc.ring_reader import Lapped, RingWatch
from tradeengine.ipc.seqlock import SeqlockBusy
from tradeengine.storage.directory import Directory, SymbolRow, load_directory

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet

    from tradeengine.core.symbols import SymbolSpec
    from tradeengine.ipc.wiring import Wiring

LISTING_TIMEOUT_S: Final = 20.0
LOOK_INTERVAL_S: Final = 0.1
RELOAD_INTERVAL_S: Final = 0.5
"""The database may have changed without a new symbol: another name, other parameters."""

logger = structlog.get_logger()


class ListingRefusedError(StartError):
    """A pending symbol was not listed; the message says which and why."""


class Operator:
    """Lists symbols through a ring of its own and keeps the directory page."""

    def __init__(self, wiring: Wiring, directory: Directory, dsn: str) -> None:
        self._wiring = wiring
        self._dsn = dsn
        self._directory = directory
        self._version = 0
        self._metrics = wiring.metrics
        self._writer = wiring.ring_writer(wiring.ingress_name)
        self._readers = [wiring.ring_reader(name) for name in wiring.answer_rings]
        self._watch = RingWatch(self._readers)
        self._publish()

    def beat(self, memory_bytes: int) -> None:
        """Show that the supervisor lives, how many symbols are listed, and the size of all shared memory."""
        self._metrics.heartbeat()
        self._metrics.set(self._metrics.gauge("memory_bytes"), memory_bytes)
        listed = self._listed_rows()
        if listed >= 0:
            self._metrics.set(self._metrics.gauge("symbols_listed"), listed)

    async def list_pending(self, fenced: AbstractSet[int] = frozenset()) -> None:
        """List every symbol that is pending, and wait until the matchers confirm. Raises ListingRefusedError.

        fenced: shards whose symbols stay pending, until a start finds their matchers well.
        """
        pending = [row for row in self._directory.symbols.values() if not row.listed and row.spec.shard not in fenced]
        if not pending:
            return
        for reader in self._readers:
            reader.seek(reader.head)
        first = self._writer.head
        self._writer.publish(np.concatenate([self._list_command(row) for row in pending]))
        waiting = {first + place: row.spec for place, row in enumerate(pending)}
        with trio.move_on_after(LISTING_TIMEOUT_S):
            while waiting:
                await self._wiring.doorbell.wait_trio(self._wiring.settings.wait.timeout_ms / 1000, self._watch)
                self._take_answers(waiting)
        if waiting:
            names = ", ".join(spec.name for spec in waiting.values())
            raise ListingRefusedError(f"no answer to the listing of {names} within {LISTING_TIMEOUT_S:.0f} s")

    def _take_answers(self, waiting: dict[int, SymbolSpec]) -> None:
        number = self._wiring.ingress_number
        for reader in self._readers:
            try:
                events = reader.poll_matching(byte(event_dtype, "ingress_ring"), number)
            except Lapped as lapped:
                # Only other people's events can be so many; what we wait for comes again with the next look.
                logger.warning("operator was lapped", ring=reader.ring.name, lost=lapped.resume_at - lapped.first_lost)
                continue
            for event in events[events["flags"] & EventFlag.LAST_OF_COMMAND != 0]:
                spec = waiting.pop(int(event["ingress_sequence"]), None)
                if (
                    spec is not None
                    and event["kind"] != EventKind.SYMBOL_LISTED
                    and event["reason"] != Reason.SYMBOL_EXISTS
                ):
                    reason = Reason(int(event["reason"])).name
                    raise ListingRefusedError(f"symbol {spec.name} was not listed: {reason}")

    def _list_command(self, row: SymbolRow) -> np.ndarray[Any, np.dtype[np.void]]:
        command = row.spec.to_command(CommandKind.LIST_SYMBOL, row.trading_state)
        command["timestamp_ns"] = time.time_ns()
        command["ingress_ring"] = self._wiring.ingress_number
        return command.view(command_dtype)

    async def keep_directory(self) -> None:
        """Publish what changes, until cancelled."""
        listed = self._listed_rows()
        connection: psycopg.Connection[Any] | None = None
        try:
            loaded_s, told = 0.0, False
            while True:
                await trio.sleep(LOOK_INTERVAL_S)
                seen = self._listed_rows()
                if seen == listed and trio.current_time() - loaded_s < RELOAD_INTERVAL_S:
                    continue
                try:
                    if connection is None:
                        connection = await trio.to_thread.run_sync(self._connect)
                    directory = await trio.to_thread.run_sync(load_directory, connection)
                except psycopg.Error as error:
                    # The page stays as it was; whoever needs the database says so itself.
                    if not told:
                        logger.warning("directory cannot be read", error=str(error))
                    connection, told = None, True
                    await trio.sleep(RELOAD_INTERVAL_S)
                    continue
                listed, loaded_s, told = seen, trio.current_time(), False
                if directory != self._directory:
                    self._directory = directory
                    self._publish()
        finally:
            if connection is not None:
                connection.close()

    def _connect(self) -> psycopg.Connection[Any]:
        timeout_s = self._wiring.settings.database.connect_timeout_s
        return psycopg.connect(
            self._dsn, autocommit=True, connect_timeout=timeout_s, application_name="tradeengine-supervisor"
        )

    def _listed_rows(self) -> int:
        """Count the symbols that matchers know; -1 while a row is being written."""
        table = self._wiring.table("touch")
        try:
            return int(table.read_rows(range(table.rows))["listed"].sum())
        except SeqlockBusy:
            return -1

    def _publish(self) -> None:
        self._version += 1
        directory = self._directory
        specs = [row.spec for row in directory.symbols.values()]
        states = {symbol_id: row.trading for symbol_id, row in directory.symbols.items() if row.listed}
        write_directory(self._wiring.table("directory"), self._version, directory.assets.values(), specs, states)
