"""The wallet port: what the engine asks of a wallet service, and the two ways in which that can fail.

At a wallet a user's money of one asset has two parts: *available*, which is the user's, and *reserved*, which the
exchange trades with. Funding in reserves, funding out releases, and a trade moves reserved money between users.

Rule 1: every request has an id of the caller's and takes effect once, however often it is repeated with it.
Rule 2: a failure is one of two kinds. ``Refused``: the wallet answered and did nothing. ``Unavailable``: nobody knows
whether it was done; the same request is repeated until the wallet has answered.
Rule 3: amounts are plain decimals as text, above 0; the direction is a word, never a sign.
It refuses to know HTTP, trades and the engine's ledger.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Protocol

ID_LENGTH_MAX: Final = 200
"""Characters of an id: the longest reference of the engine's and what a leg adds to it."""


class Direction(StrEnum):
    """What a leg does to its user's reserved money."""

    DEBIT = "debit"
    CREDIT = "credit"

    @property
    def opposite(self) -> Direction:
        """The direction that undoes this one."""
        return Direction.CREDIT if self is Direction.DEBIT else Direction.DEBIT


@dataclass(frozen=True, slots=True)
class Leg:
    """One side of a transfer. amount: plain decimal above 0."""

    user: str
    asset: str
    amount: str
    direction: Direction


@dataclass(frozen=True, slots=True)
class Transfer:
    """Legs that take effect together. Of each asset as much is debited as credited; users may repeat.

    id: 1 to ``ID_LENGTH_MAX`` printable ASCII characters; the trade's id.
    """

    id: str
    legs: tuple[Leg, ...]


@dataclass(frozen=True, slots=True)
class Holding:
    """An amount of one user's to reserve or release. reference: as a transfer's id, apart for each of the two."""

    reference: str
    user: str
    asset: str
    amount: str


@dataclass(frozen=True, slots=True)
class Balance:
    """A user's money of one asset, as plain decimals."""

    user: str
    asset: str
    available: str
    reserved: str


@dataclass(frozen=True, slots=True)
class BalancePage:
    """Some balances, in order of user and asset; ``next_cursor`` is None at the end."""

    balances: tuple[Balance, ...]
    next_cursor: str | None


class WalletError(Exception):
    """A request that did not succeed; the message says what happened, for people."""


class RefusalCode(StrEnum):
    """Why a wallet refused. Codes that a wallet may have beyond these come as INVALID, the message names them."""

    INSUFFICIENT = "INSUFFICIENT_BALANCE"
    """A debited user has not got so much (any more, or yet)."""
    CONFLICT = "REFERENCE_REUSED"
    """The id was used with another content."""
    INVALID = "INVALID_REQUEST"
    UNKNOWN_ACCOUNT = "UNKNOWN_ACCOUNT"
    """The wallet knows no such user or asset."""
    ANSWER_CHANGED = "ANSWER_CHANGED"
    """The wallet answered, but not to what was asked, or not as it did before: it must be looked at by people."""
    STUCK = "COMPENSATION_REFUSED"
    """A transfer leg by leg is half done, and undoing it was refused. A repeat tries to undo it again."""


class Refused(WalletError):  # noqa: N818 - a word of the port: the opposite of Unavailable
    """The wallet's definite answer: nothing was done (after STUCK: half of it), and asking again changes nothing.

    Only INSUFFICIENT can pass by itself, when someone credits the user.
    """

    def __init__(self, code: RefusalCode, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class Unavailable(WalletError):  # noqa: N818
    """No answer that can be understood: whether it was done is not known. Repeat the same request with the same id.

    Connection refused or cut, time-out, any 5xx, 429, 401, 403, 404, an answer that is malformed.
    """

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.retry_after_s = retry_after_s
        """What the wallet asked for, if it did."""


class BreakerOpen(Unavailable):
    """The circuit breaker let nothing pass: nothing was sent."""


class Progress:
    """What a wallet notes about one transfer and must find again at every repeat of it, also after a crash.

    The caller keeps it beside the transfer and does not read it. ``note`` is short text, "" at first.
    """

    def __init__(self, note: str = "", store: Callable[[str], Awaitable[None]] | None = None) -> None:
        """store: makes a new note durable before it returns; None keeps it in memory only."""
        self.note = note
        self._store = store

    async def keep(self, note: str) -> None:
        """Replace the note; durable when this returns. Raises what ``store`` raises; the old note then stays."""
        if self._store is not None:
            await self._store(note)
        self.note = note


class Wallet(Protocol):
    """A wallet service. Every call raises Refused or Unavailable, and may be made many times at once."""

    async def transfer(self, transfer: Transfer, progress: Progress) -> None:
        """Make a transfer; when this returns it is made. Repeat it with what ``progress`` has become."""

    async def reserve(self, holding: Holding) -> None:
        """Move available money to reserved: funding in."""

    async def release(self, holding: Holding) -> None:
        """Move reserved money to available: funding out."""

    async def balances(self, user: str | None = None, cursor: str | None = None, limit: int = 1000) -> BalancePage:
        """List balances, of one user or of all."""

    async def health(self) -> None:
        """Return when the wallet takes requests; cheap. Raises Unavailable."""
