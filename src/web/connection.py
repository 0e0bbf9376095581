"""How a request travels between Hypercorn and Quart: the body is read whole, then the handler answers, in one task.

quart-trio gives each request a task that reads and one that answers, and cancels the answering one as soon as the
server says that the stream is closed. But the server says so in the middle of the last ``send``, before it has closed
or recycled the connection, and that work is then cancelled too: the connection stays open and its idle timer never
starts. Here nobody is cancelled. Bodies and answers of ours are small and whole in memory, so one task does it.
A client that goes away while its command is on the way changes nothing: the wait for the outcome is bounded.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import TYPE_CHECKING, Any, ClassVar, Final, cast

import trio
from quart import Response
from quart.utils import encode_headers
from quart_trio.asgi import TrioASGIHTTPConnection
from quart_trio.wrappers import TrioRequest
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge, RequestTimeout

from tradeengine.web.errors import ApiError, overloaded

if TYPE_CHECKING:
    from collections.abc import Iterable

    from hypercorn.typing import (
        ASGIReceiveCallable,
        ASGISendCallable,
        HTTPResponseBodyEvent,
        HTTPResponseStartEvent,
    )

BODY_TIMEOUT_S: Final = 20
DISCARD_BYTES_MAX: Final = 1 << 24
BODY_BYTES_FREE: Final = 1 << 14
"""So much of each body is taken, however many come at once: more than any single order has."""
BODIES_BYTES_MAX: Final = 1 << 26
"""What bodies that are on their way, or being answered, hold beyond that, all together in one process."""
LENGTH_DIGITS_MAX: Final = 20
"""As many as the server takes."""


class BodyEnd(Enum):
    """How the reading of a body ended."""

    WHOLE = auto()
    CUT = auto()
    """There is more, which nobody wants."""
    GONE = auto()
    """The client hung up before the end, or broke it: what it wanted is not done, and nobody will read an answer."""


class FrontRequest(TrioRequest):
    """A request whose body has been read before the handler sees it."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._whole_body = b""
        self._fault: HTTPException | ApiError | None = None

    def keep_body(self, body: bytes) -> None:
        """Take the whole body."""
        self._whole_body = body

    def fail_body(self, fault: HTTPException | ApiError) -> None:
        """Take what shall be raised where the body is asked for."""
        self._fault = fault

    def whole_body(self) -> bytes:
        """Give the body. Raises RequestEntityTooLarge, RequestTimeout, ApiError ENGINE_OVERLOADED."""
        if self._fault is not None:
            raise self._fault
        return self._whole_body


class BodyRoom:
    """Memory for bodies that all requests of a process share: who connects often, and never finishes, gets no more."""

    def __init__(self, bytes_max: int) -> None:
        self._free_bytes = bytes_max

    def take(self, byte_count: int) -> bool:
        """Take room; returns whether there was any."""
        if byte_count > self._free_bytes:
            return False
        self._free_bytes -= byte_count
        return True

    def give_back(self, byte_count: int) -> None:
        """Give room back that was taken."""
        self._free_bytes += byte_count


class HttpConnection(TrioASGIHTTPConnection):
    """One request and its answer."""

    room: ClassVar[BodyRoom] = BodyRoom(BODIES_BYTES_MAX)
    _held_bytes: int = 0

    async def __call__(self, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        """Read, let the handler answer, send."""
        try:
            await self._serve(receive, send)
        finally:
            self.room.give_back(self._held_bytes)

    async def _serve(self, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        request = cast(FrontRequest, self._create_request_from_scope(send))
        end = await self._read_body(request, receive)
        if end is BodyEnd.GONE:
            return
        if end is BodyEnd.WHOLE:
            await self._answer(request, send)
            return
        async with trio.open_nursery() as nursery:
            # The rest of the body is thrown away meanwhile: the server waits for whoever does not take it.
            nursery.start_soon(_discard, receive)
            await self._answer(request, send)
            nursery.cancel_scope.cancel()

    async def _read_body(self, request: FrontRequest, receive: ASGIReceiveCallable) -> BodyEnd:
        """Give the request its body, or what is wrong with it; returns how it ended.

        A body that is too large is read on for a while and thrown away: a client that is still sending when the
        connection closes would never see the answer. Of one that says that it will be endless nothing is read.
        """
        body = bytearray()
        byte_count = 0
        maximum = self.app.config["MAX_CONTENT_LENGTH"]
        if _told_length(self.scope["headers"]) > maximum + DISCARD_BYTES_MAX:
            request.fail_body(RequestEntityTooLarge())
            return BodyEnd.CUT
        with trio.move_on_after(BODY_TIMEOUT_S):
            while byte_count <= maximum + DISCARD_BYTES_MAX:
                message = await receive()
                if message["type"] != "http.request":
                    return BodyEnd.GONE
                part = message.get("body", b"")
                byte_count += len(part)
                if byte_count <= maximum:
                    if not self._hold(byte_count):
                        request.fail_body(overloaded())
                        return BodyEnd.CUT
                    body += part
                if not message.get("more_body", False):
                    if byte_count <= maximum:
                        request.keep_body(bytes(body))
                    else:
                        request.fail_body(RequestEntityTooLarge())
                    return BodyEnd.WHOLE
        request.fail_body(RequestEntityTooLarge() if byte_count > maximum else RequestTimeout())
        return BodyEnd.CUT

    def _hold(self, byte_count: int) -> bool:
        """Take room for so much of this body in all; returns whether there was any."""
        more_bytes = max(0, byte_count - BODY_BYTES_FREE) - self._held_bytes
        if not self.room.take(more_bytes):
            return False
        self._held_bytes += more_bytes
        return True

    async def _answer(self, request: FrontRequest, send: ASGISendCallable) -> None:
        response = cast(Response, await self.app.handle_request(request))
        body = await response.get_data(as_text=False)
        await send_answer(send, response.status_code, encode_headers(response.headers), body)


async def send_answer(send: ASGISendCallable, status: int, headers: Iterable[tuple[bytes, bytes]], body: bytes) -> None:
    """Send an answer that is whole."""
    start: HTTPResponseStartEvent = {"type": "http.response.start", "status": status, "headers": headers}
    end: HTTPResponseBodyEvent = {"type": "http.response.body", "body": body, "more_body": False}
    await send(start)
    await send(end)


def _told_length(headers: Iterable[tuple[bytes, bytes]]) -> int:
    """Give the length that a request tells; 0 when it tells none. How a wrong one is refused is the server's to say."""
    told = next((value for name, value in headers if name.lower() == b"content-length"), b"")
    return int(told) if told.isdigit() and len(told) <= LENGTH_DIGITS_MAX else 0


async def _discard(receive: ASGIReceiveCallable) -> None:
    while (await receive())["type"] == "http.request":
        pass
