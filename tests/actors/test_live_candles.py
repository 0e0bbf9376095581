"""Claims about candles as they grow: at every moment those are told that a plain sum over all trades would show."""

from __future__ import annotations

from collections import defaultdict
from random import Random
from typing import Any

import numpy as np
import pytest

from tradeengine.actors.publishing.candles import GRACE_NS, LiveCandles, ToldCandle
from tradeengine.actors.publishing.ticker import MINUTE_NS, Tickers
from tradeengine.core.feed import CANDLE_INTERESTS, TimeFrame
from tradeengine.core.records import EventKind, event_dtype

SYMBOLS = 3
START_NS = 20_000 * 1440 * MINUTE_NS  # the first minute of a day
EVERY = sum(CANDLE_INTERESTS.values())
SECOND_NS = 10**9


class PlainCandles:
    """Candles by adding up all trades: (time_ns, price_ticks, lots) by symbol."""

    def __init__(self) -> None:
        self.tickers = Tickers(SYMBOLS)
        self.live = LiveCandles(self.tickers)
        self.trades: defaultdict[int, list[tuple[int, int, int]]] = defaultdict(list)

    def trade(self, symbol_id: int, time_ns: int, price_ticks: int, lots: int) -> None:
        """Let something change hands."""
        self.trades[symbol_id].append((time_ns, price_ticks, lots))
        event = np.zeros(1, event_dtype)
        event["kind"], event["symbol_id"], event["timestamp_ns"] = EventKind.TRADED, symbol_id, time_ns
        event["price_ticks"], event["quantity_lots"], event["notional_units"] = price_ticks, lots, price_ticks * lots
        self.tickers.fold(event)

    def due(
        self, now_ns: int, wanted: dict[int, int] | None = None, unknown: frozenset[int] = frozenset()
    ) -> list[ToldCandle]:
        """Ask what is due, and check each: it is whole, wanted, and closed when its time is over."""
        interests = np.array([(wanted or {}).get(symbol_id, 0 if wanted else EVERY) for symbol_id in range(SYMBOLS)])
        told = list(self.live.due(interests, lambda symbol_id: symbol_id not in unknown, now_ns))
        for candle in told:
            assert interests[candle.symbol_id] & CANDLE_INTERESTS[candle.frame]
            assert candle.symbol_id not in unknown
            self.check(candle, now_ns)
        return told

    def check(self, candle: ToldCandle, now_ns: int) -> None:
        """Compare a candle with the sum of its trades."""
        bucket: Any = candle.bucket
        start_ns = int(bucket["minute"]) * MINUTE_NS
        end_ns = start_ns + candle.frame * MINUTE_NS
        assert int(bucket["minute"]) % candle.frame == 0
        assert candle.closed is (end_ns + GRACE_NS <= now_ns)
        trades = [trade for trade in self.trades[candle.symbol_id] if start_ns <= trade[0] < end_ns]
        prices = [price for _, price, _ in trades]
        # Of late trades in one minute the order is that in which they came.
        minutes = sorted({time_ns // MINUTE_NS for time_ns, _, _ in trades})
        by_minute = {minute: [trade for trade in trades if trade[0] // MINUTE_NS == minute] for minute in minutes}
        assert [int(bucket[name]) for name in ("open_ticks", "high_ticks", "low_ticks", "close_ticks")] == [
            by_minute[minutes[0]][0][1],
            max(prices),
            min(prices),
            by_minute[minutes[-1]][-1][1],
        ]
        assert int(bucket["volume_lots"]) == sum(lots for _, _, lots in trades)
        assert int(bucket["quote_volume_units"]) == sum(price * lots for _, price, lots in trades)
        assert int(bucket["trade_count"]) == len(trades)


def key_of(candle: ToldCandle) -> tuple[int, TimeFrame, int]:
    """Name a candle."""
    return candle.symbol_id, candle.frame, int(candle.bucket["minute"])


@pytest.mark.parametrize("seed", range(8))
def test_every_candle_is_told_as_it_grows_and_once_closed(seed: int) -> None:
    """Each look tells the candles with new trades and no others, and each candle at last as closed, once."""
    numbers, plain, now_ns = Random(seed), PlainCandles(), START_NS
    is_open: set[tuple[int, TimeFrame, int]] = set()
    closed_count = 0
    for _ in range(400):
        now_ns += numbers.choice([SECOND_NS // 5, SECOND_NS, 20 * SECOND_NS, 61 * SECOND_NS, 7 * 60 * SECOND_NS])
        touched = set()
        for _ in range(numbers.choice([0, 0, 1, 3])):
            symbol_id, time_ns = numbers.randrange(SYMBOLS), now_ns - numbers.randrange(GRACE_NS)
            plain.trade(symbol_id, time_ns, numbers.randint(90, 110), numbers.randint(1, 9))
            minute = time_ns // MINUTE_NS
            touched |= {(symbol_id, frame, minute // frame * frame) for frame in TimeFrame}
        over = {key for key in is_open if (key[2] + key[1]) * MINUTE_NS + GRACE_NS <= now_ns}
        told = plain.due(now_ns)
        assert sorted(key_of(candle) for candle in told) == sorted(touched | over)
        closed = {key_of(candle) for candle in told if candle.closed}
        closed_count += len(closed)
        is_open = (is_open | touched) - closed
        assert over <= closed
    assert closed_count > 100


def test_candle_is_closed_also_when_the_next_one_has_begun() -> None:
    """Trades in the first moment of a minute do not keep the candle before it from being told as closed."""
    plain = PlainCandles()
    plain.trade(0, START_NS + 30 * SECOND_NS, 100, 1)
    plain.due(START_NS + 30 * SECOND_NS, {0: CANDLE_INTERESTS[TimeFrame.M1]})
    plain.trade(0, START_NS + MINUTE_NS + 1, 101, 1)
    wanted = {0: CANDLE_INTERESTS[TimeFrame.M1]}
    first = plain.due(START_NS + MINUTE_NS + SECOND_NS // 2, wanted)
    assert [(key_of(candle)[2] * MINUTE_NS - START_NS, candle.closed) for candle in first] == [(MINUTE_NS, False)]
    second = plain.due(START_NS + MINUTE_NS + 2 * SECOND_NS, wanted)
    assert [(key_of(candle)[2] * MINUTE_NS - START_NS, candle.closed) for candle in second] == [(0, True)]
    assert plain.due(START_NS + MINUTE_NS + 3 * SECOND_NS, wanted) == []


def test_trade_that_comes_in_late_tells_a_closed_candle_again() -> None:
    """A trade behind the end of its candle makes it told again, closed and with that trade."""
    plain, wanted = PlainCandles(), {0: CANDLE_INTERESTS[TimeFrame.M1]}
    plain.trade(0, START_NS, 100, 1)
    assert [candle.closed for candle in plain.due(START_NS + MINUTE_NS + GRACE_NS, wanted)] == [True]
    plain.trade(0, START_NS + 5, 99, 2)
    (again,) = plain.due(START_NS + 2 * MINUTE_NS, wanted)
    assert (again.closed, int(again.bucket["trade_count"])) == (True, 2)


def test_nothing_is_told_of_what_nobody_wants() -> None:
    """Candles are told for the symbols and time frames that are wanted; who leaves is not told of their end."""
    plain = PlainCandles()
    for symbol_id in range(SYMBOLS):
        plain.trade(symbol_id, START_NS, 100, 1)
    told = plain.due(START_NS + 1, {1: CANDLE_INTERESTS[TimeFrame.M5], 2: 0b111})
    assert [key_of(candle)[:2] for candle in told] == [(1, TimeFrame.M5)]
    assert plain.due(START_NS + 3600 * SECOND_NS, {2: 0b111}) == []
    assert plain.due(START_NS + 3600 * SECOND_NS) == []


def test_candle_without_its_past_is_not_told() -> None:
    """While the past of a symbol is unknown its candles are not told; the present one is, once it is known."""
    plain = PlainCandles()
    plain.trade(0, START_NS, 100, 1)
    assert plain.due(START_NS + 1, unknown=frozenset({0})) == []
    plain.trade(0, START_NS + 2, 101, 1)
    assert plain.due(START_NS + 3, unknown=frozenset({0})) == []
    assert {key_of(candle)[1] for candle in plain.due(START_NS + 4)} == set(TimeFrame)


def test_present_candle_is_given_to_whoever_comes() -> None:
    """Who comes is given the candle of now, if there is one; it is then told as closed like any other."""
    plain = PlainCandles()
    assert plain.live.current(0, TimeFrame.H1, START_NS) is None
    plain.trade(0, START_NS, 100, 1)
    plain.tickers.touched.clear()
    present = plain.live.current(0, TimeFrame.H1, START_NS + 10 * MINUTE_NS)
    assert present is not None
    plain.check(present, START_NS + 10 * MINUTE_NS)
    told = plain.due(START_NS + 60 * MINUTE_NS + GRACE_NS)
    assert [(key_of(candle)[1], candle.closed) for candle in told] == [(TimeFrame.H1, True)]
    assert plain.live.current(0, TimeFrame.M1, START_NS + 10 * MINUTE_NS) is None
