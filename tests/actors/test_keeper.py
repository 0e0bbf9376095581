"""The keeper in a whole engine: what it makes, drops and stores, and that nobody minds when it cannot."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.engines import READY_TIMEOUT_S, Engine, database_away, running_engine
from tests.storage.rows import insert_order, insert_trade

from tradeengine.core.ids import first_id_at
from tradeengine.ipc.client import ask
from tradeengine.storage.partitions import Partitions

ENVIRONMENT = {
    "TRADEENGINE_KEEPER_PARTITION_MONTHS_AHEAD": "12",
    "TRADEENGINE_KEEPER_PARTITION_DAYS_AHEAD": "30",
    "TRADEENGINE_KEEPER_RETAIN_ORDERS_MONTHS": "1",
    "TRADEENGINE_KEEPER_RETAIN_TRADES_DAYS": "1",
    "TRADEENGINE_KEEPER_DEPTH_SNAPSHOT_INTERVAL_S": "0.05",
    "TRADEENGINE_KEEPER_DEPTH_SNAPSHOT_LEVELS": "2",
}
OLD_MS = int(dt.datetime(2025, 3, 5, tzinfo=dt.UTC).timestamp()) * 1000


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """Give an engine whose keeper may be harmed."""
    with running_engine(tmp_path_factory.mktemp("keeper"), environment=ENVIRONMENT) as running:
        yield running


@pytest.fixture
def database(kept: Engine) -> Iterator[psycopg.Connection[Any]]:
    """Connect to the engine's database, in autocommit."""
    with psycopg.connect(kept.dsn, autocommit=True) as connection:
        yield connection


def wait_until(condition: Callable[[], bool], engine: Engine) -> None:
    """Wait for what another process will bring about; no bell of the test's rings for it."""
    deadline_s = time.monotonic() + READY_TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline_s, f"it did not happen; the engine said:\n{''.join(engine.errors)}"
        time.sleep(0.02)


def partition_names(database: psycopg.Connection[Any]) -> set[str]:
    """Names of all partitions."""
    return {name for (name,) in database.execute("SELECT inhrelid::regclass::text FROM pg_inherits")}


def metric(engine: Engine, name: str) -> float:
    """Read one of the keeper's metrics."""
    with engine.client() as client:
        families = text_string_to_metric_families(client.get(f"{engine.url}/metrics").text)
    samples = {sample.name: sample.value for family in families for sample in family.samples}
    return samples[f"tradeengine_keeper_{name}"]


def keeper_status(engine: Engine) -> dict[str, Any]:
    """Ask the supervisor how the keeper is."""
    actors: list[dict[str, Any]] = ask(engine.data_dir, "status")["actors"]
    return next(actor for actor in actors if actor["name"] == "keeper")


def start_anew(engine: Engine) -> None:
    """Kill the keeper; the next one begins with a round of maintenance."""
    restarts = keeper_status(engine)["restart_count"]
    engine.kill_actor("keeper")
    wait_until(
        lambda: (status := keeper_status(engine))["restart_count"] > restarts and status["state"] == "ready", engine
    )


def make_old_partitions(database: psycopg.Connection[Any]) -> None:
    """Make partitions of a past month and day."""
    partitions = Partitions(database)
    for table in ("orders", "postings", "trades"):
        partitions.cover(table, first_id_at(OLD_MS), first_id_at(OLD_MS))


def place(engine: Engine, symbol: str, **order: str) -> str:
    """Place an order of a demo trader; returns its id when history has it."""
    body = {"symbol": symbol, "side": "buy", "type": "limit", "quantity": "1", "price": "1000.00"} | order
    with engine.client("demo-1") as client:
        answer = client.post("/orders", json=body)
        assert answer.status_code == 201, answer.text
        order_id = str(answer.json()["data"]["order"]["id"])
        assert client.get(f"/orders/{order_id}").status_code == 200
        assert client.get(f"/orders?symbol={symbol}").json()["data"][0]["id"] == order_id
    return order_id


def test_a_year_of_months_and_a_month_of_days_are_there(kept: Engine, database: psycopg.Connection[Any]) -> None:
    """Soon after the start there are partitions for this month and 12 more, and for today and 30 days more."""

    def expected() -> set[str]:
        today = dt.datetime.now(dt.UTC).date()
        days = {f"trades_{today + dt.timedelta(days=day):%Y_%m_%d}" for day in range(31)}
        months = [divmod(today.year * 12 + today.month - 1 + month, 12) for month in range(13)]
        return days | {f"{table}_{y}_{m + 1:02}" for y, m in months for table in ("orders", "postings")}

    wait_until(lambda: expected() <= partition_names(database), kept)
    wait_until(lambda: metric(kept, "maintenance_done_timestamp_seconds") > 0, kept)
    assert metric(kept, "partitions_made_total") >= len(expected()) - 3


def test_killed_keeper_comes_back_and_drops_what_is_old(kept: Engine, database: psycopg.Connection[Any]) -> None:
    """A new keeper drops old orders and trades; postings stay, and so does a month with a live order."""
    make_old_partitions(database)
    insert_trade(database, OLD_MS)
    place(kept, "LINK/USDT", price="10.00")
    dropped_before = metric(kept, "partitions_dropped_total")
    start_anew(kept)
    wait_until(lambda: not {"orders_2025_03", "trades_2025_03_05"} & partition_names(database), kept)
    assert "postings_2025_03" in partition_names(database)
    wait_until(lambda: metric(kept, "partitions_dropped_total") == dropped_before + 2, kept)
    make_old_partitions(database)
    live = insert_order(database, OLD_MS, live=True)
    start_anew(kept)
    wait_until(lambda: "trades_2025_03_05" not in partition_names(database), kept)
    wait_until(lambda: metric(kept, "partitions_kept") == 1, kept)
    assert database.execute("SELECT count(*) FROM orders WHERE id = %s", (live,)).fetchone() == (1,)
    database.execute("DELETE FROM orders WHERE id = %s", (live,))


@pytest.mark.long
def test_table_in_use_is_tried_again_and_settlement_goes_on(kept: Engine, database: psycopg.Connection[Any]) -> None:
    """While someone reads the trades for long, orders are placed and settled; when that ends the old day goes."""
    make_old_partitions(database)
    with psycopg.connect(kept.dsn) as reader:
        reader.execute("SELECT count(*) FROM trades")  # its locks last until the transaction ends
        start_anew(kept)
        before = metric(kept, "lock_timeouts_total")
        wait_until(lambda: metric(kept, "lock_timeouts_total") >= before + 2, kept)
        place(kept, "LTC/USDT", price="50.00")
        assert "trades_2025_03_05" in partition_names(database)
        assert keeper_status(kept)["state"] == "ready"
    wait_until(lambda: "trades_2025_03_05" not in partition_names(database), kept)


def test_database_that_refuses_the_keeper_disturbs_nobody(kept: Engine) -> None:
    """Refused by its database the keeper says so and tries again; orders are placed, /ready says ready, it is back."""
    with psycopg.connect(kept.dsn) as connection:
        name = connection.info.dbname
        other = psycopg.conninfo.make_conninfo(kept.dsn, dbname="postgres")
    with kept.client() as client, psycopg.connect(other, autocommit=True) as administrator:
        # The front has its connections already, as settlement has.
        place(kept, "ETH/USDT", price="900.00")
        administrator.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        wait_until(lambda: keeper_status(kept)["state"] == "blocked", kept)
        assert "not currently accepting connections" in keeper_status(kept)["message"]
        assert metric(kept, "errors_total") > 0
        place(kept, "ETH/USDT", price="901.00")
        assert client.get(f"{kept.url}/ready").json()["data"] == {"status": "ready", "degraded": []}
        administrator.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
        wait_until(lambda: keeper_status(kept)["state"] == "ready", kept)
    assert keeper_status(kept)["message"] == ""


def test_database_away_and_back(kept: Engine) -> None:
    """While PostgreSQL is down the keeper lives and says so; when it is back the same process goes on."""
    pid = kept.actors()["keeper"]
    with database_away(kept):
        wait_until(lambda: keeper_status(kept)["state"] == "blocked", kept)
    rounds = metric(kept, "depth_latency_seconds_count")
    wait_until(lambda: keeper_status(kept)["state"] == "ready", kept)
    wait_until(lambda: metric(kept, "depth_latency_seconds_count") > rounds, kept)
    assert kept.actors()["keeper"] == pid


def test_depth_is_stored_when_it_changed_and_found_by_time(kept: Engine, database: psycopg.Connection[Any]) -> None:
    """A book that changed is stored, and found at its time and after it; an unchanged one is not stored again."""
    with kept.client() as client:

        def stored(query: str = "") -> dict[str, Any]:
            body = client.get(f"/snapshots/SOL-USDT{query}").json()
            return body["data"] if body["success"] else body["error"]  # type: ignore[no-any-return]

        def wait_stored() -> dict[str, Any]:
            sequence = client.get("/orderbook/SOL-USDT").json()["data"]["sequence"]
            wait_until(lambda: stored().get("sequence", -1) >= sequence, kept)
            return stored()

        place(kept, "SOL/USDT", price="100.00", quantity="3")
        first = wait_stored()
        assert (first["bids"], first["asks"]) == ([["100.00", "3.000"]], [])
        for price in ("101.00", "102.00"):
            place(kept, "SOL/USDT", price=price)
        second = wait_stored()
        assert second["bids"] == [["102.00", "1.000"], ["101.00", "1.000"]]
        assert first["time"] < second["time"]
        assert stored(f"?time={first['time']}") == first
        assert stored(f"?time={second['time']}") == second
        assert stored("?time=2024-01-01T00:00:00Z")["code"] == "NOT_FOUND"
        count = "SELECT count(*) FROM depth_snapshots JOIN symbols ON symbols.id = symbol_id WHERE name = 'SOL/USDT'"
        rows = database.execute(count).fetchone()
        rounds = metric(kept, "depth_latency_seconds_count")
        wait_until(lambda: metric(kept, "depth_latency_seconds_count") >= rounds + 3, kept)
        assert database.execute(count).fetchone() == rows
        assert stored() == second
