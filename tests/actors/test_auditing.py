"""The keeper's look at the audit log: it sees what is new, keeps what it found, and sees the old again in time."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from tests.engines import READY_TIMEOUT_S, Engine, running_engine
from tests.storage.audit_entries import make_entry

from tradeengine.actors import auditing
from tradeengine.actors.auditing import AuditWatch
from tradeengine.ipc.metric_names import ROLE_METRICS
from tradeengine.ipc.metrics import MetricPage
from tradeengine.storage.audit import append_entries
from tradeengine.storage.audit_anchors import Anchors


class Watched:
    """A log of ten anchored rows that may be changed, and a watch over it."""

    def __init__(self, connection: psycopg.Connection, folder: Path) -> None:
        self.connection, self.anchors = connection, Anchors(folder)
        role = ROLE_METRICS["keeper"]
        self.page = MetricPage.create("keeper", "keeper", role.counters, role.gauges, role.histograms)
        self.watch = AuditWatch(folder, self.page)
        for _ in range(10):
            self.act()
        connection.execute("ALTER TABLE audit DISABLE TRIGGER ALL")
        connection.execute("GRANT ALL ON audit TO CURRENT_USER")

    def act(self) -> None:
        """Add a row."""
        self.anchors.add(append_entries(self.connection, [make_entry()])[0])

    def tamper(self, row_id: int, actor: str = "nobody") -> None:
        """Alter a row."""
        self.connection.execute("UPDATE audit SET actor = %s WHERE id = %s", (actor, row_id))

    def is_broken(self) -> bool:
        """Look, and read what the metric page says."""
        self.watch.look(self.connection)
        return bool(self.page.snapshot().gauges["audit_broken"])


FORGER = """
CREATE FUNCTION forge() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.actor := 'nobody'; RETURN NEW; END $$;
CREATE TRIGGER forge BEFORE INSERT ON audit FOR EACH ROW EXECUTE FUNCTION forge();
"""
"""Alters rows as they come: one altered later may have been looked at before."""


@pytest.mark.long
def test_keeper_asks_by_itself(data_dir: Path) -> None:
    """The keeper of an engine sees a new row that is not as it was sealed, and that it is again."""
    environment = {"TRADEENGINE_KEEPER_AUDIT_INTERVAL_S": "0.1"}
    with (
        running_engine(data_dir, environment=environment) as engine,
        psycopg.connect(engine.dsn, autocommit=True) as connection,
        engine.client("root", "admin") as client,
    ):
        connection.execute(FORGER)
        assert client.post("/admin/users/alice/suspend", json={"reason": "x"}).status_code == 200
        _wait_for(engine, 1)
        connection.execute("ALTER TABLE audit DISABLE TRIGGER ALL")
        connection.execute("UPDATE audit SET actor = 'root'")
        _wait_for(engine, 0)


def _wait_for(engine: Engine, is_broken: int) -> None:
    deadline_s = time.monotonic() + READY_TIMEOUT_S
    wanted = f'tradeengine_keeper_audit_broken{{actor="keeper"}} {is_broken}'
    with engine.client() as client:
        while wanted not in client.get(f"{engine.url}/metrics").text:
            assert time.monotonic() < deadline_s
            time.sleep(0.02)


@pytest.fixture
def watched(connection: psycopg.Connection, tmp_path: Path) -> Iterator[Watched]:
    """Give a log under watch."""
    watched = Watched(connection, tmp_path)
    yield watched
    watched.page.close()


def test_new_rows_are_looked_at(watched: Watched) -> None:
    """A whole log is whole; a new row that was altered is found, and stays found until it is as it was."""
    assert not watched.is_broken()
    watched.act()
    assert not watched.is_broken()
    watched.act()
    watched.tamper(12)
    assert watched.is_broken()
    watched.act()
    assert watched.is_broken()
    watched.tamper(12, "root")
    assert not watched.is_broken()


def test_old_rows_are_looked_at_once_a_day(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    """An old row that is altered is found by the day's walk over everything, not by a look at what is new."""
    assert not watched.is_broken()
    watched.tamper(3)
    assert not watched.is_broken()
    tomorrow_s = time.monotonic() + auditing.WHOLE_INTERVAL_S
    monkeypatch.setattr(time, "monotonic", lambda: tomorrow_s)
    assert watched.is_broken()


def test_end_that_was_cut_off_is_found_at_once(watched: Watched) -> None:
    """Rows that are gone from the end are missed at the next look, though nothing new has come."""
    assert not watched.is_broken()
    watched.connection.execute("DELETE FROM audit WHERE id > 8")
    assert watched.is_broken()


def test_anchors_that_cannot_be_read_are_told(watched: Watched) -> None:
    """Without anchors to compare with the log does not count as whole."""
    watched.anchors.path.unlink()
    watched.anchors.path.mkdir()
    assert watched.is_broken()
