"""Random streams of commands for books: the same seed gives the same stream.

A stream knows no book. It makes orders close together so that they meet, names orders that may have ended, and now and
then asks for what is wrong. Rule: holds are what risk would send (enough for limit orders, a budget for the others),
except for a few that are too small.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random
from typing import Any, Final

import numpy as np

from tradeengine.core.ids import EPOCH_2024_MS
from tradeengine.core.records import (
    ACCOUNT_ID_NONE,
    SYMBOL_ID_ALL,
    CommandFlag,
    CommandKind,
    OrderType,
    SelfTradePrevention,
    Side,
    TimeInForce,
    TradingState,
    command_dtype,
    symbol_command_dtype,
    trading_command_dtype,
)

Records = np.ndarray[Any, np.dtype[np.void]]

START_NS: Final = (EPOCH_2024_MS + 86_400_000) * 1_000_000
PPM: Final = 1_000_000


@dataclass(frozen=True)
class Profile:
    """What a stream is like. Weights are relative; prices lie around ``middle`` ± ``spread``."""

    kinds: dict[CommandKind, int] = field(
        default_factory=lambda: {
            CommandKind.PLACE: 750,
            CommandKind.CANCEL: 80,
            CommandKind.AMEND: 140,
            CommandKind.EXPIRE: 15,
            CommandKind.CANCEL_ALL: 5,
            CommandKind.CANCEL_ALL_AFTER: 15,
            CommandKind.SET_PARAMETERS: 5,
            CommandKind.SET_TRADING_STATE: 5,
        }
    )
    types: dict[OrderType, int] = field(
        default_factory=lambda: {
            OrderType.LIMIT: 70,
            OrderType.MARKET: 12,
            OrderType.STOP: 6,
            OrderType.STOP_LIMIT: 8,
        }
    )
    times: dict[TimeInForce, int] = field(
        default_factory=lambda: {
            TimeInForce.GTC: 70,
            TimeInForce.GTD: 10,
            TimeInForce.IOC: 12,
            TimeInForce.FOK: 10,
        }
    )
    symbols: int = 2
    accounts: tuple[int, ...] = (16, 17, 18, 19, 20, 21)
    middle: int = 1_000
    spread: int = 12
    lots_max: int = 40
    collar_ppm: int = 8_000
    budget_share: float = 0.4
    post_only_share: float = 0.1
    wrong_share: float = 0.03
    one_millisecond: bool = False


MIXED: Final = Profile()
STOPS: Final = Profile(
    types={OrderType.LIMIT: 50, OrderType.MARKET: 10, OrderType.STOP: 20, OrderType.STOP_LIMIT: 20}, spread=25
)
BUDGETS: Final = Profile(types={OrderType.LIMIT: 60, OrderType.MARKET: 40}, budget_share=0.8, collar_ppm=4_000)
SELF_TRADES: Final = Profile(accounts=(16, 17), times={TimeInForce.GTC: 60, TimeInForce.IOC: 15, TimeInForce.FOK: 25})
CALM: Final = Profile(wrong_share=0.0, collar_ppm=0, symbols=1, spread=40, one_millisecond=True)
PROFILES: Final = {"mixed": MIXED, "stops": STOPS, "budgets": BUDGETS, "self_trades": SELF_TRADES, "calm": CALM}


class CommandStream:
    """Makes commands one after the other."""

    def __init__(self, seed: int, profile: Profile) -> None:
        """Begin with the listing of all symbols."""
        self.random = Random(seed)
        self.profile = profile
        self.now_ns = START_NS
        self.ring_sequence = 0
        self.order_id = 1_000
        self.placed: list[tuple[int, int, int]] = []  # order id, account, symbol
        self.fees = dict.fromkeys(range(profile.symbols), (500, 1000))
        self.closed_for = 0  # commands until all symbols are opened again

    def listings(self) -> Records:
        """List every symbol, open."""
        return np.concatenate([self._symbol(CommandKind.LIST_SYMBOL, s) for s in range(self.profile.symbols)])

    def take(self, count: int) -> Records:
        """Make the next ``count`` commands: shape (n,), ``command_dtype``."""
        return np.concatenate([self._next() for _ in range(count)])

    def _next(self) -> Records:
        if self.closed_for:
            self.closed_for -= 1
            if self.closed_for == 0:
                state = TradingState.OPEN
                return self._command(CommandKind.SET_TRADING_STATE, symbol_id=SYMBOL_ID_ALL, trading_state=state)
        kinds = self.profile.kinds
        (kind,) = self.random.choices(list(kinds), list(kinds.values()))
        make = {
            CommandKind.PLACE: self._place,
            CommandKind.CANCEL: self._cancel,
            CommandKind.AMEND: self._amend,
            CommandKind.EXPIRE: lambda: self._command(CommandKind.EXPIRE, symbol_id=SYMBOL_ID_ALL),
            CommandKind.CANCEL_ALL: self._cancel_all,
            CommandKind.CANCEL_ALL_AFTER: self._set_timer,
            CommandKind.SET_PARAMETERS: self._set_parameters,
            CommandKind.SET_TRADING_STATE: self._set_trading_state,
        }[kind]
        command = make()
        if self.random.random() < self.profile.wrong_share:
            self._spoil(command)
        return command

    def _command(self, kind: CommandKind, dtype: np.dtype[np.void] = command_dtype, **fields: Any) -> Records:
        if not self.profile.one_millisecond:
            self.now_ns += self.random.randrange(3_000_000)
        command = np.zeros(1, dtype)
        command["kind"] = kind
        command["timestamp_ns"] = self.now_ns
        command["ring_sequence"] = self.ring_sequence
        command["ingress_sequence"] = self.ring_sequence * 3
        command["ingress_ring"] = self.random.randrange(4)
        for name, value in fields.items():
            command[name] = value
        self.ring_sequence += kind != CommandKind.EXPIRE
        return command.view(command_dtype)

    def _price(self) -> int:
        return self.profile.middle + self.random.randint(-self.profile.spread, self.profile.spread)

    def _place(self) -> Records:
        random, profile = self.random, self.profile
        symbol_id, account_id = random.randrange(profile.symbols), random.choice(profile.accounts)
        side = random.choice(tuple(Side))
        (order_type,) = random.choices(list(profile.types), list(profile.types.values()))
        (time,) = random.choices(list(profile.times), list(profile.times.values()))
        limited = order_type in (OrderType.LIMIT, OrderType.STOP_LIMIT)
        if order_type == OrderType.MARKET:
            time = random.choice((TimeInForce.IOC, TimeInForce.FOK))
        elif order_type == OrderType.STOP and time in (TimeInForce.IOC, TimeInForce.FOK):
            time = TimeInForce.GTC
        flags = 0
        if order_type == OrderType.LIMIT and time in (TimeInForce.GTC, TimeInForce.GTD):
            flags = CommandFlag.POST_ONLY if random.random() < profile.post_only_share else 0
        lots = random.randint(1, profile.lots_max)
        price = self._price() if limited else 0
        hold = self._hold(symbol_id, side, lots, price)
        if order_type == OrderType.MARKET and side == Side.BUY and random.random() < profile.budget_share:
            flags, lots = CommandFlag.BY_QUOTE, 0
        self.order_id += random.randint(1, 3)
        self.placed.append((self.order_id, account_id, symbol_id))
        return self._command(
            CommandKind.PLACE,
            order_id=self.order_id,
            account_id=account_id,
            symbol_id=symbol_id,
            side=side,
            order_type=order_type,
            time_in_force=time,
            self_trade_prevention=random.choice(tuple(SelfTradePrevention)),
            flags=flags,
            price_ticks=price,
            stop_price_ticks=self._price() if order_type in (OrderType.STOP, OrderType.STOP_LIMIT) else 0,
            quantity_lots=lots,
            hold_units=hold,
            expires_at_ns=self.now_ns + random.randint(0, 300_000_000) if time == TimeInForce.GTD else 0,
            client_order_id=random.choice((b"", b"c-%d" % self.order_id, b"x" * 36)),
        )

    def _hold(self, symbol_id: int, side: Side, lots: int, price: int) -> int:
        """Enough for a limit order; for one without a limit about what it may cost."""
        if side == Side.SELL:
            return lots * LOT_UNITS + self.random.choice((0, 0, 7))
        worst = price or self.profile.middle + self.random.randint(-2 * self.profile.spread, 3 * self.profile.spread)
        notional = worst * lots * TICK_LOT_UNITS
        return notional + -(-notional * max(self.fees[symbol_id]) // PPM) + self.random.choice((0, 0, 11))

    def _known(self) -> tuple[int, int, int]:
        """Choose an order that was placed, mostly a recent one."""
        if not self.placed:
            return 1, self.profile.accounts[0], 0
        back = min(len(self.placed), 1 + int(self.random.expovariate(1 / 30)))
        return self.placed[-back]

    def _cancel(self) -> Records:
        order_id, account_id, symbol_id = self._known()
        return self._command(CommandKind.CANCEL, order_id=order_id, account_id=account_id, symbol_id=symbol_id)

    def _amend(self) -> Records:
        order_id, account_id, symbol_id = self._known()
        random = self.random
        lots = random.choice((0, random.randint(1, self.profile.lots_max), random.randint(1, self.profile.lots_max)))
        return self._command(
            CommandKind.AMEND,
            order_id=order_id,
            account_id=account_id,
            symbol_id=symbol_id,
            quantity_lots=lots,
            price_ticks=self._price() if random.random() < 0.5 else 0,
            stop_price_ticks=self._price() if random.random() < 0.15 else 0,
            hold_units=random.choice((0, 10**4, 10**7)),
        )

    def _cancel_all(self) -> Records:
        return self._command(
            CommandKind.CANCEL_ALL,
            account_id=self.random.choice((ACCOUNT_ID_NONE, *self.profile.accounts)),
            symbol_id=self.random.randrange(-1, self.profile.symbols + 1),
            flags=self.random.choice((0, int(CommandFlag.BY_ADMINISTRATOR))),
        )

    def _set_timer(self) -> Records:
        """Arm an account's timer, renew it, or take it away; now and then one that is over at once."""
        return self._command(
            CommandKind.CANCEL_ALL_AFTER,
            account_id=self.random.choice(self.profile.accounts),
            symbol_id=SYMBOL_ID_ALL,
            expires_at_ns=self.random.choice(
                (0, 1, self.now_ns, *[self.now_ns + self.random.randrange(300_000_000)] * 5)
            ),
        )

    def _set_trading_state(self) -> Records:
        """Close one symbol or all, for a while."""
        self.closed_for = self.random.randint(2, 30)
        state = self.random.choice(tuple(TradingState))
        symbol_id = self.random.randrange(-1, self.profile.symbols)
        reasons: tuple[dict[str, Any], ...] = (
            {},
            {"reason_head": b"why"},
            {"reason_head": b"w" * 40, "reason_tail": self.random.choice((b"h", b"hy" * 2, b"y" * 36))},
        )
        return self._command(
            CommandKind.SET_TRADING_STATE,
            trading_command_dtype,
            symbol_id=symbol_id,
            trading_state=state,
            **self.random.choice(reasons),
        )

    def _set_parameters(self) -> Records:
        symbol_id = self.random.randrange(self.profile.symbols)
        self.fees[symbol_id] = (self.random.randrange(3_000), self.random.randrange(5_000))
        return self._symbol(CommandKind.SET_PARAMETERS, symbol_id)

    def _symbol(self, kind: CommandKind, symbol_id: int) -> Records:
        maker_ppm, taker_ppm = self.fees[symbol_id]
        return self._command(
            kind,
            symbol_command_dtype,
            symbol_id=symbol_id,
            trading_state=TradingState.OPEN,
            tick_lot_units=TICK_LOT_UNITS,
            lot_units=LOT_UNITS,
            quantity_lots_min=1,
            quantity_lots_max=10_000,
            notional_units_min=10_000,
            price_ticks_max=100_000,
            base_asset_id=2 * symbol_id,
            quote_asset_id=1,
            maker_fee_ppm=maker_ppm,
            taker_fee_ppm=taker_ppm,
            collar_ppm=self.profile.collar_ppm,
        )

    def _spoil(self, command: Records) -> None:
        """Make one field what it should not be."""
        name, values = self.random.choice(
            (
                ("kind", (0, 9, 77)),
                ("symbol_id", (-2, 5, 2**31 - 1)),
                ("account_id", (-1, 64, 2**31 - 1)),
                ("order_id", (0, -5, 1_000)),
                ("price_ticks", (-1, 0, 100_000, 100_001)),
                ("stop_price_ticks", (-1, 1, 100_001)),
                ("quantity_lots", (-1, 0, 10_000, 10_001, 2**62)),
                ("hold_units", (-1, 0, 1, 2**63 - 1)),
                ("expires_at_ns", (-1, 1)),
                ("side", (2, 255)),
                ("order_type", (0, 5, 255)),
                ("time_in_force", (0, 5, 7)),
                ("self_trade_prevention", (0, 4)),
                ("flags", (1, 2, 3, 4, 8)),
                ("trading_state", (0, 4)),
            )
        )
        command[name] = self.random.choice(values)


TICK_LOT_UNITS: Final = 7
LOT_UNITS: Final = 1_000
