"""Streams of a whole engine at its edges: a reader who does not read, and a planned stop."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import trio
from tests.e2e.scrapes import scrape
from tests.e2e.told_book import BookReader
from tests.e2e.users import User, make_user
from tests.e2e.watched import token_of
from tests.engines import Engine, running_engine
from tests.web.raw_websocket import WAIT_S, RawSocket, Refused, connect, connected, frame

SYMBOL = "DOGE/USDT"
FUNDS = {"USDT": "1000000", "DOGE": "100000000"}
QUEUE_BYTES_MAX = 65_536
ENVIRONMENT = {
    "TRADEENGINE_STREAMS_MERGE_BYTES": "16384",
    "TRADEENGINE_STREAMS_QUEUE_BYTES_MAX": f"{QUEUE_BYTES_MAX}",
}


@pytest.fixture(scope="module")
def venue(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """Run an engine that lets little wait for a client."""
    with running_engine(tmp_path_factory.mktemp("slow"), environment=ENVIRONMENT) as running:
        yield running


def metric(engine: Engine, name: str) -> float:
    """Read a metric of the front."""
    lines = httpx2.get(f"{engine.url}/metrics").text.splitlines()
    (line,) = [line for line in lines if line.startswith(f"tradeengine_front_{name}{{")]
    return float(line.rpartition(" ")[2])


async def trade_much(socket: RawSocket, count: int) -> None:
    """Let a user's orders trade with those of another that rest, so many times, many at once."""
    order = {"op": "place", "symbol": SYMBOL, "side": "buy", "type": "limit", "quantity": "100", "price": "0.1"}
    frames = [frame(json.dumps(order | {"id": number}).encode()) for number in range(count)]
    await socket.stream.send_all(b"".join(frames))
    for number in range(count):
        assert (await socket.answer(number))["type"] == "ack"


@pytest.mark.long
async def test_reader_who_never_reads_is_closed_and_costs_nobody(venue: Engine) -> None:
    """A client that subscribes and reads nothing is bounded and closed; who trades and who reads sees nothing of it."""
    alice, bob = make_user(venue, "alice", FUNDS), make_user(venue, "bob", FUNDS)
    channels = [f"trades:{SYMBOL}", f"book:{SYMBOL}", f"ticker:{SYMBOL}"]
    async with (
        connected(venue.url, receive_bytes=4096) as silent,
        connected(venue.url) as watching,
        connected(venue.url, token=token_of(alice)) as trading,
    ):
        await silent.ask("subscribe", channels=channels)
        reader = BookReader(watching)
        await reader.subscribe(SYMBOL)
        await watching.ask("subscribe", channels=[f"trades:{SYMBOL}"])
        count, waited_bytes = 0, 0.0
        with trio.fail_after(60):
            while metric(venue, "stream_clients") < 3:  # noqa: ASYNC110 - written once a second, without a bell
                await trio.sleep(0.05)
            while metric(venue, "stream_clients") == 3:
                bob.place(symbol=SYMBOL, side="sell", quantity="20000", price="0.1")
                await trade_much(trading, 200)
                count += 200
                while len(reader.others["trade_executed"]) < count:
                    await reader.read()
                waited_bytes = max(waited_bytes, metric(venue, "stream_waiting_bytes"))
        assert waited_bytes <= QUEUE_BYTES_MAX + 16_384
        counted = scrape(venue)
        assert counted.sum("tradeengine_front_stream_closed_total", code="4008") == 1
        assert counted.sum("tradeengine_front_stream_merges_total") > 0
        await reader.agree(alice, SYMBOL)
        sequences = [message["sequence"] for message in reader.others["trade_executed"]]
        assert sequences == sorted(set(sequences))
        assert await silent.close_code() in {4008, None}  # None: it did not begin to read in time to hear it
        told = [message["sequence"] for message in silent.kept if message["type"] == "trade_executed"]
        assert told == sequences[: len(told)]
        assert len(told) < len(sequences)
    alice.http.close()
    bob.http.close()


@pytest.mark.long
async def test_planned_stop_is_announced(tmp_path: Path) -> None:
    """Before a stop each client is told in how many seconds, takes no more orders, and is closed with 1012."""
    with running_engine(tmp_path / "data") as engine:
        alice = make_user(engine, "alice", FUNDS)
        async with (
            connected(engine.url, token=token_of(alice)) as plain,
            connected(engine.url, msgpack=True) as packed,
            connected(engine.url, "/ws/trades?batch=true") as batched,
            connected(engine.url, receive_bytes=4096) as silent,
        ):
            await plain.ask("subscribe", channels=["orders", f"book:{SYMBOL}"])
            await packed.ask("ping")
            await batched.answer(None)
            await silent.ask("ping")
            engine.process.send_signal(signal.SIGINT)
            for socket in (plain, packed, batched):
                assert 0 < (await socket.next("server_shutdown"))["in_seconds"] < 10
            await check_nothing_begins(engine, plain, alice)
            for socket in (plain, packed, batched):
                assert await socket.close_code() == 1012
                assert socket.kept or socket is not plain
            with trio.fail_after(WAIT_S):
                assert await trio.to_thread.run_sync(engine.wait) == 0
            assert await silent.close_code() == 1012
            assert [message["type"] for message in silent.kept] == ["server_shutdown"]
        alice.http.close()


async def check_nothing_begins(engine: Engine, socket: RawSocket, user: User) -> None:
    """See that new orders and connections are refused, while those who are connected are still answered."""
    order = {"symbol": SYMBOL, "side": "buy", "type": "limit", "quantity": "100", "price": "0.1"}
    assert (await socket.refusal("place", **order))["code"] == "SHUTTING_DOWN"
    await socket.ask("ping")
    answer = user.http.post("/orders", json=order)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "SHUTTING_DOWN")
    with pytest.raises(Refused) as refused:
        await connect(engine.url)
    assert (refused.value.status, refused.value.code) == (503, "SHUTTING_DOWN")


@pytest.mark.long
async def test_orders_on_their_way_are_answered_before_a_stop(tmp_path: Path) -> None:
    """Orders that were sent before the stop was announced are answered; what was placed is there after a start."""
    placed: set[str] = set()
    with running_engine(tmp_path / "data") as engine:
        alice = make_user(engine, "alice", FUNDS)
        async with connected(engine.url, token=token_of(alice)) as socket:
            order: dict[str, Any] = {"symbol": SYMBOL, "side": "buy", "type": "limit", "quantity": "100"}
            numbers = [await socket.request("place", **order, price=f"0.{number}") for number in range(101, 201)]
            engine.process.send_signal(signal.SIGINT)
            for number in numbers:
                answer = await socket.answer(number)
                if answer["type"] == "ack":
                    placed.add(answer["data"]["order"]["id"])
                else:
                    assert answer["code"] == "SHUTTING_DOWN"
        alice.http.close()
        await trio.to_thread.run_sync(engine.wait)
    with running_engine(tmp_path / "data") as engine, engine.client(alice.name) as http:
        orders = http.get("/orders", params={"limit": 1000}).json()["data"]
        assert {order["id"] for order in orders} == placed
        http.delete("/orders")
