"""Barriers: history answers what was published before the question, or says that it cannot yet.

A request notes the heads of the event rings when it arrives and waits until another reader, settlement or risk, has
passed them. Nobody's bell rings for that, so it looks again after short pauses; without a backlog the first look is
enough.
It refuses to know what the other reader does with the events.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import trio

from tradeengine.ipc.atomics import load_word
from tradeengine.ipc.ring import Ring
from tradeengine.web.admission import Pauses

_PAUSE_S: Final = 0.0005
_PAUSE_S_MAX: Final = 0.01


class BarrierTimeout(Exception):  # noqa: N818 - a state that the caller names
    """The other reader did not get as far within the time allowed."""


class Barrier:
    """Waits for one reader (by name) of several rings."""

    def __init__(self, rings: Sequence[Ring], reader_name: str) -> None:
        self._rings = tuple(rings)
        self._cursors = tuple(
            ring.cursor_address(next(index for index, spec in enumerate(ring.readers) if spec.name == reader_name))
            for ring in rings
        )

    async def wait(self, timeout_s: float) -> None:
        """Return when everything published until now has been passed. Raises BarrierTimeout."""
        heads = [ring.head for ring in self._rings]
        with trio.move_on_after(timeout_s):
            pauses = Pauses(_PAUSE_S, _PAUSE_S_MAX)
            while not self._passed(heads):
                await pauses.take()
            return
        raise BarrierTimeout

    def lag(self) -> int:
        """How many events the reader has yet to pass, on all rings together."""
        return sum(self.lags().values())

    def lags(self) -> dict[str, int]:
        """How many events the reader has yet to pass, by ring."""
        return {
            ring.name: max(ring.head - load_word(cursor), 0)
            for ring, cursor in zip(self._rings, self._cursors, strict=True)
        }

    def _passed(self, heads: Sequence[int]) -> bool:
        return all(load_word(cursor) >= head for cursor, head in zip(self._cursors, heads, strict=True))
