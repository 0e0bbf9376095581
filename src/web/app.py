"""The application: routes by noun, one error type out, and everything else turned into an answer of the same shape.

It refuses to know sockets, rings and SQL: it is given a ``Front`` that does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, cast

from quart import Response, current_app, request
from quart_trio import QuartTrio

from tradeengine.web import access, audit, caching, faults, openapi
from tradeengine.web.address import is_host
from tradeengine.web.admitting import AdmittedConnection
from tradeengine.web.connection import FrontRequest
from tradeengine.web.envelope import REQUEST_ID_HEADER, request_id
from tradeengine.web.errors import invalid_field, no_such_path
from tradeengine.web.front import Front
from tradeengine.web.measure import RequestMeter
from tradeengine.web.origins import origin_headers
from tradeengine.web.request_limits import tell_limits
from tradeengine.web.routes import (
    account,
    admin_audit,
    admin_listing,
    admin_money,
    admin_overview,
    admin_reconciliation,
    admin_symbols,
    admin_trading,
    admin_users,
    api_keys,
    dead_letters,
    history,
    market,
    orders,
    pages,
    snapshots,
    system,
)
from tradeengine.web.schemas import NoQuery
from tradeengine.web.signed_requests import KEY_HEADER, SIGNATURE_HEADER, TIMESTAMP_HEADER, WINDOW_HEADER
from tradeengine.web.streams.endpoint import StreamConnection
from tradeengine.web.validation import read_query

if TYPE_CHECKING:
    from quart.wrappers.base import BaseRequestWebsocket
    from werkzeug.routing import MapAdapter

PREFIX: Final = "/api/v1"
_TAKEN_HEADERS: Final = (
    "Authorization",
    "Content-Type",
    "X-Request-ID",
    KEY_HEADER,
    TIMESTAMP_HEADER,
    WINDOW_HEADER,
    SIGNATURE_HEADER,
)


class FrontApp(QuartTrio):
    """A Quart application that knows its front."""

    front: Front
    asgi_http_class = AdmittedConnection
    asgi_websocket_class = StreamConnection  # type: ignore[assignment]  # is made and called as Quart's own would be
    request_class = FrontRequest

    def create_url_adapter(self, request: BaseRequestWebsocket | None) -> MapAdapter | None:
        """Match by method and path alone: no route depends on the Host, which may be anything that a client writes."""
        if request is None:
            return super().create_url_adapter(request)
        return self.url_map.bind("front", path_info=request.path, default_method=request.method)


def create_app(front: Front) -> FrontApp:
    """Join the routes to a front."""
    app = FrontApp("tradeengine", static_folder=None)
    app.front = front
    app.config["MAX_CONTENT_LENGTH"] = front.settings.http.body_bytes_max
    # A path either is a route or it is not: no redirects, because clients that sign or retry do not follow them.
    app.url_map.merge_slashes = False
    app.url_map.strict_slashes = True
    for routes in (orders, account, api_keys, market, history, snapshots):
        app.register_blueprint(routes.blueprint, url_prefix=PREFIX)
    for admin_routes in (
        admin_users,
        admin_symbols,
        admin_trading,
        admin_listing,
        admin_money,
        admin_reconciliation,
        admin_overview,
        admin_audit,
        dead_letters,
    ):
        app.register_blueprint(admin_routes.blueprint, url_prefix=f"{PREFIX}/admin")
    app.register_blueprint(system.blueprint)
    app.register_blueprint(pages.blueprint)
    faults.attach(app)
    app.after_request(caching.forbid_storing)
    meter = RequestMeter(front.metrics, front.settings)
    app.before_request(meter.begin)
    app.before_request(_check_host)
    app.before_request(_check_path)
    app.before_request(access.check_access)
    app.before_request(audit.begin)
    app.before_request(_check_query)
    app.after_request(meter.end)
    app.after_request(audit.end)
    app.after_request(_tell_limits)
    app.after_request(_answer_options)
    if front.settings.http.cors_origins:
        app.after_request(_allow_origin)
    access.check_routes(app)
    system.describe_app(app, openapi.attach(app))
    return app


async def _check_host() -> None:
    """Refuse a Host that names no host. Raises ApiError."""
    if not is_host(request.headers.get("Host", "")):
        raise invalid_field("Host", "The Host header must name a host, with a port if need be.")


async def _check_path() -> None:
    """Refuse a path that begins with an empty part, which a request leaves out of its path. Raises ApiError.

    A proxy that keeps ``/metrics`` to itself passes ``//metrics`` on.
    """
    path: str = request.scope["path"]
    if path.startswith("//"):
        raise no_such_path(path)


async def _check_query() -> None:
    """Refuse the parameters of calls that take none. Raises ApiError."""
    if not request.args or request.endpoint is None or not request.path.startswith(PREFIX):
        return
    if not openapi.takes_query(current_app.view_functions[request.endpoint]):
        read_query(request.args, NoQuery)


async def _tell_limits(response: Response) -> Response:
    return tell_limits(response)


async def _answer_options(response: Response) -> Response:
    """Answer which methods a path takes by the header alone: there is no body, so none of a type."""
    if request.method == "OPTIONS" and response.status_code == 200:
        response.status_code = 204
        response.headers.pop("Content-Type", None)
        response.headers.pop("Content-Length", None)
        response.headers[REQUEST_ID_HEADER] = request_id()
    return response


async def _allow_origin(response: Response) -> Response:
    """Let browsers of the configured origins read answers."""
    allowed = cast(FrontApp, current_app).front.settings.http.cors_origins
    headers = origin_headers(request.headers.get("Origin"), allowed)
    response.headers.add("Vary", headers.pop("Vary"))
    response.headers.update(headers)
    if headers and request.method == "OPTIONS":
        response.headers["Access-Control-Allow-Methods"] = "GET, POST, PATCH, DELETE"
        response.headers["Access-Control-Allow-Headers"] = ", ".join(_TAKEN_HEADERS)
        response.headers["Access-Control-Max-Age"] = "600"
    return response
