"""The compiled book against the reference book: the same events and the same state, whatever comes in."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any, Final

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from tests.core.book_pair import (
    LIMITS,
    Holds,
    assert_same_events,
    both,
    contiguous,
    make_reference,
    run,
    stream,
)
from tests.model.random_commands import LOT_UNITS, MIXED, PROFILES, CommandStream

from tradeengine.core import book as kernel
from tradeengine.core.records import (
    SYMBOL_ID_ALL,
    CommandFlag,
    CommandKind,
    EventKind,
    OrderType,
    Reason,
    SelfTradePrevention,
    Side,
    TimeInForce,
    TradingState,
    command_dtype,
    symbol_command_dtype,
)

ROOT: Final = Path(__file__).parents[2]
STREAM_COMMANDS: Final = 2_500
CUT: Final = 500
"""Commands between two looks at the whole state."""


def fresh_seed() -> int:
    """Choose a seed; a failure prints it, and setting it here repeats the run."""
    return int(os.environ.get("TEST_SEED", Random().getrandbits(32)))


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("seed", [1, 2, None])
def test_long_streams_give_the_same_events(profile: str, seed: int | None) -> None:
    """On streams of every profile, with fixed seeds and a new one, all events and all states are equal."""
    seed = fresh_seed() if seed is None else seed
    commands = stream(seed, PROFILES[profile], STREAM_COMMANDS)
    book, reference, holds = kernel.make_book(LIMITS), make_reference(), Holds()
    for start in range(0, len(commands), CUT):
        part = commands[start : start + CUT]
        events = both(book, reference, part, f"profile {profile}, TEST_SEED={seed}, from {start}")
        holds.fold(events, part, LOT_UNITS)
        holds.assert_equal(reference.orders)


@pytest.mark.long
def test_streams_reach_every_ending() -> None:
    """The streams are worth their time: every event and every reason of a book occurs, but for listing twice."""
    seen: Counter[tuple[EventKind, Reason]] = Counter()
    for profile in PROFILES.values():
        events = run(kernel.make_book(LIMITS), stream(1, profile, 4 * STREAM_COMMANDS))
        seen.update(zip(map(EventKind, events["kind"]), map(Reason, events["reason"]), strict=True))
    kinds = {kind for kind, _ in seen}
    told_by_risk = {EventKind.REPEATED, EventKind.FUNDED, EventKind.FUNDING_REFUSED, EventKind.ACCOUNT_SET}
    assert kinds == set(EventKind) - told_by_risk
    of_risk = {
        *(Reason.CLIENT_ORDER_ID_REUSED, Reason.LIMIT_EXCEEDED, Reason.ENGINE_OVERLOADED),
        *(Reason.SETTLEMENT_BACKLOG, Reason.DEADLINE_PASSED),
        *(Reason.TWO_FACTOR_REQUIRED, Reason.ACCOUNT_SUSPENDED, Reason.SHARD_FENCED),
    }
    assert {reason for _, reason in seen} == set(Reason) - of_risk - {Reason.SYMBOL_EXISTS}


@pytest.mark.parametrize("buffer_events", [1, 2, 3, 7])
def test_buffers_and_batches_change_no_byte(buffer_events: int) -> None:
    """However commands are cut into batches and however small the event buffer is, events and state are the same."""
    seed = fresh_seed()
    commands, random = stream(seed, MIXED, STREAM_COMMANDS), Random(seed)
    whole, cut = kernel.make_book(LIMITS), kernel.make_book(LIMITS)
    wanted = run(whole, commands)
    pieces, start = [], 0
    while start < len(commands):
        count = random.choice((1, 1, 2, 5, 50))
        pieces.append(run(cut, commands[start : start + count], buffer_events).view(np.int64))
        start += count
    assert_same_events(np.concatenate(pieces).view(wanted.dtype), wanted, commands, f"TEST_SEED={seed}")
    assert kernel.state_hash(cut) == kernel.state_hash(whole)


def test_dumped_and_loaded_book_goes_on_the_same() -> None:
    """A book that was dumped and loaded between any two commands gives the events it would have given, and its hash."""
    seed = fresh_seed()
    commands = stream(seed, MIXED, STREAM_COMMANDS)
    kept, moved = kernel.make_book(LIMITS), kernel.make_book(LIMITS)
    for start in range(0, len(commands), 100):
        part = commands[start : start + 100]
        assert_same_events(run(moved, part), run(kept, part), part, f"TEST_SEED={seed}, from {start}")
        dumped = kernel.dump(moved)
        moved = kernel.load(LIMITS, dumped)
        assert kernel.state_hash(moved) == kernel.state_hash(kept)
        assert kernel.dump(moved) == dumped


def test_hash_tells_books_apart() -> None:
    """Every accepted change of a book changes its hash: no two states of a stream have the same one."""
    book = kernel.make_book(LIMITS)
    hashes = set()
    commands = stream(3, PROFILES["calm"], 500)
    for index in range(len(commands)):
        run(book, commands[index : index + 1])
        hashes.add(kernel.state_hash(book))
    assert len(hashes) == len(commands)


def test_hash_does_not_depend_on_the_way() -> None:
    """Two books with the same content have the same hash though one has used and freed other slots."""
    commands = stream(4, PROFILES["calm"], 400)
    used = kernel.make_book(LIMITS)
    run(used, commands)
    assert kernel.state_hash(kernel.load(LIMITS, kernel.dump(used))) == kernel.state_hash(used)


def test_uncompiled_kernel_gives_the_same_events() -> None:
    """The kernel's Python, run without compilation, equals the reference too."""
    script = (
        "from tests.core.book_pair import *; from tests.model.random_commands import PROFILES\n"
        "import numba; assert numba.config.DISABLE_JIT\n"
        "for name, profile in PROFILES.items():\n"
        "    both(kernel.make_book(LIMITS), make_reference(), stream(5, profile, 600), name)\n"
    )
    environment = os.environ | {"NUMBA_DISABLE_JIT": "1", "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", script], env=environment, cwd=ROOT, check=True, timeout=110)


ACCOUNTS = (16, 17, 18)
prices = st.integers(95, 105)
lots = st.integers(1, 30)


class BookModel(RuleBasedStateMachine):
    """Three accounts and one market, one command after the other; after each one both books are equal."""

    def __init__(self) -> None:
        super().__init__()
        self.book, self.reference, self.holds = kernel.make_book(LIMITS), make_reference(), Holds()
        self.source = CommandStream(0, PROFILES["calm"])
        self.order_ids: list[tuple[int, int]] = []

    @initialize()
    def list_it(self) -> None:
        """List the market."""
        self._ask(self.source.listings())

    @rule(
        account_id=st.sampled_from(ACCOUNTS),
        side=st.sampled_from(Side),
        order_type=st.sampled_from(OrderType),
        time=st.sampled_from(TimeInForce),
        flags=st.sampled_from((0, 0, 0, CommandFlag.POST_ONLY, CommandFlag.BY_QUOTE)),
        stp=st.sampled_from(SelfTradePrevention),
        quantity=lots,
        price=prices,
        stop=prices,
        budget=st.integers(0, 30_000),
        expires_in=st.integers(0, 5),
    )
    def place(self, order_type: OrderType, time: TimeInForce, flags: int, quantity: int, **f: Any) -> None:
        """Place an order of any kind; impossible combinations are refused by both."""
        order_id = 10 + len(self.order_ids)
        self.order_ids.append((order_id, f["account_id"]))
        limited, stops = order_type in (OrderType.LIMIT, OrderType.STOP_LIMIT), order_type >= OrderType.STOP
        budgeted = f["side"] == Side.BUY and not limited
        self._ask(
            self._command(
                CommandKind.PLACE,
                order_id=order_id,
                account_id=f["account_id"],
                side=f["side"],
                order_type=order_type,
                time_in_force=time,
                flags=flags,
                self_trade_prevention=f["stp"],
                quantity_lots=0 if flags == CommandFlag.BY_QUOTE else quantity,
                price_ticks=f["price"] if limited else 0,
                stop_price_ticks=f["stop"] if stops else 0,
                hold_units=f["budget"] if budgeted else 10**6,
                expires_at_ns=self.source.now_ns + f["expires_in"] if time == TimeInForce.GTD else 0,
            )
        )

    @rule(back=st.integers(0, 12), stranger=st.booleans())
    def cancel(self, back: int, stranger: bool) -> None:
        """Cancel a recent order, by its owner or by another."""
        order_id, account_id = self._known(back)
        self._ask(self._command(CommandKind.CANCEL, order_id=order_id, account_id=account_id + stranger))

    @rule(
        back=st.integers(0, 12),
        quantity=st.just(0) | lots,
        price=st.just(0) | prices,
        stop=st.just(0) | st.just(0) | prices,
        hold=st.sampled_from((0, 1_000, 10**6)),
    )
    def amend(self, back: int, quantity: int, price: int, stop: int, hold: int) -> None:
        """Amend a recent order."""
        order_id, account_id = self._known(back)
        self._ask(
            self._command(
                CommandKind.AMEND,
                order_id=order_id,
                account_id=account_id,
                quantity_lots=quantity,
                price_ticks=price,
                stop_price_ticks=stop,
                hold_units=hold,
            )
        )

    @rule(nanoseconds=st.integers(0, 4))
    def let_time_pass(self, nanoseconds: int) -> None:
        """Move the clock, and expire what is over."""
        self.source.now_ns += nanoseconds
        self._ask(self._command(CommandKind.EXPIRE, symbol_id=-1))

    @rule(account_id=st.sampled_from((0, *ACCOUNTS)), symbol_id=st.sampled_from((-1, 0, 1)))
    def cancel_all(self, account_id: int, symbol_id: int) -> None:
        """Cancel all orders of an account, or of all."""
        self._ask(self._command(CommandKind.CANCEL_ALL, account_id=account_id, symbol_id=symbol_id))

    @rule(account_id=st.sampled_from(ACCOUNTS), ends_in=st.integers(-1, 6), disarm=st.booleans())
    def set_timer(self, account_id: int, ends_in: int, disarm: bool) -> None:
        """Arm an account's timer, renew it or take it away; its end may fall on that of an order."""
        ends_ns = 0 if disarm else self.source.now_ns + ends_in
        self._ask(
            self._command(
                CommandKind.CANCEL_ALL_AFTER, account_id=account_id, symbol_id=SYMBOL_ID_ALL, expires_at_ns=ends_ns
            )
        )

    @rule(state=st.sampled_from((TradingState.OPEN, TradingState.OPEN, *TradingState)))
    def set_state(self, state: TradingState) -> None:
        """Halt, let cancel only, or open."""
        self._ask(self._command(CommandKind.SET_TRADING_STATE, trading_state=state))

    @rule(maker=st.integers(0, 9_999), taker=st.integers(0, 9_999), collar=st.sampled_from((0, 0, 20_000)))
    def set_parameters(self, maker: int, taker: int, collar: int) -> None:
        """Change fees and collar for the orders that follow."""
        command = self.source.listings()
        symbol = command.view(symbol_command_dtype)
        symbol["kind"] = CommandKind.SET_PARAMETERS
        symbol["maker_fee_ppm"], symbol["taker_fee_ppm"], symbol["collar_ppm"] = maker, taker, collar
        self._ask(command)

    @invariant()
    def holds_are_accounted_for(self) -> None:
        """Every unit of every hold is spent, given back or still held."""
        self.holds.assert_equal(self.reference.orders)

    def _known(self, back: int) -> tuple[int, int]:
        return self.order_ids[-1 - back] if back < len(self.order_ids) else (1, ACCOUNTS[0])

    def _command(self, kind: CommandKind, **fields: Any) -> Any:
        command = np.zeros(1, command_dtype)
        command["kind"], command["timestamp_ns"] = kind, self.source.now_ns
        for name, value in fields.items():
            command[name] = value
        return command

    def _ask(self, commands: Any) -> None:
        commands = contiguous(commands)
        events = both(self.book, self.reference, commands, "model", buffer_events=3)
        self.holds.fold(events, commands, LOT_UNITS)


TestBookModel = BookModel.TestCase
TestBookModel.settings = settings(
    max_examples=150,
    stateful_step_count=60,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
