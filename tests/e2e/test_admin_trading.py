"""Stories of administrators who halt, resume and cancel, on two fronts and two shards, and of whom it concerns."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from typing import Any

import pytest
from tests.e2e.bank import ask_everyone, fresh
from tests.e2e.users import Json, User, connect_database, make_user, user_for_a_test
from tests.engines import Engine
from tests.web.raw_websocket import connected

from tradeengine.web.trading_states import PATIENCE_S

FUNDS = {"USDT": "1000000", "ADA": "100000", "DOGE": "1000000", "XRP": "10000"}
ADA, DOGE, XRP = "ADA/USDT", "DOGE/USDT", "XRP/USDT"
SYMBOL = XRP
WHY = {"reason": "a price that cannot be"}
CLOSED = pytest.mark.parametrize(
    ("change", "status", "code"), [("halt", "halted", "SYMBOL_HALTED"), ("cancel-only", "cancel_only", "CANCEL_ONLY")]
)


@pytest.fixture
def alice(bank: Engine) -> Iterator[User]:
    """Give a new user with money; what they leave in the books goes with them."""
    yield from user_for_a_test(bank, "alice", FUNDS)


@pytest.fixture
def bob(bank: Engine) -> Iterator[User]:
    """Give another one."""
    yield from user_for_a_test(bank, "bob", FUNDS)


@pytest.fixture(autouse=True)
def open_again(root: User) -> Iterator[None]:
    """Leave every symbol open behind a story."""
    yield
    for row in root.call("GET", "/admin/symbols"):
        if row["status"] != "open":
            root.call("POST", f"/admin/trading/resume/{dashed(row['symbol'])}", json={"reason": "the story is over"})


def dashed(symbol: str) -> str:
    """Write a symbol for a path."""
    return symbol.replace("/", "-")


def change_state(root: User, change: str, symbol: str = SYMBOL, status: int = 200, **options: Any) -> Json:
    """Set a symbol's trading state; returns ``data`` or ``error``."""
    told: Json = root.call("POST", f"/admin/trading/{change}/{dashed(symbol)}", status, **({"json": WHY} | options))
    return told


def status_of(root: User, symbol: str = SYMBOL) -> Json:
    """Look at a symbol as administrators see it."""
    row: Json = next(row for row in root.call("GET", "/admin/symbols") if row["symbol"] == symbol)
    return row


def order(side: str, quantity: str, price: str, symbol: str = SYMBOL, **fields: Any) -> Json:
    """Make a limit order."""
    return {"symbol": symbol, "side": side, "type": "limit", "quantity": quantity, "price": price, **fields}


@CLOSED
def test_closed_symbol_takes_cancels_and_nothing_else(
    root: User, alice: User, bob: User, change: str, status: str, code: str
) -> None:
    """Orders and amends are refused on every front, nothing trades or triggers, cancels work; resumed, it goes on."""
    rests = alice.place(**order("sell", "5", "20"))["order"]["id"]
    stop = alice.place(symbol=SYMBOL, side="sell", type="stop", quantity="1", stop_price="5")["order"]["id"]
    told = change_state(root, change)
    assert (told["symbol"], told["status"], told["previous_status"], told["dry_run"]) == (SYMBOL, status, "open", False)
    assert told["reason"] == WHY["reason"]
    for asked in (order("buy", "1", "20"), {"symbol": SYMBOL, "side": "buy", "type": "market", "quantity": "1"}):
        assert set(ask_everyone(bob, "POST", "/orders", json=asked)) == {(409, code)}
    assert alice.call("PATCH", f"/orders/{rests}", 409, json={"quantity": "6"})["code"] == code
    assert alice.order(rests)["status"] == "open"
    shown = {row["symbol"]: row["status"] for row in bob.call("GET", "/symbols")}
    assert (shown[SYMBOL], shown[ADA]) == (status, "open")
    assert alice.call("DELETE", f"/orders/{stop}")["order"]["status"] == "cancelled"
    again = change_state(root, "resume", json={"reason": "it can"})
    assert (again["status"], again["previous_status"]) == ("open", status)
    assert again["sequence"] > told["sequence"]
    assert bob.place(**order("buy", "5", "20"))["order"]["status"] == "filled"


@CLOSED
def test_what_ends_by_time_ends_in_a_closed_symbol(
    root: User, alice: User, change: str, status: str, code: str
) -> None:
    """Orders whose time is over, and those of a timer that ran out, end while the symbol is closed."""
    ends_at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(time.time() + 2)) + "Z"
    timed = alice.place(**order("buy", "1", "10", time_in_force="gtd", expires_at=ends_at))["order"]["id"]
    waits = alice.place(symbol=SYMBOL, side="buy", type="stop", quantity="1", stop_price="30")["order"]["id"]
    alice.call("POST", "/orders/cancel-all-after", json={"timeout_ms": 1000})
    change_state(root, change)
    wait_until(lambda: {alice.order(each)["status"] for each in (timed, waits)} == {"cancelled"})
    assert alice.order(waits)["status_reason"] == "CANCEL_ALL_AFTER"
    assert alice.order(timed)["status_reason"] in {"CANCEL_ALL_AFTER", "EXPIRED"}
    assert status_of(root)["status"] == status
    assert code


def wait_until(is_so: Any, timeout_s: float = 20.0) -> None:
    """Look again and again until something is so."""
    deadline_s = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < deadline_s
        time.sleep(0.02)


async def test_whoever_listens_hears_of_a_halt_and_why(bank: Engine, root: User) -> None:
    """A halt is told on its symbol's channels with reason and sequence; who comes later hears the same."""
    async with (
        connected(bank.url) as stream,
        connected(bank.url, f"/ws/markets/{dashed(SYMBOL)}") as market,
        connected(bank.url) as other,
    ):
        await stream.ask("subscribe", channels=[f"status:{SYMBOL}"])
        await other.ask("subscribe", channels=[f"status:{ADA}"])
        for socket in (stream, market, other):
            assert (await socket.next("trading_status"))["status"] == "open"
        told = change_state(root, "halt")
        for socket in (stream, market):
            heard = await socket.next("trading_status")
            assert (heard["symbol"], heard["status"], heard["reason"]) == (SYMBOL, "halted", WHY["reason"])
            assert heard["sequence"] == told["sequence"]
        async with connected(bank.url) as late:
            await late.ask("subscribe", channels=[f"status:{SYMBOL}"])
            heard = await late.next("trading_status")
            assert (heard["status"], heard["reason"]) == ("halted", WHY["reason"])
        change_state(root, "resume", json={"reason": "over"})
        assert (await stream.next("trading_status"))["reason"] == "over"
        # Of another symbol nothing was told in between.
        change_state(root, "halt", ADA)
        heard = await other.next("trading_status")
        assert (heard["symbol"], heard["status"]) == (ADA, "halted")


def test_halting_what_is_halted_changes_the_reason_alone(root: User) -> None:
    """A second halt is answered 200 and says what was; its reason is the one that is shown from then on."""
    first = change_state(root, "halt")
    second = change_state(root, "halt", json={"reason": "we know more now"})
    assert (second["status"], second["previous_status"]) == ("halted", "halted")
    row = status_of(root)
    assert (row["status"], row["reason"]) == ("halted", "we know more now")
    assert row["sequence"] == second["sequence"] > first["sequence"]


def test_resume_all_undoes_halt_all_and_no_more(root: User, bob: User) -> None:
    """A halt of all leaves alone what was halted; undone, each symbol is what it was, and that one stays halted."""
    change_state(root, "halt", ADA, json={"reason": "its own"})
    change_state(root, "cancel-only", DOGE)
    halted = root.call("POST", "/admin/trading/halt-all", json={"reason": "everything"})
    shown = {row["symbol"]: row for row in halted["symbols"]}
    assert {row["status"] for row in shown.values()} == {"halted"}
    assert set(shown) == {row["symbol"] for row in bob.call("GET", "/symbols")}
    assert halted["count"] == len(shown) - 1
    assert (shown[ADA]["previous_status"], shown[ADA]["reason"]) == ("halted", "its own")
    assert (shown[DOGE]["previous_status"], shown[SYMBOL]["previous_status"]) == ("cancel_only", "open")
    assert root.call("POST", "/admin/trading/halt-all", json={"reason": "again"})["count"] == 0
    for symbol in (SYMBOL, ADA, DOGE):
        assert bob.place(409, **order("buy", "100", "0.1", symbol))["code"] == "SYMBOL_HALTED"
    resumed = root.call("POST", "/admin/trading/resume-all", json={"reason": "over"})
    assert resumed["count"] == len(shown) - 1
    after = {row["symbol"]: row for row in root.call("GET", "/admin/symbols")}
    assert (after[ADA]["status"], after[ADA]["reason"]) == ("halted", "its own")
    assert (after[DOGE]["status"], after[SYMBOL]["status"]) == ("cancel_only", "open")
    assert root.call("POST", "/admin/trading/resume-all", json={"reason": "again"})["count"] == 0


def test_halt_waits_for_its_reason_and_not_for_ever(bank: Engine, root: User) -> None:
    """A publisher that stands still delays the answer a little; who halted what is not guessed until it goes on."""
    with bank.standing_still("publisher"):
        began_s = time.monotonic()
        halted = root.call("POST", "/admin/trading/halt-all", json=WHY)
        assert time.monotonic() - began_s >= PATIENCE_S
        row = status_of(root)
        assert (row["status"], row["reason"]) == ("halted", None)
        error = root.call("POST", "/admin/trading/resume-all", 503, json=WHY)
        assert error["code"] == "NOT_READY"
        assert set(error["details"]["symbols"]) == {change["symbol"] for change in halted["symbols"]}
        assert status_of(root)["status"] == "halted"
    wait_until(lambda: {row["reason"] for row in root.call("GET", "/admin/symbols")} == {WHY["reason"]})
    assert root.call("POST", "/admin/trading/resume-all", json=WHY)["count"] == halted["count"]


def test_no_fill_after_a_halt_under_load(bank: Engine, root: User) -> None:
    """While traders trade over both fronts on both shards, no trade has a sequence between a halt and its resume."""
    symbols = (ADA, DOGE)
    traders = [make_user(bank, f"trader-{number}", FUNDS) for number in range(4)]
    stop, counts = threading.Event(), dict.fromkeys(symbols, 0)

    def trade(number: int) -> None:
        side = ("buy", "sell")[number % 2]
        with fresh(traders[number]) as client:
            while not stop.is_set():
                for symbol in symbols:
                    answer = client.post("/orders", json=order(side, "20", "0.5", symbol))
                    assert answer.status_code in {201, 409}, answer.text
                    counts[symbol] += answer.status_code == 201

    threads = [threading.Thread(target=trade, args=(number,)) for number in range(len(traders))]
    for thread in threads:
        thread.start()
    windows: list[tuple[str, int, int]] = []
    try:
        for _ in range(3):
            for symbol in symbols:
                before = counts[symbol]
                wait_until(lambda symbol=symbol, before=before: counts[symbol] > before + 10)
                begun = change_state(root, "halt", symbol)["sequence"]
                other = symbols[symbol == symbols[0]]
                before = counts[other]
                wait_until(lambda other=other, before=before: counts[other] > before + 10)
                windows.append((symbol, begun, change_state(root, "resume", symbol)["sequence"]))
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    query = """SELECT count(*) FILTER (WHERE t.sequence BETWEEN %s AND %s), count(*) FILTER (WHERE t.sequence < %s),
               count(*) FILTER (WHERE t.sequence > %s) FROM trades t JOIN symbols s ON s.id = t.symbol_id
               WHERE s.name = %s"""
    traders[0].call("GET", "/orders")  # answered once everything is settled
    with connect_database(bank) as connection:
        for symbol, begun, ended in windows:
            row = connection.execute(query, (begun, ended, begun, ended, symbol)).fetchone()
            assert row is not None
            within, earlier, later = row
            assert within == 0, (symbol, begun, ended)
            assert min(earlier, later) > 0
    for trader in traders:
        trader.call("DELETE", "/orders")
        trader.http.close()


def test_administrator_cancels_all_of_a_user(root: User, alice: User, bob: User) -> None:
    """Orders and stops on both shards end, in closed symbols too, with who ended them; others' stay; money is free."""
    mine = [
        alice.place(**order("buy", "100", "0.3", ADA))["order"]["id"],
        alice.place(**order("sell", "100", "3", DOGE))["order"]["id"],
        alice.place(symbol=ADA, side="sell", type="stop", quantity="50", stop_price="0.1")["order"]["id"],
        alice.place(symbol=DOGE, side="buy", type="stop_limit", quantity="9", stop_price="4", price="4")["order"]["id"],
    ]
    others = bob.place(**order("buy", "100", "0.3", ADA))["order"]["id"]
    change_state(root, "halt", DOGE)
    path = f"/admin/orders/cancel-all/{alice.name}"
    tried = root.call("POST", f"{path}?dry_run=true", json=WHY)
    assert tried == {"cancelled": 0, "total": 4, "orders": sorted(mine), "dry_run": True}
    assert {alice.order(each)["status"] for each in mine} == {"open", "pending"}
    done = root.call("POST", path, json=WHY)
    assert done == {"cancelled": 4, "total": 4, "orders": sorted(mine), "dry_run": False}
    ended = [alice.order(each) for each in mine]
    assert {(each["status"], each["status_reason"]) for each in ended} == {("cancelled", "ADMINISTRATOR")}
    assert bob.order(others)["status"] == "open"
    assert all(held == 0 for _, _, held in alice.balances().values())
    assert root.call("POST", path, json=WHY)["total"] == 0


def test_administrator_cancels_all_of_a_symbol(root: User, alice: User, bob: User) -> None:
    """Everyone's orders in a symbol end, and those in others stay."""
    here = [user.place(**order("buy", "1", "15"))["order"]["id"] for user in (alice, bob)]
    here.append(bob.place(symbol=SYMBOL, side="buy", type="stop", quantity="1", stop_price="90")["order"]["id"])
    elsewhere = alice.place(**order("buy", "100", "0.3", ADA))["order"]["id"]
    path = f"/admin/orders/cancel-symbol/{dashed(SYMBOL)}"
    assert root.call("POST", f"{path}?dry_run=true", json=WHY)["total"] == 3
    done = root.call("POST", path, json=WHY)
    assert (done["cancelled"], done["orders"]) == (3, sorted(here))
    assert {user.order(each)["status_reason"] for user, each in zip((alice, bob, bob), here, strict=True)} == {
        "ADMINISTRATOR"
    }
    assert alice.order(elsewhere)["status"] == "open"
    assert status_of(root)["open_orders"] == 0


@pytest.mark.parametrize("path", ["halt/XRP-USDT", "cancel-only/XRP-USDT", "halt-all", "resume-all"])
def test_dry_run_changes_nothing(root: User, alice: User, path: str) -> None:
    """A dry run says what would be, and state, sequence, reason and book stay what they were."""
    change_state(root, "halt", ADA, json={"reason": "its own"})
    rests = alice.place(**order("sell", "1", "20"))["order"]
    alice.call("GET", "/orders")  # answered once everything is settled
    before = root.call("GET", "/admin/symbols")
    told = root.call("POST", f"/admin/trading/{path}?dry_run=true", json=WHY)
    assert told["dry_run"] is True
    changes = told.get("symbols", [told])
    assert all(change["sequence"] is None and change["dry_run"] for change in changes)
    if path == "halt-all":
        assert next(change for change in changes if change["symbol"] == ADA)["reason"] == "its own"
        assert told["count"] == len(changes) - 1
    assert root.call("GET", "/admin/symbols") == before
    assert alice.order(rests["id"]) == rests


@pytest.mark.parametrize(
    ("body", "query", "field"),
    [
        ({}, "", "reason"),
        ({"reason": ""}, "", "reason"),
        ({"reason": "x" * 201}, "", "reason"),
        ({"reason": "two\nlines"}, "", "reason"),
        ({"reason": 5}, "", "reason"),
        ({"reason": "x", "force": True}, "", "force"),
        ({"reason": "x"}, "?dry_run=perhaps", "dry_run"),
        ({"reason": "x"}, "?dryrun=true", "dryrun"),
    ],
)
@pytest.mark.parametrize(
    "path",
    ["trading/halt/XRP-USDT", "trading/resume-all", "trading/halt-all", "orders/cancel-symbol/XRP-USDT"],
)
def test_wrong_question_is_refused_by_field(root: User, path: str, body: Json, query: str, field: str) -> None:
    """Whatever is wrong with a call is named, and nothing is done."""
    error = root.call("POST", f"/admin/{path}{query}", 400, json=body)
    assert (error["code"], error["details"]["field"]) == ("INVALID_REQUEST", field)
    assert status_of(root)["status"] == "open"


def test_what_does_not_exist_is_not_found(root: User) -> None:
    """A symbol or user that does not exist is told as such."""
    for change in ("halt", "resume", "cancel-only"):
        assert change_state(root, change, "NO/SUCH", 404)["code"] == "SYMBOL_NOT_FOUND"
    assert root.call("POST", "/admin/orders/cancel-symbol/NO-SUCH", 404, json=WHY)["code"] == "SYMBOL_NOT_FOUND"
    assert root.call("POST", "/admin/orders/cancel-all/nobody-of-that-name", 404, json=WHY)["code"] == "NOT_FOUND"


def test_long_reason_halts_all_the_same(root: User) -> None:
    """Of a reason that no record has room for, as much is told as fits; the audit log has all of it."""
    reason = "Preise, die es nicht geben kann, weil die Börse in Zürich ihren Takt verloren hat, und noch viel mehr"
    told = change_state(root, "halt", json={"reason": reason})
    assert told["status"] == "halted"
    assert told["reason"].endswith("…")
    assert reason.startswith(told["reason"].removesuffix("…"))
    assert status_of(root)["reason"] == told["reason"]
    (entry,) = root.call("GET", "/admin/audit?limit=1&action=halt_symbol")
    assert (entry["reason"], entry["before"], entry["after"]["status"]) == (reason, {"status": "open"}, "halted")


@contextmanager
def resting(user: User, symbol: str) -> Iterator[None]:
    """Let a bid and an ask rest while the block runs."""
    user.place(**order("buy", "100", "0.41", symbol))
    user.place(**order("sell", "100", "0.62", symbol))
    user.call("GET", "/orders")  # answered once everything is settled
    yield
    user.call("DELETE", "/orders", params={"symbol": symbol})


def test_list_of_symbols_shows_prices_orders_and_states(root: User, alice: User) -> None:
    """Each symbol is shown with shard, best prices, open orders, and since when and why it is what it is."""
    with resting(alice, ADA):
        row = status_of(root, ADA)
    assert (Decimal(row["best_bid"]), Decimal(row["best_ask"])) == (Decimal("0.41"), Decimal("0.62"))
    assert row["open_orders"] >= 2
    halted = change_state(root, "halt", ADA)
    row = status_of(root, ADA)
    assert (row["status"], row["reason"], row["sequence"]) == ("halted", WHY["reason"], halted["sequence"])
    assert row["changed_at"].startswith(time.strftime("%Y-%m-%dT", time.gmtime()))
    assert {each["shard"] for each in root.call("GET", "/admin/symbols")} == {0, 1}


def test_dry_run_of_other_destructive_calls(root: User, alice: User) -> None:
    """Suspensions and limits tried dry are answered as they would be, and nothing is different afterwards."""
    limits = root.call("GET", f"/admin/limits/user/{alice.name}")
    path = f"/admin/limits/user/{alice.name}?dry_run=true"
    tried = root.call("POST", path, json={"max_order_size": "5", "max_open_orders": 1})
    assert (tried["max_order_size"], tried["max_open_orders"]) == ("5", 1)
    tried = root.call("POST", f"/admin/users/{alice.name}/suspend?dry_run=true", json=WHY)
    assert (tried["suspended"], tried["reason"]) == (True, WHY["reason"])
    assert root.call("GET", f"/admin/limits/user/{alice.name}") == limits
    alice.place(**order("buy", "1", "15"))
    bounds = root.call("GET", f"/admin/limits/symbol/{dashed(SYMBOL)}")
    path = f"/admin/limits/symbol/{dashed(SYMBOL)}?dry_run=true"
    assert root.call("POST", path, json={"max_price_deviation": "0.5"})["max_price_deviation"] == "0.500000"
    assert root.call("POST", path, 400, json={"min_order_size": "0.00000001"})["details"]["field"] == "min_order_size"
    assert root.call("GET", f"/admin/limits/symbol/{dashed(SYMBOL)}") == bounds
    assert root.call("POST", "/admin/users/never-seen-by-anyone/suspend?dry_run=true", json=WHY)["suspended"] is True
    assert root.call("GET", "/admin/limits/user/never-seen-by-anyone", 404)["code"] == "NOT_FOUND"


def test_dry_run_is_recorded_as_one(root: User) -> None:
    """The audit log says of a dry run that it was one."""
    change_state(root, "halt", json={"reason": "only to see"})
    root.call("POST", f"/admin/trading/resume/{dashed(SYMBOL)}?dry_run=true", json={"reason": "only to see"})
    (entry,) = root.call("GET", "/admin/audit?limit=1&action=resume_symbol")
    assert (entry["details"]["dry_run"], entry["reason"], entry["outcome"]) == (True, "only to see", "ok")
    assert status_of(root)["status"] == "halted"
