"""How the engine connects to PostgreSQL, and whether the server is one that it can work with.

There are two addresses. Through ``database.dsn`` go short questions, each of which is complete in its transaction:
those of the fronts, and what the publisher reads at times. A pooler may stand there that gives every transaction
another server process. Through ``database.session_dsn`` goes who needs one server process for itself: for the lock that
keeps a second engine out, for LISTEN, for settings that stay, for minutes of reading. Where nothing else is set both
are one.

Rule 1: an address is completed once, so that every connection gives up on a dead server in the same time.
Rule 2: what would go wrong later, quietly, is refused at the start: a pooler where sessions are needed, two addresses
of two databases, a server with too few connections.
It refuses to know what is asked.
"""

from __future__ import annotations

import secrets
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tradeengine.settings import Database, Settings

Connection = psycopg.Connection[Any]

COMMANDS: Final = 4
"""Connections kept free for the command line: a deposit, a backup, an import, someone with psql."""
CONNECTIONS_SPARE: Final = 10
"""What an own server allows beyond what is needed: those that PostgreSQL reserves, and visitors."""
_PROBE_TRIES: Final = 3
_PROBE_CLASS: Final = 0x7452_6170
"""Advisory locks with two keys: this, and a number by chance."""


class UnfitDatabaseError(Exception):
    """The engine cannot work with this database; the message says why and what to do."""


def complete_dsn(dsn: str, database: Database) -> str:
    """Add to an address when a connection counts as dead, unless it says so itself; as key=value string."""
    given = conninfo_to_dict(dsn)
    silence_s = database.keepalive_s * 3
    wanted = {
        "connect_timeout": str(database.connect_timeout_s),
        "keepalives": "1",
        "keepalives_idle": str(database.keepalive_s),
        "keepalives_interval": str(max(database.keepalive_s // 2, 1)),
        "keepalives_count": "3",
        "tcp_user_timeout": str(silence_s * 1000),
        "fallback_application_name": "tradeengine",
    }
    return make_conninfo(dsn, **{name: value for name, value in wanted.items() if name not in given})


def connections_needed(settings: Settings) -> dict[str, int]:
    """Count the connections that an engine opens at the same time at most, by who does; none through a pooler."""
    with_wallet = settings.wallet.kind == "http"
    needed = {
        "settlement": 1,
        "risk, when it starts": 1,
        # Two chores, requests for reconciliation, the comparison, and deliveries that pause for it.
        "the keeper": 5 if with_wallet else 4,
        "the supervisor": 1,
        "the shadow": 1,
        "commands": COMMANDS,
    }
    if with_wallet:
        needed["the wallet actor"] = 1
    if not settings.database.is_pooled:
        # Beside its pool each has one that asks how the database is.
        each = settings.database.pool_size + 1
        needed[f"{settings.engine.fronts} fronts of {each} each"] = settings.engine.fronts * each
        needed["the publisher"] = 2
    return needed


def check_server_fits(settings: Settings) -> int | None:
    """See that the addresses are of one database, give sessions where those are needed, and connections enough.

    Returns how many connections are free at the moment when that is less than an engine may want, else None.
    Raises UnfitDatabaseError, psycopg.Error.
    """
    database = settings.database
    with _connected(database.direct_dsn) as first, _connected(database.direct_dsn) as second:
        if not _are_sessions(first, second):
            raise UnfitDatabaseError(_NO_SESSION if database.is_pooled else _POOLED)
        if database.is_pooled:
            with _connected(database.dsn) as pooled:
                if not _is_same_database(pooled, first):
                    raise UnfitDatabaseError(
                        "database.dsn and database.session_dsn lead to different databases: they must be two ways to "
                        "the same one"
                    )
        return _check_room(first, settings)


def _check_room(connection: Connection, settings: Settings) -> int | None:
    row = connection.execute(_ROOM).fetchone()
    assert row is not None
    limits = dict(zip(_LIMITS, row, strict=False))
    others = row[-1]
    name, limit = min(limits.items(), key=lambda pair: pair[1])
    needed = connections_needed(settings)
    total = sum(needed.values())
    if total > limit:
        parts = ", ".join(f"{count} for {who}" for who, count in needed.items())
        raise UnfitDatabaseError(
            f"the engine needs up to {total} connections ({parts}), and the database allows {limit} ({name}): allow "
            "more, lower engine.fronts or database.pool_size, or put PgBouncer before it (docs/database.md)"
        )
    return limit - others if total > limit - others else None


def _are_sessions(first: Connection, second: Connection) -> bool:
    """Whether two connections have a server process each, and keep it whatever the other one does."""
    pids = (_pid(first), _pid(second))
    if pids[0] == pids[1]:
        return False
    for _ in range(_PROBE_TRIES):
        # While the second one's transaction has its process, the first would be given another one by a pooler, or wait.
        with second.transaction():
            held = _pid(second)
            if (_pid(first), held) != pids:
                return False
    return True


def _is_same_database(one: Connection, other: Connection) -> bool:
    """Whether a lock that one takes is seen by the other."""
    number = secrets.randbelow(1 << 31)
    with one.transaction():
        one.execute("SELECT pg_advisory_xact_lock(%s, %s)", (_PROBE_CLASS, number))
        return other.execute(_SEES_LOCK, (_PROBE_CLASS, number)).rowcount == 1


def _pid(connection: Connection) -> int:
    row = connection.execute("SELECT pg_backend_pid()").fetchone()
    assert row is not None
    return int(row[0])


@contextmanager
def _connected(dsn: str) -> Iterator[Connection]:
    with psycopg.connect(dsn, autocommit=True, prepare_threshold=None, application_name="tradeengine-start") as opened:
        yield opened


_POOLED: Final = (
    "database.dsn leads to a pooler that gives each transaction another session of the database, and the engine needs "
    "some that stay: set database.session_dsn to the address of PostgreSQL itself (docs/database.md)"
)
_NO_SESSION: Final = (
    "database.session_dsn leads to a pooler that gives each transaction another session of the database: it must be "
    "the address of PostgreSQL itself (docs/database.md)"
)

_SEES_LOCK: Final = """
SELECT FROM pg_locks WHERE locktype = 'advisory' AND granted AND objsubid = 2 AND classid::bigint = %s
    AND objid::bigint = %s AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""

_LIMITS: Final = (
    "max_connections without those reserved for others",
    "the limit of the database",
    "the limit of the role",
)
_ROOM: Final = """
SELECT current_setting('max_connections')::integer - current_setting('superuser_reserved_connections')::integer
           - coalesce(current_setting('reserved_connections', true)::integer, 0),
       coalesce(nullif((SELECT datconnlimit FROM pg_database WHERE datname = current_database()), -1), 1000000),
       coalesce(nullif((SELECT rolconnlimit FROM pg_roles WHERE rolname = current_user), -1), 1000000),
       (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend')::integer - 2
"""
