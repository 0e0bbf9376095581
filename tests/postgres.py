"""One PostgreSQL per test session, one database per test: made from a template that was migrated once."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from tradeengine.core.symbols import AssetSpec, SymbolSpec
from tradeengine.storage.directory import add_asset, add_symbol
from tradeengine.storage.embedded import Embedded, open_embedded
from tradeengine.storage.migrate import migrate

_database_numbers = itertools.count()

# Nothing here must survive the machine, so these tests do not wait for its disk.
_FAST = {"fsync": "off", "full_page_writes": "off", "shared_buffers": "64MB"}


@pytest.fixture(scope="session")
def postgres() -> Iterator[Embedded]:
    """Run an embedded server for the whole session."""
    with tempfile.TemporaryDirectory(prefix="pg-") as folder, open_embedded(Path(folder), _FAST) as server:
        migrate(server.dsn)
        yield server


@pytest.fixture
def make_database(postgres: Embedded) -> Iterator[Callable[[str], str]]:
    """Make databases that the test's end drops: from the migrated template, or another (``template1``: empty)."""
    names: list[str] = []

    def make(template: str = "tradeengine") -> str:
        name = f"test_{next(_database_numbers)}"
        with psycopg.connect(postgres.dsn_of("postgres"), autocommit=True) as connection:
            # Where nothing is synced, copying files takes a tenth of what a log of every page does.
            connection.execute(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy")
        names.append(name)
        return postgres.dsn_of(name)

    yield make
    with psycopg.connect(postgres.dsn_of("postgres"), autocommit=True) as connection:
        for name in names:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def dsn(make_database: Callable[[str], str]) -> str:
    """Make a fresh, migrated database."""
    return make_database("tradeengine")


@pytest.fixture
def connection(dsn: str) -> Iterator[psycopg.Connection]:
    """Connect to the test's database, in autocommit."""
    with psycopg.connect(dsn, autocommit=True) as opened:
        yield opened


@pytest.fixture
def symbol(connection: psycopg.Connection) -> SymbolSpec:
    """BTC/USDT with ids 0: assets USDT 0 and BTC 1, tick 0.01, lot 0.00001, fees 0.05 % and 0.1 %, shard 0."""
    quote = add_asset(connection, "USDT", 8, assets_max=16)
    base = add_asset(connection, "BTC", 8, assets_max=16)
    return add_symbol(connection, btc_usdt(base, quote), symbols_max=16).spec


def btc_usdt(base: AssetSpec, quote: AssetSpec, shard: int = 0) -> SymbolSpec:
    """Return the usual symbol between any two assets."""
    return SymbolSpec.from_decimals(
        symbol_id=0,
        base=base,
        quote=quote,
        tick="0.01",
        lot="0.00001",
        price_max="10000000",
        quantity_min="0.00001",
        quantity_max="1000",
        min_notional="0.1",
        max_price_deviation="0.10",
        maker_fee="0.0005",
        taker_fee="0.001",
        shard=shard,
    )
