"""Stories of listing a symbol while the engine runs: traded at once on every front, and after a restart."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.bank import admin_of, at_once, fresh
from tests.e2e.users import Json, User, connect_database, deposit_all, make_user
from tests.engines import Engine, running_engine
from tests.faults.test_kill_under_load import kill_everything
from tests.web.raw_websocket import connected

from tradeengine.core.records import TradingState
from tradeengine.storage.listing import Room, Wanted, request_listing

TERMS: Json = {
    "tick": "0.001",
    "lot": "0.01",
    "price_max": "10000",
    "quantity_min": "0.01",
    "quantity_max": "500000",
    "min_notional": "5",
    "maker_fee": "0.0005",
    "taker_fee": "0.001",
    "max_price_deviation": "0.10",
}
_names = (f"NEW{number}" for number in itertools.count())


@pytest.fixture(scope="module")
def boss(bank: Engine) -> Iterator[User]:
    """Give a super administrator."""
    admin = admin_of(bank, "super_admin")
    yield admin
    admin.http.close()


def listing(name: str, **changes: Any) -> Json:
    """Ask for a symbol with a base asset that nobody has heard of."""
    return {"symbol": f"{name}/USDT", "base_places": 8} | TERMS | changes


def trade(engine: Engine, symbol: str, seller: User, buyer: User) -> None:
    """Trade a little, over a connection of its own to whichever front takes it."""
    deposit_all(engine, seller.name, {symbol.partition("/")[0]: "10"})
    terms = {"symbol": symbol, "type": "limit", "quantity": "2", "price": "7.125"}
    for _ in range(4):
        with fresh(seller) as client:
            assert client.post("/orders", json={"side": "sell", **terms}).status_code == 201
        with fresh(buyer) as client:
            answer = client.post("/orders", json={"side": "buy", **terms})
        assert answer.json()["data"]["order"]["status"] == "filled", answer.text


async def test_symbol_is_traded_on_every_front_once_it_is_listed(bank: Engine, boss: User) -> None:
    """A new symbol with a new asset is shown, traded, streamed and settled without a restart; a repeat gets 200."""
    name = next(_names)
    symbol, users = f"{name}/USDT", [make_user(bank, user, {"USDT": "1000"}) for user in ("seller", "buyer")]
    fewest = [row["shard"] for row in boss.call("GET", "/admin/symbols")]
    made = boss.call("POST", "/admin/symbols", 201, json=listing(name))
    assert made["created"] is True
    assert made["symbol"]["status"] == "open"
    assert made["symbol"]["shard"] == min((0, 1), key=lambda shard: (fewest.count(shard), shard))
    async with connected(bank.url, f"/ws/markets/{name}-USDT") as socket:
        assert (await socket.next("trading_status"))["status"] == "open"
        trade(bank, symbol, *users)
        assert Decimal((await socket.next("orderbook_update"))["best_ask"] or "7.125") == Decimal("7.125")
    shown = next(row for row in users[0].call("GET", "/symbols") if row["symbol"] == symbol)
    for field, value in TERMS.items():
        assert Decimal(shown[field]) == Decimal(value), field
    assert len(users[0].call("GET", f"/trades?symbol={symbol}")) == 4
    assert users[1].balances()[name][0] == 8
    again = boss.call("POST", "/admin/symbols", json=listing(name))
    assert (again["created"], again["symbol"]) == (False, made["symbol"])
    for user in users:
        user.http.close()


def test_symbol_may_begin_closed_and_on_a_shard_of_choice(boss: User, bank: Engine) -> None:
    """A symbol that is listed halted takes no orders before it is resumed."""
    name = next(_names)
    made = boss.call("POST", "/admin/symbols", 201, json=listing(name, status="halted", shard=1))["symbol"]
    assert (made["status"], made["shard"]) == ("halted", 1)
    user = make_user(bank, "early", {"USDT": "100"})
    order = {"symbol": f"{name}/USDT", "side": "buy", "type": "limit", "quantity": "1", "price": "6"}
    assert user.call("POST", "/orders", 409, json=order)["code"] == "SYMBOL_HALTED"
    boss.call("POST", f"/admin/trading/resume/{name}-USDT", json={"reason": "it begins"})
    user.call("POST", "/orders", 201, json=order)
    user.call("DELETE", "/orders")
    user.http.close()


def test_two_who_list_the_same_at_once_are_both_right(boss: User) -> None:
    """Of the same symbol asked for at the same time over several connections one is made, and nobody hears a fault."""
    wanted = listing(next(_names))

    def ask() -> int:
        with fresh(boss) as client:
            return client.post("/admin/symbols", json=wanted).status_code

    assert set(at_once(*[ask] * 6)) <= {200, 201}
    rows = [row for row in boss.call("GET", "/symbols") if row["symbol"] == wanted["symbol"]]
    assert [row["status"] for row in rows] == ["open"]


def test_dry_run_lists_nothing(boss: User) -> None:
    """A dry run answers with the symbol as it would be, and makes neither it nor its asset; then it can be made."""
    name = next(_names)
    before = boss.call("GET", "/symbols")
    tried = boss.call("POST", "/admin/symbols?dry_run=true", json=listing(name))
    assert (tried["created"], tried["dry_run"], tried["symbol"]["status"]) == (True, True, "open")
    assert boss.call("GET", "/symbols") == before
    # With other places: the asset was not made.
    made = boss.call("POST", "/admin/symbols", 201, json=listing(name, base_places=6))["symbol"]
    assert made["base_places"] == 6


@pytest.mark.parametrize(
    ("change", "code", "field"),
    [
        ({"symbol": "BTCUSDT"}, "INVALID_REQUEST", "symbol"),
        ({"symbol": "B_C/USDT"}, "INVALID_REQUEST", "symbol"),
        ({"symbol": "USDT/USDT"}, "INVALID_REQUEST", "symbol"),
        ({"base_places": None}, "INVALID_REQUEST", "base_places"),
        ({"symbol": "NEVER/NOSUCH"}, "INVALID_REQUEST", "quote_places"),
        ({"base_places": 19}, "NUMBER_OUT_OF_RANGE", "base_places"),
        ({"base_places": -1}, "NUMBER_OUT_OF_RANGE", "base_places"),
        ({"tick": "0"}, "NUMBER_OUT_OF_RANGE", "tick"),
        ({"tick": "0.0000000001"}, "NUMBER_OUT_OF_RANGE", "tick"),
        ({"tick": "1e-3"}, "INVALID_REQUEST", "tick"),
        ({"tick": 1}, "INVALID_REQUEST", "tick"),
        ({"lot": "0"}, "NUMBER_OUT_OF_RANGE", "lot"),
        ({"lot": "0.000000001"}, "NUMBER_OUT_OF_RANGE", "lot"),
        ({"price_max": "0"}, "NUMBER_OUT_OF_RANGE", "price_max"),
        ({"price_max": "1.0005"}, "PRICE_NOT_ON_TICK", "price_max"),
        ({"quantity_min": "0.015"}, "QUANTITY_NOT_ON_LOT", "quantity_min"),
        ({"quantity_max": "0.015"}, "QUANTITY_NOT_ON_LOT", "quantity_max"),
        ({"quantity_min": "5", "quantity_max": "4"}, "NUMBER_OUT_OF_RANGE", "quantity_max"),
        ({"quantity_max": "50000000000"}, "NUMBER_OUT_OF_RANGE", "quantity_max"),
        ({"maker_fee": "1.5"}, "NUMBER_OUT_OF_RANGE", "maker_fee"),
        ({"taker_fee": "-0.1"}, "NUMBER_OUT_OF_RANGE", "taker_fee"),
        ({"max_price_deviation": "11"}, "NUMBER_OUT_OF_RANGE", "max_price_deviation"),
        ({"min_notional": "abc"}, "INVALID_REQUEST", "min_notional"),
        ({"shard": 2}, "NUMBER_OUT_OF_RANGE", "shard"),
        ({"shard": -1}, "NUMBER_OUT_OF_RANGE", "shard"),
        ({"status": "closed"}, "INVALID_REQUEST", "status"),
        ({"surprise": 1}, "INVALID_REQUEST", "surprise"),
    ],
)
def test_what_cannot_be_listed_is_refused_by_field(boss: User, change: Json, code: str, field: str) -> None:
    """Each wrong field is named, with why; nothing is made, dry or not."""
    body = {name: value for name, value in (listing("NEVER") | change).items() if value is not None}
    for path in ("/admin/symbols?dry_run=true", "/admin/symbols"):
        error = boss.call("POST", path, 400, json=body)
        assert (error["code"], error["details"]["field"]) == (code, field), error
    assert not [row for row in boss.call("GET", "/symbols") if row["symbol"].startswith("NEVER")]


def test_what_is_there_otherwise_is_a_conflict(boss: User) -> None:
    """A symbol with other terms, and an asset with other places, are 409 with the fields that differ; both stay."""
    name = next(_names)
    boss.call("POST", "/admin/symbols", 201, json=listing(name))
    error = boss.call("POST", "/admin/symbols", 409, json=listing(name, maker_fee="0.002", tick="0.01"))
    assert error["code"] == "SYMBOL_EXISTS"
    assert set(error["details"]["fields"]) == {"maker_fee", "tick", "price_max"}
    error = boss.call("POST", "/admin/symbols", 409, json=listing(name, symbol=f"{name}/BTC", base_places=3))
    assert (error["code"], error["details"]["fields"]) == ("ASSET_EXISTS", ["base_places"])


@pytest.mark.long
def test_listed_symbol_outlives_everything(tmp_path: Path) -> None:
    """A symbol listed a moment before everything is killed is traded after the start; a row alone is listed by it.

    With no room for more symbols than that, the next one is refused by the name of the limit.
    """
    room = {"TRADEENGINE_LIMITS_SYMBOLS_MAX": "12"}
    with running_engine(tmp_path / "data", ["--shards", "2"], room) as engine:
        boss = admin_of(engine, "super_admin")
        boss.call("POST", "/admin/symbols", 201, json=listing("ONE"))
        # As if the front had died between the row and the command.
        wanted = Wanted(
            base="TWO",
            quote="USDT",
            base_places=8,
            quote_places=None,
            decimals=dict(TERMS),
            shard=1,
            state=TradingState.HALTED,
        )
        with connect_database(engine) as connection:
            request_listing(connection, wanted, Room(2, 64, 12, 262_144), dry_run=False)
        kill_everything(engine)
        boss.http.close()
    with running_engine(tmp_path / "data", ["--shards", "2"], room) as engine:
        boss = admin_of(engine, "super_admin")
        shown = {row["symbol"]: row["status"] for row in boss.call("GET", "/symbols")}
        assert (shown["ONE/USDT"], shown["TWO/USDT"]) == ("open", "halted")
        boss.call("POST", "/admin/trading/resume/TWO-USDT", json={"reason": "it begins"})
        users = [make_user(engine, user, {"USDT": "1000"}) for user in ("seller", "buyer")]
        for symbol in ("ONE/USDT", "TWO/USDT"):
            trade(engine, symbol, *users)
        error = boss.call("POST", "/admin/symbols", 422, json=listing("THREE"))
        assert (error["code"], error["details"]["limit"]) == ("LIMIT_EXCEEDED", "limits.symbols_max")
        assert error["details"]["maximum"] == 12
        for user in (boss, *users):
            user.http.close()
