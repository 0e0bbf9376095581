"""Where admission is asked: requests and handshakes as the server hands them on, and the task that answers one.

What is refused has no task, no handler and no log line: only its head was read, the rest of it is thrown away, and the
connection is kept, because a new one costs more than many refusals.
It refuses to know who is let in: that is ``admission``'s to say.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

import hypercorn.protocol.h11
from hypercorn.protocol.events import Body, EndBody, Event, Request, Response, StreamClosed
from hypercorn.protocol.http_stream import ASGIHTTPState
from hypercorn.protocol.ws_stream import ASGIWebsocketState

from tradeengine.web import connection
from tradeengine.web.admission import Crowded, Place, working_at
from tradeengine.web.connection import BodyEnd, FrontRequest, HttpConnection
from tradeengine.web.envelope import bare_failure
from tradeengine.web.errors import overloaded
from tradeengine.web.refusals import CONNECTION_STATE, EnvelopeStream
from tradeengine.web.websocket import ClientSocket

if TYPE_CHECKING:
    from hypercorn.typing import ASGIReceiveCallable, ASGISendCallable

PLACE_STATE: Final = "place"
"""In the state of a request: its place."""
_REQUEST_ID: Final = b"x-request-id"


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
            self._place = _ask(event)
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
        status, headers, body = bare_failure(overloaded(), _request_id(request))
        await self.send(Response(stream_id=self.stream_id, headers=headers, status_code=status))
        await self.send(Body(stream_id=self.stream_id, data=body))
        await self.send(EndBody(stream_id=self.stream_id))
        self.state = ASGIHTTPState.CLOSED
        await self.send(StreamClosed(stream_id=self.stream_id))


class AdmittedSocket(ClientSocket):
    """One WebSocket connection; its handshake is a request, what comes later is not."""

    _place: Place | None = None

    async def handle(self, event: Event) -> None:
        """Take what the connection brings."""
        if isinstance(event, Request):
            self._place = _ask(event)
            if self._place is None:
                await self._refuse(event)
                return
        await super().handle(event)

    async def app_send(self, message: Any) -> None:
        """Pass on what the application says; when the handshake is answered, its place is free."""
        try:
            await super().app_send(message)
        finally:
            if self._place is not None and (message is None or self.state != ASGIWebsocketState.HANDSHAKE):
                self._place.give_back()

    async def _refuse(self, request: Request) -> None:
        status, headers, body = bare_failure(overloaded(), _request_id(request))
        headers.append((b"connection", b"close"))
        await self.send(Response(stream_id=self.stream_id, headers=headers, status_code=status))
        await self.send(Body(stream_id=self.stream_id, data=body))
        await self.send(EndBody(stream_id=self.stream_id))
        self.closed = True
        await self.send(StreamClosed(stream_id=self.stream_id))


class AdmittedConnection(HttpConnection):
    """The task that answers a request, when it is its turn. Waiting for the client is no work."""

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
                request.fail_body(overloaded())
        return end

    def _body_bytes_max(self) -> int:
        """How large a body may be that is taken without further ado."""
        return int(min(self.app.config["MAX_CONTENT_LENGTH"], connection.BODY_BYTES_FREE))


def _ask(request: Request) -> Place | None:
    path, _, _ = request.raw_path.partition(b"?")
    place: Place | None = request.state[CONNECTION_STATE].ask_admission(request.method, path, request.headers)
    return place


def _told_bytes(request: Request) -> float:
    """Give the length of the body: none is none, and of one in chunks nobody knows it."""
    told = {name: value for name, value in request.headers if name in {b"content-length", b"transfer-encoding"}}
    if b"transfer-encoding" in told:
        return math.inf
    return int(told.get(b"content-length", b"0"))


def _request_id(request: Request) -> str:
    return next((value.decode("latin1") for name, value in request.headers if name.lower() == _REQUEST_ID), "")


def install() -> None:
    """Let Hypercorn make its streams of ours; it offers no setting for that."""
    hypercorn.protocol.h11.HTTPStream = AdmittedStream  # type: ignore[attr-defined]
    hypercorn.protocol.h11.WSStream = AdmittedSocket  # type: ignore[attr-defined]
