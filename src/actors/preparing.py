"""What a start needs to know before any ring exists: the database at the right schema, and where everything stands.

Rule 1: the rings open where durable things end: event rings at the settled cursors, command rings behind the journals.
Rule 2: one engine per database. The lock is looked at here, for an early and clear refusal; settlement holds it.
Rule 3: a data directory and a database that are known to be of two engines are refused before anything is changed.
Rule 4: plain synchronous code, run in a thread while the actors import theirs.
It refuses to know processes and memory.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import psycopg
import structlog

from tradeengine.actors.errors import StartError
from tradeengine.core.symbols import ListingError
from tradeengine.settings_files import load_seeds
from tradeengine.storage.connections import UnfitDatabaseError, check_server_fits
from tradeengine.storage.directory import Directory, DirectoryFullError, load_directory, seed_directory
from tradeengine.storage.identity import IdentityError, bind_identity, check_identity, mark_of
from tradeengine.storage.journal_format import JournalError
from tradeengine.storage.journal_read import JournalEnd, journal_end
from tradeengine.storage.migrate import MigrationError, migrate
from tradeengine.storage.outbox import WalletKindError, keep_kind
from tradeengine.storage.recovery import settled_cursors
from tradeengine.storage.settle import RISK_SHARD, engine_running

if TYPE_CHECKING:
    from tradeengine.settings import Settings

OTHER_ENGINE_TIMEOUT_S: Final = 3.0
"""A killed engine's connection to the database ends a moment after it."""


logger = structlog.get_logger()


@dataclass(frozen=True)
class Prepared:
    """Where everything stands. ``first_sequences``: where the rings open, by name."""

    dsn: str
    directory: Directory
    first_sequences: dict[str, int]


def prepare(settings: Settings, dsn: str, ingress_rings: tuple[str, ...]) -> Prepared:
    """Bring the database to the schema, seed it, and read where everything stands. Raises StartError."""
    try:
        _see_that_it_fits(settings)
        migrate(dsn)
        with psycopg.connect(
            dsn,
            autocommit=True,
            connect_timeout=settings.database.connect_timeout_s,
            application_name="tradeengine-supervisor",
        ) as connection:
            _refuse_second_engine(connection)
            check_identity(connection, settings.data_dir)
            keep_kind(connection, settings.wallet.kind, settings.wallet.exchange_user)
            directory = _seed(connection, settings)
            bind_identity(connection, settings.data_dir)
            cursors = settled_cursors(connection)
    except psycopg.OperationalError as error:
        raise StartError(f"the database cannot be reached: {' '.join(str(error).split())}") from None
    except psycopg.errors.InsufficientPrivilege as error:
        raise StartError(f"the database refuses: {' '.join(str(error).split())}") from None
    except (MigrationError, IdentityError, WalletKindError, UnfitDatabaseError) as error:
        raise StartError(str(error)) from None
    except (ListingError, DirectoryFullError) as error:
        raise StartError(f"symbols.toml: {error}") from None
    return Prepared(dsn, directory, _first_sequences(settings, cursors, ingress_rings))


def _see_that_it_fits(settings: Settings) -> None:
    free = check_server_fits(settings)
    if free is not None:
        logger.warning("the database has few connections left: others have the rest", free=free)


def _refuse_second_engine(connection: psycopg.Connection[Any]) -> None:
    deadline_s = time.monotonic() + OTHER_ENGINE_TIMEOUT_S
    while engine_running(connection):
        if time.monotonic() > deadline_s:
            raise StartError("another engine uses this database: stop that one, or give this one another --dsn")
        time.sleep(0.05)


def _seed(connection: psycopg.Connection[Any], settings: Settings) -> Directory:
    shards, limits = settings.engine.shards, settings.limits
    directory = load_directory(connection)
    # Seeds are for a new database: a symbol that was taken off later shall not come back by itself.
    if not directory.symbols:
        refuse_lost_database(settings)
        directory = seed_directory(
            connection, load_seeds(), shards=shards, assets_max=limits.assets_max, symbols_max=limits.symbols_max
        )
    for row in directory.symbols.values():
        if row.spec.shard >= shards:
            raise StartError(
                f"setting engine.shards = {shards} is not allowed: symbol {row.spec.name} lives on shard "
                f"{row.spec.shard}, so there must be at least {row.spec.shard + 1}"
            )
    for name, ids, limit in (
        ("limits.symbols_max", directory.symbols, limits.symbols_max),
        ("limits.assets_max", directory.assets, limits.assets_max),
    ):
        if max(ids) >= limit:
            raise StartError(f"setting {name} = {limit} is not allowed: the database has more, at least {max(ids) + 1}")
    _tell_idle_shards(directory, shards)
    return directory


def refuse_lost_database(settings: Settings) -> None:
    """Refuse to begin anew beside journals: their accounts would have no names, and new users would get their ids.

    Raises StartError.
    """
    for shard in range(settings.engine.shards):
        try:
            end = journal_end(settings.journal_dir(shard))
        except JournalError as error:
            raise StartError(str(error)) from None
        if end.next_command_sequence:
            raise StartError(
                f"the database is empty, but {settings.journal_dir(shard)} has {end.next_command_sequence} commands: "
                "if the database was lost, bring it back with `tradeengine restore FOLDER --only database`; for a new "
                "engine give another --data-dir"
            )


def _tell_idle_shards(directory: Directory, shards: int) -> None:
    """More shards do nothing for symbols that are listed already, which surprises whoever asked for more."""
    idle = sorted(set(range(shards)) - {row.spec.shard for row in directory.symbols.values()})
    if idle:
        logger.warning(
            "shards without symbols do nothing: symbols stay on the shard that they were listed on, only new ones come",
            shards=idle,
        )


def _first_sequences(settings: Settings, cursors: dict[int, int], ingress_rings: tuple[str, ...]) -> dict[str, int]:
    first = {"events.risk": cursors.get(RISK_SHARD, 0)}
    newest_ns = time.time_ns()
    ends = _journal_ends(settings)
    for shard in range(settings.engine.shards):
        end = ends.get(shard, JournalEnd(0, 0, 0, 0))
        first[f"events.{shard}"] = cursors.get(shard, 0)
        first[f"commands.{shard}"] = end.next_ring_sequence
        newest_ns = max(newest_ns, end.last_timestamp_ns + 1)
    # (ingress ring, ingress sequence) names a command over all starts, so a start goes on above every number before it.
    return first | dict.fromkeys(ingress_rings, newest_ns)


def _journal_ends(settings: Settings) -> dict[int, JournalEnd]:
    """Look where each shard's journal ends; one that cannot be read is left out, and its matcher will say the same.

    Raises StartError when no journal can be read: there is nothing to trade with.
    """
    ends: dict[int, JournalEnd] = {}
    troubles: dict[int, str] = {}
    for shard in range(settings.engine.shards):
        try:
            ends[shard] = journal_end(settings.journal_dir(shard), mark_of(settings.data_dir))
        except (JournalError, OSError) as error:
            troubles[shard] = str(error)
    if not ends:
        raise StartError(troubles[0])
    for shard, reason in troubles.items():
        logger.error("a journal cannot be used; its shard is fenced and the others go on", shard=shard, reason=reason)
    return ends
