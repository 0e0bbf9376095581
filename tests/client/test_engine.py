"""The client against a running engine: every call, books that move, orders over the socket, and a front that dies."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import IO, Any

import pytest
import trio
from tests.client.scripted import BACK_S
from tests.e2e.users import deposit_all
from tests.engines import Engine, running_engine

from tradeengine.actors.data_dir import read_secret
from tradeengine.client import ApiError, BookView, Client, LocalBook, LocalOrders, Stream
from tradeengine.client.messages import (
    BalancesChanged,
    OrderbookSnapshot,
    OrderbookUpdate,
    OrderUpdate,
    Reconnected,
    Resumed,
    TradeExecuted,
)
from tradeengine.client.models import Order
from tradeengine.web.auth import issue_token

DOCUMENT = Path(__file__).parents[2] / "docs" / "clients.md"
FUNDS = {"USDT": "10000000", "BTC": "100", "ETH": "1000"}
CALLS = {
    "DELETE /api/v1/api-keys/{key_id}": "revoke_api_key",
    "DELETE /api/v1/orders": "cancel_all",
    "DELETE /api/v1/orders/{order_id}": "cancel",
    "GET /api/v1/api-keys": "api_keys",
    "GET /api/v1/balances": "balances",
    "GET /api/v1/candles/{symbol}": "candles",
    "GET /api/v1/fees": "fees",
    "GET /api/v1/historical/trades/{symbol}": "historical_trades",
    "GET /api/v1/ledger": "ledger",
    "GET /api/v1/markets/{symbol}/ticker": "ticker",
    "GET /api/v1/orderbook/{symbol}": "order_book",
    "GET /api/v1/orders": "orders",
    "GET /api/v1/orders/by-client-id/{client_order_id}": "order_by_client_id",
    "GET /api/v1/orders/{order_id}": "order",
    "GET /api/v1/snapshots/{symbol}": "depth_snapshot",
    "GET /api/v1/statistics/24h/{symbol}": "day_statistics",
    "GET /api/v1/symbols": "symbols",
    "GET /api/v1/time": "time",
    "GET /api/v1/trades": "trades",
    "GET /api/v1/trades/{trade_id}": "trade",
    "GET /health": "health",
    "GET /ready": "ready",
    "PATCH /api/v1/orders/{order_id}": "amend",
    "POST /api/v1/api-keys": "create_api_key",
    "POST /api/v1/orders": "place",
    "POST /api/v1/orders/batch": "place_batch",
    "POST /api/v1/orders/cancel-all-after": "cancel_all_after",
    "POST /api/v1/orders/test": "test_order",
}
"""The client's method for each operation of ``/openapi.json``."""


@pytest.fixture(scope="module")
def venue(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """Run an engine of these tests' own, whose fronts they may kill, with two rich users."""
    with running_engine(tmp_path_factory.mktemp("venue")) as running:
        for user in ("alice", "bob"):
            deposit_all(running, user, FUNDS)
        yield running


def token(venue: Engine, user: str) -> str:
    """Make a token for a user."""
    return issue_token(read_secret(venue.data_dir).encode(), user, "user", 3600)


def client_of(venue: Engine, user: str) -> Client:
    """Give a user's client."""
    return Client(venue.url, token=token(venue, user))


def stream_of(venue: Engine, user: str, **options: Any) -> Stream:
    """Give a user's stream."""
    return Stream(venue.url, token=token(venue, user), pause_first_s=0.02, **options)


async def next_of(stream: Stream, kind: type[Any]) -> Any:
    """Read until a message of this kind comes."""
    with trio.fail_after(BACK_S):
        async for message in stream:
            if isinstance(message, kind):
                return message
    raise AssertionError("the stream has ended")


async def agree(view: BookView, client: Client, sequence: int = -1) -> LocalBook:
    """Wait until a followed book, of this event or later, is what the engine shows of it."""
    with trio.fail_after(BACK_S):
        if view.book.sequence is None:
            await anext(view)
        while True:
            shown = await client.order_book(view.book.symbol, depth=1000)
            is_new = view.book.sequence is not None and min(view.book.sequence, shown.sequence) >= sequence
            if is_new and view.book.depth(1000) == (shown.bids, shown.asks):
                return view.book
            await trio.sleep(0.01)  # neither of the two tells when it has caught up with the other


async def test_every_call_has_a_method(venue: Engine) -> None:
    """Each operation that the engine describes has its method in the client, and no method is for one that is gone."""
    with venue.client() as http:
        paths = http.get(f"{venue.url}/openapi.json").json()["paths"]
    described = {f"{method.upper()} {path}" for path, operations in paths.items() for method in operations}
    wanted = {operation for operation in described if "/api/v1/" in operation and "/admin/" not in operation}
    assert wanted | {"GET /health", "GET /ready"} == set(CALLS)
    assert set(CALLS) <= described
    assert all(callable(getattr(Client, name)) for name in CALLS.values())


async def test_administrator_halts_cancels_and_lists(venue: Engine) -> None:
    """Halts, mass cancels and listings by the client, dry and for good."""
    admin_token = issue_token(read_secret(venue.data_dir).encode(), "root", "super_admin", 3600)
    async with Client(venue.url, token=admin_token) as root:
        tried = await root.halt("ADA/USDT", "a fault", dry_run=True)
        assert (tried.status, tried.previous_status, tried.sequence) == ("halted", "open", None)
        halted = await root.halt("ADA/USDT", "a fault")
        rows = {row.symbol: row for row in await root.symbol_statuses()}
        assert (rows["ADA/USDT"].status, rows["ADA/USDT"].sequence) == ("halted", halted.sequence)
        assert (await root.halt_all("all of them")).count == len(rows) - 1
        assert (await root.resume_all("over")).count == len(rows) - 1
        assert (await root.cancel_only("ADA/USDT", "nearly over")).previous_status == "halted"
        assert (await root.resume_trading("ADA/USDT", "over")).status == "open"
        assert (await root.cancel_symbol("ADA/USDT", "a fault", dry_run=True)).cancelled == 0
        assert (await root.cancel_all_of("alice", "a fault")).dry_run is False
        terms: Any = {"tick": "0.001", "lot": "0.01", "price_max": 1000, "quantity_min": "0.01", "quantity_max": 1000}
        terms |= {"min_notional": 5, "maker_fee": 0, "taker_fee": "0.001", "base_places": 8}
        assert (await root.list_symbol("XLM/USDT", dry_run=True, **terms)).created
        made = await root.list_symbol("XLM/USDT", **terms)
        assert (made.created, made.symbol.status, made.symbol.max_price_deviation) == (True, "open", None)
        assert not (await root.list_symbol("XLM/USDT", **terms)).created


async def test_administrator_moves_money_and_sets_limits(venue: Engine) -> None:
    """Limits, suspensions, deposits and withdrawals by the client, and the statement that its owner then reads."""
    admin_token = issue_token(read_secret(venue.data_dir).encode(), "root", "admin", 3600)
    async with Client(venue.url, token=admin_token) as root, client_of(venue, "carol") as carol:
        made = await root.deposit("carol", "USDT", Decimal("10.5"), "wire-1")
        assert (made.status, made.amount) == ("settled", Decimal("10.5"))
        assert await root.deposit("carol", "USDT", "10.50", "wire-1") == made == await root.deposit_of("wire-1")
        with pytest.raises(ApiError, match="does not cover"):
            await root.withdraw("carol", "USDT", 11, "out-1")
        assert (await root.withdraw("carol", "USDT", 10, "out-2")).status == "settled"
        refused, settled = [row async for row in root.withdrawals(user="carol")][::-1]
        assert (refused.status, settled.reference) == ("refused", "out-2")
        assert await root.withdrawal_of("out-1") == refused
        assert [row.reference async for row in root.deposits(user="carol", status="settled")] == ["wire-1"]
        entries = [entry async for entry in carol.ledger(asset="USDT", page_size=1)]
        assert [(entry.amount, entry.balance, entry.reference) for entry in entries] == [
            (Decimal(-10), Decimal("0.5"), "out-2"),
            (Decimal("10.5"), Decimal("10.5"), "wire-1"),
        ]
        assert [entry.kind async for entry in carol.ledger(kind="deposit")] == ["deposit"]
        assert {fees.symbol: fees.taker_fee for fees in await carol.fees()}["BTC/USDT"] == Decimal("0.001")
        changed = await root.change_user_limits("carol", max_order_size=Decimal("12.50"), max_open_orders=3)
        assert (changed.max_order_size, changed.max_open_orders) == (Decimal("12.5"), 3)
        changed = await root.change_user_limits("carol", max_order_size=None)
        assert changed == await root.user_limits("carol")
        assert (changed.max_order_size, changed.max_open_orders) == (None, 3)
        bounds = await root.symbol_limits("BTC/USDT")
        standing = await root.user_limits("carol"), bounds, await carol.balances()
        assert (await root.change_user_limits("carol", dry_run=True, max_open_orders=1)).max_open_orders == 1
        assert (await root.change_symbol_limits("BTC/USDT", dry_run=True, max_price_deviation=None)) != bounds
        assert (await root.suspend("carol", "perhaps", dry_run=True)).suspended
        for move in (root.deposit, root.withdraw):
            assert (await move("carol", "USDT", "0.1", "dry-1", dry_run=True)).transaction_id is None
        now = await root.user_limits("carol"), await root.symbol_limits("BTC/USDT"), await carol.balances()
        assert now == standing
        assert await root.change_symbol_limits("BTC/USDT", max_price_deviation=bounds.max_price_deviation) == bounds
        assert (await root.suspend("carol", "looked at")).suspended
        with pytest.raises(ApiError, match="suspended"):
            await carol.balances()
        assert not (await root.resume("carol", "done")).suspended
        assert {row.asset: row.total for row in await carol.balances()}["USDT"] == Decimal("0.5")
        reconciled = await root.reconcile()
        assert (reconciled.difference_count, reconciled.differences) == (0, [])
        assert reconciled.checked["postings"] >= 4


async def test_life_of_an_order(venue: Engine) -> None:
    """An order is checked, placed, repeated, found, changed, listed and cancelled, with exact numbers all the way."""
    async with client_of(venue, "alice") as alice:
        wanted: Any = {"symbol": "BTC/USDT", "side": "buy", "type": "limit", "quantity": "0.5", "price": 20000}
        checked = await alice.test_order(**wanted)
        assert checked.notional == 10_000
        placed = (await alice.place(**wanted, client_order_id="life-1")).order
        assert (await alice.place(**wanted, client_order_id="life-1")).order.id == placed.id
        assert (await alice.order(placed.id)).price == 20_000
        assert (await alice.order_by_client_id("life-1")).id == placed.id
        held = {balance.asset: balance.held for balance in await alice.balances()}
        assert held["USDT"] >= 10_000
        amended = (await alice.amend(placed.id, quantity=Decimal("0.25"), price="20000.01")).order
        assert (amended.quantity, amended.price) == (Decimal("0.25"), Decimal("20000.01"))
        assert [order.id async for order in alice.orders(status=["open"], side="buy", type="limit")] == [placed.id]
        assert (await alice.cancel(placed.id)).order.status == "cancelled"
        with pytest.raises(ApiError, match="ORDER_NOT_OPEN") as caught:
            await alice.cancel(placed.id)
        assert (caught.value.status, caught.value.details["status"]) == (409, "cancelled")
        for price in ("19000", "19001", "19002"):
            await alice.place(**{**wanted, "price": price})
        cancelled = await alice.cancel_all("BTC-USDT")
        assert (cancelled.cancelled, len(cancelled.orders)) == (3, 3)
        ids = [order.id async for order in alice.orders(symbol="BTC/USDT", page_size=2)]
        assert ids == sorted(ids, key=int, reverse=True)
        assert len(ids) == 4


async def test_trades_are_seen_from_every_side(venue: Engine) -> None:
    """A trade is in both parties' lists, in public ones, in candles and statistics, with the same numbers."""
    async with client_of(venue, "alice") as alice, client_of(venue, "bob") as bob, Client(venue.url) as anyone:
        before = datetime.now(UTC) - timedelta(minutes=1)
        offer = await alice.place(symbol="ETH/USDT", side="sell", type="limit", quantity=2, price="3000")
        bought = await bob.place(symbol="ETH/USDT", side="buy", type="market", quantity=2)
        (trade,) = bought.trades
        assert (str(trade.price), str(trade.quantity), trade.liquidity) == ("3000.00", "2.0000", "taker")
        assert bought.order.average_price == 3000
        (own,) = await alice.own_trades(symbol="ETH/USDT", start=before).take(10)
        assert (own.id, own.order_id, own.side, own.liquidity) == (trade.id, offer.order.id, "sell", "maker")
        assert (await anyone.trade(trade.id)).buy_order_id is None
        assert (await alice.trade(trade.id)).sell_order_id == offer.order.id
        for pages in (anyone.trades("ETH/USDT"), anyone.historical_trades("ETH/USDT", start=before)):
            assert [found.id for found in await pages.take(10)] == [trade.id]
        (candle,) = await anyone.candles("ETH/USDT", "1d")
        assert candle.open == candle.close == 3000
        assert (candle.volume, candle.trades) == (Decimal(2), 1)
        day = await anyone.day_statistics("ETH/USDT")
        assert (day.volume, day.weighted_average_price) == (Decimal(2), Decimal(3000))
        assert day.to - day.since == timedelta(hours=24)


async def test_public_calls_need_no_token(venue: Engine) -> None:
    """Symbols, clock, book, ticker, health and readiness are there for everyone; orders are not."""
    async with Client(venue.url) as anyone:
        (symbol,) = [found for found in await anyone.symbols() if found.symbol == "BTC/USDT"]
        assert symbol.tick == Decimal("0.01")
        assert abs((await anyone.time()).time - datetime.now(UTC)) < timedelta(seconds=5)
        assert (await anyone.order_book("BTC/USDT", depth=5)).symbol == "BTC/USDT"
        assert (await anyone.ticker("BTC/USDT")).symbol == "BTC/USDT"
        assert (await anyone.health()).status == "ok"
        assert (await anyone.ready()).status in {"ready", "degraded"}
        with pytest.raises(ApiError, match="NOT_FOUND"):
            await anyone.depth_snapshot("BTC/USDT", at="2020-01-01T00:00:00Z")
        with pytest.raises(ApiError) as caught:
            await anyone.balances()
        assert (caught.value.code, caught.value.status) == ("UNAUTHORIZED", 401)
        assert caught.value.request_id


@pytest.mark.parametrize("options", [{}, {"msgpack": True}, {"batch": True}, {"msgpack": True, "batch": True}])
async def test_followed_book_is_the_engines(venue: Engine, options: dict[str, bool]) -> None:
    """A book that a stream keeps equals the engine's after any orders, in every encoding."""
    numbers = random.Random(7)
    async with (
        client_of(venue, "alice") as alice,
        stream_of(venue, "alice") as trading,
        stream_of(venue, "bob", **options) as watching,
    ):
        view = watching.book("SOL/USDT" if options else "XRP/USDT")
        symbol = view.book.symbol
        placed: list[Order] = []
        await agree(view, alice)
        for _ in range(60):
            cents = numbers.randint(100, 140)
            last = await trading.place(
                symbol=symbol, side="buy", type="limit", quantity=numbers.randint(10, 50), price=f"{cents / 100:.2f}"
            )
            placed.append(last.order)
            if len(placed) > 20:
                last = await trading.cancel(placed.pop(numbers.randrange(len(placed))).id)
        book = await agree(view, alice, last.order.sequence)
        assert sum(level.quantity for level in book.depth(1000)[0]) == sum(order.remaining_quantity for order in placed)
        for order in placed:
            last = await trading.cancel(order.id)
        assert (await agree(view, alice, last.order.sequence)).depth(1) == ([], [])


async def test_reader_of_a_book_needs_no_snapshot_again(venue: Engine) -> None:
    """The messages of a book as they come chain without a gap, and say the best prices that the book then has."""
    async with stream_of(venue, "alice") as stream:
        await stream.subscribe("book:ADA/USDT")
        book = LocalBook("ADA/USDT")
        assert book.apply(await next_of(stream, OrderbookSnapshot))
        for number in range(1, 21):
            price = Decimal(number) / 100
            placed = await stream.place(symbol="ADA/USDT", side="buy", type="limit", quantity=1000, price=price)
            while book.sequence is None or book.sequence < placed.order.sequence:
                message = await next_of(stream, OrderbookUpdate)
                assert book.apply(message)
                best = book.best_bid
                assert (message.best_bid, message.bid_quantity) == (best.price, best.quantity) if best else (None, None)
        assert [level.price for level in book.depth(3)[0]] == [Decimal("0.20"), Decimal("0.19"), Decimal("0.18")]


async def test_orders_over_the_socket(venue: Engine) -> None:
    """Orders that are placed, changed and cancelled over the socket come back as updates and balances."""
    async with stream_of(venue, "alice") as alice, stream_of(venue, "bob", msgpack=True, batch=True) as bob:
        orders = LocalOrders()
        await bob.subscribe("orders", "balances", "trades:LTC/USDT")
        assert {balance.asset for balance in (await next_of(bob, BalancesChanged)).balances} >= {"BTC", "USDT"}
        bid = (await bob.place(symbol="LTC/USDT", side="buy", type="limit", quantity=3, price="80")).order
        orders.apply(await next_of(bob, OrderUpdate))
        assert orders.open[bid.id].remaining_quantity == 3
        await bob.amend(bid.id, price="81")
        orders.apply(await next_of(bob, OrderUpdate))
        assert orders.open[bid.id].price == 81
        with pytest.raises(ApiError, match="INSUFFICIENT_BALANCE"):
            await alice.place(symbol="LTC/USDT", side="sell", type="limit", quantity=1, price="81")
        offer = await alice.place(symbol="ETH/USDT", side="buy", type="limit", quantity=1, price="81", post_only=True)
        assert offer.order.status == "open"
        await alice.cancel(offer.order.id)
        cancelled = await bob.cancel(bid.id)
        assert cancelled.order.status_reason == "USER"
        orders.apply(await next_of(bob, OrderUpdate))
        assert orders.open == {}
        with pytest.raises(ApiError, match="PRICE_NOT_ON_TICK") as caught:
            await bob.place(symbol="LTC/USDT", side="buy", type="limit", quantity=1, price="0.0001")
        assert caught.value.details["field"] == "price"


async def test_many_orders_are_on_their_way_at_once(venue: Engine) -> None:
    """A hundred orders placed at once over one socket are all placed, each once and each answered as its own."""
    async with stream_of(venue, "alice") as stream, client_of(venue, "alice") as alice:
        found: dict[str, str] = {}

        async def place(number: int) -> None:
            order = await stream.place(
                symbol="DOGE/USDT",
                side="buy",
                type="limit",
                quantity=1000,
                price=Decimal(number) / 100,
                client_order_id=f"many-{number}",
            )
            assert order.order.client_order_id == f"many-{number}"
            found[order.order.id] = f"many-{number}"

        async with trio.open_nursery() as nursery:
            for number in range(1, 101):
                nursery.start_soon(place, number)
        listed = {order.id: order.client_order_id async for order in alice.orders(symbol="DOGE/USDT")}
        assert listed == found
        assert (await alice.cancel_all("DOGE/USDT")).cancelled == 100


async def test_stream_outlives_its_front(venue: Engine) -> None:
    """A front that is killed costs the reader nothing: own orders resume, the book begins anew, placing goes on."""
    async with client_of(venue, "bob") as bob, stream_of(venue, "alice") as stream:
        orders = LocalOrders()
        view = stream.book("LINK/USDT")
        await stream.subscribe("orders", "trades:LINK/USDT")
        wanted: Any = {"symbol": "LINK/USDT", "side": "buy", "type": "limit", "quantity": 10}
        first = await stream.place(**wanted, price="10")
        orders.apply(await next_of(stream, OrderUpdate))
        await agree(view, bob)
        venue.kill_actor("front-0")
        second = await stream.place(**wanted, price="11", client_order_id="after-1")
        with trio.fail_after(BACK_S):
            async for message in stream:
                orders.apply(message)
                if isinstance(message, Resumed):
                    break
                assert isinstance(message, Reconnected) or orders.open
        third = await stream.place(**wanted, price="12")
        while third.order.id not in orders.open:
            orders.apply(await next_of(stream, OrderUpdate))
        assert set(orders.open) == {first.order.id, second.order.id, third.order.id}
        book = await agree(view, bob, third.order.sequence)
        assert book.best_bid is not None
        assert book.best_bid.price == 12
        await stream.place(symbol="BTC/USDT", side="sell", type="limit", quantity="0.001", price="60000")
        await bob.place(symbol="BTC/USDT", side="buy", type="market", quantity="0.001")
        await stream.subscribe("trades:BTC/USDT")
        await stream.place(symbol="BTC/USDT", side="sell", type="limit", quantity="0.001", price="60000")
        await bob.place(symbol="BTC/USDT", side="buy", type="market", quantity="0.001")
        assert (await next_of(stream, TradeExecuted)).price == 60_000


def test_python_of_the_document_runs(venue: Engine) -> None:
    """The programs in ``docs/clients.md`` do what they are there for: one watches a book, three others trade."""
    watch, trade, quote, plain = blocks_of_document("python", venue)
    with running([sys.executable, "-u", "-c", watch]) as process:
        assert re.fullmatch(r"-?\d+ .+ .+\n", readable(process).readline().decode())
    with running([sys.executable, "-u", "-c", trade], TOKEN=token(venue, "bob")) as process:
        assert readable(process).read().decode() == "accepted open\ncancelled cancelled\n"
    with running([sys.executable, "-u", "-c", quote], TOKEN=token(venue, "bob")) as process:
        assert readable(process).read().decode() == "open\nopen\n"
    with running([sys.executable, "-u", "-c", plain], TOKEN=token(venue, "bob")) as process:
        assert readable(process).read().decode() == "accepted open\ncancelled cancelled\n"


def test_shell_of_the_document_runs(venue: Engine) -> None:
    """The lines for a shell in ``docs/clients.md`` show a book: asked for again and again, and told."""
    poll, listen, *_ = blocks_of_document("sh", venue)
    with running(["sh", "-c", poll]) as process:
        assert b'"sequence":' in readable(process).readline()
    with running(["sh", "-c", f"exec {listen}"]) as process:
        said = b""
        while b'"orderbook_snapshot"' not in said:
            said += readable(process).read1()  # type: ignore[attr-defined]


def test_shell_of_the_document_trades(venue: Engine, tmp_path: Path) -> None:
    """The lines for a shell in ``docs/clients.md`` fund a user, who places orders, sets a timer, lists, and cancels."""
    program = tmp_path / "tradeengine"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m tradeengine.cli.app "$@"\n')
    program.chmod(0o755)
    trade = f"PATH={tmp_path}:$PATH\n" + blocks_of_document("sh", venue)[3].replace("PATH=$PWD/.venv/bin:$PATH\n", "")
    with running(["sh", "-ec", trade], TRADEENGINE_ENGINE_DATA_DIR=str(venue.data_dir)) as process:
        lines = readable(process).read().decode().splitlines()
    assert [line.split()[0] for line in lines[:2]] == ["settled", "settled"]
    placed, batch, timer, listed, cancelled, disarmed = (json.loads(line)["data"] for line in lines[2:])
    assert [each["success"] for each in batch] == [True, True]
    assert (timer["timeout_ms"], disarmed["timeout_ms"]) == (60_000, 0)
    orders = [placed["order"]["id"], *(each["data"]["order"]["id"] for each in batch)]
    assert {order["id"] for order in listed} == set(orders) == set(cancelled["orders"])


def blocks_of_document(language: str, venue: Engine) -> list[str]:
    """Give the blocks of a language in the document, about this engine."""
    text = DOCUMENT.read_text(encoding="utf-8").replace("127.0.0.1:8000", venue.url.removeprefix("http://"))
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


@contextmanager
def running(command: list[str], **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program, with children of its own, while the block runs."""
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, start_new_session=True, env={**os.environ, **environment}
    )
    try:
        yield process
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        readable(process).close()


def readable(process: subprocess.Popen[bytes]) -> IO[bytes]:
    """Give what a program prints."""
    assert process.stdout is not None
    return process.stdout
