"""A venue that is made up: it trades at random and records itself as a LOBSTER file does.

Such files leave things out, and so does this one: its book has orders from before the recording, others enter without
a row of their own, and some executions hit an order that is not the oldest one of its level, as a venue with hidden
priorities shows.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from pathlib import Path

Row = tuple[str, int, int, int, int, int]
State = tuple[int, int, int, int]
TICK = 100
MIDDLE = 5_000_000
ORDER_ID_FIRST = 2**40
"""Venues give ids of more than 32 bits."""


@dataclass
class Order:
    """A resting order."""

    order_id: int
    size: int
    price: int
    direction: int


@dataclass
class Venue:
    """Random flow of ``count`` rows; ``unlisted`` orders are in the book without a row of their own."""

    seed: int
    count: int = 600
    unlisted_count: int = 6
    rows: list[Row] = field(default_factory=list)
    states: list[State] = field(default_factory=list)
    book: list[Order] = field(default_factory=list)
    next_id: int = ORDER_ID_FIRST
    jumped_count: int = 0

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        for number in range(self.unlisted_count):
            self.book.append(self._order(-1 if number % 2 else 1))
        while len(self.rows) < self.count:
            self._step()
        # An order that the file never mentions again is one that nobody can know.
        self._delete_unlisted()

    def write(self, path: Path) -> Path:
        """Write the file."""
        path.write_text("".join(",".join(map(str, row)) + "\n" for row in self.rows), encoding="ascii")
        return path

    def distinct_states(self) -> list[State]:
        """Best ask, its size, best bid, its size after each row, without repetitions."""
        return [state for number, state in enumerate(self.states) if not number or self.states[number - 1] != state]

    def levels(self, direction: int) -> dict[int, int]:
        """Sizes by price."""
        levels: dict[int, int] = {}
        for order in self.book:
            if order.direction == direction:
                levels[order.price] = levels.get(order.price, 0) + order.size
        return levels

    def _step(self) -> None:
        kind = self.random.choices(["submit", "reduce", "delete", "execute", "hidden", "enter"], [45, 6, 25, 17, 4, 3])[
            0
        ]
        if kind == "submit":
            order = self._order(self.random.choice([1, -1]))
            self.book.append(order)
            self._record(1, order, order.size)
        elif kind == "enter" and len(self.rows) < self.count // 2:
            # Enters without a row: the file learns of it later, by its deletion or execution.
            self.book.append(self._order(self.random.choice([1, -1])))
            order = self._order(1)
            self.book.append(order)
            self._record(1, order, order.size)
        elif kind == "hidden":
            self._record(5, Order(0, 1, MIDDLE, 1), 7)
        elif self.book:
            self._change(kind)

    def _change(self, kind: str) -> None:
        order = self.random.choice(self.book)
        if kind == "delete":
            self.book.remove(order)
            self._record(3, order, order.size)
        elif kind == "reduce" and order.size > 1:
            size = self.random.randint(1, order.size - 1)
            order.size -= size
            self._record(2, order, size)
        elif kind == "execute":
            self._execute(self.random.choice([1, -1]))

    def _execute(self, direction: int) -> None:
        levels = self.levels(direction)
        if not levels:
            return
        best = max(levels) if direction == 1 else min(levels)
        queue = [order for order in self.book if (order.direction, order.price) == (direction, best)]
        order = self.random.choice(queue) if self.random.random() < 0.3 else queue[0]
        self.jumped_count += order is not queue[0]
        size = self.random.randint(1, order.size)
        order.size -= size
        if not order.size:
            self.book.remove(order)
        self._record(4, order, size)

    def _order(self, direction: int) -> Order:
        self.next_id += self.random.randint(1, 9)
        distance = self.random.randint(1, 6) * TICK
        return Order(self.next_id, self.random.randint(1, 50), MIDDLE - direction * distance, direction)

    def _record(self, kind: int, order: Order, size: int) -> None:
        seconds = f"34200.{len(self.rows) * 1_000_003:09d}"
        self.rows.append((seconds, kind, order.order_id, size, order.price, order.direction))
        asks, bids = self.levels(-1), self.levels(1)
        ask = (min(asks), asks[min(asks)]) if asks else (9_999_999_999, 0)
        bid = (max(bids), bids[max(bids)]) if bids else (-9_999_999_999, 0)
        if kind <= 4:
            self.states.append((*ask, *bid))

    def _delete_unlisted(self) -> None:
        submitted = {row[2] for row in self.rows if row[1] == 1}
        for order in [order for order in self.book if order.order_id not in submitted]:
            self.book.remove(order)
            self._record(3, order, order.size)
