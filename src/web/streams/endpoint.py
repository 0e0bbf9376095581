"""The endpoint: where a WebSocket connection comes in, becomes a session, and ends.

``/ws/stream`` takes every request; ``/ws/orders``, ``/ws/trades`` and ``/ws/markets/SYMBOL`` begin with their channels
and take no others. What is refused is refused before the connection is taken, as an HTTP answer of the usual shape.

It refuses to know what requests mean.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, cast
from urllib.parse import parse_qs, unquote

import structlog
import trio

from tradeengine.web.address import client_address
from tradeengine.web.auth import bearer_token
from tradeengine.web.envelope import bare_failure
from tradeengine.web.errors import ApiError, invalid_field
from tradeengine.web.jsonbody import printable
from tradeengine.web.signed_requests import KEY_HEADER, SignedRequest, read_signed_request, sent_target
from tradeengine.web.streams.channels import ORDERS
from tradeengine.web.streams.operations import Operations
from tradeengine.web.streams.requests import Subscribe
from tradeengine.web.streams.session import Session
from tradeengine.web.websocket import LINGER_S, SOCKET_STATE

if TYPE_CHECKING:
    from collections.abc import Callable

    from hypercorn.typing import ASGIReceiveCallable, ASGISendCallable, WebsocketScope

    from tradeengine.web.app import FrontApp
    from tradeengine.web.front import Front
    from tradeengine.web.websocket import ClientSocket

MSGPACK_PROTOCOL: Final = "tradeengine.msgpack"
QUERY_FIELDS_MAX: Final = 16
FINISH_S_MAX: Final = 2.0
"""For what waits when a session ends."""

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Request:
    """What a connection asks for when it comes in. ``begins``: channels of its path; None: it will say itself."""

    begins: Subscribe | None
    token: str | None
    signed: SignedRequest | None
    address: str
    binary: bool
    batch: bool


class StreamConnection:
    """One WebSocket connection, as Quart hands it over."""

    def __init__(self, app: FrontApp, scope: WebsocketScope) -> None:
        self._front: Front = app.front
        self._operations = Operations(app.front, app.front.hub)
        self._scope = scope

    async def __call__(self, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        """Refuse the connection, or serve it to its end."""
        await receive()  # says that there is one
        try:
            request = _read_request(self._front, self._scope)
        except ApiError as error:
            await _refuse(send, error)
            return
        session = self._session(request)
        try:
            if await self._let_in(session, request, send):
                await self._serve(session, request, receive, send)
        finally:
            self._front.hub.close(session)
        if session.closing is not None:
            await _say_goodbye(session, receive, send)

    def _session(self, request: Request) -> Session:
        socket = cast("ClientSocket", self._scope["state"][SOCKET_STATE])
        hub = self._front.hub
        return Session(
            socket,
            hub.limits,
            hub.nursery,
            hub.fetch_book,
            address=request.address,
            binary=request.binary,
            batch=request.batch,
            note_merge=hub.metrics.merged,
        )

    async def _begin(self, session: Session, begins: Subscribe) -> None:
        """Subscribe to what the path says; own orders wait until it is known whose."""
        if ORDERS in begins.channels and session.caller is None:
            session.after_sign_in = begins
        else:
            await self._operations.begin(session, begins)

    async def _let_in(self, session: Session, request: Request, send: ASGISendCallable) -> bool:
        """Keep a place for a client and see who it is; returns whether it may come in, else it is told why not."""
        try:
            self._front.request_limits.charge_address(request.address, 1, cancels=False)
            self._front.hub.admit(session)
            if request.token is not None:
                await self._operations.signing_in.by_token(session, request.token)
            elif request.signed is not None:
                await self._operations.signing_in.by_key(session, request.signed)
        except ApiError as error:
            await _refuse(send, error)
            return False
        return True

    async def _serve(
        self, session: Session, request: Request, receive: ASGIReceiveCallable, send: ASGISendCallable
    ) -> None:
        """Take the connection, and what comes on it until it or the session ends."""
        protocol = MSGPACK_PROTOCOL if request.binary else None
        await send({"type": "websocket.accept", "subprotocol": protocol, "headers": []})
        self._front.hub.open(session)
        is_fixed = request.begins is not None
        with session.scope:
            if request.begins is not None:
                await self._begin(session, request.begins)
            while (message := cast("Any", await receive()))["type"] != "websocket.disconnect":
                content = message.get("text")
                await self._operations.take(session, message["bytes"] if content is None else content, fixed=is_fixed)


def _read_request(front: Front, scope: WebsocketScope) -> Request:
    """Read path, query and headers. Raises ApiError."""
    headers = _Headers(scope)
    _check_origin(headers, front.settings.http.cors_origins)
    query = _Query(scope["query_string"])
    begins = _channels_of(front, scope, query)
    batch = query.flag("batch")
    query.refuse_rest()
    signed = None
    if headers.all(KEY_HEADER):
        signed = read_signed_request(headers.all, "GET", sent_target(scope), b"", front.settings.keys.window_ms_max)
    authorization = headers.all("authorization")
    peer = scope["client"][0] if scope["client"] else ""
    return Request(
        begins=begins,
        token=bearer_token(authorization) if authorization else None,
        signed=signed,
        address=client_address(peer, ",".join(headers.all("x-forwarded-for")), front.settings.http.trusted_proxies),
        binary=MSGPACK_PROTOCOL in scope["subprotocols"],
        batch=batch,
    )


def _channels_of(front: Front, scope: WebsocketScope, query: _Query) -> Subscribe | None:
    path = unquote(scope["raw_path"].decode("ascii", "replace")) if scope.get("raw_path") else scope["path"]
    begins = PATHS.get(path)
    if begins is not None:
        return begins(front, query)
    if path.startswith(_MARKETS):
        name = front.symbol(path.removeprefix(_MARKETS)).name
        return Subscribe(channels=[f"status:{name}", f"book:{name}", f"ticker:{name}"])
    shown = printable(path)
    raise ApiError("NOT_FOUND", f"There is no stream at {shown}.", {"path": shown})


def _begin_trades(front: Front, query: _Query) -> Subscribe:
    names = query.text("symbols")
    specs = (
        [front.symbol(name) for name in names.split(",")]
        if names is not None
        else sorted(front.pages.directory().symbols.values(), key=lambda spec: spec.symbol_id)
    )
    return Subscribe(channels=[f"trades:{spec.name}" for spec in specs])


def _begin_orders(_front: Front, query: _Query) -> Subscribe:
    return Subscribe(channels=[ORDERS], since=query.text("since"))


_MARKETS: Final = "/ws/markets/"
PATHS: Final[dict[str, Callable[[Front, _Query], Subscribe | None]]] = {
    "/ws/stream": lambda _front, _query: None,
    "/ws/orders": _begin_orders,
    "/ws/trades": _begin_trades,
}
"""What a connection begins with, by its path; those of one market are ``/ws/markets/SYMBOL``."""


class _Headers:
    """Headers by name, in any letter case."""

    def __init__(self, scope: WebsocketScope) -> None:
        self._pairs = [(name.lower().decode("latin1"), value.decode("latin1")) for name, value in scope["headers"]]

    def all(self, name: str) -> list[str]:
        return [value for known, value in self._pairs if known == name.lower()]

    def first(self, name: str) -> str:
        return next(iter(self.all(name)), "")


class _Query:
    """Parameters of which each may be given once; what nobody asked for is refused."""

    def __init__(self, query_string: bytes) -> None:
        try:
            self._values = parse_qs(
                query_string.decode("latin1"), keep_blank_values=True, max_num_fields=QUERY_FIELDS_MAX
            )
        except ValueError:
            message = f"There are more than {QUERY_FIELDS_MAX} parameters."
            raise invalid_field("query", message, maximum=QUERY_FIELDS_MAX) from None

    def text(self, name: str) -> str | None:
        values = self._values.pop(name, None)
        if values is None:
            return None
        if len(values) > 1 or not values[0]:
            raise invalid_field(name, f"{name} must be given once and not be empty.")
        return values[0]

    def flag(self, name: str) -> bool:
        value = self.text(name)
        if value not in {None, "true", "false"}:
            raise invalid_field(name, f"{name} must be true or false.", allowed=["true", "false"])
        return value == "true"

    def refuse_rest(self) -> None:
        for name in self._values:
            raise invalid_field(printable(name), f"The parameter {printable(name)} is unknown here.")


def _check_origin(headers: _Headers, allowed: tuple[str, ...]) -> None:
    """Let browsers in from our own pages and from those that are configured. Raises ApiError."""
    for origin in headers.all("origin"):
        own = origin.partition("://")[2] == headers.first("host")
        if not own and origin not in allowed and "*" not in allowed:
            raise ApiError(
                "FORBIDDEN", "This origin may not connect.", {"field": "Origin", "origin": printable(origin)}
            )


async def _refuse(send: ASGISendCallable, error: ApiError) -> None:
    error.headers["Connection"] = "close"
    status, headers, body = bare_failure(error)
    await send({"type": "websocket.http.response.start", "status": status, "headers": headers})
    await send({"type": "websocket.http.response.body", "body": body, "more_body": False})


async def _say_goodbye(session: Session, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
    """Send what waits and then why it ends, and let the client hear it."""
    assert session.closing is not None
    code, reason = session.closing
    with trio.move_on_after(FINISH_S_MAX) as patience:
        await session.finish()
    if patience.cancelled_caught:
        await session.socket.abort()
        return
    await send({"type": "websocket.close", "code": code, "reason": reason})
    with trio.move_on_after(LINGER_S):
        while (await receive())["type"] != "websocket.disconnect":
            pass
