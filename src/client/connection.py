"""One WebSocket while it lasts: operations out, their answers back to who asked, everything else handed on.

Rule 1: one task reads and one writes; nobody else touches the socket, so that a caller who is cancelled leaves no half
frame behind.
Rule 2: whoever hands on a message may take its time: meanwhile nothing is read, the engine notices, and memory is
bounded on this side.
Rule 3: when the connection ends, everyone who waits for an answer gets ``NoAnswer``.
It refuses to know subscriptions, and what comes after its end.
"""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import trio
from msgspec import Raw
from websockets.exceptions import ConnectionClosed
from websockets.trio.client import ClientConnection

from tradeengine.client.codec import MSGPACK, Codec
from tradeengine.client.errors import ApiError, ClientError, NoAnswer
from tradeengine.client.messages import Ack, Failed, Message

T = TypeVar("T")
Deliver = Callable[[Message], Awaitable[None]]

FRAME_UNREADABLE: Final = 1007
CLOSE_TIMEOUT_S: Final = 1.0


@dataclass(frozen=True)
class Ended:
    """How a connection ended: the code of the close frame, None when there was none."""

    code: int | None
    reason: str


@dataclass
class _Waiter:
    """Someone who waits for an answer."""

    answered: trio.Event = field(default_factory=trio.Event)
    data: Raw = field(default_factory=Raw)
    error: ClientError | None = None


class Connection:
    """An open connection; ``run`` must be running for anything to move."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._codec = Codec(is_binary=socket.subprotocol == MSGPACK)
        self._numbers = itertools.count(1)
        self._waiting: dict[int | str | None, _Waiter] = {}
        # No buffer: what is handed over is being sent, what is not can still be taken back.
        self._outbox, self._outgoing = trio.open_memory_channel[bytes](0)

    async def run(self, deliver: Deliver) -> Ended:
        """Read and write until the connection ends; returns how it did."""
        with self._outbox, self._outgoing:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._write)
                try:
                    return await self._read(deliver)
                finally:
                    nursery.cancel_scope.cancel()
                    self._fail_waiting()

    async def ask(self, operation: Mapping[str, Any], kind: type[T]) -> T:
        """Send an operation and wait for its answer.

        Raises ApiError for a refusal, NoAnswer when the connection ends before there is an answer, ClientError for an
        answer that makes no sense.
        """
        number = next(self._numbers)
        waiter = self._waiting[number] = _Waiter()
        try:
            await self._outbox.send(self._codec.encode({**operation, "id": number}))
            await waiter.answered.wait()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise NoAnswer("the connection ended before this was sent", is_sent=False) from None
        finally:
            del self._waiting[number]
        if waiter.error is not None:
            raise waiter.error
        try:
            return self._codec.read_data(waiter.data, kind)
        except ValueError as error:
            raise ClientError(f"the answer of the engine could not be read: {error}") from error

    async def aclose(self) -> None:
        """Say goodbye and close, without waiting long for an answer."""
        with trio.move_on_after(CLOSE_TIMEOUT_S):
            await self._socket.aclose()

    async def _read(self, deliver: Deliver) -> Ended:
        while True:
            try:
                frame = await self._socket.recv(decode=False)
            except ConnectionClosed:
                return Ended(self._socket.close_code, self._socket.close_reason or "the connection was lost")
            try:
                messages = self._codec.read(frame)
            except ValueError as error:
                return Ended(FRAME_UNREADABLE, f"a frame of the engine could not be read: {error}")
            for message in messages:
                if not self._is_answer(message):
                    await deliver(message)

    def _is_answer(self, message: Message) -> bool:
        """Give an answer to who waits for it. What nobody waits for any more is dropped; complaints are not answers."""
        if not isinstance(message, Ack | Failed) or message.id is None:
            return False
        waiter = self._waiting.get(message.id)
        if waiter is not None:
            if isinstance(message, Ack):
                waiter.data = message.data
            else:
                waiter.error = ApiError(message.code, message.message, message.details)
            waiter.answered.set()
        return True

    def _fail_waiting(self) -> None:
        for waiter in self._waiting.values():
            if not waiter.answered.is_set():
                waiter.error = NoAnswer("the connection ended before the answer came")
                waiter.answered.set()

    async def _write(self) -> None:
        async for frame in self._outgoing:
            try:
                await self._socket.send(frame, text=not self._codec.is_binary)
            except ConnectionClosed:
                return  # the reader notices, too
