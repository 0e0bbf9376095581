"""How requests are counted and told: by endpoint on the front's metric page, and one by one in the log at level debug.

It refuses to know what an endpoint does.
"""

from __future__ import annotations

import time

import structlog
from quart import Response, g, request

from tradeengine.ipc.metric_help import ENDPOINT_PREFIX, ENDPOINT_SUFFIX
from tradeengine.ipc.metrics import MetricPage
from tradeengine.settings import Settings
from tradeengine.web.address import client_address
from tradeengine.web.envelope import request_id

_log = structlog.get_logger()


class RequestMeter:
    """Measures each request from its arrival to its answer."""

    def __init__(self, page: MetricPage, settings: Settings) -> None:
        self._page = page
        self._trusted_proxies = frozenset(settings.http.trusted_proxies)
        # At other levels not even the words of the line are put together.
        self._tells = settings.log.level == "debug"
        self._requests = page.counter("requests")
        self._errors = page.counter("errors")
        self._latency_us = page.histogram("request_latency_us")
        self._endpoints = {
            name.removeprefix(ENDPOINT_PREFIX).removesuffix(ENDPOINT_SUFFIX): index
            for index, name in enumerate(page.names.histograms)
            if name.startswith(ENDPOINT_PREFIX)
        }

    async def begin(self) -> None:
        """Note when the request came."""
        g.began_ns = time.perf_counter_ns()

    async def end(self, response: Response) -> Response:
        """Count the request and how long its answer took."""
        latency_us = (time.perf_counter_ns() - g.began_ns) // 1000
        self._page.add(self._requests)
        self._page.record(self._latency_us, latency_us)
        if response.status_code >= 500:
            self._page.add(self._errors)
        # Named by the handler: a blueprint's endpoint is ``orders.place_order``.
        endpoint = (request.endpoint or "").rpartition(".")[2]
        index = self._endpoints.get(endpoint)
        if index is not None:
            self._page.record(index, latency_us)
        if self._tells:
            self._tell(response, latency_us)
        return response

    def _tell(self, response: Response, latency_us: int) -> None:
        headers = request.headers
        _log.debug(
            "request",
            method=request.method,
            path=request.path,
            status=response.status_code,
            latency_us=latency_us,
            request_id=request_id(),
            client=client_address(
                headers.get("Remote-Addr", ""), ",".join(headers.getlist("X-Forwarded-For")), self._trusted_proxies
            ),
        )
