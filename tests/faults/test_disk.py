"""A disk that fails under a running engine: the first error is final, nothing is seen early, and the rest goes on."""

from __future__ import annotations

import errno
import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import httpx2
import pytest
from tests.e2e.bank import admin_of
from tests.e2e.users import Json, User, make_user, sign_in
from tests.engines import PROGRAM, SMALL, Engine, running_engine, wait_ready, wait_restarted
from tests.faults.disk import Disk
from tests.faults.test_fences import FENCED, FUNDS, OPEN, TWO_SHARDS, bid, refused, wait_fenced

from tradeengine.ipc.client import ask
from tradeengine.storage.embedded import stop_embedded

JOURNAL: Final = "journal/shard-1/"
"""Of the symbol FENCED."""
RESTARTS: Final = 3


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Disk:
    """Make a disk whose calls can be made to fail."""
    return Disk(tmp_path_factory.mktemp("disk"))


@pytest.fixture(scope="module")
def engine(disk: Disk, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """Run an engine on it, of two shards."""
    environment = disk.environment() | {"TRADEENGINE_SUPERVISOR_RESTART_COUNT_MAX": "30"}
    with running_engine(tmp_path_factory.mktemp("engine") / "data", TWO_SHARDS, environment) as running:
        yield running


@pytest.fixture
def user(engine: Engine) -> Iterator[User]:
    """Sign a user in who has money."""
    made = make_user(engine, "disk", FUNDS)
    with made.http:
        yield made


@contextmanager
def asked(user: User, order: Json) -> Iterator[dict[str, Any]]:
    """Place an order in a thread of its own while the block runs; the answer is there after it."""
    answer: dict[str, Any] = {}

    def place() -> None:
        with httpx2.Client(base_url=user.http.base_url, headers=user.http.headers, timeout=30) as client:
            response = client.post("/orders", json=order)
        answer.update(status=response.status_code, **response.json())

    thread = threading.Thread(target=place)
    thread.start()
    try:
        yield answer
    finally:
        thread.join()


def named(order: Json, name: str) -> Json:
    """Give an order a client order id."""
    return {**order, "client_order_id": name}


def tail_of(engine: Engine) -> Path:
    """Find the last segment of the shard whose disk fails."""
    return max((engine.data_dir / "journal" / "shard-1").glob("*.journal"))


def log_of(engine: Engine) -> str:
    """Give what the engine has logged so far."""
    return "".join(engine.errors)


def place_until_answered(user: User, order: Json, tries_max: int = 100) -> Json:
    """Place an order as the API tells clients to, repeating it while nobody knows; gives the order."""
    for _ in range(tries_max):
        answer = user.http.post("/orders", json=order)
        if answer.status_code in {200, 201}:
            placed: Json = answer.json()["data"]["order"]
            return placed
        assert answer.status_code in {503, 504}, answer.text
    raise AssertionError(f"no answer for {order}")


def test_slow_sync_shows_nothing_early_and_holds_up_only_its_shard(engine: Engine, disk: Disk, user: User) -> None:
    """While a sync lasts nobody sees the order, on no way; the other shard trades; then it is answered."""
    order = named(bid(FENCED, "111.00"), "slow")
    with disk.fault("fdatasync", JOURNAL, "hang"), asked(user, order) as answer:
        disk.wait_met("fdatasync")
        user.place(**bid(OPEN))
        assert ["111.00", "0.5000"] not in user.call("GET", f"/orderbook/{FENCED}")["bids"]
        assert not any(bid_[0] == "111.00" for bid_ in user.call("GET", f"/orderbook/{FENCED}")["bids"])
        assert user.http.get("/orders/by-client-id/slow").status_code == 404
        assert "status" not in answer
        disk.mend("fdatasync")
    assert answer["status"] == 201, answer
    assert any(bid_[0] == "111.00" for bid_ in user.call("GET", f"/orderbook/{FENCED}")["bids"])
    assert user.order(answer["data"]["order"]["id"])["client_order_id"] == "slow"


@pytest.mark.long
def test_sync_slower_than_the_deadline_is_an_unknown_outcome_that_a_repeat_resolves(
    engine: Engine, disk: Disk, user: User
) -> None:
    """A sync that takes longer than an order may wait: 504, and the same request again finds the order."""
    order = named(bid(FENCED, "112.00"), "slower")
    with disk.fault("fdatasync", JOURNAL, "hang"):
        answer = user.http.post("/orders", json=order)
        assert (answer.status_code, answer.json()["error"]["code"]) == (504, "OUTCOME_UNKNOWN")
        user.place(**bid(OPEN))
    placed = place_until_answered(user, order)
    assert len([row for row in user.call("GET", "/orders") if row["client_order_id"] == "slower"]) == 1
    assert user.order(placed["id"])["status"] == "open"


@pytest.mark.parametrize(
    ("call", "error"),
    [("fdatasync", errno.EIO), ("pwritev", errno.ENOSPC), ("pwritev", errno.EIO)],
    ids=["EIO of a sync", "ENOSPC of a write", "EIO of a write"],
)
def test_first_error_ends_the_matcher_and_the_next_one_rewrites_the_tail(
    engine: Engine, disk: Disk, user: User, call: str, error: int
) -> None:
    """An error that happens once: the process ends and never tries again; another takes a copy of the file."""
    before, inode = engine.actors()["matcher-1"], tail_of(engine).stat().st_ino
    name = f"{call}-{error}"
    disk.break_down(call, JOURNAL, f"once {error}")
    placed = place_until_answered(user, named(bid(FENCED), name))
    wait_restarted(engine, "matcher-1", before)
    assert f"{os.strerror(error)}; the process must stop" in log_of(engine)
    assert tail_of(engine).stat().st_ino != inode
    assert [row["id"] for row in user.call("GET", "/orders") if row["client_order_id"] == name] == [placed["id"]]
    assert engine.command("reconcile").returncode == 0


def test_short_writes_go_on_where_they_stopped(engine: Engine, disk: Disk, user: User) -> None:
    """A disk that takes half of what it is given each time gets it all, and nobody notices."""
    before = engine.actors()["matcher-1"]
    with disk.fault("pwritev", JOURNAL, "short"):
        placed = user.place(**bid(FENCED))["order"]
        disk.wait_met("pwritev")
    assert engine.actors()["matcher-1"] == before
    engine.kill_actor("matcher-1")
    wait_restarted(engine, "matcher-1", before)
    assert user.call("DELETE", f"/orders/{placed['id']}")["order"]["status"] == "cancelled"


def test_audit_log_that_cannot_be_written_refuses_administrators_and_nobody_else(
    engine: Engine, disk: Disk, user: User
) -> None:
    """What cannot be written down is not done: a halt is refused, trading goes on; with room again it works."""
    boss = admin_of(engine)
    path = f"/admin/trading/halt/{OPEN.replace('/', '-')}"
    with boss.http:
        with disk.fault("pwrite", ".spool", str(errno.ENOSPC)):
            refusal = boss.http.post(path, json={"reason": "a full disk"})
            assert (refusal.status_code, refusal.json()["error"]["code"]) == (503, "AUDIT_UNAVAILABLE")
            assert user.place(**bid(OPEN))["order"]["status"] == "open"
        boss.call("POST", path, json={"reason": "room again"})
        boss.call("POST", path.replace("halt", "resume"), json={"reason": "it was a test"})


@pytest.mark.timeout(240)
@pytest.mark.long
def test_full_disk_gives_a_shard_up_after_its_bound_and_it_is_back_with_room(tmp_path: Path) -> None:
    """Without room for a rewritten tail a matcher is tried so often, then fenced; the next start has everything.

    Snapshots and log lines that find no room cost nothing but themselves.
    """
    disk = Disk(tmp_path / "disk")
    disk.folder.mkdir()
    environment = disk.environment() | {"TRADEENGINE_SUPERVISOR_RESTART_COUNT_MAX": str(RESTARTS)}
    with running_engine(tmp_path / "data", TWO_SHARDS, environment) as engine:
        user = make_user(engine, "full", FUNDS)
        with user.http:
            placed = user.place(**bid(FENCED))["order"]
            disk.break_down("fallocate", JOURNAL, str(errno.ENOSPC))
            disk.break_down("pwritev", "snapshots/", str(errno.ENOSPC))
            engine.kill_actor("matcher-1")
            assert f"died {RESTARTS + 1} times" in wait_fenced(engine)
            assert "No space left" in wait_fenced(engine)
            refused(user, "POST", "/orders", json=bid(FENCED))
            user.place(**bid(OPEN))
        disk.mend("fallocate")
        assert engine.stop() == 0
        assert "a snapshot could not be written" in log_of(engine)
        assert "matcher-0 failed" not in log_of(engine)
    with running_engine(tmp_path / "data", TWO_SHARDS) as engine:
        user = sign_in(engine, user.name)
        with user.http:
            assert user.order(placed["id"])["status"] == "open"
            assert user.call("DELETE", "/orders")["cancelled"] == 2
        assert engine.command("reconcile").returncode == 0
        restarts = {actor["name"]: actor["restart_count"] for actor in ask(engine.data_dir, "status")["actors"]}
        assert restarts["matcher-1"] == 0


@pytest.mark.long
def test_engine_goes_on_without_room_for_its_log(data_dir: Path) -> None:
    """With every log line refused by the disk actors start, die, come back and stop as ever."""
    program = [*PROGRAM, "up", "--port", "0", "--data-dir", str(data_dir)]
    with Path("/dev/full").open("w", encoding="ascii") as full:
        process = subprocess.Popen(program, stdout=subprocess.PIPE, stderr=full, text=True, env={**os.environ, **SMALL})
    engine = Engine(process, data_dir)
    try:
        wait_ready(engine)
        first = engine.actors()["settlement"]
        engine.kill_actor("settlement")
        wait_restarted(engine, "settlement", first)
        user = make_user(engine, "logless", FUNDS)
        with user.http:
            user.place(**bid(OPEN))
        assert engine.stop() == 0
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        stop_embedded(data_dir)
