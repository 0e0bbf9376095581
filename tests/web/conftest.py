"""Fixtures of the front's tests."""

from __future__ import annotations

import pytest
from tests.web.bench import Bench, make_bench


@pytest.fixture
def bench() -> Bench:
    """Give a front on real rings with one symbol, BTC/USDT, and an engine that is all ready."""
    return make_bench()


@pytest.fixture(scope="module")
def shared_bench() -> Bench:
    """Give a front as ``bench`` does, one for all tests of a file that leave it as it is: what they ask is refused."""
    return make_bench()
