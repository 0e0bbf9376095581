"""Fixtures of the front's tests."""

from __future__ import annotations

import pytest
from tests.web.bench import Bench, make_bench


@pytest.fixture
def bench() -> Bench:
    """Give a front on real rings with one symbol, BTC/USDT, and an engine that is all ready."""
    return make_bench()
