"""What streams tell everyone but books: trades, tickers, candles, trading states; paths and encodings."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import trio
from tests.e2e.users import Json, User, make_user
from tests.e2e.watched import token_of
from tests.engines import Engine
from tests.web.raw_websocket import WAIT_S, RawSocket, Refused, connect, connected

from tradeengine.core.records import SYMBOL_ID_ALL, CommandKind, TradingState, command_dtype
from tradeengine.ipc.client import LocalClient, open_client

FUNDS = {"USDT": "10000000", "BTC": "100", "ETH": "1000", "SOL": "100000", "LTC": "10000"}
TIME_FRAMES = ("1m", "5m", "15m", "1h", "4h", "1d")


@pytest.fixture(scope="module")
def alice(venue: Engine) -> Iterator[User]:
    """Give a rich user."""
    user = make_user(venue, "alice", FUNDS)
    yield user
    user.http.close()


@pytest.fixture(scope="module")
def bob(venue: Engine) -> Iterator[User]:
    """Give another."""
    user = make_user(venue, "bob", FUNDS)
    yield user
    user.http.close()


@pytest.fixture(scope="module")
def operator(venue: Engine) -> Iterator[LocalClient]:
    """Give a local client, which may set trading states."""
    with open_client(venue.data_dir) as wiring:
        yield LocalClient(wiring)


def trade(alice: User, bob: User, symbol: str, quantity: str = "1", price: str = "100") -> Json:
    """Let Alice sell Bob something; returns the trade as Bob's answer has it."""
    alice.place(symbol=symbol, side="sell", quantity=quantity, price=price)
    made: Json = bob.place(symbol=symbol, quantity=quantity, price=price)["trades"][0]
    return made


async def set_state(operator: LocalClient, symbol: str | None, state: TradingState) -> None:
    """Halt, let cancel only, or open a symbol (None: all); returns when that is done."""
    command = np.zeros(1, command_dtype)
    command["kind"] = CommandKind.SET_TRADING_STATE
    known = operator.directory().symbol_by_name
    command["symbol_id"] = known[symbol].symbol_id if symbol else SYMBOL_ID_ALL
    command["trading_state"] = state
    operator.submit(command)
    with trio.fail_after(WAIT_S):
        while not operator.poll():
            await trio.to_thread.run_sync(operator.wait, 0.1)


async def test_trades_of_all_symbols_come_on_one_path(venue: Engine, alice: User, bob: User) -> None:
    """The path of trades tells those of every symbol, or of those that are named, as HTTP shows them."""
    symbols = ("BTC/USDT", "ETH/USDT", "SOL/USDT")
    async with (
        connected(venue.url, "/ws/trades") as every,
        connected(venue.url, "/ws/trades?symbols=eth-usdt,SOL/USDT", msgpack=True) as two,
    ):
        listed = [row["symbol"] for row in alice.call("GET", "/symbols")]
        assert sorted((await every.answer(None))["data"]["channels"]) == sorted(f"trades:{name}" for name in listed)
        assert (await two.answer(None))["data"]["channels"] == ["trades:ETH/USDT", "trades:SOL/USDT"]
        made = [trade(alice, bob, symbol) for symbol in (*symbols, *symbols)]
        told = [await every.next("trade_executed") for _ in made]
        assert [message["trade_id"] for message in told] == [row["id"] for row in made]
        assert [await two.next("trade_executed") for _ in range(4)] == [
            message for message in told if message["symbol"] != "BTC/USDT"
        ]
        for message in told:
            (shown,) = [
                row
                for row in alice.call("GET", f"/trades?symbol={message['symbol']}")
                if row["id"] == message["trade_id"]
            ]
            assert {name: message[name] for name in shown if name != "id"} == {
                name: value for name, value in shown.items() if name != "id"
            }
        sequences = [message["sequence"] for message in told]
        assert sequences == sorted(set(sequences))


async def test_one_order_that_trades_often_is_many_trades(venue: Engine, alice: User, bob: User) -> None:
    """Each fill of a sweeping order is a trade of its own, told in the order in which they happened."""
    async with connected(venue.url, "/ws/trades?symbols=LTC/USDT") as socket:
        await socket.answer(None)
        for number in range(50):
            alice.place(symbol="LTC/USDT", side="sell", quantity="1", price=f"{80 + number / 100:.2f}")
        made = bob.place(symbol="LTC/USDT", quantity="50", price="81")["trades"]
        told = [await socket.next("trade_executed") for _ in made]
        assert len(told) == 50
        assert [(row["id"], row["price"]) for row in made] == [(row["trade_id"], row["price"]) for row in told]


async def test_ticker_comes_at_once_and_again(venue: Engine, alice: User, bob: User) -> None:
    """A ticker comes with the subscription and then again and again, also when nothing happens, and is HTTP's."""
    async with connected(venue.url) as socket:
        await socket.ask("subscribe", channels=["ticker:SOL/USDT"])
        told = [await socket.next("ticker") for _ in range(3)]
        assert len({message["timestamp"] for message in told}) == 3
        made = trade(alice, bob, "SOL/USDT", price="101")
        alice.place(symbol="SOL/USDT", side="sell", quantity="2", price="105")
        with trio.fail_after(WAIT_S):
            while told[-1]["sequence"] < made["sequence"] or told[-1]["best_ask"] != "105.00":
                told.append(await socket.next("ticker"))
        last = told[-1]
        assert (last["last"], last["last_quantity"], last["best_ask_quantity"]) == ("101.00", "1.000", "2.000")
        assert last["trades"] > told[0]["trades"]
        shown = alice.call("GET", "/markets/SOL-USDT/ticker")
        common = (last.keys() & shown.keys()) - {"timestamp"}
        assert len(common) > 10
        assert {name: last[name] for name in common} == {name: shown[name] for name in common}


async def test_ticker_of_an_untouched_symbol_has_nulls(venue: Engine) -> None:
    """Where nothing was ever traded and nothing is offered a ticker says so with null, not with zero."""
    async with connected(venue.url) as socket:
        await socket.ask("subscribe", channels=["ticker:ETH/BTC"])
        ticker = await socket.next("ticker")
        absent = ("last", "last_quantity", "best_bid", "best_ask", "open", "high", "low", "change")
        assert [ticker[name] for name in absent] == [None] * len(absent)
        assert (ticker["volume"], ticker["trades"]) == ("0.000", 0)


async def test_candles_grow_with_trades(venue: Engine, alice: User, bob: User) -> None:
    """Candles of every time frame change with trades and are those that HTTP shows; the latest is told first."""
    channels = [f"candles:{frame}:ETH/USDT" for frame in TIME_FRAMES]
    trade(alice, bob, "ETH/USDT")
    async with connected(venue.url) as socket:
        await socket.ask("subscribe", channels=channels)
        for frame in TIME_FRAMES:
            await candle_agrees(socket, alice, frame)
        for price in ("102", "97", "99"):
            trade(alice, bob, "ETH/USDT", "2", price)
        for frame in TIME_FRAMES:
            candle = await candle_agrees(socket, alice, frame)
            assert (candle["close"], candle["closed"]) == ("99.00", False)
        assert (candle["low"], candle["high"]) == ("97.00", "102.00")
    async with connected(venue.url) as late:
        await late.ask("subscribe", channels=["candles:1d:ETH/USDT"])
        first = await late.next("candle")
        assert {name: first[name] for name in ("time", "close", "trades")} == {
            name: candle[name] for name in ("time", "close", "trades")
        }


async def candle_agrees(socket: RawSocket, user: User, frame: str) -> Json:
    """Read until a candle is the one that HTTP shows of its time; returns it."""
    while True:
        told = await socket.next("candle", time_frame=frame)
        stored: list[Json] = user.call("GET", f"/candles/ETH-USDT?tf={frame}&limit=1")
        shared = {name: told[name] for name in stored[0]} if stored else {}
        if stored and shared == stored[0]:
            return told


async def test_candle_is_told_to_everyone_who_comes(venue: Engine, alice: User, bob: User) -> None:
    """Whoever comes, on whichever front, is told the present candle, without waiting for a trade."""
    trade(alice, bob, "ETH/USDT", price="99")
    async with connected(venue.url) as first:
        await first.ask("subscribe", channels=["candles:1d:ETH/USDT"])
        candle = await candle_agrees(first, alice, "1d")
        for _ in range(8):
            async with connected(venue.url) as socket:
                await socket.ask("subscribe", channels=["candles:1d:ETH/USDT"])
                told = await socket.next("candle")
                assert (told["time"], told["trades"]) == (candle["time"], candle["trades"])


async def test_candle_is_told_to_whoever_comes_back(venue: Engine, alice: User, bob: User) -> None:
    """Who leaves a candle and comes back at once is told the present one again, without waiting for a trade."""
    trade(alice, bob, "ETH/USDT", price="99")
    async with connected(venue.url) as socket:
        channels = ["candles:1d:ETH/USDT", "ticker:ETH/USDT"]
        await socket.ask("subscribe", channels=channels)
        first = await socket.next("candle")
        for _ in range(5):
            left = await socket.request("unsubscribe", channels=channels)
            back = await socket.request("subscribe", channels=channels)
            await socket.answer(left)
            await socket.answer(back)
            again = await socket.next("candle")
            assert (again["time"], again["trades"]) == (first["time"], first["trades"])


async def test_trading_states_are_told(venue: Engine, alice: User, operator: LocalClient) -> None:
    """A subscription begins with the present state; each change is told, and holds for orders over the stream."""
    order = {"symbol": "BTC/USDT", "side": "buy", "type": "limit", "quantity": "0.1", "price": "90"}
    async with connected(venue.url, token=token_of(alice)) as socket:
        await socket.ask("subscribe", channels=["status:BTC/USDT"])
        assert (await socket.next("trading_status"))["status"] == "open"
        for state, code in ((TradingState.HALTED, "SYMBOL_HALTED"), (TradingState.CANCEL_ONLY, "CANCEL_ONLY")):
            await set_state(operator, "BTC/USDT", state)
            told = await socket.next("trading_status")
            assert (told["symbol"], told["status"]) == ("BTC/USDT", state.name.lower())
            async with connected(venue.url, "/ws/markets/BTC-USDT") as late:
                present = await late.next("trading_status")
                assert present["status"] == told["status"]
            assert (await socket.refusal("place", **order))["code"] == code
        await set_state(operator, "BTC/USDT", TradingState.OPEN)
        assert (await socket.next("trading_status"))["status"] == "open"
        await socket.ask("cancel", order_id=(await socket.ask("place", **order))["order"]["id"])
        assert not [message for message in socket.kept if message["type"] == "trading_status"]


async def test_halt_of_all_is_told_to_everyone(venue: Engine, operator: LocalClient) -> None:
    """When all symbols are halted, those who listen to any of them hear it, once for each."""
    symbols = ("BTC/USDT", "ETH/USDT", "SOL/USDT")
    async with connected(venue.url) as socket, connected(venue.url, "/ws/markets/ADA/USDT") as other:
        await socket.ask("subscribe", channels=[f"status:{symbol}" for symbol in symbols])
        for symbol in symbols:
            await socket.next("trading_status", symbol=symbol, status="open")
        await other.next("trading_status", status="open")
        for state in (TradingState.HALTED, TradingState.OPEN):
            await set_state(operator, None, state)
            for symbol in symbols:
                await socket.next("trading_status", symbol=symbol, status=state.name.lower())
            await other.next("trading_status", symbol="ADA/USDT", status=state.name.lower())
        assert not socket.kept


@pytest.mark.parametrize("written", ["BTC-USDT", "BTC/USDT", "BTC%2FUSDT", "btc%2dusdt", "btc/usdt"])
async def test_market_path_takes_every_way_to_write_a_symbol(venue: Engine, written: str) -> None:
    """The path of a market begins with its state, its book and its ticker, however the symbol is written."""
    async with connected(venue.url, f"/ws/markets/{written}") as socket:
        channels = (await socket.answer(None))["data"]["channels"]
        assert channels == ["status:BTC/USDT", "book:BTC/USDT", "ticker:BTC/USDT"]
        for kind in ("trading_status", "orderbook_snapshot", "ticker"):
            assert (await socket.next(kind))["symbol"] == "BTC/USDT"


@pytest.mark.parametrize(
    ("path", "status", "code", "field"),
    [
        ("/ws", 404, "NOT_FOUND", None),
        ("/ws/", 404, "NOT_FOUND", None),
        ("/ws/nothing", 404, "NOT_FOUND", None),
        ("/ws/stream/", 404, "NOT_FOUND", None),
        ("/WS/stream", 404, "NOT_FOUND", None),
        ("/api/v1/orders", 404, "NOT_FOUND", None),
        ("/ws/markets/", 404, "SYMBOL_NOT_FOUND", "symbol"),
        ("/ws/markets/NO-SUCH", 404, "SYMBOL_NOT_FOUND", "symbol"),
        ("/ws/markets/BTC/USDT/x", 404, "SYMBOL_NOT_FOUND", "symbol"),
        ("/ws/markets/%00%ff", 404, "SYMBOL_NOT_FOUND", "symbol"),
        ("/ws/trades?symbols=BTC/USDT,NO/SUCH", 404, "SYMBOL_NOT_FOUND", "symbol"),
        ("/ws/trades?symbols=", 400, "INVALID_REQUEST", "symbols"),
        ("/ws/trades?symbols=BTC/USDT&symbols=ETH/USDT", 400, "INVALID_REQUEST", "symbols"),
        ("/ws/trades?symbol=BTC/USDT", 400, "INVALID_REQUEST", "symbol"),
        ("/ws/stream?symbols=BTC/USDT", 400, "INVALID_REQUEST", "symbols"),
        ("/ws/stream?batch=yes", 400, "INVALID_REQUEST", "batch"),
        ("/ws/markets/BTC-USDT?since=1.2", 400, "INVALID_REQUEST", "since"),
    ],
)
async def test_unknown_place_is_refused_in_the_envelope(
    venue: Engine, path: str, status: int, code: str, field: str | None
) -> None:
    """A path, symbol or parameter that is not there refuses the handshake, in the envelope, by name."""
    with pytest.raises(Refused) as refused:
        await connect(venue.url, path)
    assert (refused.value.status, refused.value.code) == (status, code)
    assert refused.value.body["error"]["details"].get("field") == field


@pytest.mark.parametrize(
    ("channel", "code"),
    [
        ("", "INVALID_REQUEST"),
        ("trades", "SYMBOL_NOT_FOUND"),
        ("everything:BTC/USDT", "INVALID_REQUEST"),
        ("Trades:BTC/USDT", "INVALID_REQUEST"),
        ("candles:BTC/USDT", "INVALID_REQUEST"),
        ("candles:2m:BTC/USDT", "INVALID_REQUEST"),
        ("orders:BTC/USDT", "INVALID_REQUEST"),
        ("trades:", "SYMBOL_NOT_FOUND"),
        ("trades:NO/SUCH", "SYMBOL_NOT_FOUND"),
        ("book:*", "SYMBOL_NOT_FOUND"),
        ("candles:1m:NO/SUCH", "SYMBOL_NOT_FOUND"),
        ("x" * 500, "INVALID_REQUEST"),
    ],
)
async def test_unknown_channel_is_refused_and_changes_nothing(venue: Engine, channel: str, code: str) -> None:
    """One channel that there is not refuses the whole request; what was subscribed to before stays."""
    async with connected(venue.url) as socket:
        before = (await socket.ask("subscribe", channels=["status:BTC/USDT"]))["channels"]
        for op in ("subscribe", "unsubscribe"):
            error = await socket.refusal(op, channels=["status:BTC/USDT", "trades:BTC/USDT", channel])
            assert error["code"] == code
        assert (await socket.ask("unsubscribe", channels=["trades:BTC/USDT"]))["channels"] == before


async def test_every_encoding_says_the_same(venue: Engine, alice: User, bob: User) -> None:
    """JSON and msgpack, one message a frame or lists of them: what comes is the same, message for message."""
    symbol = "SOL/USDT"
    channels = [f"trades:{symbol}", f"book:{symbol}", f"status:{symbol}", "orders", "balances"]
    async with (
        connected(venue.url, token=token_of(bob)) as plain,
        connected(venue.url, token=token_of(bob), msgpack=True) as packed,
        connected(venue.url, token=token_of(bob)) as lists,
        connected(venue.url, token=token_of(bob), msgpack=True) as packed_lists,
    ):
        sockets = [plain, packed, lists, packed_lists]
        for socket in sockets:
            is_batch = socket in {lists, packed_lists}
            await socket.ask("subscribe", channels=channels, **({"batch": True} if is_batch else {}))
            await socket.next("orderbook_snapshot")
            await socket.next("balances", snapshot=True)
            await socket.next("trading_status")
        for number in range(10):
            trade(alice, bob, symbol, "2", f"{100 + number / 100:.2f}")
        last = bob.place(symbol=symbol, quantity="1", price="95")["order"]
        told = []
        for socket in sockets:
            await socket.next("order_update", order_id=last["id"])
            while not (book := books(socket)) or book[-1]["sequence"] < last["sequence"]:
                socket.kept.extend(await socket.read_frame())
            told.append([*socket.kept])
        for kind in ("trade_executed", "order_update", "orderbook_update"):
            lists_of_kind = [[message for message in kept if message["type"] == kind] for kept in told]
            assert lists_of_kind[0] == lists_of_kind[1] == lists_of_kind[2] == lists_of_kind[3]
            assert len(lists_of_kind[0]) >= 10
        assert [socket.list_count == socket.frame_count for socket in sockets] == [False, False, True, True]
        assert plain.list_count == packed.list_count == 0
    bob.call("DELETE", "/orders")


def books(socket: RawSocket) -> list[Json]:
    """Give the changes of books that have come."""
    return [message for message in socket.kept if message["type"] == "orderbook_update"]


async def test_batches_begin_and_end_when_asked(venue: Engine) -> None:
    """Lists of messages come from the answer on that follows the wish for them, and until they are no more wanted."""
    async with connected(venue.url) as socket:
        wishes: list[tuple[Any, bool]] = [(None, False), (True, True), (None, True), (False, False)]
        for wish, is_batch in wishes:
            before = socket.frame_count, socket.list_count
            await socket.ask("subscribe", channels=["status:BTC/USDT"], **({} if wish is None else {"batch": wish}))
            await socket.ask("ping")
            frames, lists = socket.frame_count - before[0], socket.list_count - before[1]
            assert lists == (frames if is_batch else 0)
    async with connected(venue.url, "/ws/trades?batch=true", msgpack=True) as socket:
        await socket.answer(None)
        await socket.ask("ping")
        assert socket.list_count == socket.frame_count > 0
