"""Transfers for a wallet that offers single debits and credits only: leg by leg, made whole or undone.

Debits come first, so that nobody is given what nobody had. Leg n of transfer T has the id ``T:n``; it takes effect
once, so a repeat after a failure of unknown outcome simply goes through all legs again. When a leg is refused, those
before it are undone, last one first, under ``T:n:undo``; then the transfer as a whole is refused.

Rule 1: that it is being undone is noted durably before the first leg is: after a crash in the middle, a repeat that
began again from the front would take the legs that are undone already for made.
Rule 2: what was undone whole may be tried anew: its legs then have the ids ``T:n:2``, ``T:n:3`` and so on.
Rule 3: undoing that is refused is STUCK: half of the transfer stands, and a repeat goes on undoing.
It refuses to know HTTP.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import msgspec

from tradeengine.wallet.port import (
    BalancePage,
    Direction,
    Holding,
    Leg,
    Progress,
    RefusalCode,
    Refused,
    Transfer,
    Wallet,
)


class SingleMoves(Wallet, Protocol):
    """A wallet with single debits and credits."""

    async def move(self, id_: str, leg: Leg) -> None:
        """Make one debit or credit, once per id and direction. Raises as the port says."""


class _Undoing(msgspec.Struct, frozen=True):
    """Which legs of an attempt must be undone, and why. made: how many, in the order in which they are made."""

    made: int
    code: RefusalCode
    message: str


class _Note(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is kept in ``Progress``."""

    attempt: int = 1
    undoing: _Undoing | None = None


class LegsWallet:
    """The port over single debits and credits."""

    def __init__(self, moves: SingleMoves) -> None:
        self._moves = moves

    async def transfer(self, transfer: Transfer, progress: Progress) -> None:
        """Make all legs, or none: then the refusal says why. Between the two, and Unavailable, lies the repeat."""
        note = _read_note(progress)
        if note.undoing is None:
            note = await self._make(transfer, note, progress)
        if note.undoing is not None:
            await self._undo(transfer, note.attempt, note.undoing)
            await progress.keep(_write_note(_Note(attempt=note.attempt + 1)))
            raise Refused(note.undoing.code, note.undoing.message)

    async def reserve(self, holding: Holding) -> None:
        """Move available money to reserved."""
        await self._moves.reserve(holding)

    async def release(self, holding: Holding) -> None:
        """Move reserved money to available."""
        await self._moves.release(holding)

    async def balances(self, user: str | None = None, cursor: str | None = None, limit: int = 1000) -> BalancePage:
        """List balances."""
        return await self._moves.balances(user, cursor, limit)

    async def health(self) -> None:
        """Ask whether the wallet takes requests."""
        await self._moves.health()

    async def _make(self, transfer: Transfer, note: _Note, progress: Progress) -> _Note:
        """Make the legs; returns the note as it is then, with what must be undone if one was refused."""
        for made, (id_, leg) in enumerate(_moves_of(transfer, note.attempt)):
            try:
                await self._moves.move(id_, leg)
            except Refused as refusal:
                if made == 0:
                    raise
                note = _Note(note.attempt, _Undoing(made, refusal.code, refusal.message))
                await progress.keep(_write_note(note))
                break
        return note

    async def _undo(self, transfer: Transfer, attempt: int, undoing: _Undoing) -> None:
        for id_, leg in reversed(list(_moves_of(transfer, attempt))[: undoing.made]):
            opposite = Leg(leg.user, leg.asset, leg.amount, leg.direction.opposite)
            try:
                await self._moves.move(f"{id_}:undo", opposite)
            except Refused as refusal:
                raise Refused(
                    RefusalCode.STUCK,
                    f"leg {id_} cannot be undone: {refusal.message}; it was to be because: {undoing.message}",
                ) from refusal


def _moves_of(transfer: Transfer, attempt: int) -> Iterator[tuple[str, Leg]]:
    """Give the legs in the order in which they are made, with their ids."""
    suffix = "" if attempt == 1 else f":{attempt}"
    numbered = enumerate(transfer.legs)
    for number, leg in sorted(numbered, key=lambda pair: pair[1].direction is not Direction.DEBIT):
        yield f"{transfer.id}:{number}{suffix}", leg


def _read_note(progress: Progress) -> _Note:
    return msgspec.json.decode(progress.note, type=_Note) if progress.note else _Note()


def _write_note(note: _Note) -> str:
    return msgspec.json.encode(note).decode()
