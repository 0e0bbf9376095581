"""What is not theirs: a stranger, with token or key, calls every route with everything that another user has.

``CALLS`` has every route of the application that asks who calls, and for each what a stranger tries there and must be
answered. A route that is added is missing in it, and fails here. What an answer may not hold is looked for in its
bytes: the owner's name, ids and references. Afterwards the owner has everything that they had.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import quote

import httpx2
import pytest
from tests.e2e.bank import admin_of
from tests.e2e.test_api_keys import make_key
from tests.e2e.users import Json, User, make_user
from tests.e2e.watched import token_of
from tests.engines import Engine
from tests.web.api_key_maker import signed_headers
from tests.web.raw_websocket import connected
from tests.web.test_routes import ROUTES

from tradeengine.web.access import Access
from tradeengine.web.streams.private import BEGIN_ANEW

FUNDS: Final = {"USDT": "76543.21", "ETH": "98.76543"}
ORDER: Final[Json] = {"symbol": "ETH/USDT", "side": "buy", "type": "limit", "quantity": "1.2345", "price": "1234.5"}
CLIENT_ID: Final = "the-owners-own-id"


@dataclass(frozen=True)
class Call:
    """One try. Braces in path, query and body are filled with what the owner has. ``gives``: what ``data`` must be."""

    status: int
    query: Mapping[str, str] = field(default_factory=dict)
    body: Any = None
    gives: Any = None


def order(**changes: Any) -> Json:
    """Make an order of the stranger's own."""
    return {**ORDER, "price": "1000", "quantity": "0.01", **changes}


WHOSE: Final = [Call(400, {name: "{user}"}) for name in ("user", "account", "account_id", "sub", "owner")]
"""To ask for another by name is no parameter of anything."""
NOT_YOURS: Final = [Call(404)]
ADMIN: Final = [Call(403, body={"reason": "x"})]
CALLS: Final[Mapping[str, list[Call]]] = {
    "DELETE /api/v1/api-keys/<key_id>": NOT_YOURS,
    "GET /api/v1/api-keys": [Call(200, {"cursor": "{keys_cursor}"}), *WHOSE],
    "POST /api/v1/api-keys": [
        Call(400, body={"name": "x", "permissions": ["read"], name: "{user}"}) for name in ("user", "account_id", "id")
    ],
    "GET /api/v1/balances": [Call(200), *WHOSE],
    "GET /api/v1/fees": [Call(200), *WHOSE],
    "GET /api/v1/ledger": [Call(200), Call(200, {"cursor": "{ledger_cursor}"}), *WHOSE],
    "DELETE /api/v1/orders": [
        Call(200, gives={"cancelled": 0, "total": 0, "orders": []}),
        Call(200, {"symbol": "ETH/USDT"}, gives={"cancelled": 0, "total": 0, "orders": []}),
        *WHOSE,
    ],
    "GET /api/v1/orders": [Call(200, gives=[]), Call(200, {"cursor": "{orders_cursor}"}, gives=[]), *WHOSE],
    "POST /api/v1/orders": [Call(400, body=order(**{name: "{user}"})) for name in ("user", "account_id", "id")],
    "DELETE /api/v1/orders/<order_id>": NOT_YOURS,
    "GET /api/v1/orders/<order_id>": NOT_YOURS,
    "PATCH /api/v1/orders/<order_id>": [
        Call(404, body={"quantity": "0.5"}),
        Call(404, body={"price": "1200"}),
        Call(400, body={"quantity": "0.5", "user": "{user}"}),
    ],
    "GET /api/v1/orders/by-client-id/<client_order_id>": NOT_YOURS,
    "POST /api/v1/orders/batch": [
        Call(400, body={"orders": [order()], "user": "{user}"}),
        Call(200, body={"orders": [order(user="{user}"), order(id="{order_id}")]}),
    ],
    "POST /api/v1/orders/cancel-all-after": [
        Call(200, body={"timeout_ms": 0}),
        Call(400, body={"timeout_ms": 0, "user": "{user}"}),
    ],
    "POST /api/v1/orders/test": [
        Call(200, body=order(client_order_id=CLIENT_ID)),
        Call(400, body=order(user="{user}")),
    ],
    # Of every administrator's route: nothing but that it is one.
    **{route: ADMIN for route, needed in ROUTES.items() if needed in {Access.ADMIN, Access.SUPER_ADMIN}},
}
ONLY_BY_TOKEN: Final = {route for route, needed in ROUTES.items() if needed is Access.USER}
"""A key gets no further than 403 there, whosever id it is."""
OPEN: Final[Mapping[str, list[Call]]] = {
    "GET /api/v1/trades/<trade_id>": [Call(200), *WHOSE],
    "GET /api/v1/trades": [
        Call(200, {"scope": "mine"}, gives=[]),
        Call(200, {"scope": "mine", "cursor": "{trades_cursor}"}, gives=[]),
        Call(200, {"symbol": "ETH/USDT"}),
        Call(400, {"scope": "mine", "user": "{user}"}),
    ],
    "GET /api/v1/historical/trades/<path:symbol>": [Call(200), *WHOSE],
    "GET /api/v1/orderbook/<path:symbol>": [Call(200), *WHOSE],
}
"""Public routes that tell of what the owner did, and must not tell who it was."""


@dataclass
class Owner:
    """A user and everything that they have. ``known``: by the name that routes and calls have for it."""

    user: User
    known: dict[str, str]
    before: Json

    def state(self) -> Json:
        """Say what they have, but for what time changes."""
        return state_of(self.user)


def state_of(user: User) -> Json:
    """Say what a user has."""
    return {
        "orders": [(row["id"], row["status"], row["quantity"], row["price"]) for row in user.call("GET", "/orders")],
        "balances": user.call("GET", "/balances"),
        "ledger": user.call("GET", "/ledger"),
        "keys": [row["id"] for row in user.call("GET", "/api-keys")],
        "trades": user.call("GET", "/trades", params={"scope": "mine"}),
    }


@pytest.fixture(scope="module")
def owner(target: Engine) -> Iterator[Owner]:
    """Give a user with orders, a stop, trades, a timer, keys, deposits, a withdrawal and limits."""
    user, friend = make_user(target, "owner", FUNDS), make_user(target, "friend", FUNDS)
    root = admin_of(target)
    placed = user.place(**ORDER, client_order_id=CLIENT_ID)["order"]
    user.place(**{**ORDER, "type": "stop", "side": "sell", "stop_price": "100", "price": None})
    made = user.place(**{**ORDER, "quantity": "0.1", "price": "1240"})["order"]
    trade = friend.place(**{**ORDER, "side": "sell", "quantity": "0.1", "price": "1240"})["trades"][0]
    key_id, secret = make_key(user)
    make_key(user)
    user.call("POST", "/orders/cancel-all-after", json={"timeout_ms": 3_600_000})
    withdrawal = {"user": user.name, "asset": "USDT", "amount": "12.34", "reference": f"out-{user.name}"}
    root.call("POST", "/admin/withdrawals", json=withdrawal)
    root.call("POST", f"/admin/limits/user/{user.name}", json={"max_open_orders": 77})
    known = {
        "order_id": placed["id"],
        "client_order_id": CLIENT_ID,
        "trade_id": trade["id"],
        "maker_order_id": made["id"],
        "key_id": key_id,
        "secret": secret,
        "user": user.name,
        "reference": f"out-{user.name}",
        "symbol": "ETH-USDT",
        "letter_id": "1",
        "keys_cursor": cursor_of(user, "/api-keys"),
        "ledger_cursor": cursor_of(user, "/ledger"),
        "orders_cursor": cursor_of(user, "/orders"),
        "trades_cursor": cursor_of(friend, "/trades", scope="mine", limit="1") or "AAAAAAAAAAE",
    }
    yield Owner(user, known, state_of(user))
    for client in (user, friend, root):
        client.http.close()


def cursor_of(user: User, path: str, **query: str) -> str:
    """Give the cursor of a list's first page; empty: there is only one."""
    answer = user.http.get(path, params={"limit": "1", **query}).json()
    return str(answer["meta"]["next_cursor"] or "")


@pytest.fixture(scope="module")
def stranger(target: Engine) -> Iterator[User]:
    """Give a user with nothing but money of their own."""
    user = make_user(target, "stranger", {"USDT": "1000"})
    yield user
    user.http.close()


@pytest.fixture(scope="module")
def strangers_key(stranger: User) -> tuple[str, Any]:
    """Give the stranger a key that may do whatever keys may."""
    return make_key(stranger)


def test_every_route_that_asks_who_calls_is_tried() -> None:
    """Each route that is not open to anyone has tries of a stranger; and so have those that tell what somebody did."""
    closed = {route for route, needed in ROUTES.items() if needed not in {Access.PUBLIC, Access.SCRAPE}}
    assert sorted(closed - CALLS.keys()) == [], "say in CALLS what a stranger may see there"
    assert set(CALLS) <= closed
    assert set(OPEN) <= set(ROUTES)


@pytest.mark.parametrize("by_key", [False, True], ids=["token", "key"])
@pytest.mark.parametrize("route", [*CALLS, *OPEN])
def test_strangers_get_nothing(
    owner: Owner, stranger: User, strangers_key: tuple[str, Any], route: str, by_key: bool
) -> None:
    """A stranger is told that there is no such thing, that they may not, or of what is theirs; never of the owner's."""
    method, _, rule = route.partition(" ")
    key = strangers_key if by_key else None
    path = "/".join(quote(fill(part, owner.known), safe="") for part in rule.split("/"))
    for call in [*CALLS.get(route, ()), *OPEN.get(route, ())]:
        query = {name: value.format_map(owner.known) for name, value in call.query.items()}
        body = None if call.body is None else fill_all(call.body, owner.known)
        answer = ask(stranger, key, method, path, query, body)
        expected = 403 if by_key and route in ONLY_BY_TOKEN else call.status
        assert answer.status_code == expected, (call, answer.text)
        if call.gives is not None and expected == 200:
            assert answer.json()["data"] == call.gives
        said = answer.text + repr(answer.headers.multi_items())
        told = f"{path} {query} {body}"
        secrets = [value for name, value in owner.known.items() if name not in OPENLY_KNOWN and value not in told]
        assert [secret for secret in secrets if secret and secret in said] == []
    assert owner.state() == owner.before


OPENLY_KNOWN: Final = {"symbol", "letter_id", "trade_id"}
"""What is public; all else that an owner has may be in no answer to a stranger who did not say it first."""


def ask(
    user: User, key: tuple[str, Any] | None, method: str, path: str, query: Mapping[str, str], body: Any
) -> httpx2.Response:
    """Make a call, by token or signed by a key."""
    target = path + (f"?{httpx2.QueryParams(query)}" if query else "")
    content = b"" if body is None else json.dumps(body).encode()
    request = user.http.build_request(
        method, str(user.http.base_url.copy_with(path="/"))[:-1] + target, content=content
    )
    if key is not None:
        del request.headers["Authorization"]
        request.headers.update(signed_headers(*key, method, target, content))
    return user.http.send(request)


def fill(part: str, known: Mapping[str, str]) -> str:
    """Put what the owner has into a part of a path."""
    return known[part.strip("<>").rpartition(":")[2]] if part.startswith("<") else part


def fill_all(body: Any, known: Mapping[str, str]) -> Any:
    """Put what the owner has into a body."""
    if isinstance(body, dict):
        return {name: fill_all(value, known) for name, value in body.items()}
    if isinstance(body, list):
        return [fill_all(value, known) for value in body]
    return body.format_map(known) if isinstance(body, str) else body


def test_same_client_order_id_is_two_orders(owner: Owner, stranger: User) -> None:
    """A client order id that another uses, too, names an order of one's own, which repeats and ends by itself."""
    placed = stranger.place(**order(client_order_id=CLIENT_ID))["order"]
    assert placed["id"] != owner.known["order_id"]
    assert stranger.place(200, **order(client_order_id=CLIENT_ID))["order"]["id"] == placed["id"]
    found = stranger.call("GET", f"/orders/by-client-id/{CLIENT_ID}")["order"]
    assert found["id"] == placed["id"]
    assert stranger.call("DELETE", "/orders")["orders"] == [placed["id"]]
    assert owner.state() == owner.before


async def test_streams_tell_a_stranger_nothing(target: Engine, owner: Owner, stranger: User) -> None:
    """With the owner's cursor, names and ids a stranger is told of nothing, and can move nothing."""
    async with connected(target.url, token=token_of(owner.user)) as own:
        cursor = (await own.ask("subscribe", channels=["orders"]))["cursor"]
    async with connected(target.url, token=token_of(stranger)) as socket:
        await socket.ask("subscribe", channels=["orders", "balances"], since=cursor)
        await socket.ask("ping")
        name, order_id = owner.known["user"], owner.known["order_id"]
        for channel in (
            f"orders:{name}",
            f"orders@{name}",
            f"balances:{name}",
            "*",
            f"user:{name}",
            "orders\0",
            "Orders",
        ):
            assert (await socket.refusal("subscribe", channels=[channel]))["code"] == "INVALID_REQUEST"
        assert (await socket.refusal("cancel", order_id=order_id))["code"] == "ORDER_NOT_FOUND"
        assert (await socket.refusal("amend", order_id=order_id, quantity="0.5"))["code"] == "ORDER_NOT_FOUND"
        for fields in ({"user": name}, {"account_id": 1}):
            assert (await socket.refusal("place", **order(), **fields))["code"] == "INVALID_REQUEST"
            assert (await socket.refusal("subscribe", channels=["orders"], **fields))["code"] == "INVALID_REQUEST"
        said = json.dumps(list(socket.kept))
        assert [secret for secret in (name, order_id, owner.known["key_id"], CLIENT_ID) if secret in said] == []
    assert owner.state() == owner.before


@pytest.mark.parametrize("resumed_from", ["the owner's cursor", "the beginning", "nowhere"])
async def test_streams_tell_a_stranger_nothing_of_what_happens(
    target: Engine, stranger: User, resumed_from: str
) -> None:
    """While another user trades, a stranger hears of no order and no balance, wherever the stream is resumed from."""
    busy, partner = make_user(target, "busy", FUNDS), make_user(target, "partner", FUNDS)
    best: Json = {**ORDER, "quantity": "0.1", "price": "1250"}
    try:
        async with (
            connected(target.url, token=token_of(busy)) as own,
            connected(target.url, token=token_of(stranger)) as socket,
        ):
            cursor = (await own.ask("subscribe", channels=["orders", "balances"]))["cursor"]
            since = {"the owner's cursor": {"since": cursor}, "the beginning": {"since": BEGIN_ANEW}, "nowhere": {}}
            placed = [busy.place(**ORDER)["order"]["id"]]
            placed.append(busy.place(**best)["order"]["id"])
            partner.place(**{**best, "side": "sell"})
            await own.next("order_update", order_id=placed[1], status="filled")
            assert len(busy.call("GET", "/trades", params={"scope": "mine"})) == 1  # settled
            await socket.ask("subscribe", channels=["orders", "balances"], **since[resumed_from])
            if resumed_from != "nowhere":
                told = await socket.next("resumed" if resumed_from == "the owner's cursor" else "resync")
                assert told["orders"] in (0, [])
            await own.ask("ping")
            own.kept.clear()
            placed.append(busy.place(**ORDER)["order"]["id"])
            await own.next("order_update", order_id=placed[2])
            await own.next("balances")
            # What comes on a connection comes in order: behind this nothing of before is on its way.
            await socket.ask("ping")
            assert [message["type"] for message in socket.kept] == ["balances"]
            assert socket.kept[0]["snapshot"] is True
    finally:
        busy.call("DELETE", "/orders")
        for user in (busy, partner):
            user.http.close()
