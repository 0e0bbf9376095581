"""Lists that come in pages, as one asynchronous iterator.

It refuses to know what is listed: whoever makes it says how to ask for a page.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Generic, Self, TypeVar

T = TypeVar("T")


class Pages(Generic[T]):
    """The items of a list, asked for page by page as they are used; to be iterated once.

    A page is asked for when the one before is used up, so whoever stops early asks for no more than needed.
    """

    def __init__(self, fetch: Callable[[str | None], Awaitable[tuple[list[T], str | None]]]) -> None:
        self._fetch = fetch
        self._cursor: str | None = None
        self._rest: list[T] = []
        self._is_last = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        while not self._rest:
            if self._is_last:
                raise StopAsyncIteration
            self._rest = (await self.next_page())[::-1]
        return self._rest.pop()

    async def next_page(self) -> list[T]:
        """Ask for the next page; an empty one at the end."""
        if self._is_last:
            return []
        items, self._cursor = await self._fetch(self._cursor)
        self._is_last = self._cursor is None
        return items

    async def take(self, count_max: int) -> list[T]:
        """Collect the next items, at most so many."""
        taken: list[T] = []
        while len(taken) < count_max:
            try:
                taken.append(await anext(self))
            except StopAsyncIteration:
                break
        return taken
