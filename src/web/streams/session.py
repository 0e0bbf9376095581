"""A session: one client's connection, what waits for it, and when patience with it ends.

Messages are pushed and go out together at the next flush; what the kernel does not take at once, a task of its own
brings out. A client that falls behind gets changes of books, tickers and candles merged; one that stays behind is
closed.

Rule 1: what waits is bounded in bytes and in time. Rule 2: nothing that was pushed is left out, except what merging
replaces, unless the session ends. Rule 3: nobody waits for a client but its own task.
It refuses to know channels and what messages say.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import trio

from tradeengine.web.address import network_of
from tradeengine.web.streams.merging import Merging
from tradeengine.web.streams.wire import Message, pack

if TYPE_CHECKING:
    from collections.abc import Callable

    from tradeengine.settings import Streams
    from tradeengine.web.auth import Identity
    from tradeengine.web.streams.merging import Key
    from tradeengine.web.streams.tasks import Tasks
    from tradeengine.web.websocket import ClientSocket

TOKEN_EXPIRED: Final = 4001
SUSPENDED: Final = 4003
TOO_SLOW: Final = 4008
ABUSE: Final = 4009
RESTART: Final = 1012
TRY_AGAIN: Final = 1013
PIECE_BYTES: Final = 65_536
"""Goes out at once to a client that is behind; each piece that it takes is a sign of life."""
STRIKES_MAX: Final = 20
"""Requests that are malformed or too many, before a client is closed; one is forgiven each second."""
ENTRY_BYTES: Final = 64
"""What a waiting message costs besides its text, about."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who a session belongs to, and until when its token counts (seconds since 1970)."""

    identity: Identity
    account_id: int
    expires_s: float


class Session:
    """One client."""

    __slots__ = (
        "_all_out",
        "_bytes",
        "_draining",
        "_fetch_snapshot",
        "_limits",
        "_merging",
        "_merging_on",
        "_note_merge",
        "_nursery",
        "_queue",
        "_strikes",
        "_strikes_at_s",
        "_taken",
        "_tokens",
        "_tokens_at_s",
        "address",
        "after_sign_in",
        "batch",
        "binary",
        "caller",
        "channels",
        "closing",
        "moved_s",
        "network",
        "next_ping_s",
        "order_symbols",
        "orders",
        "pending",
        "scope",
        "sent_count",
        "since_ns",
        "socket",
        "wants_balances",
    )

    def __init__(
        self,
        socket: ClientSocket,
        limits: Streams,
        nursery: Tasks,
        fetch_snapshot: Callable[[Session, Key], Message | None],
        *,
        address: str,
        binary: bool,
        batch: bool,
        note_merge: Callable[[], None] = lambda: None,
    ) -> None:
        """Begin without subscriptions.

        fetch_snapshot: gives a session the present book of a channel. note_merge: called when a message is left out
        because a newer one says it all.
        """
        self.socket = socket
        self.address = address
        self.network = network_of(address)
        self.binary = binary
        self.batch = batch
        self.caller: Caller | None = None
        self.channels: dict[Key, str] = {}
        """Public channels by key, with their names."""
        self.orders: Any = None
        """What ``hub`` knows of this session's own orders; None: it has not subscribed to them."""
        self.wants_balances = False
        self.after_sign_in: Any = None
        """What it will have subscribed to once it has said who it is."""
        self.order_symbols: dict[int, int] = {}
        """Symbols of the latest orders that were placed here, by order id."""
        self.pending = 0
        """Commands whose answer is on its way."""
        self.closing: tuple[int, str] | None = None
        self.scope = trio.CancelScope()
        """Around the task that reads; cancelled when the session shall end."""
        self.since_ns = time.time_ns()
        self.sent_count = 0
        """Messages that went out."""
        self.moved_s = trio.current_time()
        """When the client last took something, or had nothing to take."""
        self.next_ping_s = self.moved_s + limits.ping_interval_s
        self._limits = limits
        self._nursery = nursery
        self._fetch_snapshot = fetch_snapshot
        self._queue: list[Message] = []
        self._bytes = 0
        self._merging = Merging()
        self._merging_on = False
        self._note_merge = note_merge
        self._draining = False
        self._all_out: trio.Event | None = None
        self._taken = trio.Event()
        self._tokens = float(limits.messages_per_s_max)
        self._tokens_at_s = self.moved_s
        self._strikes = 0.0
        self._strikes_at_s = self.moved_s

    @property
    def stalled_s(self) -> float:
        """How long something has waited without the client taking any of it."""
        return trio.current_time() - self.moved_s if self._draining else 0.0

    @property
    def waiting_bytes(self) -> int:
        """What waits for the client, about."""
        return self._bytes

    def push(self, message: Message, key: Key | None = None) -> None:
        """Have a message sent at the next flush. key: its channel, if a later message of it may stand for this one."""
        if self.closing is not None:
            return
        if self._merging_on and key is not None:
            if self._merging.add(key, message):
                self._note_merge()
            return
        waited = self._bytes
        self._queue.append(message)
        self._bytes += len(message.json) + ENTRY_BYTES
        if self._bytes > self._limits.merge_bytes and self._draining:
            self._merging_on = True
        # A message alone may be of any size.
        if waited and self._bytes > self._limits.queue_bytes_max:
            self.flush()  # what nobody has tried to send yet does not wait for the client
            if self._bytes > self._limits.queue_bytes_max:
                self.end(TOO_SLOW, "reads too slowly")

    def flush(self) -> None:
        """Send what was pushed, as far as the client takes it now."""
        if self._draining or not self._queue:
            return
        if self.socket.write_now(self._pack(self._queue)):
            self._queue.clear()
            self._bytes = 0
            return
        self._queue.clear()
        self._draining = True
        self.moved_s = trio.current_time()
        self._nursery.start_soon(self._drain)

    def end(self, code: int, reason: str) -> None:
        """Have the connection closed with this code. What waits is still sent, unless it is too much already."""
        if self.closing is None:
            self._taken.set()
            self.closing = (code, reason)
            if code == TOO_SLOW:
                self._queue.clear()
                self._merging.take()
            self.scope.cancel()

    def drop(self, key: Key) -> None:
        """Forget what waits of a channel."""
        self._merging.drop(key)

    async def room(self) -> None:
        """Wait until so little waits that much may be pushed: a beginning can be larger than what may wait."""
        self.flush()
        while self._bytes > self._limits.merge_bytes and self._draining and self.closing is None:
            self._taken = trio.Event()
            await self._taken.wait()

    async def finish(self) -> None:
        """Wait until everything that waits is out."""
        self.flush()
        if self._draining:
            self._all_out = trio.Event()
            await self._all_out.wait()

    def may_ask(self) -> bool:
        """Count a request against what a client may send; returns whether it is within it."""
        now_s = trio.current_time()
        rate = self._limits.messages_per_s_max
        self._tokens = min(self._tokens + (now_s - self._tokens_at_s) * rate, float(rate))
        self._tokens_at_s = now_s
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True

    def strike(self) -> bool:
        """Count a request that no honest client sends; returns whether it was one too many."""
        now_s = trio.current_time()
        self._strikes = max(self._strikes - (now_s - self._strikes_at_s), 0.0) + 1
        self._strikes_at_s = now_s
        return self._strikes > STRIKES_MAX

    def _pack(self, messages: list[Message]) -> bytes:
        self.sent_count += len(messages)
        return pack(messages, binary=self.binary, batch=self.batch)

    async def _drain(self) -> None:
        """Bring out what the client does not take at once, piece by piece."""
        try:
            while True:
                await self.socket.drain()
                self.moved_s = trio.current_time()
                self._taken.set()
                if not self._queue:
                    self._bytes = 0
                    if not self._merging:
                        return
                    self._take_merged()
                self.socket.write_now(self._pack(self._next_piece()))
        finally:
            self._draining = self._merging_on = False
            self._taken.set()
            if self._all_out is not None:
                self._all_out.set()

    def _take_merged(self) -> None:
        for key, message in self._merging.take():
            whole = message or self._fetch_snapshot(self, key)
            if whole is not None:
                self._queue.append(whole)
                self._bytes += len(whole.json) + ENTRY_BYTES

    def _next_piece(self) -> list[Message]:
        size, count = 0, 0
        while count < len(self._queue) and size < PIECE_BYTES:
            size += len(self._queue[count].json) + ENTRY_BYTES
            count += 1
        piece, self._queue = self._queue[:count], self._queue[count:]
        self._bytes -= min(size, self._bytes)
        return piece
