"""What is refused below the application, answered in the envelope all the same.

Hypercorn answers a request that breaks the protocol, and one whose application fails, with a bare status. Here these
answers have the body that every other failure has, so that no client needs a second way to read one.
It refuses to know what a right request is: that is h11's and wsproto's to say.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Final

import h11
from hypercorn.events import Closed, Event, RawData
from hypercorn.protocol.events import Body, EndBody, Response
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.protocol.http_stream import ASGIHTTPState, HTTPStream
from hypercorn.utils import suppress_body

from tradeengine.web.envelope import bare_failure
from tradeengine.web.errors import ApiError
from tradeengine.web.framing import ambiguity, strict_connection
from tradeengine.web.jsonbody import printable

if TYPE_CHECKING:
    from hypercorn.config import Config
    from hypercorn.typing import AppWrapper

CONNECTION_STATE: Final = "connection"
"""In the state of a connection: the server's own end of it."""
HEADERS_MAX: Final = 128
_CODES: Final = {
    404: "NOT_FOUND",
    408: "REQUEST_TIMEOUT",
    431: "HEADERS_TOO_LARGE",
    500: "INTERNAL",
    501: "NOT_IMPLEMENTED",
}
"""Everything else is INVALID_REQUEST."""
_MESSAGES: Final = {
    "HEADERS_TOO_LARGE": f"The request line and the headers are too large together, or more than {HEADERS_MAX}.",
    "REQUEST_TIMEOUT": "The request line and the headers did not arrive in time.",
    "INTERNAL": "The server made a mistake; quote the request id when you report it.",
    "NOT_IMPLEMENTED": "The body must come as it is, with a Content-Length or in chunks.",
}


class EnvelopeProtocol(H11Protocol):
    """One HTTP/1.1 connection."""

    _is_over = False
    """What still comes is not read: a request was refused, or the client is gone."""

    def __init__(self, app: AppWrapper, config: Config, *rest: Any) -> None:
        """Serve one connection. rest: as Hypercorn passes it."""
        super().__init__(app, config, *rest)
        self.connection = strict_connection(config.h11_max_incomplete_size)

    async def handle(self, event: Event) -> None:
        """Take what the connection brings; of a head that has begun the connection is told, so that it ends in time."""
        if isinstance(event, Closed):
            self._is_over = True
        elif self._is_over:
            return
        await super().handle(event)
        if isinstance(event, RawData) and self.stream is None and self.connection.trailing_data[0]:
            self.connection_state[CONNECTION_STATE].head_begins()

    async def refuse_slow_head(self) -> None:
        """Answer a head that takes too long; what still comes of it is not read."""
        self._is_over = True
        if self.connection.our_state in {h11.IDLE, h11.SEND_RESPONSE}:
            await self._send_error_response(408)

    async def _create_stream(self, request: h11.Request) -> None:
        if self._is_over:
            return  # a thousand requests may wait behind the one whose answer nobody took
        if len(request.headers) > HEADERS_MAX:
            await self._refuse_head(431, None)
        elif why := ambiguity(request):
            await self._refuse_head(400, h11.RemoteProtocolError(why))
        else:
            await super()._create_stream(request)

    async def _check_protocol(self, event: h11.Request) -> None:
        """Take up no other protocol: see docs/decisions/0032."""

    async def _refuse_head(self, status_code: int, error: BaseException | None) -> None:
        self._is_over = True
        await self._refuse(status_code, error)
        await self.send(Closed())

    async def _send_h11_event(self, event: Any) -> None:
        try:
            await super()._send_h11_event(event)
        except h11.LocalProtocolError:
            if not self._is_over:
                raise  # else it is the rest of an answer that nobody waits for

    async def _send_error_response(self, status_code: int) -> None:
        # Called while the error is being handled, which alone says what is wrong.
        await self._refuse(status_code, sys.exception())

    async def _refuse(self, status_code: int, error: BaseException | None) -> None:
        self.connection_state[CONNECTION_STATE].is_malformed()
        status, headers, body = refusal(status_code, error)
        await self._send_h11_event(h11.Response(status_code=status, headers=headers))
        await self._send_h11_event(h11.Data(data=body))
        await self._send_h11_event(h11.EndOfMessage())
        await self.connection_state[CONNECTION_STATE].linger()


class EnvelopeStream(HTTPStream):
    """One request and its answer."""

    async def _send_error_response(self, status_code: int) -> None:
        await self._send_whole(self.scope["method"], *refusal(status_code))

    async def _send_whole(self, method: str, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
        """Send an answer that the application does not give."""
        await self.send(Response(stream_id=self.stream_id, headers=headers, status_code=status))
        if not suppress_body(method, status):
            await self.send(Body(stream_id=self.stream_id, data=body))
        await self.send(EndBody(stream_id=self.stream_id))
        self.state = ASGIHTTPState.CLOSED


def refusal(status_code: int, error: BaseException | None = None) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    """Put a refusal into words: status, headers, body. error: what the protocol's reader says."""
    code = _CODES.get(status_code, "INVALID_REQUEST")
    reason = printable(str(error)) if error is not None else ""
    message = _MESSAGES.get(code, f"This is no request that can be read: {reason or 'it breaks the protocol'}.")
    details = {"reason": reason} if reason else {}
    return bare_failure(ApiError(code, message, details, {"Connection": "close"}))
