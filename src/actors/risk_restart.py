"""Risk's restart: from what PostgreSQL has committed, over the events after it, to the commands still on their way.

1. The gating cursors go back to settlement's. From then on no event that PostgreSQL lacks can be overwritten.
2. One snapshot of the database: balances, live orders, client order ids, symbols, funding, and its cursors.
3. The events after these cursors, from the rings, until every matcher has replayed its journal and published.
4. The commands that the command rings hold behind the last event: their holds are taken again, nothing is forwarded;
   and those that can still be read in the journal of a shard that is given up (decision 0035).
5. The commands of ingress rings, from their cursors on: those that a command ring or one of risk's own rings has
   already (risk died after publishing and before passing them) are passed over, each by name.

Rule 1: risk publishes a batch's commands, then its events, then passes the batch; one batch at a time. So what step 5
must look back over is the last batch of each ring at most, and a repeat is never answered before its order is on its
way. The batch that was not passed is taken first after a restart: were others published behind it, and risk to die
again, the look back would not reach it. Rule 2: nothing is waited for except matchers that have not been heard of
since the engine started; a matcher that died since stops only its own symbols.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from tradeengine.actors.risk_rings import RiskRings, settled_sequence
from tradeengine.core.risk import (
    TAKEN_ANSWERED,
    RiskState,
    begin_epoch,
    fold,
    load_accounts,
    load_balances,
    load_client_ids,
    load_orders,
    load_places,
    load_symbols,
    load_traded,
    retake,
    set_last_ids,
)
from tradeengine.core.risk_state import LAST_TIMESTAMP_NS
from tradeengine.storage.settle import RISK_SHARD, DatabaseInUse
from tradeengine.storage.settle_fold import SettlementStopped

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from tradeengine.ipc.ring import Ring
    from tradeengine.ipc.ring_reader import RingReader
    from tradeengine.storage.recovery import RiskRecovery

_PIECE_COUNT: Final = 4096


class Taken:
    """Commands that left an ingress ring before risk died, though the ring's cursor does not say so yet."""

    def __init__(self, rings: RiskRings) -> None:
        """Look back over the last batch of every ring that risk writes."""
        self._masks: dict[tuple[int, int], int] = {}
        for shard, writer in enumerate(rings.commands):
            self._note(rings, last_records(writer.ring, rings.batch_count_max), 1 << shard)
        for writer in (rings.own_events, rings.refusals):
            self._note(rings, last_records(writer.ring, rings.batch_count_max), TAKEN_ANSWERED)

    def _note(self, rings: RiskRings, records: NDArray[np.void], bit: int) -> None:
        for ingress_ring, sequence in zip(records["ingress_ring"], records["ingress_sequence"], strict=True):
            if ingress_ring < len(rings.ingress) and sequence >= rings.ingress[ingress_ring].cursor:
                name = (int(ingress_ring), int(sequence))
                self._masks[name] = self._masks.get(name, 0) | bit

    def of(self, ingress_ring: int, first: int, count: int) -> NDArray[np.int64]:
        """Give the masks of a batch for ``process``, and forget them; empty when there are none left at all."""
        if not self._masks:
            return np.zeros(0, np.int64)
        names = ((ingress_ring, first + place) for place in range(count))
        return np.array([self._masks.pop(name, 0) for name in names], np.int64)

    def first(self, order: list[int]) -> list[int]:
        """Put the ingress ring that has commands here before all others of the order in which rings are taken."""
        if not self._masks:
            return order
        named = {ingress_ring for ingress_ring, _ in self._masks}
        return sorted(order, key=lambda number: number not in named)

    def __len__(self) -> int:
        return len(self._masks)


def restart(
    risk: RiskState,
    rings: RiskRings,
    load: Callable[[], RiskRecovery],
    matchers_ready: Callable[[], bool],
    salvage: Callable[[RiskState], Sequence[NDArray[np.void]]] = lambda _: (),
) -> Taken:
    """Bring an empty state to where risk was, and all event readers to the heads.

    load: one snapshot of the database; called after the cursors went back. matchers_ready: asked again and again, may
    pause; True once every matcher that this engine has not heard of yet has published all that its journal holds, or
    is given up. salvage: gives the commands that only the journals of those hold.
    Raises DatabaseInUse, SettlementStopped.
    """
    for reader in rings.events:
        reader.seek(min(settled_sequence(reader.ring), reader.head))
    snapshot = load()
    compare_cursors(rings, snapshot)
    load_snapshot(risk, snapshot)
    fold_own_events(risk, rings.own_events.ring, snapshot.cursors.get(RISK_SHARD, 0))
    # Also back: a database that failed over may have forgotten what settlement had passed in the rings.
    for shard, reader in enumerate(rings.events):
        reader.seek(snapshot.cursors.get(shard, 0))
    answered = [last_answered(reader) for reader in rings.events]
    while True:
        # Asked first: what a matcher published before it was ready is then among the events.
        ready = matchers_ready()
        for shard, reader in enumerate(rings.events):
            answered[shard] = max(answered[shard], fold_new_events(risk, reader))
        if ready:
            break
    for shard, writer in enumerate(rings.commands):
        retake_commands(risk, writer.ring, answered[shard] + 1)
    for commands in salvage(risk):
        retake(risk, words_of(commands))
    for refusal in last_records(rings.refusals.ring, 1):
        risk.scalars[LAST_TIMESTAMP_NS] = max(int(refusal["timestamp_ns"]), int(risk.scalars[LAST_TIMESTAMP_NS]))
    begin_epoch(risk)
    return Taken(rings)


def compare_cursors(rings: RiskRings, snapshot: RiskRecovery) -> None:
    """See that the rings hold every event after the database's cursors.

    Raises DatabaseInUse when it has events that these rings never held, SettlementStopped when they hold them no more.
    """
    ends = {RISK_SHARD: rings.own_events.ring} | {shard: reader.ring for shard, reader in enumerate(rings.events)}
    for shard, ring in ends.items():
        settled = snapshot.cursors.get(shard, 0)
        if settled > ring.head:
            raise DatabaseInUse(
                f"the database has settled {ring.name} up to {settled}, the ring ends at {ring.head}: "
                "another engine settles into this database: end it first"
            )
        if settled < ring.oldest:
            raise SettlementStopped(
                "CURSOR_BEHIND",
                f"the database has settled {ring.name} up to {settled}, the ring begins at {ring.oldest}: "
                "start the engine again, so that the journal brings the rest",
            )


def load_snapshot(risk: RiskState, snapshot: RiskRecovery) -> None:
    """Take over what the database says."""
    load_symbols(risk, snapshot.symbols)
    load_places(risk, snapshot.place_asset_ids, snapshot.places)
    load_accounts(risk, snapshot.settings)
    load_traded(risk, snapshot.traded)
    load_balances(risk, snapshot.account_ids, snapshot.asset_ids, snapshot.total_units)
    load_orders(risk, snapshot.orders)
    load_client_ids(risk, snapshot.client_ids)
    set_last_ids(risk, snapshot.last_order_id, snapshot.funding_number)


def fold_own_events(risk: RiskState, ring: Ring, first: int) -> None:
    """Fold what risk itself had published from ``first`` on: deposits and withdrawals."""
    head = ring.head
    for start in range(first, head, _PIECE_COUNT):
        fold_records(risk, ring.slots(start, min(_PIECE_COUNT, head - start)))


def last_answered(reader: RingReader) -> int:
    """Place in the command ring of the command behind the last event before the reader's cursor; -1: none is known.

    None is known while the ring has had no event yet: then no command of this engine was answered. Nor is it while the
    ring is full to the last slot: then that event is overwritten, and those from the cursor on say more.
    """
    if reader.cursor <= max(reader.ring.first_sequence, reader.ring.oldest):
        return -1
    return int(reader.ring.slots(reader.cursor - 1, 1)["ring_sequence"][0])


def fold_new_events(risk: RiskState, reader: RingReader) -> int:
    """Fold a shard's events up to the head, as verified copies; give the last one's ``ring_sequence``, -1: no event.

    None is overwritten meanwhile: risk's cursor holds the writer back. Raises RingDamaged.
    """
    answered = -1
    while len(events := reader.poll_copy()):
        fold_records(risk, events)
        answered = int(events["ring_sequence"][-1])
        reader.advance(len(events))
    return answered


def fold_records(risk: RiskState, events: NDArray[np.void]) -> None:
    """``fold`` for records of ``event_dtype``."""
    fold(risk, words_of(events))


def retake_commands(risk: RiskState, ring: Ring, first: int) -> None:
    """Take again what a shard's commands hold from ``first`` in its ring on: their events are still to come."""
    first = max(first, ring.first_sequence)
    if first < ring.head:
        retake(risk, words_of(ring.slots(first, ring.head - first)))


def last_records(ring: Ring, count: int) -> NDArray[np.void]:
    """Copy the last records of a ring: ``count`` or as many as it holds."""
    head = ring.head
    first = max(ring.oldest, head - count)
    return ring.slots(first, head - first)


def words_of(records: Any) -> NDArray[np.int64]:
    """See records as int64 words, one row each."""
    return records.view(np.int64).reshape(len(records), records.dtype.itemsize // 8)  # type: ignore[no-any-return]
