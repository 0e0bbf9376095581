"""The audit log when things break: nothing happens unrecorded, nothing is recorded twice, whoever dies when."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import psycopg
import pytest
from tests.engines import READY_TIMEOUT_S, Engine, database_away, run_command, running_engine, wait_restarted

CRASH = "TRADEENGINE_CRASH_AT"


def rows_of(client: httpx2.Client, **query: Any) -> list[dict[str, Any]]:
    """List the log, the oldest first."""
    answer = client.get("/admin/audit", params=query)
    assert answer.status_code == 200, answer.text
    rows: list[dict[str, Any]] = answer.json()["data"]
    return rows[::-1]


def until_recorded(client: httpx2.Client, count: int, **query: Any) -> list[dict[str, Any]]:
    """Wait until the log has so many rows."""
    deadline_s = time.monotonic() + READY_TIMEOUT_S
    while len(rows := rows_of(client, **query)) < count:
        assert time.monotonic() < deadline_s, rows
        time.sleep(0.05)
    return rows


def suspend(engine: Engine, user: str) -> None:
    """Suspend a user by a front that may die over it."""
    with engine.client("root", "admin") as client:
        try:
            client.post(f"/admin/users/{user}/suspend", json={"reason": "x"}, headers={"X-Request-ID": f"id-{user}"})
        except httpx2.TransportError:
            return


def is_suspended(client: httpx2.Client, user: str) -> bool:
    """Look at a user; one that nobody knows is not suspended."""
    answer = client.get(f"/admin/limits/user/{user}")
    return bool(answer.status_code == 200 and answer.json()["data"]["suspended"])


@pytest.mark.long
@pytest.mark.parametrize(
    ("point", "outcome", "happened"),
    [
        ("front.after_audit_begin", "unknown", False),
        ("front.before_audit_end", "unknown", True),
        ("front.before_anchor", "ok", True),
    ],
)
def test_front_killed_in_an_action(point: str, outcome: str, happened: bool, data_dir: Path) -> None:
    """A front that is killed before, in or after an action leaves one row of it, which does not say more than is so."""
    with running_engine(data_dir, environment={CRASH: point}) as engine:
        first_pid = engine.actors()["front-0"]
        suspend(engine, "carol")
        wait_restarted(engine, "front-0", first_pid)
        with engine.client("root", "admin") as client:
            (row,) = until_recorded(client, 1)
            assert (row["action"], row["target"], row["outcome"]) == ("suspend_user", "carol", outcome)
            assert row["request_id"] == "id-carol"
            assert is_suspended(client, "carol") is happened
        suspend(engine, "dave")
        with engine.client("root", "admin") as client:
            rows = until_recorded(client, 2)
        assert [(row["target"], row["outcome"]) for row in rows] == [("carol", outcome), ("dave", "ok")]
        assert engine.command("audit", "verify").returncode == 0


@pytest.fixture(scope="module")
def venue(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """Run an engine of two fronts whose database may go away."""
    with running_engine(tmp_path_factory.mktemp("audited"), ["--fronts", "2"]) as running:
        yield running


@pytest.mark.long
def test_halt_while_the_database_is_away(venue: Engine) -> None:
    """Halts work without the database and are in the log once it is back: in their order, none lost, none twice.

    A front is killed meanwhile, so what it had written down is brought in by the next one.
    """
    symbols = ["BTC/USDT", "ETH/USDT", "SOL/USDT", "XRP/USDT"]
    with venue.client("halter", "admin") as client:
        with database_away(venue):
            for number, symbol in enumerate(symbols):
                path = f"/admin/trading/halt/{symbol.replace('/', '-')}"
                headers = {"X-Request-ID": f"halt-{number}"}
                answer = client.post(path, json={"reason": "database lost"}, headers=headers)
                assert answer.status_code == 200, answer.text
            for name in ("front-0", "front-1"):
                first_pid = venue.actors()[name]
                venue.kill_actor(name)
                while venue.actors().get(name, first_pid) == first_pid:
                    time.sleep(0.02)
        rows = _until_answered(client, len(symbols), actor="halter")
        assert [row["request_id"] for row in rows] == [f"halt-{number}" for number in range(len(symbols))]
        assert [(row["target"], row["outcome"]) for row in rows] == [(symbol, "ok") for symbol in symbols]
        assert [row["after"]["status"] for row in rows] == ["halted"] * len(symbols)
        for symbol in symbols:
            path = f"/admin/trading/resume/{symbol.replace('/', '-')}"
            assert client.post(path, json={"reason": "it is back"}).status_code == 200
        assert len(_until_answered(client, 2 * len(symbols), actor="halter")) == 2 * len(symbols)
    assert venue.command("audit", "verify").returncode == 0


def _until_answered(client: httpx2.Client, count: int, **query: Any) -> list[dict[str, Any]]:
    """Wait for rows while front and database come back."""
    deadline_s = time.monotonic() + READY_TIMEOUT_S
    while True:
        assert time.monotonic() < deadline_s
        try:
            answer = client.get("/admin/audit", params=query)
        except httpx2.TransportError:
            continue
        if answer.status_code == 200 and len(answer.json()["data"]) >= count:
            rows: list[dict[str, Any]] = answer.json()["data"]
            return rows[::-1]
        time.sleep(0.05)


def test_action_that_cannot_be_recorded_is_not_done(venue: Engine) -> None:
    """Where nothing can be written down an action is refused and not done; it works again once there is a place."""
    with venue.client("root", "admin") as client:
        # A front opens its file when it starts; the next one finds something else in its place.
        folder, away = venue.data_dir / "audit", venue.data_dir / "audit.away"
        folder.rename(away)
        folder.write_text("not a folder")
        for name in ("front-0", "front-1"):
            first_pid = venue.actors()[name]
            venue.kill_actor(name)
            wait_restarted(venue, name, first_pid)
        answer = client.post("/admin/users/erin/suspend", json={"reason": "x"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "AUDIT_UNAVAILABLE")
        assert not is_suspended(client, "erin")
        folder.unlink()
        away.rename(folder)
        assert client.post("/admin/users/erin/suspend", json={"reason": "x"}).status_code == 200
        assert [row["target"] for row in until_recorded(client, 1, actor="root")] == ["erin"]


@pytest.mark.long
def test_log_outlives_the_engine(data_dir: Path) -> None:
    """After all processes were killed and started again the log goes on where it was, and is whole."""
    with running_engine(data_dir) as engine:
        with engine.client("root", "admin") as client:
            client.post("/admin/users/frank/suspend", json={"reason": "x"})
        engine.stop(signal.SIGKILL)
    with running_engine(data_dir) as engine, engine.client("root", "admin") as client:
        client.post("/admin/users/frank/resume", json={"reason": "x"})
        rows = rows_of(client)
        assert [row["action"] for row in rows] == ["suspend_user", "resume_user"]
        assert rows[1]["previous_hash"] == rows[0]["hash"]
        with psycopg.connect(engine.dsn, autocommit=True) as connection:
            connection.execute("ALTER TABLE audit DISABLE TRIGGER audit_is_append_only")
            connection.execute("DELETE FROM audit WHERE id = 2")
    # Also of an engine that does not run.
    cut = engine.command("audit", "verify")
    assert cut.returncode == 1
    assert "its end is cut off" in cut.stdout


def test_nothing_to_look_at_is_status_2(tmp_path: Path) -> None:
    """Where there is no database verification says so, with a status of its own."""
    result = run_command("audit", "verify", "--data-dir", str(tmp_path / "nowhere"))
    assert (result.returncode, result.stdout) == (2, "")
