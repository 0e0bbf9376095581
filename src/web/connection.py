"""How a request travels between Hypercorn and Quart: one task reads, one answers.

quart-trio cancels the answering task as soon as the server says that the stream is closed; but the server says so in
the middle of the last ``send``, before it has closed or recycled the connection, and that work is then cancelled too:
the connection stays open and its idle timer never starts. Here a disconnect cancels only a handler that has not begun
to answer. Every answer of ours is whole in memory, so it goes out as one message.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from hypercorn.typing import ASGIReceiveCallable, ASGISendCallable, HTTPResponseBodyEvent, HTTPResponseStartEvent
from quart import Request, Response
from quart.asgi import ASGIHTTPConnection
from quart.utils import encode_headers
from quart_trio.asgi import TrioASGIHTTPConnection

if TYPE_CHECKING:
    import trio
    from hypercorn.typing import HTTPScope
    from quart_trio import QuartTrio


class HttpConnection(TrioASGIHTTPConnection):
    """One request and its answer."""

    def __init__(self, app: QuartTrio, scope: HTTPScope) -> None:
        super().__init__(app, scope)
        self._answering = False

    async def handle_messages(  # type: ignore[override]  # trio's classes pass their nursery
        self, nursery: trio.Nursery, request: Request, receive: ASGIReceiveCallable
    ) -> None:
        """Read the body, then wait for the disconnect."""
        await ASGIHTTPConnection.handle_messages(self, request, receive)
        if not self._answering:
            nursery.cancel_scope.cancel()

    async def handle_request(  # type: ignore[override]  # as above
        self, nursery: trio.Nursery, request: Request, send: ASGISendCallable
    ) -> None:
        """Let the handler answer, and send what it says to the end."""
        response = cast(Response, await self.app.handle_request(request))
        body = await response.get_data(as_text=False)
        self._answering = True
        start: HTTPResponseStartEvent = {
            "type": "http.response.start",
            "status": response.status_code,
            "headers": encode_headers(response.headers),
        }
        end: HTTPResponseBodyEvent = {"type": "http.response.body", "body": body, "more_body": False}
        await send(start)
        await send(end)
        nursery.cancel_scope.cancel()
