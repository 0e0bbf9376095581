"""Traders with little money while the wallet is away, on two shards: what waits is delivered, killed or not."""

from __future__ import annotations

import os
import random
from decimal import ROUND_DOWN, Decimal
from pathlib import Path

import psycopg
import pytest
from tests.e2e.users import User, connect_database
from tests.e2e.wallet_venue import wallet_venue

from tradeengine.storage.embedded import Embedded

PRICES = {"BTC": Decimal(50000), "ETH": Decimal(3000)}
LOTS = {"BTC": Decimal("0.00001"), "ETH": Decimal("0.0001")}
FEES = Decimal("1.01")
TRADES = 120


@pytest.fixture
def books(postgres: Embedded) -> str:
    """Make a database for a wallet service."""
    name = f"wallet_order_{os.getpid()}"
    with psycopg.connect(postgres.dsn_of("postgres"), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE template1")
    return postgres.dsn_of(name)


@pytest.mark.long
def test_all_in_traders_in_an_outage(books: str, tmp_path: Path) -> None:
    """Bots that trade all they have over and over while the wallet is away make no dead letter, whoever is killed."""
    chance = random.Random(1)
    with wallet_venue(books, tmp_path, {"TRADEENGINE_ENGINE_SHARDS": "2"}) as venue:
        users = [venue.fund(f"bot-{number}", {"USDT": "1000", "BTC": "0.02", "ETH": "0.3"}) for number in range(4)]
        venue.service.stop()
        made = 0
        while made < TRADES:
            made += trade_all(users, chance)
        venue.until(lambda: venue.pending() == made)
        pid = venue.engine.actors()["wallet"]
        venue.service.start()
        venue.until(lambda: venue.pending() < made * 2 // 3)
        venue.engine.kill_actor("wallet")
        venue.service.kill()
        # It is there again, and degraded: it waits for its service.
        venue.until(lambda: venue.engine.actors().get("wallet", pid) != pid)
        venue.service.start()
        venue.agree()
        with connect_database(venue.engine) as connection:
            assert connection.execute("SELECT state FROM wallet_transfers").fetchall() == []
        for user in users:
            user.http.close()


def trade_all(users: list[User], chance: random.Random) -> int:
    """Let one of two users buy for all their money, or all that the other has; returns how many trades it made."""
    buyer, seller = chance.sample(users, 2)
    asset = chance.choice(list(PRICES))
    bought = buyer.balances()["USDT"][1] / FEES / PRICES[asset]
    quantity = min(bought, seller.balances()[asset][1]).quantize(LOTS[asset], ROUND_DOWN)
    if quantity * PRICES[asset] < 20:
        return 0
    symbol, price = f"{asset}/USDT", str(PRICES[asset])
    seller.place(side="sell", symbol=symbol, quantity=str(quantity), price=price)
    return len(buyer.place(side="buy", symbol=symbol, quantity=str(quantity), price=price)["trades"])
