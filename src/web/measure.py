"""How requests are counted: by endpoint and by what came of them, on the front's metric page.

It refuses to know what an endpoint does.
"""

from __future__ import annotations

import time
from typing import Final

from quart import Response, g, request

from tradeengine.ipc.metrics import MetricPage

ENDPOINT_PREFIX: Final = "endpoint_"
ENDPOINT_SUFFIX: Final = "_latency_us"


class RequestMeter:
    """Measures each request from its arrival to its answer."""

    def __init__(self, page: MetricPage) -> None:
        self._page = page
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
        return response
