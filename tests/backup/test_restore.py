"""Backups of an engine that trades, its actors killed meanwhile, restored elsewhere and compared to the unit."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
from tests.backup.venue import SHARDS, Maker, Rows, Venue, before, cursors, fundings, make_venue, order_ids, rows_of
from tests.e2e.users import connect_database, make_user
from tests.engines import PROGRAM, SMALL, Engine, run_command, running_engine, wait_restarted
from tests.faults.load import LEDGER_CLAIMS
from tests.verified import assert_verified

from tradeengine.cli.backup import run_verify
from tradeengine.cli.errors import CommandError
from tradeengine.cli.restore import run_restore
from tradeengine.settings_files import load_settings
from tradeengine.storage.backup.folder import seal
from tradeengine.storage.directory import find_account, resolve_account
from tradeengine.storage.embedded import open_embedded, stop_embedded
from tradeengine.storage.funding import FundingKind, request_funding, wait_funding

ENVIRONMENT = {"TRADEENGINE_JOURNAL_SEGMENT_BYTES": "65536"}
BUSY = 40


@dataclass
class Told:
    """What users had been told when a backup was asked for."""

    folder: Path
    orders: set[str]
    fundings: set[str]


@dataclass
class Source:
    """An engine that traded and was killed as a power cut would, its backups, and what its database said at the end."""

    data_dir: Path
    first: Told
    second: Told
    venue: Venue
    rows: Rows
    fundings: dict[str, Any]
    balances: list[tuple[Any, ...]]
    ends: dict[int, int]
    names: dict[int, str]
    newcomer_id: int
    """An account that was made after the first backup, and traded."""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Source]:
    """Trade on two shards, take two backups meanwhile, kill around them, and kill everything at the end."""
    folder = tmp_path_factory.mktemp("source")
    with running_engine(folder / "data", SHARDS, ENVIRONMENT) as engine:
        venue = make_venue(engine)
        with venue.trading():
            venue.wait(BUSY)
            first = take_backup(venue, folder / "first", ["matcher-0", "settlement"])
            venue.wait(BUSY)
            newcomer = make_user(engine, "newcomer", {"USDT": "100000", "BTC": "10"})
            newcomer.place(symbol="BTC/USDT", quantity="0.1", price="41000")
            second = take_backup(venue, folder / "second", ["matcher-1", "risk"], "--base", str(first.folder))
        with venue.trading(money=False):
            venue.wait(BUSY)
        assert engine.command("reconcile").returncode == 0
        with connect_database(engine) as connection:
            ends = cursors(connection)
            rows = rows_of(connection)
            moved = fundings(connection)
            balances = balances_of(connection)
            names = dict(connection.execute("SELECT id, name FROM accounts").fetchall())
            newcomer_id = find_account(connection, newcomer.name)
            assert newcomer_id is not None
        newcomer.http.close()
        for pid in (*engine.actors().values(), engine.process.pid):
            os.kill(pid, signal.SIGKILL)
        engine.wait()
        stop_embedded(folder / "data")
    yield Source(folder / "data", first, second, venue, rows, moved, balances, ends, names, newcomer_id)
    for trader in venue.traders:
        if hasattr(trader, "user"):
            trader.user.http.close()


def take_backup(venue: Venue, target: Path, victims: list[str], *options: str) -> Told:
    """Take a backup while actors are killed; the order of backup, kills and trades is left to chance."""
    told = Told(target, venue.acknowledged(), venue.settled())
    line = [*PROGRAM, "backup", str(target), *options, "--data-dir", str(venue.engine.data_dir), "--json"]
    backup = subprocess.Popen(
        line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **SMALL, **ENVIRONMENT}
    )
    for name in victims:
        pid = venue.engine.actors()[name]
        venue.engine.kill_actor(name)
        wait_restarted(venue.engine, name, pid)
    out, errors = backup.communicate(timeout=100)
    assert backup.returncode == 0, errors
    assert json.loads(out)["folder"] == str(target)
    return told


def balances_of(connection: psycopg.Connection[Any]) -> list[tuple[Any, ...]]:
    """All balances that are not zero."""
    query = (
        "SELECT name, asset_id, total_units FROM balances JOIN accounts ON id = account_id "
        "WHERE total_units <> 0 ORDER BY 1, 2"
    )
    return connection.execute(query).fetchall()


def restore(told: Told, data_dir: Path, *options: str) -> dict[str, Any]:
    """Restore a backup; returns the report."""
    result = run_command("restore", str(told.folder), "--data-dir", str(data_dir), "--json", *options)
    assert result.returncode == 0, result.stderr
    report: dict[str, Any] = json.loads(result.stdout)
    return report


def assert_reconciled(engine: Engine) -> None:
    """Everything is settled, nothing differs, and the ledger keeps its claims."""
    assert_verified(engine, ENVIRONMENT, whole=False)
    result = engine.command("reconcile")
    assert result.returncode == 0, result.stdout + result.stderr
    with connect_database(engine) as connection:
        for claim, query in LEDGER_CLAIMS.items():
            assert connection.execute(query).fetchall() == [], claim


@pytest.mark.parametrize("which", ["first", pytest.param("second", marks=pytest.mark.long)])
def test_both_lost(source: Source, tmp_path: Path, which: str) -> None:
    """A restored engine has all that was acknowledged before, equals the source at the cut, and trades on."""
    told: Told = getattr(source, which)
    report = restore(told, tmp_path / "data")
    assert report["warnings"] == []
    with running_engine(tmp_path / "data", SHARDS, ENVIRONMENT) as engine:
        assert_reconciled(engine)
        assert engine.command("audit", "verify").returncode == 0
        with connect_database(engine) as connection:
            ends = cursors(connection)
            assert all(0 < ends[shard] < source.ends[shard] for shard in ends)
            assert told.orders <= order_ids(connection)
            found = fundings(connection)
            here = rows_of(connection)
        assert told.fundings <= {name for name, row in found.items() if row["status"] != "pending"}
        for name, row in found.items():
            if row["closed_at"] == source.fundings[name]["closed_at"]:
                assert row == source.fundings[name]
            assert (row["amount_units"], row["account_id"]) == tuple(
                source.fundings[name][field] for field in ("amount_units", "account_id")
            )
        # Row for row what the source said of the same events; orders that it touched later are other ones there.
        assert here["trades"] == before(source.rows["trades"], ends)
        assert here["postings"] == before(source.rows["postings"], ends)
        assert here["orders"] >= before(source.rows["orders"], ends)
        # The users' tokens are good here too: the secrets came along.
        maker = source.venue.traders[0]
        assert isinstance(maker, Maker)
        token = maker.user.http.headers["Authorization"]
        with engine.client() as client:
            order = {"symbol": "BTC/USDT", "side": "buy", "type": "limit", "quantity": "0.1", "price": "39000.00"}
            answer = client.post("/orders", json=order, headers={"Authorization": token})
            assert answer.status_code == 201, answer.text
            assert int(answer.json()["data"]["order"]["id"]) > max(map(int, told.orders))


@pytest.mark.long
@pytest.mark.timeout(300)
def test_only_the_database_lost(source: Source, tmp_path: Path) -> None:
    """An older database beside today's journals is brought forward to the unit: every trade, order and balance."""
    shutil.copytree(source.data_dir, tmp_path / "data", ignore=shutil.ignore_patterns("postgres", "*.sock"))
    # Nobody begins anew by mistake: accounts would get other people's orders.
    refused = run_command("up", "--port", "0", "--data-dir", str(tmp_path / "data"))
    assert refused.returncode == 1
    assert "the database is empty, but" in refused.stderr
    assert "tradeengine restore FOLDER --only database" in refused.stderr
    assert not (tmp_path / "data" / "postgres").exists()
    report = restore(source.second, tmp_path / "data", "--only", "database")
    assert report["unknown_accounts"] == []
    assert "under their references" in report["warnings"][0]
    with running_engine(tmp_path / "data", SHARDS, ENVIRONMENT) as engine:
        assert_reconciled(engine)
        with connect_database(engine) as connection:
            assert cursors(connection) == source.ends
            here = rows_of(connection)
            assert here == source.rows
            # What was deposited and withdrawn since is in no journal; under the same references it is done once.
            assert balances_of(connection) != source.balances
            repeat_fundings(connection, source)
            assert balances_of(connection) == source.balances
        assert_reconciled(engine)


def repeat_fundings(connection: psycopg.Connection[Any], source: Source) -> None:
    """Ask again for every deposit and withdrawal, as an operator does who does not know which are lost."""
    for row in sorted(source.fundings.values(), key=lambda row: int(row["id"])):
        request = request_funding(
            connection,
            FundingKind(row["kind"]),
            reference=row["reference"],
            account_id=resolve_account(connection, source.names[row["account_id"]], accounts_max=4096),
            asset_id=row["asset_id"],
            amount_units=row["amount_units"],
        )
        assert wait_funding(connection, request, timeout_s=30).status.value == row["status"]


def test_accounts_that_no_backup_knows(source: Source, tmp_path: Path) -> None:
    """An account that was made since the backup and traded has lost its name; that is told, and its id is nobody's."""
    shutil.copytree(source.data_dir, tmp_path / "data", ignore=shutil.ignore_patterns("postgres", "*.sock"))
    report = restore(source.first, tmp_path / "data", "--only", "database")
    assert report["unknown_accounts"] == [source.newcomer_id]
    assert "their names are lost" in report["warnings"][1]
    assert "the audit log ends" in report["warnings"][2]
    with open_embedded(tmp_path / "data") as server, psycopg.connect(server.dsn, autocommit=True) as connection:
        assert resolve_account(connection, "somebody new", accounts_max=4096) > source.newcomer_id
        query = "SELECT name FROM accounts WHERE id = %s"
        assert connection.execute(query, (source.newcomer_id,)).fetchone() == (f"*unknown-{source.newcomer_id}*",)


@pytest.mark.parametrize("kind", ["flipped", "missing", "format", "kernel", "migration"])
def test_bad_backup_is_refused(source: Source, tmp_path: Path, kind: str) -> None:
    """A damaged backup, and one of a newer program, are refused before anything is written: file, found, expected."""
    folder = tmp_path / "backup"
    shutil.copytree(source.first.folder, folder)
    expected = spoil(folder, kind)
    settings = load_settings(None, {"engine.data_dir": str(tmp_path / "data")})
    refuse: list[Callable[[], None]] = [
        lambda: run_verify(folder, as_json=False),
        lambda: run_restore(settings, folder, only=None),
    ]
    for call in refuse:
        with pytest.raises(CommandError) as refusal:
            call()
        assert expected in str(refusal.value)
        assert "\n" not in str(refusal.value)
    assert not (tmp_path / "data").exists()


def spoil(folder: Path, kind: str) -> str:
    """Spoil a backup; returns what must be said of it."""
    journal = next((folder / "journal").rglob("*.journal"))
    if kind == "flipped":
        content = bytearray(journal.read_bytes())
        content[len(content) // 2] ^= 1
        journal.write_bytes(content)
        return f"{journal.relative_to(folder)}: its bytes have changed"
    if kind == "missing":
        journal.unlink()
        return f"{journal.relative_to(folder)}: missing"
    manifest = json.loads((folder / "manifest.json").read_text())
    if kind == "format":
        manifest["format"] = 2
        said = "manifest.json is of format 2, this program reads format 1"
    elif kind == "kernel":
        manifest["kernel_version"] = 99
        said = "journals of kernel version 99, this program reads 1, 2"
    else:
        manifest["migrations"].append("9999.of_tomorrow")
        said = "migrations that this program does not know (9999.of_tomorrow)"
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (folder / "SHA256SUMS").unlink()
    seal(folder)
    return said


def test_target_that_is_in_use_is_refused(source: Source, tmp_path: Path) -> None:
    """A data directory with anything in it is refused, nothing in it is touched, and it is said what to do."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "secret").write_text("mine")
    result = run_command("restore", str(source.first.folder), "--data-dir", str(tmp_path / "data"))
    assert result.returncode == 1
    assert "is not empty (secret)" in result.stderr
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["secret"]
    for data_dir, only, said in (
        (source.data_dir, "database", "has a database"),
        (tmp_path / "data", "database", "has no journals"),
        (tmp_path / "new", "files", "the embedded one was in the data directory"),
    ):
        settings = load_settings(None, {"engine.data_dir": str(data_dir)})
        with pytest.raises(CommandError, match=said):
            run_restore(settings, source.first.folder, only=only)


@pytest.mark.long
@pytest.mark.timeout(300)
def test_half_restored_directory_does_not_start(source: Source, tmp_path: Path) -> None:
    """After a restore that was killed no engine starts; the same restore again succeeds."""
    line = [*PROGRAM, "restore", str(source.first.folder), "--data-dir", str(tmp_path / "data")]
    process = subprocess.Popen(line, env={**os.environ, **SMALL, **ENVIRONMENT})
    deadline_s = time.monotonic() + 60
    while not (tmp_path / "data" / "restoring" / "postgres" / "PG_VERSION").exists():
        assert time.monotonic() < deadline_s
        assert process.poll() is None
        time.sleep(0.005)
    process.kill()
    process.wait()
    result = run_command("up", "--port", "0", "--data-dir", str(tmp_path / "data"))
    assert result.returncode == 1
    assert "was restored by half" in result.stderr
    stop_embedded(tmp_path / "data" / "restoring")
    restore(source.first, tmp_path / "data")


def test_full_disk_leaves_no_backup(engine: Engine, tmp_path: Path) -> None:
    """When a file cannot grow the backup fails in one line, and nothing that looks like one is left."""
    for limit in (1000, 40_000):
        line = [*PROGRAM, "backup", str(tmp_path / "backup"), "--data-dir", str(engine.data_dir)]
        result = subprocess.run(
            ["prlimit", f"--fsize={limit}", *line],
            capture_output=True,
            text=True,
            # Not measured by coverage, which could not write its own files either.
            env={name: value for name, value in (os.environ | SMALL).items() if not name.startswith("COVERAGE")},
            check=False,
        )
        assert result.returncode == 1, result.stderr
        assert result.stderr.startswith("tradeengine: ")
        assert result.stderr.count("\n") == 1
        assert list(tmp_path.iterdir()) == []


def test_base_of_another_schema_is_refused(engine: Engine, tmp_path: Path) -> None:
    """Once the database was migrated an earlier backup is no base any more, and nothing is left of the attempt."""
    assert engine.command("backup", str(tmp_path / "base")).returncode == 0
    manifest = json.loads((tmp_path / "base" / "manifest.json").read_text())
    manifest["migrations"].pop()
    (tmp_path / "base" / "manifest.json").write_text(json.dumps(manifest))
    (tmp_path / "base" / "SHA256SUMS").unlink()
    seal(tmp_path / "base")
    result = engine.command("backup", str(tmp_path / "next"), "--base", str(tmp_path / "base"))
    assert result.returncode == 1
    assert "the database was migrated since" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["base"]


@pytest.mark.long
@pytest.mark.timeout(300)
def test_data_directory_lost_beside_a_database(make_database: Callable[[str], str], tmp_path: Path) -> None:
    """Journals go back beside a database outside unless it is ahead of them; then it is said where both stand."""
    dsn = make_database("template0")
    lost, backup = tmp_path / "lost", tmp_path / "backup"
    order = {"symbol": "BTC/USDT", "side": "buy", "type": "limit", "quantity": "0.5", "price": "40000.00"}
    with running_engine(lost, ["--dsn", dsn]) as engine:
        assert run_command("deposit", "ann", "USDT", "100000", "--data-dir", str(lost), **outside(dsn)).returncode == 0
        with engine.client("ann") as client:
            assert client.post("/orders", json=order).status_code == 201
        result = run_command("backup", str(backup), "--data-dir", str(lost), "--dsn", dsn)
        assert result.returncode == 0, result.stderr
    told = Told(backup, set(), set())
    assert restore(told, tmp_path / "new", "--dsn", dsn, "--only", "files")["restored"][0] == "journals"
    with running_engine(tmp_path / "new", ["--dsn", dsn]) as engine:
        assert run_command("reconcile", "--data-dir", str(tmp_path / "new"), **outside(dsn)).returncode == 0
        with engine.client("ann") as client:
            assert len(client.get("/orders?status=open").json()["data"]) == 1
            assert client.post("/orders", json=order).status_code == 201
    # Now the database has an event that the backup's journal does not have.
    result = run_command("restore", str(backup), "--data-dir", str(tmp_path / "third"), "--dsn", dsn, "--only", "files")
    assert result.returncode == 1
    assert "the database is newer than the backup's journals (shard 0: settled up to event" in result.stderr
    assert "restore the whole backup into a new one" in result.stderr
    # An engine with an empty directory refuses the database, too, and names its cursor.
    result = run_command("up", "--port", "0", "--data-dir", str(tmp_path / "third"), "--dsn", dsn)
    assert result.returncode == 1
    assert "lies behind the journal's end, event 0" in result.stderr
    assert "tradeengine restore" in result.stderr
    # And into that database nothing is restored.
    result = run_command("restore", str(backup), "--data-dir", str(tmp_path / "fourth"), "--dsn", dsn)
    assert result.returncode == 1
    assert "the database is not empty" in result.stderr


def outside(dsn: str) -> dict[str, str]:
    """Name a database by the environment, for commands without the option."""
    return {"TRADEENGINE_DATABASE_DSN": dsn}
