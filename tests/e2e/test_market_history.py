"""The past of a symbol on the real engine: imported and own trades in candles, statistics and pages, at once."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx2
import pytest
from tests.e2e.users import NewUser, User
from tests.engines import Engine

SYMBOL = "LINK-USDT"
FIRST = datetime.fromisoformat("2019-10-11T00:00:11.620+00:00")
PLACES = {"open": 3, "high": 3, "low": 3, "close": 3, "volume": 2, "quote_volume": 8}


@pytest.fixture(scope="module")
def brought(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> list[tuple[datetime, str, str]]:
    """Import trades of some hours of 2019 into LINK/USDT, in which no other story trades; time, price, quantity."""
    rows = [
        (FIRST + timedelta(seconds=97 * number), f"{14 + number % 7}.{number:03d}", f"{1 + number % 3}.50")
        for number in range(200)
    ]
    lines = [f"{moment.isoformat()},{price},{quantity},sell\n" for moment, price, quantity in rows]
    file = tmp_path_factory.mktemp("past") / "trades.csv"
    Path(file).write_text("time,price,amount,side\n" + "".join(lines), encoding="utf-8")
    result = engine.command("import-trades", str(file), "--symbol", "LINK/USDT")
    assert (result.returncode, result.stderr) == (0, "")
    return rows


@pytest.fixture
def public(engine: Engine) -> Iterator[httpx2.Client]:
    """Give a client without a token."""
    with engine.client() as client:
        yield client


def ask(client: httpx2.Client, path: str, **query: Any) -> Any:
    """Ask for the past of the symbol; gives the body."""
    answer = client.get(path.format(SYMBOL), params=query)
    assert answer.status_code == 200, answer.text
    return answer.json()


def trade_once(buyer: User, seller: User, price: str, quantity: str) -> dict[str, Any]:
    """Make an own trade; returns it as its taker sees it."""
    seller.place(symbol="LINK/USDT", side="sell", quantity=quantity, price=price)
    (trade,) = buyer.place(symbol="LINK/USDT", quantity=quantity, price=price)["trades"]
    return dict(trade)


def test_imported_hours_are_candles(brought: list[tuple[datetime, str, str]], public: httpx2.Client) -> None:
    """Pages of candles, oldest first, are what a plain loop makes of the file, to the last place."""
    hours: dict[str, list[tuple[Decimal, Decimal]]] = {}
    for moment, price, quantity in brought:
        hour = moment.replace(minute=0, second=0, microsecond=0)
        hours.setdefault(hour.strftime("%Y-%m-%dT%H:00:00.000Z"), []).append((Decimal(price), Decimal(quantity)))
    expected = [
        {
            "time": hour,
            "open": trades[0][0],
            "high": max(price for price, _ in trades),
            "low": min(price for price, _ in trades),
            "close": trades[-1][0],
            "volume": sum(quantity for _, quantity in trades),
            "quote_volume": sum(price * quantity for price, quantity in trades),
            "trades": len(trades),
        }
        for hour, trades in hours.items()
    ]
    found: list[Any] = []
    start = "2019-10-01T00:00:00Z"
    while page := ask(public, "/candles/{}", tf="1h", start=start, end="2019-11-01T00:00:00Z", limit=2)["data"]:
        found += page
        start = page[-1]["time"].replace("00.000Z", "00.001Z")
    for candle in found:
        for name, places in PLACES.items():
            assert len(candle[name].partition(".")[2]) == places
            candle[name] = Decimal(candle[name])
    assert found == expected


def test_own_trade_is_in_everything_at_once(
    brought: list[tuple[datetime, str, str]], public: httpx2.Client, new_user: NewUser
) -> None:
    """The question after an order's answer has its trade: in the present candle, the last 24 hours and the pages."""
    buyer, seller = new_user("now", USDT="100000"), new_user("then", LINK="1000")
    before = ask(public, "/statistics/24h/{}")["data"]
    trade = trade_once(buyer, seller, "20.5", "3")
    after = ask(public, "/statistics/24h/{}")["data"]
    assert after["trades"] == before["trades"] + 1
    assert Decimal(after["volume"]) == Decimal(before["volume"]) + 3
    assert Decimal(after["quote_volume"]) == Decimal(before["quote_volume"]) + Decimal("61.5")
    assert (after["last"], after["from"][11:] == after["to"][11:]) == ("20.500", True)
    for time_frame in ("1m", "5m", "15m", "1h", "4h", "1d"):
        (candle,) = ask(public, "/candles/{}", tf=time_frame, limit=1)["data"]
        assert candle["close"] == "20.500"
        assert candle["time"] <= trade["timestamp"]
    last = ask(public, "/historical/trades/{}", start=trade["timestamp"])["data"][-1]
    assert (last["id"], last["imported"], last["sequence"]) == (trade["id"], False, trade["sequence"])
    for user in (buyer, seller):
        user.call("DELETE", f"/orders?symbol={SYMBOL}")


def test_pages_go_from_imported_to_own_trades(
    brought: list[tuple[datetime, str, str]], public: httpx2.Client, new_user: NewUser
) -> None:
    """Following the cursor meets every trade once, oldest first, from the file to the engine's newest."""
    buyer, seller = new_user("pages", USDT="100000"), new_user("more", LINK="1000")
    own = [trade_once(buyer, seller, "21", "1")["id"] for _ in range(3)]
    found: list[Any] = []
    cursor: str | None = ""
    while cursor is not None:
        body = ask(public, "/historical/trades/{}", limit=67, **({"cursor": cursor} if cursor else {}))
        found += body["data"]
        cursor = body["meta"]["next_cursor"]
    assert [(trade["price"], trade["quantity"]) for trade in found[:200]] == [row[1:] for row in brought]
    assert [trade["imported"] for trade in found] == [True] * 200 + [False] * (len(found) - 200)
    assert [trade["id"] for trade in found[-3:]] == own
    ids = [int(trade["id"]) for trade in found]
    assert ids == sorted(set(ids))


def test_gaps_are_filled_on_request(brought: list[tuple[datetime, str, str]], public: httpx2.Client) -> None:
    """Minutes in which nothing was traded are there with fill, at the close before them."""
    range_ = {"tf": "1m", "start": "2019-10-11T00:00:00Z", "end": "2019-10-11T01:00:00Z", "limit": 1000}
    traded = {candle["time"]: candle for candle in ask(public, "/candles/{}", **range_)["data"]}
    filled = ask(public, "/candles/{}", fill="true", **range_)["data"]
    assert [candle["time"][11:16] for candle in filled] == [f"00:{minute:02d}" for minute in range(60)]
    assert len(traded) < 40
    for before, candle in itertools.pairwise(filled):
        if candle["time"] in traded:
            assert candle == traded[candle["time"]]
        else:
            assert {candle[name] for name in ("open", "high", "low", "close")} == {before["close"]}
            assert (candle["volume"], candle["trades"]) == ("0.00", 0)


def test_past_is_sent_once(brought: list[tuple[datetime, str, str]], public: httpx2.Client) -> None:
    """Over a real connection a range that is over is answered 304 without a body to who has it."""
    path = f"/candles/{SYMBOL}?tf=4h&end=2019-10-12T00:00:00Z"
    first = public.get(path)
    again = public.get(path, headers={"If-None-Match": first.headers["ETag"]})
    assert (again.status_code, again.content, again.headers["ETag"]) == (304, b"", first.headers["ETag"])
    assert "content-type" not in again.headers
    assert public.get(path).json()["data"] == first.json()["data"]
    assert public.get(f"/candles/{SYMBOL}?tf=4h").headers["Cache-Control"] == "no-store"
