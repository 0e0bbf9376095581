"""The wallet actor's metric page, by meaning."""

from __future__ import annotations

from typing import Final

from tradeengine.ipc.metrics import MetricPage
from tradeengine.storage.outbox import Outbox

_COUNTERS: Final = (
    *("transfers_delivered", "deposits_reserved", "withdrawals_released"),
    *("requests", "unavailable", "refused", "waits", "deaths", "errors"),
)


class WalletMetrics:
    """Looks the names up once."""

    def __init__(self, page: MetricPage) -> None:
        self._page = page
        self._counters = {name: page.counter(name) for name in _COUNTERS}
        self._pending, self._oldest = page.gauge("outbox_pending"), page.gauge("outbox_oldest_age_s")
        self._dead, self._breaker = page.gauge("dead_letters"), page.gauge("breaker_state")
        self._in_flight = page.gauge("in_flight")
        self._request = page.histogram("request_latency_us")
        self._delivery = page.histogram("delivery_latency_ms")
        self._round = page.histogram("round_latency_us")

    def count(self, name: str, count: int = 1) -> None:
        """Count by a counter's name."""
        self._page.add(self._counters[name], count)

    def note_request(self, duration_s: float) -> None:
        """Note how long the wallet took for an answer."""
        self._page.record(self._request, int(duration_s * 1e6))

    def note_delivery(self, age_s: float) -> None:
        """Note how long a trade waited from its settlement to the wallet's confirmation."""
        self._page.record(self._delivery, int(age_s * 1e3))

    def note_round(self, duration_s: float) -> None:
        """Note how long a round with the database took."""
        self._page.record(self._round, int(duration_s * 1e6))

    def show_in_flight(self, requests: int) -> None:
        """Show how many requests wait for an answer."""
        self._page.set(self._in_flight, requests)

    def show_outbox(self, outbox: Outbox) -> None:
        """Show how the outbox stands."""
        self._page.set(self._pending, outbox.pending)
        self._page.set(self._oldest, int(outbox.oldest_s))
        self._page.set(self._dead, outbox.dead)

    def show_breaker(self, state: int) -> None:
        """Show the breaker's state."""
        self._page.set(self._breaker, state)

    def show_state(self, text: str) -> None:
        """Show what is wrong; "" when nothing is."""
        self._page.set_state(int(bool(text)), text or "delivering")
