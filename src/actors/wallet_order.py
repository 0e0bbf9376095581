"""The order of transfers: which may go to the wallet now, so that every one finds its money there.

Transfers have places, in the order in which their trades happened. Told one after the other in that order, a wallet
always has what the next one takes, because risk let no order pass before its money was there. Side by side they go
as long as there is enough for all: what an account has at the wallet is known here, so it is known what the earlier
ones need of it. Whoever has little is served first come, first served, and nobody can wait for each other.

Rule 1: a transfer goes when each account that it debits has enough for it and for all earlier ones that wait for it.
Rule 2: it also goes when nothing earlier would change what the account has: then money is missing that a dead letter
was to bring, or that somebody took at the wallet, and the wallet must say so.
Rule 3: what was sent and not answered may have been made or not: its debits count as made, its credits as not.
It refuses to know the database, the wallet and clocks. Memory: a few hundred bytes per transfer and account held here.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from tradeengine.actors.wallet_desk import TransferJob
from tradeengine.storage.outbox import Move

ACCOUNTS_MAX: Final = 20_000
"""So many accounts and assets are remembered while nothing waits for them."""

Key = tuple[int, int]
"""An account's asset: account id, asset id."""
Place = tuple[int, int]


@dataclass(slots=True)
class _Purse:
    """What an account has of an asset at the wallet, and who wants it."""

    written_units: int | None = None
    """After everything that is written down as done; None: not known."""
    is_asked: bool = False
    """Whether the database is asked just now."""
    unwritten_units: int = 0
    """By how much it changed since."""
    claimed_units: int = 0
    """Of those that were sent, or are about to be, withdrawals included."""
    debits: list[tuple[Place, int]] = field(default_factory=list)
    """Of those that wait, in order."""
    credits: list[Place] = field(default_factory=list)
    """Of all that are not delivered, in order."""
    blocked: list[Place] = field(default_factory=list)
    """Those of the waiting ones that do not go because of this account, in order."""
    credit_count: int = 0

    def ahead_units(self, place: Place) -> int:
        """Add up what the earlier ones that wait need."""
        return sum(units for _, units in self.debits[: bisect_left(self.debits, (place, 0))])

    def free_units(self) -> int:
        """Give what nobody has claimed."""
        assert self.written_units is not None
        return self.written_units + self.unwritten_units - self.claimed_units

    def is_idle(self) -> bool:
        """Whether it may be forgotten, and be read again."""
        return not (self.debits or self.credits or self.claimed_units or self.unwritten_units or self.is_asked)


@dataclass(slots=True)
class _Entry:
    job: TransferJob
    place: Place
    debits: dict[Key, int]
    credits: tuple[Key, ...]
    is_claimed: bool = False
    is_asleep: bool = False
    is_refused: bool = False
    """The wallet said that somebody is short; it waits for a credit, or for a while."""
    blocked_at: Key | None = None
    refusals: int = 0
    seen: int = 0
    """How many credits its debited accounts had when it was sent."""


class Order:
    """Transfers that are not delivered, as far as they are read."""

    def __init__(self) -> None:
        self._entries: dict[int, _Entry] = {}
        self._purses: dict[Key, _Purse] = {}
        self._ready: deque[TransferJob] = deque()
        self._asleep: set[int] = set()
        self._leaving: dict[int, tuple[Move, ...]] = {}
        """What is over and not written down yet, with what it changed at the wallet."""
        self._releases: dict[int, tuple[Key, int]] = {}
        self._unknown: set[Key] = set()
        self._changed: dict[Key, None] = {}
        self._claimed = 0
        self._resting = 0
        """How many of the claimed ones are asleep."""

    def __len__(self) -> int:
        return len(self._entries)

    def taken(self) -> list[int]:
        """Ids of transfers that need not be read."""
        return [*self._entries, *self._leaving]

    def busy(self) -> int:
        """How many are sent or about to be."""
        return self._claimed - self._resting

    def asleep(self) -> list[int]:
        """Ids of transfers that wait until their time has come."""
        return list(self._asleep)

    def add(self, job: TransferJob) -> None:
        """Take up a transfer that was read, at its place."""
        moves = job.row.moves()
        debits: dict[Key, int] = {}
        for move in moves:
            if move.amount_units < 0:
                key = (move.account_id, move.asset_id)
                debits[key] = debits.get(key, 0) - move.amount_units
        credited = tuple((move.account_id, move.asset_id) for move in moves if move.amount_units > 0)
        entry = _Entry(job, job.row.place, debits, credited)
        self._entries[job.row.id] = entry
        for key in credited:
            insort(self._purse(key).credits, entry.place)
        self._want(entry)
        if job.row.is_due:
            self._examine(entry)
        else:
            self._sleep(entry)

    def wake(self, job: TransferJob) -> None:
        """Take up again what was put off, read anew."""
        entry = self._entries.get(job.row.id)
        if entry is None or not entry.is_asleep:
            return
        entry.job = job
        entry.is_asleep = entry.is_refused = False
        self._asleep.discard(job.row.id)
        if entry.is_claimed:
            self._resting -= 1
            self._ready.append(job)
        else:
            self._examine(entry)

    def next_ready(self) -> TransferJob | None:
        """Take a transfer that may go; it counts as sent from now on."""
        self._settle()
        return self._ready.popleft() if self._ready else None

    def delivered(self, transfer_id: int) -> list[int]:
        """Note that the wallet has made it; returns the ids of refused ones that it may help, to be hastened."""
        entry = self._leave(transfer_id, is_made=True)
        return [id_ for key in entry.credits for id_ in self.credited(*key)]

    def credited(self, account_id: int, asset_id: int) -> list[int]:
        """Note that an account has more; returns the ids of refused transfers that it may help."""
        purse = self._purses.get((account_id, asset_id))
        if purse is None:
            return []
        purse.credit_count += 1
        waiting = (self._entries[place[1]] for place, _ in purse.debits)
        return [entry.place[1] for entry in waiting if entry.is_refused]

    def put_off(self, transfer_id: int) -> None:
        """Note that nobody knows whether it was made; it is asleep until it is read as due."""
        self._sleep(self._entries[transfer_id])
        self._resting += 1

    def refused(self, transfer_id: int) -> tuple[int, bool]:
        """Note that the wallet says that somebody is short; it goes back to its place, asleep.

        Returns how often that happened before, and whether someone was credited since it was sent.
        """
        entry = self._entries[transfer_id]
        self._unclaim(entry)
        self._want(entry)
        entry.is_refused = True
        entry.refusals += 1
        self._sleep(entry)
        return entry.refusals - 1, entry.seen != self._credits_seen(entry)

    def buried(self, transfer_id: int) -> None:
        """Let go of a dead letter: it takes and brings nothing any more."""
        self._leave(transfer_id, is_made=False)

    def written(self, ids: Iterable[int]) -> None:
        """Note that what became of transfers is in the database."""
        for transfer_id in ids:
            for move in self._leaving.pop(transfer_id, ()):
                purse = self._purse((move.account_id, move.asset_id))
                purse.unwritten_units -= move.amount_units
                if purse.written_units is not None:
                    purse.written_units += move.amount_units
        self._forget_idle()

    def claim_release(self, funding_id: int, key: Key, units: int) -> None:
        """Keep the money of a withdrawal that is about to be released for it, until the wallet has answered."""
        if funding_id not in self._releases:
            self._releases[funding_id] = (key, units)
            self._purse(key).claimed_units += units

    def end_release(self, funding_id: int) -> None:
        """Note that the wallet has answered; what the account then has is read again."""
        if funding_id in self._releases:
            key, units = self._releases.pop(funding_id)
            self._purse(key).claimed_units -= units
            self.read_again(key)

    def read_again(self, key: Key) -> None:
        """Note that what an account has is about to change by what is written down."""
        purse = self._purses.get(key)
        if purse is not None:
            purse.written_units, purse.is_asked = None, False
            self._changed[key] = None

    def wants_answers(self) -> bool:
        """Whether there is an account of which must be read what it has."""
        self._settle()
        return bool(self._unknown)

    def ask(self, limit: int) -> list[Key]:
        """Take accounts of which must be read what they have, once what is over by now is written down."""
        self._settle()
        keys = [key for key in self._unknown if key in self._purses][:limit]
        self._unknown.difference_update(keys)
        for key in keys:
            self._purses[key].is_asked = True
        return keys

    def asked_in_vain(self, keys: Sequence[Key]) -> None:
        """Note that the database did not answer."""
        self.learn(dict.fromkeys(keys))

    def learn(self, reserves: Mapping[Key, int | None]) -> None:
        """Hear what was asked, None: in vain; ``written`` was told before of what was written down with it."""
        for key, units in reserves.items():
            purse = self._purses.get(key)
            if purse is not None and purse.is_asked:
                purse.written_units, purse.is_asked = units, False
                self._changed[key] = None

    def stuck(self) -> int | None:
        """Give the first refused transfer when all wait for it or for what it waits for; None: something may move."""
        self._settle()
        refused = [entry.place for entry in self._entries.values() if entry.is_refused]
        sleepers = len(self._asleep) - len(refused)
        if self._claimed or sleepers or self._unknown or not refused:
            return None
        return None if any(purse.is_asked for purse in self._purses.values()) else min(refused)[1]

    def _examine(self, entry: _Entry) -> None:
        """Let a transfer that waits go, or note why it does not."""
        key = self._obstacle(entry)
        if key is None:
            self._claim(entry)
        else:
            entry.blocked_at = key
            insort(self._purses[key].blocked, entry.place)

    def _obstacle(self, entry: _Entry) -> Key | None:
        for key, units in entry.debits.items():
            purse = self._purses[key]
            if purse.written_units is None:
                if not purse.is_asked:
                    self._unknown.add(key)
                return key
            ahead_units = purse.ahead_units(entry.place)
            if purse.free_units() >= ahead_units + units:
                continue
            if ahead_units or (purse.credits and purse.credits[0] < entry.place):
                return key
        return None

    def _settle(self) -> None:
        """Look again at those that waited for accounts where something has changed."""
        while self._changed:
            key, _ = self._changed.popitem()
            purse = self._purses.get(key)
            while purse is not None and purse.blocked:
                entry = self._entries[purse.blocked[0][1]]
                self._unblock(entry)
                self._examine(entry)
                if entry.blocked_at == key:
                    # Those behind it need more.
                    break

    def _want(self, entry: _Entry) -> None:
        for key, units in entry.debits.items():
            insort(self._purse(key).debits, (entry.place, units))

    def _unwant(self, entry: _Entry) -> None:
        for key, units in entry.debits.items():
            debits = self._purses[key].debits
            del debits[bisect_left(debits, (entry.place, units))]

    def _claim(self, entry: _Entry) -> None:
        self._unwant(entry)
        for key, units in entry.debits.items():
            purse = self._purses[key]
            purse.claimed_units += units
        entry.is_claimed = True
        entry.seen = self._credits_seen(entry)
        self._claimed += 1
        self._ready.append(entry.job)

    def _unclaim(self, entry: _Entry) -> None:
        for key, units in entry.debits.items():
            purse = self._purses[key]
            purse.claimed_units -= units
            self._changed[key] = None
        entry.is_claimed = False
        self._claimed -= 1

    def _unblock(self, entry: _Entry) -> None:
        if entry.blocked_at is not None:
            blocked = self._purses[entry.blocked_at].blocked
            del blocked[bisect_left(blocked, entry.place)]
            entry.blocked_at = None

    def _sleep(self, entry: _Entry) -> None:
        entry.is_asleep = True
        self._asleep.add(entry.place[1])

    def _leave(self, transfer_id: int, *, is_made: bool) -> _Entry:
        entry = self._entries.pop(transfer_id)
        self._asleep.discard(transfer_id)
        self._resting -= entry.is_claimed and entry.is_asleep
        if entry.is_claimed:
            self._unclaim(entry)
        else:
            self._unblock(entry)
            self._unwant(entry)
        for key in entry.credits:
            credits_ = self._purses[key].credits
            del credits_[bisect_left(credits_, entry.place)]
        self._changed |= dict.fromkeys((*entry.debits, *entry.credits))
        self._leaving[transfer_id] = entry.job.row.moves() if is_made else ()
        for move in self._leaving[transfer_id]:
            self._purses[move.account_id, move.asset_id].unwritten_units += move.amount_units
        return entry

    def _credits_seen(self, entry: _Entry) -> int:
        return sum(self._purses[key].credit_count for key in entry.debits)

    def _purse(self, key: Key) -> _Purse:
        purse = self._purses.get(key)
        if purse is None:
            purse = self._purses[key] = _Purse()
        return purse

    def _forget_idle(self) -> None:
        """Forget accounts that nothing waits for, when there are too many: half of them, those known longest first."""
        if len(self._purses) <= ACCOUNTS_MAX:
            return
        idle = [key for key, purse in self._purses.items() if purse.is_idle()]
        for key in idle[: max(len(self._purses) - ACCOUNTS_MAX // 2, 0)]:
            del self._purses[key]
            self._unknown.discard(key)
