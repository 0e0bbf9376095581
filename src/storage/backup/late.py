"""What happened in the database between its copy and the journals' copies, and is in no journal.

Trades and orders come out of the journals. Who has an account, what an account may do, keys, symbols, and above all
deposits and withdrawals are rows first (0005) and never journaled. A backup reads them again behind the journals' cut
and keeps what is new beside the dump; a restore puts them in. Deposits and withdrawals go through settlement's own
transaction there, so that postings, balances and statements are what they would have been.

Rule 1: rows as JSON, a line each, because there are few. Rule 2: what an outcome was is taken over and not decided
again: money that has left has left. Rule 3: every table belongs to one of three kinds (``SETTLED``, ``LATE``,
``LEFT``); a test holds that none is forgotten.
It refuses to know files.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import psycopg
from psycopg import sql

from tradeengine.core.records import EventFlag, EventKind, Reason, event_dtype, funding_event_dtype
from tradeengine.storage.settle import RISK_SHARD, Settler

Connection = psycopg.Connection[Any]

_ORIGIN: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MICROSECOND: Final = dt.timedelta(microseconds=1)

SETTLED: Final = frozenset(
    {
        *("orders", "trades", "postings", "balances", "candles_1m", "candles_1h"),
        *("settlement_cursors", "statement_marks", "wallet_transfers"),
    }
)
"""Tables that settlement writes out of events: the journals bring them forward."""

LEFT: Final = frozenset(
    {
        # Read again from the books, and done again on request.
        *("depth_snapshots", "reconciliations"),
        # A repeated import adds nothing, so whoever imported meanwhile does it again.
        "imported_trades",
        # Set once, before there is money, or anything else.
        *("wallet_kind", "engine_identity"),
        # Of dead letters; without them the letters are sent again, and are dead again if the wallet will not have them.
        "wallet_adjustments",
    }
)
"""Tables whose rows since the dump are not kept."""


@dataclass(frozen=True, slots=True)
class _Table:
    """A table whose new rows are kept: the column that names a row, and which rows are new since a mark."""

    name: str
    key: str
    mark: str
    """Query that gives the mark, one text."""
    since: str
    """Condition on rows; ``%s`` is the mark."""
    identity: bool = False
    only_added: bool = False
    """Rows are never changed, and the database does not let anyone try."""


LATE: Final = (
    _Table("assets", "id", "SELECT coalesce(max(id), -1)::text FROM assets", "id > %s::integer"),
    _Table("symbols", "id", "SELECT coalesce(max(id), -1)::text FROM symbols", "id > %s::integer"),
    _Table("accounts", "id", "SELECT max(id)::text FROM accounts", "id > %s::integer"),
    _Table(
        "account_settings",
        "account_id",
        "SELECT coalesce(max(version), 0)::text FROM account_settings",
        "version > %s::bigint",
    ),
    _Table(
        "api_keys", "id", "SELECT now()::text", "greatest(created_at, revoked_at) > %s::timestamptz - interval '1 hour'"
    ),
    _Table("counters", "name", "SELECT ''", "%s = ''"),
    _Table(
        "funding",
        "id",
        "SELECT coalesce(min(id) FILTER (WHERE status = 'pending' OR wallet_state IN ('waiting', 'dead')), "
        "max(id) + 1, 1)::text FROM funding",
        "id >= %s::bigint",
        identity=True,
    ),
    _Table("audit", "id", "SELECT coalesce(max(id), 0)::text FROM audit", "id > %s::bigint", only_added=True),
)
"""Tables whose rows since the dump are kept, in the order in which they refer to each other."""


_DECIDED: Final = frozenset({"status", "status_reason", "transaction_id", "closed_at"})
"""Columns of ``funding`` that say what risk decided; a row without them is pending."""


@dataclass(frozen=True, slots=True)
class Applied:
    """What a restore put in. ``counts``: rows by table. ``fundings``: deposits and withdrawals that were posted."""

    counts: dict[str, int]
    fundings: int


def read_marks(connection: Connection) -> dict[str, str]:
    """Note where the tables stand in the snapshot that is dumped."""
    marks = {}
    for table in LATE:
        row = connection.execute(table.mark).fetchone()
        assert row is not None
        marks[table.name] = str(row[0])
    return marks


def read_late(connection: Connection, marks: dict[str, str]) -> Iterator[str]:
    """Give what is new since the marks, a line of JSON each; the last line is risk's settled cursor.

    connection: in one snapshot, taken after the journals' cut.
    """
    for table in LATE:
        query = sql.SQL("SELECT row_to_json(t)::text FROM {table} AS t WHERE {since} ORDER BY {key}").format(
            table=sql.Identifier(table.name), since=sql.SQL(table.since), key=sql.Identifier(table.key)
        )
        for (row,) in connection.execute(query, (marks[table.name],)):
            yield f'{{"table":"{table.name}","row":{row}}}\n'
    row = connection.execute("SELECT sequence FROM settlement_cursors WHERE shard = %s", (RISK_SHARD,)).fetchone()
    assert row is not None
    yield f'{{"cursor":{row[0]}}}\n'


def apply_late(connection: Connection, lines: Iterable[str], shards: int) -> Applied:
    """Put the lines of ``read_late`` into a restored database. Takes the connection over and closes it.

    shards: as many as have a cursor. Raises psycopg.Error, SettlementStopped.
    """
    rows: dict[str, list[dict[str, Any]]] = {table.name: [] for table in LATE}
    cursor = 0
    for line in lines:
        entry = json.loads(line)
        if "cursor" in entry:
            cursor = int(entry["cursor"])
        else:
            rows[entry["table"]].append(entry["row"])
    settler = Settler(connection, shards)
    try:
        decided = _undecided_before(connection, rows["funding"])
        with connection.transaction():
            for table in LATE:
                for found in _alike(table, rows[table.name]):
                    _put(connection, table, found)
        if decided:
            settler.settle({RISK_SHARD: _events(decided, settler.cursors[RISK_SHARD])})
        connection.execute(
            "UPDATE settlement_cursors SET sequence = %s WHERE shard = %s AND sequence < %s",
            (cursor, RISK_SHARD, cursor),
        )
    finally:
        settler.close()
    return Applied({name: len(found) for name, found in rows.items() if found}, len(decided))


def _undecided_before(connection: Connection, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those deposits and withdrawals that are decided now and were not in the dump, in the order of their numbers."""
    known = {
        int(number)
        for (number,) in connection.execute(
            "SELECT number FROM funding WHERE status <> 'pending' AND id = ANY (%s)", ([row["id"] for row in rows],)
        )
    }
    # Without a number risk has never seen it: a wallet outside refused to reserve it.
    numbered = [row for row in rows if row["number"] is not None]
    decided = [row for row in numbered if row["status"] != "pending" and row["number"] not in known]
    return sorted(decided, key=lambda row: int(row["number"]))


def _alike(table: _Table, rows: list[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """Give rows by the columns that are put in; of what risk has decided all but that, because settlement writes it."""
    if table.name != "funding":
        yield rows
        return
    yield [row for row in rows if row["number"] is None]
    yield [{name: value for name, value in row.items() if name not in _DECIDED} for row in rows if row["number"]]


def _put(connection: Connection, table: _Table, rows: list[dict[str, Any]]) -> None:
    """Insert rows, or make those that are there what they are now; columns that are not given stay as they are."""
    if not rows:
        return
    columns = [name for name in rows[0] if name != table.key]
    changed = sql.SQL(", ").join(sql.SQL("{0} = excluded.{0}").format(sql.Identifier(name)) for name in columns)
    changes = sql.SQL("NOTHING") if table.only_added else sql.SQL("UPDATE SET ") + changed
    # By name: the columns that a later migration added get their defaults.
    names = sql.SQL(", ").join(map(sql.Identifier, rows[0]))
    query = sql.SQL(
        "INSERT INTO {table} ({names}) OVERRIDING SYSTEM VALUE "
        "SELECT {names} FROM json_populate_recordset(NULL::{table}, %s::json) "
        "ON CONFLICT ({key}) DO {changes}"
    ).format(table=sql.Identifier(table.name), key=sql.Identifier(table.key), names=names, changes=changes)
    connection.execute(query, (json.dumps(rows),))
    if table.identity:
        connection.execute(
            sql.SQL("SELECT setval(pg_get_serial_sequence({name}, {key}), (SELECT max({column}) FROM {table}))").format(
                name=sql.Literal(table.name),
                key=sql.Literal(table.key),
                column=sql.Identifier(table.key),
                table=sql.Identifier(table.name),
            )
        )


def _events(decided: list[dict[str, Any]], first: int) -> Any:
    """Make the events again by which risk told what it had decided."""
    events = np.zeros(len(decided), event_dtype)
    fundings = events.view(funding_event_dtype)
    for place, row in enumerate(decided):
        event = fundings[place]
        settled = row["status"] == "settled"
        sign = 1 if row["kind"] == "deposit" else -1
        event["kind"] = EventKind.FUNDED if settled else EventKind.FUNDING_REFUSED
        event["flags"] = EventFlag.LAST_OF_COMMAND
        event["reason"] = 0 if settled else Reason[row["status_reason"]]
        event["sequence"] = first + place
        event["timestamp_ns"] = (dt.datetime.fromisoformat(row["closed_at"]) - _ORIGIN) // _MICROSECOND * 1000
        event["account_id"] = row["account_id"]
        event["asset_id"] = row["asset_id"]
        event["funding_number"] = row["number"]
        event["amount_units"] = sign * int(row["amount_units"])
    return events


def keep_unknown_accounts(connection: Connection, account_ids: list[int]) -> list[int]:
    """Keep the ids of accounts that traded and have no row, so that nobody else gets them; returns these ids.

    Their names are lost. What stands in their place cannot be in a token, so nobody signs in as one of them.
    """
    query = "SELECT id FROM unnest(%s::integer[]) AS named (id) WHERE id <> ALL (SELECT id FROM accounts)"
    with connection.transaction():
        unknown = [int(account_id) for (account_id,) in connection.execute(query, (account_ids,))]
        connection.execute(
            "INSERT INTO accounts (id, name) "
            "SELECT id, '*unknown-' || id || '*' FROM unnest(%s::integer[]) AS named (id)",
            (unknown,),
        )
        if unknown:
            connection.execute(
                "UPDATE counters SET value = greatest(value, %s) WHERE name = 'account'", (max(unknown),)
            )
    return sorted(unknown)
