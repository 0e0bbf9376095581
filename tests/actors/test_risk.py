"""The risk actor's round: what it publishes, when it accepts, and what others can see of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tests.actors.risk_venue import QUOTE, RiskVenue
from tests.core.risk_world import change, place

from tradeengine.actors.risk_gates import Gates
from tradeengine.actors.risk_rings import rights_of
from tradeengine.core.records import CommandKind, EventKind, Reason, Side, command_dtype, event_dtype
from tradeengine.core.risk import FOR_CANCELS, FOR_ORDERS, IngressRight, make_outbox
from tradeengine.ipc.atomics import store_word
from tradeengine.ipc.ring import ReaderSpec, Ring

OPERATOR = 2
"""Place of the operator's ingress ring in the venue."""


@pytest.fixture
def venue(dsn: str) -> Iterator[RiskVenue]:
    """Alice and Bob have a million each of the quote asset and of the first symbol's base."""
    made = RiskVenue(dsn)
    for account_id in (made.alice, made.bob):
        for asset_id in (QUOTE, 1):
            made.request(account_id, asset_id, 1_000_000)
    made.arrive()
    yield made
    made.close()


def test_order_goes_to_its_shard_and_its_hold_into_the_table(venue: RiskVenue) -> None:
    """After one round the order is in its shard's ring, and everyone can read what is held for it."""
    sequence = venue.ask(place(venue.alice, Side.BUY, 10, 100))
    heads = [ring.head for ring in venue.commands]
    venue.decide()
    (command,) = venue.commands[0].slots(heads[0], 1)
    assert (command["ingress_ring"], command["ingress_sequence"]) == (0, sequence)
    assert command["ring_sequence"] == heads[0]
    assert venue.commands[1].head == heads[1]
    assert list(venue.balances.read(venue.alice)["units"][QUOTE]) == [1_000_000, 3003]


def test_spoiled_ingress_ring_is_left_alone_and_the_others_served(venue: RiskVenue) -> None:
    """A client that writes nonsense into its ring's head stops only itself."""
    spoiled = venue.ingress[OPERATOR]
    store_word(spoiled.head_address, spoiled.head + 2 * spoiled.capacity)
    heads = [ring.head for ring in venue.commands]
    venue.decide()
    venue.ask(place(venue.alice, Side.BUY, 10, 100))
    venue.decide()
    assert venue.commands[0].head == heads[0] + 1


def test_acknowledged_order_is_folded_before_its_cancel(venue: RiskVenue) -> None:
    """A cancel that arrives together with its order's end finds the order ended: events go first."""
    venue.ask(place(venue.alice, Side.SELL, 10, 100))
    venue.arrive()
    order_id = int(np.concatenate(venue.all_commands)["order_id"][-1])
    venue.ask(place(venue.bob, Side.BUY, 10, 100))
    venue.decide()
    venue.match(0)
    venue.ask(change(CommandKind.CANCEL, venue.alice, order_id=order_id))
    venue.decide()
    (answer,) = venue.all_answers[-1]
    assert (answer["kind"], answer["reason"]) == (EventKind.REFUSED, Reason.ORDER_NOT_FOUND)


def test_market_buy_is_sized_by_the_matchers_touch(venue: RiskVenue) -> None:
    """A market buy holds what the best ask in the matcher's table says, up to the collar."""
    venue.ask(place(venue.bob, Side.SELL, 100, 200))
    venue.arrive()
    venue.ask(place(venue.alice, Side.BUY, 100))
    venue.decide()
    assert venue.held(venue.alice, QUOTE) == 100 * 220 * 3 + 66


def test_market_buy_is_sized_by_the_last_whole_touch(venue: RiskVenue) -> None:
    """While a matcher that died has left its row half written, market orders are sized by what was read before."""
    venue.ask(place(venue.bob, Side.SELL, 100, 200))
    venue.arrive()
    venue.ask(place(venue.alice, Side.BUY, 10))
    venue.arrive()
    with venue.touch.writing(0) as row:
        row["best_ask_ticks"] = 9_000
        venue.ask(place(venue.alice, Side.BUY, 50))
        venue.decide()
        assert venue.held(venue.alice, QUOTE) == 50 * 220 * 3 + 33
    venue.arrive()
    venue.assert_whole()


def test_round_without_work_does_nothing(venue: RiskVenue) -> None:
    """A round that finds nothing says so, so that risk may sleep."""
    venue.ask(place(venue.alice, Side.BUY, 1, 100))
    assert venue.duty() == 1
    assert venue.duty() == 0


def test_money_comes_only_through_settlement() -> None:
    """No ring but settlement's may bring money, and it may bring nothing else."""
    assert rights_of("ingress.settlement") == IngressRight.FUND
    for name in ("ingress.front-0", "ingress.operator", "ingress.client-3"):
        assert IngressRight.FUND not in rights_of(name)


def test_orders_and_halts_of_a_front_come_on_different_rings() -> None:
    """A front's ring for orders may trade and nothing else; its other one may do what administrators do."""
    assert rights_of("ingress.front-0") == IngressRight.TRADE
    assert rights_of("ingress.admin-0") == IngressRight.TRADE | IngressRight.ADMIN


def unsettled(count: int) -> tuple[Ring, Ring]:
    """Make two shards' event rings of 64, the first with so many unsettled events."""
    gate = [ReaderSpec("risk", gating=True), ReaderSpec("settlement", gating=True)]
    rings = tuple(Ring.create(f"events.{shard}", event_dtype, 64, gate) for shard in range(2))
    if count:
        rings[0].writer().publish(np.zeros(count, event_dtype))
    return rings[0], rings[1]


def queued(count: int) -> tuple[Ring, Ring]:
    """Make two shards' command rings of 64, the first with so many commands that its matcher has not taken."""
    rings = tuple(
        Ring.create(f"commands.{shard}", command_dtype, 64, [ReaderSpec(f"matcher-{shard}", gating=True)])
        for shard in range(2)
    )
    if count:
        rings[0].writer().publish(np.zeros(count, command_dtype))
    return rings[0], rings[1]


@pytest.mark.parametrize(
    ("count", "orders", "cancels", "administrators"),
    [
        (20, 0, 0, 0),
        (21, Reason.SETTLEMENT_BACKLOG, 0, 0),
        (56, Reason.SETTLEMENT_BACKLOG, 0, 0),
        (57, Reason.SETTLEMENT_BACKLOG, Reason.SETTLEMENT_BACKLOG, 0),
        (60, Reason.SETTLEMENT_BACKLOG, Reason.SETTLEMENT_BACKLOG, 0),
        (61, Reason.SETTLEMENT_BACKLOG, Reason.SETTLEMENT_BACKLOG, Reason.SETTLEMENT_BACKLOG),
    ],
)
def test_backlog_closes_for_orders_first_and_for_its_shard_only(
    tmp_path: Path, count: int, orders: int, cancels: int, administrators: int
) -> None:
    """Past the threshold a shard takes no new orders, near the end of its ring no cancels, at last not even a halt."""
    outbox = make_outbox(2, 1, 1)
    gates = Gates(unsettled(count), outbox, 20, tmp_path, 0, queued(0))
    gates.look()
    assert list(outbox.gates[0]) == [orders, cancels, administrators]
    assert list(outbox.gates[1]) == [0, 0, 0]
    assert gates.accepting == (orders == 0)


def test_commands_on_their_way_count_as_events(tmp_path: Path) -> None:
    """What a matcher has yet to take fills its ring, too: a halt must not end up behind commands that have no room."""
    outbox, backlog = make_outbox(2, 1, 1), Reason.SETTLEMENT_BACKLOG
    for events, commands, closed in ((20, 28, [0, 0, 0]), (20, 29, [backlog, 0, 0]), (10, 47, [backlog, backlog, 0])):
        Gates(unsettled(events), outbox, 20, tmp_path, 0, queued(commands)).look()
        assert list(outbox.gates[0]) == closed
        assert list(outbox.gates[1]) == [0, 0, 0]


def test_low_disk_refuses_orders_and_no_cancels(tmp_path: Path) -> None:
    """Below the low-water mark of free disk new orders are refused, cancels are not."""
    outbox = make_outbox(2, 1, 1)
    Gates(unsettled(0), outbox, 20, tmp_path, 2**62, queued(0)).look()
    assert list(outbox.gates[:, FOR_ORDERS]) == [Reason.ENGINE_OVERLOADED] * 2
    assert list(outbox.gates[:, FOR_CANCELS]) == [0, 0]
