"""What the engine has in force of accounts' settings: the shared table ``accounts``, as a front reads it.

A setting is stored first and in force a moment later, when risk shows its version in the table. Whoever changed one
waits for that, so that no front acts by the old one after the change was answered.
It refuses to know what settings mean and who may change them.
"""

from __future__ import annotations

from typing import Final

import trio

from tradeengine.core.records import AccountFlag
from tradeengine.ipc.seqlock import SeqlockBusy, SeqlockTable
from tradeengine.web.admission import Pauses
from tradeengine.web.errors import ApiError, overloaded

_PAUSE_S: Final = 0.001
_PAUSE_S_MAX: Final = 0.02


class InForce:
    """The table of all accounts."""

    def __init__(self, table: SeqlockTable, timeout_s: float) -> None:
        """Read ``table``. timeout_s: how long a change may take to come into force before nobody waits any more."""
        self._table = table
        self._timeout_s = timeout_s
        self._is_written = False

    def keys_version(self, account_id: int) -> int:
        """How often keys of the account were revoked. Raises ApiError ENGINE_OVERLOADED, NOT_READY."""
        return self._read(account_id, "keys_version")

    def is_suspended(self, account_id: int) -> bool:
        """Whether the account may only cancel. Raises ApiError ENGINE_OVERLOADED, NOT_READY."""
        return bool(self._read(account_id, "flags") & AccountFlag.SUSPENDED)

    def latest(self) -> int:
        """Give the highest version of any account: who looks at many looks again when it has changed."""
        return self._read(0, "version")

    async def wait(self, account_id: int, version: int) -> None:
        """Return when a version of the account's settings, or a later one, is in force. Raises ApiError NOT_READY."""
        pauses = Pauses(_PAUSE_S, _PAUSE_S_MAX)
        with trio.move_on_after(self._timeout_s):
            while self._read(account_id, "version") < version:
                await pauses.take()
            return
        message = "The change is stored, but the engine has not taken it over yet; it will. Look again in a moment."
        raise ApiError("NOT_READY", message, {"version": version})

    def _read(self, account_id: int, field: str) -> int:
        if not self._is_written:
            # Before risk has recovered nothing is there, and nobody would be suspended.
            if self._table.version(0) == 0:
                raise ApiError("NOT_READY", "The engine is starting; try again in a moment.")
            self._is_written = True
        try:
            return int(self._table.read(account_id)[field])
        except SeqlockBusy:
            raise overloaded() from None
