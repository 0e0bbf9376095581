"""``tradeengine verify``: nothing differs where nothing was altered, and each thing that was altered is named."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from tests.cli.altered_journal import alter_command, chain_anew, groups_of
from tests.cli.traded import Traded, Words, open_traded
from tests.engines import run_command
from tests.samples.make_sample import SETTINGS

from tradeengine.actors.verifying import walk
from tradeengine.cli.errors import CommandError
from tradeengine.cli.verify import line_of, look
from tradeengine.settings_files import load_settings
from tradeengine.storage.identity import IDENTITY_NAME, mark_of
from tradeengine.storage.journal_format import (
    SegmentHeader,
)
from tradeengine.storage.journal_read import list_segments
from tradeengine.storage.snapshots import list_snapshots, read_snapshot, write_snapshot
from tradeengine.storage.verify_orders import ORDERS
from tradeengine.storage.verify_trades import TRADES

TRADE = "(SELECT id FROM trades ORDER BY id OFFSET 100 LIMIT 1)"
LIVE = "(SELECT id FROM orders WHERE closed_at IS NULL ORDER BY id OFFSET 10 LIMIT 1)"
FILLED = "(SELECT id FROM orders WHERE status = 'filled' AND time_in_force = 'gtc' ORDER BY id OFFSET 30 LIMIT 1)"
ENDED = "(SELECT id FROM orders WHERE closed_at IS NOT NULL ORDER BY id OFFSET 50 LIMIT 1)"

COPY_OF_TRADE = f"INSERT INTO trades SELECT {{}}, {', '.join(list(TRADES.kinds)[1:])} FROM trades WHERE id = {TRADE}"


@pytest.fixture(scope="module")
def traded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Traded]:
    """Run the database of an exchange that has traded."""
    with open_traded(tmp_path_factory.mktemp("traded") / "data") as opened:
        yield opened


def after(traded: Traded, *statements: str, **options: Any) -> list[Words]:
    """Alter a copy of the database, and say what verifying finds."""
    with traded.copy_database() as dsn:
        with psycopg.connect(dsn, autocommit=True) as connection:
            for statement in statements:
                assert connection.execute(statement).rowcount != 0, statement
        return traded.verify(dsn=dsn, **options).words


def places(found: list[Words]) -> set[tuple[str | None, str | None, str | None]]:
    """Tell what was found by kind, table and column."""
    return {(words["kind"], words["table"], words["field"]) for words in found}


def test_command_finds_nothing_and_says_how_much_it_looked_at(traded: Traded) -> None:
    """Where nothing was altered verify ends with 0, having looked at every segment, snapshot, trade, order, posting."""
    result = run_command("verify", "--json", "--data-dir", str(traded.folder), **SETTINGS)
    assert (result.returncode, result.stderr) == (0, "")
    told = json.loads(result.stdout)
    assert (told["difference_count"], told["unseen"], told["failed"]) == (0, [], [])
    (shard,) = told["shards"]
    with psycopg.connect(traded.dsn) as connection:
        counts = {
            name: connection.execute(f"SELECT count(*) FROM {name}").fetchall()[0][0]
            for name in ("trades", "orders", "postings", "balances")
        }
        ((settled,),) = connection.execute("SELECT sequence FROM settlement_cursors WHERE shard = 0").fetchall()
        ((live,),) = connection.execute("SELECT count(*) FROM orders WHERE closed_at IS NULL").fetchall()
    assert (shard["trades"], shard["orders"], shard["live_orders"]) == (counts["trades"], counts["orders"], live)
    assert (told["ledger"]["postings"], told["ledger"]["balances"]) == (counts["postings"], counts["balances"])
    segments = list_segments(traded.settings().journal_dir(0))
    snapshots = list_snapshots(traded.settings().snapshot_dir(0))
    assert (shard["segments"], shard["hashes"]) == (len(segments), len(segments))
    assert (shard["snapshots"], shard["snapshots_found"]) == (len(snapshots), len(snapshots))
    assert (shard["from_event"], shard["next_event"], shard["settled"]) == (0, settled, settled)


@pytest.mark.parametrize("layout", [TRADES, ORDERS], ids=["trades", "orders"])
def test_every_column_is_compared(traded: Traded, layout: Any) -> None:
    """A value that was altered in any column of any row is named by shard, sequence, table, column and row."""
    table, columns = layout.table, [name for name in layout.kinds if name not in {"id", "sequence"}]
    statements = [altering(table, column, 7 * place) for place, column in enumerate(columns, 1)]
    found = [words for words in after(traded, *statements) if words["table"] == table]
    assert sorted(str(words["field"]) for words in found if words["kind"] == f"{table[:-1]}_differs") == sorted(columns)
    with psycopg.connect(traded.dsn) as connection:
        rows: dict[int, int] = dict(connection.execute(f"SELECT id, sequence FROM {table}").fetchall())
    for words in found:
        number = int(words["transaction_id"] or words["order_id"] or 0)
        assert (words["shard"], words["sequence"]) == ("0", str(rows[number]))
        assert words["expected"] != words["found"]


def altering(table: str, column: str, offset: int) -> str:
    """Give the statement that gives one row another value in one column."""
    value = {
        "side": "CASE side WHEN 'buy' THEN 'sell' ELSE 'buy' END::order_side",
        "taker_side": "CASE taker_side WHEN 'buy' THEN 'sell' ELSE 'buy' END::order_side",
        "type": "CASE type WHEN 'stop' THEN 'stop_limit' ELSE 'stop' END::order_type",
        "time_in_force": "CASE time_in_force WHEN 'fok' THEN 'gtc' ELSE 'fok' END::time_in_force",
        "self_trade_prevention": "CASE self_trade_prevention WHEN 'cancel_both' THEN 'cancel_maker' "
        "ELSE 'cancel_both' END::self_trade_prevention",
        "status": "CASE status WHEN 'rejected' THEN 'filled' ELSE 'rejected' END::order_status",
        "status_reason": "CASE WHEN status_reason IS NULL THEN 'BUDGET' END::reason",
        "post_only": "NOT post_only",
        "by_quote": "NOT by_quote",
        "client_order_id": "coalesce(client_order_id, '') || 'ü'",
    }
    if column.endswith("_at"):
        change = f"coalesce({column} + interval '1 microsecond', now())"
    else:
        change = value.get(column, f"{column} + 1")
    row = f"(SELECT id FROM {table} ORDER BY id OFFSET {offset} LIMIT 1)"
    return f"UPDATE {table} SET {column} = {change} WHERE id = {row}"


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        (
            f"DELETE FROM trades WHERE id = {TRADE}",
            {("trade_missing", "trades", None), ("trade_posting", None, None)},
        ),
        (
            COPY_OF_TRADE.format("id + 1"),
            {("trade_unknown", "trades", None), ("trade_posting", None, None)},
        ),
        (
            COPY_OF_TRADE.format("(SELECT max(id) FROM trades) + (100 << 22)"),
            {("trade_unknown", "trades", None), ("trade_posting", None, None)},
        ),
        (
            COPY_OF_TRADE.format("id + (5 << 16)"),
            {("trade_unknown", "trades", None), ("trade_posting", None, None)},
        ),
        (f"DELETE FROM orders WHERE id = {ENDED}", {("order_missing", "orders", None)}),
        (
            f"DELETE FROM orders WHERE id = {LIVE}",
            {("order_missing", "orders", None), ("book_order_unknown", None, None)},
        ),
        (
            f"INSERT INTO orders (id, {', '.join(list(ORDERS.kinds)[1:])}) "
            f"SELECT id + 1, {', '.join(list(ORDERS.kinds)[1:])} FROM orders WHERE id = {ENDED}",
            {("order_unknown", "orders", None)},
        ),
        (
            "UPDATE orders SET status = 'cancelled', closed_at = updated_at WHERE id = " + LIVE,
            {
                ("order_differs", "orders", "status"),
                ("order_differs", "orders", "closed_at"),
                ("book_order_unknown", None, None),
            },
        ),
        (
            f"UPDATE orders SET closed_at = NULL, remaining_lots = remaining_lots + 1 WHERE id = {ENDED}",
            None,
        ),
        (
            f"UPDATE postings SET amount_units = amount_units + 1 WHERE transaction_id = {TRADE} AND account_id = 1",
            {("trade_posting", None, None), ("transaction_unbalanced", None, None), ("balance", None, None)},
        ),
        (
            f"DELETE FROM postings WHERE transaction_id = {TRADE}",
            {("trade_posting", None, None), ("balance", None, None)},
        ),
        ("UPDATE balances SET total_units = total_units + 1 WHERE account_id = 1", {("balance", None, None)}),
        (
            "UPDATE settlement_cursors SET sequence = sequence + 1 WHERE shard = 0",
            {("cursor_ahead", "settlement_cursors", "sequence")},
        ),
    ],
)
def test_each_alteration_of_the_database_is_found(
    traded: Traded, statement: str, expected: set[tuple[str, str | None, str | None]] | None
) -> None:
    """A row that is missing, too many, altered, or moved to where it is not is found, with its consequences only."""
    found = after(traded, statement)
    assert found
    if expected is not None:
        assert places(found) == expected


def test_difference_says_both_sides(traded: Traded) -> None:
    """An altered price is told with what follows from the journal, what is there, and where to look."""
    (words,) = after(traded, f"UPDATE trades SET price_ticks = price_ticks + 7 WHERE id = {TRADE}")
    with psycopg.connect(traded.dsn) as connection:
        query = f"SELECT id, sequence, price_ticks FROM trades WHERE id = {TRADE}"
        ((number, sequence, price),) = connection.execute(query).fetchall()
    assert line_of(words) == (
        f"trade_differs: shard=0 sequence={sequence} table=trades transaction_id={number} symbol=BTC/USDT "
        f"column=price_ticks expected={price} found={price + 7} - The row is not what follows from the journal."
    )


def test_database_behind_the_journal_is_compared_up_to_its_cursor(traded: Traded) -> None:
    """What is not settled yet is not asked for: a database of the beginning agrees with the whole journal."""
    with traded.copy_database() as dsn:
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute("UPDATE settlement_cursors SET sequence = 1 WHERE shard = 0")
            for table in ("trades", "orders"):
                connection.execute(f"DELETE FROM {table}")
            connection.execute("DELETE FROM postings WHERE kind = 'T'")
            connection.execute(
                "UPDATE balances AS b SET total_units = (SELECT coalesce(sum(amount_units), 0) FROM postings AS p "
                "WHERE p.account_id = b.account_id AND p.asset_id = b.asset_id)"
            )
        report = traded.verify(dsn=dsn)
    assert report.words == []
    assert (report.shards[0].trades, report.shards[0].settled) == (0, 1)
    assert report.shards[0].next_event > 2000


def test_altered_command_is_found_in_its_group(traded: Traded, tmp_path: Path) -> None:
    """A command altered in an old segment, with its group's checksums made right, breaks the chain behind it."""
    folder = traded.copy_files(tmp_path)
    path = list_segments(traded.settings(folder).journal_dir(0))[2].path
    alter_command(path, chain=False)
    (words,) = [words for words in traded.verify(folder=folder).words if words["kind"] == "journal_damaged"]
    assert words["file"] == str(path)


def test_altered_command_with_its_whole_chain_is_found_by_its_events(traded: Traded, tmp_path: Path) -> None:
    """With all later groups and segments framed anew no checksum is wrong: hashes of events and the database tell."""
    folder = traded.copy_files(tmp_path)
    segments = list_segments(traded.settings(folder).journal_dir(0))
    previous = alter_command(segments[2].path, chain=True)
    for segment in segments[3:]:
        previous = chain_anew(segment.path, previous)
    found = traded.verify(folder=folder).words
    assert {"events_hash", "order_differs"} <= {words["kind"] for words in found}
    (events,) = [words for words in found if words["kind"] == "events_hash"]
    assert events["sequence"] == str(segments[3].header.first_command_sequence)
    first = min(int(str(words["sequence"])) for words in found if words["kind"] == "order_differs")
    assert segments[2].header.first_event_sequence <= first < segments[3].header.first_event_sequence


def test_missing_segment_is_found(traded: Traded, tmp_path: Path) -> None:
    """A segment that is gone from the middle is named; what is before it is verified, and it is said up to where."""
    folder = traded.copy_files(tmp_path)
    segment = list_segments(traded.settings(folder).journal_dir(0))[3]
    path, end = segment.path, segment.header.first_event_sequence
    path.unlink()
    report = traded.verify(folder=folder)
    assert [(words["kind"], words["file"]) for words in report.words] == [("journal_damaged", str(path))]
    assert report.unseen == [
        f"shard 0: verified up to event {end}, where the journal is damaged, not to {settled_of(traded)}"
    ]


def test_cut_journal_is_found(traded: Traded, tmp_path: Path) -> None:
    """A journal that lost its end is behind what the database has settled, and behind a snapshot of it."""
    folder = traded.copy_files(tmp_path)
    for segment in reversed(list_segments(traded.settings(folder).journal_dir(0))):
        groups = [offset for offset, count in groups_of(bytearray(segment.path.read_bytes())) if count]
        if groups:
            os.truncate(segment.path, groups[-1])
            break
        segment.path.unlink()
    found = traded.verify(folder=folder).words
    assert {"cursor_ahead", "snapshot"} <= {words["kind"] for words in found}


def settled_of(traded: Traded) -> int:
    """How far the database has settled the shard."""
    with psycopg.connect(traded.dsn) as connection:
        ((settled,),) = connection.execute("SELECT sequence FROM settlement_cursors WHERE shard = 0").fetchall()
    return int(settled)


def test_altered_snapshot_is_found(traded: Traded, tmp_path: Path) -> None:
    """A snapshot with another book, whose checksums and hash are right for it, is not what the journal gives."""
    folder = traded.copy_files(tmp_path)
    directory = traded.settings(folder).snapshot_dir(0)
    (older, *_), *_, (newer, *_) = list_snapshots(directory)
    snapshot = read_snapshot(newer)
    write_snapshot(directory, snapshot.header, read_snapshot(older).payload)
    (words,) = traded.verify(folder=folder).words
    assert (words["kind"], words["file"]) == ("snapshot", str(newer))
    assert words["message"] == "The snapshot has another book than the journal gives."


def test_damaged_snapshot_is_found(traded: Traded, tmp_path: Path) -> None:
    """A bit flipped in a snapshot is named with its file: nobody else reads it before it is needed."""
    folder = traded.copy_files(tmp_path)
    path = list_snapshots(traded.settings(folder).snapshot_dir(0))[1][0]
    block = bytearray(path.read_bytes())
    block[len(block) // 2] ^= 1
    path.write_bytes(block)
    (words,) = traded.verify(folder=folder).words
    assert (words["kind"], words["file"]) == ("snapshot", str(path))
    assert words["message"] == "The snapshot cannot be used: the payload does not match its checksum."


def test_altered_book_hash_of_a_segment_is_found(traded: Traded, tmp_path: Path) -> None:
    """A hash of the book that the matcher did not write there is a difference, as is one of its events."""
    folder = traded.copy_files(tmp_path)
    segments = list_segments(traded.settings(folder).journal_dir(0))[3:5]
    for segment, name in zip(segments, ("state_hash", "event_hash"), strict=True):
        fields = {field: getattr(segment.header, field) for field in segment.header.__slots__}
        with segment.path.open("r+b") as file:
            file.write(SegmentHeader(**fields | {name: fields[name] ^ 1}).pack())
        (words,) = traded.verify(folder=folder).words
        assert (words["kind"], words["file"]) == (
            "book_hash" if name == "state_hash" else "events_hash",
            str(segment.path),
        )
        with segment.path.open("r+b") as file:
            file.write(segment.header.pack())


def test_another_engines_segment_is_found(traded: Traded, tmp_path: Path) -> None:
    """A segment that fits in all else and has another engine's mark is damage, with its file."""
    folder = traded.copy_files(tmp_path)
    shutil.copy(traded.folder / IDENTITY_NAME, folder)
    assert traded.verify(folder=folder).words == []
    segment = list_segments(traded.settings(folder).journal_dir(0))[3]
    with segment.path.open("r+b") as file:
        file.write(dataclasses.replace(segment.header, engine_mark=mark_of(folder) ^ 1).pack())
    (words,) = traded.verify(folder=folder).words
    assert (words["kind"], words["file"]) == ("journal_damaged", str(segment.path))
    assert str(words["message"]).startswith("a segment of another engine (its mark is ")


def test_files_and_database_of_two_engines_are_not_verified(traded: Traded, tmp_path: Path) -> None:
    """Nothing that is of two engines is compared: the command ends with 2 and both names."""
    folder = traded.copy_files(tmp_path)
    (folder / IDENTITY_NAME).write_text(str(uuid.uuid4()))
    result = run_command("verify", "--data-dir", str(folder), "--dsn", traded.dsn, **SETTINGS)
    assert result.returncode == 2, result.stdout
    assert result.stdout == ""
    assert f"{folder / IDENTITY_NAME} says that it is of engine" in result.stderr
    assert "they do not belong together" in result.stderr


def test_journal_that_begins_later_is_verified_from_there(traded: Traded, tmp_path: Path) -> None:
    """With old segments gone the replay begins at the oldest snapshot, says so, and finds what was altered since."""
    folder = traded.copy_files(tmp_path)
    settings = traded.settings(folder)
    for segment in list_segments(settings.journal_dir(0))[:3]:
        segment.path.unlink()
    first = list_segments(settings.journal_dir(0))[0].header.first_command_sequence
    snapshots = [entry for entry in list_snapshots(settings.snapshot_dir(0)) if entry[1] >= first]
    report = traded.verify(folder=folder)
    assert report.words == []
    (shard,) = report.shards
    assert (shard.from_command, shard.from_event) == snapshots[0][1:]
    assert report.unseen == [f"shard 0: verified from event {shard.from_event} on; what is older was not replayed"]
    assert shard.orders > shard.live_orders > 0
    early = "UPDATE trades SET price_ticks = price_ticks + 1 WHERE id = (SELECT min(id) FROM trades)"
    late = "UPDATE trades SET price_ticks = price_ticks + 1 WHERE id = (SELECT max(id) FROM trades)"
    assert places(after(traded, early, folder=folder)) == set()
    assert places(after(traded, late, folder=folder)) == {("trade_differs", "trades", "price_ticks")}
    live = f"UPDATE orders SET remaining_lots = remaining_lots + 1 WHERE id = {LIVE}"
    assert ("order_differs", "orders", "remaining_lots") in places(after(traded, live, folder=folder))
    assert places(after(traded, f"DELETE FROM orders WHERE id = {LIVE}", folder=folder)) == {
        ("order_missing", "orders", None),
        ("book_order_unknown", None, None),
    }


def test_from_the_newest_snapshot_only_what_is_newer_is_replayed(traded: Traded) -> None:
    """``--from-snapshot`` begins at the newest snapshot: quick, and it says what it has not replayed."""
    report = traded.verify(from_snapshot=True)
    (shard,) = report.shards
    assert (report.words, shard.from_event, shard.trades) == ([], settled_of(traded), 0)
    assert shard.orders == shard.live_orders > 0


def test_partition_that_retention_dropped_is_said_and_no_difference(traded: Traded) -> None:
    """Trades older than what is kept are counted as not seen; where all is kept, their loss is a difference."""
    with psycopg.connect(traded.dsn) as connection:
        ((name,),) = connection.execute("SELECT tableoid::regclass::text FROM trades ORDER BY id LIMIT 1").fetchall()
        ((count,),) = connection.execute(f"SELECT count(*) FROM {name}").fetchall()
    with traded.copy_database() as dsn:
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute(f"DROP TABLE {name}")
        kept = traded.verify(dsn=dsn, keeper={"retain_trades_days": 1})
        assert (
            f"shard 0: {count} trades of the journal are older than what keeper.retain_trades_days keeps" in kept.unseen
        )
        assert {words["kind"] for words in kept.words} & {"trade_missing"} == set()
        lost = traded.verify(dsn=dsn, keeper={"retain_trades_days": 0})
        assert [words["kind"] for words in lost.words].count("trade_missing") == count


@pytest.mark.parametrize("chunk", [40, 500])
def test_pieces_in_which_events_come_change_nothing(
    traded: Traded, monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    """Orders that live over many pieces are followed through all of them; memory holds a piece, and what lives."""
    whole = traded.verify().shards[0]
    monkeypatch.setattr(walk, "CHUNK_EVENTS", chunk)
    report = traded.verify()
    assert (report.words, report.unseen) == ([], [])
    assert dataclasses.replace(report.shards[0], duration_s=0) == dataclasses.replace(whole, duration_s=0)
    later = traded.verify(from_snapshot=True)
    assert later.words == []
    statement = "UPDATE orders SET filled_notional_units = filled_notional_units + 1 WHERE id = " + FILLED
    found = after(traded, statement)
    assert places(found) == {("order_differs", "orders", "filled_notional_units")}


def test_what_cannot_be_looked_at_is_told_from_a_difference(traded: Traded, tmp_path: Path) -> None:
    """Without a database nothing is verified; a journal without a beginning ends the command with 2 and what to do."""
    folder = traded.copy_files(tmp_path / "copy")
    nowhere = load_settings(None, {"engine.data_dir": str(folder), "database.dsn": f"host={tmp_path} dbname=nobody"})
    with pytest.raises(CommandError, match=r"the database cannot be read: .* see that it runs and try again"):
        look(nowhere, None, from_snapshot=False)
    with pytest.raises(CommandError, match=r"there is no shard 7: .*shard-7 does not exist"):
        look(nowhere, 7, from_snapshot=False)
    list_segments(traded.settings(folder).journal_dir(0))[0].path.unlink()
    for path, *_ in list_snapshots(traded.settings(folder).snapshot_dir(0)):
        path.unlink()
    result = run_command("verify", "--data-dir", str(folder), "--dsn", traded.dsn, **SETTINGS)
    assert result.returncode == 2
    assert "Remedy: put older segments or snapshots back from a backup" in result.stderr


def test_command_ends_with_one_and_names_what_differs(traded: Traded) -> None:
    """A difference ends the command with 1 and is a line of its own."""
    with traded.copy_database() as dsn:
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute(f"UPDATE trades SET taker_fee_units = 1 WHERE id = {TRADE}")
        result = run_command("verify", "--data-dir", str(traded.folder), "--dsn", dsn, **SETTINGS)
    assert result.returncode == 1
    assert "\ntrade_differs: shard=0 sequence=" in result.stdout
    assert "column=taker_fee_units" in result.stdout
