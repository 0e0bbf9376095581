"""More is asked of a front than it can answer, in all shapes at once: every answer is whole and its own request's.

What was answered as placed is in PostgreSQL, and what was refused is not; operators are answered meanwhile; afterwards
nothing of the crowd is left in the front. A stop in the middle of it cuts no answer.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import httpx2
import pytest
import trio
from tests.e2e.users import connect_database
from tests.engines import Engine, running_engine
from tests.security.crowd import Crowd
from tests.security.test_floods import resident_bytes
from tests.web.test_server import make_certificate

CONNECTIONS: Final = 60
USER: Final = "crowd"
GROWTH_BYTES_MAX: Final = 96 << 20
SMALL_FRONT: Final = {
    "TRADEENGINE_HTTP_WORK_REQUESTS_MAX": "16",
    "TRADEENGINE_HTTP_TRUSTED_PROXIES": "127.0.0.1",
    "TRADEENGINE_REQUESTS_USER_PER_S": "0",
    "TRADEENGINE_REQUESTS_ADDRESS_PER_S": "0",
}


@contextmanager
def crowded_engine(folder: Path, *, tls: bool) -> Iterator[tuple[Engine, ssl.SSLContext | None]]:
    """Run an engine with one front that has little room."""
    environment, context = dict(SMALL_FRONT), None
    if tls:
        certificate, key = make_certificate(folder)
        environment |= {"TRADEENGINE_HTTP_TLS_CERTIFICATE": str(certificate), "TRADEENGINE_HTTP_TLS_KEY": str(key)}
        context = ssl.create_default_context(cafile=str(certificate))
    with running_engine(folder / "data", environment=environment) as engine:
        engine.deposit(USER, "USDT", "1000000")
        yield engine, context


def token_of(engine: Engine) -> str:
    """Make the crowd's token."""
    with engine.client(USER) as client:
        return str(client.headers["Authorization"].removeprefix("Bearer "))


def watch_operators(engine: Engine, context: ssl.SSLContext | None, seconds: float) -> int:
    """Ask as operators do, again and again; returns how often. Each must be answered."""
    count, end_s = 0, time.monotonic() + seconds
    url = engine.url.replace("127.0.0.1", "localhost") if context else engine.url
    with httpx2.Client(base_url=url, timeout=20, verify=context or True, trust_env=False) as client:
        while time.monotonic() < end_s:
            for path in ("/health", "/metrics"):
                assert client.get(path).status_code == 200
                count += 1
    return count


def requests_in_work(engine: Engine, context: ssl.SSLContext | None) -> int:
    """Say how many requests the front has in work or in its lanes, as it showed half a second ago."""
    url = engine.url.replace("127.0.0.1", "localhost") if context else engine.url
    text = httpx2.get(f"{url}/metrics", timeout=20, verify=context or True, trust_env=False).text
    (line,) = [line for line in text.splitlines() if line.startswith("tradeengine_front_requests_in_work{")]
    return int(float(line.split()[-1]))


def orders_named(engine: Engine) -> set[str]:
    """Read which client order ids PostgreSQL has."""
    with connect_database(engine) as connection:
        return {name for (name,) in connection.execute("SELECT client_order_id FROM orders")}


def run_crowd(folder: Path, seed: int, seconds: float, *, tls: bool) -> Crowd:
    """Let a crowd ask, and look at everything afterwards."""
    with crowded_engine(folder, tls=tls) as (engine, context):
        crowd = Crowd(engine.url, seed, token_of(engine), context)
        before = resident_bytes(engine)

        async def ask() -> None:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(crowd.ask, CONNECTIONS, seconds)
                assert await trio.to_thread.run_sync(watch_operators, engine, context, seconds) > 0

        trio.run(ask)
        assert crowd.wrong == []
        deadline_s = time.monotonic() + 20
        while requests_in_work(engine, context) or crowd.placed - orders_named(engine):
            assert time.monotonic() < deadline_s, "something of the crowd is left, or an order is not settled"
            time.sleep(0.1)
        assert not crowd.refused & orders_named(engine)
        assert resident_bytes(engine) - before < GROWTH_BYTES_MAX
        assert not [line for line in engine.errors if "Traceback" in line or "fault" in line], "".join(engine.errors)
    return crowd


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.long
def test_every_answer_is_its_own_requests(tmp_path: Path, tls: bool) -> None:
    """Whatever shape requests have and however many are refused: each is answered once, in its turn, and truly."""
    crowd = run_crowd(tmp_path, 1, 3.0, tls=tls)
    assert crowd.placed
    assert crowd.statuses[503] > 0
    assert crowd.statuses[200] > 0


@pytest.mark.long
@pytest.mark.timeout(400)
@pytest.mark.parametrize("seed", [2, 3])
@pytest.mark.parametrize("tls", [False, True])
def test_every_answer_of_a_long_crowd_is_its_own_requests(tmp_path: Path, tls: bool, seed: int) -> None:
    """The same for a minute each."""
    assert run_crowd(tmp_path, seed, 60.0, tls=tls).statuses[503] > 100


@pytest.mark.long
@pytest.mark.parametrize("tls", [False, True])
def test_stop_under_a_crowd_cuts_no_answer(tmp_path: Path, tls: bool) -> None:
    """An engine that is told to stop while all ask ends in peace: answers that went out are whole, and true."""
    with crowded_engine(tmp_path, tls=tls) as (engine, context):
        crowd = Crowd(engine.url, 4, token_of(engine), context)

        async def ask() -> None:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(crowd.ask, CONNECTIONS, 30.0)
                await crowd.answered(500)
                crowd.is_ending = True
                assert await trio.to_thread.run_sync(engine.stop) == 0

        trio.run(ask)
        assert crowd.wrong == []
        assert not [line for line in engine.errors if "Traceback" in line or "fault" in line], "".join(engine.errors)
        with running_engine(engine.data_dir, environment=SMALL_FRONT) as again:
            names = orders_named(again)
        assert not crowd.placed - names
        assert not crowd.refused & names
