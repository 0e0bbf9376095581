"""What operators and tools ask: is the process up, are orders accepted, metrics, the description of the API."""

from __future__ import annotations

import hmac
import time
from functools import cache
from importlib.resources import files
from typing import Any

import msgspec
from quart import Blueprint, Response, current_app, request
from quart_schema import hide
from quart_schema.openapi import OpenAPIProvider

from tradeengine import __version__
from tradeengine.web import metrics, schemas
from tradeengine.web.access import Access, allow
from tradeengine.web.books import trading_states
from tradeengine.web.envelope import JSON_TYPE, failure, success
from tradeengine.web.errors import ApiError
from tradeengine.web.front import current_front
from tradeengine.web.openapi import describe
from tradeengine.web.routes.pages import headers_of

blueprint = Blueprint("system", __name__)
_TAG = "operations"
_PROVIDER = "TRADEENGINE_OPENAPI"


def describe_app(app: Any, provider: OpenAPIProvider) -> None:
    """Let ``/openapi.json`` describe this app."""
    app.extensions[_PROVIDER] = provider


@blueprint.get("/")
@describe(tags=_TAG, answers={200: schemas.EntryPointsAnswer}, access=Access.PUBLIC)
async def show_entry_points() -> Response:
    """Say what is where."""
    return success(
        schemas.EntryPoints(
            name="tradeengine",
            version=__version__,
            docs="/docs",
            openapi="/openapi.json",
            admin="/admin",
            api="/api/v1",
            health="/health",
            ready="/ready",
            metrics="/metrics",
        )
    )


@blueprint.get("/health")
@describe(tags=_TAG, answers={200: schemas.HealthAnswer}, access=Access.PUBLIC, weight=0)
async def show_health() -> Response:
    """Say that this process answers."""
    uptime_s = time.monotonic() - current_front().started_s
    return success(schemas.Health("ok", __version__, round(uptime_s, 3)))


@blueprint.get("/ready")
@describe(tags=_TAG, answers={200: schemas.ReadinessAnswer, 503: schemas.ErrorAnswer}, access=Access.PUBLIC, weight=0)
async def show_readiness() -> Response:
    """Say whether orders are accepted: 200 while they are, and what is degraded; else 503 and why."""
    try:
        return success(current_front().watch.readiness())
    except ApiError as error:
        # An answer and not a fault: who asks every second shall not fill the log.
        return failure(error)


@blueprint.get("/metrics")
@allow(Access.SCRAPE, weight=0)
@hide
async def show_metrics() -> Response:
    """Show every actor and ring in Prometheus' text format."""
    front = current_front()
    _check_metrics_token(front.settings.http.metrics_token)
    watch = front.watch
    text = metrics.render(watch.pages.values(), watch.actors(), watch.rings, trading_states(front.pages))
    return Response(text, content_type=metrics.CONTENT_TYPE)


@blueprint.get("/openapi.json")
@allow(Access.PUBLIC)
@hide
async def show_openapi() -> Response:
    """Describe this API."""
    return Response(_openapi(current_app.extensions[_PROVIDER]), content_type=JSON_TYPE)


@blueprint.get("/docs")
@allow(Access.PUBLIC)
@hide
async def show_docs() -> Response:
    """Show the description to people; the page needs nothing from elsewhere."""
    page, headers = _docs_page()
    return Response(page, headers=headers, content_type="text/html; charset=utf-8")


@cache
def _openapi(provider: OpenAPIProvider) -> bytes:
    return msgspec.json.encode(provider.schema())


@cache
def _docs_page() -> tuple[bytes, dict[str, str]]:
    page = (files("tradeengine.web") / "pages" / "docs.html").read_bytes()
    return page, headers_of(page)


def _check_metrics_token(wanted: str) -> None:
    if not wanted:
        return
    scheme, _, given = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not hmac.compare_digest(given.strip().encode(), wanted.encode()):
        raise ApiError("UNAUTHORIZED", "The metrics need their bearer token.", headers={"WWW-Authenticate": "Bearer"})
