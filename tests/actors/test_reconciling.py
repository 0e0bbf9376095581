"""Comparing risk and matchers with the ledger's world: no difference that is not there, and each that is.

Risk and two books are driven at random, everything on its way delayed at will, and the world is settled to some point
of its own behind them: a census then is what it is in a running engine, at moments that have nothing to do with one
another.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

import numpy as np
import pytest
from tests.core.risk_world import ALICE, BASE, BOB, CAROL, OTHER, QUOTE, START_NS, RiskWorld, change, place, symbol_spec

from tradeengine.actors.reconciling.compare import compare_books, compare_risk
from tradeengine.actors.reconciling.cut import BookCount, Cut, RiskCount
from tradeengine.core.book import next_event_sequence
from tradeengine.core.book_census import copy_book_orders
from tradeengine.core.census import BOOK_ORDER_WORDS, NO_ROOM, book_order_dtype
from tradeengine.core.differences import KEPT_MAX, Difference, Differences
from tradeengine.core.records import CommandFlag, CommandKind, OrderType, Side, TimeInForce, command_dtype
from tradeengine.core.risk_census import copy_balances, copy_orders, read_orders
from tradeengine.core.risk_state import MISMATCH_COUNT
from tradeengine.storage.reconcile_world import World, bring_forward, no_events, stored_order_dtype
from tradeengine.storage.settle_postings import SymbolUnits

ACCOUNTS = (ALICE, BOB, CAROL)
ASSETS = (BASE, QUOTE, OTHER)
SPECS = (symbol_spec(0), symbol_spec(1, shard=1, collar_ppm=0))
SHARDS = (0, 1)
STEPS = 400

Records = np.ndarray[Any, np.dtype[np.void]]


@dataclass
class Rings:
    """What rings hold: everything, because nothing is overwritten here."""

    events: list[Records] = field(default_factory=lambda: [no_events(), no_events()])
    own_events: Records = field(default_factory=no_events)
    commands: list[Records] = field(default_factory=lambda: [np.zeros(0, command_dtype)] * 2)


class Logged(RiskWorld):
    """Risk and books that keep what went through between them."""

    def __init__(self) -> None:
        self.rings = Rings()
        super().__init__(shards=2, client_ids_max=6, open_orders_max=30, symbols=SPECS)

    def send(self, commands: Records, **options: Any) -> Records:
        """Let risk decide."""
        answers = super().send(commands, **options)
        self.rings.own_events = np.concatenate([self.rings.own_events, answers])
        return answers

    def match(self, shard: int = 0, count: int = 1) -> None:
        """Let a book work, command by command, and keep what went in and came out."""
        for _ in range(min(count, len(self.forwarded[shard]))):
            command, seen = self.forwarded[shard][0], len(self.happened[shard])
            super().match(shard, 1)
            made = self.happened[shard][seen:]
            self.rings.commands[shard] = np.concatenate([self.rings.commands[shard], command])
            self.rings.events[shard] = np.concatenate([self.rings.events[shard], *made])

    def folded(self, shard: int) -> int:
        """Next event that risk will fold."""
        return len(self.rings.events[shard]) - len(self.happened[shard])

    def cut(self, settled: list[int], own_settled: int) -> Cut:
        """Take a census of everyone as they are. settled, own_settled: the snapshot's cursors."""
        return Cut(
            cursors={-1: own_settled, **dict(enumerate(settled))},
            risk=self._risk_count(),
            books=tuple(self._book_count(shard) for shard in SHARDS),
            events=tuple(self.rings.events[shard][settled[shard] :] for shard in SHARDS),
            own_events=self.rings.own_events[own_settled:],
            commands=tuple(self._unanswered(shard) for shard in SHARDS),
        )

    def _risk_count(self) -> RiskCount:
        orders, balances = np.zeros((300, 8), np.int64), np.zeros((300, 3), np.int64)
        orders = orders[: copy_orders(self.risk, orders)]
        balances = balances[: copy_balances(self.risk, balances)]
        return RiskCount(
            orders=read_orders(orders),
            balance_keys=balances[:, 0],
            total_units=balances[:, 1],
            held_units=balances[:, 2],
            mismatch_count=int(self.risk.scalars[MISMATCH_COUNT]),
            event_cursors=tuple(self.folded(shard) for shard in SHARDS),
            command_heads=(0, 0),
            own_events_head=len(self.rings.own_events),
            duration_us=0,
        )

    def _book_count(self, shard: int) -> BookCount:
        rows = np.zeros((300, BOOK_ORDER_WORDS), np.int64)
        rows = rows[: copy_book_orders(self.books[shard], rows)]
        orders = rows.view(book_order_dtype).reshape(-1)
        return BookCount(orders[np.argsort(orders["order_id"])], next_event_sequence(self.books[shard]), 0)

    def _unanswered(self, shard: int) -> Records:
        folded = self.rings.events[shard][: self.folded(shard)]
        answered = int(folded["ring_sequence"][-1]) if len(folded) else -1
        commands = np.concatenate([self.rings.commands[shard], *self.forwarded[shard]])
        return commands[commands["ring_sequence"] > answered]


def empty_world() -> World:
    """Give the world before anything was settled."""
    nothing = np.zeros(0, np.int64)
    return World(np.zeros(0, stored_order_dtype), nothing, nothing, SymbolUnits())


def settled_world(world: Logged, settled: list[int], own_settled: int) -> World:
    """Settle everything up to some cursors."""
    events = np.concatenate([world.rings.events[shard][: settled[shard]] for shard in SHARDS])
    return bring_forward(empty_world(), events, world.rings.own_events[:own_settled])


def differences_of(world: World, cut: Cut) -> Differences:
    """Compare."""
    differences = Differences()
    compare_risk(world, cut, differences)
    compare_books(world, cut, differences)
    return differences


def kinds_of(differences: Differences) -> set[str]:
    """Name what was found."""
    return {difference.kind for difference in differences.kept}


def step(world: Logged, chance: Random) -> None:
    """Do something."""
    match chance.choice("ppppppaacxfmmggq"):
        case "p":
            _place(world, chance)
        case "a":
            quantity, price = chance.choice([0, chance.randint(1, 60)]), chance.choice([0, chance.randint(95, 105)])
            _change(world, chance, CommandKind.AMEND, quantity_lots=quantity, price_ticks=price)
        case "c":
            _change(world, chance, CommandKind.CANCEL)
        case "x":
            world.send(change(CommandKind.CANCEL_ALL, chance.choice(ACCOUNTS), symbol_id=chance.choice([-1, 0, 1])))
        case "f":
            world.fund(chance.choice(ACCOUNTS), chance.choice(ASSETS), chance.randint(-2000, 4000))
        case "m":
            world.match(chance.choice(SHARDS), chance.randint(1, 5))
        case "g":
            world.fold(chance.choice(SHARDS), chance.randint(1, 9))
        case _:
            world.quote(chance.choice(SHARDS))


def _place(world: Logged, chance: Random) -> None:
    kind = chance.choice([OrderType.LIMIT, OrderType.LIMIT, OrderType.LIMIT, *OrderType])
    is_market = kind == OrderType.MARKET
    by_quote = is_market and chance.random() < 0.5
    side = Side.BUY if by_quote else chance.choice(list(Side))
    dated = kind == OrderType.LIMIT and chance.random() < 0.3
    times: tuple[TimeInForce, ...] = (
        (TimeInForce.IOC,) if is_market else (TimeInForce.GTD,) if dated else (TimeInForce.GTC,)
    )
    if kind == OrderType.LIMIT and not dated:
        times = (TimeInForce.GTC, TimeInForce.GTC, TimeInForce.IOC, TimeInForce.FOK)
    world.send(
        place(
            chance.choice(ACCOUNTS),
            side,
            0 if by_quote else chance.randint(1, 60),
            chance.randint(95, 105) if kind in {OrderType.LIMIT, OrderType.STOP_LIMIT} else 0,
            symbol_id=chance.choice(SHARDS),
            order_type=kind,
            stop_price_ticks=chance.randint(95, 105) if kind in {OrderType.STOP, OrderType.STOP_LIMIT} else 0,
            time_in_force=chance.choice(times),
            expires_at_ns=START_NS * 2 + 7 if dated else 0,
            flags=CommandFlag.BY_QUOTE if by_quote else 0,
            hold_units=chance.randint(10, 5000) if by_quote else 0,
            self_trade_prevention=chance.randint(1, 3),
        )
    )


def _change(world: Logged, chance: Random, kind: CommandKind, **fields: int) -> None:
    """Change a live order as its owner."""
    orders = read_orders(world.risk.orders[world.risk.orders[:, 0] != 0])
    if len(orders):
        order = orders[chance.randrange(len(orders))]
        owner, order_id = int(order["account_id"]), int(order["order_id"])
        world.send(change(kind, owner, order_id=order_id, symbol_id=int(order["symbol_id"]), **fields))


def funded() -> Logged:
    """Give everyone something of everything."""
    world = Logged()
    for account_id in ACCOUNTS:
        for asset_id in ASSETS:
            world.fund(account_id, asset_id, 20_000)
    return world


@pytest.mark.parametrize("_", range(6))
def test_nothing_differs_at_any_moment(_: int) -> None:
    """Whatever was settled, matched and folded when each was asked, there is no difference."""
    seed = secrets.randbits(32)
    chance, world = Random(seed), funded()
    for number in range(STEPS):
        step(world, chance)
        if number % 5 == 0:
            listed = [1, 1]
            settled = [chance.randint(first, world.folded(shard)) for shard, first in enumerate(listed)]
            own_settled = chance.randint(0, len(world.rings.own_events))
            found = differences_of(settled_world(world, settled, own_settled), world.cut(settled, own_settled))
            assert found.kept == [], f"seed {seed}, step {number}"


@pytest.fixture(scope="module")
def sample() -> tuple[World, Cut]:
    """Give a world with resting orders, fills, and an amend on its way, and a cut without differences."""
    world = funded()
    world.place(ALICE, Side.SELL, 20, 100)
    world.place(BOB, Side.BUY, 5, 100)
    world.place(BOB, Side.BUY, 10, 90, order_type=OrderType.STOP_LIMIT, stop_price_ticks=120)
    world.place(CAROL, Side.BUY, 7, 80, time_in_force=TimeInForce.GTD, expires_at_ns=START_NS * 2)
    bought = world.place(CAROL, Side.BUY, 6, 85)
    world.settle()
    settled, own_settled = [world.folded(shard) for shard in SHARDS], len(world.rings.own_events)
    world.send(change(CommandKind.AMEND, CAROL, order_id=bought, quantity_lots=16))
    world.place(BOB, Side.BUY, 3, 70)
    cut = world.cut(settled, own_settled)
    stored = settled_world(world, settled, own_settled)
    assert differences_of(stored, cut).count == 0
    assert len(cut.books[0].orders) == 4
    return stored, cut


def test_what_is_on_its_way_is_no_difference(sample: tuple[World, Cut]) -> None:
    """An order that only risk has heard of, and what an amend has taken ahead, are explained by their commands."""
    stored, cut = sample
    unexplained = replace(cut, commands=tuple(commands[:0] for commands in cut.commands))
    assert kinds_of(differences_of(stored, unexplained)) == {"risk_order_unknown", "risk_amend"}


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("account_id", {"risk_order", "risk_held"}),
        ("side", {"risk_order", "risk_held"}),
        ("triggered", {"risk_order"}),
        ("price_ticks", {"risk_order"}),
        ("stop_price_ticks", {"risk_order"}),
        ("quantity_lots", {"risk_order"}),
        ("filled_lots", {"risk_order"}),
        ("hold_units", {"risk_order", "risk_held"}),
        ("extra_units", {"risk_amend", "risk_held"}),
    ],
)
def test_order_that_risk_has_otherwise_is_found(sample: tuple[World, Cut], name: str, kinds: set[str]) -> None:
    """Each field of an order in risk that is another than the database's is named."""
    stored, cut = sample
    orders = cut.risk.orders.copy()
    (stop,) = np.flatnonzero(orders["stop_price_ticks"])
    orders[name][stop] += 1
    found = differences_of(stored, replace(cut, risk=replace(cut.risk, orders=orders)))
    assert kinds_of(found) == kinds
    named = [difference for difference in found.kept if difference.kind == "risk_order"]
    assert all((difference.field, difference.order_id) == (name, orders["order_id"][stop]) for difference in named)


@pytest.mark.parametrize("name", [name for name in book_order_dtype.names or () if name != "order_id"])
def test_order_that_a_matcher_has_otherwise_is_found(sample: tuple[World, Cut], name: str) -> None:
    """Each field of an order in a matcher that is another than the database's is named."""
    stored, cut = sample
    orders = cut.books[0].orders.copy()
    (stop,) = np.flatnonzero(orders["stop_price_ticks"])
    orders[name][stop] += 1000 if name == "expires_at_ns" else 1
    changed = replace(cut, books=(replace(cut.books[0], orders=orders), cut.books[1]))
    if name == "order_type":
        orders["price_ticks"][stop] = stored.orders["price_ticks"][stored.orders["stop_price_ticks"] != 0][0]
    (difference,) = differences_of(stored, changed).kept
    shown = "expires_at_us" if name == "expires_at_ns" else name
    assert (difference.kind, difference.field, difference.order_id) == ("book_order", shown, orders["order_id"][stop])


def test_orders_that_only_one_side_has_are_found(sample: tuple[World, Cut]) -> None:
    """A live order that risk or a matcher lacks, and one that only they have, are named by their ids."""
    stored, cut = sample
    risk, book = cut.risk.orders, cut.books[0].orders
    without = replace(
        cut, risk=replace(cut.risk, orders=risk[1:]), books=(replace(cut.books[0], orders=book[1:]), cut.books[1])
    )
    found = {(difference.kind, difference.order_id) for difference in differences_of(stored, without).kept}
    first = int(risk["order_id"][0])
    assert {("risk_order_missing", first), ("book_order_missing", first)} <= found
    fewer = replace(stored, orders=stored.orders[1:])
    found = {(difference.kind, difference.order_id) for difference in differences_of(fewer, cut).kept}
    assert found == {("risk_order_unknown", first), ("book_order_unknown", first)}


def test_balances_of_risk_are_compared(sample: tuple[World, Cut]) -> None:
    """Another total, another hold, and a balance that only one side has are named by account and asset."""
    stored, cut = sample
    for name, kind in (("total_units", "risk_balance"), ("held_units", "risk_held")):
        units = getattr(cut.risk, name).copy()
        units[0] += 5
        found = differences_of(stored, replace(cut, risk=replace(cut.risk, **{name: units})))
        (difference,) = found.kept
        assert (difference.kind, difference.account_id) == (kind, int(cut.risk.balance_keys[0] >> 16))
        assert isinstance(difference.found, int)
        assert difference.expected == difference.found - 5
    fewer = replace(stored, balance_keys=stored.balance_keys[1:], total_units=stored.total_units[1:])
    (difference,) = differences_of(fewer, cut).kept
    assert (difference.kind, difference.expected) == ("risk_balance", 0)


def test_events_that_did_not_fit_are_told(sample: tuple[World, Cut]) -> None:
    """Risk counts events that did not fit what it knew, and that count is a difference."""
    stored, cut = sample
    (difference,) = differences_of(stored, replace(cut, risk=replace(cut.risk, mismatch_count=3))).kept
    assert (difference.kind, difference.expected, difference.found) == ("risk_events", 0, 3)


def test_amend_of_an_order_that_ended_may_have_taken_something_or_not(sample: tuple[World, Cut]) -> None:
    """What an amend on its way has taken stays when its order ends; a risk that started since has not taken it."""
    world = funded()
    order_id = world.place(ALICE, Side.BUY, 5, 100)
    world.settle()
    settled, own_settled = [world.folded(shard) for shard in SHARDS], len(world.rings.own_events)
    world.send(change(CommandKind.CANCEL, ALICE, order_id=order_id))
    world.send(change(CommandKind.AMEND, ALICE, order_id=order_id, quantity_lots=9))
    world.match(0, 1)
    world.fold(0, 1)
    cut = world.cut(settled, own_settled)
    assert cut.risk.orders["is_ended"].tolist() == [1]
    stored = settled_world(world, settled, own_settled)
    assert differences_of(stored, cut).count == 0
    forgotten = replace(cut.risk, orders=cut.risk.orders[:0], held_units=np.zeros_like(cut.risk.held_units))
    assert differences_of(stored, replace(cut, risk=forgotten)).count == 0
    halved = cut.risk.orders.copy()
    halved["extra_units"] //= 2
    assert kinds_of(differences_of(stored, replace(cut, risk=replace(cut.risk, orders=halved)))) == {
        "risk_amend",
        "risk_held",
    }


def test_page_that_is_too_small_says_so() -> None:
    """A census that does not fit its page has no count instead of a wrong one."""
    world = funded()
    world.place(ALICE, Side.BUY, 5, 90)
    world.place(ALICE, Side.BUY, 5, 91)
    world.settle()
    assert copy_orders(world.risk, np.zeros((1, 8), np.int64)) == NO_ROOM
    assert copy_balances(world.risk, np.zeros((1, 3), np.int64)) == NO_ROOM
    assert copy_book_orders(world.books[0], np.zeros((1, BOOK_ORDER_WORDS), np.int64)) == NO_ROOM


def test_great_damage_is_counted_in_full() -> None:
    """All differences are counted, the first thousand are kept by name."""
    differences = Differences()
    differences.add_each(5 * KEPT_MAX, lambda place: Difference(kind="balance", message="", account_id=place))
    differences.add(Difference(kind="last", message=""))
    assert differences.count == 5 * KEPT_MAX + 1
    assert [difference.account_id for difference in differences.kept] == list(range(KEPT_MAX))
