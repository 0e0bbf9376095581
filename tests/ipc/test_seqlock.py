"""Seqlocked tables: whole rows or none, bounded reads, and rows that come back with their writer."""

import os

import numpy as np
import pytest
from tests.ipc.processes import Fd, Given, child, kill_self

from tradeengine.core.tables import directory_dtype, touch_dtype
from tradeengine.ipc.seqlock import SeqlockBusy, SeqlockError, SeqlockTable

# Every word of a row repeats its number: a torn row shows.
row_dtype = np.dtype([("words", "<i8", (200,))])


def make_table() -> SeqlockTable:
    """Make a table of eight rows."""
    return SeqlockTable.create("balances", row_dtype, 8)


def test_rows_are_what_was_written_last() -> None:
    """A row reads as it was written last, through any mapping; rows never written are zero."""
    table = SeqlockTable.create("touch", touch_dtype, 4)
    reader = SeqlockTable.attach(table.segment.read_only_descriptor(), touch_dtype, writable=False)
    records = np.zeros(2, touch_dtype)
    records["sequence"], records["listed"] = [5, 6], 1
    table.write_rows([3, 1], records)
    assert reader.read(3) == records[0]
    assert reader.read_rows(np.array([0, 1, 3]))["sequence"].tolist() == [0, 6, 5]
    table.write(3, records[1])
    assert reader.read(3)["sequence"] == 6
    assert len(reader.read_rows([])) == 0


def test_neighbours_share_no_cache_line() -> None:
    """Rows lie on cache lines of their own, and writing one leaves the others and their versions as they are."""
    table = make_table()
    table.write(3, (7,))
    assert [table.version(row) for row in range(8)] == [0, 0, 0, 2, 0, 0, 0, 0]
    assert [int(table.read(row)["words"].sum()) for row in (2, 3, 4)] == [0, 1400, 0]
    assert table.segment.size % 64 == 0


@pytest.mark.parametrize("row", [-1, 8, 1 << 40])
def test_row_outside_is_refused(row: int) -> None:
    """A row that does not exist is an IndexError in every call, and nothing is written."""
    table = make_table()
    with pytest.raises(IndexError):
        table.read(row)
    with pytest.raises(IndexError):
        table.write_rows([0, row], np.ones(2, row_dtype))
    with pytest.raises(IndexError):
        table.version(row)
    with pytest.raises(IndexError), table.writing(row):
        pass
    assert table.version(0) == 0


def test_part_of_a_row_is_written_and_read_in_place() -> None:
    """Of a large row only a part need be written and copied."""
    table = SeqlockTable.create("directory", directory_dtype, 1)
    with table.writing(0) as record:
        assert table.version(0) & 1
        record["byte_count"] = 5
        record["data"][:5] = np.frombuffer(b"names", np.uint8)
    assert table.read_with(0, lambda row: bytes(row["data"][: row["byte_count"]])) == b"names"
    assert table.version(0) == 2


def test_failed_copy_is_reported() -> None:
    """An error of the reader's own is his to see, when the row did not change under him."""
    table = make_table()
    with pytest.raises(ZeroDivisionError):
        table.read_with(0, lambda row: 1 // int(row["words"][0]))


def test_row_of_a_dead_writer_is_busy_until_written_again() -> None:
    """A row whose writer died in the middle is refused after a bounded time, and repaired by the next write."""
    table = make_table()
    table.write(5, (1,))
    with child(die_writing, Fd(table.fd), 5) as writer:
        writer.join()
        assert writer.exitcode == -9
    assert table.torn_rows() == [5]
    with pytest.raises(SeqlockBusy) as busy:
        table.read_rows([4, 5])
    assert busy.value.row == 5
    with pytest.raises(SeqlockBusy):
        table.read_with(5, lambda row: int(row["words"][0]))
    assert int(table.read(4)["words"][0]) == 0
    table.write(5, (3,))
    assert table.torn_rows() == []
    assert (table.read(5)["words"] == 3).all()


def test_failed_write_leaves_the_row_torn() -> None:
    """A block that fails while it writes a row leaves it marked: nobody reads half of it."""
    table = make_table()
    with pytest.raises(KeyError), table.writing(2):
        raise KeyError
    assert table.torn_rows() == [2]


def test_reader_never_sees_half_a_row() -> None:
    """While a writer rewrites rows without pause, and is killed and replaced, every row that is read is whole."""
    table = make_table()
    reader = SeqlockTable.attach(table.segment.read_only_descriptor(), row_dtype, writable=False)
    rows, busy_count = np.arange(8), 0
    for _ in range(10):
        version = table.version(0)
        with child(rewrite, Fd(table.fd)) as writer:
            while table.version(0) <= version + 2:
                pass
            for _ in range(300):
                try:
                    words = reader.read_rows(rows)["words"]
                    whole = reader.read_with(7, lambda row: row["words"].copy())
                except SeqlockBusy:
                    busy_count += 1
                    continue
                assert (words == words[:, :1]).all()
                assert (whole == whole[0]).all()
            writer.kill()
            writer.join()
        for row in table.torn_rows():
            table.write(row, (-1,))
        words = reader.read_rows(rows)["words"]
        assert (words == words[:, :1]).all()
    assert busy_count < 3000


def test_other_table_is_refused() -> None:
    """A table is attached with the layout it was made with, or not at all."""
    table = make_table()
    with pytest.raises(SeqlockError, match="other rows"):
        SeqlockTable.attach(os.dup(table.fd), touch_dtype, writable=True)


def rewrite(fd: Given) -> None:
    """Write all rows for ever."""
    table = SeqlockTable.attach(fd(), row_dtype, writable=True)
    rows, records, number = np.arange(8), np.zeros(8, row_dtype), 0
    while True:
        number += 1
        records["words"] = number
        table.write_rows(rows, records)


def die_writing(fd: Given, row: int) -> None:
    """Write half a row and die."""
    table = SeqlockTable.attach(fd(), row_dtype, writable=True)
    with table.writing(row) as record:
        record["words"][:100] = 2
        kill_self()
