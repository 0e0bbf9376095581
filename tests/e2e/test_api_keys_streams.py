"""API keys on streams: they sign in by the handshake or by a message, do what they may, and end their connections."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import pytest
import trio
from tests.client.scripted import BACK_S
from tests.e2e.test_api_keys import FUNDS, ORDER, connected_fronts, make_key
from tests.e2e.users import User, make_user
from tests.engines import Engine, running_engine
from tests.web.api_key_maker import hmac_signature, now_ms, signed_headers, signed_text
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.trio.client import ClientConnection, connect

from tradeengine.client import ApiError, ApiKey, Client, Stream, StreamClosed
from tradeengine.client.messages import OrderUpdate

TARGET = "/ws/stream"
Json = dict[str, Any]


@pytest.fixture(scope="module")
def venue(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """Run an engine with two fronts."""
    with running_engine(tmp_path_factory.mktemp("keys"), ["--fronts", "2"]) as running:
        yield running


@pytest.fixture
def alice(venue: Engine) -> Iterator[User]:
    """Give a rich user with a token."""
    user = make_user(venue, "alice", FUNDS)
    yield user
    user.http.close()


@asynccontextmanager
async def connected(venue: Engine, headers: dict[str, str] | None = None, target: str = TARGET) -> AsyncIterator[Any]:
    """Open a stream."""
    url = venue.url.replace("http", "ws") + target
    with trio.fail_after(BACK_S):
        async with connect(url, additional_headers=headers, compression=None) as socket:
            yield socket


async def ask(socket: ClientConnection, **fields: Any) -> Json:
    """Send an operation; returns its answer."""
    await socket.send(json.dumps(fields | {"id": 1}))
    while True:
        message: Json = json.loads(await socket.recv())
        if message.get("id") == 1:
            return message


def signed_auth(key: tuple[str, str], **changes: Any) -> Json:
    """Make the operation that signs in with a key."""
    timestamp, window = now_ms(), 5000
    signature = hmac_signature(key[1], signed_text(timestamp, window, "AUTH", TARGET))
    fields = {"op": "auth", "api_key": key[0], "timestamp": timestamp, "window": window, "signature": signature}
    return fields | changes


async def test_a_signed_handshake_signs_in(venue: Engine, alice: User) -> None:
    """A handshake signed as a GET belongs to the key's user; a second one with the same signature is refused."""
    key = make_key(alice)
    for target in (TARGET, "/ws/orders", f"{TARGET}?batch=false"):
        headers = signed_headers(*key, "GET", target)
        async with connected(venue, headers, target) as socket:
            if target != "/ws/orders":
                placed = await ask(socket, op="place", **ORDER)
                assert placed["type"] == "ack", placed
        with pytest.raises(InvalidStatus) as refused:
            async with connected(venue, headers, target):
                pass
        assert refused.value.response.status_code == 401
    wrong = signed_headers(*key, "GET", TARGET) | {"Authorization": alice.http.headers["Authorization"]}
    with pytest.raises(InvalidStatus) as refused:
        async with connected(venue, wrong):
            pass
    assert refused.value.response.status_code == 401


async def test_a_signed_message_signs_in(venue: Engine, alice: User) -> None:
    """``auth`` with a key signs in once by each signature; wrong ones are refused and the connection goes on."""
    key = make_key(alice)
    operation = signed_auth(key)
    async with connected(venue) as socket:
        for changes in ({"window": 60_001}, {"timestamp": now_ms() - 6000}, {"signature": "0" * 64}, {"api_key": "7"}):
            assert (await ask(socket, **operation | changes))["code"] == "UNAUTHORIZED", changes
        assert (await ask(socket, **operation | {"window": "5000"}))["code"] == "INVALID_REQUEST"
        assert (await ask(socket, **operation | {"access_token": "x"}))["code"] == "INVALID_REQUEST"
        assert (await ask(socket, **operation))["data"] == {"user": alice.name, "expires_at": None}
        assert (await ask(socket, op="subscribe", channels=["orders", "balances"]))["type"] == "ack"
        assert (await ask(socket, op="place", **ORDER))["type"] == "ack"
    async with connected(venue) as socket:
        assert (await ask(socket, **operation))["code"] == "UNAUTHORIZED"
        assert (await ask(socket, **signed_auth(key)))["type"] == "ack"


async def test_a_key_does_on_streams_only_what_it_may(venue: Engine, alice: User) -> None:
    """A key for reading hears and places nothing; one for trading places and does not hear."""
    reader, trader = make_key(alice, permissions=["read"]), make_key(alice, permissions=["trade"])
    async with connected(venue, signed_headers(*reader, "GET", TARGET)) as socket:
        assert (await ask(socket, op="subscribe", channels=["orders"]))["type"] == "ack"
        assert (await ask(socket, op="place", **ORDER))["code"] == "FORBIDDEN"
        assert (await ask(socket, op="cancel", order_id="1"))["code"] == "FORBIDDEN"
        assert (await ask(socket, op="amend", order_id="1", price="1"))["code"] == "FORBIDDEN"
    async with connected(venue, signed_headers(*trader, "GET", TARGET)) as socket:
        assert (await ask(socket, op="subscribe", channels=["orders"]))["code"] == "FORBIDDEN"
        assert (await ask(socket, op="subscribe", channels=["balances"]))["code"] == "FORBIDDEN"
        assert (await ask(socket, op="place", **ORDER))["type"] == "ack"


async def test_revoking_a_key_ends_its_connections(venue: Engine, alice: User) -> None:
    """Once a key is revoked none of its connections places anything, on either front; each ends with 4001."""
    doomed, other = make_key(alice), make_key(alice)
    async with trio.open_nursery() as nursery:
        ended: list[tuple[int | None, str | None]] = []

        async def stay() -> None:
            async with connected(venue, signed_headers(*doomed, "GET", TARGET, timestamp=next(stamps))) as socket:
                assert (await ask(socket, op="subscribe", channels=["orders"]))["type"] == "ack"
                opened.append(socket)
                if len(opened) == 8:
                    all_open.set()
                await revoked.wait()
                try:
                    await socket.send(json.dumps({"op": "place", "id": 7, **ORDER}))
                    while True:
                        message = json.loads(await socket.recv())
                        assert not (message["type"] == "ack" and message["id"] == 7)
                except ConnectionClosed:
                    ended.append((socket.close_code, socket.close_reason))
                    if len(ended) == 8:
                        all_ended.set()

        stamps = iter(range(now_ms(), now_ms() + 900))
        opened: list[Any] = []
        all_open, revoked, all_ended = trio.Event(), trio.Event(), trio.Event()
        async with connected(venue, signed_headers(*other, "GET", TARGET)) as survivor:
            for _ in range(8):
                nursery.start_soon(stay)
            await all_open.wait()
            await trio.to_thread.run_sync(alice.call, "DELETE", f"/api-keys/{doomed[0]}")
            revoked.set()
            with trio.fail_after(BACK_S):
                await all_ended.wait()
            assert ended == [(4001, "the API key was revoked")] * 8
            assert (await ask(survivor, op="place", **ORDER))["type"] == "ack"
    assert len(alice.call("GET", "/orders")) == 1


async def test_a_connection_that_only_listens_ends_too(venue: Engine, alice: User) -> None:
    """A connection that asks nothing after its key was revoked is ended as well."""
    key = make_key(alice)
    async with connected(venue, signed_headers(*key, "GET", TARGET)) as socket:
        assert (await ask(socket, op="subscribe", channels=["orders"]))["type"] == "ack"
        await trio.to_thread.run_sync(alice.call, "DELETE", f"/api-keys/{key[0]}")
        # Nothing happens to the orders of this user, so what comes next is the end.
        with pytest.raises(ConnectionClosed):
            await socket.recv()
        assert socket.close_code == 4001


async def test_the_client_signs(venue: Engine, alice: User) -> None:
    """The client trades by key: calls, many at once in one millisecond, and a stream that ends with its key."""
    token = alice.http.headers["Authorization"].removeprefix("Bearer ")
    async with Client(venue.url, token=token) as owner:
        made = await owner.create_api_key("client", ["read", "trade"])
        assert made.secret is not None
        assert made.secret not in repr(made)
        key = ApiKey(made.id, made.secret)
        assert made.secret not in repr(key)
        async with Client(venue.url, key=key) as client:
            placed = await client.place(symbol="BTC/USDT", side="buy", type="limit", quantity="0.01", price="20000")
            assert (await client.order(placed.order.id)).status == "open"
            assert [order.id async for order in client.orders(symbol="BTC/USDT", page_size=1)] == [placed.order.id]
            async with trio.open_nursery() as nursery:
                for _ in range(50):
                    nursery.start_soon(client.balances)
            with pytest.raises(ApiError, match="FORBIDDEN"):
                await client.create_api_key("another", ["read"])
        async with Stream(venue.url, key=key) as stream, Stream(venue.url) as later:
            await stream.subscribe("orders")
            assert (await later.authenticate(ApiKey(made.id, made.secret))).user == alice.name
            await later.subscribe("balances")
            await stream.cancel(placed.order.id)
            async for message in stream:
                if isinstance(message, OrderUpdate) and message.status == "cancelled":
                    break
            await owner.revoke_api_key(made.id)
            with trio.fail_after(BACK_S), pytest.raises((ApiError, StreamClosed)) as ended:
                async for _ in stream:
                    pass
            assert isinstance(ended.value, ApiError)
            assert ended.value.code == "UNAUTHORIZED"
        assert [info.id async for info in owner.api_keys()] == []


def test_streams_and_calls_share_their_memory(venue: Engine, alice: User) -> None:
    """A handshake's signature is that of a GET: what signed one in signs nothing else."""
    key = make_key(alice)
    headers = signed_headers(*key, "GET", TARGET)

    async def sign_in() -> None:
        async with connected(venue, headers):
            pass

    trio.run(sign_in)
    with connected_fronts(venue) as fronts:
        for client in fronts:
            upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
            answer = client.get(TARGET, headers={**headers, **upgrade, "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA=="})
            assert isinstance(answer, httpx2.Response)
            assert answer.status_code == 401
