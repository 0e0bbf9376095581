"""The HTTP calls against a server that answers as each test wants: what is repeated, what fails, and by when."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
import stamina
from tests.client.scripted import HANG, HttpServer, failure, http_server, order, success

from tradeengine.client import ApiError, Client, NoAnswer

OVERLOADED = (503, failure("ENGINE_OVERLOADED"))
OVERLOADED_FOR_LONG = (*OVERLOADED, {"Retry-After": "100"})
UNKNOWN = (504, failure("OUTCOME_UNKNOWN", client_order_id="mine"))
PLACED = (201, success({"order": order(), "trades": []}))


@asynccontextmanager
async def client_of(server: HttpServer, **options: Any) -> AsyncIterator[Client]:
    """Give a client of a server."""
    async with Client(server.url, token="t", **options) as client:
        yield client


async def place(client: Client, **changes: Any) -> Any:
    """Place the order that all these tests place."""
    fields = {"symbol": "BTC/USDT", "side": "buy", "type": "limit", "quantity": Decimal("1.00"), "price": "50000"}
    return await client.place(**{**fields, **changes})


async def test_numbers_go_out_as_text_and_come_back_as_decimals() -> None:
    """A decimal is text on the wire, exact, and ``Decimal`` on this side; times are aware; new fields do no harm."""
    async with http_server(PLACED) as server, client_of(server) as client:
        expires_at = datetime(2030, 1, 1, tzinfo=UTC)
        placed = await place(client, quantity=Decimal("1E+2"), expires_at=expires_at, post_only=True)
    method, target, body = server.requests[0]
    assert (method, target) == ("POST", "/api/v1/orders")
    assert body["quantity"] == "100"
    assert body["post_only"] is True
    assert body["expires_at"] == "2030-01-01T00:00:00+00:00"
    assert placed.order.price == Decimal(50000)
    assert placed.order.created_at == datetime(2026, 11, 24, 10, 30, 45, 234000, tzinfo=UTC)


@pytest.mark.parametrize("quantity", [0.1, Decimal("NaN"), Decimal("1E+99999"), Decimal("1E-99999")])
async def test_what_is_no_exact_number_is_never_sent(quantity: Any) -> None:
    """A float, or a number that no engine takes, is refused before anything is sent."""
    async with http_server() as server, client_of(server) as client:
        with pytest.raises((TypeError, ValueError), match="quantity"):
            await place(client, quantity=quantity)
    assert server.requests == []


async def test_naive_time_is_never_sent() -> None:
    """A time without a zone is refused before anything is sent."""
    async with http_server() as server, client_of(server) as client:
        with pytest.raises(TypeError, match="start"):
            await client.orders(start=datetime(2026, 1, 1)).take(1)  # noqa: DTZ001 - that is what is tested
    assert server.requests == []


@pytest.mark.parametrize("failed", [None, OVERLOADED, UNKNOWN, (502, "<html>bad gateway</html>")])
async def test_placing_is_repeated_under_the_same_id(failed: Any) -> None:
    """A lost connection, a 503 and an unknown outcome are asked again with the same client order id."""
    async with http_server(failed, failed, PLACED) as server, client_of(server) as client:
        placed = await place(client)
    assert placed.order.id == "7"
    assert len(server.requests) == 3
    ids = {body["client_order_id"] for _, _, body in server.requests}
    assert len(ids) == 1
    assert len(ids.pop()) == 34


async def test_own_client_order_id_is_kept() -> None:
    """A client order id that the caller gives is the one that goes out."""
    async with http_server(PLACED) as server, client_of(server) as client:
        await place(client, client_order_id="my-1")
    assert server.requests[0][2]["client_order_id"] == "my-1"


async def test_refusal_says_all_that_the_engine_said() -> None:
    """A refusal is an error with code, message, details, status and request id, and is not asked again."""
    async with http_server((422, failure("INSUFFICIENT_BALANCE", asset="USDT"))) as server, client_of(server) as client:
        with pytest.raises(ApiError) as caught:
            await place(client)
    error = caught.value
    assert (error.code, error.message, error.status) == ("INSUFFICIENT_BALANCE", "no", 422)
    assert error.details == {"asset": "USDT"}
    assert error.request_id == "r-2"
    assert len(server.requests) == 1


async def test_silence_ends_by_the_deadline_and_names_the_order() -> None:
    """When no answer comes the call ends by its deadline, and the error says under which id the order went out."""
    async with http_server(*[None] * 50) as server, client_of(server, timeout_s=1.0) as client:
        with pytest.raises(NoAnswer) as caught:
            await place(client)
    assert caught.value.is_sent
    assert caught.value.details["client_order_id"] == server.requests[0][2]["client_order_id"]
    assert len(server.requests) > 1


async def test_slow_answer_is_asked_for_again() -> None:
    """An attempt that takes too long counts as lost and is repeated."""
    async with http_server(HANG, PLACED) as server, client_of(server, attempt_timeout_s=0.1) as client:
        assert (await place(client)).order.id == "7"
    assert len(server.requests) == 2


async def test_open_question_is_not_covered_up() -> None:
    """When an attempt's outcome stays unknown, the last word is that, not the harmless refusal of a later attempt."""
    async with http_server(UNKNOWN, OVERLOADED_FOR_LONG) as server, client_of(server, timeout_s=1.0) as client:
        with pytest.raises(ApiError, match="OUTCOME_UNKNOWN"):
            await place(client)
        assert len(server.requests) == 2


async def test_amend_is_repeated_only_when_nothing_was_done() -> None:
    """An amend that was refused for now is asked again; one whose outcome is unknown is not."""
    async with http_server(OVERLOADED, (200, PLACED[1])) as server, client_of(server) as client:
        await client.amend("7", price=Decimal("49999.00"))
    assert [request[:2] for request in server.requests] == [("PATCH", "/api/v1/orders/7")] * 2
    assert server.requests[0][2] == {"price": "49999.00"}
    async with http_server(None, PLACED) as server, client_of(server) as client:
        with pytest.raises(NoAnswer):
            await client.amend("7", quantity=2)
    assert len(server.requests) == 1


async def test_cancel_whose_answer_was_lost_is_a_cancel() -> None:
    """A cancel that is repeated and finds the order cancelled gives that order; found filled, it is an error."""
    closed = (409, failure("ORDER_NOT_OPEN", status="cancelled"))
    shown = (200, success({"order": order(status="cancelled")}))
    async with http_server(None, closed, shown) as server, client_of(server) as client:
        cancelled = await client.cancel("7")
    assert cancelled.order.status == "cancelled"
    assert [method for method, _, _ in server.requests] == ["DELETE", "DELETE", "GET"]
    filled = (409, failure("ORDER_NOT_OPEN", status="filled"))
    async with http_server(None, filled) as server, client_of(server) as client:
        with pytest.raises(ApiError, match="ORDER_NOT_OPEN"):
            await client.cancel("7")
    async with http_server(closed) as server, client_of(server) as client:
        with pytest.raises(ApiError, match="ORDER_NOT_OPEN"):
            await client.cancel("7")


async def test_refused_connection_was_not_sent() -> None:
    """Where nobody listens, the error says that nothing was sent."""
    async with http_server() as server:
        url = server.url
    async with Client(url) as client:
        with stamina.set_testing(True, attempts=1), pytest.raises(NoAnswer) as caught:
            await client.time()
    assert not caught.value.is_sent


async def test_retry_after_is_kept() -> None:
    """A refusal with ``Retry-After`` is asked again no sooner: with a deadline before that, it is asked once."""
    async with http_server(OVERLOADED_FOR_LONG) as server, client_of(server, timeout_s=0.3) as client:
        with pytest.raises(ApiError) as caught:
            await client.time()
    assert caught.value.retry_after_s == 100
    assert len(server.requests) == 1


async def test_pages_are_asked_for_as_they_are_used() -> None:
    """Iterating gives every item once, in order, and asks for a page only when the one before is used up."""
    pages = [
        (200, success([order("3"), order("2")], next_cursor="abc")),
        (200, success([], next_cursor="def")),
        (200, success([order("1")], next_cursor=None)),
    ]
    async with http_server(*pages) as server, client_of(server) as client:
        listed = client.orders(symbol="BTC/USDT", status=["open", "filled"], page_size=2)
        assert [found.id for found in await listed.take(2)] == ["3", "2"]
        assert len(server.requests) == 1
        assert [found.id async for found in listed] == ["1"]
        assert await listed.next_page() == []
    assert [target.partition("?")[2] for _, target, _ in server.requests] == [
        "symbol=BTC%2FUSDT&limit=2&status=open&status=filled",
        "symbol=BTC%2FUSDT&limit=2&status=open&status=filled&cursor=abc",
        "symbol=BTC%2FUSDT&limit=2&status=open&status=filled&cursor=def",
    ]


async def test_unready_engine_is_an_answer() -> None:
    """``ready`` gives what the engine says of itself, also when it says no."""
    unready = failure("NOT_READY", status="unready", degraded=["no matcher"])
    async with http_server((503, unready)) as server, client_of(server) as client:
        said = await client.ready()
    assert (said.status, said.degraded) == ("unready", ["no matcher"])


async def test_token_may_be_a_function() -> None:
    """A token that is a function is asked for at each call."""
    tokens = iter(["first", "second"])
    async with http_server((200, success([])), (200, success([]))) as server:
        seen = []
        async with Client(server.url, token=lambda: seen.append(next(tokens)) or seen[-1]) as client:  # type: ignore[func-returns-value]
            await client.balances()
            await client.balances()
    assert seen == ["first", "second"]


async def test_answer_of_something_else_is_named() -> None:
    """What is no answer of the engine is an error with the status in its code."""
    async with http_server((404, "<h1>nginx</h1>")) as server, client_of(server) as client:
        with pytest.raises(ApiError, match="nginx") as caught:
            await client.time()
    assert caught.value.code == "HTTP_404"


async def test_batch_gives_orders_and_refusals_in_their_places() -> None:
    """What became of each order is at its place: an order, or the refusal as a value; each got an id of its own."""
    placed = {"success": True, "data": {"order": order(), "trades": []}}
    refused = {"success": False, "error": {"code": "POST_ONLY_WOULD_MATCH", "message": "m", "details": {"a": 1}}}
    async with http_server((200, success([placed, refused]))) as server, client_of(server) as client:
        outcome = await client.place_batch([{"symbol": "BTC/USDT", "side": "buy", "type": "market"}] * 2)
    (_, target, body) = server.requests[0]
    assert target == "/api/v1/orders/batch"
    assert len({sent["client_order_id"] for sent in body["orders"]}) == 2
    assert not isinstance(outcome[0], ApiError)
    assert outcome[0].order.price == Decimal(50000)
    assert isinstance(outcome[1], ApiError)
    assert (outcome[1].code, outcome[1].details) == ("POST_ONLY_WOULD_MATCH", {"a": 1})


async def test_batch_whose_answer_was_lost_is_sent_again_the_same() -> None:
    """A batch without an answer goes out again with the same ids, so nothing is placed twice."""
    item = {"success": True, "data": {"order": order(), "trades": []}}
    async with http_server(UNKNOWN, (200, success([item]))) as server, client_of(server) as client:
        await client.place_batch([{"symbol": "BTC/USDT", "side": "buy", "type": "market"}])
    assert server.requests[0] == server.requests[1]


async def test_timer_is_set_and_told() -> None:
    """A timer goes out in milliseconds and comes back with an aware time, or none."""
    answers = [
        (200, success({"timeout_ms": 5000, "triggers_at": "2026-11-24T10:30:45.234Z"})),
        (200, success({"timeout_ms": 0, "triggers_at": None})),
    ]
    async with http_server(*answers) as server, client_of(server) as client:
        timer = await client.cancel_all_after(5000)
        disarmed = await client.cancel_all_after(0)
    assert [body for _, _, body in server.requests] == [{"timeout_ms": 5000}, {"timeout_ms": 0}]
    assert timer.triggers_at == datetime(2026, 11, 24, 10, 30, 45, 234000, tzinfo=UTC)
    assert disarmed.triggers_at is None
