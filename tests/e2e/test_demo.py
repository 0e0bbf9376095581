"""``tradeengine up --demo``: traders who are users like all others, as long as the engine runs and no longer."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import pytest
from tests.engines import Engine, is_alive, running_engine, wait_restarted
from tests.web.test_server import make_certificate

from tradeengine.actors.data_dir import read_secret
from tradeengine.cli.demo import PRICES
from tradeengine.web.auth import issue_token

TRADERS = [f"demo-{number}" for number in range(1, 5)]
OFTEN = {"TRADEENGINE_DEMO_ORDERS_PER_S": "300"}
TIMEOUT_S = 60.0
TOKEN_BEGINS = "eyJhbGciOiJIUzI1NiI"
"""As every token does."""


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """Give an engine with demo traders, which says all that it can."""
    environment = {**OFTEN, "TRADEENGINE_LOG_LEVEL": "debug"}
    with running_engine(tmp_path_factory.mktemp("demo"), ["--demo"], environment) as engine:
        yield engine


def wait_until(engine: Engine, is_so: Callable[[], Any]) -> None:
    """Wait until something is so. Calls may fail meanwhile: a front may be on its way back."""
    deadline_s = time.monotonic() + TIMEOUT_S
    while True:
        assert time.monotonic() < deadline_s, f"it never was; the engine said:\n{''.join(engine.errors)}"
        try:
            if is_so():
                return
        except httpx2.TransportError:
            pass
        time.sleep(0.05)


def get(engine: Engine, path: str, user: str | None = None) -> Any:
    """Ask the engine."""
    secret = read_secret(engine.data_dir).encode()
    headers = {} if user is None else {"Authorization": f"Bearer {issue_token(secret, user, 'user', 3600)}"}
    answer = httpx2.get(f"{engine.url}/api/v1{path}", headers=headers, timeout=20, verify=False)
    assert answer.status_code == 200, answer.text
    return answer.json()["data"]


def newest_orders(engine: Engine) -> list[Any]:
    """Give the newest order of each demo trader who has one."""
    return [order for trader in TRADERS for order in get(engine, "/orders?limit=1", trader)]


def trade_on(engine: Engine) -> None:
    """Wait until every demo trader has placed an order after now."""
    seen = {order["id"] for order in newest_orders(engine)}
    wait_until(engine, lambda: len({order["id"] for order in newest_orders(engine)} - seen) == len(TRADERS))


def test_all_symbols_are_traded(demo: Engine) -> None:
    """Soon there are trades, bids and asks in every symbol, near the prices where they began."""

    def is_lively(name: str) -> bool:
        book = get(demo, f"/orderbook/{name.replace('/', '-')}")
        trades = get(demo, f"/trades?symbol={name.replace('/', '-')}")
        assert all(0.9 < float(trade["price"]) / PRICES[name] < 1.1 for trade in trades)
        return len(book["bids"]) > 2 and len(book["asks"]) > 2 and len(trades) > 2

    for name in PRICES:
        wait_until(demo, partial(is_lively, name))


def test_what_rests_ends_by_itself(demo: Engine) -> None:
    """Every open order of a demo trader ends within a minute, without anyone who would cancel it."""
    wait_until(demo, lambda: len(newest_orders(demo)) == len(TRADERS))
    for trader in TRADERS:
        wait_until(demo, partial(get, demo, "/orders?status=open", trader))
        for order in get(demo, "/orders?status=open", trader):
            life = datetime.fromisoformat(order["expires_at"]) - datetime.fromisoformat(order["created_at"])
            assert order["time_in_force"] == "gtd"
            assert life <= timedelta(minutes=1)


def test_nothing_secret_is_shown(demo: Engine) -> None:
    """No command line, no environment and no log line has a token, however much is logged."""
    trade_on(demo)
    process = Path(f"/proc/{demo.demo_traders()}")
    shown = [(process / name).read_bytes().decode() for name in ("cmdline", "environ")]
    assert not [text for text in shown if TOKEN_BEGINS in text or "TRADEENGINE_" in text]
    assert any("actor=demo" in line for line in demo.errors)
    assert not [line for line in demo.errors if TOKEN_BEGINS in line or read_secret(demo.data_dir) in line]


def test_a_killed_front_does_not_end_it(demo: Engine) -> None:
    """When the front dies, the same process connects to the next one and goes on, all traders of it."""
    traders = demo.demo_traders()
    first = demo.actors()["front-0"]
    demo.kill_actor("front-0")
    wait_restarted(demo, "front-0", first)
    trade_on(demo)
    assert demo.demo_traders() == traders


@pytest.mark.long
def test_killed_traders_are_replaced(demo: Engine) -> None:
    """When the traders die, others take their place, and the engine does not care."""
    trade_on(demo)
    traders, actors = demo.demo_traders(), demo.actors()
    assert traders is not None
    os.kill(traders, signal.SIGKILL)
    wait_until(demo, lambda: demo.demo_traders() not in {None, traders})
    trade_on(demo)
    assert demo.actors() == actors


@pytest.mark.long
def test_they_end_with_the_engine(data_dir: Path) -> None:
    """A stop of the engine ends the demo traders first, in order, without a complaint of anyone."""
    with running_engine(data_dir, ["--demo"], OFTEN) as engine:
        trade_on(engine)
        traders = engine.demo_traders()
        assert traders is not None
        assert engine.stop() == 0
        assert not is_alive(traders)
        assert not [line for line in engine.errors if "Traceback" in line or "[warning" in line or "[error" in line]


@pytest.mark.long
def test_they_end_with_a_killed_supervisor(data_dir: Path, tmp_path: Path) -> None:
    """Over TLS, with tokens that had to be renewed, they trade, and end when the supervisor is killed."""
    certificate, key = make_certificate(tmp_path)
    environment = {
        "TRADEENGINE_HTTP_TLS_CERTIFICATE": str(certificate),
        "TRADEENGINE_HTTP_TLS_KEY": str(key),
        "TRADEENGINE_AUTH_TOKEN_LIFETIME_S": "4",
        "TRADEENGINE_AUTH_LEEWAY_S": "0",
    }
    with running_engine(data_dir, ["--demo"], OFTEN | environment) as engine:
        wait_until(engine, lambda: sum("connected again" in line for line in engine.errors) >= len(TRADERS))
        trade_on(engine)
        traders = engine.demo_traders()
        assert traders is not None
        engine.process.kill()
        engine.wait()
        wait_until(engine, lambda: not is_alive(traders))
