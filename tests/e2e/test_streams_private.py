"""Who hears what: own orders and balances reach their owner and nobody else, and tokens count as they do over HTTP."""

from __future__ import annotations

import time
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import jwt
import pytest
import trio
from tests.e2e.users import Json, User, user_for_a_test
from tests.e2e.watched import token_of
from tests.engines import Engine
from tests.web.raw_websocket import WAIT_S, Closed, RawSocket, Refused, connect, connected

from tradeengine.actors.data_dir import read_secret
from tradeengine.web.auth import issue_token

SYMBOL = "LTC/USDT"
FUNDS = {"USDT": "100000", "LTC": "1000"}
ORDER: Json = {"symbol": SYMBOL, "side": "buy", "type": "limit", "quantity": "1", "price": "80"}
PRIVATE_TYPES = {"order_update", "order_snapshot", "resumed", "resync", "balances"}


@pytest.fixture
def alice(venue: Engine) -> Iterator[User]:
    """Give a new user."""
    yield from user_for_a_test(venue, "alice", FUNDS)


@pytest.fixture
def bob(venue: Engine) -> Iterator[User]:
    """Give another."""
    yield from user_for_a_test(venue, "bob", FUNDS)


def token(venue: Engine, name: str, lifetime_s: float = 3600) -> str:
    """Make a token."""
    return issue_token(read_secret(venue.data_dir).encode(), name, "user", lifetime_s)


async def told_until(socket: RawSocket, order_id: str) -> list[Json]:
    """Give every message up to an update of this order."""
    last = await socket.next("order_update", order_id=order_id)
    messages = [*socket.kept, last]
    socket.kept.clear()
    return messages


async def test_updates_reach_their_owner_only(venue: Engine, alice: User, bob: User) -> None:
    """Each of two who trade with each other hears of their own orders, and those without a token of none."""
    async with (
        connected(venue.url, token=token_of(alice)) as alices,
        connected(venue.url, token=token_of(bob)) as bobs,
        connected(venue.url) as anyones,
    ):
        for socket in (alices, bobs):
            await socket.ask("subscribe", channels=["orders", "balances", f"trades:{SYMBOL}"])
        await anyones.ask("subscribe", channels=[f"trades:{SYMBOL}", f"book:{SYMBOL}"])
        own = {alice.place(**ORDER)["order"]["id"] for _ in range(3)}
        bob.place(**(ORDER | {"side": "sell", "quantity": "2"}))
        bob.place(**(ORDER | {"side": "sell"}))
        # What comes on a connection comes in order: behind these nothing of before is on its way.
        last = [alice.place(**ORDER)["order"]["id"], bob.place(**ORDER)["order"]["id"]]
        alices_told, bobs_told = await told_until(alices, last[0]), await told_until(bobs, last[1])
        assert {update["order_id"] for update in alices_told if update["type"] == "order_update"} == {*own, last[0]}
        bobs_ids = {update["order_id"] for update in bobs_told if update["type"] == "order_update"}
        assert len(bobs_ids) == 3
        assert bobs_ids.isdisjoint({*own, last[0]})
        trades = [await anyones.next("trade_executed") for _ in range(3)]
        assert {message["type"] for message in anyones.kept}.isdisjoint(PRIVATE_TYPES)
        told = {value for trade in trades for name, value in trade.items() if name != "trade_id"}
        assert told.isdisjoint({alice.name, bob.name, *own, *bobs_ids})


async def test_all_connections_of_a_user_are_told(venue: Engine, alice: User) -> None:
    """Each connection of a user is told everything, once, also when they ended another."""
    async with (
        connected(venue.url, token=token_of(alice)) as one,
        connected(venue.url, "/ws/orders", token=token_of(alice), msgpack=True) as two,
    ):
        await one.ask("subscribe", channels=["orders"])
        await two.answer(None)
        async with connected(venue.url, token=token_of(alice)) as third:
            await third.ask("subscribe", channels=["orders"])
            first = alice.place(**ORDER)["order"]["id"]
            assert len(await told_until(third, first)) == 1
        second = alice.place(**ORDER)["order"]["id"]
        for socket in (one, two):
            told = await told_until(socket, second)
            assert [update["order_id"] for update in told] == [first, second]


async def test_unsubscribed_orders_are_told_no_more(venue: Engine, alice: User) -> None:
    """After leaving own orders nothing of them comes; who comes back hears of what happens from then on."""
    async with connected(venue.url, token=token_of(alice)) as socket:
        assert (await socket.ask("subscribe", channels=["orders"]))["channels"] == ["orders"]
        first = alice.place(**ORDER)["order"]["id"]
        await told_until(socket, first)
        assert (await socket.ask("unsubscribe", channels=["orders"]))["channels"] == []
        alice.call("DELETE", f"/orders/{first}")
        await socket.ask("subscribe", channels=["orders"])
        second = alice.place(**ORDER)["order"]["id"]
        assert [update["order_id"] for update in await told_until(socket, second)] == [second]


def forged(claims: Json, key: str = "x" * 32, algorithm: str = "HS256") -> str:
    """Make a token that is not one of ours."""
    return jwt.encode({"sub": "alice", "exp": int(time.time()) + 60, **claims}, key, algorithm=algorithm)


@pytest.mark.parametrize(
    "authorization",
    [
        ["Bearer nonsense"],
        ["Bearer "],
        ["Basic YTpi"],
        [f"Bearer {forged({})}"],
        [f"Bearer {forged({}, '', 'none')}"],
        ["Bearer a.b.c", "Bearer a.b.c"],
    ],
)
@pytest.mark.parametrize("path", ["/ws/stream", "/ws/orders", "/ws/trades"])
async def test_wrong_token_in_the_handshake_is_401(venue: Engine, path: str, authorization: list[str]) -> None:
    """A wrong token refuses the connection, also where none is needed, in the envelope and with the header."""
    with pytest.raises(Refused) as refused:
        await connect(venue.url, path, headers=[("Authorization", value) for value in authorization])
    assert (refused.value.status, refused.value.code) == (401, "UNAUTHORIZED")
    assert "Bearer" in refused.value.headers["www-authenticate"]
    assert refused.value.body["meta"]["request_id"] == refused.value.headers["x-request-id"]


async def test_expired_token_is_refused(venue: Engine, alice: User) -> None:
    """A token whose time is over is 401 in the handshake and refused by auth."""
    expired = token(venue, alice.name, lifetime_s=-60)
    with pytest.raises(Refused, match="expired"):
        await connect(venue.url, token=expired)
    async with connected(venue.url) as socket:
        error = await socket.refusal("auth", access_token=expired)
        assert (error["code"], "expired" in error["message"]) == ("UNAUTHORIZED", True)


async def test_token_in_the_url_is_refused(venue: Engine, alice: User) -> None:
    """A token in the URL, where logs would show it, is refused as an unknown parameter."""
    for name in ("access_token", "token"):
        with pytest.raises(Refused) as refused:
            await connect(venue.url, f"/ws/orders?{name}={token_of(alice)}")
        assert (refused.value.status, refused.value.body["error"]["details"]["field"]) == (400, name)


async def test_private_channels_need_a_token(venue: Engine, alice: User) -> None:
    """Without a token own orders and balances are refused, and with them all that the request asked for."""
    async with connected(venue.url) as socket:
        for channels in (["orders"], ["balances"], [f"trades:{SYMBOL}", "orders"]):
            assert (await socket.refusal("subscribe", channels=channels))["code"] == "UNAUTHORIZED"
        assert (await socket.ask("unsubscribe", channels=["orders"]))["channels"] == []
        assert (await socket.refusal("auth", access_token="nonsense"))["code"] == "UNAUTHORIZED"
        signed_in = await socket.ask("auth", access_token=token_of(alice))
        assert signed_in["user"] == alice.name
        assert (await socket.ask("subscribe", channels=["orders"]))["channels"] == ["orders"]


async def test_orders_path_waits_for_its_token(venue: Engine, alice: User) -> None:
    """The path of own orders tells nothing before it knows whose, and everything from then on."""
    async with connected(venue.url, "/ws/orders") as socket:
        await socket.ask("ping")
        await socket.ask("auth", access_token=token_of(alice))
        begun = await socket.answer(None)
        assert (begun["data"]["channels"], bool(begun["data"]["cursor"])) == (["orders"], True)
        order_id = alice.place(**ORDER)["order"]["id"]
        assert [update["order_id"] for update in await told_until(socket, order_id)] == [order_id]


async def test_connection_belongs_to_one_user(venue: Engine, alice: User, bob: User) -> None:
    """A connection takes a new token of its user, and refuses another's; it stays its user's."""
    async with connected(venue.url, token=token_of(alice)) as socket:
        await socket.ask("subscribe", channels=["orders"])
        error = await socket.refusal("auth", access_token=token_of(bob))
        assert (error["code"], error["details"]["field"]) == ("INVALID_REQUEST", "access_token")
        assert (await socket.ask("auth", access_token=token(venue, alice.name, 7200)))["user"] == alice.name
        bob.place(**ORDER)
        placed = (await socket.ask("place", **ORDER))["order"]["id"]
        assert alice.order(placed)["status"] == "open"
        assert [update["order_id"] for update in await told_until(socket, placed)] == [placed]


async def test_token_that_expires_closes_the_connection(venue: Engine, alice: User) -> None:
    """A connection whose token expires is closed with 4001; one that got a new token in time goes on."""
    async with (
        connected(venue.url, token=token(venue, alice.name, 2)) as ending,
        connected(venue.url, token=token(venue, alice.name, 2)) as prolonged,
        connected(venue.url) as later,
    ):
        await ending.ask("subscribe", channels=["orders"])
        await prolonged.ask("subscribe", channels=["orders"])
        await later.ask("auth", access_token=token(venue, alice.name, 2))
        await prolonged.ask("auth", access_token=token_of(alice))
        assert await ending.close_code() == await later.close_code() == 4001
        order_id = alice.place(**ORDER)["order"]["id"]
        assert [update["order_id"] for update in await told_until(prolonged, order_id)] == [order_id]
        assert not ending.kept


async def test_expired_token_trades_no_more(venue: Engine, alice: User) -> None:
    """From its last moment on a token neither places nor subscribes, and the first try ends the connection: 4001."""
    life_s = 4
    expires_s = int(time.time()) + life_s
    async with connected(venue.url, token=token(venue, alice.name, life_s)) as socket:
        codes = []
        with trio.fail_after(WAIT_S):
            try:
                while True:
                    sent_s = time.time()
                    answer = await socket.answer(await socket.request("place", **(ORDER | {"time_in_force": "ioc"})))
                    codes.append((sent_s, time.time(), answer.get("code")))
            except Closed as end:
                close_code = end.code
            except trio.BrokenResourceError:
                close_code = await socket.close_code()
    assert close_code == 4001
    assert codes[0][2] is None
    assert {code for _, at_s, code in codes if at_s < expires_s - 1} == {None}
    assert not [code for sent_s, _, code in codes if sent_s >= expires_s and code is None]
    placed_s = [int(order["created_at"][17:19]) for order in alice.call("GET", "/orders?limit=1000")]
    # Each of them before; the last one may have been let in then, and be stamped by the matcher a moment later.
    assert sum((second - expires_s) % 60 < 60 - life_s for second in placed_s) <= 1
    assert len(placed_s) > 1


async def test_balances_are_the_owners(venue: Engine, alice: User, bob: User) -> None:
    """Balances begin with all of them, then tell what changed, to their owner alone, as HTTP shows them."""
    async with (
        connected(venue.url, token=token_of(alice)) as alices,
        connected(venue.url, token=token_of(bob)) as bobs,
    ):
        for socket, user in ((alices, alice), (bobs, bob)):
            await socket.ask("subscribe", channels=["balances"])
            first = await socket.next("balances")
            assert (first["snapshot"], first["balances"]) == (True, user.call("GET", "/balances"))
        alice.place(**ORDER)
        held = (await alices.next("balances", snapshot=False))["balances"]
        assert [(row["asset"], Decimal(row["held"])) for row in held] == [("USDT", Decimal("80.08"))]
        bob.place(**(ORDER | {"side": "sell"}))
        await balances_agree(alices, alice)
        last = await balances_agree(bobs, bob)
        assert all(row["asset"] in {"USDT", "LTC"} for message in last for row in message["balances"])


async def balances_agree(socket: RawSocket, user: User) -> list[Json]:
    """Read until what was told of an asset last is what HTTP shows, for each that was told; returns the messages."""
    shown: dict[str, Any] = {row["asset"]: row for row in user.call("GET", "/balances")}
    told: dict[str, Any] = {}
    messages = []
    while any(told.get(asset) != shown[asset] for asset in ("USDT", "LTC")):
        messages.append(await socket.next("balances"))
        told |= {row["asset"]: row for row in messages[-1]["balances"]}
        assert not messages[-1]["snapshot"]
    return messages


async def test_balances_follow_money_from_elsewhere(venue: Engine, alice: User) -> None:
    """A deposit shows on the stream; after leaving, nothing does, and who comes back begins with all of them."""
    async with connected(venue.url, token=token_of(alice)) as socket:
        await socket.ask("subscribe", channels=["balances"])
        await socket.next("balances", snapshot=True)
        venue.deposit(alice.name, "ETH", "3")
        (row,) = (await socket.next("balances", snapshot=False))["balances"]
        assert (row["asset"], Decimal(row["total"])) == ("ETH", Decimal(3))
        await socket.ask("unsubscribe", channels=["balances"])
        alice.place(**ORDER)
        await socket.ask("subscribe", channels=["balances"])
        again = await socket.next("balances")
        assert again["snapshot"]
        assert {row["asset"]: Decimal(row["held"]) for row in again["balances"]}["USDT"] == Decimal("80.08")
        assert "balances" not in {message["type"] for message in socket.kept}
