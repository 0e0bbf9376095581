"""What is for one user alone: own orders, without a gap and from where a client left off, and balances.

A session that begins to listen, or lost continuity, is first told what history has; what the feed brings meanwhile is
kept, and of that only what history did not include follows. Where an event stands is told by its shard and sequence.

Rule 1: an update reaches the sessions of its owner and no other. Rule 2: a client is told of each event once, or is
told to forget what it knew (``resync``).
It refuses to know how requests are read.
"""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import trio
from msgspec import json
from msgspec.structs import replace

from tradeengine.core.messages import OrderUpdate, parse_resume_cursor, resume_cursor
from tradeengine.core.times import format_ms
from tradeengine.ipc.seqlock import SeqlockBusy
from tradeengine.web.errors import ApiError, invalid_field
from tradeengine.web.streams.messages import Balances, OrderSnapshot, Resumed, Resync, encode
from tradeengine.web.streams.session import TOO_SLOW
from tradeengine.web.streams.wire import Message
from tradeengine.web.trading import show
from tradeengine.web.views import balance_views, own_trade_view

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from tradeengine.storage.private import Changes
    from tradeengine.web.front import Front
    from tradeengine.web.schemas import Balance
    from tradeengine.web.streams.feed_reader import FeedMessage
    from tradeengine.web.streams.hub import Hub
    from tradeengine.web.streams.session import Session

NS_PER_MS: Final = 10**6
_decode_update: Final = json.Decoder(OrderUpdate).decode
KEPT_MAX: Final = 10_000
"""Updates kept for a session that is still being told what history has."""
RETRY_S: Final = 1.0
CLOCK_SLACK_MS: Final = 60_000
"""A cursor may be so far ahead of the clock."""
RESYNC_ORDERS_MAX: Final = 500
"""Orders in one message; the others follow one by one."""
BEGIN_ANEW: Final = resume_cursor(0, [0])
"""A cursor that is too old in any case."""


@dataclass(slots=True, eq=False)
class OwnOrders:
    """A session's subscription to its orders."""

    account_id: int
    live: bool = False
    kept: list[FeedMessage] = field(default_factory=list)
    """While it is not live."""
    included: Mapping[int, int] = field(default_factory=dict)
    """By shard: the next event that history did not include, until the feed has passed all that it did."""
    generation: int = 0
    """Counts losses of continuity."""
    resyncing: bool = False


class Private:
    """Own orders and balances of all sessions of a front."""

    def __init__(self, front: Front, hub: Hub, front_number: int) -> None:
        self._front = front
        self._hub = hub
        self.front_number = front_number
        self._owners: dict[int, set[Session]] = {}
        self._watchers: dict[int, set[Session]] = {}
        self._seen: dict[int, tuple[int, NDArray[np.int64]]] = {}
        """By account: version and balances that watchers were told."""

    async def join_orders(self, session: Session, account_id: int) -> str:
        """Begin to listen; returns the cursor of a place behind which nothing will be missing. Raises ApiError.

        ``begin_orders`` has to follow.
        """
        session.orders = OwnOrders(account_id)
        self._owners.setdefault(account_id, set()).add(session)
        self._hub.wishes.want_orders(account_id)
        try:
            return await self._hub.wishes.orders_served()
        except BaseException:
            self.leave_orders(session)
            raise

    async def begin_orders(self, session: Session, cursor: str, since: str | None) -> None:
        """Tell what has happened since a place that the client knows, if it named one, and go live from ``cursor``."""
        orders: OwnOrders = session.orders
        if orders.generation:
            return  # continuity was lost meanwhile: ``_resync`` tells everything
        if since is None:
            self._go_live(session, orders, dict(enumerate(parse_resume_cursor(cursor)[1])))
            return
        try:
            await self._tell_since(session, orders, since)
        except ApiError:
            # It was acknowledged: so this side sees to it, however long history cannot be read.
            self._hub.nursery.start_soon(self._tell_since_later, session, orders, since)

    def leave_orders(self, session: Session) -> None:
        """Listen no more."""
        orders, session.orders = session.orders, None
        if orders is not None and _leave(self._owners, orders.account_id, session):
            self._hub.wishes.leave_orders(orders.account_id)

    def tell_order(self, message: FeedMessage) -> None:
        """Pass an update on to its owner's sessions."""
        for session in self._owners.get(message.account_id, ()):
            orders: OwnOrders = session.orders
            if orders.live:
                self._pass_on(session, orders, message)
            elif len(orders.kept) < KEPT_MAX:
                orders.kept.append(message)
            else:
                session.end(TOO_SLOW, "too much happens while history is read")

    def resync_all(self) -> None:
        """Have everyone begin anew: updates were lost."""
        for sessions in self._owners.values():
            for session in sessions:
                orders: OwnOrders = session.orders
                orders.live = False
                orders.kept.clear()
                orders.generation += 1
                if not orders.resyncing:
                    orders.resyncing = True
                    self._hub.nursery.start_soon(self._resync, session, orders)

    def begin_balances(self, session: Session, account_id: int) -> Message:
        """Begin to listen; returns all balances as they are, after which changes follow. Raises ApiError."""
        units = self._read_units(account_id)
        session.wants_balances = True
        self._watchers.setdefault(account_id, set()).add(session)
        # Others may have listened before; what they are told next includes what this one has in the snapshot.
        self._seen.setdefault(account_id, units)
        return Message(_balances(self._views(units[1]), snapshot=True))

    def leave_balances(self, session: Session) -> None:
        """Listen no more."""
        if session.wants_balances and session.caller is not None:
            session.wants_balances = False
            if _leave(self._watchers, session.caller.account_id, session):
                self._seen.pop(session.caller.account_id, None)

    async def watch_balances(self) -> None:
        """Tell balances that changed, for as long as the front runs."""
        while True:
            await trio.sleep(self._hub.limits.balances_interval_ms / 1000)
            for account_id, sessions in self._watchers.items():
                changed = self._changed_balances(account_id)
                if changed:
                    message = Message(_balances(changed, snapshot=False))
                    for session in sessions:
                        self._hub.give(session, message)
            self._hub.flush()

    def _go_live(self, session: Session, orders: OwnOrders, included: Mapping[int, int]) -> None:
        """Pass on what was kept, from the next event of each shard that is not included, and then what comes."""
        orders.included = included
        for message in orders.kept:
            self._pass_on(session, orders, message)
        orders.kept.clear()
        orders.live = True
        self._hub.flush()

    def _pass_on(self, session: Session, orders: OwnOrders, message: FeedMessage) -> None:
        """Give an update to a session, unless history included it: the feed may be behind history for a while."""
        text = message.text
        if orders.included:
            if message.sequence < orders.included.get(message.shard, 0):
                return
            text = self._go_on_from(orders, text)
        self._hub.give(session, Message(text))

    def _go_on_from(self, orders: OwnOrders, text: bytes) -> bytes:
        """Have an update's cursor name no place before what history included, or that would be told twice."""
        update = _decode_update(text)
        timestamp_ms, positions = parse_resume_cursor(update.cursor)
        furthest = [max(position, orders.included.get(shard, 0)) for shard, position in enumerate(positions)]
        if furthest == list(positions):
            orders.included = {}
            return text
        return encode(replace(update, cursor=resume_cursor(timestamp_ms, furthest)))

    async def _tell_since_later(self, session: Session, orders: OwnOrders, since: str) -> None:
        while session.orders is orders and not orders.generation and session.closing is None:
            await trio.sleep(RETRY_S)
            with suppress(ApiError):
                await self._tell_since(session, orders, since)
                return

    async def _tell_since(self, session: Session, orders: OwnOrders, since: str) -> None:
        """Tell what has happened since a cursor, and go live. Raises ApiError: then nothing was told."""
        since_ms, positions = parse_resume_cursor(since)
        age_ms = time.time_ns() // NS_PER_MS - since_ms
        changes = None
        if -CLOCK_SLACK_MS <= age_ms <= self._hub.limits.resume_s_max * 1000:
            changes = await self._front.history.changes(orders.account_id, since_ms, positions)
        if session.orders is not orders or orders.generation:
            return
        if changes is None:
            await self._tell_everything(session, "too much has happened since the cursor")
        elif _is_ahead(positions, changes.settled):
            await self._tell_everything(session, "the cursor is of another engine")
        else:
            await self._tell_changes(session, orders, changes, since)

    async def _tell_changes(self, session: Session, orders: OwnOrders, changes: Changes, since: str) -> None:
        account_id, generation = orders.account_id, orders.generation
        by_order: dict[int, list[Any]] = {order.order_id: [] for order in changes.orders}
        for trade in changes.trades:
            is_taker = trade.taker_account_id == account_id
            order_id = trade.taker_order_id if is_taker else trade.maker_order_id
            spec = self._front.symbol_by_id(trade.symbol_id)
            by_order[order_id].append(own_trade_view(trade, spec, order_id, "settled"))
        # Broken off half-way the client resumes from where it did now: so that is each message's cursor.
        for order in changes.orders:
            await session.room()
            if session.orders is not orders or generation != orders.generation:
                return
            snapshot = OrderSnapshot(order=show(self._front, order), trades=by_order[order.order_id], cursor=since)
            self._hub.give(session, Message(encode(snapshot)))
        resumed = Resumed(orders=len(changes.orders), cursor=_cursor(changes.settled))
        self._hub.give(session, Message(encode(resumed)))
        self._go_live(session, orders, changes.settled)

    async def _tell_everything(self, session: Session, reason: str) -> None:
        """Have the client forget what it knew. Raises ApiError."""
        orders: OwnOrders = session.orders
        generation = orders.generation
        live = await self._front.history.live_orders(orders.account_id)
        await self._front.history.wait_folded()
        if session.orders is not orders or generation != orders.generation:
            return
        told, rest = live.orders[:RESYNC_ORDERS_MAX], live.orders[RESYNC_ORDERS_MAX:]
        cursor = _cursor(live.settled)
        resync = Resync(
            reason=reason,
            orders=[show(self._front, order) for order in told],
            balances=self._views(self._read_units(orders.account_id)[1]),
            # Broken off before the rest was told, the client has to begin anew once more.
            cursor=BEGIN_ANEW if rest else cursor,
            timestamp=_now(),
        )
        self._hub.give(session, Message(encode(resync)))
        for order in rest:
            await session.room()
            if session.orders is not orders or generation != orders.generation:
                return
            snapshot = OrderSnapshot(order=show(self._front, order), trades=[], cursor=BEGIN_ANEW)
            self._hub.give(session, Message(encode(snapshot)))
        if rest:
            self._hub.give(session, Message(encode(Resumed(orders=len(rest), cursor=cursor))))
        self._go_live(session, orders, live.settled)

    async def _resync(self, session: Session, orders: OwnOrders) -> None:
        while session.orders is orders and session.closing is None:
            generation = orders.generation
            try:
                await self._hub.wishes.orders_served()
                if session.orders is orders and generation == orders.generation:
                    await self._tell_everything(session, "updates were lost on the server's side")
            except ApiError:
                await trio.sleep(RETRY_S)
                continue
            if generation == orders.generation:
                break
        orders.resyncing = False

    def _views(self, units: NDArray[np.int64]) -> list[Balance]:
        """Show all balances."""
        return balance_views(units, self._front.pages.directory().assets.values())

    def _changed_balances(self, account_id: int) -> list[Balance]:
        """Give what changed since the last look."""
        table = self._front.pages.balances
        version = table.version(account_id)
        seen = self._seen.get(account_id)
        if version & 1 or (seen is not None and seen[0] == version):
            return []
        try:
            units = table.read(account_id)["units"].copy()
        except SeqlockBusy:
            return []
        self._seen[account_id] = (version, units)
        if seen is None:
            return []
        changed = np.flatnonzero((units != seen[1]).any(axis=1)).tolist()
        assets = self._front.pages.directory().assets
        return balance_views(units, [assets[asset_id] for asset_id in changed if asset_id in assets])

    def _read_units(self, account_id: int) -> tuple[int, NDArray[np.int64]]:
        """Read an account's balances, and the version of the row at or before them. Raises ApiError."""
        table = self._front.pages.balances
        version = table.version(account_id)
        try:
            return version, table.read(account_id)["units"].copy()
        except SeqlockBusy:
            raise ApiError("ENGINE_OVERLOADED", "Balances cannot be read now; try again.") from None


def check_cursor(since: str) -> None:
    """Refuse what is no cursor. Raises ApiError."""
    try:
        parse_resume_cursor(since)
    except ValueError:
        raise invalid_field("since", "since must be a cursor that an earlier message named.") from None


def _is_ahead(positions: Sequence[int], settled: Mapping[int, int]) -> bool:
    """Whether a cursor names events that do not exist: whoever reads on from there would miss all until they do."""
    return any(position > settled.get(shard, 0) for shard, position in enumerate(positions))


def _leave(listeners: dict[int, set[Session]], account_id: int, session: Session) -> bool:
    """Take a session out; returns whether it was the account's last."""
    sessions = listeners.get(account_id, set())
    sessions.discard(session)
    if sessions or account_id not in listeners:
        return False
    del listeners[account_id]
    return True


def _cursor(settled: Mapping[int, int]) -> str:
    return resume_cursor(time.time_ns() // NS_PER_MS, [settled[shard] for shard in sorted(settled)])


def _balances(changed: list[Balance], *, snapshot: bool) -> bytes:
    return encode(Balances(snapshot=snapshot, balances=changed, timestamp=_now()))


def _now() -> str:
    return format_ms(time.time_ns() // NS_PER_MS)
