"""What must hold: looked at whenever something becomes visible, after each round of risk, and thoroughly at the end.

Rule 1: the audit knows what was visible and believes nothing else: events as they were published first, answers as
clients had them. Rule 2: at the end the journal, played through the reference book, must give exactly these events.
"""

from __future__ import annotations

import os
from collections import Counter
from typing import TYPE_CHECKING, Final

import numpy as np
from tests.model.reference_book import ReferenceBook
from tests.model.reference_orders import records
from tests.simulation.actors import Failed

from tradeengine.actors.matcher import INGRESS_RING_NONE
from tradeengine.core import book as kernel
from tradeengine.core.records import (
    ACCOUNT_ID_FIRST_USER,
    EventKind,
    Side,
    event_dtype,
)
from tradeengine.core.risk_state import HELD, MISMATCH_COUNT, TOTAL
from tradeengine.ipc.wiring import REFUSALS
from tradeengine.storage.journal_read import SUFFIX, list_segments, read_groups, read_segment
from tradeengine.storage.settle import RISK_SHARD

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from tests.simulation.engine import Engine

    from tradeengine.actors.publishing.follower import Follower
    from tradeengine.core.risk import RiskState

EVENT_BYTES: Final = event_dtype.itemsize


class Audit:
    """Everything that was ever visible."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.seen = {shard: bytearray() for shard in (*range(engine.shards), RISK_SHARD)}
        """The events of each ring, by sequence."""
        self.kept: list[list[NDArray[np.void]]] = [[] for _ in range(engine.shards)]
        """Commands of closed segments, which may be removed."""

    def begin_memory(self, first: dict[int, int]) -> None:
        """Take note that all rings are new and open at these sequences."""
        # What risk had answered and nobody settled is gone with the memory: nobody was told that it is final.
        del self.seen[RISK_SHARD][first[RISK_SHARD] * EVENT_BYTES :]

    def look_at_published(self, ring: str, published: NDArray[np.void]) -> None:
        """Look at events that everybody may see from now on."""
        role, _, where = ring.partition(".")
        if role == REFUSALS:
            self._engine.clients.look(published)
        if role != "events" or len(published) == 0:
            return
        shard = RISK_SHARD if where == "risk" else int(where)
        if shard != RISK_SHARD:
            self.look_at_durable(shard, "an event")
        seen, content = self.seen[shard], published.tobytes()
        start = int(published["sequence"][0]) * EVENT_BYTES
        if start > len(seen):
            fail(f"{ring}: event {start // EVENT_BYTES} follows {len(seen) // EVENT_BYTES - 1}")
        again = seen[start : start + len(content)]
        if content[: len(again)] != again:
            fail(f"{ring}: events from {start // EVENT_BYTES} on are others than they were before")
        seen[start + len(again) :] = content[len(again) :]
        self._engine.clients.look(published)

    def look_at_durable(self, shard: int, what: str) -> None:
        """See that everything in a shard's journal is safe now, when something of it becomes visible."""
        engine = self._engine
        if not engine.disk.is_safe(engine.place(shard).journal_dir):
            fail(f"{what} of shard {shard} became visible before its command was on the disk")

    def look_at_risk(self, risk: RiskState) -> None:
        """See that risk's sums add up."""
        if risk.scalars[MISMATCH_COUNT]:
            fail(f"risk met {int(risk.scalars[MISMATCH_COUNT])} events that do not fit what it knows")
        if risk.balances[:, :, TOTAL].sum(axis=0).any():
            fail("risk's totals of an asset do not sum to zero")
        users = risk.balances[ACCOUNT_ID_FIRST_USER:]
        if (users[:, :, HELD] < 0).any() or (users[:, :, TOTAL] < users[:, :, HELD]).any():
            fail("an account holds less than nothing, or more than it has")

    def look_at_depth(self, follower: Follower) -> None:
        """See that a book that may be shown is not crossed."""
        if not follower.whole or not follower.complete:
            return
        for symbol_id in follower.symbol_ids:
            (bid, bids), (ask, asks) = (follower.depth(symbol_id).best(side) for side in Side)
            if bids and asks and bid >= ask:
                fail(f"the publisher shows a crossed book of symbol {symbol_id}: {bid} over {ask}")

    def events(self, shard: int) -> NDArray[np.void]:
        """Give all events of a ring that were ever visible."""
        return np.frombuffer(bytes(self.seen[shard]), event_dtype)

    def finish(self) -> None:
        """See that everything fits together, once everything has arrived."""
        engine = self._engine
        for shard in range(engine.shards):
            self._look_at_journal(shard)
            self._look_at_priority(shard)
        self._look_at_trades()
        self._look_at_ledger()
        self._look_at_orders()
        self._look_at_accounts()
        self._look_at_publisher()
        engine.clients.finish()

    def _look_at_journal(self, shard: int) -> None:
        """Play the journal through the reference book: it must give what was visible, byte for byte."""
        engine, sizes = self._engine, self._engine.sizes
        reference = ReferenceBook(sizes.orders_max, sizes.symbols_max, sizes.levels_max, sizes.accounts_max, shard)
        commands = self.commands(shard)
        names = Counter((int(c["ingress_ring"]), int(c["ingress_sequence"])) for c in commands)
        del names[INGRESS_RING_NONE, -1]
        if repeated := [name for name, count in names.items() if count > 1]:
            fail(f"shard {shard}: the journal has several commands of the same ingress ring and sequence: {repeated}")
        given = records(event for command in commands for event in reference.apply(command))
        engine.counts.commands += len(commands)
        engine.counts.events += len(given)
        seen = self.events(shard)
        if given.tobytes() != seen.tobytes():
            at = next((at for at, pair in enumerate(zip(given, seen, strict=False)) if pair[0] != pair[1]), -1)
            fail(
                f"shard {shard}: the journal gives {len(given)} events, {len(seen)} were visible; "
                + (f"event {at} is the first that differs" if at >= 0 else "one lacks the end of the other")
            )
        book = engine.matchers[shard].matching.book
        for side in Side:
            orders = reference.markets[shard].ladders[side].orders()
            if sum(order.remaining for order in orders) != kernel.levels(book, shard, side)[:, 1].sum():
                fail(f"shard {shard}: the book is another one than the reference book")

    def commands(self, shard: int) -> list[NDArray[np.void]]:
        """Give all commands of a shard's journal, also those of segments that were removed."""
        kept = self.kept[shard]
        for _, commands in read_groups(self._engine.place(shard).journal_dir, len(kept)):
            kept.extend(commands.copy())
        return kept

    def keep_closed(self, shard: int) -> None:
        """Copy what is in closed segments, before the shadow removes them."""
        kept, folder = self.kept[shard], self._engine.place(shard).journal_dir
        last = max(name for name in os.listdir(folder) if name.endswith(SUFFIX))  # noqa: PTH208 - names are wanted
        if int(last.removesuffix(SUFFIX)) <= len(kept):
            return
        segments = list_segments(folder)
        for segment in segments[:-1]:
            for first, commands in read_segment(segment, len(kept), closed=True):
                assert first == len(kept)
                kept.extend(commands.copy())

    def _look_at_priority(self, shard: int) -> None:
        """See that no fill goes beyond its order's limit: what it holds can never be less than nothing."""
        trades = self.events(shard)
        trades = trades[trades["kind"] == EventKind.TRADED]
        if (trades["hold_units"] < 0).any() or (trades["maker_hold_units"] < 0).any():
            fail(f"shard {shard}: a fill takes more than its order holds")

    def _look_at_trades(self) -> None:
        """See that each fill was settled once, as it was published."""
        rows = self._engine.database.rows
        made = {int(trade["trade_id"]): trade for shard in range(self._engine.shards) for trade in self._trades(shard)}
        self._engine.counts.trades += len(made)
        if made.keys() != rows.trades.keys():
            fail(
                f"{len(made)} trades were made, {len(rows.trades)} settled: {sorted(made.keys() ^ rows.trades.keys())}"
            )
        for trade_id, row in rows.trades.items():
            if any(
                row[name] != made[trade_id][name].item() for name in ("quantity_lots", "notional_units", "sequence")
            ):
                fail(f"trade {trade_id} was settled otherwise than it was made")

    def _trades(self, shard: int) -> NDArray[np.void]:
        events = self.events(shard)
        trades: NDArray[np.void] = events[events["kind"] == EventKind.TRADED]
        return trades

    def _look_at_ledger(self) -> None:
        """See that the postings of each transaction sum to zero, and those of each account to its balance."""
        rows = self._engine.database.rows
        transactions: Counter[tuple[int, int]] = Counter()
        accounts: Counter[tuple[int, int]] = Counter()
        for transaction_id, account_id, asset_id, units in rows.postings:
            transactions[transaction_id, asset_id] += units
            accounts[account_id, asset_id] += units
        if any(transactions.values()):
            fail("the postings of a transaction do not sum to zero")
        if {key: units for key, units in accounts.items() if units} != {k: u for k, u in rows.balances.items() if u}:
            fail("an account's balance is not the sum of its postings")
        deposits = Counter[tuple[int, int]]()
        for row in rows.fundings.values():
            if row["status"] == "pending":
                fail("a deposit or withdrawal was never decided")
            if row["status"] == "settled":
                deposits[row["account_id"], row["asset_id"]] += row["amount_units"]
        for asset_id in range(self._engine.sizes.assets_max):
            inside = sum(units for (account_id, asset), units in deposits.items() if asset == asset_id)
            if rows.balances[2, asset_id] != -inside:
                fail("what came from outside is not what was deposited")

    def _look_at_orders(self) -> None:
        """See that the live orders on record are those of the books."""
        rows = self._engine.database.rows
        live = Counter(row["symbol_id"] for row in rows.orders.values() if not row["closed"])
        for shard, matcher in enumerate(self._engine.matchers):
            if live[shard] != kernel.order_count(matcher.matching.book):
                fail(f"{live[shard]} orders of shard {shard} are live on record, others in the book")

    def _look_at_accounts(self) -> None:
        """See that risk knows what is on record: balances, holds, settings; and shows it."""
        engine, rows, risk = self._engine, self._engine.database.rows, self._engine.risk.risk
        totals, held = (np.zeros(risk.balances.shape[:2], np.int64) for _ in range(2))
        for (account_id, asset_id), units in rows.balances.items():
            totals[account_id, asset_id] = units
        for row in rows.orders.values():
            if not row["closed"]:
                asset_id = 0 if row["side"] == Side.BUY else 1 + row["symbol_id"]
                held[row["account_id"], asset_id] += row["hold_units"]
        for what, known, recorded in (("totals", TOTAL, totals), ("holds", HELD, held)):
            if not np.array_equal(risk.balances[:, :, known], recorded):
                fail(f"risk's {what} are not those on record")
        shown = engine.balances.read_rows(range(engine.sizes.accounts_max))["units"]
        if not np.array_equal(shown[ACCOUNT_ID_FIRST_USER:], risk.balances[ACCOUNT_ID_FIRST_USER:]):
            fail("the table of balances shows something else than risk knows")
        for account_id, row in rows.settings.items():
            if int(engine.accounts.read(account_id)["version"]) != row["version"]:
                fail(f"the settings of account {account_id} are not in force")

    def _look_at_publisher(self) -> None:
        """See that the publisher's books are the books, and its last prices those of the last trades."""
        for shard, follower in enumerate(self._engine.publisher.followers):
            book = self._engine.matchers[shard].matching.book
            for side in Side:
                if follower.depth(shard).side(side).tolist() != kernel.levels(book, shard, side).tolist():
                    fail(f"the publisher's book of symbol {shard} is not the book")
            trades = self._trades(shard)
            row = self._engine.publisher.tickers.row(shard, self._engine.clock.now_ns)
            if len(trades) and row["last_price_ticks"] != trades["price_ticks"][-1]:
                fail(f"the publisher's last price of symbol {shard} is not that of the last trade")


def fail(message: str) -> None:
    """Say which promise was broken."""
    raise Failed(message)
