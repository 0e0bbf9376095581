"""One wallet service for all tests that only use it: they make users and assets of their own and restart nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator

import psycopg
import pytest
from tests.wallet.faulty import FaultyWallet, faulty_wallet
from tests.wallet.service import Service, free_port, running_service

from tradeengine.storage.embedded import Embedded
from tradeengine.wallet.http import HttpWallet, open_http


@pytest.fixture(scope="session")
def service(postgres: Embedded, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Run a service that stays."""
    with psycopg.connect(postgres.dsn_of("postgres"), autocommit=True) as connection:
        connection.execute("CREATE DATABASE wallet_service TEMPLATE template1")
    with running_service(postgres.dsn_of("wallet_service"), tmp_path_factory.mktemp("wallet")) as running:
        yield running


@pytest.fixture
def dsn(make_database: Callable[[str], str]) -> str:
    """Make an empty database, for a service of the test's own."""
    return make_database("template1")


@pytest.fixture
async def wallet(service: Service) -> AsyncIterator[HttpWallet]:
    """Connect to the service itself."""
    async with open_http(service.url, service.secret, timeout_s=20.0, connections_max=20) as opened:
        yield opened


@pytest.fixture
async def proxy(service: Service) -> AsyncIterator[FaultyWallet]:
    """Put a proxy before the service."""
    async with faulty_wallet(service.port, free_port()) as running:
        yield running
