"""A replay as a protocol: steps of recorded flow in, commands out; events in, accounts of every command out.

Rule 1: commands go out in the order of the steps. A reduction or deletion waits for the answers that it depends on
(``after`` in ``step_dtype``), everything else only for room. Rule 2: resting orders belong to one account, aggressors
to another, so that none of them trades with itself. Rule 3: each command is answered exactly once or is still
outstanding; what the engine refuses for load goes out again, before anything new.
Rule 4: an aggressor cannot choose whom it hits. When the engine's oldest order of a level is not the one that the
file names, the named one stays and stands in for it (see ``stand_ins``), so that each level keeps its sum.
It refuses to know rings, clocks, and where steps come from.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from tradeengine.cli.lobster import Action
from tradeengine.cli.stand_ins import StandIns
from tradeengine.core.records import (
    CLIENT_ORDER_ID_BYTES_MAX,
    CommandKind,
    EventFlag,
    EventKind,
    OrderType,
    Reason,
    SelfTradePrevention,
    Side,
    TimeInForce,
    command_dtype,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

RETRIED_REASONS: Final = (Reason.ENGINE_OVERLOADED, Reason.SETTLEMENT_BACKLOG, Reason.DEADLINE_PASSED)
ORDER_REFUSED: Final = -1
RUN_TAG_BYTES_MAX: Final = CLIENT_ORDER_ID_BYTES_MAX - 1 - 20
"""A client order id is the run's tag, ``-`` or ``x`` (aggressor), and a number of up to 64 bits."""

_KIND_OF_ACTION: Final = np.zeros(5, np.uint8)
_KIND_OF_ACTION[[Action.PLACE, Action.EXECUTE]] = CommandKind.PLACE
_KIND_OF_ACTION[Action.REDUCE] = CommandKind.AMEND
_KIND_OF_ACTION[Action.DELETE] = CommandKind.CANCEL


class Terms(NamedTuple):
    """What a replay trades, as whom, and by which ring. ``run_tag`` makes client order ids differ between runs."""

    symbol_id: int
    maker_account_id: int
    taker_account_id: int
    ingress_ring: int
    run_tag: str


class Answer(NamedTuple):
    """How a command was answered: its action, its first event's kind, and why."""

    action: Action
    kind: EventKind
    reason: Reason


_sent_dtype: Final = np.dtype(
    [
        ("step", "<i8"),
        ("sent_ns", "<i8"),
        ("command", command_dtype),
        ("ends_step", "?"),
        ("begun", "?"),  # its first event was seen
        ("answered", "?"),  # its last event was seen
    ]
)


class ReplaySession:
    """Sends steps and accounts for them.

    steps: ``step_dtype`` with ``price`` in ticks and ``size`` in lots. first_sequence: where the ingress ring stands.
    outstanding_max: commands that may wait for their answers, a power of two.
    ``answers`` counts commands by how they were answered, ``skipped`` steps that had no order to work on,
    ``retried_count`` commands that went out again because the engine had refused them for load.
    """

    def __init__(
        self,
        steps: NDArray[np.void],
        order_count: int,
        terms: Terms,
        *,
        first_sequence: int = 0,
        outstanding_max: int = 4096,
    ) -> None:
        assert len(terms.run_tag.encode()) <= RUN_TAG_BYTES_MAX
        assert outstanding_max & (outstanding_max - 1) == 0
        self._steps = steps
        self._terms = terms
        self._first_sequence = first_sequence
        self._next_step = 0
        self._step_answered = np.zeros(len(steps) + 1, bool)
        self._retries: list[NDArray[np.void]] = []
        self._engine_ids = np.zeros(order_count, np.int64)  # 0: not known yet; ORDER_REFUSED
        self._placed = np.zeros(order_count, bool)
        self._accepted_ids = np.zeros(order_count, np.int64)  # ascending, as the engine gives them
        self._accepted_orders = np.zeros(order_count, np.int64)
        self._accepted_count = 0
        self.stand_ins = StandIns(order_count)
        self._sent = np.zeros(outstanding_max, _sent_dtype)
        self._sent_until = self._answered_until = first_sequence
        self._latencies_ns: list[NDArray[np.int64]] = []
        self.answers: Counter[Answer] = Counter()
        self.skipped: Counter[Action] = Counter()
        self.retried_count = 0
        self.trade_count = 0
        self.traded_lots = 0
        self.submissions_traded_count = 0
        self.unfilled_count = 0

    @property
    def finished(self) -> bool:
        """Whether every step was sent or skipped, and every command answered."""
        return self._next_step == len(self._steps) and not self.outstanding_count and not self._retries

    @property
    def outstanding_count(self) -> int:
        """Commands from the oldest one without its last event on."""
        return self._sent_until - self._answered_until

    @property
    def sent_count(self) -> int:
        """Commands sent so far, repeated ones each time."""
        return self._sent_until - self._first_sequence

    @property
    def step_count(self) -> int:
        """All steps."""
        return len(self._steps)

    @property
    def step_number(self) -> int:
        """The next step to go out."""
        return self._next_step

    def next_time_ns(self) -> int | None:
        """Tell the recorded time of the next step; None after the last one."""
        return int(self._steps["time_ns"][self._next_step]) if self._next_step < len(self._steps) else None

    def latencies_ns(self) -> NDArray[np.int64]:
        """Give the times from sending a command to seeing its first event."""
        return np.concatenate([np.zeros(0, np.int64), *self._latencies_ns])

    def next_commands(self, limit: int, now_ns: int, *, time_ns_max: int | None = None) -> NDArray[np.void]:
        """Give the commands to publish now, 1-D ``command_dtype``, at most ``limit``; empty when answers are awaited.

        They count as sent, at ``now_ns``, from the sequence on that follows the last one sent.
        time_ns_max: steps recorded later stay for another call.
        """
        limit = min(limit, len(self._sent) - self.outstanding_count)
        if limit <= 0:
            return np.zeros(0, command_dtype)
        if self._retries:
            again = np.concatenate(self._retries[:limit])
            self._retries = self._retries[limit:]
            return self._send(again["command"], again["step"], again["ends_step"], now_ns)
        steps = self._sendable(limit, time_ns_max)
        if not len(steps):
            return np.zeros(0, command_dtype)
        involved = self.stand_ins.are_involved(steps["order"]) & _works_on_order(steps)
        if involved[0]:
            return self._send_reduction(steps[0], now_ns)
        if involved.any():
            steps = steps[: int(np.argmax(involved))]
        return self._send_steps(steps, now_ns)

    def fold(self, events: NDArray[np.void], now_ns: int) -> None:
        """Take events of one ring, 1-D ``event_dtype``, in order and without gaps; others' are passed over."""
        own = events["ingress_ring"] == self._terms.ingress_ring
        own &= (events["ingress_sequence"] >= self._answered_until) & (events["ingress_sequence"] < self._sent_until)
        mine = events[own]
        slots = self._slots(mine["ingress_sequence"])
        self._fold_answers(mine, slots, now_ns)
        self._fold_fills(events, own)
        ended = (mine["flags"] & EventFlag.LAST_OF_COMMAND) != 0
        self._sent["answered"][slots[ended]] = True
        ended &= ~_refused_for_load(mine)
        self._step_answered[self._sent["step"][slots[ended]]] = True
        self._pass_answered()

    def rows(self, events: NDArray[np.void]) -> NDArray[np.int64]:
        """Per event the row of the file that it completes, or -1. Call it before ``fold`` takes the same events."""
        own = events["ingress_ring"] == self._terms.ingress_ring
        own &= (events["ingress_sequence"] >= self._answered_until) & (events["ingress_sequence"] < self._sent_until)
        own &= (events["flags"] & EventFlag.LAST_OF_COMMAND) != 0
        rows = np.full(len(events), -1, np.int64)
        sent = self._sent[self._slots(events["ingress_sequence"][own])]
        rows[own] = np.where(sent["ends_step"], self._steps["row"][sent["step"]], -1)
        return rows

    def _sendable(self, limit: int, time_ns_max: int | None) -> NDArray[np.void]:
        """Give the steps from the next one on up to the first that has to wait."""
        steps = self._steps[self._next_step : self._next_step + limit]
        waits = (steps["after"] >= 0) & ~self._step_answered[steps["after"]]
        waits |= _works_on_order(steps) & self._placed[steps["order"]] & (self._engine_ids[steps["order"]] == 0)
        if time_ns_max is not None:
            waits |= steps["time_ns"] > time_ns_max
        return steps[: int(np.argmax(waits))] if waits.any() else steps

    def _send_steps(self, steps: NDArray[np.void], now_ns: int) -> NDArray[np.void]:
        index = np.arange(self._next_step, self._next_step + len(steps))
        self._next_step += len(steps)
        # A step whose order was refused, or never placed, has nothing to work on.
        vain = _works_on_order(steps) & (self._engine_ids[steps["order"]] <= 0)
        if vain.any():
            self._step_answered[index[vain]] = True
            self.skipped.update(Action(action) for action in steps["action"][vain].tolist())
            steps, index = steps[~vain], index[~vain]
        placing = steps["action"] == Action.PLACE
        self._placed[steps["order"][placing]] = True
        sized = placing | (steps["action"] == Action.REDUCE)
        self.stand_ins.set_totals(steps["order"][sized], steps["size"][sized])
        self.stand_ins.set_totals(steps["order"][steps["action"] == Action.DELETE], 0)
        return self._send(self._commands(steps, index), index, np.ones(len(steps), bool), now_ns)

    def _send_reduction(self, step: np.void, now_ns: int) -> NDArray[np.void]:
        """Reduce or delete an order of the file that holds other lots than its own."""
        index = self._next_step
        self._next_step += 1
        lots = int(step["reduced"]) if step["action"] == Action.REDUCE else None
        reductions = self.stand_ins.reduce(int(step["order"]), lots)
        if not reductions:
            self._step_answered[index] = True
            self.skipped[Action(int(step["action"]))] += 1
        steps = np.repeat(np.atleast_1d(step), len(reductions))
        steps["order"] = [reduction.order for reduction in reductions]
        steps["size"] = [reduction.total_lots for reduction in reductions]
        steps["action"] = np.where(steps["size"] > 0, Action.REDUCE, Action.DELETE)
        ends = np.arange(1, len(steps) + 1) == len(steps)
        return self._send(self._commands(steps, np.full(len(steps), index)), np.full(len(steps), index), ends, now_ns)

    def _commands(self, steps: NDArray[np.void], index: NDArray[np.int64]) -> NDArray[np.void]:
        commands = np.zeros(len(steps), command_dtype)
        action = steps["action"]
        executes = action == Action.EXECUTE
        places = (action == Action.PLACE) | executes
        commands["kind"] = _KIND_OF_ACTION[action]
        commands["symbol_id"] = self._terms.symbol_id
        commands["account_id"] = np.where(executes, self._terms.taker_account_id, self._terms.maker_account_id)
        commands["quantity_lots"] = np.where(action == Action.DELETE, 0, steps["size"])
        commands["price_ticks"] = np.where(places, steps["price"], 0)
        commands["order_id"] = np.where(places, 0, self._engine_ids[steps["order"]])
        commands["side"] = np.where((steps["direction"] == 1) ^ executes, Side.BUY, Side.SELL)
        commands["order_type"] = np.where(places, OrderType.LIMIT, 0)
        commands["time_in_force"] = np.where(places, np.where(executes, TimeInForce.IOC, TimeInForce.GTC), 0)
        commands["self_trade_prevention"] = np.where(places, SelfTradePrevention.CANCEL_TAKER, 0)
        names = np.where(executes, index, steps["order_id"]).tolist()
        commands["client_order_id"] = [
            f"{self._terms.run_tag}{'x' if execute else '-'}{name}" if place else ""
            for place, execute, name in zip(places.tolist(), executes.tolist(), names, strict=True)
        ]
        return commands

    def _send(
        self, commands: NDArray[np.void], index: NDArray[np.int64], ends_step: NDArray[np.bool_], now_ns: int
    ) -> NDArray[np.void]:
        sequences = np.arange(self._sent_until, self._sent_until + len(commands))
        self._sent_until += len(commands)
        commands = commands.copy()
        commands["ingress_ring"] = self._terms.ingress_ring
        commands["ingress_sequence"] = sequences
        commands["timestamp_ns"] = now_ns
        sent = np.zeros(len(commands), _sent_dtype)
        sent["step"], sent["ends_step"] = index, ends_step
        sent["command"], sent["sent_ns"] = commands, now_ns
        self._sent[self._slots(sequences)] = sent
        return commands

    def _fold_answers(self, mine: NDArray[np.void], slots: NDArray[np.int64], now_ns: int) -> None:
        _, first = np.unique(mine["ingress_sequence"], return_index=True)
        first = first[~self._sent["begun"][slots[first]]]
        events, sent = mine[first], self._sent[slots[first]]
        self._sent["begun"][slots[first]] = True
        self._latencies_ns.append(now_ns - sent["sent_ns"])
        again = _refused_for_load(events)
        self._retries += [record.reshape(1) for record in sent[again]]
        self.retried_count += int(again.sum())
        events, sent = events[~again], sent[~again]
        steps = self._steps[sent["step"]]
        self._fold_places(events, steps)
        answers = zip(steps["action"].tolist(), events["kind"].tolist(), events["reason"].tolist(), strict=True)
        for (action, kind, reason), count in Counter(answers).items():
            self.answers[Answer(Action(action), EventKind(kind), Reason(reason))] += count

    def _fold_places(self, events: NDArray[np.void], steps: NDArray[np.void]) -> None:
        places = steps["action"] == Action.PLACE
        accepted = places & (events["kind"] == EventKind.ACCEPTED)
        orders = steps["order"][accepted]
        self._engine_ids[orders] = events["order_id"][accepted]
        end = self._accepted_count + len(orders)
        self._accepted_ids[self._accepted_count : end] = events["order_id"][accepted]
        self._accepted_orders[self._accepted_count : end] = orders
        self._accepted_count = end
        refused = steps["order"][places & ~accepted]
        self._engine_ids[refused] = ORDER_REFUSED
        self.stand_ins.set_totals(refused, 0)

    def _fold_fills(self, events: NDArray[np.void], own: NDArray[np.bool_]) -> None:
        """Book the fills of resting orders of ours, by whoever, and what our aggressors did."""
        unfilled = events[own & (events["kind"] == EventKind.CANCELLED)]
        unfilled = unfilled[np.isin(unfilled["reason"], [Reason.IOC_NOT_FILLED, Reason.IOC_REMAINDER])]
        self.unfilled_count += len(unfilled)
        traded = events["kind"] == EventKind.TRADED
        if not traded.any():
            return
        fills, own_fills = events[traded], own[traded]
        steps = self._steps[np.where(own_fills, self._sent["step"][self._slots(fills["ingress_sequence"])], 0)]
        executing = own_fills & (steps["action"] == Action.EXECUTE)
        makers, known = self._orders_of(fills["maker_order_id"])
        named = np.where(executing, steps["order"], -1)
        self.stand_ins.fold(makers[known], named[known], fills["quantity_lots"][known])
        takers, resting = self._orders_of(fills["order_id"])
        self.stand_ins.fold(takers[resting], np.full(int(resting.sum()), -1), fills["quantity_lots"][resting])
        self.submissions_traded_count += int((own_fills & ~executing).sum())
        self.trade_count += int(own_fills.sum())
        self.traded_lots += int(fills["quantity_lots"][own_fills].sum())

    def _orders_of(self, engine_ids: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Dense indices of orders by their ids in the engine, and which are known."""
        ids = self._accepted_ids[: self._accepted_count]
        if not len(ids):
            return np.zeros(len(engine_ids), np.int64), np.zeros(len(engine_ids), bool)
        places = np.minimum(np.searchsorted(ids, engine_ids), len(ids) - 1)
        return self._accepted_orders[places], ids[places] == engine_ids

    def _pass_answered(self) -> None:
        window = np.arange(self._answered_until, self._sent_until)
        waiting = ~self._sent["answered"][self._slots(window)]
        self._answered_until = int(window[np.argmax(waiting)]) if waiting.any() else self._sent_until

    def _slots(self, sequences: NDArray[np.int64]) -> NDArray[np.int64]:
        return sequences & (len(self._sent) - 1)


def _works_on_order(steps: NDArray[np.void]) -> NDArray[np.bool_]:
    """Per step, whether it names an order in the engine."""
    works: NDArray[np.bool_] = (steps["action"] == Action.REDUCE) | (steps["action"] == Action.DELETE)
    return works


def _refused_for_load(events: NDArray[np.void]) -> NDArray[np.bool_]:
    """Per event, whether its command is to go out again."""
    refused: NDArray[np.bool_] = (events["kind"] == EventKind.REFUSED) & np.isin(events["reason"], RETRIED_REASONS)
    return refused
