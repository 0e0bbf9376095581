"""LOBSTER message files: recorded order flow of one stock, read and turned into steps that an engine can repeat.

A row is time in seconds after midnight, type, order id, size, price × 10,000, and the direction of the *resting* order
(1 buy, -1 sell). Types: 1 a new limit order, 2 a reduction by size, 3 a deletion, 4 an execution of a visible order.
5 (hidden order), 6 (cross trade) and 7 (halt) touch no visible order: they are skipped and counted.

A file starts in the middle of a day, so it refers to orders that it never submitted. Rule 1: such an order has the
price and direction of its first message, and as size the sum of its reductions, executions and deletion. Rule 2: with
an id below that of the first submission in the file it rests before the first message; else it enters just before the
first submission with a larger id, because ids grow with time.
It refuses to know symbols, accounts and how a step travels.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from enum import IntEnum
from itertools import islice
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

PRICE_PLACES: Final = 4
PRICE_SCALE: Final = 10**PRICE_PLACES
INT64_MAX: Final = 2**63 - 1
ROW_ADDED: Final = -1
"""``row`` of a step that no row of the file made."""


class MessageType(IntEnum):
    """The file's word for what happened."""

    SUBMISSION = 1
    REDUCTION = 2
    DELETION = 3
    EXECUTION = 4
    HIDDEN_EXECUTION = 5
    CROSS_TRADE = 6
    HALT = 7


class Action(IntEnum):
    """What a step asks of the engine."""

    PLACE = 1
    REDUCE = 2
    """``size`` is the order's new total."""
    DELETE = 3
    EXECUTE = 4
    """An aggressor of ``size`` at ``price`` against the order."""


SKIPPED_TYPES: Final = frozenset({MessageType.HIDDEN_EXECUTION, MessageType.CROSS_TRADE, MessageType.HALT})

message_dtype: Final = np.dtype(
    [
        ("time_ns", "<i8"),  # after midnight
        ("order_id", "<i8"),
        ("size", "<i8"),
        ("price", "<i8"),  # × PRICE_SCALE
        ("type", "u1"),
        ("direction", "i1"),  # of the resting order: 1 buy, -1 sell
    ]
)

step_dtype: Final = np.dtype(
    [
        ("row", "<i8"),  # of the file, counted from 0; ROW_ADDED: none
        ("time_ns", "<i8"),
        ("order_id", "<i8"),
        ("order", "<i8"),  # dense index of the order id, 0 … order_count - 1
        ("size", "<i8"),
        ("reduced", "<i8"),  # REDUCE: by how much
        ("price", "<i8"),
        ("after", "<i8"),  # the step that must have its answer before this one can be sent; -1: none
        ("action", "u1"),
        ("direction", "i1"),
    ]
)


class LobsterError(ValueError):
    """A file that is no LOBSTER message file, or that contradicts itself: the message names the line."""


@dataclass(frozen=True, slots=True)
class Flow:
    """Recorded flow as steps, in the order in which they must be sent.

    steps: 1-D ``step_dtype``. order_ids: the file's id of each dense index. skipped: rows per type that touch no
    visible order. entered_count: orders that the file refers to without having submitted them.
    """

    steps: NDArray[np.void]
    order_ids: NDArray[np.int64]
    skipped: Mapping[MessageType, int]
    entered_count: int
    row_count: int


def read_messages(path: Path, *, rows_max: int | None = None) -> NDArray[np.void]:
    """Messages of a file, 1-D ``message_dtype``. A seventh column (the participant) is ignored.

    Raises LobsterError naming the line, OSError.
    """
    with path.open(newline="", encoding="ascii", errors="replace") as file:
        rows = [_parse_row(number, row) for number, row in enumerate(islice(csv.reader(file), rows_max), start=1)]
    return np.array(rows, message_dtype)


def translate(messages: NDArray[np.void], removals: Iterable[tuple[int, int]] = ()) -> Flow:
    """Turn messages into steps.

    removals: (row, order id) pairs of orders whose deletion the file does not show: deleted just before that row.
    Raises LobsterError when a removal names a row or an order that the file does not have.
    """
    rows = np.flatnonzero(np.isin(messages["type"], sorted(SKIPPED_TYPES), invert=True))
    used = messages[rows]
    entering, entering_rows = _orders_entering(messages)
    removed, removed_rows = _orders_removed(messages, removals)

    steps = np.concatenate([_steps(entering, None), _steps(removed, None), _steps(used, rows)])
    # What was added goes before its row; among what goes before the same row, orders enter first, by id.
    place = np.concatenate([2 * entering_rows, 2 * removed_rows, 2 * rows + 1])
    steps = steps[np.argsort(place, kind="stable")]
    order_ids, steps["order"] = np.unique(steps["order_id"], return_inverse=True)
    _turn_sizes_into_totals(steps, len(order_ids))
    steps["after"] = _answers_needed(steps, len(order_ids))
    types, counts = np.unique(messages["type"], return_counts=True)
    skipped = {MessageType(kind): int(n) for kind, n in zip(types, counts, strict=True) if kind in SKIPPED_TYPES}
    return Flow(steps, order_ids, skipped, len(entering), len(messages))


def ticks_of(prices: NDArray[np.int64], tick: int) -> NDArray[np.int64]:
    """Prices (× ``PRICE_SCALE``) in ticks of ``tick`` (× ``PRICE_SCALE``). Raises LobsterError when one is off tick."""
    ticks, rest = np.divmod(prices, tick)
    if rest.any():
        price = int(prices[np.flatnonzero(rest)[0]])
        raise LobsterError(f"price {price / PRICE_SCALE} is no multiple of the tick {tick / PRICE_SCALE}")
    return ticks


def _parse_row(number: int, row: Sequence[str]) -> tuple[int, int, int, int, int, int]:
    try:
        seconds, kind, order_id, size, price, direction = row[:6]
        values = _nanoseconds(seconds), int(order_id), int(size), int(price), MessageType(int(kind)), int(direction)
    except ValueError as error:
        raise LobsterError(f"line {number} is no LOBSTER message (six numbers): {error}") from None
    _, order_id_value, size_value, price_value, kind_value, direction_value = values
    if max(map(abs, values)) > INT64_MAX:
        raise LobsterError(f"line {number}: every number must fit 64 bits")
    if kind_value in SKIPPED_TYPES:
        return values
    if direction_value not in {1, -1}:
        raise LobsterError(f"line {number}: direction is {direction_value}, must be 1 (buy) or -1 (sell)")
    if order_id_value < 0 or size_value <= 0 or price_value <= 0:
        raise LobsterError(f"line {number}: size and price must be above 0, and the id must not be below")
    return values


def _nanoseconds(seconds: str) -> int:
    whole, _, fraction = seconds.partition(".")
    return int(whole) * 10**9 + int(fraction[:9].ljust(9, "0"))


def _orders_entering(messages: NDArray[np.void]) -> tuple[NDArray[np.void], NDArray[np.int64]]:
    """Submissions that the file leaves out, by id, and the row before which each enters."""
    submissions = np.flatnonzero(messages["type"] == MessageType.SUBMISSION)
    changes = messages[np.isin(messages["type"], [MessageType.REDUCTION, MessageType.DELETION, MessageType.EXECUTION])]
    unknown = changes[np.isin(changes["order_id"], messages["order_id"][submissions], invert=True)]
    order_ids, first, inverse = np.unique(unknown["order_id"], return_index=True, return_inverse=True)
    entering = unknown[first]
    entering["type"] = MessageType.SUBMISSION
    entering["size"] = 0
    np.add.at(entering["size"], inverse, unknown["size"])
    if not len(submissions):
        return entering, np.zeros(len(entering), np.int64)

    # The largest id submitted up to each submission: it grows, so that the first larger one is found by bisection.
    largest = np.maximum.accumulate(messages["order_id"][submissions])
    later = np.searchsorted(largest, order_ids, side="right")
    rows = np.append(submissions, len(messages))[later]
    rows[order_ids < messages["order_id"][submissions[0]]] = 0
    entering["time_ns"] = messages["time_ns"][np.minimum(rows, len(messages) - 1)]
    return entering, rows


def _orders_removed(
    messages: NDArray[np.void], removals: Iterable[tuple[int, int]]
) -> tuple[NDArray[np.void], NDArray[np.int64]]:
    removed = np.zeros(0, message_dtype)
    rows = []
    for row, order_id in sorted(removals):
        named = messages[messages["order_id"] == order_id]
        if not 0 <= row < len(messages) or not len(named):
            raise LobsterError(f"cannot remove order {order_id} before row {row}: the file has no such order or row")
        removal = named[:1].copy()
        removal["type"] = MessageType.DELETION
        removal["time_ns"] = messages["time_ns"][row]
        removed = np.concatenate([removed, removal])
        rows.append(row)
    return removed, np.array(rows, np.int64)


def _steps(messages: NDArray[np.void], rows: NDArray[np.int64] | None) -> NDArray[np.void]:
    steps = np.zeros(len(messages), step_dtype)
    steps["row"] = ROW_ADDED if rows is None else rows
    for field in ("time_ns", "order_id", "size", "price", "direction"):
        steps[field] = messages[field]
    steps["action"] = messages["type"]  # the four types in use are the four actions
    return steps


def _turn_sizes_into_totals(steps: NDArray[np.void], order_count: int) -> None:
    """Give each reduction the order's new total as size; one that leaves nothing is a deletion."""
    totals = [0] * order_count
    interesting = np.flatnonzero(np.isin(steps["action"], [Action.PLACE, Action.REDUCE]))
    for index in interesting.tolist():
        order, size = int(steps["order"][index]), int(steps["size"][index])
        if steps["action"][index] == Action.PLACE:
            totals[order] = size
            continue
        totals[order] -= size
        steps["reduced"][index] = size
        if totals[order] > 0:
            steps["size"][index] = totals[order]
        else:
            steps["action"][index] = Action.DELETE


def _answers_needed(steps: NDArray[np.void], order_count: int) -> NDArray[np.int64]:
    """Per step, the earlier step whose answer it needs; -1: none.

    A reduction or deletion needs the order's id in the engine, which the answer to its PLACE tells; and it needs to
    know whom the executions before it on the same level have hit.
    """
    needed = np.full(len(steps), -1, np.int64)
    placed = [-1] * order_count
    executed: dict[tuple[int, int], int] = {}
    actions, orders = steps["action"].tolist(), steps["order"].tolist()
    levels = zip(steps["direction"].tolist(), steps["price"].tolist(), strict=True)
    for index, (action, order, level) in enumerate(zip(actions, orders, levels, strict=True)):
        if action == Action.PLACE:
            placed[order] = index
        elif action == Action.EXECUTE:
            executed[level] = index
        else:
            needed[index] = max(placed[order], executed.get(level, -1))
    return needed


assert [int(action) for action in Action] == [int(kind) for kind in list(MessageType)[:4]]
