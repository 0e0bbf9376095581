"""The schema: applied once, taken back whole, refused when it is not ours, in step with the records."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from enum import IntEnum
from pathlib import Path
from types import SimpleNamespace

import psycopg
import pytest

from tradeengine.core.records import OrderType, Reason, SelfTradePrevention, Side, TimeInForce, TradingState
from tradeengine.settings_files import package_folder
from tradeengine.storage.migrate import MigrationError, check_schema, check_server, migrate, roll_back

MakeDatabase = Callable[[str], str]


def test_every_file_has_its_rollback() -> None:
    """Each migration is numbered and has its way back beside it."""
    files = {path.name for path in package_folder("migrations").glob("*.sql")}
    forward = sorted(name for name in files if not name.endswith(".rollback.sql"))
    assert [name[:4] for name in forward] == [f"{number:04}" for number in range(1, len(forward) + 1)]
    assert files == {*forward, *(name.replace(".sql", ".rollback.sql") for name in forward)}


def test_applies_once(make_database: MakeDatabase) -> None:
    """The second run finds nothing to do."""
    dsn = make_database("template1")
    with pytest.raises(MigrationError, match=r"0001\.types"):
        check_schema(dsn)
    assert len(migrate(dsn)) > 0
    assert migrate(dsn) == []
    check_schema(dsn)


def test_rolls_back_to_nothing(make_database: MakeDatabase) -> None:
    """After every rollback no table and no type of ours is left, and all can be applied again."""
    dsn = make_database("template1")
    applied = migrate(dsn)
    assert roll_back(dsn) == applied[::-1]
    with psycopg.connect(dsn) as connection:
        tables = connection.execute(
            "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relname !~ 'yoyo'"
        ).fetchall()
        types = connection.execute(
            "SELECT typname FROM pg_type WHERE typnamespace = 'public'::regnamespace AND typname !~ 'yoyo'"
        ).fetchall()
    assert tables == []
    assert types == []
    assert migrate(dsn) == applied


def test_two_at_once_apply_each_once(make_database: MakeDatabase) -> None:
    """Two programs that migrate at the same time do not get into each other's way."""
    dsn = make_database("template1")
    with ThreadPoolExecutor() as executor:
        first, second = executor.map(migrate, [dsn, dsn])
    assert min(len(first), len(second)) == 0


def test_failed_migration_leaves_nothing(make_database: MakeDatabase, tmp_path: Path) -> None:
    """A file that fails half-way changes nothing and can be repaired and applied."""
    dsn = make_database("template1")
    file = tmp_path / "0001.broken.sql"
    file.write_text("CREATE TABLE half (value integer);\n\nSELECT nothing_of_that_name;\n")
    with pytest.raises(psycopg.errors.UndefinedColumn):
        migrate(dsn, tmp_path)
    file.write_text("CREATE TABLE half (value integer);\n")
    assert migrate(dsn, tmp_path) == ["0001.broken"]


def test_refuses_newer_database(dsn: str, tmp_path: Path) -> None:
    """A database with migrations that the program does not know is refused."""
    (tmp_path / "0001.types.sql").write_text("SELECT 1;\n")
    with pytest.raises(MigrationError, match="a newer version used it"):
        migrate(dsn, tmp_path)


def test_refuses_old_server() -> None:
    """Anything before PostgreSQL 14 is refused by version."""
    old = SimpleNamespace(info=SimpleNamespace(server_version=130_012))
    with pytest.raises(MigrationError, match="PostgreSQL 13 is too old"):
        check_server(old)  # type: ignore[arg-type]  # only the version is read


@pytest.mark.parametrize(
    ("name", "members"),
    [
        ("order_side", Side),
        ("order_type", OrderType),
        ("time_in_force", TimeInForce),
        ("self_trade_prevention", SelfTradePrevention),
        ("trading_state", TradingState),
    ],
)
def test_labels_are_those_of_records(connection: psycopg.Connection, name: str, members: type[IntEnum]) -> None:
    """An enumeration in PostgreSQL has the labels of its Python twin, in lower case and in its order."""
    assert _labels(connection, name) == [member.name.lower() for member in sorted(members)]


def test_every_reason_has_its_label(connection: psycopg.Connection) -> None:
    """Whatever reason an event of an order can carry can be stored; of a fenced shard only risk's refusals tell."""
    never = {Reason.NONE, Reason.SHARD_FENCED}
    assert _labels(connection, "reason") == [reason.name for reason in sorted(Reason) if reason not in never]


def _labels(connection: psycopg.Connection, name: str) -> list[str]:
    query = "SELECT enumlabel FROM pg_enum WHERE enumtypid = %s::regtype ORDER BY enumsortorder"
    return [label for (label,) in connection.execute(query, (name,))]
