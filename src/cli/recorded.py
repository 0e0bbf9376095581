"""What somebody changes on the command line is in the audit log too, as ``cli:NAME`` by the name of the system's user.

Rule 1: as on a front, that it begins is on the disk before anything is done, and how it ended before the command ends.
Rule 2: where the database is at hand the entry is brought there at once; else a front of the engine does it later.
"""

from __future__ import annotations

import getpass
import socket
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psycopg
from msgspec.structs import replace

from tradeengine.cli.errors import CommandError
from tradeengine.storage.audit import Entry, storable, storable_text
from tradeengine.storage.audit_anchors import Anchors
from tradeengine.storage.audit_delivery import deliver
from tradeengine.storage.audit_spool import SUFFIX, UNKNOWN, UNKNOWN_CODE, Spool, SpoolError, open_spool
from tradeengine.storage.embedded import EmbeddedError, running_embedded
from tradeengine.web.redaction import redaction_of

if TYPE_CHECKING:
    from tradeengine.settings import Settings


@dataclass(slots=True)
class Known:
    """What the command comes to know of its action; what JSON has."""

    before: Any = None
    after: Any = None


@contextmanager
def recorded(
    settings: Settings, action: str, target: str | None = None, *, reason: str | None = None, **details: Any
) -> Iterator[Known]:
    """Record what is done inside. Nothing secret may be in the details. Raises CommandError when that cannot be."""
    redacted = redaction_of(settings)
    name = uuid.uuid4().hex
    entry = Entry(
        action_id=name,
        time_us=time.time_ns() // 1000,
        actor=unix_actor(),
        role="owner",
        credential="shell",
        two_factor=False,
        action=action,
        target=None if target is None else storable_text(redacted.text(target)),
        details=storable(redacted.value(details)) or None,
        reason=None if reason is None else storable_text(redacted.text(reason)),
        request_id=f"cli-{name[:16]}",
        address=storable_text(socket.gethostname()),
    )
    try:
        spool = open_spool(settings.audit_dir / f"cli-{name}{SUFFIX}", room_bytes=0)
        spool.write(entry)
    except SpoolError as error:
        raise CommandError(f"nothing was done, because it cannot be recorded: {error}") from None
    known = Known()
    outcome: str = UNKNOWN
    code: str | None = UNKNOWN_CODE
    try:
        yield known
        outcome, code = "ok", None
    except Exception as error:
        outcome, code = "failed", None
        if known.after is None:
            known.after = {"error": str(error)}
        raise
    finally:
        ended = replace(
            entry,
            outcome=outcome,
            code=code,
            before=storable(redacted.value(known.before)),
            after=storable(redacted.value(known.after)),
        )
        with suppress(SpoolError):
            # Where it cannot be written down, whoever takes the file over says that nobody knows.
            spool.write(ended)
            _bring(settings, spool)
        with suppress(OSError):
            spool.close()


def unix_actor() -> str:
    """Name who types, as the audit log does."""
    return storable_text(f"cli:{getpass.getuser()}")


def _bring(settings: Settings, spool: Spool) -> None:
    """Bring the entry into the log if the database is at hand; a file that stays is taken over by a front."""
    with suppress(psycopg.Error, EmbeddedError, OSError):
        server = None if settings.database.dsn else running_embedded(settings.data_dir)
        dsn = settings.database.direct_dsn or (server.dsn if server else "")
        if not dsn:
            return
        timeout_s = settings.database.connect_timeout_s
        with psycopg.connect(dsn, autocommit=True, connect_timeout=timeout_s) as connection:
            deliver(connection, spool, Anchors(settings.audit_dir))
        spool.remove()
