"""What a start finds out before any ring exists."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import structlog
from tests.postgres import make_database, postgres

from tradeengine.actors.preparing import Prepared, prepare
from tradeengine.settings_files import load_settings

__all__ = ["make_database", "postgres"]


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
