"""How requests are counted and told: by route on the front's metric page, and one by one in the access log.

Rule 1: what a client wrote becomes no label: a path that is no route, and a method that nobody takes, are *unknown*.
It refuses to know what an endpoint does.
"""

from __future__ import annotations

import re
import time
from typing import Final

import structlog
from quart import Response, g, request

from tradeengine.ipc.metric_names import OTHER_DURATIONS, OTHER_REFUSALS, OTHER_REQUESTS
from tradeengine.ipc.metrics import MetricPage
from tradeengine.settings import Settings
from tradeengine.web.address import client_address
from tradeengine.web.envelope import request_id

_UNKNOWN: Final = "unknown"
_METHODS: Final = frozenset({"GET", "POST", "PATCH", "PUT", "DELETE", "HEAD", "OPTIONS"})
_ARGUMENT: Final = re.compile(r"<(?:[^:<>]+:)?([^<>]+)>")
"""Of a rule: ``<path:symbol>`` is shown as ``{symbol}``, as the API's description does."""
_log = structlog.get_logger()


class RequestMeter:
    """Measures each request from its arrival to its answer."""

    def __init__(self, page: MetricPage, settings: Settings) -> None:
        self._page = page
        self._trusted_proxies = frozenset(settings.http.trusted_proxies)
        self._tells = settings.log.access
        self._requests = page.counter("requests")
        self._errors = page.counter("errors")
        self._latency_us = page.histogram("request_latency_us")
        self._other = page.counter(OTHER_REQUESTS), page.histogram(OTHER_DURATIONS), page.counter(OTHER_REFUSALS)
        self._places: dict[tuple[str | None, str, int], tuple[int, int]] = {}
        self._refusals: dict[str, int] = {}

    async def begin(self) -> None:
        """Note when the request came."""
        g.began_ns = time.perf_counter_ns()

    async def end(self, response: Response) -> Response:
        """Count the request and how long its answer took."""
        latency_us = (time.perf_counter_ns() - g.began_ns) // 1000
        page = self._page
        page.add(self._requests)
        page.record(self._latency_us, latency_us)
        if response.status_code >= 500:
            page.add(self._errors)
        count, duration = self._place(response.status_code)
        page.add(count)
        page.record(duration, latency_us)
        if (code := g.get("error_code")) is not None:
            page.add(self._refusal(code))
        if self._tells:
            self._tell(response, latency_us)
        return response

    def _place(self, status: int) -> tuple[int, int]:
        """Find the present request's counter and histogram."""
        rule = request.url_rule
        # Aborted before it was known what it asks for: a method that the route does not take has no rule either.
        key = (None if rule is None else rule.rule, request.method, status)
        place = self._places.get(key)
        if place is None:
            place = self._new_place(*key)
            if request.method in _METHODS:
                # Else clients could fill our memory with methods of their own.
                self._places[key] = place
        return place

    def _new_place(self, rule: str | None, method: str, status: int) -> tuple[int, int]:
        route = _UNKNOWN if rule is None else _ARGUMENT.sub(r"{\1}", rule)
        labels = f'route="{route}",method="{method if method in _METHODS else _UNKNOWN}"'
        other_count, other_duration, _ = self._other
        return (
            self._page.name_counter(f'http_requests{{{labels},code="{status}"}}', other_count),
            self._page.name_histogram(f"http_request_us{{{labels}}}", other_duration),
        )

    def _refusal(self, code: str) -> int:
        """Find the counter of an error code; these are ours, a few dozen."""
        place = self._refusals.get(code)
        if place is None:
            place = self._page.name_counter(f'http_refusals{{error="{code}"}}', self._other[2])
            self._refusals[code] = place
        return place

    def _tell(self, response: Response, latency_us: int) -> None:
        headers = request.headers
        rule = request.url_rule
        _log.info(
            "request",
            method=request.method,
            route=None if rule is None else _ARGUMENT.sub(r"{\1}", rule.rule),
            path=request.path,
            status=response.status_code,
            latency_us=latency_us,
            bytes=response.content_length,
            request_id=request_id(),
            user=None if (identity := g.get("caller")) is None else identity.name,
            client=client_address(
                headers.get("Remote-Addr", ""), ",".join(headers.getlist("X-Forwarded-For")), self._trusted_proxies
            ),
        )
