"""Risk with real books behind it, and queues between them that move only when a test says so.

What is forwarded waits until it is matched, what was matched waits until it is folded: every order of arrival can be
played through.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tradeengine.core import book as kernel
from tradeengine.core import risk as risk_kernel
from tradeengine.core.money import parse_decimal
from tradeengine.core.records import (
    CommandKind,
    EventKind,
    OrderType,
    Reason,
    SelfTradePrevention,
    Side,
    TimeInForce,
    account_command_dtype,
    command_dtype,
    event_dtype,
    funding_command_dtype,
)
from tradeengine.core.risk import IngressRight
from tradeengine.core.risk_state import MISMATCH_COUNT, OPEN, ORDER_EXTRA, ORDER_FILLED, ORDER_HOLD, ORDER_ID
from tradeengine.core.risk_worth import day_of, traded_units
from tradeengine.core.symbols import AssetSpec, SymbolSpec

Records = np.ndarray[Any, np.dtype[np.void]]

ALICE, BOB, CAROL = 16, 17, 18
BASE, QUOTE, OTHER = 0, 1, 2
START_NS = 1_790_000_000_000_000_000
BATCH = 64
NOT_TAKEN = np.zeros(0, np.int64)


def symbol_spec(
    symbol_id: int = 0, *, shard: int = 0, collar_ppm: int = 100_000, notional_units_min: int = 10
) -> SymbolSpec:
    """Describe a symbol: lots of 10 base units, a tick × lot of 3 quote units, fees of 0.05 % and 0.1 %."""
    return SymbolSpec(
        symbol_id=symbol_id,
        base=AssetSpec((BASE, OTHER)[symbol_id], ("AAA", "BBB")[symbol_id], 2),
        quote=AssetSpec(QUOTE, "QQQ", 2),
        tick_lot_units=3,
        lot_units=10,
        price_ticks_max=10_000,
        quantity_lots_min=1,
        quantity_lots_max=100_000,
        notional_units_min=notional_units_min,
        maker_fee_ppm=500,
        taker_fee_ppm=1000,
        collar_ppm=collar_ppm,
        shard=shard,
    )


class RiskWorld:
    """Risk, one book per shard, and the two queues between them."""

    def __init__(
        self,
        shards: int = 1,
        *,
        client_ids_max: int = 64,
        open_orders_max: int = 50,
        orders_max: int = 200,
        amends_max: int = 100,
        symbols: tuple[SymbolSpec, ...] = (symbol_spec(),),
    ) -> None:
        """List the symbols and let them through."""
        limits = risk_kernel.RiskLimits(
            accounts_max=32,
            assets_max=3,
            symbols_max=4,
            orders_max=orders_max,
            client_ids_max=client_ids_max,
            open_orders_max=open_orders_max,
            shards=shards,
            amends_max=amends_max,
        )
        self.limits = limits
        self.risk = risk_kernel.make_risk(limits)
        self.outbox = risk_kernel.make_outbox(shards, 4, BATCH)
        self.outbox.rooms[:] = BATCH
        self.books = [kernel.make_book(kernel.BookLimits(256, 4, 64, 32, shard)) for shard in range(shards)]
        self.forwarded: list[list[Records]] = [[] for _ in range(shards)]
        self.happened: list[list[Records]] = [[] for _ in range(shards)]
        self.now_ns = START_NS
        self._ingress_sequence = 0
        self._funding_number = 0
        self._account_version = 0
        self._ring_sequences = [0] * shards
        self.specs = symbols
        for spec in symbols:
            self.send(spec.to_command(CommandKind.LIST_SYMBOL).view(command_dtype))
        self.settle()

    def send(
        self,
        commands: Records,
        *,
        rights: IngressRight = IngressRight.TRADE | IngressRight.ADMIN,
        taken: np.ndarray[Any, np.dtype[np.int64]] = NOT_TAKEN,
        event_room: int = BATCH,
    ) -> Records:
        """Let risk decide on a batch; gives the events that it answers with."""
        outbox = self.outbox
        outbox.counts[:] = 0
        outbox.heads[:] = self._ring_sequences
        self.taken_count, answered = risk_kernel.process(
            self.risk,
            outbox,
            np.ascontiguousarray(commands).view(np.int64).reshape(len(commands), -1),
            taken,
            3,
            int(rights),
            self._ingress_sequence,
            self.now_ns,
            0,
            event_room,
        )
        self._ingress_sequence += self.taken_count
        for shard, count in enumerate(outbox.counts):
            self._ring_sequences[shard] += int(count)
            laid = outbox.commands[shard, :count].copy().reshape(-1).view(command_dtype)
            self.forwarded[shard].extend(laid[place : place + 1] for place in range(count))
        return outbox.events[:answered].copy().reshape(-1).view(event_dtype)

    def ask(self, commands: Records) -> Reason:
        """Send one command; give the reason for which risk refused it, NONE when it went on or was a repeat."""
        answers = self.send(commands)
        return Reason(int(answers["reason"][0])) if len(answers) else Reason.NONE

    def place(
        self, account_id: int = ALICE, side: Side = Side.BUY, lots: int = 1, price: int = 0, **fields: Any
    ) -> int:
        """Place an order that risk must forward; gives its id."""
        assert self.ask(place(account_id, side, lots, price, **fields)) == Reason.NONE
        return int(self.last_forwarded["order_id"])

    @property
    def last_forwarded(self) -> Any:
        """The newest command in shard 0's queue."""
        return self.forwarded[0][-1][0]

    def fund(self, account_id: int, asset_id: int, amount_units: int, number: int | None = None) -> Records:
        """Deposit, or withdraw (below 0), under the next number; gives risk's answer, if there is one."""
        self._funding_number = self._funding_number + 1 if number is None else number
        command = np.zeros(1, funding_command_dtype)
        command["kind"] = CommandKind.FUND
        command["account_id"] = account_id
        command["asset_id"] = asset_id
        command["amount_units"] = amount_units
        command["funding_number"] = self._funding_number
        return self.send(command.view(command_dtype), rights=IngressRight.FUND)

    def set_account(self, account_id: int = ALICE, version: int | None = None, **settings: Any) -> Records:
        """Set an account's whole settings, limits as decimals in text; gives risk's answer, if there is one."""
        self._account_version = self._account_version + 1 if version is None else version
        command = account_settings(account_id, self._account_version, **settings)
        return self.send(command.view(command_dtype), rights=IngressRight.FUND)

    def match(self, shard: int = 0, count: int = 1) -> None:
        """Let the book of a shard carry out the next forwarded commands."""
        events = np.zeros(4096, event_dtype)
        for _ in range(min(count, len(self.forwarded[shard]))):
            command = self.forwarded[shard].pop(0)
            book = self.books[shard]
            index, written = kernel.apply(book, command, kernel.next_command_sequence(book), 0, events)
            assert index == 1
            self.happened[shard].extend(events[place : place + 1].copy() for place in range(written))

    def fold(self, shard: int = 0, count: int = 1) -> Records:
        """Let risk fold the next events of a shard."""
        batch = self.happened[shard][:count]
        del self.happened[shard][:count]
        if not batch:
            return np.zeros(0, event_dtype)
        events = np.concatenate(batch)
        risk_kernel.fold(self.risk, events.view(np.int64).reshape(len(events), -1))
        assert self.risk.scalars[MISMATCH_COUNT] == 0
        return events

    def settle(self) -> Records:
        """Let everything that is on its way arrive; gives the events."""
        folded = []
        for shard in range(len(self.books)):
            self.match(shard, len(self.forwarded[shard]))
            folded.append(self.fold(shard, len(self.happened[shard])))
            self.quote(shard)
        return np.concatenate(folded)

    def quote(self, shard: int = 0) -> None:
        """Show risk the touch of a shard's symbols, as the matcher's page would."""
        for spec in self.specs:
            if spec.shard == shard:
                touch = kernel.touch(self.books[shard], spec.symbol_id)
                self.outbox.touch[spec.symbol_id] = touch["best_bid_ticks"], touch["best_ask_ticks"]

    def total(self, account_id: int, asset_id: int) -> int:
        """Balance."""
        return int(self.risk.balances[account_id, asset_id, 0])

    def held(self, account_id: int, asset_id: int) -> int:
        """Tell what orders hold of it."""
        return int(self.risk.balances[account_id, asset_id, 1])

    def open_units(self, account_id: int = ALICE, asset_id: int = QUOTE) -> int:
        """Tell what the account's live orders could still trade."""
        return int(self.risk.worth[asset_id, account_id, OPEN])

    def traded_units(self, account_id: int = ALICE, asset_id: int = QUOTE) -> int:
        """Tell what the account has traded today."""
        return int(traded_units(self.risk, account_id, asset_id, day_of(self.now_ns)))

    def orders(self) -> dict[int, tuple[int, int, int]]:
        """Live orders: hold, extra and filled lots by id."""
        rows = self.risk.orders[self.risk.orders[:, ORDER_ID] != 0]
        return {
            int(row[ORDER_ID]): (int(row[ORDER_HOLD]), int(row[ORDER_EXTRA]), int(row[ORDER_FILLED])) for row in rows
        }


def place(account_id: int = ALICE, side: Side = Side.BUY, lots: int = 1, price: int = 0, **fields: Any) -> Records:
    """Make a PLACE: a limit order when there is a price, else a market order, unless ``fields`` say otherwise."""
    command = np.zeros(1, command_dtype)
    command["kind"] = CommandKind.PLACE
    command["account_id"] = account_id
    command["side"] = side
    command["quantity_lots"] = lots
    command["price_ticks"] = price
    command["order_type"] = OrderType.LIMIT if price else OrderType.MARKET
    command["time_in_force"] = TimeInForce.GTC if price else TimeInForce.IOC
    command["self_trade_prevention"] = SelfTradePrevention.CANCEL_TAKER
    for name, value in fields.items():
        command[name] = value
    return command


def account_settings(account_id: int, version: int, **settings: Any) -> Records:
    """Make a SET_ACCOUNT. Limits that are not given are none; an amount is a decimal in text."""
    command = np.zeros(1, account_command_dtype)
    command["kind"] = CommandKind.SET_ACCOUNT
    command["account_id"] = account_id
    command["version"] = version
    for name in ("order_notional_max", "day_notional_max", "two_factor_above"):
        mantissa, places = parse_decimal(settings.pop(name)) if name in settings else (-1, 0)
        command[name] = mantissa
        command[f"{name.removesuffix('_max').removesuffix('_above')}_scale"] = places
    command["open_orders_max"] = -1
    for name, value in settings.items():
        command[name] = value
    return command


def change(kind: CommandKind, account_id: int = ALICE, **fields: Any) -> Records:
    """Make any other command."""
    command = np.zeros(1, command_dtype)
    command["kind"] = kind
    command["account_id"] = account_id
    for name, value in fields.items():
        command[name] = value
    return command


def kinds_of(events: Records) -> list[EventKind]:
    """Kinds of events, in order."""
    return [EventKind(int(kind)) for kind in events["kind"]]


def funded(world: RiskWorld) -> RiskWorld:
    """Give Alice and Bob a million of each asset of the first symbol."""
    for account_id in (ALICE, BOB):
        for asset_id in (BASE, QUOTE):
            world.fund(account_id, asset_id, 1_000_000)
    return world
