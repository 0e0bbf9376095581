"""Books as streams tell them: a snapshot, then changes that follow each other, and always the book that HTTP shows."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Iterator
from decimal import Decimal

import pytest
import trio
from tests.e2e.told_book import LEVELS_MAX, BookReader, Levels
from tests.e2e.users import Json, User, make_user
from tests.e2e.watched import token_of
from tests.engines import Engine
from tests.web.raw_websocket import WAIT_S, RawSocket, connect, connected

SYMBOLS = ("XRP/USDT", "ADA/USDT", "DOGE/USDT")
FUNDS = {
    "USDT": "100000000",
    "XRP": "10000000",
    "ADA": "10000000",
    "DOGE": "100000000",
    "ETH": "10",
    "LINK": "100000",
}


@pytest.fixture
def traders(venue: Engine) -> Iterator[list[User]]:
    """Give three rich users, whose orders are cancelled at the end."""
    users = [make_user(venue, name, FUNDS) for name in ("alice", "bob", "carol")]
    yield users
    for user in users:
        user.call("DELETE", "/orders")
        user.http.close()


async def storm(
    venue: Engine, user: User, seed: int, lasts: Counter[str], count: int = 150, symbols: tuple[str, ...] = SYMBOLS
) -> None:
    """Place, amend and cancel at random around one price, many at once; returns when everything was answered.

    lasts: takes the sequence of the last event that was answered, by symbol.
    """
    numbers = random.Random(seed)
    open_ids: list[str] = []
    async with connected(venue.url, token=token_of(user)) as socket:
        for _ in range(count // 10):
            requests: list[Json] = [random_request(numbers, open_ids, symbols) for _ in range(10)]
            sent = [await socket.request(**request) for request in requests]
            for number in sent:
                answer = await socket.answer(number)
                if answer["type"] == "ack":
                    order = answer["data"]["order"]
                    lasts[order["symbol"]] = max(lasts[order["symbol"]], order["sequence"])
                    if order["status"] in {"open", "partially_filled"}:
                        open_ids.append(order["id"])


def random_request(numbers: random.Random, open_ids: list[str], symbols: tuple[str, ...]) -> Json:
    """Make a request that is likely to be carried out."""
    if open_ids and numbers.random() < 0.4:
        order_id = open_ids.pop(numbers.randrange(len(open_ids)))
        if numbers.random() < 0.5:
            return {"op": "cancel", "order_id": order_id}
        return {"op": "amend", "order_id": order_id, "quantity": f"{numbers.randint(20, 90)}"}
    return {
        "op": "place",
        "symbol": numbers.choice(symbols),
        "side": numbers.choice(["buy", "sell"]),
        "type": "limit",
        "quantity": f"{numbers.randint(20, 90)}",
        "price": f"{1 + numbers.randint(-20, 20) / 1000:.3f}",
        "time_in_force": numbers.choice(["gtc", "gtc", "gtc", "ioc"]),
        "self_trade_prevention": numbers.choice(["cancel_taker", "cancel_maker", "cancel_both"]),
    }


async def test_books_equal_http_at_the_end_of_a_storm(venue: Engine, traders: list[User]) -> None:
    """After any orders, each book that was told from its snapshot on is the one that HTTP shows, in every encoding."""
    lasts: Counter[str] = Counter()
    async with (
        connected(venue.url) as plain,
        connected(venue.url, msgpack=True) as packed,
        connected(venue.url, f"/ws/markets/{SYMBOLS[0].replace('/', '-')}?batch=true") as batched,
    ):
        readers = [BookReader(plain), BookReader(packed)]
        for reader in readers:
            await reader.subscribe(*SYMBOLS)
        single = BookReader(batched)
        await single.begin(SYMBOLS[0])
        async with trio.open_nursery() as nursery:
            for reader in (*readers, single):
                nursery.start_soon(reader.read_for_ever)
            async with trio.open_nursery() as storms:
                for seed, user in enumerate(traders):
                    storms.start_soon(storm, venue, user, seed, lasts)
            nursery.cancel_scope.cancel()
        for symbol in SYMBOLS:
            levels = [await reader.agree(traders[0], symbol, lasts[symbol]) for reader in readers]
            assert levels[0] == levels[1] != ([], [])
        assert await single.agree(traders[0], SYMBOLS[0]) == readers[0].books[SYMBOLS[0]].levels()
        assert {book.snapshot_count for reader in (*readers, single) for book in reader.books.values()} == {1}
        for user in traders:
            user.call("DELETE", "/orders")
        with trio.fail_after(WAIT_S):
            while any(book.levels() != ([], []) for book in readers[0].books.values()):
                await readers[0].read()


async def test_subscribers_of_different_times_agree(venue: Engine, traders: list[User]) -> None:
    """Whoever comes later begins with the book of that moment; of each moment all were told the same book."""
    symbol, lasts = SYMBOLS[0], Counter[str]()
    async with trio.open_nursery() as nursery:
        sockets = [await nursery.start(hold_connection, venue, number % 2 == 1) for number in range(5)]
        readers = [BookReader(socket) for socket in sockets]
        for seed, reader in enumerate(readers):
            await reader.subscribe(symbol)
            async with trio.open_nursery() as reading:
                for earlier in readers[: seed + 1]:
                    reading.start_soon(earlier.read_for_ever)
                await storm(venue, traders[seed % 3], 100 + seed, lasts, 60, (symbol,))
                reading.cancel_scope.cancel()
        for reader in readers:
            await reader.agree(traders[0], symbol, lasts[symbol])
        nursery.cancel_scope.cancel()
    first = readers[0].books[symbol].seen
    for reader in readers[1:]:
        seen = reader.books[symbol].seen
        shared = seen.keys() & first.keys()
        assert len(shared) >= len(seen) - 1  # a first snapshot may show a moment at which nobody was told anything
        assert all(seen[sequence] == first[sequence] for sequence in shared)


async def hold_connection(
    venue: Engine, msgpack: bool, task_status: trio.TaskStatus[RawSocket] = trio.TASK_STATUS_IGNORED
) -> None:
    """Keep a connection open until cancelled."""
    async with connected(venue.url, msgpack=msgpack) as socket:
        task_status.started(socket)
        await trio.sleep_forever()


@pytest.mark.long
async def test_deep_book_shows_its_best_thousand_levels(venue: Engine, traders: list[User]) -> None:
    """Of a side with more levels a client has the best thousand at every moment, also when better ones come and go."""
    symbol, numbers = "LINK/USDT", random.Random(5)
    alice = traders[0]
    truth: dict[str, dict[str, str]] = {"buy": {}, "sell": {}}
    expected: dict[int, tuple[Levels, Levels]] = {}
    async with connected(venue.url, token=token_of(alice)) as trading, connected(venue.url) as socket:
        reader = BookReader(socket)
        await reader.subscribe(symbol)
        offers = {"buy": range(10_000, 10_000 + 1050), "sell": range(20_000, 20_000 + 1050)}
        ids = {}
        for side, prices in offers.items():
            for price, order in zip(prices, await place_all(trading, symbol, side, prices), strict=True):
                ids[side, price] = order["id"]
                truth[side][order["price"]] = order["quantity"]
        late = BookReader(await connect(venue.url))
        await late.subscribe(symbol)
        for _ in range(150):
            side = numbers.choice(["buy", "sell"])
            known = sorted(price for of, price in ids if of == side)
            best, worst = (known[-1], known[0]) if side == "buy" else (known[0], known[-1])
            if numbers.random() < 0.6:
                price = best if numbers.random() < 0.7 else numbers.choice(known)
                order = (await trading.ask("cancel", order_id=ids.pop((side, price))))["order"]
                del truth[side][order["price"]]
            else:
                price = best + (1 if side == "buy" else -1) if numbers.random() < 0.7 else worst
                if (side, price) in ids:
                    continue
                (order,) = await place_all(trading, symbol, side, [price])
                ids[side, price] = order["id"]
                truth[side][order["price"]] = order["quantity"]
            expected[order["sequence"]] = best_thousand(truth)
        last = max(expected)
        for told in (reader, late):
            while told.books[symbol].sequence < last:
                with trio.fail_after(WAIT_S):
                    await told.read()
            seen = told.books[symbol].seen
            shared = seen.keys() & expected.keys()
            assert last in shared
            assert len(shared) > 20
            assert all(seen[sequence] == expected[sequence] for sequence in shared)
            assert [len(side) for side in told.books[symbol].levels()] == [LEVELS_MAX] * 2
            await told.agree(alice, symbol)
        await trio.aclose_forcefully(late.socket.stream)


async def place_all(socket: RawSocket, symbol: str, side: str, prices: Iterable[int]) -> list[Json]:
    """Place an order at each price (in thousandths), a part of them at once; returns the orders."""
    order: Json = {"symbol": symbol, "side": side, "type": "limit", "quantity": "1"}
    texts = [f"{Decimal(price).scaleb(-3):.3f}" for price in prices]
    placed: list[Json] = []
    for start in range(0, len(texts), 50):  # of many more some would be refused
        sent = [await socket.request("place", **order, price=text) for text in texts[start : start + 50]]
        placed += [(await socket.answer(number))["data"]["order"] for number in sent]
    return placed


def best_thousand(truth: dict[str, dict[str, str]]) -> tuple[Levels, Levels]:
    """Give the best levels of both sides."""
    bids, asks = (sorted(truth[side].items(), key=lambda level: Decimal(level[0])) for side in ("buy", "sell"))
    return [list(level) for level in reversed(bids)][:LEVELS_MAX], [list(level) for level in asks][:LEVELS_MAX]


async def test_subscriptions_come_and_go_in_a_storm(venue: Engine, traders: list[User]) -> None:
    """Those who come and go while orders storm get a snapshot each time, whole chains, and nothing after leaving."""

    async def come_and_go(seed: int) -> None:
        numbers = random.Random(seed)
        async with connected(venue.url, msgpack=seed % 2 == 1) as socket:
            reader = BookReader(socket)
            for _ in range(25):
                here = [symbol for symbol in SYMBOLS if symbol in reader.books]
                away = [symbol for symbol in SYMBOLS if symbol not in reader.books]
                if away and numbers.random() < 0.6:
                    await reader.subscribe(*numbers.sample(away, numbers.randint(1, len(away))))
                elif here:
                    await reader.unsubscribe(*numbers.sample(here, numbers.randint(1, len(here))))
            await reader.subscribe(*SYMBOLS)
            done.append(reader)
            await finished.wait()
            for symbol in SYMBOLS:
                await reader.agree(traders[0], symbol, lasts[symbol])

    lasts = Counter[str]()
    done: list[BookReader] = []
    finished = trio.Event()
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            for seed in range(8):
                nursery.start_soon(come_and_go, seed)
            round_number = 0
            while len(done) < 8:
                round_number += 1
                await storm(venue, traders[round_number % 3], round_number, lasts, 30)
            finished.set()


async def test_unsubscribing_ends_messages(venue: Engine, traders: list[User]) -> None:
    """After the answer to unsubscribe nothing of that channel comes, while the others go on."""
    alice, bob = traders[:2]
    symbol = SYMBOLS[1]
    async with connected(venue.url) as socket:
        channels = [f"book:{symbol}", f"trades:{symbol}"]
        assert (await socket.ask("subscribe", channels=channels))["channels"] == channels
        await socket.next("orderbook_snapshot")
        assert (await socket.ask("unsubscribe", channels=[f"book:{symbol}"]))["channels"] == [f"trades:{symbol}"]
        socket.kept.clear()
        for _ in range(3):
            alice.place(symbol=symbol, side="sell", quantity="50", price="1")
            bob.place(symbol=symbol, quantity="50", price="1")
            await socket.next("trade_executed")
        assert not socket.kept
        assert (await socket.ask("unsubscribe", channels=[f"trades:{symbol}", "balances"]))["channels"] == []


async def test_book_that_is_subscribed_already_stays(venue: Engine, traders: list[User]) -> None:
    """Who subscribes again to a book goes on with it: no second snapshot comes, and no change is missed or doubled."""
    alice, symbol = traders[0], SYMBOLS[1]
    async with connected(venue.url) as socket:
        reader = BookReader(socket)
        await reader.subscribe(symbol)
        for number in range(1, 6):
            order = alice.place(symbol=symbol, quantity="100", price=f"0.{number}")["order"]
            await reader.subscribe(symbol)
        assert len((await reader.agree(alice, symbol, order["sequence"]))[0]) == 5
        assert reader.books[symbol].snapshot_count == 1


async def test_channel_that_is_named_twice_is_one(venue: Engine) -> None:
    """However often and in whatever ways a request names a channel, it begins once."""
    async with connected(venue.url) as socket:
        written = ["book:ADA/USDT", "book:ADA-USDT", "book:ada/usdt", "book:ADA/USDT"]
        assert (await socket.ask("subscribe", channels=written))["channels"] == ["book:ADA/USDT"]
        await socket.next("orderbook_snapshot")
        await socket.ask("unsubscribe", channels=written)
        assert not socket.kept


async def test_book_of_an_untouched_symbol_is_empty(venue: Engine, traders: list[User]) -> None:
    """The book of a symbol that nobody has touched begins empty, and its first order follows."""
    async with connected(venue.url) as socket:
        reader = BookReader(socket)
        await reader.subscribe("ETH/BTC")
        assert reader.books["ETH/BTC"].levels() == ([], [])
        order = traders[0].place(symbol="ETH/BTC", side="sell", quantity="0.5", price="0.05")["order"]
        assert await reader.agree(traders[0], "ETH/BTC", order["sequence"]) == ([], [["0.05000", "0.500"]])


async def test_all_changes_of_a_command_come_together(venue: Engine, traders: list[User]) -> None:
    """An order that sweeps many levels is told in one update: nobody ever sees half of it."""
    alice, bob = traders[:2]
    symbol = "LINK/USDT"
    async with connected(venue.url) as socket:
        reader = BookReader(socket)
        for price in range(1500, 1520):
            alice.place(symbol=symbol, side="sell", quantity="100", price=f"{price / 100}")
        await reader.subscribe(symbol)
        before = set(reader.books[symbol].seen)
        order = bob.place(symbol=symbol, quantity="1950", price="15.19")
        assert len(order["trades"]) == 20
        await reader.agree(bob, symbol, order["order"]["sequence"])
        assert set(reader.books[symbol].seen) - before == {order["order"]["sequence"]}
        assert reader.books[symbol].levels() == ([], [["15.190", "50.00"]])
