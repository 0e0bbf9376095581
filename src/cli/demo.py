"""Demo traders: an ordinary program on ``tradeengine.client``, to be watched and to be copied.

Each trader has a token and a ``Stream`` of its own. It hears the tickers, as anyone may, and now and then places an
order. Most are limit orders near a price that wanders around where it began, good for a minute; the others take what
is there. So prices move, books stay filled and bounded, and nothing has to be cancelled.

Rule 1: it knows what every user can know, and may do what every user may do.
Rule 2: it goes on. A refused order is one order less, and a lost connection is made again.
It refuses to know what becomes of an order.
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from random import Random
from typing import Final

import trio

from tradeengine.client import Client, ClientError, Stream
from tradeengine.client.credentials import Token
from tradeengine.client.fields import NewOrder
from tradeengine.client.messages import Reconnected, TickerChanged
from tradeengine.client.models import Symbol

PRICES: Final = {
    "BTC/USDT": 50_000.0,
    "ETH/USDT": 3_000.0,
    "SOL/USDT": 150.0,
    "XRP/USDT": 0.5,
    "ADA/USDT": 0.4,
    "DOGE/USDT": 0.1,
    "LTC/USDT": 80.0,
    "LINK/USDT": 15.0,
    "AVAX/USDT": 30.0,
    "ETH/BTC": 0.06,
}
"""Where each price begins, and around which it wanders."""
STEP: Final = 0.0005
RETURN: Final = 0.02
"""Share of the way back to where it began that a price goes with each order."""
SPREAD: Final = 0.002
ORDER_LIFE: Final = timedelta(minutes=1)
TAKER_SHARE: Final = 0.3
TAKER_REACH: Final = 0.02
"""Further from what is held fair nobody takes: a book that is nearly empty has odd prices."""
ARREARS_S: Final = 0.1

logger = logging.getLogger(__name__)


async def run_traders(
    url: str, tokens: Sequence[Token], orders_per_s: float, ssl_context: ssl.SSLContext | None = None
) -> None:
    """Let a trader for each token trade until cancelled. orders_per_s: of all together."""
    chance = Random()  # noqa: S311 - prices, not secrets
    async with Client(url, ssl_context=ssl_context) as client:
        markets = {
            symbol.symbol: Market(symbol, chance) for symbol in await client.symbols() if symbol.symbol in PRICES
        }
    async with trio.open_nursery() as nursery:
        for token in tokens if markets else ():
            stream = Stream(url, token=token, ssl_context=ssl_context)
            nursery.start_soon(trade, stream, markets, chance, orders_per_s / len(tokens))


async def trade(stream: Stream, markets: Mapping[str, Market], chance: Random, orders_per_s: float) -> None:
    """Place orders one after the other. Raises a group of ClientErrors when the stream has ended for good."""
    tickers: dict[str, TickerChanged] = {}
    async with stream, trio.open_nursery() as nursery:
        await stream.subscribe(*(f"ticker:{name}" for name in markets))
        nursery.start_soon(watch, stream, tickers)
        due_s = trio.current_time()
        while True:
            # Orders that were due while they could not be placed are not made up for.
            due_s = max(due_s + chance.expovariate(orders_per_s), trio.current_time() - ARREARS_S)
            await trio.sleep_until(due_s)
            name = chance.choice(list(markets))
            try:
                await stream.place(**markets[name].order(tickers.get(name)))
            except ClientError as error:
                logger.debug("not placed: %s", error)


async def watch(stream: Stream, tickers: dict[str, TickerChanged]) -> None:
    """Keep the newest ticker of each symbol. Someone has to read all the time: who does not is hung up on."""
    async for message in stream:
        match message:
            case TickerChanged():
                tickers[message.symbol] = message
            case Reconnected():
                logger.info("connected again, after: %s", message.reason)


class Market:
    """A symbol, and the price that all traders hold fair."""

    def __init__(self, symbol: Symbol, chance: Random) -> None:
        self.symbol = symbol
        self.fair = PRICES[symbol.symbol]
        self._chance = chance

    def order(self, ticker: TickerChanged | None) -> NewOrder:
        """Make up an order. ticker: the newest; None: nothing was heard yet."""
        self.step()
        is_buy = self._chance.random() < 0.5
        order = NewOrder(
            symbol=self.symbol.symbol, side="buy" if is_buy else "sell", type="limit", quantity=self.quantity()
        )
        best = None if ticker is None else ticker.best_ask if is_buy else ticker.best_bid
        if best is not None and self._chance.random() < TAKER_SHARE and abs(float(best) / self.fair - 1) < TAKER_REACH:
            return {**order, "price": best, "time_in_force": "ioc"}
        away = self._chance.expovariate(1 / SPREAD)
        price = self.price(self.fair * (1 - away if is_buy else 1 + away))
        return {**order, "price": price, "time_in_force": "gtd", "expires_at": datetime.now(UTC) + ORDER_LIFE}

    def step(self) -> None:
        """Let the fair price wander: at random, and a bit of the way back."""
        self.fair *= 1 + self._chance.gauss(0, STEP) + RETURN * (PRICES[self.symbol.symbol] / self.fair - 1)

    def price(self, price: float) -> Decimal:
        """Find the price nearest to a number that an order may have."""
        tick = self.symbol.tick
        return min(max(round(Decimal(price) / tick), 1) * tick, self.symbol.price_max)

    def quantity(self) -> Decimal:
        """Draw a quantity: small ones often, none below what the symbol allows."""
        symbol = self.symbol
        notional = 2 * symbol.min_notional / Decimal(PRICES[symbol.symbol])
        smallest = max(symbol.quantity_min, notional)
        lots = round(smallest / symbol.lot * Decimal(1 + self._chance.expovariate(0.1)))
        return min((lots + 1) * symbol.lot, symbol.quantity_max)
