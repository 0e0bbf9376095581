"""Demo traders: the prices that they think of, the orders that they make up, and the process that they run in."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from random import Random
from typing import Any, Never, Self, Unpack

import msgspec
import pytest
import structlog
import trio
import trio.testing
from tests.client.scripted import BACK_S, failure, http_server

from tradeengine.cli import demo_process
from tradeengine.cli.demo import ORDER_LIFE, PRICES, Market, trade
from tradeengine.cli.demo_process import Told, keep_demo_traders
from tradeengine.client import ApiError
from tradeengine.client.fields import NewOrder, order_fields
from tradeengine.client.messages import TickerChanged
from tradeengine.client.models import Symbol
from tradeengine.settings import Log
from tradeengine.settings_files import load_seeds, load_settings

SEEDS = {seed.name: seed for seed in load_seeds().symbols}
SECRET = b"a secret of the tests, long enough for HS256"


def market(name: str, seed: int) -> Market:
    """Give a market in a symbol of the configuration."""
    bounds = SEEDS[name]
    symbol = Symbol(
        symbol=name,
        base_asset=name.partition("/")[0],
        quote_asset=name.partition("/")[2],
        base_places=8,
        quote_places=8,
        tick=Decimal(bounds.tick),
        lot=Decimal(bounds.lot),
        price_max=Decimal(bounds.price_max),
        quantity_min=Decimal(bounds.quantity_min),
        quantity_max=Decimal(bounds.quantity_max),
        min_notional=Decimal(bounds.min_notional),
        max_price_deviation=Decimal(bounds.max_price_deviation),
        maker_fee=Decimal(bounds.maker_fee),
        taker_fee=Decimal(bounds.taker_fee),
        status="open",
    )
    return Market(symbol, Random(seed))


def ticker(name: str, best_bid: str | None, best_ask: str | None) -> TickerChanged:
    """Give a ticker with these best prices."""
    return TickerChanged(
        symbol=name,
        last=None,
        best_bid=None if best_bid is None else Decimal(best_bid),
        best_ask=None if best_ask is None else Decimal(best_ask),
        open=None,
        high=None,
        low=None,
        volume=Decimal(0),
        quote_volume=Decimal(0),
        change=None,
        sequence=1,
        timestamp=datetime.now(UTC),
    )


def test_every_configured_symbol_is_traded() -> None:
    """There is a price for each symbol that a new database begins with."""
    assert set(PRICES) == set(SEEDS)


@pytest.mark.parametrize("seed", range(5))
def test_price_wanders_around_where_it_began(seed: int) -> None:
    """A price moves, to both sides, and never far from where it began."""
    walk = market("BTC/USDT", seed)
    prices = []
    for _ in range(10_000):
        walk.step()
        prices.append(walk.fair)
    assert 0.97 * PRICES["BTC/USDT"] < min(prices) < 0.995 * PRICES["BTC/USDT"]
    assert 1.005 * PRICES["BTC/USDT"] < max(prices) < 1.03 * PRICES["BTC/USDT"]
    assert len(set(prices)) == len(prices)


@pytest.mark.parametrize("seed", range(5))
def test_price_comes_back_from_afar(seed: int) -> None:
    """A price that was driven away returns to where it began."""
    walk = market("ETH/BTC", seed)
    walk.fair *= 2
    for _ in range(1000):
        walk.step()
    assert 0.97 < walk.fair / PRICES["ETH/BTC"] < 1.03


@pytest.mark.parametrize("name", SEEDS)
def test_orders_are_such_as_the_symbol_allows(name: str) -> None:
    """Every price is on a tick, every quantity on a lot, within the bounds and large enough; and they differ."""
    traders = market(name, 7)
    bounds = traders.symbol
    near = ticker(name, str(traders.price(traders.fair * 0.999)), str(traders.price(traders.fair * 1.001)))
    seen = set()
    for _ in range(2000):
        order = order_fields(traders.order(near))
        price, quantity = Decimal(order["price"]), Decimal(order["quantity"])
        assert price % bounds.tick == 0
        assert quantity % bounds.lot == 0
        assert 0 < price <= bounds.price_max
        assert bounds.quantity_min <= quantity <= bounds.quantity_max
        assert price * quantity >= bounds.min_notional
        seen.add((order["side"], order["time_in_force"]))
    assert seen == {("buy", "gtd"), ("buy", "ioc"), ("sell", "gtd"), ("sell", "ioc")}


def test_makers_stay_on_their_side_for_a_minute() -> None:
    """While nothing is known of the book, buys are below the fair price and sells above it, good for a minute."""
    traders = market("BTC/USDT", 1)
    for heard in (None, ticker("BTC/USDT", None, None)):
        for _ in range(500):
            before = datetime.now(UTC)
            order = traders.order(heard)
            assert order["time_in_force"] == "gtd"
            assert before + ORDER_LIFE <= expiry(order) <= datetime.now(UTC) + ORDER_LIFE
            is_below = float(str(order["price"])) < traders.fair + 0.01
            is_above = float(str(order["price"])) > traders.fair - 0.01
            assert is_below if order["side"] == "buy" else is_above


def expiry(order: NewOrder) -> datetime:
    """Give the end of an order."""
    expires_at = order["expires_at"]
    assert isinstance(expires_at, datetime)
    return expires_at


def test_takers_take_the_best_price() -> None:
    """Takers ask for the best price of the other side, and for nothing behind it."""
    traders = market("BTC/USDT", 2)
    heard = ticker("BTC/USDT", "49990.00", "50010.00")
    orders = [traders.order(heard) for _ in range(500)]
    taken = {(order["side"], order["price"]) for order in orders if order["time_in_force"] == "ioc"}
    assert taken == {("buy", Decimal("50010.00")), ("sell", Decimal("49990.00"))}


def test_odd_prices_are_not_taken() -> None:
    """What rests far from the fair price is nothing that demo traders take, however good it is for the other."""
    traders = market("BTC/USDT", 3)
    heard = ticker("BTC/USDT", "1.00", "500000.00")
    assert {traders.order(heard)["time_in_force"] for _ in range(500)} == {"gtd"}


@dataclass
class Straw:
    """A stream that says nothing by itself, answers orders after a while, the first one later, and refuses a tenth."""

    first_answer_s: float = 0.03
    placed: list[NewOrder] = field(default_factory=list)
    placed_s: list[float] = field(default_factory=list)
    channels: tuple[str, ...] = ()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        """Have nothing to close."""

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Never:
        await trio.sleep_forever()
        raise AssertionError

    async def subscribe(self, *channels: str) -> None:
        """Note what is wanted."""
        self.channels = channels

    async def place(self, **order: Unpack[NewOrder]) -> None:
        """Take an order, or refuse it."""
        self.placed.append(order)
        self.placed_s.append(trio.current_time())
        await trio.sleep(self.first_answer_s if len(self.placed_s) == 1 else 0.03)
        if len(self.placed_s) % 10 == 0:
            raise ApiError("INSUFFICIENT_BALANCE", "no")


async def trade_for(straw: Straw, seconds: float, orders_per_s: float) -> None:
    """Let a trader trade for so long."""
    stream: Any = straw
    with trio.move_on_after(seconds):
        await trade(stream, {name: market(name, 4) for name in SEEDS}, Random(4), orders_per_s)


async def test_orders_come_as_often_as_asked(autojump_clock: trio.testing.MockClock) -> None:
    """Orders are placed at the rate that was asked for, however long an answer takes, and whether it is yes or no."""
    straw = Straw()
    await trade_for(straw, 500, 10)
    assert 4700 < len(straw.placed_s) < 5300
    assert set(straw.channels) == {f"ticker:{name}" for name in SEEDS}
    assert {order["symbol"] for order in straw.placed} == set(SEEDS)


async def test_missed_orders_are_not_made_up_for(autojump_clock: trio.testing.MockClock) -> None:
    """While no answer comes nothing is placed, and afterwards no more than at any time."""
    straw = Straw(first_answer_s=100)
    await trade_for(straw, 150, 10)
    first_s, second_s, *_ = straw.placed_s
    assert second_s - first_s >= 100
    assert 400 < len(straw.placed_s) < 600


@contextmanager
def short_pauses(
    monkeypatch: pytest.MonkeyPatch, program: tuple[str, ...]
) -> Iterator[list[structlog.typing.EventDict]]:
    """Run this program instead, again at once; gives the log lines."""
    monkeypatch.setattr(demo_process, "PROGRAM", program)
    monkeypatch.setattr(demo_process, "PAUSE_S", 0.01)
    with structlog.testing.capture_logs() as said:
        yield said


async def keep_until(is_enough: Callable[[], bool], **environ: str) -> None:
    """Keep demo traders until that is so."""
    settings = load_settings(overrides={"auth.secret": SECRET.decode()}, environ=environ)
    with trio.fail_after(BACK_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(keep_demo_traders, settings, "http://127.0.0.1:1")
            # What is waited for is another process's doing, of which no event tells.
            while not is_enough():  # noqa: ASYNC110
                await trio.sleep(0.01)
            nursery.cancel_scope.cancel()


async def test_traders_that_end_are_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whenever the process ends by itself, with or without having read what it was told, there is another one."""
    with short_pauses(monkeypatch, (sys.executable, "-c", "raise SystemExit(3)")) as said:
        await keep_until(lambda: len(said) >= 2)
    assert said[0] == {
        "event": "demo traders ended and are started again",
        "exit_status": 3,
        "log_level": "warning",
    }


async def test_traders_that_cannot_be_started_do_no_harm(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that cannot be started is said, and tried again."""
    with short_pauses(monkeypatch, ("/nowhere/program",)) as said:
        await keep_until(lambda: len(said) >= 2)
    assert {line["event"] for line in said} == {"demo traders cannot be started"}


async def test_traders_get_newer_tokens_and_no_secret(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The process is told everything by standard input, new tokens in time, and nothing of the engine's secret."""
    heard = tmp_path / "heard"
    script = (
        "import os, sys\n"
        f"heard = open({str(heard)!r}, 'ab', buffering=0)\n"
        "for line in sys.stdin.buffer:\n"
        "    heard.write(line)\n"
        "assert not [name for name in os.environ if name.startswith('TRADEENGINE')]\n"
        "heard.write(b'end')\n"
    )
    monkeypatch.setenv("TRADEENGINE_AUTH_SECRET", SECRET.decode())
    heard.touch()
    with short_pauses(monkeypatch, (sys.executable, "-c", script)):
        await keep_until(lambda: heard.read_bytes().count(b"\n") >= 4, TRADEENGINE_AUTH_TOKEN_LIFETIME_S="1")
    *lines, end = heard.read_bytes().split(b"\n")
    assert end == b"end"
    told = [msgspec.json.decode(line, type=Told) for line in lines]
    assert {len(line.tokens) for line in told} == {load_settings(environ={}).demo.traders}
    assert len({line.tokens[0] for line in told}) > 1
    assert SECRET not in heard.read_bytes()


async def test_traders_whom_the_engine_refuses_say_so_in_one_line() -> None:
    """A refusal that trying again would not mend ends the process, with status 1 and one line that says why."""
    async with http_server((403, failure("FORBIDDEN"))) as server:
        told = Told(server.url, ["a.b.c"], 1.0, "", Log(level="info", debug=(), access=False, format="json"))
        process = await trio.lowlevel.open_process(demo_process.PROGRAM, stdin=subprocess.PIPE, stderr=subprocess.PIPE)
        assert process.stdin is not None
        assert process.stderr is not None
        async with process.stdin, process.stderr:
            with trio.fail_after(BACK_S):
                await process.stdin.send_all(msgspec.json.encode(told) + b"\n")
                said = b"".join([part async for part in process.stderr])
                assert await process.wait() == 1
        (line,) = said.splitlines()
        assert json.loads(line)["error"] == "FORBIDDEN: no"


@pytest.mark.parametrize("given", [b"", b'{"url":'])
async def test_traders_who_are_told_nothing_end_at_once(given: bytes) -> None:
    """When standard input ends before anything was said, so does the process, without a word."""
    with trio.fail_after(BACK_S):
        ended = await trio.run_process(demo_process.PROGRAM, stdin=given, capture_stderr=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, b"")
