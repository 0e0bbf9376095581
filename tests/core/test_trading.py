"""Trading states with their reasons: what the book tells of them, and what whoever follows its events makes of that."""

from __future__ import annotations

import numpy as np
import pytest
from tests.core.book_world import ALICE, BUY, Market, told

from tradeengine.core.records import (
    SYMBOL_ID_ALL,
    CommandFlag,
    CommandKind,
    TradingState,
    trading_command_dtype,
    trading_event_dtype,
)
from tradeengine.core.trading import (
    REASON_BYTES_MAX,
    Records,
    Trading,
    cut,
    previous_state,
    state_command,
    trading_after,
)

OPEN, CANCEL_ONLY, HALTED = TradingState.OPEN, TradingState.CANCEL_ONLY, TradingState.HALTED
REASONS = ["x", "40 bytes to the end of the head, and mor", "ä" * 38, "halted: " + "long " * 13 + "end"]


def set_state(market: Market, symbol_id: int, state: TradingState, reason: str) -> Records:
    """Set a state as the web does."""
    command = state_command(symbol_id, state, reason)
    fields = {name: command[name][0] for name in ("symbol_id", "trading_state", "reason_head", "reason_tail")}
    return market.send(CommandKind.SET_TRADING_STATE, trading_command_dtype, **fields)


@pytest.mark.parametrize("reason", REASONS)
def test_reason_goes_through_the_book(reason: str) -> None:
    """The event of a state tells why, to the letter, and what the state was before."""
    market = Market()
    (event,) = set_state(market, 0, HALTED, reason)
    assert len(reason.encode()) <= REASON_BYTES_MAX
    assert trading_after(event) == Trading(HALTED, int(event["sequence"]), market.now_ns, reason, None)
    assert previous_state(event) is OPEN
    (again,) = set_state(market, 0, CANCEL_ONLY, "another")
    assert previous_state(again) is HALTED
    assert trading_after(again) == Trading(CANCEL_ONLY, int(again["sequence"]), market.now_ns, "another", None)


@pytest.mark.parametrize("reason", ["y" * 77, "ü" * 39, "€" * 40, "a" + "𝄞" * 40])
def test_long_reason_is_cut_at_a_letter(reason: str) -> None:
    """A reason for which a record has no room is cut, never refused, and shows that something is missing."""
    (event,) = set_state(Market(), 0, HALTED, reason)
    trading = trading_after(event)
    assert trading is not None
    assert trading.reason == cut(reason)
    assert trading.reason.endswith("…")
    assert reason.startswith(trading.reason.removesuffix("…"))
    assert REASON_BYTES_MAX - 4 <= len(trading.reason.encode()) <= REASON_BYTES_MAX


def test_state_for_all_leaves_alone_what_is_in_it() -> None:
    """A halt of all tells nothing new of a symbol that is halted for a reason of its own, and remembers the others."""
    market = Market()
    market.list_symbol(1)
    set_state(market, 0, HALTED, "its own")
    first, second = set_state(market, SYMBOL_ID_ALL, HALTED, "everything")
    assert (trading_after(first), previous_state(first)) == (None, HALTED)
    assert trading_after(second) == Trading(HALTED, int(second["sequence"]), market.now_ns, "everything", OPEN)
    again = set_state(market, SYMBOL_ID_ALL, HALTED, "everything, again")
    assert [trading_after(event) for event in again] == [None, None]
    (own,) = set_state(market, 1, HALTED, "now its own")
    assert trading_after(own) == Trading(HALTED, int(own["sequence"]), market.now_ns, "now its own", None)


def test_state_without_a_reason_is_told_as_ever() -> None:
    """A command as old journals have it gives the event that it gave then: nothing is in it but the state."""
    market = Market()
    (event,) = market.send(CommandKind.SET_TRADING_STATE, symbol_id=0, trading_state=HALTED)
    words = np.array(event).view(trading_event_dtype)[()]
    assert [words[name] for name in ("reason_head", "reason_tail", "for_all", "previous_state")] == [b"", b"", 0, 0]
    assert trading_after(event) == Trading(HALTED, int(event["sequence"]), market.now_ns, None, None)


def test_listing_tells_a_state() -> None:
    """A symbol that is listed halted is halted since then, and nobody said why."""
    (event,) = Market().list_symbol(1, trading_state=HALTED)
    trading = trading_after(event)
    assert trading is not None
    assert (trading.state, trading.sequence, trading.reason) == (HALTED, int(event["sequence"]), None)


def test_letters_that_are_none_stop_nobody() -> None:
    """Whatever bytes a local program writes for a reason, they are read as text that PostgreSQL takes."""
    fields = {"symbol_id": 0, "trading_state": HALTED, "reason_head": b"a\0b\xff", "reason_tail": b"\xe2\x82"}
    (event,) = Market().send(CommandKind.SET_TRADING_STATE, trading_command_dtype, **fields)
    trading = trading_after(event)
    assert trading is not None
    assert trading.reason is not None
    assert trading.reason.startswith("ab")
    assert "\0" not in trading.reason


@pytest.mark.parametrize("state", list(TradingState))
@pytest.mark.parametrize("account", [ALICE, 0], ids=["one", "everyone"])
def test_administrators_mass_cancel_says_so(state: TradingState, account: int) -> None:
    """Orders and stops that an administrator's mass cancel ends say so, in every trading state."""
    market = Market()
    market.place(BUY, 1, 50)
    market.stop(BUY, 1, 200)
    set_state(market, 0, state, "why")
    flags = CommandFlag.BY_ADMINISTRATOR
    events = market.send(CommandKind.CANCEL_ALL, account_id=account, symbol_id=SYMBOL_ID_ALL, flags=flags)
    assert told(events)[:-1] == [("CANCELLED", 1, "ADMINISTRATOR"), ("CANCELLED", 2, "ADMINISTRATOR")]
