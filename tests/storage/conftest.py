"""What tests of storage share: settlement into the test's database, and a market that it knows."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
from tests.storage.events import Market

from tradeengine.core.symbols import SymbolSpec
from tradeengine.storage.settle import Settler


@pytest.fixture
def settler(dsn: str, symbol: SymbolSpec) -> Iterator[Settler]:
    """Settle into the test's database."""
    opened = Settler(psycopg.connect(dsn), 1)
    yield opened
    opened.close()


@pytest.fixture
def market(settler: Settler, symbol: SymbolSpec) -> Market:
    """Return the book of the symbol, which is listed and settled as such."""
    opened = Market(symbol)
    settler.settle({0: opened.list_symbol()})
    return opened
