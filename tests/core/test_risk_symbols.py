"""Symbols in risk: what may be listed or changed, what is refused, and what a risk that starts again takes over."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tests.core.risk_world import BASE, OTHER, QUOTE, Records, RiskWorld, change, place, symbol_spec

from tradeengine.core import risk as risk_kernel
from tradeengine.core.records import SYMBOL_ID_ALL, CommandKind, OrderType, Reason, TradingState, command_dtype
from tradeengine.core.risk import FOR_ADMINISTRATORS
from tradeengine.core.risk_state import SYMBOL_LISTED, SYMBOL_TAKER_PPM


@pytest.fixture
def world() -> RiskWorld:
    """One symbol, with id 0, is listed; there is room for four."""
    return RiskWorld()


def listing(symbol_id: int = 1, **changes: int) -> Records:
    """Make a LIST_SYMBOL, by default of a second symbol, with changes."""
    return changed(CommandKind.LIST_SYMBOL, symbol_id, changes)


def parameters(symbol_id: int = 0, **changes: int) -> Records:
    """Make a SET_PARAMETERS, by default of the symbol that is listed, with changes."""
    return changed(CommandKind.SET_PARAMETERS, symbol_id, changes)


def changed(kind: CommandKind, symbol_id: int, changes: dict[str, int]) -> Records:
    """Make a command about a symbol like the others."""
    command = symbol_spec(1 if symbol_id else 0).to_command(kind)
    command["symbol_id"] = symbol_id
    for name, value in changes.items():
        command[name] = value
    return command.view(command_dtype)


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        (listing(-1), Reason.INVALID_REQUEST),
        (listing(4), Reason.INVALID_REQUEST),
        (listing(trading_state=0), Reason.INVALID_REQUEST),
        (listing(trading_state=max(TradingState) + 1), Reason.INVALID_REQUEST),
        (listing(shard=-1), Reason.INVALID_REQUEST),
        (listing(shard=1), Reason.INVALID_REQUEST),
        (listing(base_asset_id=QUOTE), Reason.INVALID_REQUEST),
        (listing(quote_asset_id=3), Reason.INVALID_REQUEST),
        (listing(quote_places=19), Reason.NUMBER_OUT_OF_RANGE),
        (listing(quote_places=-1), Reason.NUMBER_OUT_OF_RANGE),
        (listing(0), Reason.SYMBOL_EXISTS),
        (parameters(1), Reason.SYMBOL_NOT_FOUND),
        (parameters(4), Reason.INVALID_REQUEST),
    ],
)
def test_listing_that_cannot_be_is_refused(world: RiskWorld, command: Records, reason: Reason) -> None:
    """Ids, states, shards and assets that do not exist, a symbol listed twice, and changes of none are refused."""
    assert world.ask(command) == reason
    assert not world.forwarded[0]
    assert world.risk.symbols[:, SYMBOL_LISTED].tolist() == [1, 0, 0, 0]


@pytest.mark.parametrize(
    "changes",
    [
        {"shard": 1},
        {"base_asset_id": OTHER},
        {"quote_asset_id": OTHER},
        {"base_asset_id": OTHER, "quote_asset_id": BASE},
        {"tick_lot_units": 4},
        {"lot_units": 5},
    ],
)
def test_what_every_number_depends_on_never_changes(world: RiskWorld, changes: dict[str, int]) -> None:
    """Shard, assets and units of a listed symbol stay: orders and balances on record are counted in them."""
    assert world.ask(parameters(**changes)) == Reason.INVALID_REQUEST
    assert not world.forwarded[0]
    assert world.ask(parameters(taker_fee_ppm=7)) == Reason.NONE


@pytest.mark.parametrize("command", [listing(), parameters(), change(CommandKind.SET_TRADING_STATE, trading_state=1)])
def test_symbols_need_room_as_all_that_administrators_ask_for(world: RiskWorld, command: Records) -> None:
    """A shard's ring without room refuses it at once, and nothing of it is remembered."""
    world.outbox.rooms[0] = 0
    assert world.ask(command) == Reason.ENGINE_OVERLOADED
    world.outbox.rooms[0, FOR_ADMINISTRATORS] = 1
    assert world.ask(command) == Reason.NONE


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"trading_state": 0}, Reason.INVALID_REQUEST),
        ({"trading_state": max(TradingState) + 1}, Reason.INVALID_REQUEST),
        ({"trading_state": max(TradingState) + 1, "symbol_id": SYMBOL_ID_ALL}, Reason.INVALID_REQUEST),
        ({"trading_state": TradingState.HALTED, "symbol_id": 1}, Reason.SYMBOL_NOT_FOUND),
        ({"trading_state": TradingState.HALTED, "symbol_id": 4}, Reason.SYMBOL_NOT_FOUND),
        ({"trading_state": TradingState.HALTED, "symbol_id": -7}, Reason.SYMBOL_NOT_FOUND),
    ],
)
def test_state_that_is_none_and_symbol_that_is_none(world: RiskWorld, fields: dict[str, Any], reason: Reason) -> None:
    """A trading state that does not exist, or one for a symbol that does not, is refused."""
    assert world.ask(change(CommandKind.SET_TRADING_STATE, 0, **fields)) == reason
    assert not world.forwarded[0]


def test_symbols_are_taken_over_from_events_and_never_back(world: RiskWorld) -> None:
    """A risk that begins with nothing learns a symbol from its events; an older event read again changes nothing."""
    world.ask(parameters(taker_fee_ppm=2000))
    world.ask(parameters(taker_fee_ppm=3000))
    world.match(0, 2)
    listed_once = world.happened[0][:1]
    both = np.concatenate(world.happened[0]).view(np.int64).reshape(2, -1)
    fresh = risk_kernel.make_risk(world.limits)
    risk_kernel.fold(fresh, both)
    risk_kernel.fold(fresh, listed_once[0].view(np.int64).reshape(1, -1))
    assert fresh.symbols[0, SYMBOL_LISTED] == 1
    assert fresh.symbols[0, SYMBOL_TAKER_PPM] == 3000
    assert bool((fresh.symbols[0] == world.risk.symbols[0]).all())


def test_symbols_of_market_orders_are_listed_once_each() -> None:
    """Of a batch those symbols are told in which market orders are asked for; ids that are none are passed over."""
    market: dict[str, Any] = {"order_type": OrderType.MARKET}
    orders = [
        place(symbol_id=2, **market),
        place(symbol_id=1, price=100),
        place(symbol_id=2, **market),
        place(symbol_id=0, **market),
        place(symbol_id=-1, **market),
        place(symbol_id=4, **market),
        change(CommandKind.CANCEL, symbol_id=1, order_type=OrderType.MARKET),
    ]
    commands = np.concatenate(orders)
    words = np.ascontiguousarray(commands).view(np.int64).reshape(len(commands), -1)
    symbols = np.zeros(4, np.int64)
    count = risk_kernel.market_symbols(words, symbols)
    assert symbols[:count].tolist() == [2, 0]
