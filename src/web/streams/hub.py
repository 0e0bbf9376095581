"""The hub: who has subscribed to what, and the way of each message from the feed to its subscribers.

A message is looked at once: its channel names the sessions that want it, and nobody else hears of it. A book begins
with a snapshot (``present``); a change is passed on to those whose state it follows, and whoever it does not follow
gets a snapshot again. So whatever was missed, by the publisher or here, ends in an explicit snapshot; where messages
are known to be lost it comes at once, since nothing else may happen to that book for long.

Rule 1: a session is in a channel's list with the sequence of the last that it was given of it.
Rule 2: nothing here waits for a client.
It refuses to know requests, tokens and HTTP; own orders and balances are ``private``'s.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import trio

from tradeengine.core.feed import FeedKind
from tradeengine.ipc.ring_reader import Lapped
from tradeengine.web.errors import ApiError
from tradeengine.web.streams.channels import MERGED
from tradeengine.web.streams.hub_metrics import HubMetrics
from tradeengine.web.streams.messages import ServerShutdown, encode
from tradeengine.web.streams.present import Present
from tradeengine.web.streams.session import RESTART, TOO_SLOW
from tradeengine.web.streams.wire import Message

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from tradeengine.ipc.metrics import MetricPage
    from tradeengine.settings import Streams
    from tradeengine.web.front import Pages
    from tradeengine.web.inbox import Inbox
    from tradeengine.web.streams.channels import ChannelName
    from tradeengine.web.streams.demand import Wishes
    from tradeengine.web.streams.feed_reader import FeedMessage, FeedReader
    from tradeengine.web.streams.merging import Key
    from tradeengine.web.streams.private import Private
    from tradeengine.web.streams.roll import Roll
    from tradeengine.web.streams.session import Caller, Session
    from tradeengine.web.streams.standing import Objection
    from tradeengine.web.streams.tasks import Tasks

JOINING: Final = -2
"""In place of a sequence: what comes of the channel is not for the session yet."""
UNTOLD: Final = -1
"""Likewise: it has yet to be told how the channel is."""
LOOK_INTERVAL_S: Final = 1.0
SILENT_PINGS_MAX: Final = 2


class Channel:
    """One public channel. ``latest``: its last message, for those who come later, where that makes sense."""

    __slots__ = ("interest", "latest", "sessions", "symbol_id", "text", "told")

    def __init__(self, name: ChannelName) -> None:
        self.text = name.text
        self.symbol_id = name.key[1]
        self.interest = name.interest
        self.sessions: dict[Session, int] = {}
        self.latest: Message | None = None
        self.told = -1
        """Of a trading state: the last event that ``latest`` includes."""


class Hub:
    """All streams of one front."""

    def __init__(
        self,
        feed: FeedReader,
        wishes: Wishes,
        pages: Pages,
        limits: Streams,
        metrics: MetricPage,
        inbox: Inbox,
        roll: Roll,
    ) -> None:
        """Join the ends; ``private``, ``object_to`` and ``nursery`` are set before the first session comes."""
        self._feed = feed
        self._pages = pages
        self._inbox = inbox
        self.wishes = wishes
        self.limits = limits
        self.private: Private
        self.object_to: Callable[[Caller], Objection | None]
        """Says why whom a session belongs to may not go on."""
        self.nursery: Tasks
        self.stopping = False
        self._sessions: set[Session] = set()
        self._coming: set[Session] = set()
        """Sessions that were admitted and are not open yet."""
        self._channels: dict[Key, Channel] = {}
        self._fresh: set[Session] = set()
        """Sessions that were given something since the last flush."""
        self._present = Present(pages)
        self._unread: set[Key] = set()
        """Channels of which it has to be told how they are, and which could not be read."""
        self.metrics = HubMetrics(metrics)
        self._roll = roll

    @property
    def listens(self) -> bool:
        """Whether anyone is connected."""
        return bool(self._sessions)

    @property
    def sessions(self) -> set[Session]:
        """Everyone who is connected."""
        return self._sessions

    def has_messages(self) -> bool:
        """Whether the feed has something that was not read."""
        return self._feed.available()

    def open(self, session: Session) -> None:
        """Take a session in that was admitted."""
        self._coming.discard(session)
        if not self._sessions:
            self._feed.begin()
        self._sessions.add(session)
        self.metrics.opened()
        self._inbox.wake()

    def close(self, session: Session) -> None:
        """Let a session go, whatever it had subscribed to."""
        if session in self._sessions:
            self.metrics.closed(session.closing[0] if session.closing is not None else None)
        self._sessions.discard(session)
        self._coming.discard(session)
        self._fresh.discard(session)
        for key in list(session.channels):
            self.leave(session, key)
        self.private.leave_orders(session)
        self.private.leave_balances(session)

    def admit(self, session: Session) -> None:
        """Keep a place for another client, until ``close``. Raises ApiError."""
        if self.stopping:
            raise ApiError("SHUTTING_DOWN", "The server is stopping; connect again in a moment.")
        present = (*self._sessions, *self._coming)
        from_address = sum(other.network == session.network for other in present)
        for count, maximum, what in (
            (len(present), self.limits.connections_max, "connections_max"),
            (from_address, self.limits.connections_per_address_max, "connections_per_address_max"),
        ):
            if count >= maximum:
                raise _too_many(maximum, what)
        self._coming.add(session)

    def admit_user(self, name: str) -> None:
        """See that a user may have another connection. Raises ApiError."""
        callers = [session.caller for session in (*self._sessions, *self._coming)]
        count = sum(caller is not None and caller.identity.name == name for caller in callers)
        if count >= self.limits.connections_per_user_max:
            raise _too_many(self.limits.connections_per_user_max, "connections_per_user_max")

    async def join(self, session: Session, names: Iterable[ChannelName]) -> Callable[[], Awaitable[None]]:
        """Subscribe a session; what comes back has to be called to give it what each channel begins with.

        It waits in between for a client that does not take it as fast.

        Raises ApiError: then nothing was subscribed to.
        """
        joined = [name for name in names if name.key not in session.channels]
        for name in joined:
            channel = self._channels.get(name.key)
            if channel is None:
                channel = self._channels[name.key] = Channel(name)
                self.wishes.want_channel(channel.symbol_id, channel.interest)
            channel.sessions[session] = JOINING
            session.channels[name.key] = name.text
        try:
            if joined:
                await self.wishes.channels_served()
        except BaseException:
            for name in joined:
                self.leave(session, name.key)
            raise

        async def begin() -> None:
            for name in joined:
                await session.room()
                if name.key in session.channels:
                    self._begin(session, name.key)

        return begin

    def leave(self, session: Session, key: Key) -> None:
        """End a subscription."""
        session.channels.pop(key, None)
        session.drop(key)
        channel = self._channels.get(key)
        if channel is not None and channel.sessions.pop(session, None) is not None and not channel.sessions:
            del self._channels[key]
            self.wishes.leave_channel(channel.symbol_id, channel.interest)

    def give(self, session: Session, message: Message, key: Key | None = None) -> None:
        """Have a session told something; it goes out with the next flush."""
        session.push(message, key)
        self._fresh.add(session)

    def flush(self) -> None:
        """Send what sessions were given."""
        fresh, self._fresh = self._fresh, set()
        for session in fresh:
            session.flush()

    def scan(self) -> int:
        """Pass on what is new on the feed; returns how many messages."""
        try:
            messages = self._feed.read()
        except Lapped:
            self.metrics.lapped()
            self._tell_gap(None)
            return 1
        for message in messages:
            self._pass_on(message)
        if messages:
            self.flush()
            self.metrics.delivered(self._feed.timestamps_ns)
            self.metrics.read(len(messages))
        return len(messages)

    def fetch_book(self, session: Session, key: Key) -> Message | None:
        """Give a session the book as it is, from which its next changes follow; None: it is told later."""
        channel = self._channels.get(key)
        if channel is None or session not in channel.sessions:
            return None
        book = self._present.read(FeedKind.BOOK, channel.symbol_id)
        if book is None:
            channel.sessions[session] = 0
            self._unread.add(key)
            return None
        channel.sessions[session] = book.sequence
        return book.message

    async def look_after(self) -> None:
        """End sessions whose time is over, and ping the others, for as long as the front runs."""
        while True:
            await trio.sleep(LOOK_INTERVAL_S)
            now_s = trio.current_time()
            for session in tuple(self._sessions):
                objection = self.object_to(session.caller) if session.caller is not None else None
                if objection is not None:
                    session.end(objection.close_code, objection.reason)
                elif session.stalled_s > self.limits.stall_timeout_s:
                    session.end(TOO_SLOW, "reads too slowly")
                    self.nursery.start_soon(session.socket.abort)
                elif now_s >= session.next_ping_s:
                    session.next_ping_s = now_s + self.limits.ping_interval_s
                    if session.socket.silent_pings >= SILENT_PINGS_MAX:
                        self.nursery.start_soon(session.socket.abort)
                    else:
                        self.nursery.start_soon(session.socket.ping)
            for key in tuple(self._unread):
                self._tell_present(key)
            self.flush()
            self.metrics.show(self._sessions, len(self._channels))
            self._roll.show(self._sessions)

    async def say_goodbye(self, in_seconds: float) -> None:
        """Tell everyone that the server stops, and end their sessions a moment later."""
        self.stopping = True
        if not self._sessions:
            return
        message = Message(encode(ServerShutdown(in_seconds=in_seconds)))
        for session in self._sessions:
            self.give(session, message)
        self.flush()
        await trio.sleep(in_seconds)
        for session in tuple(self._sessions):
            session.end(RESTART, "the server restarts")

    def _pass_on(self, message: FeedMessage) -> None:
        kind = message.kind
        if kind == FeedKind.ORDER:
            self.private.tell_order(message)
        elif kind == FeedKind.BOOK:
            self._pass_book(message)
        elif kind == FeedKind.CHANNELS_SERVED:
            if message.account_id == self.private.front_number:
                self.wishes.note_channels(message.sequence)
        elif kind == FeedKind.ORDERS_SERVED:
            if message.account_id == self.private.front_number:
                self.wishes.note_orders(message.sequence, message.text.decode())
        elif kind == FeedKind.GAP:
            self._tell_gap(message.shard)
        else:
            self._pass_plain(message)

    def _pass_plain(self, message: FeedMessage) -> None:
        key = (message.kind, message.symbol_id, message.time_frame)
        channel = self._channels.get(key)
        if channel is None:
            return
        whole = Message(message.text)
        merged = key if message.kind in MERGED else None
        if message.kind == FeedKind.STATUS:
            if message.sequence <= channel.told:
                return  # what was told, of how it is now, includes it
            channel.told = message.sequence
        channel.latest = whole if message.kind != FeedKind.TRADE else None
        for session, at in channel.sessions.items():
            if at != JOINING:
                session.push(whole, merged)
        self._fresh.update(channel.sessions)
        self.metrics.passed(len(channel.sessions))

    def _pass_book(self, message: FeedMessage) -> None:
        key = (FeedKind.BOOK, message.symbol_id, 0)
        channel = self._channels.get(key)
        if channel is None:
            return
        whole = Message(message.text)
        sequence, previous_sequence = message.sequence, message.previous_sequence
        lost = []
        for session, at in channel.sessions.items():
            if at == previous_sequence > UNTOLD:
                session.push(whole, key)
                channel.sessions[session] = sequence
            elif JOINING < at < sequence or previous_sequence < 0 <= at:
                lost.append(session)
        self._fresh.update(channel.sessions)
        self.metrics.passed(len(channel.sessions))
        if lost:
            self._tell_present(key, lost)

    def _begin(self, session: Session, key: Key) -> None:
        """Give a session what a channel begins with."""
        channel = self._channels[key]
        channel.sessions[session] = UNTOLD
        if channel.latest is not None:
            self.give(session, channel.latest, key if key[0] in MERGED else None)
        elif key[0] in {FeedKind.BOOK, FeedKind.STATUS}:
            self._tell_present(key, [session])

    def _tell_present(self, key: Key, sessions: Iterable[Session] = ()) -> None:
        """Tell sessions, or all that may have missed something, how a channel is; later, if it cannot be read now."""
        self._unread.discard(key)
        channel = self._channels.get(key)
        if channel is None:
            return
        told = self._present.read(key[0], channel.symbol_id)
        if told is None:
            self._unread.add(key)
            return
        sequence, message = told
        if key[0] == FeedKind.STATUS:
            # Events are published a moment before the table says so.
            if sequence < channel.told and channel.latest is not None:
                message = channel.latest
            channel.told, channel.latest = max(sequence, channel.told), message
        is_book = key[0] == FeedKind.BOOK
        for session in sessions or [
            session for session, at in channel.sessions.items() if at != JOINING and (at < sequence or not is_book)
        ]:
            if is_book:
                channel.sessions[session] = sequence
                self.metrics.snapshot()
            self.give(session, message, key if is_book else None)

    def _tell_gap(self, shard: int | None) -> None:
        """Tell how things are, and what is missing, where messages about a shard (None: any) were lost."""
        symbols = self._pages.directory().symbols
        for key, channel in tuple(self._channels.items()):
            if shard not in {None, symbols[channel.symbol_id].shard}:
                continue
            if self._present.knows(key[0]):
                self._tell_present(key)
            else:
                channel.latest = None
        self.wishes.ask_again()
        self.private.resync_all()
        self.flush()


def _too_many(maximum: int, what: str) -> ApiError:
    return ApiError(
        "RATE_LIMITED", "There are too many connections.", {"field": what, "maximum": maximum}, {"Retry-After": "10"}
    )
