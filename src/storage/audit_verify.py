"""Whether the audit log is what was written: every row, one after the other, and the anchors outside of the database.

Rule 1: it needs no trust in the database: only the rows' contents count, and hashes made of them anew.
Rule 2: memory is bounded: a page of rows at a time, and a file of anchors that is bounded itself.
Rule 3: the first row that is wrong is named; what comes after it can no longer be told.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import psycopg

from tradeengine.storage.audit import GENESIS, Link, Row, rows_after, seal, to_row

PAGE_ROWS: Final = 5000
BEGINNING: Final = Link(0, GENESIS)

Connection = psycopg.Connection[Any]


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong first. kind: missing, altered, replaced, rewritten, cut, unanchored."""

    kind: str
    row_id: int
    message: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """How many rows were right from the beginning on, the last of them, and what came then."""

    row_count: int
    head: Link
    anchor_count: int
    fault: Fault | None


def verify(connection: Connection, anchors: Sequence[Link], *, after: Link = BEGINNING) -> Verdict:
    """Walk the log. anchors: read before this is called, so that none is newer than the rows that are read.

    after: begin behind a row that was right when somebody looked before; ``row_count`` counts from there. When that row
    is no longer the same, all is walked.
    """
    if after != BEGINNING and not _is_there(connection, after):
        return verify(connection, [*anchors, after])
    anchored = {link.id: link.hash for link in anchors if link.id > after.id}
    row_count, last = 0, after
    for raw in _all_rows(connection, after.id):
        fault = _fault_of(raw, last, anchored)
        if fault is not None:
            return Verdict(row_count, last, len(anchors), fault)
        row_count, last = row_count + 1, Link(raw[0], bytes(raw[4]))
    return Verdict(row_count, last, len(anchors), _fault_at_end(last, anchors))


def _is_there(connection: Connection, link: Link) -> bool:
    found = rows_after(connection, link.id - 1, 1)
    return bool(found) and (found[0][0], found[0][4]) == (link.id, link.hash)


def _all_rows(connection: Connection, after_id: int) -> Iterator[tuple[Any, ...]]:
    while page := rows_after(connection, after_id, PAGE_ROWS):
        yield from page
        after_id = page[-1][0]


def _fault_of(raw: tuple[Any, ...], last: Link, anchored: dict[int, bytes]) -> Fault | None:
    row_id = raw[0]
    if row_id != last.id + 1:
        gone = f"row {last.id + 1} is" if row_id == last.id + 2 else f"rows {last.id + 1} to {row_id - 1} are"
        return Fault("missing", last.id + 1, f"{gone} missing: row {last.id} is followed by row {row_id}")
    row = _readable(raw)
    if row is None or seal(row_id, row.previous_hash, row.entry) != row.link.hash:
        return Fault("altered", row_id, f"row {row_id} is not what was written: its hash is another one")
    if row.previous_hash != last.hash:
        replaced = max(last.id, 1)
        return Fault("replaced", replaced, f"row {row_id} was not written after the row {last.id} that is there")
    if anchored.get(row_id, row.link.hash) != row.link.hash:
        message = f"row {row_id} is not the one that was anchored: the log was written anew up to it"
        return Fault("rewritten", row_id, message)
    return None


def _readable(raw: tuple[Any, ...]) -> Row | None:
    try:
        return to_row(raw)
    except (ValueError, TypeError, AttributeError, RecursionError):
        return None


def _fault_at_end(last: Link, anchors: Sequence[Link]) -> Fault | None:
    newest_id = max((link.id for link in anchors), default=0)
    if newest_id > last.id:
        message = f"the log ends with row {last.id}, but row {newest_id} was anchored: its end is cut off"
        return Fault("cut", last.id + 1, message)
    if last.id and not anchors:
        message = "no anchor is in the data directory: whether the end is cut off cannot be told"
        return Fault("unanchored", last.id, message)
    return None
