"""Users for stories; each story trades in a symbol of its own, so that they do not meet."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.e2e.bank import admin_of
from tests.e2e.users import NewUser, User, make_user, users_for_a_test
from tests.engines import Engine, running_engine
from tests.sharing import SharedEngines

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


@pytest.fixture(scope="module")
def alice(engine: Engine) -> Iterator[User]:
    """Give a rich user."""
    user = make_user(engine, "alice", FUNDS)
    yield user
    user.http.close()


@pytest.fixture(scope="module")
def bob(engine: Engine) -> Iterator[User]:
    """Give another rich user."""
    user = make_user(engine, "bob", FUNDS)
    yield user
    user.http.close()


@pytest.fixture(scope="module")
def venue(shared_engines: SharedEngines, tmp_path_factory: pytest.TempPathFactory) -> Engine:
    """Run an engine for stories about streams: two fronts, and who asks which is left to chance; tokens end in time."""
    two_fronts, at_once = ["--fronts", "2"], {"TRADEENGINE_AUTH_LEEWAY_S": "0"}
    return shared_engines.want("venue", lambda: running_engine(tmp_path_factory.mktemp("venue"), two_fronts, at_once))


@pytest.fixture(scope="module")
def bank(shared_engines: SharedEngines, tmp_path_factory: pytest.TempPathFactory) -> Engine:
    """Run an engine of two fronts and two shards for stories about accounts and money."""
    two_of_both = ["--fronts", "2", "--shards", "2"]
    return shared_engines.want("bank", lambda: running_engine(tmp_path_factory.mktemp("bank"), two_of_both))


@pytest.fixture(scope="module")
def root(bank: Engine) -> Iterator[User]:
    """Give an administrator of the bank."""
    admin = admin_of(bank)
    yield admin
    admin.http.close()


@pytest.fixture
def new_user(engine: Engine) -> Iterator[NewUser]:
    """Give a maker of users that are the test's own: ``new_user("carol", BTC="2")``."""
    yield from users_for_a_test(engine)


@pytest.fixture
def stranger(new_user: NewUser) -> User:
    """Give a new user without money."""
    return new_user("stranger")
