"""Claims about LOBSTER files: what is read, and in which order which steps come of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from tests.cli.venue import Row, Venue

from tradeengine.cli.lobster import (
    ROW_ADDED,
    Action,
    Flow,
    LobsterError,
    MessageType,
    read_messages,
    ticks_of,
    translate,
)

if TYPE_CHECKING:
    from pathlib import Path


def flow_of(tmp_path: Path, *rows: Row, removals: tuple[tuple[int, int], ...] = ()) -> Flow:
    """Write rows as a file and translate it."""
    path = tmp_path / "messages.csv"
    path.write_text("".join(",".join(map(str, row)) + "\n" for row in rows), encoding="ascii")
    return translate(read_messages(path), removals)


def steps_of(flow: Flow) -> list[tuple[Action, int, int, int]]:
    """Return (action, order id, size, row) of each step."""
    steps = flow.steps
    columns = (steps[name].tolist() for name in ("action", "order_id", "size", "row"))
    return [(Action(action), order_id, size, row) for action, order_id, size, row in zip(*columns, strict=True)]


def test_each_type_is_its_action(tmp_path: Path) -> None:
    """Types 1 to 4 become steps with the row's time, price and direction; a reduction tells the new total."""
    flow = flow_of(
        tmp_path,
        ("34200.000000001", 1, 11, 10, 1000, 1),
        ("34200.5", 2, 11, 4, 1000, 1),
        ("34201", 4, 11, 2, 1000, 1),
        ("34202.25", 3, 11, 4, 1000, 1),
    )
    assert steps_of(flow) == [
        (Action.PLACE, 11, 10, 0),
        (Action.REDUCE, 11, 6, 1),
        (Action.EXECUTE, 11, 2, 2),
        (Action.DELETE, 11, 4, 3),
    ]
    assert flow.steps["time_ns"].tolist() == [
        34_200_000_000_001,
        34_200_500_000_000,
        34_201 * 10**9,
        34_202_250_000_000,
    ]
    assert set(flow.steps["price"].tolist()) == {1000}
    assert flow.steps["reduced"][1] == 4


def test_types_that_touch_no_visible_order_are_counted(tmp_path: Path) -> None:
    """Hidden executions, cross trades and halts are no steps; each type is counted."""
    flow = flow_of(
        tmp_path,
        ("1", 5, 0, 7, 1000, 1),
        ("2", 7, 0, 0, -1, -1),
        ("3", 5, 0, 7, 1000, -1),
        ("4", 6, -1, 7, 1000, -1),
        ("5", 1, 1, 1, 1000, 1),
    )
    assert flow.skipped == {MessageType.HIDDEN_EXECUTION: 2, MessageType.CROSS_TRADE: 1, MessageType.HALT: 1}
    assert steps_of(flow) == [(Action.PLACE, 1, 1, 4)]
    assert flow.row_count == 5


def test_order_from_before_the_file_rests_first(tmp_path: Path) -> None:
    """An order with an id below the first submitted one rests before all else, as large as what happens to it later."""
    flow = flow_of(
        tmp_path,
        ("1", 1, 50, 1, 1000, 1),
        ("2", 2, 7, 3, 1010, -1),
        ("3", 4, 7, 5, 1010, -1),
        ("4", 3, 7, 2, 1010, -1),
    )
    assert steps_of(flow)[:3] == [(Action.PLACE, 7, 10, ROW_ADDED), (Action.PLACE, 50, 1, 0), (Action.REDUCE, 7, 7, 1)]
    assert flow.steps["direction"][0] == -1
    assert flow.steps["price"][0] == 1010
    assert flow.entered_count == 1


def test_order_that_was_left_out_enters_by_its_id(tmp_path: Path) -> None:
    """An order with a larger id enters just before the first submission with an id above its own."""
    flow = flow_of(
        tmp_path,
        ("1", 1, 10, 1, 1000, 1),
        ("2", 1, 20, 1, 1000, 1),
        ("3", 1, 15, 1, 1000, 1),
        ("4", 1, 40, 1, 1000, 1),
        ("5", 3, 32, 2, 1000, 1),
        ("6", 3, 30, 2, 1000, 1),
        ("7", 3, 99, 3, 1000, 1),
    )
    placed = [order_id for action, order_id, _, _ in steps_of(flow) if action == Action.PLACE]
    assert placed == [10, 20, 15, 30, 32, 40, 99]
    rows = [row for _, order_id, _, row in steps_of(flow) if order_id in {32, 40}]
    assert rows == [ROW_ADDED, 3, 4]


def test_removal_goes_just_before_its_row(tmp_path: Path) -> None:
    """An order whose deletion the file does not show is deleted before the row that was named."""
    rows: tuple[Row, ...] = (("1", 1, 10, 5, 1000, 1), ("2", 1, 11, 1, 1000, 1), ("3", 1, 12, 1, 1000, 1))
    flow = flow_of(tmp_path, *rows, removals=((2, 10),))
    assert steps_of(flow)[2:] == [(Action.DELETE, 10, 5, ROW_ADDED), (Action.PLACE, 12, 1, 2)]


@pytest.mark.parametrize("removal", [(0, 99), (3, 10), (-1, 10)])
def test_removal_of_what_is_not_there_is_refused(tmp_path: Path, removal: tuple[int, int]) -> None:
    """A removal that names an order or row which the file does not have is refused by name."""
    with pytest.raises(LobsterError, match=str(removal[1])):
        flow_of(tmp_path, ("1", 1, 10, 5, 1000, 1), ("2", 1, 11, 5, 1000, 1), removals=(removal,))


def test_reduction_to_nothing_is_a_deletion(tmp_path: Path) -> None:
    """A reduction by all that is left ends the order: an amend to nothing would be refused."""
    flow = flow_of(tmp_path, ("1", 1, 10, 5, 1000, 1), ("2", 2, 10, 5, 1000, 1))
    assert steps_of(flow)[1] == (Action.DELETE, 10, 5, 1)


def test_ids_of_64_bits_are_kept(tmp_path: Path) -> None:
    """An id up to the largest signed 64-bit number stays what it is."""
    assert steps_of(flow_of(tmp_path, ("1", 1, 2**63 - 1, 5, 1000, 1)))[0][1] == 2**63 - 1


def test_seventh_column_is_ignored(tmp_path: Path) -> None:
    """Newer files name the participant in a seventh column: it is passed over."""
    path = tmp_path / "messages.csv"
    path.write_text("1.5,1,10,5,1000,1,null\n", encoding="ascii")
    assert len(read_messages(path)) == 1


@pytest.mark.parametrize(
    "line",
    [
        "1,1,10,5,1000",
        "time,type,id,size,price,direction",
        "1,9,10,5,1000,1",
        "1,1,10,5,1000,0",
        "1,1,10,0,1000,1",
        "1,1,10,5,-1000,1",
        "1,1,9223372036854775808,5,1000,1",
        "1,5,9223372036854775808,5,1000,1",
        "1e3,1,10,5,1000,1",
        "1,1,10,5.5,1000,1",
        "nan,1,10,5,1000,1",
        "",
    ],
)
def test_bad_line_is_named(tmp_path: Path, line: str) -> None:
    """A line that is no message is refused by its number."""
    path = tmp_path / "messages.csv"
    path.write_text(f"1.5,1,9,5,1000,1\n{line}\n1.6,1,10,5,1000,1\n", encoding="ascii")
    with pytest.raises(LobsterError, match="line 2"):
        read_messages(path)


def test_price_between_ticks_is_refused() -> None:
    """Prices become whole ticks; one between two is refused."""
    assert ticks_of(np.array([100, 250]), 50).tolist() == [2, 5]
    with pytest.raises(LobsterError, match=r"0\.0125"):
        ticks_of(np.array([100, 125]), 100)


def test_step_waits_for_its_order_and_for_executions_on_its_level(tmp_path: Path) -> None:
    """A reduction or deletion names the last step before it that it depends on; other steps depend on none."""
    flow = flow_of(
        tmp_path,
        ("1", 1, 10, 5, 1000, 1),
        ("2", 1, 11, 5, 1000, 1),
        ("3", 1, 12, 5, 1000, -1),
        ("4", 4, 10, 1, 1000, 1),
        ("5", 2, 11, 1, 1000, 1),
        ("6", 3, 12, 5, 1000, -1),
        ("7", 4, 10, 1, 1000, 1),
    )
    assert flow.steps["after"].tolist() == [-1, -1, -1, -1, 3, 2, -1]


@pytest.mark.parametrize("seed", range(3))
def test_every_row_is_a_step_or_counted(tmp_path: Path, seed: int) -> None:
    """Of any recording each row is one step or one of the skipped, and orders enter before anything is done to them."""
    venue = Venue(seed)
    flow = translate(read_messages(venue.write(tmp_path / "messages.csv")))
    rows = flow.steps["row"][flow.steps["row"] != ROW_ADDED]
    assert len(rows) + sum(flow.skipped.values()) == len(venue.rows)
    assert (np.diff(rows) > 0).all()
    assert flow.entered_count == len(flow.steps) - len(rows)
    assert flow.entered_count >= venue.unlisted_count
    placed: set[int] = set()
    for action, order_id, _, _ in steps_of(flow):
        assert (order_id in placed) == (action != Action.PLACE)
        placed.add(order_id)
