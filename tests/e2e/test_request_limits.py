"""How much one user and one address may ask for: the same buckets on every front, and what the answers say of them.

The rates are one unit a second, so that what a bucket holds at the start is nearly all that a story gets: how long the
story takes adds a known few.
"""

from __future__ import annotations

import itertools
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import pytest
import trio
from tests.e2e.users import User, make_user
from tests.engines import Engine, running_engine

from tradeengine.client import ApiError, Stream

USER_BURST, ADDRESS_BURST, FACTOR = 30, 60, 3
ENVIRONMENT = {
    "TRADEENGINE_REQUESTS_USER_PER_S": "1",
    "TRADEENGINE_REQUESTS_USER_BURST": f"{USER_BURST}",
    "TRADEENGINE_REQUESTS_ADDRESS_PER_S": "1",
    "TRADEENGINE_REQUESTS_ADDRESS_BURST": f"{ADDRESS_BURST}",
    "TRADEENGINE_REQUESTS_CANCEL_FACTOR": f"{FACTOR}",
    "TRADEENGINE_HTTP_TRUSTED_PROXIES": "127.0.0.1",
}
ORDER: dict[str, Any] = {"symbol": "BTC/USDT", "side": "buy", "type": "limit", "quantity": "0.1", "price": "100"}
_addresses = (f"198.51.{block}.{host}" for block in itertools.count() for host in range(1, 255))

NewUser = Callable[[], User]


@pytest.fixture(scope="module")
def venue(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """Run an engine with two fronts behind a proxy, so that a test may come from any address."""
    with running_engine(tmp_path_factory.mktemp("limited"), ["--fronts", "2"], ENVIRONMENT) as running:
        yield running


@pytest.fixture
def alice(venue: Engine) -> Iterator[User]:
    """Give a user who comes from an address of their own."""
    user = make_user(venue, "alice", {"USDT": "100000"})
    user.http.headers["X-Forwarded-For"] = next(_addresses)
    yield user
    user.http.close()


def counts_between(passed: int, burst: int, began_s: float) -> bool:
    """Whether so many passed as a bucket that was full at ``began_s`` can have given since, at one unit a second."""
    return burst <= passed <= burst + (time.monotonic() - began_s) + 1


def assert_share_a_bucket(venue: Engine, addresses: Sequence[str]) -> None:
    """Ask once from each address, one after the other; together they get what one bucket holds."""
    began_s = time.monotonic()
    with httpx2.Client(base_url=f"{venue.url}/api/v1", timeout=20) as http:
        statuses = Counter(http.get("/time", headers={"X-Forwarded-For": address}).status_code for address in addresses)
    assert set(statuses) == {200, 429}
    assert counts_between(statuses[200], ADDRESS_BURST, began_s)


def test_answers_say_what_is_left(alice: User) -> None:
    """Every answer has the bucket's size, what is left, and when it is full again; each request takes its weight."""
    first = alice.http.get("/balances").headers
    listed = alice.http.get("/orders").headers
    assert int(first["RateLimit-Limit"]) == USER_BURST
    assert int(first["RateLimit-Remaining"]) == USER_BURST - 1
    assert int(first["RateLimit-Reset"]) == 1
    assert USER_BURST - 6 <= int(listed["RateLimit-Remaining"]) <= USER_BURST - 5


def test_a_user_is_refused_once_the_bucket_is_empty(alice: User) -> None:
    """The burst passes; then 429 says when to come again, and the order that was refused does not exist."""
    began_s = time.monotonic()
    passed = 0
    while (answer := alice.http.post("/orders", json=ORDER | {"client_order_id": f"o-{passed}"})).status_code == 201:
        passed += 1
    assert counts_between(passed, USER_BURST, began_s)
    assert answer.status_code == 429
    error = answer.json()["error"]
    assert error["code"] == "RATE_LIMITED"
    assert error["details"]["limit"] == "user"
    assert error["details"]["burst"] == USER_BURST
    assert 0 < error["details"]["retry_after_ms"] <= 1000
    assert answer.headers["Retry-After"] == "1"
    assert answer.headers["RateLimit-Remaining"] == "0"
    cancelled = alice.call("DELETE", "/orders")
    assert cancelled["total"] == passed


def test_cancels_have_a_bucket_of_their_own(alice: User) -> None:
    """Whoever has used up everything for orders gets out all the same, several times as often."""
    order_id = alice.place(**ORDER)["order"]["id"]
    while alice.http.get("/balances").status_code == 200:
        pass
    answer = alice.http.delete(f"/orders/{order_id}")
    assert answer.status_code == 200
    assert int(answer.headers["RateLimit-Limit"]) == USER_BURST * FACTOR
    assert int(answer.headers["RateLimit-Remaining"]) == USER_BURST * FACTOR - 1


def test_fronts_share_a_users_bucket(venue: Engine, alice: User) -> None:
    """However a user's requests spread over the fronts, together they get what one bucket holds."""
    before = _requests_by_front(venue)

    def ask(number: int) -> int:
        headers = {"Authorization": alice.http.headers["Authorization"], "X-Forwarded-For": f"203.0.113.{number}"}
        return httpx2.get(f"{venue.url}/api/v1/balances", headers=headers, timeout=20).status_code

    began_s = time.monotonic()
    with ThreadPoolExecutor(8) as pool:
        statuses = Counter(pool.map(ask, range(1, 101)))
    assert set(statuses) == {200, 429}
    assert counts_between(statuses[200], USER_BURST, began_s)
    after = _requests_by_front(venue)
    assert all(after[front] > before[front] for front in ("front-0", "front-1")), "one front alone was asked"


def test_an_address_is_refused_whoever_asks(venue: Engine) -> None:
    """Without a token the address pays; another address is let in; health, readiness and metrics always answer."""
    here, elsewhere = ({"X-Forwarded-For": next(_addresses)} for _ in range(2))
    with httpx2.Client(base_url=venue.url, timeout=20) as http:
        began_s = time.monotonic()
        passed = 0
        while (answer := http.get("/api/v1/time", headers=here)).status_code == 200:
            passed += 1
        assert counts_between(passed, ADDRESS_BURST, began_s)
        assert answer.json()["error"]["details"]["limit"] == "address"
        assert http.get("/api/v1/time", headers=elsewhere).status_code == 200
        assert [http.get(path, headers=here).status_code for path in ("/health", "/ready", "/metrics")] == [200] * 3


def test_a_client_cannot_choose_its_address(venue: Engine) -> None:
    """Only what the proxy itself has seen counts: addresses that a client writes before that change nothing."""
    seen = next(_addresses)
    assert_share_a_bucket(venue, [f"192.0.2.{number}, {seen}" for number in range(ADDRESS_BURST + 30)])


def test_addresses_of_one_network_are_one(venue: Engine) -> None:
    """Of IPv6 a client has many addresses: they share the bucket of their network."""
    assert_share_a_bucket(venue, [f"2001:db8:0:7::{number:x}" for number in range(ADDRESS_BURST + 30)])
    elsewhere = {"X-Forwarded-For": "2001:db8:0:8::1"}
    assert httpx2.get(f"{venue.url}/api/v1/time", headers=elsewhere, timeout=20).status_code == 200


def test_guessing_tokens_ends_soon(venue: Engine) -> None:
    """A wrong token costs its address eleven times as much as a right one."""
    headers = {"X-Forwarded-For": next(_addresses), "Authorization": "Bearer a.b.c"}
    with httpx2.Client(base_url=f"{venue.url}/api/v1", headers=headers, timeout=20) as http:
        statuses = [http.get("/balances").status_code for _ in range(8)]
    assert statuses[:5] == [401] * 5
    assert statuses[-1] == 429


async def test_orders_of_a_stream_are_counted_too(venue: Engine, alice: User) -> None:
    """Orders over a WebSocket are paid for out of the same bucket as those over HTTP, and cancels out of theirs."""
    token = alice.http.headers["Authorization"].removeprefix("Bearer ")
    began_s = time.monotonic()
    async with Stream(venue.url, token=token, timeout_s=0.4) as stream:
        order_ids = []
        refusal = None
        while refusal is None:
            try:
                order_ids.append((await stream.place(**ORDER)).order.id)
            except ApiError as error:
                refusal = error
        assert refusal.code == "RATE_LIMITED"
        passed = len(order_ids)
        while (await trio.to_thread.run_sync(alice.http.get, "/balances")).status_code == 200:
            passed += 1
        assert counts_between(passed, USER_BURST, began_s)
        assert (await stream.cancel(order_ids[0])).order.status == "cancelled"


def _requests_by_front(venue: Engine) -> dict[str, int]:
    text = httpx2.get(f"{venue.url}/metrics", timeout=20).text
    pattern = r'tradeengine_front_requests_total\{actor="(front-\d)"[^}]*\} (\S+)'
    return {front: int(float(value)) for front, value in re.findall(pattern, text)}
