"""Limits and volumes after a kill: what an account has used of them is known exactly, whoever died."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest
from tests.e2e.bank import admin_of
from tests.e2e.users import Json, User, make_user, sign_in
from tests.engines import Engine, running_engine, wait_restarted

ORDER: Json = {"side": "buy", "type": "limit", "price": "100"}
BTC, ETH = "BTC/USDT", "ETH/USDT"
LIMIT = "1000"
LOT = Decimal("0.00001")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Give a data directory."""
    return tmp_path / "data"


@pytest.fixture
def venue(folder: Path) -> Iterator[Engine]:
    """Run an engine whose actors may be killed."""
    with running_engine(folder, ["--fronts", "2", "--shards", "2"]) as engine:
        yield engine


def use(alice: User, bob: User) -> Decimal:
    """Trade and leave orders on both shards, one of them partly filled and amended; gives what that comes to."""
    bob.place(symbol=BTC, side="sell", quantity="1", price="100")
    alice.place(**ORDER, symbol=BTC, quantity="1.5")
    resting = alice.place(**ORDER, symbol=ETH, quantity="2")["order"]["id"]
    bob.place(symbol=ETH, side="sell", quantity="0.75", price="100")
    alice.call("PATCH", f"/orders/{resting}", json={"quantity": "3", "price": "99"})
    alice.place(symbol=ETH, side="sell", type="stop", quantity="0.1", stop_price="95")
    return Decimal(100) + 50 + 75 + Decimal("2.25") * 99 + Decimal("9.5")


def check(alice: User, used: Decimal) -> None:
    """Hold the account to its limit: of what is left a lot more is refused, all of it is taken, and then nothing."""
    left = Decimal(LIMIT) - used
    error = alice.place(422, **ORDER, symbol=BTC, quantity=str(left / 100 + LOT))
    assert error["code"] == "LIMIT_EXCEEDED", error
    assert Decimal(error["details"]["used"]) == used
    last = alice.place(**ORDER, symbol=BTC, quantity=str(left / 100))["order"]["id"]
    assert alice.place(422, **ORDER, quantity="1", symbol=ETH)["code"] == "LIMIT_EXCEEDED"
    alice.call("DELETE", f"/orders/{last}")


@pytest.mark.long
def test_limits_are_as_used_after_each_kill(venue: Engine, folder: Path) -> None:
    """After a kill of risk, of a matcher, of settlement, and of everything at once, the same is left of the volume."""
    alice, bob = (make_user(venue, name, {"USDT": "10000", "BTC": "10", "ETH": "10"}) for name in ("alice", "bob"))
    root = admin_of(venue)
    limits = {"max_daily_volume": LIMIT, "max_open_orders": 5, "requires_2fa_above": "900", "max_order_size": "950"}
    told = root.call("POST", f"/admin/limits/user/{alice.name}", json=limits)
    used = use(alice, bob)
    check(alice, used)
    for actor in ("risk", "matcher-0", "settlement", "risk"):
        first_pid = venue.actors()[actor]
        venue.kill_actor(actor)
        wait_restarted(venue, actor, first_pid)
        check(alice, used)
    for user in (alice, bob, root):
        user.http.close()
    venue.stop(signal.SIGKILL)
    with running_engine(folder, ["--fronts", "2", "--shards", "2"]) as again:
        alice, root = sign_in(again, alice.name), admin_of(again)
        check(alice, used)
        assert root.call("GET", f"/admin/limits/user/{alice.name}") == told
        for _ in range(2):
            alice.place(**ORDER, symbol=BTC, quantity="0.1")
        assert alice.place(422, **ORDER, symbol=BTC, quantity="0.1")["details"]["limit"] == "max_open_orders"
        for user in (alice, root):
            user.http.close()
