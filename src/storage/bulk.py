"""Numpy arrays in PostgreSQL's binary formats: whole tables in and out without a Python object per row.

Three forms, all made of fields that are a big-endian length followed by the value: rows for COPY in, rows from COPY
out, and arrays as parameters of a statement (``unnest`` turns them into rows again).

Rule 1: a row is laid out once at its widest, as a numpy record; where texts are shorter or values are NULL, a mask
takes out the bytes that are too many. Rows without either need no mask.
Rule 2: what comes out is fixed in width: the query pads its texts, so that one view decodes all rows.
It refuses to know tables.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any, Final, NamedTuple, NoReturn

import numpy as np
import psycopg
from numpy.typing import NDArray
from psycopg.adapt import Dumper
from psycopg.pq import Format

Bytes = NDArray[np.uint8]
Connection = psycopg.Connection[Any]

COPY_HEADER: Final = b"PGCOPY\n\xff\r\n\0" + struct.pack(">ii", 0, 0)
COPY_TRAILER: Final = struct.pack(">h", -1)
_LAST_SIZES: Final = (len(COPY_TRAILER), len(COPY_HEADER + COPY_TRAILER))
"""Of what rows end with; the header comes with the first row, or with the end. A row may have this size, too."""
POSTGRES_ORIGIN_US: Final = 946_684_800_000_000
"""2000-01-01T00:00Z in microseconds since 1970."""

_BOOL, _CHAR, _INT8, _INT2, _INT4, _TEXT, _TIMESTAMPTZ = 16, 18, 20, 21, 23, 25, 1184
_ARRAY_OIDS: Final = {_BOOL: 1000, _CHAR: 1002, _INT8: 1016, _INT2: 1005, _INT4: 1007, _TEXT: 1009, _TIMESTAMPTZ: 1185}


class Column(NamedTuple):
    """One column: values as they go out (``S`` arrays are texts, as long as they are), and where they are NULL."""

    oid: int
    values: NDArray[Any]
    null: NDArray[np.bool_] | None = None


def int8(values: NDArray[Any], null: NDArray[np.bool_] | None = None) -> Column:
    """Make a bigint column."""
    return Column(_INT8, values.astype(">i8"), null)


def int4(values: NDArray[Any]) -> Column:
    """Make an integer column."""
    return Column(_INT4, values.astype(">i4"))


def int2(values: NDArray[Any]) -> Column:
    """Make a smallint column."""
    return Column(_INT2, values.astype(">i2"))


def boolean(values: NDArray[Any]) -> Column:
    """Make a boolean column."""
    return Column(_BOOL, values.astype("u1"))


def char(values: NDArray[Any]) -> Column:
    """Make a column of PostgreSQL's one-byte ``"char"``; values: ASCII codes."""
    return Column(_CHAR, values.astype("u1"))


def text(values: NDArray[np.bytes_], null: NDArray[np.bool_] | None = None) -> Column:
    """Make a text column, or one of an enumeration's labels; values: ``S`` array in UTF-8."""
    return Column(_TEXT, values, null)


def timestamp(timestamp_ns: NDArray[Any], null: NDArray[np.bool_] | None = None) -> Column:
    """Make a timestamptz column from nanoseconds since 1970; what is finer than a microsecond is cut off."""
    return Column(_TIMESTAMPTZ, (timestamp_ns // 1000 - POSTGRES_ORIGIN_US).astype(">i8"), null)


def copy_in(connection: Connection, table: str, columns: dict[str, Column]) -> int:
    """Append rows to a table; all columns have the same length. Returns how many rows went in."""
    count = len(next(iter(columns.values())).values)
    if count == 0:
        return 0
    statement = f"COPY {table} ({', '.join(columns)}) FROM STDIN (FORMAT BINARY)"
    with connection.cursor() as cursor, cursor.copy(statement) as copy:
        copy.write(COPY_HEADER)
        copy.write(_encode(list(columns.values()), with_count=True).tobytes())
        copy.write(COPY_TRAILER)
    return count


def copy_out(connection: Connection, query: str, fields: dict[str, str]) -> NDArray[np.void]:
    """Read the rows of a query into one structured array, little-endian, ready for compiled code.

    fields: name and numpy type of each column in order. ``i8``, ``i4``, ``i2``, ``u1`` take bigint, integer, smallint
    and boolean; ``S36`` takes a text that the query padded to 36 characters with spaces. No value may be NULL.
    query: with its parameters in it. Raises ValueError when a row does not have this layout.
    """
    with connection.cursor() as cursor, cursor.copy(f"COPY ({query}) TO STDOUT (FORMAT BINARY)") as copy:
        data = b"".join(_blocks(connection, copy))
    return _decode(data, fields)


def _blocks(connection: Connection, copy: psycopg.Copy) -> list[bytes]:
    """Read all that a COPY sends, a row each.

    What has arrived is taken from the connection's buffer at once: to ask for every row as if it had to be waited for
    costs several times what sending it costs.
    """
    take = connection.pgconn.get_copy_data
    blocks: list[bytes] = []
    while block := copy.read():
        blocks.append(bytes(block))
        size = len(block)
        # Behind the trailer is the statement's result, which is not ours to take.
        while size not in _LAST_SIZES:
            size, block = take(1)
            if size == 0:
                break
            if size < 0:
                _raise_broken(connection)
            blocks.append(bytes(block))
    return blocks


def _raise_broken(connection: Connection) -> NoReturn:
    """Raise why a COPY ended in the middle."""
    results = []
    while (result := connection.pgconn.get_result()) is not None:
        results.append(result)
    if not results:
        raise psycopg.OperationalError("the server ended the rows without a word")
    raise psycopg.errors.error_from_result(results[0])


class Array:
    """A column as one parameter: ``unnest(%b)`` makes rows of it."""

    __slots__ = ("data",)

    def __init__(self, column: Column) -> None:
        has_null = column.null is not None
        head = struct.pack(">iiIii", 1 if len(column.values) else 0, has_null, column.oid, len(column.values), 1)
        self.data = head + _encode([column], with_count=False).tobytes() if len(column.values) else head[:12]

    @staticmethod
    def of(column: Column) -> Array:
        """Make the parameter, as the type that its column has in PostgreSQL."""
        return _ARRAYS[column.oid](column)


def register_arrays(connection: Connection) -> None:
    """Teach a connection to send ``Array`` parameters."""
    for oid, kind in _ARRAYS.items():
        connection.adapters.register_dumper(kind, _make_dumper(_ARRAY_OIDS[oid]))


def _make_dumper(array_oid: int) -> type[Dumper]:
    class ArrayDumper(Dumper):
        format = Format.BINARY
        oid = array_oid

        def dump(self, obj: Array) -> bytes:
            return obj.data

    return ArrayDumper


# psycopg chooses how to send a parameter by its class, so each element type has a class of its own.
_ARRAYS: Final[dict[int, type[Array]]] = {oid: type(f"Array{oid}", (Array,), {"__slots__": ()}) for oid in _ARRAY_OIDS}


def _encode(columns: Sequence[Column], *, with_count: bool) -> Bytes:
    count = len(columns[0].values)
    assert all(len(column.values) == count for column in columns)
    layout: list[tuple[str, Any]] = [("count", ">i2")] if with_count else []
    for index, column in enumerate(columns):
        layout += [(f"length{index}", ">i4"), (f"value{index}", column.values.dtype)]
    rows = np.empty(count, np.dtype(layout))
    if with_count:
        rows["count"] = len(columns)
    mask: NDArray[np.bool_] | None = None
    for index, column in enumerate(columns):
        width = column.values.dtype.itemsize
        lengths: NDArray[Any] | int = width
        if column.oid == _TEXT:
            lengths = np.char.str_len(column.values)
        if column.null is not None:
            lengths = np.where(column.null, 0, lengths)
        rows[f"value{index}"] = column.values
        rows[f"length{index}"] = lengths if column.null is None else np.where(column.null, -1, lengths)
        if not isinstance(lengths, int):
            if mask is None:
                mask = np.ones((count, rows.dtype.itemsize), np.bool_)
            assert rows.dtype.fields is not None
            start = rows.dtype.fields[f"value{index}"][1]
            mask[:, start : start + width] = np.arange(width) < lengths[:, None]
    matrix = rows.view(np.uint8).reshape(count, rows.dtype.itemsize)
    return matrix.reshape(-1) if mask is None else matrix[mask]


def _decode(data: bytes, fields: dict[str, str]) -> NDArray[np.void]:
    layout: list[tuple[str, str]] = [("_count", ">i2")]
    for name, kind in fields.items():
        layout += [(f"_length_{name}", ">i4"), (name, kind if kind[0] in "Su" else f">{kind}")]
    raw = np.dtype(layout)
    count, rest = divmod(len(data) - len(COPY_HEADER) - len(COPY_TRAILER), raw.itemsize)
    if rest:
        raise ValueError("the rows do not have the layout that was asked for")
    rows = np.frombuffer(data, raw, count, len(COPY_HEADER))
    decoded = np.empty(
        count, np.dtype([(name, kind if kind[0] == "S" else f"<{kind}") for name, kind in fields.items()])
    )
    for name in fields:
        if (rows[f"_length_{name}"] != raw[name].itemsize).any():
            raise ValueError(f"column {name} is NULL or not {fields[name]} in some row")
        values = rows[name]
        if fields[name][0] == "S":
            characters = values.copy().view("u1")
            characters[characters == ord(" ")] = 0
            values = characters.view(raw[name])
        decoded[name] = values
    return decoded
