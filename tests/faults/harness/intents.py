"""What the harness's clients will do: orders, changes, cancels and money moves, drawn from a seed before anything runs.

A *lane* is one connection that does one thing after the other; an intent names only what its own lane has placed. So
what a lane wants does not depend on what anybody answers, and the same seed always wants the same.
"""

from __future__ import annotations

import json
import random
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Final

Json = dict[str, Any]

SYMBOLS: Final = {"SOL/USDT": ("150.00", 2), "LTC/USDT": ("80.00", 2), "XRP/USDT": ("0.5000", 4)}
"""Middle price and places of each symbol that is traded."""
FUNDS: Final = {"USDT": "10000000", "SOL": "50000", "LTC": "100000", "XRP": "10000000"}
NOTIONAL: Final = 300.0
"""Of an order, about, in USDT."""
TICKS: Final = 12
"""Prices lie so far from the middle at most: books stay small, and much trades."""
OWN_MAX: Final = 24
"""Of its own orders a lane remembers so many, to change or cancel one of them."""
FOREVER: Final = "2100-01-01T00:00:00Z"
ENDS: Final = (FOREVER, "in 2 s", "in 5 s")
"""Of orders that end by themselves; what is told from now becomes a time when it is asked for the first time."""


class Way(StrEnum):
    """How a lane reaches the engine."""

    HTTP = "http"
    STREAM = "stream"
    BANK = "bank"
    """Deposits and withdrawals, by an administrator."""


class Kind(StrEnum):
    """What an intent is."""

    PLACE = "place"
    BATCH = "batch"
    AMEND = "amend"
    CANCEL = "cancel"
    CANCEL_ALL = "cancel_all"
    TIMER = "cancel_all_after"
    DEPOSIT = "deposit"
    WITHDRAWAL = "withdrawal"


@dataclass(frozen=True)
class Lane:
    """One connection's worth of intents of one user."""

    user: str
    way: Way

    @property
    def name(self) -> str:
        """By which logs and plans call it."""
        return f"{self.user}.{self.way}"


@dataclass(frozen=True)
class Intent:
    """One thing that is wanted, once. ``body``: as the API takes it; ``target``: client order id of what is changed."""

    lane: str
    user: str
    number: int
    kind: Kind
    body: Json = field(default_factory=dict)
    target: str | None = None

    @property
    def name(self) -> str:
        """Unique in a round."""
        return f"{self.lane}.{self.number}"

    @property
    def orders(self) -> list[Json]:
        """Give the orders that it places."""
        if self.kind is Kind.BATCH:
            orders: list[Json] = self.body["orders"]
            return orders
        return [self.body] if self.kind is Kind.PLACE else []


def intents_of(seed: int, lane: Lane) -> Iterator[Intent]:
    """Give what a lane wants, one after the other, without end."""
    return _Drawer(seed, lane).run()


def dated(intent: Intent, now: datetime) -> Intent:
    """Put times in for what is told from now."""
    body: Json = json.loads(json.dumps(intent.body))
    for order in body.get("orders", [body]):
        ends = order.get("expires_at", "")
        if ends.startswith("in "):
            moment = now + timedelta(seconds=int(ends.split()[1]))
            order["expires_at"] = moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    return replace(intent, body=body)


class _Drawer:
    """Draws the intents of one lane."""

    def __init__(self, seed: int, lane: Lane) -> None:
        self._lane = lane
        self._random = random.Random(f"{seed}.{lane.name}")
        self._own: deque[Json] = deque(maxlen=OWN_MAX)
        self._number = 0

    def run(self) -> Iterator[Intent]:
        draw = self._move if self._lane.way is Way.BANK else self._trade
        while True:
            self._number += 1
            kind, body, target = draw()
            yield Intent(self._lane.name, self._lane.user, self._number, kind, body, target)

    def _trade(self) -> tuple[Kind, Json, str | None]:
        fate = self._random.random()
        if self._own and fate < 0.16:
            return Kind.CANCEL, {}, self._take()["client_order_id"]
        if self._own and fate < 0.27:
            return self._amend()
        if self._lane.way is Way.HTTP and fate < 0.30:
            orders = [self._order(f"{self._number}-{place}") for place in range(self._random.randint(2, 6))]
            return Kind.BATCH, {"orders": orders}, None
        if self._lane.way is Way.HTTP and fate < 0.31:
            return Kind.CANCEL_ALL, {"symbol": self._random.choice(list(SYMBOLS))}, None
        if fate < 0.32:
            return Kind.TIMER, {"timeout_ms": self._random.choice((0, 1000, 3000))}, None
        return Kind.PLACE, self._order(str(self._number)), None

    def _take(self) -> Json:
        """Take one of the lane's orders out of its memory."""
        self._own.rotate(-self._random.randrange(len(self._own)))
        return self._own.popleft()

    def _amend(self) -> tuple[Kind, Json, str | None]:
        order = self._take()
        self._own.append(order)
        body: Json = {}
        if "price" in order and self._random.random() < 0.6:
            body["price"] = self._price(order["symbol"])
        if not body or self._random.random() < 0.5:
            body["quantity"] = self._quantity(order["symbol"])
        return Kind.AMEND, body, order["client_order_id"]

    def _order(self, name: str) -> Json:
        chance = self._random
        symbol = chance.choice(list(SYMBOLS))
        order: Json = {
            "symbol": symbol,
            "side": chance.choice(("buy", "sell")),
            "type": "limit",
            "quantity": self._quantity(symbol),
            "client_order_id": f"{self._lane.name}.{name}",
            "self_trade_prevention": chance.choice(("cancel_taker", "cancel_maker", "cancel_both")),
        }
        shape = chance.choices(
            ("limit", "ioc", "fok", "post_only", "gtd", "market", "by_quote", "stop", "stop_limit"),
            (50, 10, 6, 8, 4, 8, 3, 5, 6),
        )[0]
        if shape == "by_quote":
            del order["quantity"]
            order |= {"type": "market", "side": "buy", "quote_quantity": f"{chance.randint(50, 900)}.00"}
            return order
        if shape in {"market", "stop"}:
            order["type"] = shape
        else:
            order["price"] = self._price(symbol)
        extra: dict[str, Json] = {
            "ioc": {"time_in_force": "ioc"},
            "fok": {"time_in_force": "fok"},
            "post_only": {"post_only": True},
            "gtd": {"time_in_force": "gtd", "expires_at": chance.choice(ENDS)},
            "stop": {"stop_price": self._price(symbol)},
            "stop_limit": {"type": "stop_limit", "stop_price": self._price(symbol)},
        }
        order |= extra.get(shape, {})
        if shape in {"limit", "post_only", "gtd", "stop", "stop_limit"}:
            self._own.append(order)
        return order

    def _price(self, symbol: str) -> str:
        middle, places = SYMBOLS[symbol]
        return f"{float(middle) + self._random.randint(-TICKS, TICKS) / 10**places:.{places}f}"

    def _quantity(self, symbol: str) -> str:
        units = NOTIONAL / float(SYMBOLS[symbol][0]) * self._random.uniform(0.2, 2.0)
        return f"{units:.2f}" if units < 100 else f"{units:.0f}"

    def _move(self) -> tuple[Kind, Json, str | None]:
        chance = self._random
        kind = Kind.DEPOSIT if chance.random() < 0.5 else Kind.WITHDRAWAL
        # Now and then more than anybody has: a refusal stands for its reference for ever, too.
        is_refused = kind is Kind.WITHDRAWAL and chance.random() < 0.1
        amount = 10**9 if is_refused else chance.randint(1, 500)
        body = {
            "user": self._lane.user,
            "asset": chance.choice(list(FUNDS)),
            "amount": str(amount),
            "reference": f"{self._lane.name}.{self._number}",
        }
        return kind, body, None
