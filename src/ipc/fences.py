"""Fences: which shards are given up until somebody has mended them, as the supervisor's table of actors tells it.

A matcher that says that it cannot go on by itself (its journal is damaged, say), and one that died too often, are not
started again. Its shard is *fenced*: risk refuses what is for it alone, and what is for all shards goes to the others.
A matcher that died and is being started again is no fence: its commands wait for it.

Rule 1: only the supervisor says so, in one place; whoever asks looks there, a few times a second at most.
It refuses to know why, and what follows.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from tradeengine.core.tables import ActorState
from tradeengine.ipc.seqlock import SeqlockBusy

if TYPE_CHECKING:
    from tradeengine.ipc.seqlock import SeqlockTable

FENCING: Final = frozenset({ActorState.BLOCKED, ActorState.FAILED})
"""States of a matcher that nobody ends but people."""
LOOK_INTERVAL_S: Final = 0.1
_MATCHER: Final = "matcher-"


class Fences:
    """Looks at the table of actors now and then."""

    def __init__(self, actors: SeqlockTable) -> None:
        """actors: the table of that name."""
        self._actors = actors
        self._shards: frozenset[int] = frozenset()
        self._looked_s = -LOOK_INTERVAL_S

    def shards(self) -> frozenset[int]:
        """Give the shards that are fenced."""
        now_s = time.monotonic()
        if now_s - self._looked_s >= LOOK_INTERVAL_S:
            self._looked_s = now_s
            self._shards = fenced_shards(self._actors, self._shards)
        return self._shards


def fenced_shards(actors: SeqlockTable, otherwise: frozenset[int] = frozenset()) -> frozenset[int]:
    """Look which shards are fenced. otherwise: what to say while the table is being written."""
    try:
        rows = actors.read_rows(range(actors.rows))
    except SeqlockBusy:
        return otherwise
    names = {bytes(row["name"]).decode(): int(row["state"]) for row in rows}
    return frozenset(
        int(name.removeprefix(_MATCHER))
        for name, state in names.items()
        if name.startswith(_MATCHER) and state in FENCING
    )
