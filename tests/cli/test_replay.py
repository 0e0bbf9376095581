"""``tradeengine replay``: recorded flow through a running engine, every command accounted for, books as recorded."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import psycopg
import pytest
from tests.cli.venue import Venue
from tests.engines import Engine, run_command, running_engine

ROWS = 1500


class Replayed:
    """A made-up venue's recording, and the report of its replay on a symbol."""

    def __init__(self, engine: Engine, folder: Path, symbol: str, seed: int, rows: int = ROWS) -> None:
        self.engine = engine
        self.symbol = symbol
        self.venue = Venue(seed, count=rows)
        self.file = self.venue.write(folder / f"venue-{seed}.csv")
        self.touch_file = folder / f"touch-{seed}.csv"
        self.report = self.replay()

    def replay(self) -> dict[str, Any]:
        """Replay the recording; returns the report."""
        options = ("--symbol", self.symbol, "--touch-out", str(self.touch_file), "--json")
        result = self.engine.command("replay", str(self.file), *options)
        assert result.returncode == 0, result.stderr
        report: dict[str, Any] = json.loads(result.stdout)
        return report

    def touch(self) -> list[tuple[int, ...]]:
        """Return the recorded states of the replay."""
        return [tuple(map(int, line.split(","))) for line in self.touch_file.read_text(encoding="ascii").splitlines()]


def book(engine: Engine, symbol: str) -> dict[int, dict[int, int]]:
    """Sizes by price (× 10,000) of both sides, by direction, as the API shows them."""
    with engine.client() as client:
        data = client.get(f"/orderbook/{symbol.replace('/', '-')}", params={"depth": 1000}).json()["data"]
    return {
        direction: {round(float(price) * 10_000): int(float(quantity)) for price, quantity in data[side]}
        for direction, side in ((1, "bids"), (-1, "asks"))
    }


@pytest.fixture(scope="module")
def replayed(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Replayed:
    """Replay one recording for the tests that look at what it left."""
    return Replayed(engine, tmp_path_factory.mktemp("replay"), "VENUE/USD", 1)


def test_every_command_is_answered_and_none_refused(replayed: Replayed) -> None:
    """Rows are steps or skipped, steps are commands, and each command has an answer that is no refusal."""
    report, venue = replayed.report, replayed.venue
    hidden = sum(row[1] == 5 for row in venue.rows)
    assert report["rows"] == len(venue.rows)
    assert report["rows_skipped"] == {"hidden_execution": hidden}
    assert report["steps"] == len(venue.rows) - hidden + report["orders_entered"]
    assert report["steps_skipped"] == {}
    assert sum(report["answers"].values()) == report["commands"] >= report["steps"]
    assert not [answer for answer in report["answers"] if "refused" in answer or "rejected" in answer]
    assert (report["executions_not_filled"], report["submissions_that_traded"], report["retried"]) == (0, 0, 0)
    assert set(report["latency_us"]) == {"p50", "p90", "p99", "p99.9"}


def test_best_bid_and_ask_follow_the_recording(replayed: Replayed) -> None:
    """State by state the best bid and ask are the recorded ones, though executions hit other orders of their level."""
    assert replayed.venue.jumped_count > 0
    assert replayed.report["fills_of_another_order"] > 0
    assert replayed.touch() == replayed.venue.distinct_states()


def test_book_over_http_is_the_venues(replayed: Replayed) -> None:
    """Afterwards the engine shows exactly the levels that the recording ends with."""
    assert book(replayed.engine, replayed.symbol) == {side: replayed.venue.levels(side) for side in (1, -1)}


def test_trades_in_the_database_are_the_recorded_executions(replayed: Replayed) -> None:
    """Settled trades have the recorded quantity, and no asset's ledger is out of balance."""
    query = "SELECT count(*), sum(quantity_lots) FROM trades JOIN symbols ON symbols.id = symbol_id WHERE name = %s"
    executed_lots = sum(row[3] for row in replayed.venue.rows if row[1] == 4)
    deadline_s = time.monotonic() + 30
    settled: tuple[Any, ...] | None = None
    with psycopg.connect(replayed.engine.dsn, autocommit=True) as connection:
        # What the replay has seen may still be on its way into the database.
        while settled != (replayed.report["trades"], executed_lots) and time.monotonic() < deadline_s:
            settled = connection.execute(query, (replayed.symbol,)).fetchone()
        sums = connection.execute("SELECT sum(amount_units) FROM postings GROUP BY asset_id").fetchall()
    assert settled == (replayed.report["trades"], executed_lots)
    assert {int(total) for (total,) in sums} == {0}


def test_second_replay_begins_with_an_empty_book(replayed: Replayed) -> None:
    """Orders that an earlier replay left are cancelled first; then everything goes as before."""
    open_orders = len(replayed.venue.book)
    report = replayed.replay()
    assert report["leftover_orders_cancelled"] >= open_orders > 0
    assert {name: report[name] for name in ("commands", "answers", "trades")} == {
        name: replayed.report[name] for name in ("commands", "answers", "trades")
    }
    assert replayed.touch() == replayed.venue.distinct_states()


def test_recorded_speed_is_kept(engine: Engine, tmp_path: Path) -> None:
    """With --speed nothing goes out before its time: the last step at the recorded distance from the first."""
    file = tmp_path / "slow.csv"
    file.write_text("34200.0,1,10,5,1000000,1\n34201.5,3,10,5,1000000,1\n", encoding="ascii")
    result = engine.command("replay", str(file), "--symbol", "SLOW/USD", "--speed", "3", "--json")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["elapsed_s"] >= 0.5


def test_report_is_readable(engine: Engine, tmp_path: Path) -> None:
    """Without --json the report is a table that names counts, answers and percentiles; rows can be limited."""
    file = tmp_path / "few.csv"
    file.write_text("1.0,1,10,5,1000000,1\n1.1,1,11,5,1000000,1\n1.2,7,0,0,-1,-1\n", encoding="ascii")
    result = engine.command("replay", str(file), "--symbol", "FEW/USD", "--rows", "2")
    assert result.returncode == 0, result.stderr
    for said in ("replay of few.csv on FEW/USD", "place accepted none", "latency us: p99", "commands per s"):
        assert said in result.stdout


@pytest.mark.parametrize(
    ("content", "options", "said"),
    [
        ("not,a,message\n", (), "line 1 is no LOBSTER message"),
        ("1.0,1,10,5,1000050,1\n", (), "no multiple of the tick"),
        ("1.0,1,10,5,1000000,1\n", ("--remove-before", "1"), "must be ROW:ORDER_ID"),
        ("1.0,1,10,5,1000000,1\n", ("--remove-before", "0:99"), "cannot remove order 99"),
        ("1.0,1,10,5,1000000,1\n", ("--symbol", "WRONG"), "write it like AAPL/USD"),
        ("1.0,1,10,5,1000000,1\n", ("--tick", "0.00001"), "whose prices have 4 places"),
        ("1.0,1,10,5,1000000,1\n", ("--tick", "0"), "must be more than 0"),
    ],
)
def test_what_cannot_be_replayed_is_refused_in_one_line(
    engine: Engine, tmp_path: Path, content: str, options: tuple[str, ...], said: str
) -> None:
    """A bad file, option or symbol ends the command with status 1 and one line that says what is wrong."""
    file = tmp_path / "bad.csv"
    file.write_text(content, encoding="ascii")
    result = engine.command("replay", str(file), "--symbol", "BAD/USD", *options)
    assert (result.returncode, result.stdout) == (1, "")
    assert said in result.stderr
    assert result.stderr.count("\n") == 1
    with engine.client() as client:
        names = [symbol["symbol"] for symbol in client.get("/symbols").json()["data"]]
    assert "BAD/USD" not in names


def test_missing_file_and_missing_engine_are_named(engine: Engine, tmp_path: Path) -> None:
    """A file that is not there, and an engine that does not run, are said so."""
    result = engine.command("replay", str(tmp_path / "nothing.csv"), "--symbol", "A/B")
    assert result.returncode == 1
    assert "nothing.csv cannot be read: No such file" in result.stderr
    file = tmp_path / "one.csv"
    file.write_text("1.0,1,10,5,1000000,1\n", encoding="ascii")
    result = run_command("replay", str(file), "--symbol", "A/B", "--data-dir", str(tmp_path / "none"))
    assert result.returncode == 1
    assert "no engine is running" in result.stderr


SMALL_RINGS = {
    "TRADEENGINE_RINGS_EVENTS_SLOTS": "1024",
    "TRADEENGINE_RINGS_RISK_EVENTS_SLOTS": "256",
    "TRADEENGINE_RINGS_COMMANDS_SLOTS": "256",
    "TRADEENGINE_RINGS_INGRESS_SLOTS": "256",
    "TRADEENGINE_RINGS_RESERVE_SLOTS": "32",
    "TRADEENGINE_SETTLEMENT_BACKLOG_EVENTS_MAX": "256",
}


@pytest.mark.long
def test_replay_waits_for_backlog_and_its_book_survives_a_restart(data_dir: Path, tmp_path: Path) -> None:
    """With rings that are full in no time nothing is lost or refused; a restarted engine shows the same book."""
    with running_engine(data_dir, environment=SMALL_RINGS) as engine:
        replayed = Replayed(engine, tmp_path, "VENUE/USD", 7, rows=600)
        assert replayed.touch() == replayed.venue.distinct_states()
        refused = [answer for answer in replayed.report["answers"] if "refused" in answer or "rejected" in answer]
        assert refused == []
        expected = {side: replayed.venue.levels(side) for side in (1, -1)}
        assert book(engine, replayed.symbol) == expected
    with running_engine(data_dir, environment=SMALL_RINGS) as engine:
        assert book(engine, "VENUE/USD") == expected
