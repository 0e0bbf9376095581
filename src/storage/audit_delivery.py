"""How entries come from the files in which they wait into the audit log, and what follows: the anchor.

Rule 1: first the row, then the anchor, then the place in the file: killed anywhere in between, it is done once more,
and the log takes nothing twice.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import psycopg

from tradeengine.ipc.crashpoints import crash_point
from tradeengine.storage.audit import Entry, Link, append_entries
from tradeengine.storage.audit_anchors import Anchors
from tradeengine.storage.audit_spool import Spool, left_over_spools

BATCH_ENTRIES: Final = 100

Connection = psycopg.Connection[Any]
Delivered = list[tuple[Entry, Link]]


def deliver(connection: Connection, spool: Spool, anchors: Anchors) -> Delivered:
    """Bring the next entries of a file into the log and anchor them; none when there is nothing more.

    Raises OSError when the anchor cannot be written; they are delivered again then.
    """
    entries, position = spool.read_ended(BATCH_ENTRIES)
    links = append_entries(connection, entries) if entries else []
    crash_point("front.before_anchor")
    if links:
        anchors.add(max(links, key=lambda link: link.id))
    spool.mark_read(position)
    return list(zip(entries, links, strict=True))


def deliver_left_over(connection: Connection, folder: Path, anchors: Anchors) -> Delivered:
    """Bring into the log what processes left behind that are gone, and remove their files.

    A file with an entry that no log can take is kept aside. Raises as ``deliver``.
    """
    delivered: Delivered = []
    for spool in left_over_spools(folder):
        try:
            while spool.waiting_bytes():
                delivered += deliver(connection, spool, anchors)
        except (ValueError, TypeError, ArithmeticError, psycopg.DataError, psycopg.IntegrityError) as error:
            # No process of ours wrote that; it must not keep others' entries out of the log for ever.
            spool.put_aside(str(error))
            continue
        except BaseException:
            spool.close()
            raise
        spool.remove()
    return delivered
