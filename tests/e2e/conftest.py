"""Users for stories; each story trades in a symbol of its own, so that they do not meet."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.e2e.bank import admin_of
from tests.e2e.users import NewUser, User, make_user
from tests.engines import Engine, running_engine

FUNDS = {
    "USDT": "10000000",
    "BTC": "100",
    "ETH": "1000",
    "SOL": "100000",
    "XRP": "1000000",
    "ADA": "1000000",
    "DOGE": "10000000",
    "LTC": "10000",
    "LINK": "100000",
}


@pytest.fixture(scope="session")
def alice(engine: Engine) -> Iterator[User]:
    """Give a rich user."""
    user = make_user(engine, "alice", FUNDS)
    yield user
    user.http.close()


@pytest.fixture(scope="session")
def bob(engine: Engine) -> Iterator[User]:
    """Give another rich user."""
    user = make_user(engine, "bob", FUNDS)
    yield user
    user.http.close()


@pytest.fixture(scope="session")
def venue(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """Run an engine for stories about streams: two fronts, and who asks which is left to chance; tokens end in time."""
    environment = {"TRADEENGINE_AUTH_LEEWAY_S": "0"}
    with running_engine(tmp_path_factory.mktemp("venue"), ["--fronts", "2"], environment) as running:
        yield running


@pytest.fixture(scope="session")
def bank(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """Run an engine of two fronts and two shards for stories about accounts and money."""
    with running_engine(tmp_path_factory.mktemp("bank"), ["--fronts", "2", "--shards", "2"]) as running:
        yield running


@pytest.fixture(scope="module")
def root(bank: Engine) -> Iterator[User]:
    """Give an administrator of the bank."""
    admin = admin_of(bank)
    yield admin
    admin.http.close()


@pytest.fixture
def new_user(engine: Engine) -> Iterator[NewUser]:
    """Give a maker of users that are the test's own: ``new_user("carol", BTC="2")``."""
    made: list[User] = []

    def make(prefix: str, **funds: str) -> User:
        made.append(make_user(engine, prefix, funds))
        return made[-1]

    yield make
    for user in made:
        user.http.close()


@pytest.fixture
def stranger(new_user: NewUser) -> User:
    """Give a new user without money."""
    return new_user("stranger")
