"""The wallet actor: tells a wallet service outside of every trade, deposit and withdrawal, beside the way of orders.

It exists only where ``wallet.kind`` is ``http``. What it must do is in PostgreSQL, so it may die at any point and begin
again: every request has an id of its own, and the wallet carries it out once.

Rule 1: nobody waits for the wallet but those who want money in or out: orders hold within what was reserved before.
Rule 2: while it cannot do its work it says so, and the engine is degraded, not down.
It refuses to know SQL, HTTP and orders.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

import structlog
import trio

from tradeengine.actors.wallet_courier import Courier
from tradeengine.actors.wallet_desk import Connection, Desk
from tradeengine.actors.wallet_metrics import WalletMetrics
from tradeengine.ipc.atomics import load_word
from tradeengine.storage.patient import PatientConnection
from tradeengine.wallet.breaker import BreakerState
from tradeengine.wallet.open import open_wallet

if TYPE_CHECKING:
    from tradeengine.ipc.ring import Ring
    from tradeengine.ipc.wiring import Wiring

SILENCE_S_MAX: Final = 30.0
BEAT_S: Final = 0.25
MATCHERS_S_MAX: Final = 2.0
"""So long a shard is waited for that does not work off its commands: one that is down must not stop all deliveries."""

logger = structlog.get_logger(__name__)


async def main(wiring: Wiring) -> None:
    """Deliver until the supervisor asks for an end."""
    settings = wiring.settings.wallet
    metrics = WalletMetrics(wiring.metrics)
    settled = SettledEvents(
        [wiring.ring(name) for name in wiring.ring_names if name.startswith("events.")],
        [wiring.ring(name) for name in wiring.ring_names if name.startswith("commands.")],
    )

    def connect() -> Connection:
        database = wiring.settings.database
        return PatientConnection.open(
            database.direct_dsn,
            lambda: None,
            connect_timeout_s=database.connect_timeout_s,
            silence_s_max=SILENCE_S_MAX,
            name="tradeengine-wallet",
        )

    def tell(trouble: str) -> None:
        metrics.show_state(trouble)
        logger.info("wallet", state="unable" if trouble else "delivering", reason=trouble or None)
        if trouble:
            wiring.blocked(trouble)
        else:
            wiring.ready()

    courier: Courier | None = None

    def breaker_changed(state: BreakerState) -> None:
        # The breaker says how it is before anyone listens.
        if courier is not None:
            courier.breaker_changed(state)

    async with open_wallet(
        settings.url,
        settings.secret,
        mode=settings.mode,
        timeout_s=settings.timeout_s,
        connections_max=settings.concurrency,
        breaker_failures=settings.breaker_failures,
        breaker_open_s=settings.breaker_open_s,
        changed=breaker_changed,
    ) as wallet:
        courier = Courier(
            wallet,
            (Desk(connect, settings.exchange_user), Desk(connect, settings.exchange_user)),
            settings,
            metrics,
            heads=settled.heads,
            passed=settled.passed,
            horizon=settled.horizon,
            tell=tell,
        )
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wallet.keep_looking)
            nursery.start_soon(courier.deliver)
            nursery.start_soon(courier.keep_rounds)
            metrics.show_state("")
            wiring.ready()
            await _hear_bell(wiring, settled, courier)
            nursery.cancel_scope.cancel()


async def _hear_bell(wiring: Wiring, settled: SettledEvents, courier: Courier) -> None:
    """Ask for a round whenever settlement has settled something, until the supervisor asks for an end."""
    seen = settled.cursors()
    while not wiring.stopping():
        wiring.metrics.heartbeat()
        if await wiring.doorbell.wait_trio(BEAT_S, lambda: wiring.stopping() or settled.cursors() != seen):  # noqa: B023
            seen = settled.cursors()
            courier.want_round()


class SettledEvents:
    """How far settlement is, on all event rings, and how far the matchers are on their command rings."""

    def __init__(self, rings: Sequence[Ring], command_rings: Sequence[Ring]) -> None:
        self._rings = tuple(rings)
        self._cursors = tuple(_cursor_address(ring, "settlement") for ring in rings)
        self._command_rings = tuple(command_rings)
        self._matched = tuple(_cursor_address(ring, "matcher") for ring in command_rings)

    def heads(self) -> list[int]:
        """Where the published events end, ring by ring."""
        return [ring.head for ring in self._rings]

    def cursors(self) -> list[int]:
        """Where the settled events end, ring by ring."""
        return [load_word(cursor) for cursor in self._cursors]

    def passed(self, heads: list[int]) -> bool:
        """Whether everything up to ``heads`` is settled."""
        return all(cursor >= head for cursor, head in zip(self.cursors(), heads, strict=True))

    def horizon(self) -> Callable[[], bool]:
        """Give what says whether every trade that happened before those which are settled now is settled too.

        One shard's trades are settled in their order. With several, whatever risk let pass before them is in a command
        ring by now: first the matchers must have worked it off, then settlement what they published.
        """
        if len(self._command_rings) == 1:
            return lambda: True
        forwarded = [ring.head for ring in self._command_rings]
        patience_ends_s = trio.current_time() + MATCHERS_S_MAX
        heads: list[int] = []

        def is_reached() -> bool:
            if not heads:
                matched = (load_word(cursor) for cursor in self._matched)
                is_matched = all(place >= head for place, head in zip(matched, forwarded, strict=True))
                if not is_matched and trio.current_time() < patience_ends_s:
                    return False
                heads.extend(self.heads())
            return self.passed(heads)

        return is_reached


def _cursor_address(ring: Ring, role: str) -> int:
    """Find the cursor of a ring's reader by its role; a matcher's name ends with its shard."""
    return ring.cursor_address(next(index for index, spec in enumerate(ring.readers) if spec.name.startswith(role)))
