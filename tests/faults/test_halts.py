"""Halts while things break: a matcher or everything is killed, the database is away, nothing else passes any more."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from tests.e2e.bank import admin_of
from tests.e2e.users import Json, User, make_user, sign_in
from tests.engines import Engine, database_away, running_engine, wait_restarted
from tests.faults.test_kill_under_load import kill_everything
from tests.web.raw_websocket import connected

from tradeengine.core.records import ACCOUNT_ID_FIRST_USER, CommandKind, command_dtype
from tradeengine.ipc.client import LocalClient, open_client, open_observer
from tradeengine.ipc.ring import Ring

FUNDS = {"USDT": "1000000", "SOL": "10000", "ETH": "1000"}
SOL, ETH = "SOL/USDT", "ETH/USDT"
WHY = {"reason": "something is wrong"}
SOL_SHARD = 0


@pytest.fixture(scope="module")
def venue(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """Run an engine of two shards whose parts these tests break."""
    # What is stopped here shall not be replaced before the test is over.
    environment = {"TRADEENGINE_SUPERVISOR_HEARTBEAT_TIMEOUT_S": "100"}
    with running_engine(tmp_path_factory.mktemp("venue") / "data", ["--shards", "2"], environment) as running:
        yield running


@pytest.fixture(scope="module")
def root(venue: Engine) -> Iterator[User]:
    """Give an administrator."""
    admin = admin_of(venue)
    yield admin
    admin.http.close()


@pytest.fixture(scope="module")
def trader(venue: Engine) -> Iterator[User]:
    """Give somebody who trades."""
    user = make_user(venue, "trader", FUNDS)
    yield user
    user.http.close()


def buy(symbol: str, price: str = "50") -> Json:
    """Make an order."""
    return {"symbol": symbol, "side": "buy", "type": "limit", "quantity": "1", "price": price}


def states(root: User) -> dict[str, tuple[str, str | None]]:
    """Look at every symbol's state, and why."""
    return {row["symbol"]: (row["status"], row["reason"]) for row in root.call("GET", "/admin/symbols")}


def set_state(root: User, change: str, status: int = 200) -> Json:
    """Set a trading state; returns ``data`` or ``error``."""
    told: Json = root.call("POST", f"/admin/trading/{change}", status, json=WHY)
    return told


@pytest.mark.long
def test_halt_survives_its_matcher(venue: Engine, root: User, trader: User) -> None:
    """A symbol that was halted is halted when its killed matcher is back, and the other shard trades all the while."""
    set_state(root, "halt/SOL-USDT")
    pid = venue.actors()[f"matcher-{SOL_SHARD}"]
    venue.kill_actor(f"matcher-{SOL_SHARD}")
    trader.call("POST", "/orders", 201, json=buy(ETH))
    wait_restarted(venue, f"matcher-{SOL_SHARD}", pid)
    assert trader.call("POST", "/orders", 409, json=buy(SOL))["code"] == "SYMBOL_HALTED"
    assert states(root)[SOL] == ("halted", WHY["reason"])
    set_state(root, "resume/SOL-USDT")
    trader.call("POST", "/orders", 201, json=buy(SOL))


def test_halt_of_a_dead_matcher_is_carried_out_when_it_is_back(venue: Engine, root: User, trader: User) -> None:
    """While a matcher cannot run, a halt is 503 and pending, and done before any order that came after it."""
    pid = venue.actors()[f"matcher-{SOL_SHARD}"]
    os.kill(pid, signal.SIGSTOP)
    try:
        error = set_state(root, "halt/SOL-USDT", 503)
        assert error["code"] == "NOT_READY"
        assert (error["details"]["outcome"], error["details"]["shards"]) == ("pending", [SOL_SHARD])
        assert SOL in error["details"]["pending"]
        assert root.call("POST", "/admin/trading/halt/SOL-USDT?dry_run=true", 503, json=WHY)["code"] == "NOT_READY"
        everything = set_state(root, "halt-all", 503)["details"]
        assert ETH in everything["done"]
        assert (SOL in everything["pending"], ETH in everything["pending"]) == (True, False)
    finally:
        os.kill(pid, signal.SIGKILL)
    wait_restarted(venue, f"matcher-{SOL_SHARD}", pid)
    assert trader.call("POST", "/orders", 409, json=buy(SOL))["code"] == "SYMBOL_HALTED"
    assert states(root)[SOL] == ("halted", WHY["reason"])
    assert states(root)[ETH] == ("halted", WHY["reason"])
    assert set_state(root, "halt/SOL-USDT")["previous_status"] == "halted"
    set_state(root, "resume-all")
    set_state(root, "resume/SOL-USDT")
    assert {state for state, _ in states(root).values()} == {"open"}


async def test_halts_need_no_database(venue: Engine, root: User, trader: User) -> None:
    """With PostgreSQL away a symbol is halted, told with the reason, cleared and resumed; later PostgreSQL knows."""
    async with connected(venue.url) as socket:
        await socket.ask("subscribe", channels=[f"status:{SOL}"])
        await socket.next("trading_status")
        stays = trader.place(**buy(SOL))["order"]["id"]
        with database_away(venue):
            halted = set_state(root, "halt/SOL-USDT")
            assert (halted["status"], halted["previous_status"]) == ("halted", "open")
            heard = await socket.next("trading_status")
            assert (heard["status"], heard["reason"], heard["sequence"]) == (
                "halted",
                WHY["reason"],
                halted["sequence"],
            )
            assert states(root)[SOL] == ("halted", WHY["reason"])
            cancelled = root.call("POST", "/admin/orders/cancel-symbol/SOL-USDT", json=WHY)
            assert stays in cancelled["orders"]
            assert set_state(root, "halt-all")["count"] > 0
    wait_settled(trader)
    assert trader.order(stays)["status_reason"] == "ADMINISTRATOR"
    wanted = {("halt_symbol", SOL), ("cancel_all_of_symbol", SOL)}
    wait_until(lambda: wanted <= {(row["action"], row["target"]) for row in root.call("GET", "/admin/audit?limit=20")})
    set_state(root, "resume-all")
    set_state(root, "resume/SOL-USDT")


def wait_settled(user: User) -> None:
    """Wait until history answers."""
    wait_until(lambda: user.http.get("/orders").status_code == 200)


def wait_until(is_so: Callable[[], bool]) -> None:
    """Look again and again until something is so."""
    deadline_s = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < deadline_s
        time.sleep(0.05)


def test_halt_passes_when_nothing_else_does(venue: Engine, root: User, trader: User) -> None:
    """While settlement stands still and everything else is refused or waits, a halt and a mass cancel pass."""
    with venue.standing_still("settlement"):
        flood(venue, f"events.{SOL_SHARD}", lambda ring: ring.capacity * 7 // 8 + 1)
        for method in ("POST", "DELETE"):
            refused = trader.http.request(method, "/orders", json=buy(SOL) if method == "POST" else None)
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "SETTLEMENT_BACKLOG")
        assert set_state(root, "halt/SOL-USDT")["status"] == "halted"
        assert set_state(root, "resume/SOL-USDT")["status"] == "open"
        assert root.call("POST", "/admin/orders/cancel-symbol/SOL-USDT", json=WHY)["dry_run"] is False
    wait_settled(trader)


def flood(engine: Engine, name: str, wanted: Callable[[Ring], int]) -> None:
    """Ask for nothing again and again, until so many records of a ring wait for settlement.

    Each of these mass cancels meets no order and gives one event of the symbol's shard, and passes as long as any
    cancel.
    """
    with open_client(engine.data_dir) as wiring, open_observer(engine.data_dir) as (observer, _):
        line = LocalClient(wiring)
        commands = np.zeros(1024, command_dtype)
        commands["kind"], commands["account_id"] = CommandKind.CANCEL_ALL, ACCOUNT_ID_FIRST_USER
        commands["symbol_id"] = line.directory().symbol_by_name[SOL].symbol_id
        ring = wiring.ring(name)
        # One batch after the other, each all the way: what is under way when there is enough would fill more than that.
        ways = [wiring.ring(wiring.ingress_name), observer.ring(f"commands.{SOL_SHARD}")]
        deadline_s = time.monotonic() + 60
        while ring.head - settled_of(ring) < wanted(ring):
            line.submit(commands.copy())
            while any(way.head > reader.cursor for way in ways for reader in way.statistics().readers):
                assert time.monotonic() < deadline_s
                time.sleep(0.001)


def settled_of(ring: Ring) -> int:
    """Say how far settlement has read a ring."""
    return next(reader.cursor for reader in ring.statistics().readers if reader.name == "settlement")


@pytest.mark.long
def test_halt_survives_everything(tmp_path: Path) -> None:
    """An engine killed with all its actors comes back with each symbol in the state that it was in, and with why."""
    with running_engine(tmp_path / "data", ["--shards", "2"]) as engine:
        root = admin_of(engine)
        trader = make_user(engine, "trader", FUNDS)
        rests = trader.place(**buy(SOL))["order"]["id"]
        set_state(root, "halt/SOL-USDT")
        set_state(root, "cancel-only/ETH-USDT")
        told = root.call("POST", "/admin/trading/halt-all", json={"reason": "all"})
        kill_everything(engine)
        root.http.close()
        trader.http.close()
    with running_engine(tmp_path / "data", ["--shards", "2"]) as engine:
        root, trader = admin_of(engine), sign_in(engine, trader.name)
        shown = states(root)
        assert shown[SOL] == ("halted", WHY["reason"])
        assert {symbol: state for symbol, state in shown.items() if symbol != SOL} == {
            row["symbol"]: ("halted", "all") for row in told["symbols"] if row["symbol"] != SOL
        }
        for symbol in (SOL, ETH):
            assert trader.call("POST", "/orders", 409, json=buy(symbol))["code"] == "SYMBOL_HALTED"
        assert trader.call("DELETE", f"/orders/{rests}")["order"]["status"] == "cancelled"
        set_state(root, "resume-all")
        assert (states(root)[SOL][0], states(root)[ETH][0]) == ("halted", "cancel_only")
        set_state(root, "resume/SOL-USDT")
        trader.call("POST", "/orders", 201, json=buy(SOL))
        root.http.close()
        trader.http.close()
