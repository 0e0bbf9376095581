"""One engine for those who attack it over the network, and users of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.e2e.users import NewUser, User, users_for_a_test
from tests.engines import Engine, running_engine
from tests.sharing import SharedEngines


@contextmanager
def faultless_engine(folder: Path) -> Iterator[Engine]:
    """Run an engine with one front, so that nobody is served by another; it must have had no fault at the end."""
    with running_engine(folder) as running:
        pids = running.actors()
        yield running
        assert pids.items() <= running.actors().items()  # some may have come since, but none instead of another
        assert not [line for line in running.errors if "Traceback" in line or "fault" in line], "".join(running.errors)


@pytest.fixture(scope="module")
def target(shared_engines: SharedEngines, tmp_path_factory: pytest.TempPathFactory) -> Engine:
    """Run an engine that has no fault whatever is done to it."""
    return shared_engines.want("target", lambda: faultless_engine(tmp_path_factory.mktemp("target")))


@pytest.fixture
def new_user(target: Engine) -> Iterator[NewUser]:
    """Give a maker of users of the target: ``new_user("carol", BTC="2")``."""
    yield from users_for_a_test(target)


@pytest.fixture
def victim(new_user: NewUser) -> User:
    """Give a user with money, whose orders shall be answered whatever others do."""
    return new_user("victim", USDT="1000000", BTC="10")
