"""Where admission is asked: requests and handshakes as the server hands them on, and the task that answers one.

What is refused has no task, no handler and no log line: only its head was read, the rest of it is thrown away, and the
connection is kept, because a new one costs more than many refusals. While others wait, a request that came whole and is
plain is refused even before h11 reads it: a refusal must cost next to nothing, or there is nothing left to answer with.
It refuses to know who is let in: that is ``admission``'s to say.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import h11
import hypercorn.protocol
import hypercorn.protocol.h11
import trio
from hypercorn.events import RawData, Updated
from hypercorn.protocol.events import Body, EndBody, Event, Request, StreamClosed
from hypercorn.protocol.ws_stream import ASGIWebsocketState

from tradeengine.web import connection
from tradeengine.web.address import client_address, network_of
from tradeengine.web.admission import Admission, Crowded, Place, working_at
from tradeengine.web.connection import BodyEnd, FrontRequest, HttpConnection, send_answer
from tradeengine.web.envelope import bare_failure
from tradeengine.web.errors import overloaded
from tradeengine.web.origins import origin_headers
from tradeengine.web.refusals import CONNECTION_STATE, EnvelopeProtocol, EnvelopeStream
from tradeengine.web.websocket import ClientSocket
from tradeengine.web.whole_request import WholeRequest, read_whole

if TYPE_CHECKING:
    from collections.abc import Iterable

    from hypercorn.events import Event as ConnectionEvent
    from hypercorn.typing import ASGIReceiveCallable, ASGISendCallable

PLACE_STATE: Final = "place"
"""In the state of a request: its place."""


@dataclass(frozen=True)
class Trusted:
    """Whose word is taken: proxies that say for whom they ask, and origins whose pages may read answers."""

    proxies: frozenset[str] = frozenset()
    origins: tuple[str, ...] = ()


class Door:
    """One connection's way to ask for admission: it knows who is at its other end."""

    def __init__(self, admission: Admission, address: str, trusted: Trusted) -> None:
        """Ask ``admission``. address: the peer's; of a trusted proxy each request says whose it is."""
        self._admission = admission
        self._address = address
        self._network = network_of(address)
        self._trusted = trusted

    def ask(self, request: Request) -> Place | None:
        """Let a request in; None: it is refused."""
        path, _, _ = request.raw_path.partition(b"?")
        return self._admission.ask(request.method, path, self._whose(request.headers))

    @property
    def is_quiet(self) -> bool:
        """Whether nobody waits, so that nobody is refused."""
        return self._admission.is_quiet

    def refuses(self, data: bytes) -> WholeRequest | None:
        """Refuse what came, if it is one plain request and there is no room for it."""
        request = read_whole(data)
        if request is None:
            return None
        is_refused = self._admission.refuses(request.method, request.path, self._whose(request.headers))
        return request if is_refused else None

    def refusal(self, headers: Iterable[tuple[bytes, bytes]]) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
        """Put a refusal into words: status, headers, body. headers: the request's."""
        told = {name.lower(): value.decode("latin1") for name, value in headers}
        error = overloaded()
        error.headers.update(origin_headers(told.get(b"origin"), self._trusted.origins))
        return bare_failure(error, told.get(b"x-request-id", ""))

    def _whose(self, headers: Iterable[tuple[bytes, bytes]]) -> str:
        if self._address not in self._trusted.proxies:
            return self._network
        forwarded_for = b",".join(value for name, value in headers if name.lower() == b"x-forwarded-for")
        return network_of(client_address(self._address, forwarded_for.decode("latin1"), self._trusted.proxies))


class AdmittedProtocol(EnvelopeProtocol):
    """One HTTP/1.1 connection."""

    async def handle(self, event: ConnectionEvent) -> None:
        """Take what the connection brings."""
        door: Door = self.connection_state[CONNECTION_STATE].door
        request = None
        if isinstance(event, RawData) and not door.is_quiet and self._is_between():
            request = door.refuses(event.data)
        if request is None:
            await super().handle(event)
            return
        status, headers, body = door.refusal(request.headers)
        lines = [b"HTTP/1.1 %d " % status]
        lines += [b"%b: %b" % header for header in (*headers, *self.config.response_headers("h11"))]
        await self.send(Updated(idle=False))
        await self.send(RawData(b"\r\n".join((*lines, b"", body))))
        await self.send(Updated(idle=True))

    def _is_between(self) -> bool:
        """Whether the last request is over, nothing of the next has come, and there may be a next one."""
        return (
            self.stream is None
            and not self._is_over
            and self.connection.our_state is h11.IDLE
            and not self.connection.trailing_data[0]
            and not self.context.terminated.is_set()
        )


class AdmittedStream(EnvelopeStream):
    """One request and its answer."""

    _place: Place | None = None
    _refused: Request | None = None
    _told_bytes: float = math.inf
    _missing_bytes: float = math.inf
    """Length of the body, and what has not come of it."""

    async def handle(self, event: Event) -> None:
        """Take what the connection brings; of a request that is refused nothing but its end."""
        if isinstance(event, Request):
            self._place = _door(event).ask(event)
            if self._place is None:
                self._refused = event
                # The rest of it must come in time, as a head must.
                event.state[CONNECTION_STATE].head_begins()
            else:
                event.state[PLACE_STATE] = self._place
                self._told_bytes = self._missing_bytes = _told_bytes(event)
                if not self._told_bytes:
                    self._take(b"", 0)
                await super().handle(event)
        elif self._refused is None:
            await self._pass_on(event)
        elif isinstance(event, EndBody) and not self.closed:
            await self._refuse(self._refused)
        elif isinstance(event, StreamClosed):
            self.closed = True

    async def app_send(self, message: Any) -> None:
        """Pass on what the application says; at its end its place is free, whatever became of it."""
        if message is None and self._place is not None:
            self._place.give_back()
        await super().app_send(message)

    async def _pass_on(self, event: Event) -> None:
        """Pass on a body, in one message where it came in one piece: each message is a turn of the event loop."""
        assert self._place is not None
        if isinstance(event, Body):
            self._take(event.data, self._missing_bytes - len(event.data))
            if self._place.body is not None:
                return
        elif isinstance(event, EndBody) and self._place.body and not self.closed:
            await self.app_put({"type": "http.request", "body": self._place.body, "more_body": False})
            return
        await super().handle(event)

    def _take(self, piece: bytes, missing_bytes: float) -> None:
        """Note what came and what is missing, before anybody else goes on."""
        assert self._place is not None
        is_first = self._missing_bytes == self._told_bytes
        self._missing_bytes = missing_bytes
        if missing_bytes == 0:
            self._place.is_whole = True
            if is_first:
                self._place.body = bytes(piece)

    async def _refuse(self, request: Request) -> None:
        # A thousand requests may have come in one piece: others have their turn between them.
        await trio.lowlevel.checkpoint()
        await self._send_whole(request.method, *_door(request).refusal(request.headers))
        await self.send(StreamClosed(stream_id=self.stream_id))


class AdmittedSocket(ClientSocket):
    """One WebSocket connection; its handshake is a request, what comes later is not."""

    _place: Place | None = None

    async def handle(self, event: Event) -> None:
        """Take what the connection brings."""
        if isinstance(event, Request):
            self._place = _door(event).ask(event)
            if self._place is None:
                await self._refuse(event)
                return
        try:
            await super().handle(event)
        finally:
            if self._place is not None and self.app_put is None:
                self._place.give_back()  # it was no handshake, and nobody was asked

    async def app_send(self, message: Any) -> None:
        """Pass on what the application says; when the handshake is answered, its place is free."""
        try:
            await super().app_send(message)
        finally:
            if self._place is not None and (message is None or self.state != ASGIWebsocketState.HANDSHAKE):
                self._place.give_back()

    async def _refuse(self, request: Request) -> None:
        status, headers, body = _door(request).refusal(request.headers)
        await self._send_whole(status, [*headers, (b"connection", b"close")], body)
        self.closed = True
        await self.send(StreamClosed(stream_id=self.stream_id))


class AdmittedConnection(HttpConnection):
    """The task that answers a request, when it is its turn. Waiting for the client is no work."""

    _is_refused = False

    async def __call__(self, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        """Read, let the handler answer, send."""
        place: Place | None = self.scope.get("state", {}).get(PLACE_STATE)
        if place is None:
            await super().__call__(receive, send)
            return
        with working_at(place):
            await super().__call__(receive, send)

    async def _read_body(self, request: FrontRequest, receive: ASGIReceiveCallable) -> BodyEnd:
        place: Place | None = self.scope.get("state", {}).get(PLACE_STATE)
        if place is not None and not place.is_whole:
            place.stay_away()
        if place is not None and place.body is not None and len(place.body) <= self._body_bytes_max():
            request.keep_body(place.body)
            end = BodyEnd.WHOLE
        else:
            end = await super()._read_body(request, receive)
        if place is not None and end is not BodyEnd.GONE:
            try:
                await place.enter()
            except Crowded:
                self._is_refused = True
        return end

    async def _answer(self, request: FrontRequest, send: ASGISendCallable) -> None:
        if not self._is_refused:
            await super()._answer(request, send)
            return
        door: Door = self.scope["state"][CONNECTION_STATE].door
        await send_answer(send, *door.refusal(self.scope["headers"]))

    def _body_bytes_max(self) -> int:
        """How large a body may be that is taken without further ado."""
        return int(min(self.app.config["MAX_CONTENT_LENGTH"], connection.BODY_BYTES_FREE))


def _door(request: Request) -> Door:
    door: Door = request.state[CONNECTION_STATE].door
    return door


def _told_bytes(request: Request) -> float:
    """Give the length of the body: none is none, and of one in chunks nobody knows it."""
    told = {name: value for name, value in request.headers if name in {b"content-length", b"transfer-encoding"}}
    if b"transfer-encoding" in told:
        return math.inf
    return int(told.get(b"content-length", b"0"))


def install() -> None:
    """Let Hypercorn make its connections and streams of ours; it offers no setting for that."""
    hypercorn.protocol.H11Protocol = AdmittedProtocol  # type: ignore[attr-defined, assignment]
    hypercorn.protocol.h11.HTTPStream = AdmittedStream  # type: ignore[attr-defined]
    hypercorn.protocol.h11.WSStream = AdmittedSocket  # type: ignore[attr-defined]
