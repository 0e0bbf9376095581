"""A connection that is made again whenever it is lost, after a pause that grows and varies.

Rule 1: a connection counts only when its owner has restored on it what was there before: until then, nobody else may
use it.
Rule 2: what connecting again cannot mend (no such account, abuse, frames that make no sense) is final: everyone who
waits gets the reason.
It refuses to know what is restored.
"""

from __future__ import annotations

import logging
import random
import ssl
from collections.abc import Callable
from typing import Final, Protocol

import trio
from websockets.exceptions import InvalidStatus, WebSocketException
from websockets.trio.client import connect
from websockets.typing import Subprotocol

from tradeengine.client.connection import FRAME_UNREADABLE, Connection, Ended
from tradeengine.client.envelope import refusal
from tradeengine.client.errors import ApiError, ClientError, NoAnswer, StreamClosed
from tradeengine.client.messages import Message, Reconnected
from tradeengine.client.repeating import again_after_s

FRAME_BYTES_MAX: Final = 64 * 2**20
"""A resync holds every open order."""
FRAMES_MAX: Final = 16
"""Frames read ahead of who takes them."""
PING_INTERVAL_S: Final = 20.0
PING_TIMEOUT_S: Final = 40.0
SERVER_ERRORS: Final = 500
ABUSE: Final = 4009
FINAL_CODES: Final = frozenset({1002, 1003, FRAME_UNREADABLE, 1008, 1009, ABUSE})
"""Close codes after which the same would happen again."""

_logger = logging.getLogger("tradeengine.client.websocket")
# Below this, what is beneath writes down every header and frame, and tokens with them.
_logger.setLevel(logging.INFO)


class Owner(Protocol):
    """Whose connection it is."""

    async def restore(self, connection: Connection) -> None:
        """Make a new connection what the last one was. Raises ClientError when that fails."""

    async def deliver(self, message: Message) -> None:
        """Take a message; nothing is read meanwhile."""

    async def notice(self, reconnected: Reconnected) -> None:
        """Learn that there is another connection, before its first message."""

    def lost(self) -> None:
        """Learn that there is no connection now."""


class Link:
    """Keeps one connection up while ``run`` runs. headers: asked for anew each time, since tokens expire."""

    def __init__(
        self,
        owner: Owner,
        url: str,
        headers: Callable[[], dict[str, str]],
        *,
        subprotocol: str | None,
        ssl_context: ssl.SSLContext | None,
        pause_first_s: float,
        pause_longest_s: float,
        restore_timeout_s: float,
    ) -> None:
        self.fault: ClientError | None = None
        self.last_failure: ClientError | None = None
        self._owner = owner
        self._url = url
        self._headers = headers
        self._subprotocols = None if subprotocol is None else [Subprotocol(subprotocol)]
        self._ssl_context = ssl_context
        self._pause_first_s = pause_first_s
        self._pause_longest_s = pause_longest_s
        self._restore_timeout_s = restore_timeout_s
        self._connection: Connection | None = None
        self._changed = trio.Event()
        self._ended: Ended | None = None
        self._attempts = 0

    async def up(self) -> Connection:
        """Wait for a connection that may be used. Raises the reason when there will be none."""
        while True:
            if self.fault is not None:
                raise self.fault
            if self._connection is not None:
                return self._connection
            await self._changed.wait()

    async def drop(self) -> None:
        """Close the connection, if there is one; ``run`` will make another."""
        if self._connection is not None:
            await self._connection.aclose()

    def end(self, fault: ClientError) -> None:
        """End it for good: everyone who waits for a connection gets this reason. The first reason counts."""
        self.fault = self.fault or fault
        self._change(None)

    async def run(self) -> None:
        """Connect, and connect again, until there is a final reason not to."""
        failures = 0
        while self.fault is None:
            began_s = trio.current_time()
            wait_s = await self._connect()
            # A connection that held for a while was a good one, whatever ended it.
            failures = 0 if trio.current_time() - began_s > self._pause_longest_s else failures + 1
            if self.fault is None:
                await trio.sleep(max(wait_s, self._pause_s(failures)))

    async def _connect(self) -> float:
        """Connect, use the connection to its end; returns how many seconds the engine asks to wait, if it does."""
        self._attempts += 1
        try:
            async with connect(
                self._url,
                ssl=self._ssl_context,
                logger=_logger,
                subprotocols=self._subprotocols,
                # Compressing costs the engine more than sending, and delays every message.
                compression=None,
                additional_headers=self._headers(),
                max_size=FRAME_BYTES_MAX,
                max_queue=FRAMES_MAX,
                ping_interval=PING_INTERVAL_S,
                ping_timeout=PING_TIMEOUT_S,
            ) as socket:
                await self._use(Connection(socket))
        except InvalidStatus as error:
            response = error.response
            return self._failed(refusal(response.status_code, response.headers, bytes(response.body)))
        except (OSError, WebSocketException) as error:
            return self._failed(NoAnswer(f"{self._url}: {error or type(error).__name__}", is_sent=False))
        return 0.0

    async def _use(self, connection: Connection) -> None:
        if self._ended is not None:
            await self._owner.notice(
                Reconnected(code=self._ended.code, reason=self._ended.reason, attempts=self._attempts)
            )
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._restore, connection)
                self._ended = await connection.run(self._owner.deliver)
                nursery.cancel_scope.cancel()
        finally:
            self._change(None)
            self._owner.lost()
        if self._ended.code in FINAL_CODES:
            self.end(StreamClosed(self._ended.code, self._ended.reason))

    async def _restore(self, connection: Connection) -> None:
        failure: ClientError = NoAnswer(f"nothing was restored within {self._restore_timeout_s:g} s")
        with trio.move_on_after(self._restore_timeout_s):
            try:
                await self._owner.restore(connection)
            except ClientError as error:
                failure = error
            else:
                self._attempts = 0
                self._change(connection)
                return
        self._failed(failure)
        await connection.aclose()

    def _failed(self, failure: ClientError) -> float:
        """Say how long to wait after a failure at least, or end it all."""
        self.last_failure = failure
        if isinstance(failure, ApiError) and failure.status is not None and failure.status >= SERVER_ERRORS:
            return failure.retry_after_s or 0.0  # whatever it is, it is not for good
        again = again_after_s(failure, is_repeatable=True)
        if again is False:
            self.end(failure)
        return 0.0 if isinstance(again, bool) else again

    def _change(self, connection: Connection | None) -> None:
        self._connection = connection
        self._changed.set()
        self._changed = trio.Event()

    def _pause_s(self, failures: int) -> float:
        # The exponent is bounded before the result is: after a night of failures it would overflow.
        longest_s = min(self._pause_longest_s, self._pause_first_s * 2.0 ** min(failures, 32))
        return longest_s * random.uniform(0.5, 1)  # noqa: S311 - spreads load, keeps no secret
