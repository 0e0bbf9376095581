"""Journals replayed from their first command: by the compiled book, and by the reference book of the tests.

Both must give the same events, byte for byte; their hash must be what the matcher wrote at each segment's beginning;
and trades, orders and cursors in PostgreSQL must be what follows from them: each fill once, none more.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from tests.core.book_pair import assert_same_events, make_reference
from tests.faults.harness.intents import Json
from tests.faults.harness.world import World
from tests.model.reference_book import ReferenceBook
from tests.model.reference_orders import records

from tradeengine.actors.matcher import place_of
from tradeengine.actors.matcher_events import ReplayDiffers
from tradeengine.actors.matcher_recovery import Place, check_opening
from tradeengine.actors.matching import Matching
from tradeengine.core.book import make_book
from tradeengine.core.hashing import HASH_START
from tradeengine.core.ids import shard_of
from tradeengine.core.records import EventKind, Side
from tradeengine.settings import Settings
from tradeengine.storage.journal_read import list_segments, read_groups

Records = np.ndarray[Any, np.dtype[np.void]]
TRADE: Mapping[str, str] = {
    "price_ticks": "price_ticks",
    "quantity_lots": "quantity_lots",
    "notional_units": "notional_units",
    "taker_fee_units": "fee_units",
    "maker_fee_units": "maker_fee_units",
    "taker_order_id": "order_id",
    "maker_order_id": "maker_order_id",
    "sequence": "sequence",
    "taker_account_id": "account_id",
    "maker_account_id": "maker_account_id",
    "symbol_id": "symbol_id",
}
"""Columns of a trade, and the fields of its event."""


def replay_differences(settings: Settings, world: World) -> Iterator[str]:
    """Replay every shard and compare what comes out with the database. Nothing is being journaled meanwhile."""
    for shard in range(settings.engine.shards):
        try:
            events, reference, commands = _replay(place_of(settings, shard))
        except (AssertionError, ReplayDiffers) as error:
            yield f"shard {shard}: {error}"
            continue
        yield from (f"shard {shard}: {text}" for text in (*_compare(shard, events, reference, world), *twice(commands)))


def _replay(place: Place) -> tuple[Records, ReferenceBook, Records]:
    """Give all events of a shard, which both books agree on, the reference book at the end, and all commands."""
    matching, reference = Matching(make_book(place.limits), HASH_START), make_reference(place.limits)
    openings = {segment.header.first_command_sequence: segment.header for segment in list_segments(place.journal_dir)}
    found, taken = [], []
    for first, commands in read_groups(place.journal_dir, 0):
        if first in openings:
            check_opening(openings[first], matching)
        events = np.concatenate([piece.copy() for piece in matching.pieces(commands)])
        wanted = records(event for command in commands for event in reference.apply(command))
        assert_same_events(events, wanted, commands, "the compiled book")
        found.append(events)
        taken.append(commands)
    if matching.command_sequence in openings:
        check_opening(openings[matching.command_sequence], matching)
    return np.concatenate(found), reference, np.concatenate(taken)


def twice(commands: Records) -> list[str]:
    """Name the commands that were carried out more than once; none has a number of its ring that another has."""
    sent = commands[commands["ingress_sequence"] >= 0]
    keys, counts = np.unique(sent[["ingress_ring", "ingress_sequence"]], return_counts=True)
    return [
        f"command {key} of ring and number was carried out {n} times"
        for key, n in zip(keys, counts, strict=True)
        if n > 1
    ]


def _compare(shard: int, events: Records, reference: ReferenceBook, world: World) -> Iterator[str]:
    if world.cursors[shard] != len(events):
        yield f"the journal gives {len(events)} events, {world.cursors[shard]} are settled"
    yield from _compare_trades(shard, events, world)
    yield from _beyond_limits(events)
    placed = {int(event["order_id"]) for event in events if event["kind"] in {EventKind.ACCEPTED, EventKind.REJECTED}}
    stored = {order_id: row for order_id, row in world.orders.items() if shard_of(order_id) == shard}
    if placed != stored.keys():
        yield f"orders {sorted(placed ^ stored.keys())} are only in one of journal and database"
    live = {order_id: row for order_id, row in stored.items() if row["closed_at"] is None}
    if live.keys() != reference.orders.keys():
        yield f"orders {sorted(live.keys() ^ reference.orders.keys())} are live only in one of book and database"
    for order_id in live.keys() & reference.orders.keys():
        order, row = reference.orders[order_id], live[order_id]
        in_book = (order.remaining, order.hold, order.price, order.stop, order.quantity)
        in_database = tuple(
            row[name] for name in ("remaining_lots", "hold_units", "price_ticks", "stop_price_ticks", "quantity_lots")
        )
        if in_book != in_database:
            yield f"order {order_id} is {in_book} in the book and {in_database} in the database"


def _compare_trades(shard: int, events: Records, world: World) -> Iterator[str]:
    made = {int(event["trade_id"]): event for event in events if event["kind"] == EventKind.TRADED}
    stored: dict[int, Json] = {trade_id: row for trade_id, row in world.trades.items() if shard_of(trade_id) == shard}
    for trade_id in made.keys() - stored.keys():
        yield f"trade {trade_id} was made and never settled"
    for trade_id in stored.keys() - made.keys():
        yield f"trade {trade_id} was settled and never made"
    for trade_id in made.keys() & stored.keys():
        event, row = made[trade_id], stored[trade_id]
        wrong = {column: row[column] for column, field in TRADE.items() if row[column] != int(event[field])}
        if wrong or row["taker_side"] != Side(event["side"]).name.lower():
            yield f"trade {trade_id} was settled with {wrong or row['taker_side']}, its event is {event}"


def _beyond_limits(events: Records) -> Iterator[str]:
    """Give the fills that are worse than the limit which their orders had at that moment."""
    limits: dict[int, int] = {}
    for event in events:
        if event["kind"] in {EventKind.ACCEPTED, EventKind.AMENDED, EventKind.TRIGGERED}:
            limits[int(event["order_id"])] = int(event["price_ticks"])
        elif event["kind"] == EventKind.TRADED:
            price, taker_buys = int(event["price_ticks"]), event["side"] == Side.BUY
            for whose, buys in (("", taker_buys), ("maker_", not taker_buys)):
                limit = limits[int(event[f"{whose}order_id"])]
                if limit and (price > limit if buys else price < limit):
                    yield f"order {int(event[f'{whose}order_id'])} with limit {limit} was filled at {price}"
