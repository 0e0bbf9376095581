"""Numbers at the edges, against the real engine: one step too far is refused, the last right step is taken."""

from __future__ import annotations

import pytest
from tests.e2e.users import User

BTC = {"symbol": "BTC/USDT", "side": "buy", "type": "limit", "quantity": "1", "price": "40000.00"}


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"price": "40000.001"}, "PRICE_NOT_ON_TICK"),
        ({"price": "0.009"}, "PRICE_NOT_ON_TICK"),
        ({"quantity": "0.000011"}, "QUANTITY_NOT_ON_LOT"),
        ({"quantity": "0.000009"}, "QUANTITY_NOT_ON_LOT"),
        ({"price": "0"}, "NUMBER_OUT_OF_RANGE"),
        ({"price": "0.00"}, "NUMBER_OUT_OF_RANGE"),
        ({"quantity": "0"}, "NUMBER_OUT_OF_RANGE"),
        ({"price": "-40000"}, "NUMBER_OUT_OF_RANGE"),
        ({"quantity": "-1"}, "NUMBER_OUT_OF_RANGE"),
        ({"price": "10000000.01"}, "NUMBER_OUT_OF_RANGE"),
        ({"quantity": "1000.00001"}, "NUMBER_OUT_OF_RANGE"),
        ({"price": "1" + "0" * 30}, "NUMBER_OUT_OF_RANGE"),
        ({"quantity": "1" + "0" * 30}, "NUMBER_OUT_OF_RANGE"),
        ({"quantity": "9" * 64}, "NUMBER_OUT_OF_RANGE"),
        ({"quantity": "9" * 65}, "INVALID_REQUEST"),
        ({"price": "4e4"}, "INVALID_REQUEST"),
        ({"price": "4E+4"}, "INVALID_REQUEST"),
        ({"price": "0x9C40"}, "INVALID_REQUEST"),
        ({"price": "40_000"}, "INVALID_REQUEST"),
        ({"price": "40,000"}, "INVALID_REQUEST"),
        ({"price": "NaN"}, "INVALID_REQUEST"),
        ({"price": "Infinity"}, "INVALID_REQUEST"),
        ({"price": ".5"}, "INVALID_REQUEST"),
        ({"price": "5."}, "INVALID_REQUEST"),
        ({"price": ""}, "INVALID_REQUEST"),
        ({"price": 40000}, "INVALID_REQUEST"),
        ({"quantity": 1.5}, "INVALID_REQUEST"),
        ({"quantity": "0.00012", "price": "40000"}, "BELOW_MIN_NOTIONAL"),
        ({"type": "market", "price": None, "quantity": None, "quote_quantity": "4.99999999"}, "BELOW_MIN_NOTIONAL"),
        ({"type": "market", "price": None, "quantity": None, "quote_quantity": "0"}, "NUMBER_OUT_OF_RANGE"),
        ({"type": "market", "price": None, "quantity": None, "quote_quantity": "0.000000001"}, "INVALID_REQUEST"),
        ({"type": "market", "price": None, "quantity": None, "quote_quantity": "1" + "0" * 30}, "NUMBER_OUT_OF_RANGE"),
    ],
)
def test_wrong_number_is_refused_by_field(alice: User, change: dict[str, object], code: str) -> None:
    """A number that is off its step, out of bounds or no plain decimal is refused with its code and field."""
    error = alice.call("POST", "/orders", status=400, json=BTC | change)
    assert error["code"] == code
    assert error["details"]["field"] in change


@pytest.mark.parametrize(
    "change",
    [
        {"price": "40000.01"},
        {"price": "39999.99"},
        {"price": "40000.0100000"},
        {"price": "00040000"},
        {"quantity": "0.00013"},
        {"quantity": "1.00001"},
    ],
)
def test_last_right_step_is_taken(alice: User, change: dict[str, str]) -> None:
    """One tick or lot up or down, and zeros that change nothing, are right."""
    order = alice.call("POST", "/orders", status=201, json=BTC | change)["order"]
    for field, text in change.items():
        assert float(order[field]) == float(text)
    alice.call("DELETE", f"/orders/{order['id']}")


def test_the_largest_order_overflows_nothing(alice: User) -> None:
    """Price and quantity both at their most are refused for want of money: their product is computed rightly."""
    error = alice.call("POST", "/orders", status=422, json=BTC | {"price": "10000000", "quantity": "1000"})
    assert error["code"] in {"INSUFFICIENT_BALANCE", "PRICE_OUT_OF_COLLAR"}


def test_a_hold_is_exact(alice: User) -> None:
    """An order holds price times quantity and the higher fee on it, to the last unit, and gives all of it back."""
    before = alice.balances()["USDT"]
    order = alice.place(symbol="BTC/USDT", quantity="0.12345", price="39876.54")["order"]
    after = alice.balances()["USDT"]
    # 0.12345 × 39,876.54 = 4,922.758863; 0.1 % of it is 4.922758863, rounded up to the asset's eight places.
    assert str(after[2] - before[2]) == "4927.68162187"
    assert after[0] == before[0]
    alice.call("DELETE", f"/orders/{order['id']}")
    assert alice.balances()["USDT"] == before
