"""What administrators see of a real engine of two fronts and two shards, held against what was done to it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from decimal import Decimal
from functools import partial
from typing import Any, Final

import psycopg
import pytest
import trio
from tests.e2e.bank import admin_of, fresh
from tests.e2e.users import Json, User, user_for_a_test
from tests.e2e.watched import token_of
from tests.engines import Engine
from tests.web.raw_websocket import connected

from tradeengine.client.rest import Client
from tradeengine.storage.embedded import running_embedded

PERCENTILES: Final = {"p50_ms", "p99_ms", "p999_ms"}
NAMED: Final = {
    "matching_engine": {"orders_placed", "trades_executed", "avg_latency_ms", "throughput_per_sec"},
    "order_book": {"active_orders", "total_symbols"},
    "settlement": {"queue_size", "pending_trades", "avg_settlement_ms", "success_rate"},
    "websocket": {"total_connections", "messages_per_second", "avg_latency_ms"},
}
"""What the API promises of ``/admin/performance``."""
COMPONENTS: Final = {"database", "matching_engine", "wallet_service", "websocket", "settlement"}
READS: Final = (
    *("actors", "health/detailed", "metrics", "stats", "performance", "orderbook/stats"),
    *("settlement/queue", "websocket/connections"),
)
PATIENCE_S: Final = 30
ADA, ADA_PRICE = "ADA/USDT", "0.5"
XRP, XRP_PRICE = "XRP/USDT", "20"
"""Traded at one price by all who share the engine: collars and stops of other stories go by the last one."""


@pytest.fixture
def admin(bank: Engine) -> Iterator[User]:
    """Sign an administrator in."""
    user = admin_of(bank)
    yield user
    user.http.close()


@pytest.fixture
def trader(bank: Engine) -> Iterator[User]:
    """Give a rich user, whose orders are cancelled at the end."""
    yield from user_for_a_test(bank, "trader", {"USDT": "1000000", "ADA": "10000", "XRP": "10000"})


@pytest.fixture
def other(bank: Engine) -> Iterator[User]:
    """Give another."""
    yield from user_for_a_test(bank, "other", {"USDT": "1000000", "ADA": "10000", "XRP": "10000"})


def by_name(rows: list[Json], name: str = "name") -> dict[str, Json]:
    """Index rows by their names."""
    return {row[name]: row for row in rows}


def seen(admin: User) -> tuple[Json, Json, dict[str, Json]]:
    """Look at performance, totals and actors."""
    performance, stats = (admin.call("GET", f"/admin/{path}") for path in ("performance", "stats"))
    return performance, stats, by_name(admin.call("GET", "/admin/actors"))


def until(condition: Callable[[], bool]) -> None:
    """Wait until something is so of which nobody tells."""
    deadline_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.02)


def test_counts_equal_what_a_run_did(admin: User, trader: User, other: User) -> None:
    """Orders, trades, commands and records grow by exactly what was done, on both shards, whoever counts."""
    trader.call("GET", "/orders")  # nothing of before waits any more
    performance, stats, actors = seen(admin)
    for symbol, price in ((ADA, ADA_PRICE), (XRP, XRP_PRICE)):
        for _ in range(3):
            trader.place(symbol=symbol, side="sell", quantity="100", price=price)
        assert len(other.place(symbol=symbol, side="buy", quantity="200", price=price)["trades"]) == 2
    assert other.place(422, symbol=ADA, quantity="100", price=ADA_PRICE, post_only=True)["code"]
    assert other.place(422, symbol=ADA, side="sell", quantity="20000", price=ADA_PRICE)["code"]
    other.call("GET", "/orders")
    # Risk and settlement bring what they did to their pages a moment after it is done.
    until(lambda: admin.call("GET", "/admin/stats")["commands_refused"] > stats["commands_refused"])
    until(lambda: admin.call("GET", "/admin/stats")["events_settled"] >= stats["events_settled"] + 13)
    later, later_stats, later_actors = seen(admin)

    def grown(*path: str) -> int:
        before: Any = {"performance": performance, "stats": stats, "actors": actors}
        after: Any = {"performance": later, "stats": later_stats, "actors": later_actors}
        for name in path:
            before, after = before[name], after[name]
        return int(after - before)

    placed, rejected, commands = 9, 1, 10
    assert grown("performance", "matching_engine", "orders_placed") == grown("stats", "orders_placed") == placed
    assert grown("performance", "matching_engine", "trades_executed") == grown("stats", "trades_executed") == 4
    assert grown("stats", "trades_settled") == 4
    assert grown("performance", "order_book", "active_orders") == grown("stats", "orders_active") == 2
    assert (grown("stats", "commands"), grown("stats", "commands_refused")) == (commands, 1)
    assert grown("performance", "error_count") == grown("stats", "error_count") == grown("stats", "restarts") == 0
    passed_risk = commands - 1
    assert grown("actors", "risk", "records_out") == passed_risk + 1  # its own refusal is a record
    matchers = ("matcher-0", "matcher-1")
    assert sum(grown("actors", matcher, "records_in") for matcher in matchers) == passed_risk
    happened = sum(grown("actors", matcher, "records_out") for matcher in matchers)
    assert happened == placed - rejected + 4 + rejected  # accepted, traded, rejected
    assert grown("actors", "settlement", "records_in") == grown("stats", "events_settled") == happened
    assert later["settlement"]["queue_size"] == later["settlement"]["pending_trades"] == 0


def test_every_field_of_performance(admin: User, trader: User) -> None:
    """Each part has the fields that the API names, and percentiles beside each average, in order and not below zero."""
    trader.place(symbol=ADA, side="buy", quantity="100", price="0.40")
    trader.call("GET", "/orders")
    performance = admin.call("GET", "/admin/performance")
    for part, fields in NAMED.items():
        assert fields <= performance[part].keys()
    for part in (*NAMED, "http"):
        shown = performance[part]
        assert any(name.startswith("avg_") for name in shown)
        assert 0 <= shown["p50_ms"] <= shown["p99_ms"] <= shown["p999_ms"]
        assert shown.keys() >= PERCENTILES
        assert all(isinstance(value, int | float) for value in shown.values())
    assert performance["matching_engine"]["avg_latency_ms"] > 0
    assert performance["settlement"]["avg_settlement_ms"] > 0
    assert performance["settlement"]["success_rate"] == 1
    assert performance["window_seconds"] > 0
    assert isinstance(performance["error_count"], int)
    symbols = trader.call("GET", "/symbols")
    assert performance["order_book"]["total_symbols"] == len(symbols)
    assert performance["order_book"]["open_symbols"] == sum(symbol["status"] == "open" for symbol in symbols)


def test_actors_are_the_processes(bank: Engine, admin: User) -> None:
    """The actors are the processes that the system knows, with the supervisor and the database, on every front."""
    server = running_embedded(bank.data_dir)
    assert server is not None
    expected = {**bank.actors(), "operator": bank.process.pid, "database": server.pid}
    for _ in range(4):
        with fresh(admin) as client:
            actors = by_name(client.get("/admin/actors").json()["data"])
        assert {name: actor["pid"] for name, actor in actors.items()} == expected
        assert {actor["state"] for name, actor in actors.items() if name not in {"shadow", "keeper"}} == {"ready"}
    assert {ring["name"] for ring in actors["settlement"]["rings"] if ring["access"] == "gate"} == {
        *("events.0", "events.1", "events.risk"),
    }
    assert actors["database"]["busy_seconds"] is None
    assert actors["database"]["heartbeat_age_seconds"] is None


def test_books_are_as_they_trade(admin: User, trader: User) -> None:
    """A book's orders, levels, best prices, spread and depth are those of its orders; pages have every symbol once."""
    before = by_name(admin.call("GET", "/admin/orderbook/stats"), "symbol")[XRP]
    for price, quantity in (("10", "100"), ("10", "50"), ("9", "25")):
        trader.place(symbol=XRP, side="buy", quantity=quantity, price=price)
    trader.place(symbol=XRP, side="sell", quantity="70", price="30")
    sequence = trader.place(symbol=XRP, side="sell", quantity="10", price="31")["order"]["sequence"]
    trader.call("GET", "/orders")

    def look() -> Json:
        return by_name(admin.call("GET", "/admin/orderbook/stats"), "symbol")[XRP]

    until(lambda: look()["sequence"] >= sequence)
    after = look()
    assert after["orders"] - before["orders"] == 5
    assert (after["bid_levels"] - before["bid_levels"], after["ask_levels"] - before["ask_levels"]) == (2, 2)
    assert Decimal(after["bid_depth"]) - Decimal(before["bid_depth"]) == 175
    assert Decimal(after["ask_depth"]) - Decimal(before["ask_depth"]) == 80
    assert Decimal(after["spread"]) == Decimal(after["best_ask"]) - Decimal(after["best_bid"])
    assert Decimal(after["best_bid"]) >= 10
    assert (after["status"], after["symbol"]) == ("open", XRP)
    listed, cursor = [], None
    while True:
        page = admin.http.get("/admin/orderbook/stats", params={"limit": 3} | ({"cursor": cursor} if cursor else {}))
        listed += [row["symbol"] for row in page.json()["data"]]
        cursor = page.json()["meta"]["next_cursor"]
        if cursor is None:
            break
    assert sorted(listed) == sorted(symbol["symbol"] for symbol in trader.call("GET", "/symbols"))


async def test_stream_clients_of_all_fronts_are_listed(bank: Engine, admin: User, trader: User) -> None:
    """Whichever front is asked lists the clients of all, who they are and what they listen to, until they leave."""
    token = token_of(trader)
    known = {row["id"] for row in await listed(admin)}
    async with trio.open_nursery() as nursery:
        stop = trio.Event()

        async def listen(named: bool, task_status: trio.TaskStatus[None]) -> None:
            async with connected(bank.url, "/ws/stream", token=token if named else None) as socket:
                await socket.ask("subscribe", channels=["book:ADA/USDT", *(["orders"] if named else [])])
                task_status.started()
                await stop.wait()

        for place in range(8):
            await nursery.start(listen, place < 5)
        with trio.fail_after(PATIENCE_S):
            rows: list[Json] = []
            while len(rows) < 8:  # of a row that is brought up to date nobody tells
                await trio.sleep(0.05)
                rows = [row for row in await listed(admin) if row["id"] not in known and row["channels"]]
        assert sorted(row["user"] or "" for row in rows) == [""] * 3 + [trader.name] * 5
        assert {row["front"] for row in rows} <= {0, 1}
        for row in rows:
            assert row["channels"] == [*(["orders"] if row["user"] else []), "book:ADA/USDT"]
            assert (row["encoding"], row["address"]) == ("json", "127.0.0.1")
            assert row["channel_count"] == len(row["channels"])
        assert [row["id"] for row in rows] == sorted((row["id"] for row in rows), key=int, reverse=True)
        stop.set()
    gone = {row["id"] for row in rows}
    with trio.fail_after(PATIENCE_S):
        while gone & {row["id"] for row in await listed(admin)}:  # noqa: ASYNC110 - nobody tells of it
            await trio.sleep(0.05)


async def listed(admin: User) -> list[Json]:
    """List the stream clients, three to a page, each page from whichever front."""
    rows: list[Json] = []
    cursor = None
    while True:
        with fresh(admin) as client:
            parameters = {"limit": 3} | ({"cursor": cursor} if cursor else {})
            ask = partial(client.get, "/admin/websocket/connections", params=parameters)
            page = await trio.to_thread.run_sync(ask)
        assert page.status_code == 200
        rows += page.json()["data"]
        cursor = page.json()["meta"]["next_cursor"]
        if cursor is None:
            return rows


def test_all_is_well(bank: Engine, admin: User) -> None:
    """Of an engine that is well each part is healthy, those that the API names are there, and the looks took time."""
    health = admin.call("GET", "/admin/health/detailed")
    assert health["status"] == "healthy"
    assert health["components"].keys() >= COMPONENTS
    assert {part["status"] for part in health["components"].values()} == {"healthy"}
    assert health["components"]["database"]["latency_ms"] > 0
    with psycopg.connect(bank.dsn) as connection:
        version = connection.execute("SHOW server_version").fetchone()
    assert version == (health["components"]["database"]["details"]["server_version"],)
    assert len(health["components"]["matching_engine"]["details"]["shards"]) == 2
    metrics = admin.call("GET", "/admin/metrics")
    assert {actor["actor"] for actor in metrics["actors"]} >= {*bank.actors(), "operator"}
    assert metrics["error_count"] == admin.call("GET", "/admin/stats")["error_count"]
    assert {ring["name"] for ring in metrics["rings"]} >= {"commands.0", "commands.1", "events.risk", "feed"}


@pytest.mark.parametrize("path", READS)
def test_only_administrators_see_it(bank: Engine, trader: User, path: str) -> None:
    """Users are refused, nobody is asked for a token, and unknown parameters are named."""
    assert trader.call("GET", f"/admin/{path}", 403)["code"] == "FORBIDDEN"
    with bank.client() as nobody:
        assert nobody.get(f"/admin/{path}").status_code == 401
    with bank.client("root", "admin") as root:
        wrong = root.get(f"/admin/{path}", params={"surprise": "1"})
    assert (wrong.status_code, wrong.json()["error"]["details"]["field"]) == (400, "surprise")


async def test_client_asks_for_everything(bank: Engine, admin: User) -> None:
    """The Python client has a call for each of these, and reads what comes."""
    token = admin.http.headers["Authorization"].removeprefix("Bearer ")
    async with Client(bank.url, token=token) as root:
        assert {actor.name for actor in await root.actors()} >= {"risk", "matcher-1", "database"}
        assert (await root.health_details()).components["database"].status == "healthy"
        assert (await root.performance()).matching_engine["orders_placed"] >= 0
        assert (await root.stats())["shards"] == 2
        assert (await root.metrics()).error_count >= 0
        assert [shard.shard for shard in (await root.settlement_queue()).shards] == [0, 1, None]
        books = [book async for book in root.book_stats(page_size=2)]
        assert len(books) == (await root.performance()).order_book["total_symbols"]
        assert {client.user async for client in root.stream_connections()} <= {None}
