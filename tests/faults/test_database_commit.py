"""The connection ends exactly at COMMIT, before the server heard of it or after it did it: every fill settles once."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import psycopg
import pytest
from tests.actors.test_settlement import CAPACITY, PRICE, Engine
from tests.e2e.users import sign_in
from tests.engines import READY_TIMEOUT_S, run_command, running_engine
from tests.faults.cutting_proxy import Cut, CuttingProxy, cutting_proxy
from tests.faults.load import Trader, audit
from tests.faults.test_kill_under_load import ACKNOWLEDGED_AFTER, FUNDS, TRADERS, run_until
from tests.postgres import btc_usdt
from tests.storage.events import ALICE, BOB, Events, Market

from tradeengine.actors import settlement
from tradeengine.actors.settlement import SettlementState
from tradeengine.core.records import Side
from tradeengine.core.symbols import SymbolSpec
from tradeengine.storage.directory import add_asset, add_symbol
from tradeengine.storage.embedded import open_embedded
from tradeengine.storage.settle import RISK_SHARD

TABLES = ("orders", "trades", "postings", "balances", "candles_1m", "candles_1h", "settlement_cursors")
LOSSES = (Cut.BEFORE, Cut.AFTER)
CUTS = 40
CUTS_UNDER_LOAD = 24


def add_market(dsn: str) -> SymbolSpec:
    """Add the symbol that is traded."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        quote = add_asset(connection, "USDT", 8, assets_max=16)
        base = add_asset(connection, "BTC", 8, assets_max=16)
        return add_symbol(connection, btc_usdt(base, quote), symbols_max=16).spec


def trading(spec: SymbolSpec, chance: Random, batches: int) -> list[Events]:
    """Make batches of events: orders that rest, trade in parts, and are cancelled."""
    market = Market(spec)
    made = [market.list_symbol()]
    for _ in range(batches):
        events = [
            market.place(chance.choice((ALICE, BOB)), chance.choice((Side.BUY, Side.SELL)), chance.randint(1, 9), PRICE)
            for _ in range(chance.randint(1, 6))
        ]
        made.append(np.concatenate(events))
    return made


def content_of(dsn: str) -> dict[str, list[Any]]:
    """Read everything that settlement writes."""
    with psycopg.connect(dsn) as connection:
        return {table: connection.execute(f"SELECT t.* FROM {table} t ORDER BY t").fetchall() for table in TABLES}


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.long) for seed in range(1, 6))])
def test_commit_that_was_cut_settles_once(
    make_database: Callable[[str], str], monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Whatever COMMIT is cut, and how often in a row, the database ends as one whose connection was never cut."""
    monkeypatch.setattr(settlement, "RETRY_S_MIN", 0.005)
    chance = Random(seed)
    whole, cut = make_database("tradeengine"), make_database("tradeengine")
    batches = trading(add_market(whole), Random(seed), CUTS)
    assert add_market(cut)
    undisturbed = Engine(whole)
    settle_all(undisturbed, batches, lambda: None)
    with cutting_proxy(cut) as proxy:
        disturbed = Engine(proxy.dsn)
        settle_all(
            disturbed, batches, lambda: proxy.cut_next(*chance.choices((Cut.NONE, *LOSSES), k=chance.randint(1, 2)))
        )
        assert min(proxy.cuts[loss] for loss in LOSSES) > 5
    assert SettlementState.DATABASE_UNAVAILABLE in disturbed.states
    assert content_of(cut) == content_of(whole)
    assert disturbed.cursors() == undisturbed.cursors() == {0: sum(map(len, batches)), 1: 0, RISK_SHARD: 0}


def settle_all(engine: Engine, batches: list[Events], before_each: Callable[[], None]) -> None:
    """Publish batch after batch, and settle each."""
    duty = engine.duty()
    for events in batches:
        before_each()
        for start in range(0, len(events), CAPACITY // 2):
            engine.publish({0: events[start : start + CAPACITY // 2]})
            # A time-out of the test ends what never settles.
            while duty.backlog():
                duty()
    duty.close()


@pytest.fixture
def proxy(tmp_path: Path) -> Iterator[CuttingProxy]:
    """Run a PostgreSQL of the test's own behind a proxy that cuts."""
    (tmp_path / "pg").mkdir()
    with open_embedded(tmp_path / "pg") as server, cutting_proxy(server.dsn) as made:
        yield made


@pytest.mark.long
@pytest.mark.timeout(300)
def test_commits_cut_under_load(proxy: CuttingProxy, tmp_path: Path) -> None:
    """With two of three COMMITs of a whole engine cut while traders trade, each order and fill is settled once."""
    chance = Random(1)
    environment = {"TRADEENGINE_DATABASE_DSN": proxy.dsn}

    def cut() -> None:
        proxy.cut_next(*chance.choices((Cut.NONE, *LOSSES), k=CUTS_UNDER_LOAD))
        deadline_s = time.monotonic() + READY_TIMEOUT_S
        while proxy.planned:
            assert time.monotonic() < deadline_s, f"{proxy.planned} COMMITs never came"
            time.sleep(0.01)

    with running_engine(tmp_path / "data", environment=environment) as engine:
        users = [f"cut-{number}" for number in range(TRADERS)]
        for user, (asset, amount) in product(users, FUNDS.items()):
            deposited = run_command("deposit", user, asset, amount, "--data-dir", str(engine.data_dir), **environment)
            assert deposited.returncode == 0, deposited.stderr
        traders = [Trader(sign_in(engine, user), seed=number) for number, user in enumerate(users)]
        run_until(engine, traders, cut, acknowledged_after=ACKNOWLEDGED_AFTER)
        for trader in traders:
            trader.settle_unknown()
            assert trader.refused == []
            trader.user.call("GET", "/orders")
            trader.user.http.close()
        with psycopg.connect(proxy.dsn, autocommit=True) as connection:
            audit(connection, traders)
        agrees = run_command("reconcile", "--data-dir", str(engine.data_dir), **environment)
        assert agrees.returncode == 0, agrees.stdout + agrees.stderr
    assert min(proxy.cuts[loss] for loss in LOSSES) > 5
