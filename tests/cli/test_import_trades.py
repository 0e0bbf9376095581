"""``tradeengine import-trades``: the past from a file, once, with every bad row named."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from tests.engines import run_command, running_engine
from tests.storage.past import Made, Past, candles_of

from tradeengine.cli.errors import CommandError
from tradeengine.cli.import_trades import run_import
from tradeengine.core.feed import TimeFrame
from tradeengine.core.records import Side
from tradeengine.core.symbols import SymbolSpec
from tradeengine.core.times import format_ms
from tradeengine.settings_files import load_settings
from tradeengine.storage.candles import list_candles
from tradeengine.storage.past_trades import list_past_trades

BEGIN_MS = 1_570_752_011_620
NAME = "BTC/USDT"
Run = Callable[..., tuple[int, str, list[str]]]


@pytest.fixture
def past(dsn: str, symbol: SymbolSpec) -> Iterator[Past]:
    """Give the past of BTC/USDT, in which nothing happened yet."""
    opened = Past(dsn, symbol)
    yield opened
    opened.close()


@pytest.fixture
def run(past: Past, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Import text as a file; gives the exit status, what was printed, and the lines of standard error."""

    def work(text: str, symbol_name: str = NAME) -> tuple[int, str, list[str]]:
        file = tmp_path / "trades.csv"
        file.write_text(text, encoding="utf-8")
        settings = load_settings(overrides={"database.dsn": past.dsn}, environ={})
        status = run_import(settings, file, symbol_name)
        printed = capsys.readouterr()
        return status, printed.out, printed.err.splitlines()

    return work


def row_of(trade: Made) -> str:
    """Write a trade as a line without a header."""
    side = trade.taker_side.name.lower()
    return f"{trade.time_ms},{trade.price_ticks / 100:.2f},{trade.quantity_lots / 100_000:.5f},{side}\n"


def stored(database: psycopg.Connection) -> list[Made]:
    """All trades there are, in their order."""
    rows = list_past_trades(database, 0, limit=100_000)
    return [Made(row.timestamp_ms, row.price_ticks, row.quantity_lots, Side(row.taker_side)) for row in rows]


def test_file_is_imported_once(run: Run, connection: psycopg.Connection) -> None:
    """A file without a header goes in; again, and with more rows, only what is new is added."""
    trades = [Made(BEGIN_MS + number // 3 * 40_000, 5_000_000 + number, 1 + number % 2) for number in range(30)]
    text = "".join(map(row_of, trades))
    assert run(text) == (0, "imported   BTC/USDT: 30 rows read, 30 added, 0 known already, 0 bad\n", [])
    assert run(text) == (0, "imported   BTC/USDT: 30 rows read, 0 added, 30 known already, 0 bad\n", [])
    more = Made(BEGIN_MS + 1, 4_999_999, 5, Side.SELL)
    overlap = text[: len(text) // 2] + row_of(more)
    assert run(overlap, "btc-usdt")[1].endswith(": 16 rows read, 1 added, 15 known already, 0 bad\n")
    assert stored(connection) == sorted([*trades, more], key=lambda trade: trade.time_ms)


def test_columns_are_found_by_the_header(run: Run, connection: psycopg.Connection) -> None:
    """A venue's own file, with other columns and in another order, is read as it is."""
    text = (
        "timestamp,id,side,price,amount,cost\n"
        "1570752011620,13519807,sell,141.34,23.0,0.03250866\n"
        '"2019-10-11T00:00:12Z",13519808,Buy,141.26,54,0.07628364\n'
    )
    assert run(text)[0] == 0
    assert stored(connection) == [
        Made(BEGIN_MS, 14_134, 2_300_000, Side.SELL),
        Made(1_570_752_012_000, 14_126, 5_400_000, Side.BUY),
    ]


def test_order_of_lines_does_not_matter(run: Run, connection: psycopg.Connection, past: Past) -> None:
    """Newest first, or in no order: trades are stored in order of time and make the right candles."""
    trades = [Made(BEGIN_MS + number * 7_000, 5_000_000 + number * 7 % 11, 1) for number in range(60)]
    for lines in (trades[::-1], random.Random(3).sample(trades, len(trades))):
        assert run("".join(map(row_of, lines)))[0] == 0
        assert stored(connection) == trades
    assert list_candles(connection, 0, TimeFrame.M1, limit=100) == candles_of(trades, past.spec, 60_000)


def test_bad_rows_are_named_and_the_rest_goes_in(run: Run, connection: psycopg.Connection) -> None:
    """Each bad row is named by its line number and reason; the others are imported, and the status is 1."""
    good = [Made(BEGIN_MS + number, 5_000_000, 1) for number in range(3)]
    text = (
        "time,price,quantity,side\n"
        + row_of(good[0])
        + "yesterday,1,1,buy\n\n"
        + row_of(good[1])
        + "1570752011,50000.001,1,buy\n1570752011,50000,0.000001,buy\n1570752011,1,1\n1570752011,1,1,both\n"
        + row_of(good[2])
        + '1570752011,"1,1,buy\n9999999999,1,1,buy\n'
    )
    status, printed, errors = run(text)
    assert (status, printed) == (1, "imported   BTC/USDT: 10 rows read, 3 added, 0 known already, 7 bad\n")
    assert [line.partition(": ")[0] for line in errors] == [f"line {number}" for number in (3, 6, 7, 8, 9, 11, 12)]
    assert "time 'yesterday' is wrong" in errors[0]
    assert errors[1].endswith("price 50000.001 is not a multiple of the tick 0.01")
    assert errors[2].endswith("quantity 0.000001 is not a multiple of the lot 0.00001")
    assert errors[3].endswith("has 3 columns of 4")
    assert errors[4].endswith("side 'both' is neither buy nor sell")
    assert errors[6].endswith("is in the future")
    assert stored(connection) == good


@pytest.mark.parametrize("text", ["", "\n\n", "time,price,quantity,side\n"])
def test_empty_file_adds_nothing(text: str, run: Run) -> None:
    """A file without rows is no error."""
    assert run(text) == (0, "imported   BTC/USDT: 0 rows read, 0 added, 0 known already, 0 bad\n", [])


def test_rows_after_the_first_own_trade_are_refused(run: Run, past: Past, connection: psycopg.Connection) -> None:
    """History ends where the engine's own trades begin; up to there also their minute takes imported ones."""
    own = Made(1_760_000_000_500, 5_000_000, 1)
    past.trade([own])
    brought = [Made(own.time_ms - 400, 5_000_300, 2), Made(own.time_ms, 5_000_200, 2)]
    late = own._replace(time_ms=own.time_ms + 1)
    status, printed, errors = run("".join(map(row_of, [*brought, late])))
    assert (status, "2 added" in printed) == (1, True)
    assert errors == [
        f"line 3: time {format_ms(late.time_ms)} is too late: history ends where the engine's own trades begin, "
        f"at {format_ms(own.time_ms)}"
    ]
    assert stored(connection) == [*brought, own]
    assert list_candles(connection, 0, TimeFrame.M1, limit=9) == candles_of([*brought, own], past.spec, 60_000)


def test_what_cannot_be_imported_is_refused_in_one_line(run: Run, tmp_path: Path) -> None:
    """A symbol that is not listed, a header that lacks a column, a folder without an engine: said, and nothing done."""
    with pytest.raises(CommandError, match=r"symbol XRP/ETH is not listed: there are BTC/USDT$"):
        run("1570752011620,1,1,buy\n", "XRP/ETH")
    with pytest.raises(CommandError, match="the header has no column side"):
        run("time,price,amount\n")
    settings = load_settings(overrides={"engine.data_dir": str(tmp_path)}, environ={})
    with pytest.raises(CommandError, match="no engine was ever started"):
        run_import(settings, tmp_path / "trades.csv", NAME)
    result = run_command("import-trades", "none.csv", "--symbol", NAME, "--data-dir", str(tmp_path))
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith("tradeengine: no engine was ever started")


@pytest.mark.long
def test_import_works_beside_an_engine_and_without_one(data_dir: Path, tmp_path: Path) -> None:
    """The database of a running engine is found, and that of a stopped one is started for it."""
    file = tmp_path / "trades.csv"
    file.write_text("1570752011620,50000.00,1,buy\n1570752011621,50000.00,x,buy\n")
    command = ("import-trades", str(file), "--symbol", NAME, "--data-dir", str(data_dir))
    with running_engine(data_dir) as engine:
        result = run_command(*command)
        assert (result.returncode, result.stdout.split(": ")[1]) == (
            1,
            "2 rows read, 1 added, 0 known already, 1 bad\n",
        )
        assert (
            result.stderr == "line 2: quantity 'x' is wrong: must be a plain decimal like \"0.25\", without exponent\n"
        )
        with engine.client() as client:
            (candle,) = client.get("/candles/BTC-USDT", params={"tf": "1d"}).json()["data"]
        assert (candle["time"], candle["volume"]) == ("2019-10-11T00:00:00.000Z", "1.00000")
    result = run_command(*command)
    assert result.stdout == "imported   BTC/USDT: 2 rows read, 0 added, 1 known already, 1 bad\n"
