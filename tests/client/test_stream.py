"""Streams against a server that does what each test wants: answers, losses, resuming, and readers who do not read."""

from __future__ import annotations

from decimal import Decimal

import pytest
import trio
import trio.testing
from tests.client.scripted import (
    BACK_S,
    Json,
    Peer,
    agree,
    failure,
    order,
    order_update,
    receive,
    stream_of,
    stream_server,
    trade,
)
from websockets.exceptions import ConnectionClosed

from tradeengine.client import ApiError, ClientError, NoAnswer, Stream, StreamClosed
from tradeengine.client.fields import NewOrder
from tradeengine.client.messages import OrderUpdate, Reconnected, Resumed, TradeExecuted, UnknownMessage

ORDER: NewOrder = {"symbol": "BTC/USDT", "side": "buy", "type": "limit", "quantity": "1.00", "price": "50000"}


async def place(peer: Peer, op: Json) -> None:
    """Agree to everything; place what shall be placed."""
    if op["op"] == "place":
        await peer.acknowledge(op, order=order(client_order_id=op["client_order_id"]), trades=[])
    else:
        await agree(peer, op)


@pytest.mark.parametrize("msgpack", [False, True])
async def test_messages_come_typed_and_in_order(msgpack: bool) -> None:
    """What was subscribed to comes as structs with decimals, in the order in which it was sent, in either encoding."""
    async with stream_server() as server, stream_of(server, msgpack=msgpack) as stream:
        peer = await server.peer()
        assert peer.is_binary is msgpack
        subscribed = await stream.subscribe("trades:BTC-USDT", "trades:ETH/USDT")
        assert subscribed.channels == ["trades:BTC/USDT", "trades:ETH/USDT"]
        await peer.say(*(trade(number) for number in range(1, 6)))
        numbers = []
        for _ in range(5):
            message = await receive(stream, TradeExecuted)
            assert message.price == Decimal(50000)
            numbers.append(message.sequence)
        assert numbers == [1, 2, 3, 4, 5]
        assert server.requests[0].headers["Authorization"] == "Bearer t"
        assert server.requests[0].path == "/ws/stream"


async def test_lists_of_messages_are_read() -> None:
    """A stream that asks for batches says so with each subscription, and reads frames that hold many messages."""
    async with stream_server() as server, stream_of(server, batch=True) as stream:
        peer = await server.peer()
        await stream.subscribe("trades:BTC/USDT")
        assert (await peer.ops.receive())["batch"] is True
        await peer.say([trade(1), trade(2)], [trade(3)])
        assert [(await receive(stream, TradeExecuted)).sequence for _ in range(3)] == [1, 2, 3]


async def test_unknown_messages_do_no_harm() -> None:
    """A message of a newer engine is handed on as it is, alone and between others."""
    async with stream_server() as server, stream_of(server) as stream:
        peer = await server.peer()
        await stream.subscribe("trades:BTC/USDT")
        news = {"type": "weather", "sun": True}
        await peer.say(news, [trade(1), news, {**trade(2), "colour": "green"}])
        assert (await receive(stream, UnknownMessage)).content == news
        await receive(stream, TradeExecuted)
        assert (await receive(stream, UnknownMessage)).content == news
        assert (await receive(stream, TradeExecuted)).sequence == 2


async def test_answers_find_who_asked() -> None:
    """Of many operations on their way, each gets its own answer, whatever the order of the answers."""
    held: list[Json] = []

    async def backwards(peer: Peer, op: Json) -> None:
        held.append(op)
        if len(held) == 20:
            for earlier in reversed(held):
                await place(peer, earlier)

    async def ask(stream: Stream, name: str) -> None:
        named: NewOrder = {**ORDER, "client_order_id": name}
        placed = await stream.place(**named)
        assert placed.order.client_order_id == name

    async with stream_server(backwards) as server, stream_of(server) as stream, trio.open_nursery() as nursery:
        for number in range(20):
            nursery.start_soon(ask, stream, f"order-{number}")


async def test_refused_operation_is_an_error() -> None:
    """A refusal is an ``ApiError`` with code and details, and the stream goes on."""

    async def refuse(peer: Peer, op: Json) -> None:
        await peer.refuse(op, "SYMBOL_NOT_FOUND", field="channels")

    async with stream_server(refuse) as server, stream_of(server) as stream:
        for _ in range(2):
            with pytest.raises(ApiError) as caught:
                await stream.subscribe("trades:XXX/YYY")
            assert (caught.value.code, caught.value.details) == ("SYMBOL_NOT_FOUND", {"field": "channels"})


async def test_refusal_for_now_is_asked_again() -> None:
    """An operation that is refused for now is asked again until it is done."""
    refused: list[Json] = []

    async def busy(peer: Peer, op: Json) -> None:
        if len(refused) < 2:
            refused.append(op)
            await peer.refuse(op, "ENGINE_OVERLOADED")
        else:
            await place(peer, op)

    async with stream_server(busy) as server, stream_of(server) as stream:
        placed = await stream.place(**ORDER)
        assert {op["client_order_id"] for op in refused} == {placed.order.client_order_id}


async def test_lost_connection_is_replaced_and_said() -> None:
    """After a loss the stream subscribes again, and the reader is told before anything that comes after it."""
    async with stream_server() as server, stream_of(server) as stream:
        first = await server.peer()
        await stream.subscribe("trades:BTC/USDT", "status:BTC/USDT")
        await stream.unsubscribe("status:BTC/USDT")
        await first.say(trade(1))
        await first.socket.aclose(1012, "restart")
        second = await server.peer()
        op = await second.ops.receive()
        assert (op["op"], op["channels"]) == ("subscribe", ["trades:BTC/USDT"])
        await second.say(trade(2))
        assert (await receive(stream, TradeExecuted)).sequence == 1
        notice = await receive(stream, Reconnected)
        assert (notice.code, notice.reason) == (1012, "restart")
        assert (await receive(stream, TradeExecuted)).sequence == 2


async def test_orders_resume_from_the_last_cursor() -> None:
    """Orders are resumed from the cursor that came last: the answer's at first, then each update's."""
    async with stream_server() as server, stream_of(server) as stream:
        peer = await server.peer()
        await stream.subscribe("orders")
        assert "since" not in await peer.ops.receive()
        await trio.aclose_forcefully(peer.socket.stream)
        peer = await server.peer()
        assert (await peer.ops.receive())["since"] == "c0"
        await peer.say({"type": "resumed", "cursor": "c1", "orders": 0}, order_update("c2"))
        await receive(stream, Reconnected)
        await receive(stream, Resumed)
        assert (await receive(stream, OrderUpdate)).cursor == "c2"
        await trio.aclose_forcefully(peer.socket.stream)
        peer = await server.peer()
        assert (await peer.ops.receive())["since"] == "c2"


async def test_resuming_that_breaks_off_begins_again() -> None:
    """When the connection is lost before everything missed was said, the next one resumes from where the last did."""
    async with stream_server() as server, stream_of(server) as stream:
        peer = await server.peer()
        await stream.subscribe("orders", since="mine")
        assert (await peer.ops.receive())["since"] == "mine"
        await peer.say({"type": "order_snapshot", "order": order(), "trades": [], "cursor": "c8"}, order_update("c9"))
        await anext(stream)
        await receive(stream, OrderUpdate)
        await peer.socket.aclose(1012)
        peer = await server.peer()
        assert (await peer.ops.receive())["since"] == "mine"


async def test_order_on_its_way_survives_the_connection() -> None:
    """An order whose answer is lost with the connection goes out again on the next one, under the same id."""
    seen: list[str] = []

    async def lose_first(peer: Peer, op: Json) -> None:
        seen.append(op["client_order_id"])
        if len(seen) == 1:
            await trio.aclose_forcefully(peer.socket.stream)
        else:
            await place(peer, op)

    async with stream_server(lose_first) as server, stream_of(server) as stream:
        placed = await stream.place(**ORDER)
        assert seen == [placed.order.client_order_id] * 2


async def test_amend_on_its_way_is_not_repeated() -> None:
    """An amend whose answer is lost with the connection is an open question for the caller."""
    seen: list[Json] = []

    async def lose(peer: Peer, op: Json) -> None:
        seen.append(op)
        await peer.socket.aclose(1012)

    async with stream_server(lose) as server, stream_of(server) as stream:
        with pytest.raises(NoAnswer) as caught:
            await stream.amend("7", quantity=2)
        assert caught.value.is_sent
    assert [(op["op"], op["order_id"], op["quantity"]) for op in seen] == [("amend", "7", "2")]


async def test_silent_engine_is_no_answer_by_the_deadline() -> None:
    """When no answer comes, the operation ends by its deadline, and names the order that it was about."""

    async def say_nothing(peer: Peer, op: Json) -> None:
        pass

    async with stream_server(say_nothing) as server, stream_of(server, timeout_s=0.2) as stream:
        peer = await server.peer()
        with pytest.raises(NoAnswer) as caught:
            await stream.place(**ORDER)
        sent = await peer.ops.receive()
        assert caught.value.details == {"client_order_id": sent["client_order_id"]}


async def test_caller_who_gives_up_leaves_no_half_frame() -> None:
    """A caller that is cancelled at any moment leaves the stream as usable as before, for everyone."""

    async def say_little(peer: Peer, op: Json) -> None:
        if op["op"] == "ping":
            await peer.acknowledge(op, time="2026-11-24T10:30:45.234Z")

    async with stream_server(say_little) as server, stream_of(server) as stream:
        for _ in range(20):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(stream.cancel, "7" * 100_000)
                await trio.lowlevel.checkpoint()
                nursery.cancel_scope.cancel()
        assert (await stream.ping()).year == 2026


async def test_pings_are_answered() -> None:
    """A ping of the engine is answered, whether anyone reads messages or not."""
    async with stream_server() as server, stream_of(server):
        peer = await server.peer()
        answered = await peer.socket.ping()
        with trio.fail_after(BACK_S):
            await answered.wait()


async def test_reader_who_does_not_read_stops_the_socket() -> None:
    """While nobody reads, the client takes a bounded amount from the socket; nothing is lost when reading goes on."""
    count = 4000
    said: list[int] = []

    async def flood(peer: Peer) -> None:
        for number in range(count):
            await peer.say({**trade(number), "padding": "x" * 20_000})
            said.append(number)

    async with (
        stream_server() as server,
        stream_of(server, messages_max=10) as stream,
        trio.open_nursery() as nursery,
    ):
        peer = await server.peer()
        await stream.subscribe("trades:BTC/USDT")
        nursery.start_soon(flood, peer)
        await trio.testing.wait_all_tasks_blocked(0.2)
        assert 10 < len(said) < count
        for number in range(count):
            assert (await receive(stream, TradeExecuted)).sequence == number


async def test_refused_token_ends_the_stream() -> None:
    """A token that is refused when connecting again is told to the reader after what came before, and to all others."""
    async with stream_server() as server, stream_of(server) as stream:
        peer = await server.peer()
        await stream.subscribe("trades:BTC/USDT")
        await peer.say(trade(1))
        server.refusals.append((401, failure("UNAUTHORIZED")["error"]))
        await peer.socket.aclose(4001, "token expired")
        await receive(stream, TradeExecuted)
        with pytest.raises(ApiError) as caught:
            await receive(stream, TradeExecuted)
        assert (caught.value.code, caught.value.status) == ("UNAUTHORIZED", 401)
        with pytest.raises(ApiError, match="UNAUTHORIZED"):
            await stream.cancel("7")


async def test_expired_token_is_asked_for_anew() -> None:
    """A token that is a function is asked for at each connection."""
    tokens = iter(["first", "second"])
    async with stream_server() as server, stream_of(server, token=lambda: next(tokens)):
        peer = await server.peer()
        await peer.socket.aclose(4001, "token expired")
        await server.peer()
        assert [request.headers["Authorization"] for request in server.requests] == ["Bearer first", "Bearer second"]


async def test_new_token_is_used_from_then_on() -> None:
    """A token given by ``authenticate`` goes out at once, and with later connections."""

    async def identify(peer: Peer, op: Json) -> None:
        await peer.acknowledge(op, user="alice", expires_at="2026-11-24T10:30:45.234Z")

    async with stream_server(identify) as server, stream_of(server, token=None) as stream:
        peer = await server.peer()
        assert "Authorization" not in server.requests[0].headers
        assert (await stream.authenticate("new")).user == "alice"
        assert (await peer.ops.receive())["access_token"] == "new"
        await peer.socket.aclose(1012)
        await server.peer()
        assert server.requests[1].headers["Authorization"] == "Bearer new"


async def test_tokens_are_never_logged(caplog: pytest.LogCaptureFixture) -> None:
    """A program that logs everything logs no token: neither one in the handshake's header nor one given later."""

    async def identify(peer: Peer, op: Json) -> None:
        await peer.acknowledge(op, user="alice", expires_at="2026-11-24T10:30:45.234Z")

    with caplog.at_level("DEBUG"):
        async with stream_server(identify) as server, stream_of(server, token="first-token") as stream:
            await stream.authenticate("second-token")
    said = [record.getMessage() for record in caplog.records if not record.name.startswith("websockets.server")]
    assert len(said) < len(caplog.records)
    assert not [line for line in said if "-token" in line]


async def test_subscription_that_is_refused_later_ends_the_stream() -> None:
    """When a new connection is refused what the last one had, for good, the stream ends with that reason."""
    refused = False

    async def refuse_later(peer: Peer, op: Json) -> None:
        await (peer.refuse(op, "SYMBOL_NOT_FOUND") if refused else agree(peer, op))

    async with stream_server(refuse_later) as server, stream_of(server) as stream:
        peer = await server.peer()
        await stream.subscribe("trades:BTC/USDT")
        refused = True
        await peer.socket.aclose(1012)
        await receive(stream, Reconnected)
        with pytest.raises(ApiError, match="SYMBOL_NOT_FOUND"):
            await receive(stream, Reconnected)


async def test_connection_that_restores_nothing_is_replaced() -> None:
    """A connection on which subscriptions are refused for now, or not answered in time, is given up for another."""
    asked: list[Json] = []

    async def fail_twice(peer: Peer, op: Json) -> None:
        asked.append(op)
        if len(asked) == 2:
            await peer.refuse(op, "ENGINE_OVERLOADED")
        elif len(asked) != 3:
            await agree(peer, op)

    async with stream_server(fail_twice) as server, stream_of(server, timeout_s=0.5) as stream:
        peer = await server.peer()
        await stream.subscribe("trades:BTC/USDT")
        await peer.socket.aclose(1012)
        for _ in range(3):
            peer = await server.peer()
        with trio.fail_after(BACK_S):
            assert (await peer.ops.receive())["channels"] == ["trades:BTC/USDT"]
        await peer.say(trade(1))
        for _ in range(3):
            await receive(stream, Reconnected)
        await receive(stream, TradeExecuted)


async def test_answer_that_makes_no_sense_is_an_error() -> None:
    """An answer that is not what was asked for fails who asked, and nobody else."""

    async def answer_oddly(peer: Peer, op: Json) -> None:
        await peer.acknowledge(op, time="soon" if op["op"] == "ping" else None, channels=[])

    async with stream_server(answer_oddly) as server, stream_of(server) as stream:
        with pytest.raises(ClientError, match="time"):
            await stream.ping()
        assert (await stream.subscribe("trades:BTC/USDT")).channels == []


async def test_abuse_ends_the_stream() -> None:
    """A close code after which the same would happen again ends the stream, with code and reason."""
    async with stream_server() as server, stream_of(server) as stream:
        peer = await server.peer()
        await stream.subscribe("trades:BTC/USDT")
        await peer.socket.aclose(4009, "flood")
        with pytest.raises(StreamClosed) as caught:
            await receive(stream, TradeExecuted)
        assert (caught.value.code, caught.value.reason) == (4009, "flood")


async def test_unreadable_frame_ends_the_stream() -> None:
    """A frame that makes no sense ends the stream instead of being passed over."""
    async with stream_server() as server, stream_of(server) as stream:
        peer = await server.peer()
        await stream.subscribe("trades:BTC/USDT")
        await peer.say({**trade(1), "price": "cheap"})
        with pytest.raises(StreamClosed, match="price"):
            await receive(stream, TradeExecuted)


async def test_engine_that_is_not_ready_is_waited_for() -> None:
    """A handshake that is refused for now is tried again before entering the block fails."""
    refusals = [(503, failure("SHUTTING_DOWN")["error"]), (429, failure("RATE_LIMITED")["error"])]
    async with stream_server(refusals=refusals) as server, stream_of(server):
        await server.peer()
        assert len(server.requests) == 3


async def test_no_engine_is_an_error_on_entering() -> None:
    """Where nobody listens, entering the block fails by the deadline and says why."""
    async with stream_server() as server:
        pass
    with pytest.raises(NoAnswer, match=r"127\.0\.0\.1") as caught:
        async with stream_of(server, timeout_s=0.5):
            pass
    assert not caught.value.is_sent


async def test_wrong_token_is_an_error_on_entering() -> None:
    """A refusal that stays is raised at once on entering, as it is."""
    async with stream_server(refusals=[(401, failure("UNAUTHORIZED")["error"])]) as server:
        with pytest.raises(ApiError, match="UNAUTHORIZED"):
            async with stream_of(server):
                pass
        assert len(server.requests) == 1


async def test_operation_waits_for_the_next_connection() -> None:
    """An operation that begins while there is no connection goes out on the next one."""
    async with stream_server(place) as server, stream_of(server) as stream:
        peer = await server.peer()
        await stream.subscribe("trades:BTC/USDT")
        server.refusals += [(503, failure("SHUTTING_DOWN")["error"])] * 3
        await peer.socket.aclose(1012)
        assert (await stream.place(**ORDER)).order.id == "7"
        assert (await receive(stream, Reconnected)).attempts == 4


async def test_leaving_closes_politely() -> None:
    """Leaving the block says goodbye to the engine, and errors in it come out as they are."""
    async with stream_server() as server:

        async def leave_by_error() -> None:
            async with stream_of(server):
                raise KeyError("mine")

        with pytest.raises(KeyError, match="mine"):
            await leave_by_error()
        peer = await server.peer()
        with pytest.raises(ConnectionClosed):
            await peer.socket.recv()
        assert peer.socket.close_code == 1000


async def test_leaving_ends_what_is_on_its_way() -> None:
    """Whoever still waits when the block is left is told so at once, and iterating comes to its end."""

    async def say_nothing(peer: Peer, op: Json) -> None:
        pass

    async with stream_server(say_nothing) as server, trio.open_nursery() as nursery:
        async with stream_of(server, timeout_s=1000) as stream:
            peer = await server.peer()

            async def wait() -> None:
                with pytest.raises(StreamClosed):
                    await stream.cancel("7")

            nursery.start_soon(wait)
            await peer.ops.receive()
        with pytest.raises(StopAsyncIteration):
            await anext(stream)
        with pytest.raises(StreamClosed):
            await stream.ping()


@pytest.mark.parametrize(
    ("given", "asked"),
    [("", "/ws/stream"), ("/", "/ws/stream"), ("/ws/stream", "/ws/stream"), ("/exchange", "/exchange/ws/stream")],
)
async def test_url_is_completed(given: str, asked: str) -> None:
    """The stream's path may be left out, and the engine may be behind a path of its own."""
    async with stream_server() as server, Stream(f"http://127.0.0.1:{server.port}{given}"):
        await server.peer()
        assert server.requests[0].path == asked


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "ftp://127.0.0.1", "http:///ws/stream", ""])
def test_what_is_no_url_is_refused(url: str) -> None:
    """What is no URL of an engine is refused when the stream is made."""
    with pytest.raises(ValueError, match="no URL"):
        Stream(url)
