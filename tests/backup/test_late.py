"""What is in no journal: read behind the journals' cut, put into a restored database as if it was settled there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import psycopg
import pytest
from tests.faults.load import LEDGER_CLAIMS

from tradeengine.core.records import EventFlag, EventKind, Reason, event_dtype, funding_event_dtype
from tradeengine.storage.account_settings import change as change_settings
from tradeengine.storage.backup.database import dump_database, open_view, restore_database, table_count
from tradeengine.storage.backup.late import (
    LATE,
    LEFT,
    SETTLED,
    apply_late,
    keep_unknown_accounts,
    read_late,
    read_marks,
)
from tradeengine.storage.directory import add_asset, resolve_account
from tradeengine.storage.funding import FundingKind, request_funding
from tradeengine.storage.settle import RISK_SHARD, Settler
from tradeengine.storage.wallet_fundings import refuse_deposit

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

NOW_NS = 1_795_000_000_123_456_789
USDT = 0


def test_every_table_has_its_way_back(connection: psycopg.Connection[Any]) -> None:
    """Each table is brought forward by the journals, kept beside the dump, or left out on purpose."""
    query = (
        "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') "
        "AND NOT relispartition AND relname NOT LIKE '%%yoyo%%'"
    )
    tables = {name for (name,) in connection.execute(query)}
    known = [SETTLED, LEFT, {table.name for table in LATE}]
    assert tables == set().union(*known)
    assert sum(map(len, known)) == len(tables)


def fund(connection: psycopg.Connection[Any], reference: str, account_id: int, amount: int, reason: int = 0) -> Any:
    """Ask for a deposit, or a withdrawal when below 0; returns the event by which risk decides it."""
    kind = FundingKind.DEPOSIT if amount > 0 else FundingKind.WITHDRAWAL
    request = request_funding(
        connection, kind, reference=reference, account_id=account_id, asset_id=USDT, amount_units=abs(amount)
    )
    event = np.zeros(1, event_dtype)
    funding = event.view(funding_event_dtype)
    funding["kind"] = EventKind.FUNDING_REFUSED if reason else EventKind.FUNDED
    funding["flags"] = EventFlag.LAST_OF_COMMAND
    funding["reason"] = reason
    funding["timestamp_ns"] = NOW_NS + request.number * 1_000_000_000
    funding["account_id"] = account_id
    funding["asset_id"] = USDT
    funding["funding_number"] = request.number
    funding["amount_units"] = amount
    return event


def settle(dsn: str, *events: Any) -> None:
    """Settle risk's events after those before."""
    settler = Settler(psycopg.connect(dsn, autocommit=True), 1)
    batch = np.concatenate(events)
    batch["sequence"] = settler.cursors[RISK_SHARD] + np.arange(len(batch))
    settler.settle({RISK_SHARD: batch})
    settler.close()


def everything(dsn: str) -> dict[str, list[Any]]:
    """Give all rows of all tables but partitions."""
    found = {}
    with psycopg.connect(dsn) as connection:
        for name in sorted(SETTLED | {table.name for table in LATE}):
            # The order in which rows lie in a table is nobody's business.
            found[name] = sorted(row[0] for row in connection.execute(f"SELECT row_to_json(t)::text FROM {name} AS t"))
    return found


@pytest.mark.usefixtures("symbol")
def test_database_is_as_if_it_had_been_settled_there(
    dsn: str, connection: psycopg.Connection[Any], make_database: Callable[[str], str], tmp_path: Path
) -> None:
    """Deposits, withdrawals, accounts, settings and assets since the dump: the restored database has the same rows."""
    ann = resolve_account(connection, "ann", accounts_max=64)
    settle(dsn, fund(connection, "first", ann, 1000))
    waiting = fund(connection, "asked before, settled after", ann, -300)
    with open_view(dsn, 10) as view:
        marks = read_marks(view.connection)
        dump_database(dsn, view, tmp_path / "dump")
    bob = resolve_account(connection, "bob", accounts_max=64)
    too_much = fund(connection, "too much", ann, -5000, int(Reason.INSUFFICIENT_BALANCE))
    settle(dsn, waiting, fund(connection, "new", bob, 700), too_much)
    fund(connection, "not decided", bob, 5)
    change_settings(connection, bob, suspended=True, suspended_reason="asked", suspended_by="root")
    add_asset(connection, "NEW", 2, assets_max=16)
    with open_view(dsn, 10) as view:
        lines = list(read_late(view.connection, marks))

    restored = make_database("template0")
    assert table_count(restored, 10) == 0
    restore_database(restored, tmp_path / "dump", 180_000)
    applied = apply_late(psycopg.connect(restored, autocommit=True), lines, 1)
    assert applied.fundings == 3
    assert everything(restored) == everything(dsn)
    with psycopg.connect(restored) as again:
        for claim, query in LEDGER_CLAIMS.items():
            assert again.execute(query).fetchall() == [], claim
    # And numbers go on without a gap.
    with psycopg.connect(restored, autocommit=True) as again:
        assert fund(again, "next", bob, 1).view(funding_event_dtype)["funding_number"][0] == 6


@pytest.mark.usefixtures("symbol")
def test_deposits_through_a_wallet(
    dsn: str, connection: psycopg.Connection[Any], make_database: Callable[[str], str], tmp_path: Path
) -> None:
    """What a wallet outside reserved, released or refused since the dump is so again, also what risk never saw."""
    connection.execute("UPDATE wallet_kind SET kind = 'http'")
    ann = resolve_account(connection, "ann", accounts_max=64)

    def ask(reference: str) -> int:
        asked = request_funding(
            connection, FundingKind.DEPOSIT, reference=reference, account_id=ann, asset_id=USDT, amount_units=900
        )
        return asked.id

    reserved, refused = ask("reserved later"), ask("refused later")
    with open_view(dsn, 10) as view:
        marks = read_marks(view.connection)
        dump_database(dsn, view, tmp_path / "dump")
    refused_too = ask("new, and refused")
    for funding_id in (refused, refused_too):
        refuse_deposit(connection, funding_id, "INSUFFICIENT_BALANCE", "the wallet will not")
    connection.execute("UPDATE counters SET value = 1 WHERE name = 'funding'")
    connection.execute("UPDATE funding SET number = 1, wallet_state = 'done' WHERE id = %s", (reserved,))
    event = np.zeros(1, event_dtype)
    funding = event.view(funding_event_dtype)
    for name, value in (("kind", EventKind.FUNDED), ("account_id", ann), ("funding_number", 1), ("amount_units", 900)):
        funding[name] = value
    funding["timestamp_ns"] = NOW_NS
    settle(dsn, event)
    with open_view(dsn, 10) as view:
        lines = list(read_late(view.connection, marks))
    restored = make_database("template0")
    restore_database(restored, tmp_path / "dump", 180_000)
    assert apply_late(psycopg.connect(restored, autocommit=True), lines, 1).fundings == 1
    assert everything(restored) == everything(dsn)


def test_unknown_accounts_keep_their_ids(connection: psycopg.Connection[Any]) -> None:
    """Accounts that traded and whose rows are lost keep their ids, so that nobody new gets their money."""
    ann = resolve_account(connection, "ann", accounts_max=64)
    assert keep_unknown_accounts(connection, [ann, 40, 20]) == [20, 40]
    assert resolve_account(connection, "new", accounts_max=64) == 41
    names = dict(connection.execute("SELECT id, name FROM accounts WHERE id >= 16").fetchall())
    assert names == {ann: "ann", 20: "*unknown-20*", 40: "*unknown-40*", 41: "new"}


def test_rights_are_as_they_were(dsn: str, make_database: Callable[[str], str], tmp_path: Path) -> None:
    """Who may do what is the same after a restore: nobody may change the audit log, operators may read their views."""
    with open_view(dsn, 10) as view:
        dump_database(dsn, view, tmp_path / "dump")
    restored = make_database("template0")
    restore_database(restored, tmp_path / "dump", 180_000)
    query = (
        "SELECT relnamespace::regnamespace::text, relname, (SELECT array_agg(a::text ORDER BY a::text) FROM unnest("
        "coalesce(relacl, acldefault('r', relowner))) AS a) FROM pg_class "
        "WHERE relnamespace IN ('public'::regnamespace, to_regnamespace('operators')) AND relkind IN ('r', 'p', 'v') "
        "UNION ALL SELECT 'function', proname, (SELECT array_agg(a::text ORDER BY a::text) FROM unnest("
        "coalesce(proacl, acldefault('f', proowner))) AS a) "
        "FROM pg_proc WHERE pronamespace IN ('public'::regnamespace, to_regnamespace('operators')) ORDER BY 1, 2"
    )
    with psycopg.connect(dsn) as source, psycopg.connect(restored) as copy:
        assert copy.execute(query).fetchall() == source.execute(query).fetchall()
