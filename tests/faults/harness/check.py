"""What clients were told against what PostgreSQL holds, and PostgreSQL against itself. Every difference is a sentence.

Rule 1: an acknowledged command is there, as it was answered, and what came later only went on from it.
Rule 2: what was refused is not there; what is there was asked for.
Rule 3: a money move is made once under its reference, or never.
It refuses to know connections to the engine, and streams.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from decimal import Decimal
from typing import Final

from tests.faults.harness.intents import Json, Kind
from tests.faults.harness.notes import KEPT, Note, Outcome, Told, told_orders
from tests.faults.harness.world import Connection, World
from tests.faults.load import LEDGER_CLAIMS, LIMIT_CLAIM

FINAL: Final = frozenset({"filled", "cancelled", "rejected"})
NEVER_CHANGES: Final = ("id", "client_order_id", "symbol", "side", "type", "time_in_force", "post_only")
ENDED: Final = ("status", "status_reason", "filled_quantity", "remaining_quantity", "fee_paid", "quantity", "price")
REQUESTED: Final = ("symbol", "side", "type", "stop_price", "price", "quantity")
SAMPLE: Final = 5
"""Rows shown of each claim about the ledger that does not hold."""


def differences(notes: list[Note], world: World, users: Iterable[str]) -> Iterator[str]:
    """Compare all that was noted of these users' orders and money with the database. Nothing is unknown any more."""
    told = told_orders(notes)
    by_name: dict[str, list[Json]] = {}
    for row in world.orders.values():
        if row["user_name"] in set(users):
            by_name.setdefault(row["client_order_id"], []).append(row)
    for name, rows in by_name.items():
        if len(rows) > 1:
            yield f"{name} has {len(rows)} orders"
        if name not in told:
            yield f"{name} is an order that nobody asked for"
    for name, order in told.items():
        yield from _order(name, order, by_name.get(name, []), world)
    for note in notes:
        if note.intent.kind is Kind.CANCEL_ALL:
            yield from _cancelled(note, world)
    yield from _fundings(notes, world, set(users))


def _order(name: str, told: Told, rows: list[Json], world: World) -> Iterator[str]:
    if told.outcome not in KEPT:
        if rows:
            yield f"{name} was {told.outcome}, and is an order: {world.view_of(rows[0])}"
        return
    if not rows:
        yield f"{name} was acknowledged as {told.order_id}, and is lost"
        return
    view = world.view_of(rows[0])
    if view["id"] != told.order_id or rows[0]["user_name"] != told.user:
        yield f"{name} was acknowledged as {told.order_id} of {told.user}, and is {view} of {rows[0]['user_name']}"
    if told.outcome is Outcome.REJECTED and view["status"] != "rejected":
        yield f"{name} was rejected, and is {view['status']}"
    yield from (f"{name}: {text}" for text in _history(told, view))
    yield from (f"{name}: {text}" for text in _wishes(told, view))
    for trade in told.trades:
        row = world.trades.get(int(trade["id"]))
        if row is None:
            yield f"{name}: trade {trade['id']} was told of, and is not settled"
            continue
        if int(told.order_id) not in {row["taker_order_id"], row["maker_order_id"]}:
            yield f"{name}: trade {trade['id']} was told of, and is of other orders: {row}"
        for field, value in world.trade_view(row).items():
            if trade[field] != value:
                yield f"{name}: trade {trade['id']} was told with {field} {trade[field]}, settled with {value}"


def _history(told: Told, view: Json) -> Iterator[str]:
    """Hold all that was shown of an order against what it is in the end."""
    for shown in told.views:
        fields = NEVER_CHANGES if shown["status"] not in FINAL else (*NEVER_CHANGES, *ENDED)
        for field in fields:
            if shown[field] != view[field]:
                yield f"was answered with {field} {shown[field]} at {shown['sequence']}, and is {view[field]}"
        if Decimal(shown["filled_quantity"]) > Decimal(view["filled_quantity"]):
            yield f"was answered as filled {shown['filled_quantity']}, and is {view['filled_quantity']}"
        if shown["sequence"] > view["sequence"]:
            yield f"was answered at {shown['sequence']}, and is as of {view['sequence']}"


def _wishes(told: Told, view: Json) -> Iterator[str]:
    """Hold what was asked for, with the changes that were acknowledged since, against what the order is."""
    wanted = {field: told.request.get(field) for field in REQUESTED}
    for body, outcome in told.amends:
        if outcome is Outcome.OK:
            wanted |= body
        elif outcome is Outcome.UNKNOWN:
            # Asked twice, and refused the second time: it may have been carried out.
            wanted |= dict.fromkeys(body)
    for field, value in wanted.items():
        if value is not None and not _same(value, view[field]):
            yield f"was asked for with {field} {value}, and is {view[field]}"


def _same(wanted: str, found: str | None) -> bool:
    if wanted.replace(".", "", 1).isdigit():
        return found is not None and Decimal(wanted) == Decimal(found)
    return wanted == found


def _cancelled(note: Note, world: World) -> Iterator[str]:
    for part in note.parts():
        for view in part.views:
            for order_id in view["orders"]:
                status = world.orders[int(order_id)]["status"] if int(order_id) in world.orders else "lost"
                if status != "cancelled":
                    yield f"{note.intent.name} cancelled {order_id}, and it is {status}"


def _fundings(notes: list[Note], world: World, users: set[str]) -> Iterator[str]:
    asked: dict[tuple[str, str], Note] = {}
    for note in notes:
        if note.intent.kind in {Kind.DEPOSIT, Kind.WITHDRAWAL}:
            asked[note.intent.kind, note.intent.body["reference"]] = note
    for key, note in asked.items():
        row = world.fundings.get(key)
        (part,) = note.parts()
        if part.outcome is Outcome.OK:
            wanted = (
                note.intent.body["user"],
                note.intent.body["asset"],
                Decimal(note.intent.body["amount"]),
                "settled",
            )
            if row is None or wanted != (row["user_name"], row["asset"], _amount(row), row["status"]):
                yield f"{note.intent.name} was answered as done, {wanted}, and is {row}"
        elif row is not None and row["status"] != "refused":
            yield f"{note.intent.name} was {part.outcome}, {note.answer_texts()}, and is {row}"
    for key, row in world.fundings.items():
        # What a user begins with is not asked for by a lane.
        if row["user_name"] in users and key not in asked and key != ("deposit", f"{row['user_name']}.{row['asset']}"):
            yield f"{key} moved money, and nobody asked for it"


def _amount(row: Json) -> Decimal:
    return Decimal(row["amount_units"]).scaleb(-row["places"])


def ledger_differences(connection: Connection) -> Iterator[str]:
    """Hold the ledger against itself."""
    for claim, query in (LEDGER_CLAIMS | POSTED_CLAIMS).items():
        if claim == LIMIT_CLAIM:
            continue  # prices are amended here, also after a fill: the replay knows which price held when
        rows = connection.execute(query).fetchall()
        if rows:
            yield f"{claim}: {rows[:SAMPLE]}, {len(rows)} in all"


_LEGS: Final = """
    SELECT t.id, t.taker_side = 'buy' AS taker_buys, t.taker_account_id AS taker, t.maker_account_id AS maker,
        t.quantity_lots * s.lot_units AS base, t.notional_units AS notional, t.taker_fee_units AS taker_fee,
        t.maker_fee_units AS maker_fee, s.base_asset_id, s.quote_asset_id
    FROM trades t JOIN symbols s ON s.id = t.symbol_id"""
POSTED_CLAIMS: Final = {
    "a trade is posted with other amounts than it has, or twice": f"""
        WITH legs AS ({_LEGS}), wanted AS (
            SELECT id, CASE WHEN taker_buys THEN taker ELSE maker END AS account, base_asset_id AS asset, base AS amount
                FROM legs
            UNION ALL SELECT id, CASE WHEN taker_buys THEN maker ELSE taker END, base_asset_id, -base FROM legs
            UNION ALL SELECT id, CASE WHEN taker_buys THEN taker ELSE maker END, quote_asset_id,
                -notional - CASE WHEN taker_buys THEN taker_fee ELSE maker_fee END FROM legs
            UNION ALL SELECT id, CASE WHEN taker_buys THEN maker ELSE taker END, quote_asset_id,
                notional - CASE WHEN taker_buys THEN maker_fee ELSE taker_fee END FROM legs
            UNION ALL SELECT id, 1, quote_asset_id, taker_fee + maker_fee FROM legs)
        SELECT w.id, w.account, w.asset, w.amount, p.amount FROM (
            SELECT id, account, asset, sum(amount) AS amount, count(*) FILTER (WHERE amount <> 0) AS count
                FROM wanted GROUP BY 1, 2, 3) w
        FULL JOIN (SELECT transaction_id, account_id, asset_id, sum(amount_units) AS amount, count(*) AS count
                FROM postings WHERE kind = 'T' GROUP BY 1, 2, 3) p
            ON (p.transaction_id, p.account_id, p.asset_id) = (w.id, w.account, w.asset)
        WHERE coalesce(w.amount, 0) <> coalesce(p.amount, 0) OR coalesce(w.count, 0) <> coalesce(p.count, 0)
        """,
    "a deposit or withdrawal is posted with another amount than it has, or twice": """
        SELECT f.reference, f.amount_units, p.amount FROM funding f FULL JOIN (
            SELECT transaction_id, sum(amount_units) FILTER (WHERE account_id <> 2) AS amount, count(*) AS count
            FROM postings WHERE kind = 'F' GROUP BY 1) p USING (transaction_id)
        WHERE (f.transaction_id IS NULL) <> (p.transaction_id IS NULL)
           OR f.status = 'settled' AND (p.count, p.amount) IS DISTINCT FROM
              (2::bigint, (CASE f.kind WHEN 'deposit' THEN 1 ELSE -1 END * f.amount_units)::numeric)""",
}
"""Written anew from what the ledger should be, not from the program that compares it while it runs."""
