"""One reconciliation, from the snapshot to the answer.

The snapshot is opened first and the cut is taken at once; only then the ledger is gone through. That takes as long as
it takes: nothing that happens meanwhile is part of it. Deliveries to a wallet outside pause from before the snapshot
until the wallet has said what it has; a wallet that says nothing is a difference, and the rest is compared anyway.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Final

import psycopg
import structlog

from tradeengine.actors.reconciling.compare import compare_books, compare_risk
from tradeengine.actors.reconciling.cut import CensusTaker, CensusTooLarge, Cut, CutMissed, NoCensus
from tradeengine.actors.reconciling.wallet import WalletCount, WalletSide
from tradeengine.core.differences import Difference, Differences
from tradeengine.ipc.ring_reader import Lapped
from tradeengine.storage.reconcile_ledger import LedgerCheck, check_ledger, lock_ledger
from tradeengine.storage.reconcile_wallet import compare_wallet
from tradeengine.storage.reconcile_words import in_words
from tradeengine.storage.reconcile_world import World, open_snapshot, read_cursors, read_world
from tradeengine.storage.reconciliations import Outcome
from tradeengine.storage.settle_fold import SettlementStopped

if TYPE_CHECKING:
    from tradeengine.ipc.wiring import Wiring
    from tradeengine.settings import Settings

TRIES: Final = 5
CENSUS_TIMEOUT_S: Final = 5.0
"""A process that was killed is back within this; one that is not has more to tell than a reconciliation."""

Connection = psycopg.Connection[Any]
logger = structlog.get_logger(__name__)


def reconcile(wiring: Wiring, census: CensusTaker) -> Outcome:
    """Compare everything with everything. Raises psycopg.Error when the database does not answer."""
    settings = wiring.settings
    reason = ""
    for _ in range(TRIES):
        try:
            return _try(settings, census)
        except (Lapped, CutMissed, NoCensus) as missed:
            reason = str(missed)
            logger.info("reconciliation begins anew", reason=reason)
        except CensusTooLarge as error:
            return Outcome(error=str(error))
        except SettlementStopped as stopped:
            return Outcome(error=f"settlement cannot go on from here, and so neither can this: {stopped}")
    return Outcome(error=f"after {TRIES} tries: {reason}")


def _try(settings: Settings, census: CensusTaker) -> Outcome:
    """Compare once. Raises Lapped, CutMissed, NoCensus, CensusTooLarge, SettlementStopped, psycopg.Error."""
    database = settings.database
    wallet = WalletSide(settings) if settings.wallet.kind == "http" else None
    with ExitStack() as pause:
        if wallet is not None:
            pause.enter_context(wallet.paused())
        with open_snapshot(database.direct_dsn, connect_timeout_s=database.connect_timeout_s) as snapshot:
            lock_ledger(snapshot)
            cut = census.take_cut(read_cursors(snapshot), CENSUS_TIMEOUT_S)
            count = wallet.look() if wallet is not None else None
            pause.close()
            return compare(snapshot, cut, count, settings.wallet.exchange_user)


def compare(connection: Connection, cut: Cut, wallet: WalletCount | None, exchange_user: str) -> Outcome:
    """Compare a snapshot of the database with a cut, and with what the wallet said, both taken after it."""
    began_s = time.monotonic()
    differences = Differences()
    world = read_world(connection)
    ledger = check_ledger(connection, world, differences)
    ledger_s = time.monotonic() - began_s
    compare_risk(world, cut, differences)
    compare_books(world, cut, differences)
    checked = _checked(world, ledger, cut)
    if wallet is not None and wallet.trouble:
        differences.add(Difference(kind="wallet_unavailable", message=f"Not compared: {wallet.trouble}."))
    elif wallet is not None:
        checked["wallet_balances"] = compare_wallet(connection, wallet.reserves, exchange_user, differences)
    logger.info(
        "reconciled",
        differences=differences.count,
        postings=ledger.postings,
        orders=len(world.orders),
        ledger_s=round(ledger_s, 3),
        duration_s=round(time.monotonic() - began_s, 3),
        risk_census_us=cut.risk.duration_us,
        book_census_us=[book.duration_us for book in cut.books],
    )
    return Outcome(
        checked=checked, differences=in_words(connection, differences.kept), difference_count=differences.count
    )


def _checked(world: World, ledger: LedgerCheck, cut: Cut) -> dict[str, Any]:
    """Say how much was looked at, and of which moments. Cursors: the next event, by ring."""
    risk = cut.risk
    cursors = {
        str(shard): {
            "settled": cut.cursors.get(shard, 0),
            "risk": risk.event_cursors[shard],
            "matcher": book.next_sequence,
        }
        for shard, book in enumerate(cut.books)
    }
    return {
        "accounts": len(set((world.balance_keys >> 16).tolist())),
        "balances": len(world.balance_keys),
        "postings": ledger.postings,
        "transactions": ledger.transactions,
        "trades": ledger.trades,
        "fundings": ledger.fundings,
        "orders": len(world.orders),
        "risk_orders": len(risk.orders),
        "holds": int((risk.orders["hold_units"] != 0).sum()),
        "book_orders": sum(len(book.orders) for book in cut.books),
        "census_us": max(risk.duration_us, *(book.duration_us for book in cut.books)),
        "cursors": {**cursors, "risk": {"settled": cut.cursors.get(-1, 0), "risk": risk.own_events_head}},
    }
