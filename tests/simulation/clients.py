"""The clients of the simulated engine: they ask, forget what they were told, ask again, and remember what was promised.

A question is known by its ingress ring and its sequence there. Its answer is what becomes visible first. An order that
was accepted or rejected is a promise. A repeat's answer is none: fronts wait until that order is on record.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from tests.simulation.actors import Failed

from tradeengine.core.records import (
    ACCOUNT_ID_NONE,
    SYMBOL_ID_ALL,
    CommandFlag,
    CommandKind,
    EventFlag,
    EventKind,
    OrderType,
    SelfTradePrevention,
    Side,
    TimeInForce,
    TradingState,
    command_dtype,
    symbol_command_dtype,
)
from tradeengine.ipc.ring import RingFull

if TYPE_CHECKING:
    from random import Random

    from numpy.typing import NDArray
    from tests.simulation.engine import Engine

ACCOUNTS: Final = (16, 17, 18)
MIDDLE_TICKS: Final = 100
NS_PER_S: Final = 10**9
_KINDS: Final = (
    *[CommandKind.PLACE] * 14,
    *[CommandKind.CANCEL] * 3,
    *[CommandKind.AMEND] * 3,
    CommandKind.CANCEL_ALL,
    CommandKind.CANCEL_ALL_AFTER,
)
_TYPES: Final = (*[OrderType.LIMIT] * 7, OrderType.MARKET, OrderType.STOP, OrderType.STOP_LIMIT)
_TIMES: Final = (*[TimeInForce.GTC] * 6, TimeInForce.GTD, TimeInForce.IOC, TimeInForce.FOK)


@dataclass(eq=False)
class Question:
    """A command that was sent. ``order_id``: of the order that it was about, by its first answer."""

    command: NDArray[np.void]
    is_answered: bool = False
    is_lost: bool = False
    kind: int = 0
    """Of its first event."""
    order_id: int = 0

    @property
    def is_named(self) -> bool:
        """Whether it may be asked again without doing twice what it asks."""
        return bool(self.command["client_order_id"][0]) and self.command["kind"][0] == CommandKind.PLACE


class Clients:
    """All clients together, behind two fronts, and the operator."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.questions: list[Question] = []
        self._waiting: dict[tuple[int, int], Question] = {}
        self._order_ids: list[tuple[int, int, int]] = []
        self._names = 0
        self.open_rings()

    def open_rings(self) -> None:
        """Begin with new rings: what was not answered never will be."""
        for question in self._waiting.values():
            question.is_lost = True
        self._waiting.clear()
        self._writers = [self._engine.writer(ring) for ring in self._engine.ingress]

    def ask(self, random: Random) -> None:
        """Ask for something, or for several things at once."""
        front = random.choice(self._engine.sizes.FRONTS)
        for _ in range(random.choice((1, 1, 2, 3, 6))):
            self.send(self._command(random), front)

    def ask_as_administrator(self, random: Random) -> None:
        """Halt, open, cancel for others, or change fees."""
        sizes = self._engine.sizes
        symbol_id = random.choice((SYMBOL_ID_ALL, *range(sizes.symbols_max)))
        kind = random.randrange(4)
        if kind == 0:
            state = random.choice(list(TradingState))
            self.send(_command(CommandKind.SET_TRADING_STATE, symbol_id=symbol_id, trading_state=state), sizes.ADMIN)
            later = _command(CommandKind.SET_TRADING_STATE, symbol_id=SYMBOL_ID_ALL, trading_state=TradingState.OPEN)
            self.send(later, random.choice((sizes.ADMIN, sizes.ADMIN, sizes.OPERATOR)))
        elif kind == 1:
            account_id = random.choice((ACCOUNT_ID_NONE, *ACCOUNTS))
            flags = random.choice((0, int(CommandFlag.BY_ADMINISTRATOR)))
            self.send(_command(CommandKind.CANCEL_ALL, account_id=account_id, symbol_id=symbol_id, flags=flags), 4)
        else:
            command = symbols_of(self._engine)[random.randrange(sizes.symbols_max)][None].copy()
            command["kind"] = CommandKind.SET_PARAMETERS
            command["maker_fee_ppm"], command["taker_fee_ppm"] = random.randrange(900), random.randrange(2000)
            self.send(command.view(command_dtype), random.choice((sizes.ADMIN, sizes.OPERATOR)))

    def repeat(self, random: Random) -> None:
        """Ask again for an order, known or not, through any front."""
        named = [question for question in self.questions if question.is_named]
        if named:
            question = random.choice(named[-12:])
            self.send(question.command, random.choice(self._engine.sizes.FRONTS))

    def repeat_unknown(self) -> int:
        """Ask again for every order of which nobody knows what became of it; give how many these are."""
        unknown = [question for question in self.questions if question.is_lost and question.is_named]
        for question in unknown:
            if not self.send(question.command, self._engine.sizes.FRONTS[0]):
                break
            question.is_lost = False
        return len(unknown)

    def send(self, command: NDArray[np.void], number: int) -> bool:
        """Write a command into an ingress ring, unless that is full."""
        writer = self._writers[number]
        sent = command.copy()
        sent["timestamp_ns"] = self._engine.clock.now_ns
        try:
            writer.publish(sent)
        except RingFull:
            return False
        question = Question(command)
        self.questions.append(question)
        self._waiting[number, writer.head - 1] = question
        if self._engine.tell is not None:
            fields = {n: command[n][0].item() for n in ("account_id", "symbol_id", "order_id", "client_order_id")}
            self._engine.say(f"ask {number}/{writer.head - 1} {CommandKind(command['kind'][0]).name} {fields}")
        return True

    def look(self, events: NDArray[np.void]) -> None:
        """Take the answers out of events that became visible."""
        for number, sequence, kind, flags, order_id in zip(
            *(events[n].tolist() for n in ("ingress_ring", "ingress_sequence", "kind", "flags", "order_id")),
            strict=True,
        ):
            question = self._waiting.get((number, sequence))
            if question is None:
                continue
            if not question.kind:
                question.kind = kind
                question.order_id = order_id
                if kind == EventKind.ACCEPTED:
                    account_id, symbol_id = (int(question.command[n][0]) for n in ("account_id", "symbol_id"))
                    self._order_ids.append((order_id, account_id, symbol_id))
            if flags & EventFlag.LAST_OF_COMMAND:
                question.is_answered = True

    def finish(self) -> None:
        """See that every question was answered and every promise was kept."""
        rows = self._engine.database.rows
        for (number, sequence), question in self._waiting.items():
            if not question.is_answered:
                raise Failed(f"command {sequence} of ingress ring {number} was never answered: {question.command}")
        by_name: dict[tuple[int, bytes], int] = {}
        for order_id, row in rows.orders.items():
            name = row["account_id"], row["client_order_id"]
            if row["client_order_id"] and by_name.setdefault(name, order_id) != order_id:
                raise Failed(f"client order id {name} names two orders, {order_id} and {by_name[name]}")
        for question in self.questions:
            self._see_kept(question, by_name)

    def _see_kept(self, question: Question, by_name: dict[tuple[int, bytes], int]) -> None:
        command = question.command[0]
        placed = question.kind in (EventKind.ACCEPTED, EventKind.REJECTED)
        if command["kind"] != CommandKind.PLACE or not placed:
            return
        name = int(command["account_id"]), bytes(command["client_order_id"])
        if question.order_id not in self._engine.database.rows.orders:
            raise Failed(f"order {question.order_id} was answered and is not on record: {command}")
        if question.is_named and by_name.get(name) != question.order_id:
            raise Failed(f"{name} was answered as {question.order_id} and is {by_name.get(name)} on record")

    def _command(self, random: Random) -> NDArray[np.void]:
        kind = random.choice(_KINDS)
        account_id = random.choice(ACCOUNTS)
        if kind == CommandKind.PLACE:
            return self._place(random, account_id)
        if kind == CommandKind.CANCEL_ALL:
            symbol_id = random.choice((SYMBOL_ID_ALL, 0, 1))
            return _command(kind, account_id=account_id, symbol_id=symbol_id)
        if kind == CommandKind.CANCEL_ALL_AFTER:
            duration_ns = random.choice((0, NS_PER_S, 5 * NS_PER_S))
            return _command(kind, account_id=account_id, symbol_id=SYMBOL_ID_ALL, expires_at_ns=duration_ns)
        order_id, owner_id, symbol_id = random.choice(self._order_ids[-10:]) if self._order_ids else (5, account_id, 0)
        fields: dict[str, Any] = {"order_id": order_id, "account_id": owner_id, "symbol_id": symbol_id}
        if kind == CommandKind.AMEND:
            fields["quantity_lots"] = random.choice((0, random.randint(1, 60)))
            fields["price_ticks"] = random.choice((0, self._price(random)))
        return _command(kind, **fields)

    def _place(self, random: Random, account_id: int) -> NDArray[np.void]:
        order_type, side = random.choice(_TYPES), random.choice(list(Side))
        time = random.choice(_TIMES)
        limited = order_type in (OrderType.LIMIT, OrderType.STOP_LIMIT)
        if order_type == OrderType.MARKET:
            time = random.choice((TimeInForce.IOC, TimeInForce.FOK))
        elif order_type == OrderType.STOP:
            time = TimeInForce.GTC
        flags, lots, hold = 0, random.randint(1, 40), 0
        if order_type == OrderType.LIMIT and time == TimeInForce.GTC and random.random() < 0.15:
            flags = int(CommandFlag.POST_ONLY)
        if order_type == OrderType.MARKET and side == Side.BUY and random.random() < 0.5:
            flags, lots, hold = int(CommandFlag.BY_QUOTE), 0, random.randint(500, 20_000)
        self._names += 1
        expires_in_ns = random.choice((NS_PER_S // 100, NS_PER_S, 100 * NS_PER_S))
        return _command(
            CommandKind.PLACE,
            account_id=account_id,
            symbol_id=random.randrange(self._engine.sizes.symbols_max),
            side=side,
            order_type=order_type,
            time_in_force=time,
            self_trade_prevention=random.choice(list(SelfTradePrevention)),
            flags=flags,
            price_ticks=self._price(random) if limited else 0,
            stop_price_ticks=self._price(random) if order_type in (OrderType.STOP, OrderType.STOP_LIMIT) else 0,
            quantity_lots=lots,
            hold_units=hold,
            expires_at_ns=self._engine.clock.now_ns + expires_in_ns if time == TimeInForce.GTD else 0,
            client_order_id=b"" if random.random() < 0.15 else b"c%d" % self._names,
        )

    def _price(self, random: Random) -> int:
        return MIDDLE_TICKS + random.randint(-3, 3)


def symbols_of(engine: Engine) -> NDArray[np.void]:
    """Give the symbols as their rows are, for a change of parameters."""
    symbols = np.zeros(engine.sizes.symbols_max, symbol_command_dtype)
    for symbol_id, row in engine.database.rows.symbols.items():
        for name in symbol_command_dtype.names or ():
            if name in row:
                symbols[symbol_id][name] = row[name]
        symbols[symbol_id]["symbol_id"] = symbol_id
    symbols["quote_places"] = 2
    return symbols


def _command(kind: CommandKind, **fields: Any) -> NDArray[np.void]:
    command = np.zeros(1, command_dtype)
    command["kind"] = kind
    for name, value in fields.items():
        command[name] = value
    return command
