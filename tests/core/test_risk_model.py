"""The risk kernel against the reference risk: same decisions, same balances, whatever comes in whatever order."""

from __future__ import annotations

import secrets
from collections import Counter
from decimal import Decimal
from random import Random
from typing import Any

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from tests.core.risk_world import (
    ALICE,
    BASE,
    BOB,
    CAROL,
    OTHER,
    QUOTE,
    START_NS,
    RiskWorld,
    change,
    place,
    symbol_spec,
)
from tests.model.reference_risk import Answer, Limits, ReferenceRisk, Symbol

from tradeengine.core.ids import EPOCH_2024_MS
from tradeengine.core.records import (
    ACCOUNT_ID_EXCHANGE,
    ACCOUNT_ID_OUTSIDE,
    CommandFlag,
    CommandKind,
    EventKind,
    LimitKind,
    OrderType,
    Reason,
    Side,
    TimeInForce,
)
from tradeengine.core.risk_state import AMENDS_IN_USE
from tradeengine.core.symbols import SymbolSpec

ACCOUNTS = (ALICE, BOB, CAROL)
ASSETS = (BASE, QUOTE, OTHER)
SPECS = (symbol_spec(0), symbol_spec(1, shard=1, collar_ppm=0))

prices = st.integers(95, 105) | st.sampled_from([-1, 0, 1, 10_000, 10_001])
lots = st.integers(1, 60) | st.sampled_from([-1, 0, 100_000, 100_001])
sides = st.sampled_from(Side)
# In units of two places: what an order, or a few of them, come to.
limits = st.none() | st.integers(0, 90_000).map(lambda mantissa: Decimal(mantissa).scaleb(-3))


class RiskModel(RuleBasedStateMachine):
    """Three accounts, two symbols on two shards, everything delayed at will."""

    def __init__(self) -> None:
        super().__init__()
        self.world = RiskWorld(shards=2, client_ids_max=6, open_orders_max=8, symbols=SPECS)
        self.model = ReferenceRisk(accounts_max=32, open_orders_max=8, client_ids_max=6)
        self.model.symbols = {spec.symbol_id: reference_symbol(spec) for spec in SPECS}
        self.known_ids: list[int] = []
        self.funding_number = 0
        self.seen: Counter[EventKind] = Counter()
        self.limited: Counter[int] = Counter()

    @initialize()
    def fund_all(self) -> None:
        """Give everyone something of everything."""
        for account_id in ACCOUNTS:
            for asset_id in ASSETS:
                self.fund(account_id, asset_id, 20_000)

    @rule(account_id=st.sampled_from(ACCOUNTS), asset_id=st.sampled_from(ASSETS), amount=st.integers(-30_000, 30_000))
    def fund(self, account_id: int, asset_id: int, amount: int) -> None:
        """Deposit or withdraw."""
        self.funding_number += 1
        self._fund(self.funding_number, account_id, asset_id, amount)

    @rule(back=st.integers(0, 3))
    def fund_again(self, back: int) -> None:
        """Send a number that was sent before: it must change nothing."""
        if self.funding_number > back:
            self._fund(self.funding_number - back, ALICE, QUOTE, 1000)

    @rule(
        account_id=st.sampled_from(ACCOUNTS),
        order=limits,
        day=limits,
        two_factor=limits,
        orders=st.none() | st.integers(0, 6),
        suspended=st.sampled_from([False, False, False, False, True]),
    )
    def set_account(self, account_id: int, **settings: Any) -> None:
        """Give an account limits, or none, or suspend it."""
        self.model.limits[account_id] = Limits(**settings)
        names = {"order": "order_notional_max", "day": "day_notional_max", "two_factor": "two_factor_above"}
        texts: dict[str, Any] = {name: str(settings[key]) for key, name in names.items() if settings[key] is not None}
        (answer,) = self.world.set_account(
            account_id,
            **texts,
            open_orders_max=-1 if settings["orders"] is None else settings["orders"],
            account_flags=int(settings["suspended"]),
        )
        assert answer["kind"] == EventKind.ACCOUNT_SET

    def _fund(self, number: int, account_id: int, asset_id: int, amount: int) -> None:
        expected = self.model.fund(number, account_id, asset_id, amount)
        events = self.world.fund(account_id, asset_id, amount, number)
        assert_answer(events, expected)

    @rule(
        account_id=st.sampled_from(ACCOUNTS),
        symbol_id=st.sampled_from([0, 1]),
        side=sides,
        quantity=lots,
        price=prices,
        stop=st.just(0) | prices,
        order_type=st.sampled_from(OrderType),
        time=st.sampled_from(TimeInForce),
        flags=st.sampled_from([0, 0, CommandFlag.TWO_FACTOR, CommandFlag.POST_ONLY, CommandFlag.BY_QUOTE]),
        budget=st.integers(0, 30_000),
        client_id=st.sampled_from([b"", b"a", b"b", b"c", b"order-with-a-long-name:1234567890_.A"]),
        stp=st.sampled_from([1, 1, 2, 3]),
    )
    def place_any(self, quantity: int, price: int, stop: int, time: TimeInForce, stp: int, **fields: Any) -> None:
        """Place anything, sensible or not."""
        expires = START_NS * 2 if time == TimeInForce.GTD else 0
        self._ask(
            place(
                fields["account_id"],
                fields["side"],
                quantity,
                price,
                symbol_id=fields["symbol_id"],
                stop_price_ticks=stop,
                order_type=fields["order_type"],
                time_in_force=time,
                flags=fields["flags"],
                hold_units=fields["budget"],
                expires_at_ns=expires,
                client_order_id=fields["client_id"],
                self_trade_prevention=stp,
            )
        )

    @rule(
        account_id=st.sampled_from(ACCOUNTS),
        symbol_id=st.sampled_from([0, 1]),
        side=sides,
        quantity=st.integers(1, 60),
        price=st.integers(95, 105),
        stop=st.integers(95, 105),
        order_type=st.sampled_from(OrderType),
        by_quote=st.booleans(),
        dated=st.booleans(),
        budget=st.integers(10, 30_000),
    )
    def place_sensible(
        self, side: Side, quantity: int, price: int, stop: int, order_type: OrderType, by_quote: bool, **fields: Any
    ) -> None:
        """Place an order that only money can stop."""
        by_quote = by_quote and order_type == OrderType.MARKET and side == Side.BUY
        market = order_type == OrderType.MARKET
        dated = fields["dated"] and not market
        time = TimeInForce.IOC if market else TimeInForce.GTD if dated else TimeInForce.GTC
        self._ask(
            place(
                fields["account_id"],
                side,
                0 if by_quote else quantity,
                price if order_type in {OrderType.LIMIT, OrderType.STOP_LIMIT} else 0,
                symbol_id=fields["symbol_id"],
                stop_price_ticks=stop if order_type in {OrderType.STOP, OrderType.STOP_LIMIT} else 0,
                order_type=order_type,
                time_in_force=time,
                expires_at_ns=START_NS * 2 if dated else 0,
                flags=CommandFlag.BY_QUOTE if by_quote else 0,
                hold_units=fields["budget"],
            )
        )

    @rule(choice=st.integers(0, 1000), account_id=st.sampled_from(ACCOUNTS))
    def cancel(self, choice: int, account_id: int) -> None:
        """Cancel an order that may be live, over, someone else's, or unknown."""
        self._ask(change(CommandKind.CANCEL, account_id, order_id=self._some_id(choice)))

    @rule(account_id=st.sampled_from([*ACCOUNTS, 0, 5]), symbol_id=st.sampled_from([-1, 0, 1, 2]))
    def cancel_all(self, account_id: int, symbol_id: int) -> None:
        """Cancel many."""
        self._ask(change(CommandKind.CANCEL_ALL, account_id, symbol_id=symbol_id))

    @rule(
        choice=st.integers(0, 1000),
        quantity=st.just(0) | lots,
        price=st.just(0) | prices,
        stop=st.just(0) | st.just(0) | prices,
        two_factor=st.booleans(),
    )
    def amend(self, choice: int, quantity: int, price: int, stop: int, two_factor: bool) -> None:
        """Amend an order; its owner asks."""
        order_id = self._some_id(choice)
        order = self.model.orders.get(order_id)
        self._ask(
            change(
                CommandKind.AMEND,
                order.account_id if order else BOB,
                order_id=order_id,
                quantity_lots=quantity,
                price_ticks=price,
                stop_price_ticks=stop,
                flags=CommandFlag.TWO_FACTOR if two_factor else 0,
            )
        )

    @rule(shard=st.sampled_from([0, 1]), count=st.integers(1, 5))
    def match(self, shard: int, count: int) -> None:
        """Let a matcher work."""
        self.world.match(shard, count)
        self.world.quote(shard)
        touch = self.world.outbox.touch[shard]
        self.model.bids[shard], self.model.asks[shard] = int(touch[0]), int(touch[1])

    @rule(shard=st.sampled_from([0, 1]), count=st.integers(1, 12))
    def fold(self, shard: int, count: int) -> None:
        """Let events arrive."""
        for event in self.world.fold(shard, count):
            self.seen[EventKind(int(event["kind"]))] += 1
            self.model.fold(event)

    @rule(elapsed_ms=st.sampled_from([0, 1, 1000, 13 * 3600 * 1000]))
    def wait(self, elapsed_ms: int) -> None:
        """Let time pass: client order ids get old."""
        self.world.now_ns += elapsed_ms * 1_000_000

    @rule()
    def arrive(self) -> None:
        """Let everything arrive that is on its way."""
        for shard in (0, 1):
            self.match(shard, 1000)
            self.fold(shard, 1000)

    def _some_id(self, choice: int) -> int:
        live = sorted(self.model.orders)
        ids = [*live, *live, *live, *self.known_ids[-2:], 7]
        return ids[choice % len(ids)]

    def _ask(self, command: Any) -> None:
        shard = int(command[0]["symbol_id"]) if int(command[0]["symbol_id"]) in {0, 1} else 0
        next_id = self._next_id(shard)
        expected = self.model.decide(command[0], self.world.now_ns, next_id)
        queued = [len(queue) for queue in self.world.forwarded]
        events = self.world.send(command)
        if expected.kind != "FORWARDED":
            self.limited[expected.limit[0]] += 1
            assert [len(queue) for queue in self.world.forwarded] == queued
            assert_answer(events, expected)
            return
        assert len(events) == 0
        (laid, *others) = [
            queue[-1][0] for queue, before in zip(self.world.forwarded, queued, strict=True) if len(queue) > before
        ]
        assert len(others) == int(command[0]["kind"] == CommandKind.CANCEL_ALL and command[0]["symbol_id"] == -1)
        assert laid["flags"] & CommandFlag.TWO_FACTOR == 0
        if command[0]["kind"] == CommandKind.PLACE:
            self.known_ids.append(next_id)
            assert laid["order_id"] == expected.order_id
        if command[0]["kind"] in {CommandKind.PLACE, CommandKind.AMEND}:
            assert laid["hold_units"] == expected.hold_units

    def _next_id(self, shard: int) -> int:
        last = int(self.world.risk.last_order_ids[shard])
        elapsed_ms = self.world.now_ns // 10**6 - EPOCH_2024_MS
        return last + 1 if last >> 22 == elapsed_ms else elapsed_ms << 22 | shard << 16

    @invariant()
    def balances_agree(self) -> None:
        """Totals, holds and orders are those of the model, nothing is negative, and nothing is lost."""
        for asset_id in ASSETS:
            for account_id in (*ACCOUNTS, ACCOUNT_ID_EXCHANGE, ACCOUNT_ID_OUTSIDE):
                assert self.world.total(account_id, asset_id) == self.model.total.get((account_id, asset_id), 0)
                held = self.world.held(account_id, asset_id)
                assert held == self.model.held(account_id, asset_id)
                if account_id != ACCOUNT_ID_OUTSIDE:
                    assert 0 <= held <= self.world.total(account_id, asset_id)
        assert not self.world.risk.balances[:, :, 0].sum(axis=0).any()
        expected = {key: (order.hold, order.extra, order.filled_lots) for key, order in self.model.orders.items()}
        assert self.world.orders() == expected
        open_orders = np.bincount([o.account_id for o in self.model.orders.values() if not o.ended], minlength=32)
        assert np.array_equal(self.world.risk.open_orders, open_orders)

    @invariant()
    def volumes_agree(self) -> None:
        """Whatever accounts could trade and have traded today is what the model adds up; nothing is left over."""
        for account_id in ACCOUNTS:
            for asset_id in ASSETS:
                assert self.world.open_units(account_id, asset_id) == self.model.open_notional(account_id, asset_id)
                traded = self.model.day_notional(account_id, asset_id, self.world.now_ns)
                assert self.world.traded_units(account_id, asset_id) == traded
        amending = sum(1 for order in self.model.orders.values() if order.asked and not order.ended)
        assert self.world.risk.scalars[AMENDS_IN_USE] == amending == np.count_nonzero(self.world.risk.amends[:, 0])


def assert_answer(events: Any, expected: Answer) -> None:
    """Compare what risk answered with what the model says."""
    if expected.kind == "SKIPPED":
        assert len(events) == 0
        return
    (event,) = events
    assert EventKind(int(event["kind"])).name == expected.kind
    assert Reason(int(event["reason"])) == expected.reason
    if expected.kind == "REFUSED":
        told = tuple(int(event[name]) for name in ("price_ticks", "quantity_lots", "notional_units"))
        assert told == expected.limit
    if expected.order_id > 0:
        assert event["order_id"] == expected.order_id


def reference_symbol(spec: SymbolSpec) -> Symbol:
    """Tell the model about a symbol."""
    return Symbol(
        shard=spec.shard,
        base=spec.base.asset_id,
        quote=spec.quote.asset_id,
        tick_lot=spec.tick_lot_units,
        lot=spec.lot_units,
        price_max=spec.price_ticks_max,
        lots_min=spec.quantity_lots_min,
        lots_max=spec.quantity_lots_max,
        notional_min=spec.notional_units_min,
        maker_ppm=spec.maker_fee_ppm,
        taker_ppm=spec.taker_fee_ppm,
        collar_ppm=spec.collar_ppm,
    )


def test_long_random_streams_agree_with_the_model() -> None:
    """Thousands of commands and events in random order leave risk where the reference risk is, at every step."""
    seed = secrets.randbits(32)
    print(f"seed {seed}")  # noqa: T201 - shown when the test fails: it repeats it
    random = Random(seed)
    seen: Counter[EventKind] = Counter()
    limited: Counter[int] = Counter()
    for _ in range(4):
        machine = RiskModel()
        machine.fund_all()
        for _ in range(700):
            step(machine, random)
            machine.balances_agree()
        seen += machine.seen
        limited += machine.limited
    for kind in (EventKind.TRADED, EventKind.AMENDED, EventKind.TRIGGERED, EventKind.CANCELLED, EventKind.REFUSED):
        assert seen[kind] > 0, f"the streams never come to {kind.name}"
    for limit in (LimitKind.ORDER_NOTIONAL, LimitKind.DAY_NOTIONAL, LimitKind.OPEN_ORDERS, LimitKind.TWO_FACTOR):
        assert limited[limit] > 0, f"the streams never come to {limit.name}"


def step(machine: RiskModel, random: Random) -> None:
    """Take one random step: mostly orders that can trade, and what follows from them."""
    account_id, side = random.choice(ACCOUNTS), random.choice(list(Side))
    choice = random.random()
    if choice < 0.45:
        machine.place_sensible(
            account_id=account_id,
            symbol_id=random.randrange(2),
            side=side,
            quantity=random.randint(1, 30),
            price=random.randint(97, 103),
            stop=random.randint(97, 103),
            order_type=random.choice([OrderType.LIMIT] * 5 + list(OrderType)),
            by_quote=random.random() < 0.5,
            dated=random.random() < 0.3,
            budget=random.randint(10, 9000),
        )
    elif choice < 0.60:
        machine.amend(
            choice=random.randrange(1000),
            quantity=random.choice([0, random.randint(1, 60)]),
            price=random.choice([0, random.randint(97, 103)]),
            stop=0 if random.random() < 0.7 else random.randint(97, 103),
            two_factor=random.random() < 0.5,
        )
    elif choice < 0.68:
        machine.cancel(choice=random.randrange(1000), account_id=account_id)
    elif choice < 0.69:
        machine.cancel_all(account_id=account_id, symbol_id=random.choice([-1, 0, 1]))
    elif choice < 0.70:
        machine.set_account(
            account_id=account_id,
            order=random.choice([None, None, Decimal(random.randint(20, 90))]),
            day=random.choice([None, None, Decimal(random.randint(100, 500))]),
            two_factor=random.choice([None, Decimal(random.randint(20, 90))]),
            orders=random.choice([None, random.randint(2, 7)]),
            suspended=random.random() < 0.1,
        )
    elif choice < 0.71:
        machine.fund(account_id=account_id, asset_id=random.choice(ASSETS), amount=random.randint(-3000, 4000))
    elif choice < 0.85:
        machine.match(shard=random.randrange(2), count=random.randint(1, 5))
    elif choice < 0.98:
        machine.fold(shard=random.randrange(2), count=random.randint(1, 12))
    else:
        machine.arrive()


TestRiskModel = RiskModel.TestCase
TestRiskModel.settings = settings(
    max_examples=80,
    stateful_step_count=50,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
