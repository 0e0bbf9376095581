"""Halves of two engines: no command starts with them, compares them, copies them or restores one beside the other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psycopg
import pytest
from tests.engines import run_command, running_engine

from tradeengine.cli.errors import CommandError
from tradeengine.cli.restore import run_restore
from tradeengine.settings_files import load_settings
from tradeengine.storage.identity import IDENTITY_NAME, bind_identity, read_identity

APART: Final = "they do not belong together. Remedy: "


@dataclass(frozen=True)
class Pair:
    """Data directories of two engines that are stopped, and a backup of the first."""

    first: Path
    second: Path
    backup: Path


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """Run two engines for a moment, and back one of them up."""
    folder = tmp_path_factory.mktemp("pair")
    made = Pair(folder / "first", folder / "second", folder / "backup")
    for data_dir in (made.first, made.second):
        with running_engine(data_dir) as engine:
            engine.deposit("ann", "USDT", "100")
            if data_dir == made.first:
                result = engine.command("backup", str(made.backup))
                assert result.returncode == 0, result.stderr
    return made


@pytest.mark.long
def test_database_of_another_engine_is_refused_by_each_command(pair: Pair, tmp_path: Path) -> None:
    """With the first one's database in the second's directory nothing starts, is compared or copied."""
    own, foreign = pair.second / "postgres", pair.first / "postgres"
    own.rename(tmp_path / "own")
    foreign.rename(own)
    for line, status in (
        (("up", "--port", "0"), 1),
        (("verify",), 2),
        (("backup", str(tmp_path / "backup")), 1),
    ):
        result = run_command(*line, "--data-dir", str(pair.second))
        assert (result.returncode, result.stderr.count("\n")) == (status, 1), result.stderr
        assert APART in result.stderr
        assert f"{pair.second / IDENTITY_NAME} says that it is of engine {read_identity(pair.second)}" in result.stderr
        assert f"is of engine {read_identity(pair.first)}" in result.stderr
    assert not (tmp_path / "backup").exists()
    own.rename(foreign)
    (tmp_path / "own").rename(own)


def test_journal_of_another_engine_is_not_backed_up(pair: Pair, tmp_path: Path) -> None:
    """With the first one's journal in the second's place there is nothing that a backup would be good for."""
    own, foreign = (data_dir / "journal" / "shard-0" for data_dir in (pair.second, pair.first))
    own.rename(tmp_path / "own")
    foreign.rename(own)
    result = run_command("backup", str(tmp_path / "backup"), "--data-dir", str(pair.second))
    own.rename(foreign)
    (tmp_path / "own").rename(own)
    assert result.returncode == 1
    assert f"journal damaged: {own}/" in result.stderr
    assert "a segment of another engine" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_backup_of_another_engine_is_no_base(pair: Pair, tmp_path: Path) -> None:
    """Its database with this engine's journals would be no backup of either."""
    result = run_command("backup", str(tmp_path / "next"), "--base", str(pair.backup), "--data-dir", str(pair.second))
    assert result.returncode == 1
    assert f"{pair.backup} says that it is of engine {read_identity(pair.first)}" in result.stderr
    assert f"{APART}name an earlier backup of this engine" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_half_of_a_backup_is_not_put_beside_another_engines(
    pair: Pair, make_database: Callable[[str], str], tmp_path: Path
) -> None:
    """Neither the database nor the files of a backup are restored beside the other half of another engine."""
    (pair.second / "postgres").rename(tmp_path / "own")
    settings = load_settings(None, {"engine.data_dir": str(pair.second)})
    with pytest.raises(CommandError, match=f"{APART}restore a backup of the engine whose data directory this is"):
        run_restore(settings, pair.backup, only="database")
    assert not (pair.second / "postgres").exists()
    (tmp_path / "own").rename(pair.second / "postgres")
    dsn = make_database("tradeengine")
    (tmp_path / "stranger").mkdir()
    with psycopg.connect(dsn, autocommit=True) as connection:
        bind_identity(connection, tmp_path / "stranger")
    settings = load_settings(None, {"engine.data_dir": str(tmp_path / "new"), "database.dsn": dsn})
    with pytest.raises(CommandError, match=f"{APART}restore a backup of the engine whose database this is"):
        run_restore(settings, pair.backup, only="files")
    assert not (tmp_path / "new").exists()


@pytest.mark.long
def test_restored_halves_are_of_one_engine(pair: Pair, tmp_path: Path) -> None:
    """A whole restore brings the identity in both halves; it starts, and says of itself what the first one did."""
    result = run_command("restore", str(pair.backup), "--data-dir", str(tmp_path / "new"))
    assert result.returncode == 0, result.stderr
    with running_engine(tmp_path / "new") as engine:
        assert engine.command("verify").returncode == 0
    assert read_identity(tmp_path / "new") == read_identity(pair.first)
