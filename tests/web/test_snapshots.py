"""Stored depth over HTTP: the row at or just before a time, in decimals, and what is said when there is none."""

from __future__ import annotations

from typing import Any

import pytest
from tests.web.bench import Bench

from tradeengine.storage.depth_snapshots import StoredDepth

FIRST_MS, SECOND_MS = 1_780_000_000_000, 1_780_000_060_000
"""2026-05-28T20:26:40Z and a minute later."""


@pytest.fixture
def stored(bench: Bench) -> Bench:
    """Give a front whose history has two books of BTC/USDT, a minute apart."""
    bench.history.depths = [
        StoredDepth(0, FIRST_MS, 77, [[4_999_900, 25_000], [4_999_800, 1]], [[5_000_100, 30_000]]),
        StoredDepth(0, SECOND_MS, 99, [], [[5_000_100, 30_000]]),
    ]
    return bench


async def ask(bench: Bench, query: str = "", symbol: str = "BTC-USDT") -> tuple[int, dict[str, Any]]:
    """Ask for a stored book; returns status and body."""
    answer = await bench.client.get(f"/api/v1/snapshots/{symbol}{query}")
    return answer.status_code, await answer.get_json()


@pytest.mark.parametrize(
    ("time", "sequence"),
    [
        ("2026-05-28T20:26:40Z", 77),
        ("2026-05-28T20:27:39.999999999Z", 77),
        ("2026-05-28T22:27:40.000%2B02:00", 99),
        ("2199-01-01T00:00:00Z", 99),
    ],
)
async def test_snapshot_is_the_one_at_or_before(stored: Bench, time: str, sequence: int) -> None:
    """A time is answered with the book stored at it or last before it, also one that has not come yet."""
    status, body = await ask(stored, f"?time={time}")
    assert (status, body["data"]["sequence"]) == (200, sequence)


async def test_snapshot_shows_decimals_best_first(stored: Bench) -> None:
    """A stored book has the symbol's places, its own time, and its best levels first."""
    _, body = await ask(stored, "?time=2026-05-28T20:27:00Z", "BTC/USDT")
    assert body["data"] == {
        "symbol": "BTC/USDT",
        "time": "2026-05-28T20:26:40.000Z",
        "sequence": 77,
        "bids": [["49999.00", "2.5000"], ["49998.00", "0.0001"]],
        "asks": [["50001.00", "3.0000"]],
    }


async def test_without_a_time_the_newest_is_shown(stored: Bench) -> None:
    """Asked for no time, the newest stored book is shown; a side without orders is an empty list."""
    _, body = await ask(stored)
    assert (body["data"]["sequence"], body["data"]["bids"]) == (99, [])


@pytest.mark.parametrize("query", ["", "?time=2026-05-28T20:26:39.999Z"])
async def test_nothing_stored_is_not_found(stored: Bench, query: str) -> None:
    """Before the first stored book, or when there is none at all, the answer is 404 NOT_FOUND."""
    if not query:
        stored.history.depths.clear()
    status, body = await ask(stored, query)
    assert (status, body["error"]["code"]) == (404, "NOT_FOUND")
    assert "BTC/USDT" in body["error"]["message"]


@pytest.mark.parametrize("time", ["", "yesterday", "1780000000", "2026-02-30T00:00:00Z", "2026-05-28T20:26:40"])
async def test_bad_time_is_refused_by_field(stored: Bench, time: str) -> None:
    """What is no RFC 3339 time is refused, and the field is named."""
    status, body = await ask(stored, f"?time={time}")
    assert (status, body["error"]["code"], body["error"]["details"]["field"]) == (400, "INVALID_REQUEST", "time")


async def test_unknown_symbol_has_no_snapshots(stored: Bench) -> None:
    """A symbol that does not exist is told apart from one without stored books."""
    status, body = await ask(stored, "", "NO-SUCH")
    assert (status, body["error"]["code"]) == (404, "SYMBOL_NOT_FOUND")


async def test_answer_about_the_past_may_be_kept(stored: Bench) -> None:
    """The book of a time that is over has a tag, and who has it already gets 304; the newest book is never kept."""
    path = "/api/v1/snapshots/BTC-USDT?time="
    first = await stored.client.get(f"{path}2026-05-28T20:26:40Z")
    tag = first.headers["ETag"]
    assert "max-age" in first.headers["Cache-Control"]
    again = await stored.client.get(f"{path}2026-05-28T20:26:50Z", headers={"If-None-Match": tag})
    assert (again.status_code, await again.get_data()) == (304, b"")
    other = await stored.client.get(f"{path}2026-05-28T20:27:40Z", headers={"If-None-Match": tag})
    assert other.status_code == 200
    for query in ("", "?time=2199-01-01T00:00:00Z"):
        newest = await stored.client.get(f"/api/v1/snapshots/BTC-USDT{query}")
        assert "ETag" not in newest.headers
        assert newest.headers["Cache-Control"] == "no-store"
