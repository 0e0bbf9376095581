"""One engine for those who attack it over the network, and users of it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.e2e.users import NewUser, User, make_user
from tests.engines import Engine, running_engine


@pytest.fixture(scope="session")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """Run an engine with one front, so that nobody is served by another; it must have had no fault at the end."""
    with running_engine(tmp_path_factory.mktemp("target")) as running:
        pids = running.actors()
        yield running
        assert running.actors() == pids
        assert not [line for line in running.errors if "Traceback" in line or "fault" in line], "".join(running.errors)


@pytest.fixture
def new_user(target: Engine) -> Iterator[NewUser]:
    """Give a maker of users of the target: ``new_user("carol", BTC="2")``."""
    made: list[User] = []

    def make(prefix: str, **funds: str) -> User:
        made.append(make_user(target, prefix, funds))
        return made[-1]

    yield make
    for user in made:
        user.http.close()


@pytest.fixture
def victim(new_user: NewUser) -> User:
    """Give a user with money, whose orders shall be answered whatever others do."""
    return new_user("victim", USDT="1000000", BTC="10")
