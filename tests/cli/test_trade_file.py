"""Files of trades: which headers and numbers are understood, and what is said of the others."""

from __future__ import annotations

import pytest
from tests.postgres import btc_usdt

from tradeengine.cli.trade_file import (
    Columns,
    FileError,
    LineError,
    ParsedTrade,
    TradeParser,
    parse_time,
    read_header,
    split_line,
)
from tradeengine.core.symbols import AssetSpec

NOW_MS = 1_790_000_000_000
SPEC = btc_usdt(AssetSpec(1, "BTC", 8), AssetSpec(0, "USDT", 8))
PARSER = TradeParser(SPEC, Columns(), NOW_MS, "is in the future")


@pytest.mark.parametrize(
    ("text", "time_ms"),
    [
        ("1570752011620", 1_570_752_011_620),
        ("1570752011", 1_570_752_011_000),
        ("1570752011.62", 1_570_752_011_620),
        ("1570752011.6209999", 1_570_752_011_620),
        ("1570752011620.0", 1_570_752_011_620),
        ("99999999999", 99_999_999_999_000),
        ("100000000000", 100_000_000_000),
        ("2019-10-11T00:00:11.620Z", 1_570_752_011_620),
        ("2019-10-11T02:00:11.6209+02:00", 1_570_752_011_620),
        ("2019-10-11T00:00:11Z", 1_570_752_011_000),
    ],
)
def test_times_are_read_in_three_forms(text: str, time_ms: int) -> None:
    """RFC 3339, seconds and milliseconds are told apart, and nothing is rounded up."""
    assert parse_time(text) == time_ms


def test_time_that_is_called_milliseconds_is_never_seconds() -> None:
    """Under the name timestamp_ms a small number is an early moment."""
    assert parse_time("1570752011", in_ms=True) == 1_570_752_011


@pytest.mark.parametrize(
    "text", ["", "x", "0", "-5", "1e12", "2019-10-11", "2019-10-11 00:00:11", "2019-13-11T00:00:11Z", "9" * 16, "１２"]
)
def test_other_times_are_refused(text: str) -> None:
    """What is no time, or none that a trade can have, is refused by what stands there."""
    with pytest.raises(LineError, match=r"^time "):
        parse_time(text)


@pytest.mark.parametrize(
    ("header", "columns"),
    [
        ("time,price,quantity,side", Columns((0, 1, 2, 3))),
        ("timestamp,id,side,price,amount,cost", Columns((0, 3, 4, 2))),
        (" Taker_Side ,SIZE,Price,timestamp_ms", Columns((3, 2, 1, 0), in_ms=True)),
    ],
)
def test_header_says_where_columns_stand(header: str, columns: Columns) -> None:
    """Known names are found in any order and letter case, others are passed over."""
    assert read_header(header.split(",")) == columns


def test_line_of_values_is_no_header() -> None:
    """A first line without any known name is a row."""
    assert read_header(["1570752011620", "0.1", "3", "buy"]) is None


@pytest.mark.parametrize(
    ("header", "said"),
    [("time,price,side", "no column quantity"), ("time,price,amount,size,side", "more than one column for quantity")],
)
def test_header_that_lacks_a_column_is_refused(header: str, said: str) -> None:
    """Without all four columns, each once, no row could be read."""
    with pytest.raises(FileError, match=said):
        read_header(header.split(","))


def test_row_becomes_ticks_and_lots() -> None:
    """Numbers are exact, whatever zeros follow; spaces and letter case do not count."""
    expected = ParsedTrade(1_570_752_011_620, 5_000_012, 150_000, taker_buys=False)
    assert PARSER.parse(["1570752011620", " 50000.120000000000", "1.50 ", "SELL"]) == expected


@pytest.mark.parametrize(
    ("cells", "said"),
    [
        (["1570752011", "50000.125", "1", "buy"], "price 50000.125 is not a multiple of the tick 0.01"),
        (["1570752011", "50000", "0.000005", "buy"], "quantity 0.000005 is not a multiple of the lot 0.00001"),
        (["1570752011", "5e4", "1", "buy"], "price '5e4' is wrong: must be a plain decimal"),
        (["1570752011", "-5", "1", "buy"], "price '-5' is wrong: must not be negative"),
        (["1570752011", "0.00", "1", "buy"], "price 0.00 is not more than 0"),
        (["1570752011", "5", "0", "buy"], "quantity 0 is not more than 0"),
        (["1570752011", "5", "", "buy"], "quantity '' is wrong"),
        (["1570752011", "9" * 30, "1", "buy"], "is too large"),
        (["1570752011", "1", "9" * 30, "buy"], "is too large"),
        (["1570752011", "40000000000", "1000000000", "buy"], "× quantity 1000000000 is too large"),
        (["1570752011", "5", "1", "hold"], "side 'hold' is neither buy nor sell"),
        (["1570752011", "5", "1"], "has 3 columns of 4"),
        (["1790000000001", "5", "1", "buy"], "time 2026-09-21T14:13:20.001Z is in the future"),
    ],
)
def test_bad_row_is_named_by_its_fault(cells: list[str], said: str) -> None:
    """Whatever is wrong with a row is said with the value that is wrong."""
    with pytest.raises(LineError) as caught:
        PARSER.parse(cells)
    assert said in str(caught.value)


def test_lines_are_cut_as_csv() -> None:
    """Quotes, a byte order mark and any end of line are understood; what is no text or no CSV is a bad line."""
    assert split_line(b'\xef\xbb\xbftime,"a ""b"", c"\r\n') == ["time", 'a "b", c']
    assert split_line(b"1,2\n") == ["1", "2"]
    assert split_line(b"  \n") == []
    with pytest.raises(LineError, match="UTF-8"):
        split_line(b"\xff,1\n")
    with pytest.raises(LineError, match="is not CSV"):
        split_line(b'"never closed,1\n')
