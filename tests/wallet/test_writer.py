"""The writer's groups: what fails in one of them is its own affair."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
import trio
import trio.testing

from tradeengine.settings_files import package_folder
from tradeengine.storage.migrate import check_schema, migrate, roll_back
from tradeengine.wallet_service.store import SCHEMA, Entry, Kind, Line, Made, Outcome
from tradeengine.wallet_service.writer import WAITING_MAX, Writer
from tradeengine.web.database import Database
from tradeengine.web.errors import ApiError

FOLDER = package_folder("migrations") / "wallet"


@pytest.fixture
def database(dsn: str) -> Iterator[Database]:
    """Give a database with the service's schema."""
    migrate(dsn, FOLDER, SCHEMA)
    opened = Database(dsn, size=2, statement_timeout_ms=20_000, connect_timeout_s=10)
    yield opened
    opened.close()


def deposit(id_: str, amount: str = "1", taken: str = "") -> Entry:
    """Give an entry; it balances unless ``taken`` is another amount."""
    lines = (Line("", "X", "outside", f"-{taken or amount}"), Line("someone", "X", "available", amount))
    return Entry(Kind.DEPOSIT, id_, amount, lines)


async def make_at_once(writer: Writer, entries: list[Entry]) -> list[Made | Exception]:
    """Make entries as one group: all wait before the writer begins."""
    outcomes: list[Made | Exception] = [ApiError("INTERNAL", "never answered")] * len(entries)

    async def make(place: int, entry: Entry) -> None:
        try:
            outcomes[place] = await writer.make(entry)
        except (ApiError, psycopg.Error) as error:
            outcomes[place] = error

    async with trio.open_nursery() as running:
        async with trio.open_nursery() as asking:
            for place, entry in enumerate(entries):
                asking.start_soon(make, place, entry)
                if len(entries) < 10:
                    # Tasks that are started together run in any order.
                    await trio.testing.wait_all_tasks_blocked()
            await trio.testing.wait_all_tasks_blocked()
            running.start_soon(writer.run)
        running.cancel_scope.cancel()
    return outcomes


async def test_group_is_answered_in_order(database: Database) -> None:
    """In one group there may be the same request twice, the same id with two contents, and one that nobody can pay."""
    debit = (Line("poor", "X", "available", "-1"), Line("", "X", "outside", "1"))
    group = [deposit("a"), deposit("a"), deposit("a", "2"), Entry(Kind.RELEASE, "b", "", debit), deposit("c")]
    outcomes = await make_at_once(Writer(database), group)
    assert [made.outcome for made in outcomes if isinstance(made, Made)] == [
        Outcome.MADE, Outcome.REPEATED, Outcome.REUSED, Outcome.INSUFFICIENT, Outcome.MADE,
    ]  # fmt: skip
    assert len({made.number for made in outcomes[:3] if isinstance(made, Made)}) == 1


async def test_fault_of_one_is_not_the_others(database: Database, dsn: str) -> None:
    """An entry that the database refuses to take, because it does not balance, fails alone; the others are made."""
    outcomes = await make_at_once(Writer(database), [deposit("a"), deposit("b", "1", "2"), deposit("c")])
    assert [isinstance(made, Made) for made in outcomes] == [True, False, True]
    assert isinstance(outcomes[1], psycopg.errors.RaiseException)
    with psycopg.connect(dsn) as connection:
        assert connection.execute("SELECT amount FROM wallet.balances ORDER BY amount").fetchall() == [(-2,), (2,)]


async def test_hundreds_at_once(database: Database) -> None:
    """More than a group holds are made in several, all of them."""
    outcomes = await make_at_once(Writer(database), [deposit(str(number)) for number in range(500)])
    assert {made.outcome for made in outcomes if isinstance(made, Made)} == {Outcome.MADE}


async def test_too_many_waiting_are_refused(database: Database) -> None:
    """What waits is bounded: the next request is refused at once, and can be repeated."""
    outcomes = await make_at_once(Writer(database), [deposit("same")] * (WAITING_MAX + 10))
    refused = [outcome.code for outcome in outcomes if isinstance(outcome, ApiError)]
    assert refused == ["ENGINE_OVERLOADED"] * 10


async def test_database_that_is_away(dsn: str) -> None:
    """Without a database requests are answered, with a refusal that asks to be repeated."""
    away = Database("host=/nonexistent dbname=x", size=1, statement_timeout_ms=1000, connect_timeout_s=1)
    outcomes = await make_at_once(Writer(away), [deposit("a"), deposit("b")])
    assert [outcome.code for outcome in outcomes if isinstance(outcome, ApiError)] == ["DATABASE_UNAVAILABLE"] * 2


def test_shares_a_database_with_an_engine(dsn: str) -> None:
    """The service's schema and record of migrations lie beside an engine's, in either order, and come and go alone."""
    migrate(dsn, FOLDER, SCHEMA)
    migrate(dsn)
    assert migrate(dsn, FOLDER, SCHEMA) == []
    check_schema(dsn)
    roll_back(dsn)
    assert migrate(dsn, FOLDER, SCHEMA) == []
    assert migrate(dsn) != []
