"""What administrators have the engine do: commands on a way of their own, and how each of them ended.

Rule 1: an answer says what is so. A command that risk has taken will be carried out, if only when the shard's matcher
is back, before anything that comes later: until then the answer is NOT_READY (503), with what is done and what is not
yet. Of one that risk has not taken nobody knows: OUTCOME_UNKNOWN (504). To repeat either does no harm.
Rule 2: nothing here asks the database.
It refuses to know HTTP.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from tradeengine.core.records import (
    SYMBOL_ID_ALL,
    EventKind,
    Reason,
    TradingState,
    command_dtype,
    event_dtype,
    trading_event_dtype,
)
from tradeengine.core.trading import Trading, previous_state, state_command, trading_after
from tradeengine.web.errors import ApiError, reason_error
from tradeengine.web.gateway import Records
from tradeengine.web.trading_states import wait_told

if TYPE_CHECKING:
    from tradeengine.core.symbols import SymbolSpec
    from tradeengine.web.front import Front

ABSENT_TIMEOUT_S: Final = 1.0
"""How long an answer is waited for while a matcher is known not to be there."""


@dataclass(frozen=True, slots=True)
class Changed:
    """A symbol whose state was set. ``trading``: what is so since then; None: what was so before."""

    symbol_id: int
    state: TradingState
    previous: TradingState
    sequence: int
    trading: Trading | None


async def set_state(front: Front, spec: SymbolSpec | None, state: TradingState, reason: str) -> list[Changed]:
    """Set the trading state of a symbol, or of all (None), and return what became of each. Raises ApiError.

    Whoever looks from then on finds the reason with the state, unless the publisher is away.
    """
    command = state_command(SYMBOL_ID_ALL if spec is None else spec.symbol_id, state, reason).view(command_dtype)
    events = await carry_out(front, command, spec)
    changes = [_changed(event) for event in events[events["kind"] == EventKind.TRADING_STATE_SET]]
    await wait_told(front.pages, {change.symbol_id: change.sequence for change in changes if change.trading})
    return changes


async def carry_out(front: Front, command: Records, spec: SymbolSpec | None) -> Records:
    """Have the symbol's shard, or all shards (None), carry a command out, and return its events. Raises ApiError.

    command: shape (1,); its time and deadline are set here.
    """
    command["timestamp_ns"] = time.time_ns()
    command["deadline_ms"] = front.command_timeout_ms
    shards = frozenset(range(front.shard_count)) if spec is None else frozenset({spec.shard})
    timeout_s = ABSENT_TIMEOUT_S if shards & absent_shards(front) else None
    waiting = await front.ask_as_administrator(command, len(shards), timeout_s)
    events = np.concatenate([*waiting.chunks, np.zeros(0, event_dtype)])
    if waiting.lost:
        raise _unfinished(front, int(command["ingress_sequence"][0]), events, shards)
    # A shard without symbols refuses what is for all, too; that is its own affair.
    if events[0]["kind"] == EventKind.REFUSED and (spec is not None or events[0]["command_sequence"] < 0):
        raise reason_error(Reason(int(events[0]["reason"])))
    return events


def absent_shards(front: Front) -> frozenset[int]:
    """Say of which shards the matcher is known not to be there now."""
    serving = {actor.name for actor in front.watch.actors() if actor.serves}
    return frozenset(shard for shard in range(front.shard_count) if f"matcher-{shard}" not in serving)


def refuse_if_absent(front: Front, spec: SymbolSpec | None) -> None:
    """Say in a dry run what would not be done at once. Raises ApiError NOT_READY."""
    absent = absent_shards(front)
    concerned = absent if spec is None else absent & {spec.shard}
    if concerned:
        raise _not_ready(front, concerned, done=[])


def _changed(event: np.void) -> Changed:
    told = np.array(event).view(trading_event_dtype)[()]
    state = TradingState(int(told["trading_state"]))
    return Changed(
        int(told["symbol_id"]), state, previous_state(event) or state, int(told["sequence"]), trading_after(event)
    )


def _unfinished(front: Front, sequence: int, events: Records, shards: frozenset[int]) -> ApiError:
    """Say how far a command got of which not every event came back."""
    if not front.admin_gateway.is_taken(sequence):
        return ApiError(
            "OUTCOME_UNKNOWN",
            "The command was sent, and risk has not taken it yet: it may still be carried out, or be dropped because "
            "it came too late. Look at the symbols, or repeat the same request: it does no harm.",
            {"outcome": "unknown"},
        )
    symbols = front.pages.directory().symbols
    done = [symbols[int(event["symbol_id"])].name for event in events if event["kind"] == EventKind.TRADING_STATE_SET]
    return _not_ready(front, shards & absent_shards(front) or shards, done)


def _not_ready(front: Front, shards: frozenset[int], done: list[str]) -> ApiError:
    specs = front.pages.directory().symbols.values()
    names = [spec.name for spec in specs if spec.shard in shards and spec.name not in done]
    matchers = ", ".join(f"matcher-{shard}" for shard in sorted(shards))
    details: dict[str, Any] = {"outcome": "pending", "shards": sorted(shards), "pending": names, "done": done}
    return ApiError(
        "NOT_READY",
        f"{matchers} does not answer now. The command is on its way and will be carried out when it is back, before "
        "anything that comes later; until then nothing trades there. Repeat the same request to hear of it.",
        details,
    )
