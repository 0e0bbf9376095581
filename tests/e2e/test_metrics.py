"""Metrics against what a known run did: counts are equal, not just there, also after a kill."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from urllib.parse import urlsplit

import httpx2
import numpy as np
import pytest
import trio
from tests.e2e.scrapes import Scrape, expect_growth, scrape
from tests.e2e.users import User, make_user
from tests.engines import Engine, running_engine, wait_restarted
from tests.web.raw_websocket import connected

from tradeengine.core.records import CommandKind, command_dtype
from tradeengine.ipc.client import LocalClient, open_client
from tradeengine.settings_files import load_settings

FUNDS = {"USDT": "1000000", "BTC": "10", "ETH": "100"}
BTC, ETH = "BTC/USDT", "ETH/USDT"


@pytest.fixture(scope="module")
def counted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """Run an engine in which nobody but these stories does anything."""
    with running_engine(tmp_path_factory.mktemp("counted"), ["--fronts", "2", "--shards", "2"]) as running:
        yield running


@pytest.fixture(scope="module")
def alice(counted: Engine) -> Iterator[User]:
    """Give a rich user."""
    user = make_user(counted, "alice", FUNDS)
    yield user
    user.http.close()


@pytest.fixture(scope="module")
def bob(counted: Engine) -> Iterator[User]:
    """Give another."""
    user = make_user(counted, "bob", FUNDS)
    yield user
    user.http.close()


def trade(alice: User, bob: User, count: int, symbol: str = BTC) -> None:
    """Let Alice bid and Bob hit it, so many times: two commands, three events and a trade each."""
    for _ in range(count):
        alice.place(symbol=symbol, quantity="0.01", price="1000")
        assert bob.place(symbol=symbol, side="sell", quantity="0.01", price="1000")["trades"]


def test_trading_is_counted_to_the_unit(counted: Engine, alice: User, bob: User) -> None:
    """Commands, orders, events, trades, refusals, rejections, settlement and requests are as many as were made."""
    before = scrape(counted)
    trade(alice, bob, 3)
    resting = alice.place(symbol=ETH, quantity="1", price="100", client_order_id="m:1")["order"]
    alice.place(200, symbol=ETH, quantity="1", price="100", client_order_id="m:1")  # a repeat
    alice.place(409, symbol=ETH, quantity="2", price="100", client_order_id="m:1")
    alice.place(422, symbol=ETH, quantity="1000", price="1000000")
    bob.place(422, symbol=ETH, side="sell", quantity="1", price="100", post_only=True)
    bob.place(422, symbol=ETH, side="sell", quantity="2", price="100", time_in_force="fok")
    alice.call("DELETE", f"/orders/{resting['id']}")
    alice.call("DELETE", f"/orders/{resting['id']}", 409)
    alice.place(400, symbol=ETH, quantity="1", price="0")
    expect_growth(
        counted,
        before,
        {
            # Six orders of the trades, and eight others; the last was never sent.
            "tradeengine_front_orders_sent_total": 14,
            "tradeengine_actor_records_out_total role=front": 14,
            "tradeengine_risk_commands_total": 14,
            "tradeengine_risk_repeated_total": 1,
            "tradeengine_risk_refusals_total": 3,
            "tradeengine_risk_refusals_total reason=order_not_found": 1,
            "tradeengine_risk_refusals_total reason=client_order_id_reused": 1,
            "tradeengine_risk_refusals_total reason=insufficient_balance": 1,
            "tradeengine_risk_forwarded_total": 10,
            "tradeengine_matcher_commands_total": 10,
            "tradeengine_actor_records_in_total role=matcher": 10,
            "tradeengine_matcher_trades_total": 3,
            "tradeengine_matcher_orders_placed_total": 9,
            "tradeengine_matcher_rejections_total": 2,
            "tradeengine_matcher_rejections_total reason=post_only_would_match": 1,
            "tradeengine_matcher_rejections_total reason=fok_not_filled": 1,
            "tradeengine_settlement_trades_total": 3,
            "tradeengine_settlement_fundings_total": 0,
            "tradeengine_http_requests_total method=POST code=201 route=/api/v1/orders": 7,
            "tradeengine_http_requests_total method=POST code=200 route=/api/v1/orders": 1,
            "tradeengine_http_requests_total method=POST code=409 route=/api/v1/orders": 1,
            "tradeengine_http_requests_total method=POST code=422 route=/api/v1/orders": 3,
            "tradeengine_http_requests_total method=POST code=400 route=/api/v1/orders": 1,
            "tradeengine_http_requests_total route=/api/v1/orders/{order_id} method=DELETE": 2,
            "tradeengine_http_requests_total route=/api/v1/orders/{order_id} method=DELETE code=409": 1,
            "tradeengine_http_request_seconds_count route=/api/v1/orders": 13,
            "tradeengine_http_refusals_total": 6,
            "tradeengine_http_refusals_total error=FOK_NOT_FILLED": 1,
            "tradeengine_http_refusals_total error=ORDER_NOT_OPEN": 1,
            "tradeengine_front_errors_total": 0,
            "tradeengine_actor_log_lines_total": 0,
        },
    )


def test_all_that_matchers_publish_is_settled_and_followed(counted: Engine, alice: User, bob: User) -> None:
    """Events are as many at the matchers and risk, which write them, as at settlement and the publisher."""
    before = scrape(counted)
    trade(alice, bob, 2)
    # An order that rests, one that trades, and their trade: a command's events are one or two.
    expect_growth(
        counted,
        before,
        {
            "tradeengine_matcher_events_total": 6,
            "tradeengine_actor_records_out_total role=matcher": 6,
            "tradeengine_settlement_events_total": 6,
            "tradeengine_publisher_events_total": 6,
            "tradeengine_risk_events_total": 6,
            "tradeengine_actor_records_in_total role=settlement": 6,
            "tradeengine_actor_records_in_total role=risk": 10,
            "tradeengine_ring_records_total": 4 + 4 + 6,
        },
    )
    after = scrape(counted)
    assert after.sum("tradeengine_ring_lag_records") == 0
    assert after.sum("tradeengine_settlement_lag_seconds") == 0
    assert after.sum("tradeengine_settlement_backlog_events") == 0


def test_money_is_counted(counted: Engine) -> None:
    """A deposit and a withdrawal are one command each to risk, and funded and settled once, however often asked for."""
    before = scrape(counted)
    reference = secrets.token_hex(8)
    with counted.client("root", "admin") as admin:
        for kind in ("deposits", "deposits", "withdrawals"):
            body = {"user": "carol", "asset": "BTC", "amount": "1", "reference": f"{kind}-{reference}"}
            assert admin.post(f"/admin/{kind}", json=body).status_code in {200, 202}
    expect_growth(
        counted,
        before,
        {
            "tradeengine_risk_funded_total": 2,
            "tradeengine_risk_commands_total": 2,
            "tradeengine_risk_forwarded_total": 0,
            "tradeengine_settlement_fundings_total": 2,
            "tradeengine_settlement_postings_total": 4,
            "tradeengine_actor_records_out_total role=settlement": 2,
            "tradeengine_http_requests_total route=/api/v1/admin/deposits method=POST": 2,
            "tradeengine_http_requests_total route=/api/v1/admin/withdrawals method=POST": 1,
        },
    )


def test_commands_of_a_local_client_are_counted(counted: Engine) -> None:
    """What comes over a ring of its own is counted as what comes over HTTP, and its ring says how much that was."""
    before = scrape(counted)
    with open_client(counted.data_dir) as wiring:
        client = LocalClient(wiring)
        commands = np.zeros(500, command_dtype)
        commands["kind"] = CommandKind.CANCEL
        commands["account_id"] = 16
        commands["order_id"] = 1
        client.submit(commands)
        expect_growth(
            counted,
            before,
            {
                "tradeengine_risk_commands_total": 500,
                "tradeengine_risk_refusals_total reason=order_not_found": 500,
                "tradeengine_risk_forwarded_total": 0,
                f"tradeengine_ring_records_total ring={wiring.ingress_name}": 500,
                "tradeengine_ring_records_total ring=refusals": 500,
                "tradeengine_settlement_events_total": 0,
            },
        )


def test_queries_are_counted(counted: Engine, alice: User) -> None:
    """Each question to the database is counted with how long it waited for a connection, and the pool is told."""
    before = scrape(counted)
    for _ in range(5):
        alice.call("GET", "/orders")
    expect_growth(
        counted,
        before,
        {
            "tradeengine_front_query_latency_seconds_count": 5,
            "tradeengine_front_pool_wait_seconds_count": 5,
            "tradeengine_front_pool_failures_total": 0,
            "tradeengine_front_pool_size": 0,
            "tradeengine_front_pool_in_use": 0,
            "tradeengine_front_pool_waiting": 0,
        },
    )
    assert scrape(counted).sum("tradeengine_front_pool_size") == 2 * load_settings().database.pool_size
    assert scrape(counted).sum("tradeengine_front_pool_connects_total") >= 1


async def test_streams_are_counted(counted: Engine, alice: User, bob: User) -> None:
    """Clients of streams are counted as they come and go, and every message that was passed to one."""
    before = await trio.to_thread.run_sync(scrape, counted)
    async with connected(counted.url) as socket:
        await socket.ask("subscribe", channels=[f"trades:{BTC}"])
        await trio.to_thread.run_sync(trade, alice, bob, 3)
        for _ in range(3):
            await socket.next("trade_executed")
        await trio.to_thread.run_sync(
            expect_growth,
            counted,
            before,
            {
                "tradeengine_front_stream_opened_total": 1,
                "tradeengine_front_stream_clients": 1,
                "tradeengine_front_stream_channels": 1,
                "tradeengine_front_stream_messages_total": 3,
                "tradeengine_front_stream_closed_total": 0,
            },
        )
    await trio.to_thread.run_sync(
        expect_growth,
        counted,
        before,
        {
            "tradeengine_front_stream_closed_total": 1,
            "tradeengine_front_stream_closed_total code=gone": 1,
            "tradeengine_front_stream_clients": 0,
            "tradeengine_front_stream_channels": 0,
        },
    )


def test_no_client_makes_a_label(counted: Engine) -> None:
    """Whatever paths, symbols, ids, methods and bytes a client sends: labels are the routes', and as many as before."""
    known = scrape(counted)
    routes = known.labels("tradeengine_http_requests_total", "route")
    with counted.client("mallory") as client:
        for _ in range(20):
            name = secrets.token_hex(6)
            client.get(f"/{name}")
            client.get(f"/orderbook/{name}")
            client.get(f"/orders/{name}")
            client.request(f"X{name.upper()}", "/orders")
    address = urlsplit(counted.url)
    with socket.create_connection((address.hostname, address.port), timeout=20) as connection:
        connection.sendall(b"this is no request\r\n\r\n")
        while connection.recv(65536):
            pass
    expect_growth(
        counted,
        known,
        {
            "tradeengine_http_requests_total route=unknown method=GET code=404": 20,
            "tradeengine_http_requests_total route=unknown method=unknown": 20,
            "tradeengine_http_requests_total route=/api/v1/orderbook/{symbol} code=404": 20,
            "tradeengine_http_requests_total route=/api/v1/orders/{order_id} method=GET": 20,
            "tradeengine_front_requests_malformed_total": 1,
            "tradeengine_front_connections_refused_total": 0,
        },
    )
    after = scrape(counted)
    made = after.labels("tradeengine_http_requests_total", "route") - routes
    assert made <= {"unknown", "/api/v1/orderbook/{symbol}", "/api/v1/orders/{order_id}"}
    assert after.labels("tradeengine_http_requests_total", "method") <= {"GET", "POST", "DELETE", "unknown", "other"}


def test_settlement_that_stands_still_is_told(counted: Engine, alice: User) -> None:
    """How long settlement is behind is right also while it does nothing at all: its own page says nothing then."""
    with counted.standing_still("settlement"):
        order = alice.place(symbol=ETH, quantity="1", price="100")["order"]
        first = scrape(counted).sum("tradeengine_settlement_lag_seconds")
        assert 0 < first < scrape(counted).sum("tradeengine_settlement_lag_seconds")
        assert scrape(counted).sum("tradeengine_ring_lag_records", reader="settlement") > 0
    alice.call("DELETE", f"/orders/{order['id']}")
    before = Scrape({})
    expect_growth(counted, before, {"tradeengine_settlement_lag_seconds": 0, "tradeengine_ring_lag_records": 0})


def test_counters_go_on_after_a_kill(counted: Engine, alice: User, bob: User) -> None:
    """Actors that were killed count on where they were, and their restarts are told."""
    before = scrape(counted)
    trade(alice, bob, 2)
    counts = {
        "tradeengine_risk_commands_total": 4,
        "tradeengine_matcher_commands_total": 4,
        "tradeengine_matcher_trades_total": 2,
        "tradeengine_settlement_trades_total": 2,
        "tradeengine_settlement_events_total": 6,
        "tradeengine_publisher_events_total": 6,
        "tradeengine_http_requests_total route=/api/v1/orders": 4,
    }
    expect_growth(counted, before, counts)
    killed = ("risk", "matcher-0", "matcher-1", "settlement", "publisher", "front-0")
    for name in killed:
        pid = counted.actors()[name]
        os.kill(pid, signal.SIGKILL)
        wait_restarted(counted, name, pid)
    expect_growth(
        counted, before, {**counts, **{f"tradeengine_actor_restarts_total actor={name}": 1 for name in killed}}
    )
    with counted.client(alice.name) as http, counted.client(bob.name) as other:
        trade(User(alice.name, http), User(bob.name, other), 3)
    expect_growth(counted, before, {name: count / 2 * 5 for name, count in counts.items()})


def test_machine_and_processes_are_looked_at(counted: Engine) -> None:
    """Disk, clock, build, and each process's time and memory are told; the disk's numbers are the file system's."""
    seen = scrape(counted)
    disk = os.statvfs(counted.data_dir)
    assert seen.sum("tradeengine_operator_disk_size_bytes") == disk.f_blocks * disk.f_frsize
    assert 0 < seen.sum("tradeengine_operator_disk_free_bytes") <= disk.f_blocks * disk.f_frsize
    assert seen.sum("tradeengine_operator_disk_low_water_bytes") > 0
    assert seen.sum("tradeengine_operator_clock_steps_total") == 0
    assert seen.sum("tradeengine_build_info") == 1
    for actor in (*counted.actors(), "operator", "database"):
        assert seen.sum("tradeengine_process_cpu_seconds_total", actor=actor) > 0
        assert seen.sum("tradeengine_process_resident_memory_bytes", actor=actor) > 1 << 20
        assert actor == "database" or seen.sum("tradeengine_actor_busy_seconds_total", actor=actor) >= 0
    for role in ("risk", "matcher", "settlement", "publisher", "front", "operator"):
        assert seen.sum("tradeengine_actor_busy_seconds_total", role=role) > 0


def test_promtool_finds_nothing(counted: Engine) -> None:
    """Prometheus' own tool has nothing to say against names, types and help texts."""
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed")
    text = httpx2.get(f"{counted.url}/metrics", timeout=20).content
    found = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True, timeout=60, check=False)
    assert (found.returncode, found.stdout, found.stderr) == (0, b"", b"")


def test_every_family_has_a_sentence_and_a_unit(counted: Engine) -> None:
    """Each family has a help text, and what is measured in something says so by the end of its name, in base units."""
    text = httpx2.get(f"{counted.url}/metrics", timeout=20).text
    for name, sentence in re.findall(r"^# HELP (\S+) (.*)$", text, re.MULTILINE):
        assert re.fullmatch(r"[A-Z1].*\.", sentence), name
        assert not re.search(r"_(us|ms|ns|s|kb|mb)(_total)?$", name)
        if "econds" in sentence.partition(" ")[0]:
            assert "_seconds" in name
