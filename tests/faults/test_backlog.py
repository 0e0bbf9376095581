"""Settlement stands still for long: new orders are refused without end, and what lives is still cancelled and halted.

The rings are small, so that minutes of refusals pass in a second.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from tests.e2e.bank import admin_of
from tests.e2e.users import ACCOUNTS_MAX, Json, User, connect_database, deposit_all, make_user
from tests.engines import READY_TIMEOUT_S, Engine, running_engine
from tests.faults.load import LEDGER_CLAIMS
from tests.faults.test_halts import wait_settled

from tradeengine.core.records import (
    CommandKind,
    EventFlag,
    EventKind,
    OrderType,
    Reason,
    SelfTradePrevention,
    Side,
    TimeInForce,
    command_dtype,
)
from tradeengine.ipc.client import LocalClient, open_client
from tradeengine.storage.directory import resolve_account

SLOTS = 1024
BATCH = 64
SETTINGS = {
    # What is stopped here shall not be replaced before the test is over.
    "TRADEENGINE_SUPERVISOR_HEARTBEAT_TIMEOUT_S": "100",
    "TRADEENGINE_RINGS_EVENTS_SLOTS": str(8 * SLOTS),
    "TRADEENGINE_SETTLEMENT_BACKLOG_EVENTS_MAX": str(SLOTS),
    "TRADEENGINE_RINGS_RISK_EVENTS_SLOTS": str(SLOTS),
}
SOL = "SOL/USDT"
ORDER: Json = {"symbol": SOL, "quantity": "1", "price": "90.00"}
FUNDS = {"USDT": "10000000"}
FLOODER = "flooder"


@pytest.fixture(scope="module")
def venue(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """Run an engine whose rings are full soon."""
    with running_engine(tmp_path_factory.mktemp("venue") / "data", environment=SETTINGS) as running:
        deposit_all(running, FLOODER, FUNDS)
        yield running


class Flood:
    """Nameless orders of a local client, one batch after the other; ``answers``: by number, how each ended."""

    def __init__(self, engine: Engine, client: LocalClient) -> None:
        self.client = client
        self.answers: dict[int, tuple[int, int]] = {}
        self.sent = 0
        spec = client.directory().symbol_by_name[SOL]
        self._orders = np.zeros(BATCH, command_dtype)
        self._orders["kind"], self._orders["symbol_id"] = CommandKind.PLACE, spec.symbol_id
        self._orders["side"], self._orders["order_type"] = Side.BUY, OrderType.LIMIT
        self._orders["time_in_force"] = TimeInForce.GTC
        self._orders["self_trade_prevention"] = SelfTradePrevention.CANCEL_MAKER
        self._orders["price_ticks"] = spec.parse_price("50.00")
        self._orders["quantity_lots"] = spec.parse_quantity("0.1")
        with connect_database(engine) as connection:
            self._orders["account_id"] = resolve_account(connection, FLOODER, accounts_max=ACCOUNTS_MAX)

    def until(self, reason: Reason, count: int) -> None:
        """Send batches until so many orders were refused for a reason."""
        deadline_s = time.monotonic() + READY_TIMEOUT_S
        while self.refused()[reason] < count:
            self.send()
            while len(self.answers) < self.sent:
                assert time.monotonic() < deadline_s, (
                    f"{len(self.answers)} of {self.sent} orders have an answer: {self.refused()}"
                )
                self.hear()

    def send(self) -> None:
        """Send a batch."""
        self.client.submit(self._orders.copy())
        self.sent += BATCH

    def hear(self) -> None:
        """Take the answers that are there; each order has one. Raises AssertionError for a second one."""
        self.client.wait(0.05)
        for events in self.client.poll().values():
            last = events[(events["flags"] & EventFlag.LAST_OF_COMMAND) != 0]
            for event in last:
                number = int(event["ingress_sequence"])
                assert number not in self.answers, f"order {number} is answered again: {event}"
                self.answers[number] = int(event["kind"]), int(event["reason"])

    def refused(self) -> Counter[int]:
        """Count refusals by reason."""
        return Counter(reason for kind, reason in self.answers.values() if kind == EventKind.REFUSED)

    def accepted(self) -> int:
        """Count the orders that were accepted."""
        return sum(kind == EventKind.ACCEPTED for kind, _ in self.answers.values())


@contextmanager
def open_flood(engine: Engine) -> Iterator[Flood]:
    """Join an engine as a local client that asks for too much."""
    with open_client(engine.data_dir) as wiring:
        yield Flood(engine, LocalClient(wiring))


def placed(engine: Engine) -> int:
    """Count the flooder's orders in the database."""
    with connect_database(engine) as connection:
        query = "SELECT count(*) FROM orders o JOIN accounts a ON a.id = o.account_id WHERE a.name = %s"
        row: Any = connection.execute(query, (FLOODER,)).fetchone()
        return int(row[0])


def assert_whole(engine: Engine, user: User) -> None:
    """Everything is settled, and all that keeps money or orders says the same."""
    wait_settled(user)
    assert engine.command("reconcile").returncode == 0
    with connect_database(engine) as connection:
        for claim, query in LEDGER_CLAIMS.items():
            assert connection.execute(query).fetchall() == [], claim


@pytest.mark.long
def test_cancels_and_halts_pass_however_much_is_refused(venue: Engine) -> None:
    """Twenty rings full of refusals later, live orders are cancelled and symbols halted; then all of it is settled."""
    user, root = make_user(venue, "user", FUNDS), admin_of(venue)
    before = placed(venue)
    live = [user.place(**ORDER)["order"]["id"] for _ in range(5)]
    wait_settled(user)
    with open_flood(venue) as flood:
        with venue.standing_still("settlement"):
            flood.until(Reason.SETTLEMENT_BACKLOG, 20 * SLOTS)
            assert user.call("POST", "/orders", 503, json={"side": "buy", "type": "limit", **ORDER})["code"] == (
                "SETTLEMENT_BACKLOG"
            )
            assert user.call("DELETE", f"/orders/{live[0]}")["order"]["status"] == "cancelled"
            halted = root.call("POST", "/admin/trading/halt/SOL-USDT", json={"reason": "backlog"})
            assert halted["status"] == "halted"
            assert user.call("DELETE", f"/orders/{live[1]}")["order"]["status"] == "cancelled"
            assert root.call("POST", "/admin/trading/resume/SOL-USDT", json={"reason": "over"})["status"] == "open"
        assert_whole(venue, user)
        assert placed(venue) - before == flood.accepted() > 0
    assert [user.order(order_id)["status"] for order_id in live] == ["cancelled"] * 2 + ["open"] * 3
    user.place(**ORDER)
    user.http.close()
    root.http.close()


def test_refused_order_is_not_placed_after_risk_died(venue: Engine) -> None:
    """Risk killed again and again in a flood of refusals answers each order once, and places none that it refused."""
    user = make_user(venue, "user", FUNDS)
    before = placed(venue)
    with open_flood(venue) as flood:
        with venue.standing_still("settlement"):
            flood.until(Reason.SETTLEMENT_BACKLOG, BATCH)
            for _ in range(3):
                pid = venue.actors()["risk"]
                sent = flood.sent
                while flood.sent < sent + 4 * BATCH:
                    flood.send()
                venue.kill_actor("risk")
                wait_other(venue, "risk", pid)
                flood.until(Reason.SETTLEMENT_BACKLOG, flood.refused()[Reason.SETTLEMENT_BACKLOG] + BATCH)
        assert_whole(venue, user)
        assert placed(venue) - before == flood.accepted() > 0
        assert flood.accepted() + flood.refused().total() == flood.sent
    user.place(**ORDER)
    user.http.close()


def wait_other(engine: Engine, name: str, pid: int) -> None:
    """Wait until another process is that actor."""
    deadline_s = time.monotonic() + READY_TIMEOUT_S
    while engine.actors().get(name, pid) == pid:
        assert time.monotonic() < deadline_s
        time.sleep(0.01)
