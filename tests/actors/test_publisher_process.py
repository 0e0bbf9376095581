"""The publisher as a process: killed, stopped and lapped, it comes back to the books as they are."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest
from tests.cli.venue import Venue
from tests.engines import Engine, running_engine

from tradeengine.ipc.client import open_client
from tradeengine.ipc.directory import read_directory

SYMBOL = "VENUE/USD"
WAIT_S = 30.0
RINGS = {
    "TRADEENGINE_RINGS_EVENTS_SLOTS": "2048",
    "TRADEENGINE_SETTLEMENT_BACKLOG_EVENTS_MAX": "1024",
}
"""Rings that a replay of some hundred rows laps."""


@pytest.fixture(scope="module")
def harmed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """Give an engine whose publisher may be harmed."""
    with running_engine(tmp_path_factory.mktemp("publisher"), environment=RINGS) as running:
        yield running


def replay(engine: Engine, folder: Path, seed: int) -> Venue:
    """Replay a made-up venue's recording; returns the venue."""
    venue = Venue(seed, count=3000)
    result = engine.command("replay", str(venue.write(folder / "venue.csv")), "--symbol", SYMBOL)
    assert result.returncode == 0, result.stderr
    return venue


def wait_shown(engine: Engine, venue: Venue) -> dict[str, Any]:
    """Wait until the depth is the venue's; returns the ticker beside it."""
    expected = [
        sorted(((price // 100, lots) for price, lots in venue.levels(side).items()), reverse=side == 1)
        for side in (1, -1)
    ]
    deadline_s = time.monotonic() + WAIT_S
    with open_client(engine.data_dir) as wiring:
        symbol_id = read_directory(wiring.table("directory")).symbol_by_name[SYMBOL].symbol_id
        while True:
            row, ticker = wiring.table("depth").read(symbol_id), wiring.table("tickers").read(symbol_id)
            shown = [
                [tuple(level) for level in row[side][: row[count]].tolist()]
                for side, count in (("bids", "bid_count"), ("asks", "ask_count"))
            ]
            agrees = shown == expected and int(ticker["sequence"]) == int(row["sequence"])
            if agrees or time.monotonic() > deadline_s:
                assert shown == expected
                return {name: int(ticker[name]) for name in ticker.dtype.names}
            time.sleep(0.01)


def settled_volume(engine: Engine) -> int:
    """Return all lots that were ever traded, from the database."""
    query = "SELECT coalesce(sum(quantity_lots), 0) FROM trades JOIN symbols ON symbols.id = symbol_id WHERE name = %s"
    with psycopg.connect(engine.dsn) as connection:
        row = connection.execute(query, (SYMBOL,)).fetchone()
    assert row is not None
    return int(row[0])


def wait_volume(engine: Engine, venue: Venue) -> None:
    """Wait until the ticker's volume is that of the database: history and what came after it, each trade once."""
    deadline_s = time.monotonic() + WAIT_S
    while True:
        volume, settled = wait_shown(engine, venue)["volume_lots"], settled_volume(engine)
        if volume == settled or time.monotonic() > deadline_s:
            assert volume == settled > 0
            return
        time.sleep(0.05)


@pytest.mark.long
def test_depth_and_ticker_follow_a_replay(harmed: Engine, tmp_path: Path) -> None:
    """After a replay depth is the venue's book, and the ticker's best prices are its first levels."""
    venue = replay(harmed, tmp_path, 11)
    ticker = wait_shown(harmed, venue)
    bids, asks = venue.levels(1), venue.levels(-1)
    assert (ticker["best_bid_ticks"] * 100, ticker["best_bid_lots"]) == (max(bids), bids[max(bids)])
    assert (ticker["best_ask_ticks"] * 100, ticker["best_ask_lots"]) == (min(asks), asks[min(asks)])
    wait_volume(harmed, venue)


def test_killed_publisher_comes_back_to_the_books(harmed: Engine, tmp_path: Path) -> None:
    """A publisher that is killed is started again and shows books and volumes as they are, also what it missed."""
    harmed.kill_actor("publisher")
    venue = replay(harmed, tmp_path, 12)
    wait_volume(harmed, venue)


def test_publisher_that_was_lapped_catches_up(harmed: Engine, tmp_path: Path) -> None:
    """A publisher that stands still holds nobody back; when it goes on it was lapped, and still ends up right."""
    pid = harmed.actors()["publisher"]
    with harmed.standing_still("publisher"):
        venue = replay(harmed, tmp_path, 13)
    wait_volume(harmed, venue)
    assert harmed.actors()["publisher"] == pid
    with harmed.client() as client:
        metrics = client.get(f"{harmed.url}/metrics").text
    (lapped,) = [line for line in metrics.splitlines() if line.startswith("tradeengine_publisher_lapped")]
    assert np.float64(lapped.rpartition(" ")[2]) >= 1


def test_no_crossed_or_torn_book_is_ever_shown(harmed: Engine, tmp_path: Path) -> None:
    """While orders trade, whoever looks sees levels in order, best bid below best ask, and nothing empty."""
    finished = threading.Event()
    venues: list[Venue] = []

    def work() -> None:
        venues.append(replay(harmed, tmp_path, 14))
        finished.set()

    thread = threading.Thread(target=work)
    with open_client(harmed.data_dir) as wiring:
        symbol_id = read_directory(wiring.table("directory")).symbol_by_name[SYMBOL].symbol_id
        thread.start()
        seen = set()
        while not finished.is_set() and thread.is_alive():
            row = wiring.table("depth").read(symbol_id)
            bids, asks = row["bids"][: row["bid_count"]], row["asks"][: row["ask_count"]]
            assert (np.diff(bids[:, 0]) < 0).all()
            assert (np.diff(asks[:, 0]) > 0).all()
            assert (bids[:, 1] > 0).all()
            assert (asks[:, 1] > 0).all()
            if len(bids) and len(asks):
                assert bids[0, 0] < asks[0, 0]
            seen.add(int(row["sequence"]))
    thread.join()
    assert len(seen) > 10
    wait_shown(harmed, venues[0])
