"""The machine's clock is set by hours, both ways, under a running engine; ``stepped`` tells its processes the time."""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.users import Json, User, deposit_all
from tests.engines import Engine, running_engine
from tests.faults.test_kill_under_load import kill_everything
from tests.faults.test_standstill import wait_until

from tradeengine.actors.data_dir import read_secret
from tradeengine.web.auth import issue_token

STEPPED = Path(__file__).parent / "stepped"
HOUR_S = 3600
DAY_S = 86_400
SYMBOL = "SOL/USDT"
ORDER: Json = {"symbol": SYMBOL, "quantity": "1", "price": "90.00"}
TIMER_MS = 3000


@dataclass
class Clock:
    """What an engine takes for the time: that of the machine and so many seconds."""

    path: Path
    ahead_s: int = 0

    def set(self, ahead_s: int) -> None:
        """Set it for all processes at once."""
        self.ahead_s = ahead_s
        with self.path.open("r+b" if self.path.exists() else "wb") as file:
            file.write(struct.pack("<q", ahead_s * 10**9))

    def environment(self) -> dict[str, str]:
        """Environment of processes that go by it."""
        path = [str(STEPPED), *filter(None, [os.environ.get("PYTHONPATH")])]
        return {"PYTHONPATH": os.pathsep.join(path), "TEST_CLOCK": str(self.path)}

    def now(self) -> datetime:
        """Tell the time as the engine has it."""
        return datetime.now(UTC) + timedelta(seconds=self.ahead_s)


@pytest.fixture
def clock(tmp_path: Path) -> Clock:
    """Make a clock that is right."""
    made = Clock(tmp_path / "clock")
    made.set(0)
    return made


@pytest.fixture
def signed_in() -> Iterator[list[User]]:
    """Close the connections of users when the test is over."""
    users: list[User] = []
    yield users
    for user in users:
        user.http.close()


def sign_in(signed_in: list[User], engine: Engine, name: str, lifetime_s: int = 30 * DAY_S) -> User:
    """Sign in with a token of the machine's clock."""
    http = engine.client()
    token = issue_token(read_secret(engine.data_dir).encode(), name, "user", lifetime_s)
    http.headers["Authorization"] = f"Bearer {token}"
    signed_in.append(User(name, http))
    return signed_in[-1]


@pytest.fixture
def venue(clock: Clock, tmp_path: Path) -> Iterator[Engine]:
    """Run an engine that goes by that clock."""
    with running_engine(tmp_path / "data", environment=clock.environment()) as engine:
        for name in ("alice", "bob"):
            deposit_all(engine, name, {"USDT": "1000000", "SOL": "1000"})
        yield engine


@pytest.mark.long
@pytest.mark.timeout(240)
def test_orders_and_timers_survive_steps_of_the_clock(
    venue: Engine, clock: Clock, signed_in: list[User], tmp_path: Path
) -> None:
    """Forward by an hour, then back by two: stamps and ids grow, what is over ends, timers fire in their own time."""
    alice, bob = (sign_in(signed_in, venue, name) for name in ("alice", "bob"))
    short = sign_in(signed_in, venue, "alice", HOUR_S // 2)
    seen, pids = Seen(alice), venue.actors()
    soon = {"time_in_force": "gtd", "expires_at": f"{clock.now() + timedelta(minutes=30):%Y-%m-%dT%H:%M:%SZ}"}
    ends, stays = seen.place(**ORDER, **soon), seen.place(**ORDER)
    late = bob.place(**ORDER)["order"]["id"]
    bob.call("POST", "/orders/cancel-all-after", json={"timeout_ms": HOUR_S * 1000 // 2})

    clock.set(HOUR_S)
    wait_until(lambda: alice.order(ends)["status"] == "cancelled")
    assert alice.order(ends)["status_reason"] == "EXPIRED"
    wait_until(lambda: bob.order(late)["status"] == "cancelled")
    assert short.http.get("/balances").status_code == 401
    assert alice.order(stays)["status"] == "open"
    seen.place(**ORDER)

    clock.set(-HOUR_S)
    wait_until(lambda: short.http.get("/balances").status_code == 200)
    for _ in range(5):
        seen.place(**ORDER)
    # Time is two hours ahead of the clock now, and goes on: the timer is no two hours late, and no instant early.
    guarded, armed_s = bob.place(**ORDER)["order"]["id"], time.monotonic()
    bob.call("POST", "/orders/cancel-all-after", json={"timeout_ms": TIMER_MS})
    wait_until(lambda: bob.order(guarded)["status"] == "cancelled")
    assert time.monotonic() - armed_s >= TIMER_MS / 1000
    assert venue.actors() == pids, "a step is no reason to take an actor for dead"
    venue.kill_actor("risk")
    wait_until(lambda: venue.actors().get("risk", pids["risk"]) != pids["risk"])
    wait_until(lambda: alice.http.post("/orders", json={"side": "buy", "type": "limit", **ORDER}).status_code == 201)
    seen.place(**ORDER)
    assert venue.command("reconcile").returncode == 0

    kill_everything(venue)
    with running_engine(tmp_path / "data", environment=clock.environment()) as again:
        seen.user = sign_in(signed_in, again, "alice")
        assert seen.user.order(stays)["status"] == "open"
        seen.place(**ORDER)
        assert again.command("reconcile").returncode == 0


class Seen:
    """Orders of one user: each has a greater id and a later time stamp than the one before."""

    def __init__(self, user: User) -> None:
        self.user = user
        self._last: tuple[int, str] = (0, "")

    def place(self, **order: Any) -> str:
        """Place an order; returns its id."""
        placed = self.user.place(**order)["order"]
        this = int(placed["id"]), str(placed["created_at"])
        assert this[0] > self._last[0]
        assert this[1] >= self._last[1]
        self._last = this
        return str(placed["id"])
