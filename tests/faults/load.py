"""Traders that write down what they meant and what they were told, and an audit of both against the database.

A trader sends one order after the other, each under a client order id of its own. What is answered is noted; what is
not (a cut connection, an unknown outcome, a refusal for load) is settled at the end by repeating the same request
until it is answered, as the API tells clients to do.
"""

from __future__ import annotations

import random
import threading
from dataclasses import dataclass, field
from typing import Any, Final

import httpx2
import psycopg
from tests.e2e.users import Json, User

SYMBOL: Final = "SOL/USDT"
ANSWERED: Final = frozenset({200, 201})
REPEAT: Final = frozenset({500, 503, 504})


@dataclass
class Trader:
    """One user's stream of limit orders around one price; ``acknowledged``: order by client order id."""

    user: User
    seed: int
    acknowledged: dict[str, Json] = field(default_factory=dict)
    unknown: dict[str, Json] = field(default_factory=dict)
    refused: list[Json] = field(default_factory=list)

    def run(self, stop: threading.Event, progress: threading.Semaphore) -> None:
        """Place orders until asked to stop; releases ``progress`` once for each that was acknowledged."""
        chance, number = random.Random(self.seed), 0
        while not stop.is_set():
            number += 1
            order = {
                "symbol": SYMBOL,
                "side": chance.choice(["buy", "sell"]),
                "type": "limit",
                "quantity": f"{chance.randint(100, 900) / 1000:.3f}",
                "price": f"{100 + chance.randint(-5, 5) / 100:.2f}",
                "client_order_id": f"{self.user.name}:{number}",
                "self_trade_prevention": "cancel_maker",
            }
            if self.send(order):
                progress.release()

    def send(self, order: Json) -> bool:
        """Send one order and note what came back; whether it was acknowledged."""
        name = order["client_order_id"]
        try:
            answer = self.user.http.post("/orders", json=order)
        except httpx2.TransportError:
            self.unknown[name] = order
            return False
        if answer.status_code in ANSWERED:
            self.unknown.pop(name, None)
            self.acknowledged[name] = answer.json()["data"]["order"]
            return True
        if answer.status_code in REPEAT:
            self.unknown[name] = order
        else:
            self.refused.append(answer.json()["error"])
        return False

    def settle_unknown(self, tries_max: int = 200) -> None:
        """Repeat what has no answer until each has one. Raises AssertionError when one never gets any."""
        for order in list(self.unknown.values()):
            assert any(self.send(order) for _ in range(tries_max)), f"no answer for {order}"


def audit(connection: psycopg.Connection[Any], traders: list[Trader]) -> None:
    """Compare what traders were told with what the database holds, to the unit."""
    _audit_orders(connection, traders)
    for claim, query in LEDGER_CLAIMS.items():
        assert connection.execute(query).fetchall() == [], claim


def _audit_orders(connection: psycopg.Connection[Any], traders: list[Trader]) -> None:
    for trader in traders:
        query = (
            "SELECT client_order_id, o.id::text FROM orders o JOIN accounts a ON a.id = o.account_id WHERE a.name = %s"
        )
        rows = connection.execute(query, (trader.user.name,)).fetchall()
        stored = dict(rows)
        assert len(stored) == len(rows), "a client order id has two orders"
        told = {name: order["id"] for name, order in trader.acknowledged.items()}
        assert stored == told, "orders that were told of and orders that there are differ"


LIMIT_CLAIM: Final = "a fill is worse than its order's limit"
"""Holds where nobody amends a price after a fill."""
LEDGER_CLAIMS: Final = {
    "a transaction's postings do not sum to zero per asset": """
        SELECT transaction_id, asset_id FROM postings GROUP BY 1, 2 HAVING sum(amount_units) <> 0""",
    "a balance is not the sum of its postings": """
        SELECT account_id, asset_id, total_units, posted FROM balances
        FULL JOIN (SELECT account_id, asset_id, sum(amount_units) AS posted FROM postings GROUP BY 1, 2) p
        USING (account_id, asset_id) WHERE total_units IS DISTINCT FROM posted""",
    "a user's balance is negative": """
        SELECT account_id, asset_id, total_units FROM balances WHERE account_id <> 2 AND total_units < 0""",
    "an order was filled by more or less than its trades": """
        SELECT o.id FROM orders o LEFT JOIN (
            SELECT order_id, sum(quantity_lots) AS lots, sum(notional_units) AS notional, sum(fee) AS fee FROM (
                SELECT taker_order_id AS order_id, quantity_lots, notional_units, taker_fee_units AS fee FROM trades
                UNION ALL SELECT maker_order_id, quantity_lots, notional_units, maker_fee_units FROM trades) s
            GROUP BY order_id) t ON t.order_id = o.id
        WHERE (o.filled_lots, o.filled_notional_units, o.fee_units)
            IS DISTINCT FROM (coalesce(lots, 0)::bigint, coalesce(notional, 0)::bigint, coalesce(fee, 0)::bigint)""",
    "a trade has no transaction in the ledger, or one that is not of it": """
        SELECT t.id, p.transaction_id FROM trades t FULL JOIN
            (SELECT DISTINCT transaction_id FROM postings WHERE kind = 'T') p ON p.transaction_id = t.id
        WHERE t.id IS NULL OR p.transaction_id IS NULL""",
    "an order that has ended still holds money": """
        SELECT id FROM orders WHERE closed_at IS NOT NULL AND hold_units <> 0""",
    LIMIT_CLAIM: """
        SELECT t.id FROM trades t JOIN orders o ON o.id IN (t.taker_order_id, t.maker_order_id)
        WHERE o.price_ticks > 0 AND (o.side = 'buy' AND t.price_ticks > o.price_ticks
                                  OR o.side = 'sell' AND t.price_ticks < o.price_ticks)""",
}
