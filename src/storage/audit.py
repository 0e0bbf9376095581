"""The audit log: what administrators did, as a chain of rows in which each holds the hash of the one before.

Rule 1: rows are only ever added. Ids have no gaps, because whoever adds holds a lock until the commit.
Rule 2: an entry is added once, however often it is offered: it is known by the id that it got when its action began.
Rule 3: the hash is over every column but itself, in one written form (``canonical``), so that anyone can check it.
Rule 4: only text, whole numbers, true, false and null are kept, so a value is the same bytes before and after jsonb.
It refuses to know who acts, and where entries wait while the database is away.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import psycopg
from psycopg.types.json import Jsonb

AUDIT_LOCK_KEY: Final = 0x7452_6164_6500_0004
GENESIS: Final = bytes(32)
"""What the first row has as the hash of the row before."""
VALUE_BYTES_MAX: Final = 16 * 1024
"""Of ``details``, ``before`` and ``after`` each; what is larger is kept as its size and hash."""
TEXT_CHARACTERS_MAX: Final = 1000
_WHOLE_MAX: Final = (1 << 53) - 1
_NESTING_MAX: Final = 8
_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MICROSECOND: Final = dt.timedelta(microseconds=1)
_written: Final = msgspec.json.Encoder(order="sorted").encode
"""For text, whole numbers and what else JSON has but fractions this is RFC 8785."""

Connection = psycopg.Connection[Any]


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One action, begun (``outcome`` None) or ended (ok, refused, failed, unknown). ``action_id``: 32 hex digits."""

    action_id: str
    time_us: int
    actor: str
    role: str
    credential: str
    two_factor: bool
    action: str
    target: str | None = None
    details: Any = None
    before: Any = None
    after: Any = None
    reason: str | None = None
    request_id: str = ""
    address: str = ""
    outcome: str | None = None
    code: str | None = None


@dataclass(frozen=True, slots=True)
class Link:
    """A row's place in the chain."""

    id: int
    hash: bytes


@dataclass(frozen=True, slots=True)
class Row:
    """A row as it is stored."""

    link: Link
    previous_hash: bytes
    entry: Entry


def append_entries(connection: Connection, entries: Sequence[Entry]) -> list[Link]:
    """Add ended entries in their order and return where each is; those that are there already stay where they are."""
    with connection.transaction():
        connection.execute("SELECT pg_advisory_xact_lock(%s)", (AUDIT_LOCK_KEY,))
        ids = [uuid.UUID(entry.action_id) for entry in entries]
        known = {
            action_id.hex: Link(row_id, bytes(row_hash))
            for action_id, row_id, row_hash in connection.execute(_KNOWN, (ids,))
        }
        head = find_head(connection)
        parameters = []
        for entry in entries:
            if entry.action_id not in known:
                row = Row(Link(head.id + 1, seal(head.id + 1, head.hash, entry)), head.hash, entry)
                known[entry.action_id] = head = row.link
                parameters.append(_parameters(row))
        if parameters:
            with connection.cursor() as cursor:
                cursor.executemany(_INSERT, parameters)
    return [known[entry.action_id] for entry in entries]


def find_head(connection: Connection) -> Link:
    """Give the newest row's place; id 0 and GENESIS when there is none."""
    found = connection.execute("SELECT id, hash FROM audit ORDER BY id DESC LIMIT 1").fetchone()
    return Link(0, GENESIS) if found is None else Link(found[0], bytes(found[1]))


def list_rows(
    connection: Connection,
    *,
    limit: int,
    before_id: int | None = None,
    actor: str | None = None,
    action: str | None = None,
    start: dt.datetime | None = None,
    end: dt.datetime | None = None,
) -> list[Row]:
    """List rows, the newest first, below an id; start inclusive, end exclusive."""
    filters: dict[str, Any] = {"before_id": before_id, "actor": actor, "action": action, "start": start, "end": end}
    wanted = {name: value for name, value in filters.items() if value is not None}
    where = " AND ".join(_CONDITIONS[name] for name in wanted) or "true"
    # Put together of constants only; what a client wrote goes as parameters.
    query = f"{_SELECT} WHERE {where} ORDER BY id DESC LIMIT %(limit)s"
    return [to_row(found) for found in connection.execute(query, {**wanted, "limit": limit})]


def rows_after(connection: Connection, row_id: int, limit: int) -> list[tuple[Any, ...]]:
    """Read raw rows above an id in the order of their ids, for ``to_row``; unreadable ones do no harm here."""
    return connection.execute(f"{_SELECT} WHERE id > %s ORDER BY id LIMIT %s", (row_id, limit)).fetchall()


def to_row(raw: Sequence[Any]) -> Row:
    """Read a row of ``rows_after``. Raises ValueError, TypeError and others where somebody made it unreadable."""
    row_id, action_id, time_us, previous_hash, row_hash, details, before, after, *rest = raw
    actor, role, credential, two_factor, action, target, reason, request_id, address, outcome, code = rest
    entry = Entry(
        action_id=action_id.replace("-", ""),
        time_us=time_us,
        actor=actor,
        role=role,
        credential=credential,
        two_factor=two_factor,
        action=action,
        target=target,
        details=None if details is None else msgspec.json.decode(details),
        before=None if before is None else msgspec.json.decode(before),
        after=None if after is None else msgspec.json.decode(after),
        reason=reason,
        request_id=request_id,
        address=address,
        outcome=outcome,
        code=code,
    )
    return Row(Link(row_id, bytes(row_hash)), bytes(previous_hash), entry)


def seal(row_id: int, previous_hash: bytes, entry: Entry) -> bytes:
    """Hash a row: SHA-256 of its canonical form."""
    return hashlib.sha256(canonical(row_id, previous_hash, entry)).digest()


def canonical(row_id: int, previous_hash: bytes, entry: Entry) -> bytes:
    """Write every column but the hash in one way only: RFC 8785, one JSON object in UTF-8.

    Names are sorted, there is no white space, ``time`` is microseconds since 1970, hashes and the action id are hex.
    """
    return _written(
        {
            "action": entry.action,
            "action_id": entry.action_id,
            "actor": entry.actor,
            "address": entry.address,
            "after": entry.after,
            "before": entry.before,
            "code": entry.code,
            "credential": entry.credential,
            "details": entry.details,
            "id": row_id,
            "outcome": entry.outcome,
            "previous_hash": previous_hash.hex(),
            "reason": entry.reason,
            "request_id": entry.request_id,
            "role": entry.role,
            "target": entry.target,
            "time": entry.time_us,
            "two_factor": entry.two_factor,
        }
    )


def storable(value: Any) -> Any:
    """Make of any value one that is the same before and after PostgreSQL, and not larger than it may be."""
    kept = _kept(value, _NESTING_MAX)
    written = _written(kept)
    if len(written) <= VALUE_BYTES_MAX:
        return kept
    return {"left_out_bytes": len(written), "sha256": hashlib.sha256(written).hexdigest()}


def storable_text(text: str) -> str:
    """Cut a text to its bound, without what PostgreSQL cannot store."""
    whole = text.replace("\0", "\ufffd").encode("utf-8", "replace").decode()
    return whole if len(whole) <= TEXT_CHARACTERS_MAX else whole[: TEXT_CHARACTERS_MAX - 1] + "…"


def _kept(value: Any, levels: int) -> Any:
    match value:
        case None | bool():
            return value
        case int():
            return int(value) if -_WHOLE_MAX <= value <= _WHOLE_MAX else str(value)
        case str():
            return storable_text(value)
        case dict() if levels:
            # Sorted by code point and by UTF-16 alike: names of ours are ASCII.
            return {
                storable_text(str(key)).encode("ascii", "replace").decode(): _kept(part, levels - 1)
                for key, part in value.items()
            }
        case list() | tuple() if levels:
            return [_kept(part, levels - 1) for part in value]
        case _:
            return storable_text(str(value))


def _parameters(row: Row) -> dict[str, Any]:
    entry = row.entry
    assert entry.outcome is not None
    return {
        **msgspec.structs.asdict(entry),
        "id": row.link.id,
        "hash": row.link.hash,
        "previous_hash": row.previous_hash,
        "action_id": uuid.UUID(entry.action_id),
        "time": _EPOCH + entry.time_us * _MICROSECOND,
        "details": None if entry.details is None else Jsonb(entry.details),
        "before": None if entry.before is None else Jsonb(entry.before),
        "after": None if entry.after is None else Jsonb(entry.after),
    }


_KNOWN: Final = "SELECT action_id, id, hash FROM audit WHERE action_id = ANY (%s)"

_INSERT: Final = """
INSERT INTO audit (id, action_id, time, actor, role, credential, two_factor, action, target, details, before, after,
                   reason, request_id, address, outcome, code, previous_hash, hash)
VALUES (%(id)s, %(action_id)s, %(time)s, %(actor)s, %(role)s, %(credential)s, %(two_factor)s, %(action)s, %(target)s,
        %(details)s, %(before)s, %(after)s, %(reason)s, %(request_id)s, %(address)s, %(outcome)s, %(code)s,
        %(previous_hash)s, %(hash)s)
"""

_SELECT: Final = """
SELECT id, action_id::text,
       CASE WHEN isfinite(time) THEN trunc(extract(epoch FROM time) * 1000000)::bigint END,
       previous_hash, hash, details::text, before::text, after::text,
       actor, role, credential, two_factor, action, target, reason, request_id, address, outcome, code
FROM audit
"""

_CONDITIONS: Final = {
    "before_id": "id < %(before_id)s",
    "actor": "actor = %(actor)s",
    "action": "action = %(action)s",
    "start": "time >= %(start)s",
    "end": "time < %(end)s",
}
