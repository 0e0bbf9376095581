"""Risk and the matchers against PostgreSQL, brought forward to their moments.

Risk must have the totals that follow from the ledger; hold what its live orders hold, no more; and have as live exactly
the orders that PostgreSQL has, plus those whose commands are on their way. A matcher must have exactly those of its
shard, as they are.

What amends on their way have taken in addition stands beside an order's hold, also for an order that has ended
meanwhile; a risk that was restarted since has not taken it for those that had ended. Both are right.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from tradeengine.core.differences import Difference, Differences, Int64s, Unit, pair_up, sum_by_key
from tradeengine.core.ids import SHARD_SHIFT, SHARDS_MAX
from tradeengine.core.records import CommandFlag, CommandKind, OrderType
from tradeengine.storage.reconcile_orders import order_difference
from tradeengine.storage.reconcile_world import (
    ASSET_SHIFT,
    World,
    bring_forward,
    events_between,
    held_asset,
    no_events,
    stored_order_dtype,
)

if TYPE_CHECKING:
    from tradeengine.actors.reconciling.cut import BookCount, Cut, RiskCount
    from tradeengine.storage.settle_postings import Events

_ASSET_MASK: Final = (1 << ASSET_SHIFT) - 1
_PRICED: Final = (int(OrderType.LIMIT), int(OrderType.STOP_LIMIT))
_STOPS: Final = (int(OrderType.STOP), int(OrderType.STOP_LIMIT))
_BOOK_FIELDS: Final = (
    *("account_id", "symbol_id", "side", "order_type", "triggered", "price_ticks", "stop_price_ticks"),
    *("quantity_lots", "remaining_lots", "hold_units", "filled_notional_units", "fee_units", "expires_at_us"),
)
_RISK_FIELDS: Final = (
    *("account_id", "symbol_id", "side", "triggered", "price_ticks", "stop_price_ticks"),
    *("quantity_lots", "filled_lots", "hold_units"),
)


def compare_risk(world: World, cut: Cut, differences: Differences) -> None:
    """Compare risk with the world at risk's moment."""
    risk = cut.risk
    events = [
        events_between(events, cut.cursors.get(shard, 0), risk.event_cursors[shard])
        for shard, events in enumerate(cut.events)
    ]
    then = bring_forward(world, np.concatenate([no_events(), *events]), cut.own_events)
    commands = np.concatenate(cut.commands)
    _compare_totals(then, risk, differences)
    _compare_holds(then, risk, differences)
    _compare_live(then, risk, commands, differences)
    _compare_extras(risk, commands, differences)
    if risk.mismatch_count:
        differences.add(
            Difference(
                kind="risk_events",
                message="Risk has met events since its start that did not fit what it knew.",
                expected=0,
                found=risk.mismatch_count,
            )
        )


def compare_books(world: World, cut: Cut, differences: Differences) -> None:
    """Compare each matcher with the world at its moment."""
    for shard, book in enumerate(cut.books):
        compare_book(f"matcher {shard}", shard, book, cut.cursors.get(shard, 0), cut.events[shard], world, differences)


def compare_book(
    who: str, shard: int, book: BookCount, cursor: int, events: Events, world: World, differences: Differences
) -> None:
    """Compare a shard's live orders with the world at their moment. events: all between it and the world's cursor."""
    then = bring_forward(world, events_between(events, cursor, book.next_sequence), no_events())
    own = then.orders[then.orders["order_id"] >> SHARD_SHIFT & (SHARDS_MAX - 1) == shard]
    found = _with_microseconds(book.orders)
    _compare_orders(who, "book", own, found, _BOOK_FIELDS, differences)


def _compare_totals(then: World, risk: RiskCount, differences: Differences) -> None:
    keys, expected, found = sum_by_key(
        np.concatenate([then.balance_keys, risk.balance_keys]),
        np.concatenate([then.total_units, np.zeros(len(risk.balance_keys), np.int64)]),
        np.concatenate([np.zeros(len(then.balance_keys), np.int64), risk.total_units]),
    )
    _note_balances("risk_balance", "Risk has another balance than the ledger.", keys, expected, found, differences)


def _compare_holds(then: World, risk: RiskCount, differences: Differences) -> None:
    """Compare what accounts have held with what risk's own live orders hold."""
    orders = risk.orders
    order_keys = orders["account_id"] << ASSET_SHIFT | held_asset(then, orders["symbol_id"], orders["side"])
    keys, expected, found = sum_by_key(
        np.concatenate([order_keys, risk.balance_keys]),
        np.concatenate([orders["hold_units"] + orders["extra_units"], np.zeros(len(risk.balance_keys), np.int64)]),
        np.concatenate([np.zeros(len(orders), np.int64), risk.held_units]),
    )
    message = "What is held of this balance is not what the account's live orders hold."
    _note_balances("risk_held", message, keys, expected, found, differences)


def _note_balances(
    kind: str, message: str, keys: Int64s, expected: Int64s, found: Int64s, differences: Differences
) -> None:
    wrong = np.flatnonzero(expected != found)
    differences.add_each(
        len(wrong),
        lambda index: Difference(
            kind=kind,
            message=message,
            expected=int(expected[wrong[index]]),
            found=int(found[wrong[index]]),
            unit=Unit.AMOUNT,
            account_id=int(keys[wrong[index]] >> ASSET_SHIFT),
            asset_id=int(keys[wrong[index]]) & _ASSET_MASK,
        ),
    )


def _compare_live(then: World, risk: RiskCount, commands: NDArray[np.void], differences: Differences) -> None:
    """Compare live orders with those that risk has as live, those on their way included."""
    placed = _placed(commands[commands["kind"] == CommandKind.PLACE])
    expected = np.concatenate([then.orders, placed])
    expected = expected[np.argsort(expected["order_id"])]
    found = risk.orders[risk.orders["is_ended"] == 0]
    _compare_orders("risk", "risk", expected, found, _RISK_FIELDS, differences)


def _placed(commands: NDArray[np.void]) -> NDArray[np.void]:
    """Make rows of the orders whose commands are on their way."""
    placed = np.zeros(len(commands), stored_order_dtype)
    for name in (
        *("order_id", "account_id", "symbol_id", "side", "order_type", "price_ticks", "stop_price_ticks"),
        *("quantity_lots", "hold_units"),
    ):
        placed[name] = commands[name]
    placed["by_quote"] = commands["flags"] & CommandFlag.BY_QUOTE != 0
    return placed


def _compare_extras(risk: RiskCount, commands: NDArray[np.void], differences: Differences) -> None:
    """Compare what risk has taken in addition for amends with the amends that are on their way."""
    amends = commands[commands["kind"] == CommandKind.AMEND]
    order_ids, expected, found, is_live = sum_by_key(
        np.concatenate([amends["order_id"], risk.orders["order_id"]]),
        np.concatenate([amends["hold_units"], np.zeros(len(risk.orders), np.int64)]),
        np.concatenate([np.zeros(len(amends), np.int64), risk.orders["extra_units"]]),
        np.concatenate([np.zeros(len(amends), np.int64), 1 - risk.orders["is_ended"]]),
    )
    wrong = np.flatnonzero((expected != found) & ((is_live == 1) | (found != 0)))
    differences.add_each(
        len(wrong),
        lambda index: Difference(
            kind="risk_amend",
            message="Risk holds something else for amends of this order than the amends on their way have brought.",
            expected=int(expected[wrong[index]]),
            found=int(found[wrong[index]]),
            order_id=int(order_ids[wrong[index]]),
        ),
    )


def _compare_orders(
    who: str,
    prefix: str,
    expected: NDArray[np.void],
    found: NDArray[np.void],
    fields: Sequence[str],
    differences: Differences,
) -> None:
    at_expected, at_found, missing, unknown = pair_up(expected["order_id"], found["order_id"])
    _note_alone(f"{prefix}_order_missing", f"{who} does not have this live order.", expected, missing, differences)
    message = f"{who} has this order as live, the database does not."
    _note_alone(f"{prefix}_order_unknown", message, found, unknown, differences)
    expected, found = expected[at_expected], found[at_found]
    for name in fields:
        wrong = np.flatnonzero((expected[name] != found[name]) & _counts(name, expected))
        _note_field(f"{prefix}_order", f"{who} has this order otherwise.", expected, found, wrong, name, differences)


def _counts(name: str, orders: NDArray[np.void]) -> Any:
    """Tell for which orders a field means something: a market order's prices and an amount's quantity do not."""
    if name == "price_ticks":
        return np.isin(orders["order_type"], _PRICED)
    if name == "stop_price_ticks":
        return np.isin(orders["order_type"], _STOPS)
    return orders["by_quote"] == 0 if name == "quantity_lots" else np.ones(len(orders), np.bool_)


def _note_alone(kind: str, message: str, orders: NDArray[np.void], places: Int64s, differences: Differences) -> None:
    differences.add_each(len(places), lambda index: order_difference(kind, message, orders[places[index]]))


def _note_field(
    kind: str,
    message: str,
    expected: NDArray[np.void],
    found: NDArray[np.void],
    wrong: Int64s,
    name: str,
    differences: Differences,
) -> None:
    differences.add_each(
        len(wrong),
        lambda index: order_difference(
            kind, message, expected[wrong[index]], name, expected[name][wrong[index]], found[name][wrong[index]]
        ),
    )


def _with_microseconds(orders: NDArray[np.void]) -> NDArray[np.void]:
    """Give a matcher's orders with the time at which they expire as PostgreSQL keeps it."""
    names = [name for name in orders.dtype.names or () if name != "expires_at_ns"]
    rows = np.zeros(len(orders), np.dtype([*((name, "<i8") for name in names), ("expires_at_us", "<i8")]))
    for name in names:
        rows[name] = orders[name]
    rows["expires_at_us"] = orders["expires_at_ns"] // 1000
    return rows
