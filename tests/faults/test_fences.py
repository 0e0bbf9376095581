"""A shard that cannot be recovered is fenced: its symbols say so, everything else trades, and somebody is told."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import httpx2
import pytest
from tests.e2e.users import Json, User, make_user, sign_in
from tests.engines import READY_TIMEOUT_S, Engine, running_engine
from tests.faults.test_kill_under_load import kill_everything
from tests.verified import assert_verified

from tradeengine.ipc.client import ask
from tradeengine.storage.journal_format import GROUP_HEADER_BYTES, SEGMENT_HEADER_BYTES

TWO_SHARDS: Final = ("--shards", "2")
OPEN, FENCED = "BTC/USDT", "ETH/USDT"
"""One symbol of each shard, as ``config/symbols.toml`` lays them out."""
FUNDS: Final = {"USDT": "100000", "BTC": "5", "ETH": "50"}
COMMANDS_SLOTS: Final = 64


def bid(symbol: str, price: str = "100.00") -> Json:
    """Make a bid that rests."""
    return {"symbol": symbol, "side": "buy", "type": "limit", "quantity": "0.5", "price": price}


def damage(data_dir: Path, shard: int) -> Path:
    """Flip a bit in the first of several groups of a shard's journal, and take its snapshots away; gives the file."""
    (segment, *_) = sorted((data_dir / "journal" / f"shard-{shard}").glob("*.journal"))
    content = bytearray(segment.read_bytes())
    content[SEGMENT_HEADER_BYTES + GROUP_HEADER_BYTES + 20] ^= 1
    segment.write_bytes(content)
    shutil.rmtree(data_dir / "snapshots" / f"shard-{shard}", ignore_errors=True)
    return segment


def readiness(engine: Engine) -> tuple[int, Json]:
    """Ask whether orders are accepted; gives the status and what is said."""
    answer = httpx2.get(f"{engine.url}/ready", timeout=5)
    said: Json = answer.json()
    return answer.status_code, said.get("data") or said["error"]["details"]


def wait_fenced(engine: Engine, name: str = "matcher-1") -> str:
    """Wait until a matcher is given up; gives what is said of it."""
    deadline_s = time.monotonic() + READY_TIMEOUT_S
    while True:
        actors: list[dict[str, Any]] = ask(engine.data_dir, "status")["actors"]
        (actor,) = (actor for actor in actors if actor["name"] == name)
        if actor["state"] in {"blocked", "failed"}:
            return str(actor["message"])
        assert time.monotonic() < deadline_s, actor
        time.sleep(0.02)


def refused(user: User, method: str, path: str, **options: Any) -> Json:
    """Ask for something that is refused with NOT_READY; gives the details.

    For a moment after a matcher was given up risk has not seen it: what comes then has no known outcome.
    """
    answer = user.http.request(method, path, **options)
    if answer.status_code == 504:
        answer = user.http.request(method, path, **options)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "NOT_READY"), answer.text
    assert answer.headers["Retry-After"]
    details: Json = answer.json()["error"]["details"]
    return details


@contextmanager
def story(data_dir: Path) -> Iterator[tuple[User, Json, Json]]:
    """Let a user have a resting order on each of two shards, in an engine that is then stopped."""
    with running_engine(data_dir, TWO_SHARDS) as engine:
        user = make_user(engine, "fenced", FUNDS)
        with user.http:
            resting = [user.place(**bid(symbol))["order"] for symbol in (OPEN, FENCED) for _ in range(2)]
    yield user, resting[0], resting[2]


def check_fence(user: User, open_order: Json, fenced_order: Json) -> None:
    """See that one shard trades and the other says that it does not, whatever is asked."""
    assert user.place(**bid(OPEN))["order"]["status"] == "open"
    refused(user, "POST", "/orders", json=bid(FENCED))
    refused(user, "PATCH", f"/orders/{fenced_order['id']}", json={"quantity": "0.4"})
    refused(user, "DELETE", f"/orders/{fenced_order['id']}")
    refused(user, "DELETE", "/orders", params={"symbol": FENCED})
    refused(user, "GET", f"/orderbook/{FENCED}")
    refused(user, "GET", f"/markets/{FENCED.replace('/', '-')}/ticker")
    status = {row["symbol"]: row["status"] for row in user.call("GET", "/symbols")}
    assert (status[OPEN], status[FENCED]) == ("open", "halted")
    assert user.call("GET", f"/orderbook/{OPEN}")["bids"]
    assert user.order(fenced_order["id"])["status"] == "open"
    assert user.call("DELETE", f"/orders/{open_order['id']}")["order"]["status"] == "cancelled"
    timer = refused(user, "POST", "/orders/cancel-all-after", json={"timeout_ms": 0})
    assert timer["shards"] == [1]
    assert FENCED in timer["pending"]
    all_cancelled = refused(user, "DELETE", "/orders")
    assert all_cancelled["cancelled"] == 2
    assert OPEN not in all_cancelled["pending"]


@contextmanager
def mended(data_dir: Path, name: str) -> Iterator[tuple[Engine, User]]:
    """Put the fenced shard's own journal back, and start the engine; gives it and the user."""
    journal = data_dir / "journal" / "shard-1"
    shutil.rmtree(journal)
    (data_dir / "kept").rename(journal)
    with running_engine(data_dir, TWO_SHARDS) as engine, ExitStack() as stack:
        user = sign_in(engine, name)
        stack.enter_context(user.http)
        yield engine, user


@pytest.mark.long
def test_damaged_shard_is_fenced_at_the_start_and_the_others_trade(data_dir: Path) -> None:
    """An engine of two shards starts with one journal damaged; repaired, the shard is back with all its orders."""
    with story(data_dir) as (user, open_order, fenced_order):
        journal = data_dir / "journal" / "shard-1"
        shutil.copytree(journal, data_dir / "kept")
        segment = damage(data_dir, 1)
        with running_engine(data_dir, TWO_SHARDS) as engine, ExitStack() as stack:
            assert str(segment) in "".join(engine.errors)
            assert str(segment) in wait_fenced(engine)
            status, said = readiness(engine)
            assert (status, said["status"]) == (200, "degraded")
            assert any("matcher-1 is blocked" in sentence for sentence in said["degraded"])
            user = sign_in(engine, user.name)
            stack.enter_context(user.http)
            check_fence(user, open_order, fenced_order)
        with mended(data_dir, user.name) as (engine, user):
            assert readiness(engine)[1]["status"] == "ready"
            assert user.order(fenced_order["id"])["status"] == "open"
            assert len(user.call("GET", f"/orderbook/{FENCED}")["bids"]) == 1
            assert user.call("DELETE", "/orders")["cancelled"] == 2
            assert engine.command("reconcile").returncode == 0


@pytest.mark.long
@pytest.mark.timeout(300)
def test_another_engines_journal_is_fenced_at_the_start(data_dir: Path, tmp_path: Path) -> None:
    """A whole journal of another engine, longer than what is settled here, fences its shard; nothing of it is settled.

    With its own one back the shard has its orders, and everything agrees.
    """
    with running_engine(tmp_path / "other", TWO_SHARDS) as engine:
        stranger = make_user(engine, "stranger", FUNDS)
        with stranger.http:
            for _ in range(9):
                stranger.place(**bid(FENCED))
    with story(data_dir) as (user, open_order, fenced_order):
        journal = data_dir / "journal" / "shard-1"
        journal.rename(data_dir / "kept")
        shutil.copytree(tmp_path / "other" / "journal" / "shard-1", journal)
        with running_engine(data_dir, TWO_SHARDS) as engine, ExitStack() as stack:
            said = wait_fenced(engine)
            assert f"{journal}/" in said
            assert "a segment of another engine" in said
            user = sign_in(engine, user.name)
            stack.enter_context(user.http)
            check_fence(user, open_order, fenced_order)
        with mended(data_dir, user.name) as (engine, user):
            assert user.order(fenced_order["id"])["status"] == "open"
            assert engine.command("reconcile").returncode == 0
            assert_verified(engine, {})


def test_matcher_given_up_is_fenced_and_its_full_ring_stops_nobody(data_dir: Path) -> None:
    """A matcher died too often: nothing for it is taken, and what is for all shards goes to the others all the same."""
    environment = {
        "TRADEENGINE_SUPERVISOR_RESTART_COUNT_MAX": "0",
        "TRADEENGINE_RINGS_COMMANDS_SLOTS": str(COMMANDS_SLOTS),
        "TRADEENGINE_RINGS_RESERVE_SLOTS": "16",
    }
    with running_engine(data_dir, TWO_SHARDS, environment) as engine, ExitStack() as stack:
        user = make_user(engine, "given-up", FUNDS)
        stack.enter_context(user.http)
        orders = [user.place(**bid(symbol))["order"] for symbol in (OPEN, FENCED) for _ in range(2)]
        engine.kill_actor("matcher-1")
        assert "SIGKILL" in wait_fenced(engine)
        for _ in range(COMMANDS_SLOTS + 10):
            refused(user, "POST", "/orders/cancel-all-after", json={"timeout_ms": 0})
        check_fence(user, orders[0], orders[2])


@pytest.mark.long
def test_money_of_a_fenced_shard_is_not_spent_on_another(data_dir: Path) -> None:
    """Orders that only a damaged journal knows keep what they hold, and are there once the journal is mended."""
    with running_engine(data_dir, TWO_SHARDS) as engine:
        user = make_user(engine, "holder", {"USDT": "100"})
        with user.http:
            user.place(**bid(FENCED, "20.00"))
            user.call("GET", "/orders")  # answered once all of it is settled
            os.kill(engine.actors()["settlement"], signal.SIGSTOP)
            unsettled = [user.place(**bid(FENCED, price))["order"] for price in ("20.00", "40.00", "60.00")]
            held = user.balances()["USDT"]
            kill_everything(engine)
    journal = data_dir / "journal" / "shard-1"
    shutil.copytree(journal, data_dir / "kept")
    damage(data_dir, 1)
    with running_engine(data_dir, TWO_SHARDS) as engine:
        user = sign_in(engine, user.name)
        with user.http:
            assert user.balances()["USDT"] == held
            assert user.place(422, **bid(OPEN, "100.00"))["code"] == "INSUFFICIENT_BALANCE"
            repeated = user.http.post(
                "/orders", json={**bid(FENCED), "client_order_id": unsettled[0]["client_order_id"]}
            )
            assert repeated.status_code in {409, 503}
    shutil.rmtree(journal)
    (data_dir / "kept").rename(journal)
    with running_engine(data_dir, TWO_SHARDS) as engine:
        user = sign_in(engine, user.name)
        with user.http:
            assert user.balances()["USDT"] == held
            assert [user.order(order["id"])["status"] for order in unsettled] == ["open"] * 3
        assert engine.command("reconcile").returncode == 0
