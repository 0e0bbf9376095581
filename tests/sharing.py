"""Engines that many files of tests use, one file after the other, without starting one for each.

An engine that idles still takes a tenth of a core, so only as many are kept as a file may use at once: who wants
another ends the one that was not wanted for the longest time.
"""

from __future__ import annotations

from collections import OrderedDict
from contextlib import AbstractContextManager, ExitStack
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.engines import Engine

KEPT_MAX: Final = 2


class SharedEngines:
    """Engines by name, in the order in which they were last wanted."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, tuple[Engine, ExitStack]] = OrderedDict()

    def want(self, name: str, run: Callable[[], AbstractContextManager[Engine]]) -> Engine:
        """Give the engine of this name, which ``run`` runs if there is none."""
        if name not in self._kept:
            while len(self._kept) >= KEPT_MAX:
                self._end_oldest()
            stack = ExitStack()
            self._kept[name] = stack.enter_context(run()), stack
        self._kept.move_to_end(name)
        return self._kept[name][0]

    def close(self) -> None:
        """End all."""
        while self._kept:
            self._end_oldest()

    def _end_oldest(self) -> None:
        _, (_, stack) = self._kept.popitem(last=False)
        stack.close()
