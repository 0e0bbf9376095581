"""What a start finds out before any ring exists."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import structlog

from tradeengine.actors.errors import StartError
from tradeengine.actors.preparing import Prepared, prepare
from tradeengine.core.records import command_dtype
from tradeengine.settings import Settings
from tradeengine.settings_files import load_settings
from tradeengine.storage.identity import mark_of
from tradeengine.storage.journal import Journal


def test_shards_without_symbols_are_told(make_database: Callable[[str], str], tmp_path: Path) -> None:
    """Symbols keep their shards: a start with more of them says which have none, one with the right number is quiet."""
    dsn = make_database("template1")

    def start(shards: int) -> tuple[Prepared, list[object]]:
        overrides = {"engine.data_dir": str(tmp_path), "engine.shards": shards, "database.dsn": dsn}
        settings = load_settings(overrides=overrides, environ={})
        with structlog.testing.capture_logs() as logs:
            prepared = prepare(settings, dsn, ())
        return prepared, [line["shards"] for line in logs if "shards without symbols" in line["event"]]

    prepared, told = start(2)
    assert {row.spec.shard for row in prepared.directory.symbols.values()} == {0, 1}
    assert told == []
    prepared, told = start(4)
    assert {row.spec.shard for row in prepared.directory.symbols.values()} == {0, 1}
    assert told == [[2, 3]]


def settings_of(data_dir: Path, dsn: str) -> Settings:
    """Give settings of an engine with two shards."""
    data_dir.mkdir(exist_ok=True)
    overrides = {"engine.data_dir": str(data_dir), "engine.shards": 2, "database.dsn": dsn}
    return load_settings(overrides=overrides, environ={})


def write_journal(settings: Settings, shard: int, engine_mark: int) -> None:
    """Leave a journal of eight commands."""
    with Journal.open(settings.journal_dir(shard), shard, 3, engine_mark=engine_mark) as journal:
        commands = np.zeros(8, command_dtype)
        commands["ring_sequence"] = np.arange(8)
        journal.append(commands)
        journal.sync()


def test_directory_and_database_of_two_engines_are_refused(make_database: Callable[[str], str], tmp_path: Path) -> None:
    """Once both have begun, neither directory starts with the other's database; each goes on with its own."""
    first = settings_of(tmp_path / "first", make_database("template1"))
    second = settings_of(tmp_path / "second", make_database("template1"))
    for settings in (first, second):
        prepare(settings, settings.database.dsn, ())
    for settings, other in ((first, second), (second, first)):
        with pytest.raises(StartError, match=r"they do not belong together\. Remedy: start with") as refusal:
            prepare(settings_of(settings.data_dir, other.database.dsn), other.database.dsn, ())
        assert str(settings.data_dir / "identity") in str(refusal.value)
        prepare(settings, settings.database.dsn, ())


def test_foreign_journal_is_left_out_of_the_start(make_database: Callable[[str], str], tmp_path: Path) -> None:
    """Rings open behind journals of the engine, and of earlier versions; with foreign ones alone there is no start."""
    settings = settings_of(tmp_path / "data", make_database("template1"))
    dsn = settings.database.dsn
    prepare(settings, dsn, ())
    own = mark_of(settings.data_dir)
    write_journal(settings, 0, 0)
    write_journal(settings, 1, own)
    assert [prepare(settings, dsn, ()).first_sequences[f"commands.{shard}"] for shard in range(2)] == [8, 8]
    (path,) = settings.journal_dir(1).glob("*.journal")
    path.unlink()
    write_journal(settings, 1, own ^ 2)
    with structlog.testing.capture_logs() as logs:
        first = prepare(settings, dsn, ()).first_sequences
    assert (first["commands.0"], first["commands.1"]) == (8, 0)
    (line,) = (line for line in logs if line["log_level"] == "error")
    assert line["shard"] == 1
    assert f"{path}: a segment of another engine (its mark is {own ^ 2:08x}, this engine's {own:08x})" in line["reason"]
    (path,) = settings.journal_dir(0).glob("*.journal")
    path.unlink()
    write_journal(settings, 0, own ^ 2)
    with pytest.raises(StartError, match=r"a segment of another engine .* Remedy: keep the other engine's files"):
        prepare(settings, dsn, ())
