"""Candles, past trades and the last 24 hours over HTTP: what is asked, what is shown, and what may be kept."""

from __future__ import annotations

import time
from typing import Any

import pytest
from quart import Response
from tests.web.bench import BTC_USDT, Bench, bearer
from tests.web.test_market import TRADE_ID, make_trade

from tradeengine.core.feed import TIME_FRAME_NAMES, TimeFrame
from tradeengine.core.times import format_ms
from tradeengine.storage.candles import Candle
from tradeengine.storage.statistics import DAY_MS, Day, Sums
from tradeengine.web.caching import OVER_AFTER_MS

BEGIN_MS = 1_780_000_200_000
CANDLES = "/api/v1/candles/BTC-USDT"
TRADES = "/api/v1/historical/trades/BTC-USDT"
START, END = "2026-05-28T20:00:00Z", "2026-05-28T21:00:00Z"


def candle(number: int) -> Candle:
    """Make a minute."""
    return Candle(BEGIN_MS + number * 60_000, 5_000_000, 5_000_100, 4_999_900, 5_000_050, 12_345, 61_725_000_000, 7)


def is_kept(answer: Response) -> bool:
    """Whether an answer may be kept; it says so in both headers or in none."""
    kept = "ETag" in answer.headers
    assert answer.headers["Cache-Control"] == ("public, max-age=60" if kept else "no-store")
    return kept


async def fetch(bench: Bench, path: str, **headers: str) -> tuple[Response, Any]:
    """Ask and decode."""
    answer = await bench.client.get(path, headers=headers)
    return answer, await answer.get_json() if await answer.get_data() else None


async def test_candle_is_shown_in_the_symbols_places(bench: Bench) -> None:
    """Integers become decimals with the places of tick, lot and quote asset; the time is when it begins."""
    bench.history.bars = [candle(0)]
    _, body = await fetch(bench, f"{CANDLES}?tf=1m")
    assert body["data"] == [
        {
            "time": "2026-05-28T20:30:00.000Z",
            "open": "50000.00",
            "high": "50001.00",
            "low": "49999.00",
            "close": "50000.50",
            "volume": "1.2345",
            "quote_volume": "61725.000000",
            "trades": 7,
        }
    ]


@pytest.mark.parametrize(("time_frame", "name"), TIME_FRAME_NAMES.items())
async def test_question_reaches_history(time_frame: TimeFrame, name: str, bench: Bench) -> None:
    """Every time frame, bound and option is passed on as it was meant, in any letter case."""
    await fetch(bench, f"{CANDLES}?tf={name.upper()}&start={START}&end={END}&limit=7&fill=true")
    assert bench.history.asked == {
        "time_frame": time_frame,
        "limit": 7,
        "start_ns": 1_779_998_400_000_000_000,
        "end_ns": 1_780_002_000_000_000_000,
        "fill": True,
    }
    await fetch(bench, f"{CANDLES}?tf={name}")
    nothing = {"start_ns": None, "end_ns": None, "fill": False}
    assert bench.history.asked == {"time_frame": time_frame, "limit": 50, **nothing}


@pytest.mark.parametrize(
    ("query", "name", "code"),
    [
        ("", "tf", "INVALID_REQUEST"),
        ("tf=2m", "tf", "INVALID_REQUEST"),
        ("tf=1m&limit=0", "limit", "NUMBER_OUT_OF_RANGE"),
        ("tf=1m&limit=1001", "limit", "NUMBER_OUT_OF_RANGE"),
        ("tf=1m&limit=x", "limit", "NUMBER_OUT_OF_RANGE"),
        ("tf=1m&start=yesterday", "start", "INVALID_REQUEST"),
        ("tf=1m&end=1570752011620", "end", "INVALID_REQUEST"),
        ("tf=1m&end=2300-01-01T00:00:00Z", "end", "NUMBER_OUT_OF_RANGE"),
        ("tf=1m&fill=perhaps", "fill", "INVALID_REQUEST"),
        ("tf=1m&tf=5m", "tf", "INVALID_REQUEST"),
        ("tf=1m&cursor=x", "cursor", "INVALID_REQUEST"),
    ],
)
async def test_wrong_candle_question_is_refused_by_field(query: str, name: str, code: str, shared_bench: Bench) -> None:
    """What is missing, unknown or out of range is refused by its name."""
    answer, body = await fetch(shared_bench, f"{CANDLES}?{query}")
    assert (answer.status_code, body["error"]["code"], body["error"]["details"]["field"]) == (400, code, name)
    assert not is_kept(answer)


@pytest.mark.parametrize(
    ("query", "name"), [("cursor=x", "cursor"), ("limit=1001", "limit"), ("start=1", "start"), ("tf=1m", "tf")]
)
async def test_wrong_trades_question_is_refused_by_field(query: str, name: str, shared_bench: Bench) -> None:
    """Likewise for past trades."""
    answer, body = await fetch(shared_bench, f"{TRADES}?{query}")
    assert (answer.status_code, body["error"]["details"]["field"]) == (400, name)


@pytest.mark.parametrize("path", ["candles/NO-SUCH?tf=1m", "historical/trades/NO-SUCH", "statistics/24h/NO-SUCH"])
async def test_unknown_symbol_has_no_past(path: str, shared_bench: Bench) -> None:
    """A symbol that does not exist is SYMBOL_NOT_FOUND."""
    answer, body = await fetch(shared_bench, f"/api/v1/{path}")
    assert (answer.status_code, body["error"]["code"]) == (404, "SYMBOL_NOT_FOUND")


async def test_imported_trade_has_neither_fees_nor_sequence(bench: Bench) -> None:
    """An own trade is shown as everywhere, an imported one without what it cannot have."""
    imported = make_trade(1_780_000_000_000 << 16)
    bench.history.fills = [imported, make_trade()]
    _, body = await fetch(bench, TRADES)
    first, second = body["data"]
    assert [first[name] for name in ("imported", "buyer_fee", "seller_fee", "sequence")] == [True, None, None, None]
    assert [second[name] for name in ("imported", "buyer_fee", "sequence")] == [False, "25.000000", 5]
    assert first["id"] == str(imported.trade_id)
    assert {**first, "id": "", "imported": False} == {
        **second,
        "id": "",
        "buyer_fee": None,
        "seller_fee": None,
        "sequence": None,
    }


async def test_pages_of_trades_follow_their_cursors(bench: Bench) -> None:
    """Each page names the cursor of the next, the last one none, and together they are all trades."""
    bench.history.fills = [make_trade(TRADE_ID + number) for number in range(5)]
    seen: list[str] = []
    cursor: str | None = ""
    while cursor is not None:
        _, body = await fetch(bench, f"{TRADES}?limit=2{cursor and f'&cursor={cursor}'}")
        seen += [trade["id"] for trade in body["data"]]
        cursor = body["meta"]["next_cursor"]
    assert seen == [str(TRADE_ID + number) for number in range(5)]


async def test_day_is_shown_with_change_and_average(bench: Bench) -> None:
    """Change, change in percent and the weighted average follow from the sums, rounded half to even."""
    sums = Sums(5_000_000, 5_100_000, 4_900_000, 4_988_333, 30_000, 149_999_999_999, 9)
    bench.history.last_day = Day(BEGIN_MS - DAY_MS + 1, BEGIN_MS + 1, sums)
    answer, body = await fetch(bench, "/api/v1/statistics/24h/btc-usdt")
    assert body["data"] == {
        "symbol": "BTC/USDT",
        "from": "2026-05-27T20:30:00.001Z",
        "to": "2026-05-28T20:30:00.001Z",
        "open": "50000.00",
        "high": "51000.00",
        "low": "49000.00",
        "last": "49883.33",
        "volume": "3.0000",
        "quote_volume": "149999.999999",
        "trades": 9,
        "change": "-116.67",
        "change_percent": "-0.2333",
        "weighted_average_price": "50000.000000",
    }
    assert not is_kept(answer)


async def test_day_without_trades_has_nulls(bench: Bench) -> None:
    """What does not exist is null, not zero."""
    _, body = await fetch(bench, "/api/v1/statistics/24h/BTC-USDT")
    nulls = {name for name, value in body["data"].items() if value is None}
    assert nulls == {"open", "high", "low", "last", "change", "change_percent", "weighted_average_price"}
    assert (body["data"]["volume"], body["data"]["trades"]) == ("0.0000", 0)


@pytest.mark.parametrize(
    ("query", "kept"),
    [
        ("", False),
        (f"start={START}&end={END}", True),
        (f"end={END}", True),
        (f"start={START}", False),
        (f"start={START}&limit=3", True),
        ("limit=3", False),
        ("end=2100-01-01T00:00:00Z", False),
    ],
)
async def test_candles_of_a_past_that_is_over_may_be_kept(query: str, kept: bool, bench: Bench) -> None:
    """A range that ends in the past may be kept, also where its end is that of a full page; what can grow may not."""
    bench.history.bars = [candle(number) for number in range(3)]
    answer, _ = await fetch(bench, f"{CANDLES}?tf=1m&{query}")
    assert is_kept(answer) is kept


async def test_candle_that_is_not_over_may_not_be_kept(bench: Bench) -> None:
    """An end in the past is not enough: the candle around it must be over, and long enough for late events."""
    now_ms = time.time_ns() // 1_000_000
    ends_ms = {now_ms - DAY_MS - OVER_AFTER_MS: True, now_ms - 1000: False}
    for end_ms, kept in ends_ms.items():
        answer, _ = await fetch(bench, f"{CANDLES}?tf=1d&end={format_ms(end_ms)}")
        assert is_kept(answer) is kept


@pytest.mark.parametrize(("query", "kept"), [("", False), (f"end={END}", True), ("limit=2", True), ("limit=3", False)])
async def test_trades_of_a_past_that_is_over_may_be_kept(query: str, kept: bool, bench: Bench) -> None:
    """A page that others follow, or whose end is past, stays as it is; the last page may grow."""
    bench.history.fills = [make_trade(TRADE_ID + number) for number in range(3)]
    answer, _ = await fetch(bench, f"{TRADES}?{query}")
    assert is_kept(answer) is kept


async def test_tag_is_of_the_data(bench: Bench) -> None:
    """Who has the data gets an empty 304; other data, by an import say, has another tag and is sent."""
    bench.history.bars = [candle(0)]
    path = f"{CANDLES}?tf=1m&end={END}"
    first, _ = await fetch(bench, path)
    tag = first.headers["ETag"]
    assert tag.startswith('W/"')
    for known in (tag, f'"other", {tag}', tag.removeprefix("W/"), "*"):
        answer, body = await fetch(bench, path, **{"If-None-Match": known})
        assert (answer.status_code, body, answer.headers["ETag"]) == (304, None, tag)
        assert answer.headers["Cache-Control"] == "public, max-age=60"
        assert answer.headers["X-Request-ID"]
    bench.history.bars = [candle(0)._replace(trade_count=8)]
    answer, body = await fetch(bench, path, **{"If-None-Match": tag})
    assert (answer.status_code, body["data"][0]["trades"]) == (200, 8)
    assert answer.headers["ETag"] != tag


async def test_same_page_with_another_cursor_has_another_tag(bench: Bench) -> None:
    """That trades came after a page is part of its answer."""
    bench.history.fills = [make_trade()]
    last, _ = await fetch(bench, f"{TRADES}?end={END}&limit=1")
    bench.history.fills.append(make_trade(TRADE_ID + 1))
    other, _ = await fetch(bench, f"{TRADES}?end={END}&limit=1")
    assert last.headers["ETag"] != other.headers["ETag"]


async def test_trade_by_id_may_be_kept_by_whom_it_was_for(bench: Bench) -> None:
    """A trade never changes: everyone may keep what everyone sees, and a party what it alone sees."""
    bench.history.fills = [make_trade()]
    path = f"/api/v1/trades/{TRADE_ID}"
    public, _ = await fetch(bench, path)
    own, _ = await fetch(bench, path, **bearer())
    assert is_kept(public)
    assert own.headers["Cache-Control"] == "private, max-age=60"
    assert own.headers["ETag"] != public.headers["ETag"]
    assert {answer.headers["Vary"] for answer in (public, own)} == {"Authorization"}
    again, _ = await fetch(bench, path, **bearer(), **{"If-None-Match": own.headers["ETag"]})
    assert again.status_code == 304


@pytest.mark.parametrize("path", ["/api/v1/symbols", "/api/v1/orderbook/BTC-USDT", "/api/v1/balances", "/health", "/x"])
async def test_whatever_else_is_not_to_be_kept(path: str, shared_bench: Bench) -> None:
    """Books, balances, states and failures are as of now and say so."""
    answer, _ = await fetch(shared_bench, path, **bearer())
    assert not is_kept(answer)


def test_places_of_the_tests_symbol() -> None:
    """The decimals above are those of this symbol."""
    assert (BTC_USDT.tick, BTC_USDT.lot, BTC_USDT.quote.places) == ("0.01", "0.0001", 6)
