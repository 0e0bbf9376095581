"""How much may be asked for: every request is paid for out of token buckets, its address's and its user's.

The buckets lie in shared memory and are the same for all fronts. Cancels have their own, several times as wide: who is
too busy placing must still be able to get out.
It refuses to know routes and what they weigh.
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Final

from quart import Response, g, has_request_context

from tradeengine.ipc.buckets import NS_PER_S, Buckets, Charge, Rate
from tradeengine.web.address import network_of
from tradeengine.web.errors import ApiError

if TYPE_CHECKING:
    from tradeengine.ipc.metrics import MetricPage
    from tradeengine.settings import Requests

_EVERYTHING: Final = 0
_CANCELS: Final = 1


class RequestLimits:
    """All buckets, as requests see them."""

    def __init__(self, buckets: Buckets, settings: Requests, page: MetricPage) -> None:
        self._buckets = buckets
        factor = settings.cancel_factor
        self._user = _rates(settings.user_per_s, settings.user_burst, factor)
        self._address = _rates(settings.address_per_s, settings.address_burst, factor)
        self._page = page
        self._refused = page.counter("rate_limited")

    def charge_address(self, address: str, weight: int, *, cancels: bool) -> None:
        """Let an address pay. Raises ApiError RATE_LIMITED: then it has paid nothing."""
        self._charge("address", network_of(address), weight, self._address, cancels=cancels)

    def charge_user(self, name: str, weight: int, *, cancels: bool) -> None:
        """Let a user pay, by token or key alike. Raises ApiError RATE_LIMITED: then they have paid nothing."""
        self._charge("user", name, weight, self._user, cancels=cancels)

    def _charge(self, kind: str, name: str, weight: int, rates: tuple[Rate, Rate], *, cancels: bool) -> None:
        bucket = _CANCELS if cancels else _EVERYTHING
        rate = rates[bucket]
        if rate.per_s == 0:
            return
        charge = self._buckets.charge(f"{kind}:{name}", bucket, weight, rate, time.monotonic_ns())
        if has_request_context():
            g.rate_limit = (rate, charge)
        if not charge.allowed:
            self._page.add(self._refused)
            raise _refusal(kind, rate, charge, cancels=cancels)


def tell_limits(response: Response) -> Response:
    """Say in an answer's headers what is left: of the user's bucket, or, where nobody is named, of the address's."""
    told: tuple[Rate, Charge] | None = g.get("rate_limit")
    if told is not None:
        rate, charge = told
        headers = response.headers
        headers["RateLimit-Limit"] = str(rate.burst)
        headers["RateLimit-Remaining"] = str(charge.remaining)
        headers["RateLimit-Reset"] = str(_seconds(charge.full_ns))
    return response


def _rates(per_s: int, burst: int, cancel_factor: int) -> tuple[Rate, Rate]:
    return Rate(per_s, burst), Rate(per_s * cancel_factor, burst * cancel_factor)


def _refusal(kind: str, rate: Rate, charge: Charge, *, cancels: bool) -> ApiError:
    what = "cancels" if cancels else "requests"
    whose = "you" if kind == "user" else "your address"
    retry_after_s = _seconds(charge.wait_ns)
    message = f"Too many {what} from {whose}: {rate.per_s} a second, {rate.burst} at once. Wait {retry_after_s} s."
    details = {"limit": kind, "per_s": rate.per_s, "burst": rate.burst, "retry_after_ms": charge.wait_ns // 10**6 + 1}
    return ApiError("RATE_LIMITED", message, details, {"Retry-After": str(retry_after_s)})


def _seconds(duration_ns: int) -> int:
    return math.ceil(duration_ns / NS_PER_S)
