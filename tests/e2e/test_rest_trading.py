"""Two users trade over HTTP, and everything that can be looked at agrees to the last unit."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import psycopg
import pytest
from tests.e2e.users import NewUser, User, connect_database
from tests.engines import Engine


@pytest.fixture
def database(engine: Engine) -> Iterator[psycopg.Connection[Any]]:
    """Give a connection to the engine's PostgreSQL."""
    with connect_database(engine) as connection:
        yield connection


def test_two_users_trade_to_the_last_unit(new_user: NewUser, database: psycopg.Connection[Any]) -> None:
    """A maker sells in two fills: orders, trades, fees, balances and the ledger agree with arithmetic by hand."""
    seller, buyer = new_user("seller", BTC="2"), new_user("buyer", USDT="200000")
    resting = seller.place(symbol="BTC/USDT", side="sell", quantity="1.5", price="50000.00")["order"]
    assert seller.balances()["BTC"] == (Decimal(2), Decimal("0.5"), Decimal("1.5"))

    first = buyer.place(symbol="BTC/USDT", quantity="1.00001", price="50100.00")
    second = buyer.place(symbol="BTC/USDT", type="market", quantity="0.33333")
    assert first["order"]["status"] == second["order"]["status"] == "filled"
    assert first["order"]["average_price"] == "50000.00000000"
    (fill,) = first["trades"]
    assert (fill["price"], fill["quantity"], fill["liquidity"]) == ("50000.00", "1.00001", "taker")

    # 1.33334 BTC at 50,000: taker 0.1 % of 66,667; the maker's 0.05 % of it.
    notional, taker_fee, maker_fee = Decimal(66667), Decimal("66.667"), Decimal("33.3335")
    assert buyer.balances()["USDT"] == (200000 - notional - taker_fee, 200000 - notional - taker_fee, Decimal(0))
    assert buyer.balances()["BTC"] == (Decimal("1.33334"), Decimal("1.33334"), Decimal(0))
    assert seller.balances()["USDT"] == (notional - maker_fee, notional - maker_fee, Decimal(0))
    left = Decimal("1.5") - Decimal("1.33334")
    assert seller.balances()["BTC"] == (Decimal("0.66666"), Decimal("0.5"), left)

    shown = seller.order(resting["id"])
    assert (shown["status"], shown["filled_quantity"]) == ("partially_filled", "1.33334")
    assert Decimal(shown["fee_paid"]) == maker_fee
    assert shown["sequence"] == second["trades"][0]["sequence"]

    mine = seller.call("GET", "/trades?scope=mine")
    assert [(trade["order_id"], trade["liquidity"], trade["side"]) for trade in mine] == [
        (resting["id"], "maker", "sell")
    ] * 2
    assert sum(Decimal(trade["fee"]) for trade in mine) == maker_fee
    assert {trade["settlement_status"] for trade in mine} == {"settled"}
    public = buyer.call("GET", "/trades?symbol=BTC/USDT&limit=2")
    assert [trade["id"] for trade in public] == [trade["id"] for trade in mine]
    one = buyer.call("GET", f"/trades/{fill['id']}")
    assert (one["buy_order_id"], one["sell_order_id"]) == (first["order"]["id"], resting["id"])
    assert (Decimal(one["buyer_fee"]), Decimal(one["seller_fee"])) == (Decimal("50.0005"), Decimal("25.00025"))

    check_ledger(database, {seller.name: seller.balances(), buyer.name: buyer.balances()})
    cancelled = seller.call("DELETE", f"/orders/{resting['id']}")["order"]
    assert (cancelled["status"], cancelled["filled_quantity"]) == ("cancelled", "1.33334")
    assert seller.balances()["BTC"] == (Decimal("0.66666"), Decimal("0.66666"), Decimal(0))


def check_ledger(database: psycopg.Connection[Any], users: dict[str, Any]) -> None:
    """Check that postings cancel out per transaction and asset, and add up to what each user was shown."""
    unbalanced = database.execute(
        "SELECT transaction_id, asset_id, sum(amount_units) FROM postings GROUP BY 1, 2 HAVING sum(amount_units) <> 0"
    ).fetchall()
    assert unbalanced == []
    for name, balances in users.items():
        rows = database.execute(
            """SELECT assets.name, sum(postings.amount_units) / power(10::numeric, assets.places)
            FROM postings
            JOIN accounts ON accounts.id = postings.account_id
            JOIN assets ON assets.id = postings.asset_id
            WHERE accounts.name = %s GROUP BY assets.name, assets.places""",
            (name,),
        ).fetchall()
        posted = {asset: Decimal(total) for asset, total in rows}
        assert posted == {asset: total for asset, (total, _, _) in balances.items() if total or asset in posted}


def test_ten_fills_cost_the_fee_of_one(new_user: NewUser) -> None:
    """An order that is filled in ten pieces pays the fee that it would pay in one."""
    maker, taker = new_user("pieces", AVAX="10"), new_user("whole", USDT="10000")
    for _ in range(10):
        maker.place(symbol="AVAX/USDT", side="sell", quantity="0.33", price="33.333")
    data = taker.place(symbol="AVAX/USDT", quantity="3.3", price="33.333")
    assert len(data["trades"]) == 10
    notional = Decimal("3.3") * Decimal("33.333")
    unit = Decimal("0.00000001")
    fee = (notional * Decimal("0.001")).quantize(unit, "ROUND_CEILING")
    assert Decimal(data["order"]["fee_paid"]) == sum(Decimal(trade["fee"]) for trade in data["trades"]) == fee
    assert taker.balances()["USDT"][0] == 10000 - notional - fee


def test_books_and_tickers_follow(alice: User, bob: User) -> None:
    """The book shows what rests, and the ticker what traded, soon after the answer."""
    before = alice.call("GET", "/markets/LTC/USDT/ticker")
    bid = alice.place(symbol="LTC/USDT", quantity="3", price="80.00")["order"]
    ask = bob.place(symbol="LTC/USDT", side="sell", quantity="2", price="81.00")["order"]
    book = wait_for_sequence(alice, "/orderbook/LTC-USDT", ask["sequence"])
    assert (book["bids"], book["asks"]) == ([["80.00", bid["quantity"]]], [["81.00", ask["quantity"]]])
    traded = alice.place(symbol="LTC/USDT", quantity="0.5", price="81.00")
    book = wait_for_sequence(alice, "/orderbook/LTC%2FUSDT?depth=1", traded["order"]["sequence"])
    assert Decimal(book["asks"][0][1]) == Decimal("1.5")
    ticker = wait_for_sequence(alice, "/markets/LTC/USDT/ticker", traded["order"]["sequence"])
    assert (ticker["best_bid"], ticker["best_ask"], ticker["last"]) == ("80.00", "81.00", "81.00")
    assert Decimal(ticker["volume"]) - Decimal(before["volume"]) == Decimal("0.5")
    assert Decimal(ticker["quote_volume"]) - Decimal(before["quote_volume"]) == Decimal("40.5")
    for user in (alice, bob):
        user.call("DELETE", "/orders?symbol=LTC-USDT")


def wait_for_sequence(user: User, path: str, sequence: int) -> Any:
    """Ask until the answer includes an event; the publisher is allowed to be a little behind."""
    while True:
        data = user.call("GET", path)
        if data["sequence"] >= sequence:
            return data
