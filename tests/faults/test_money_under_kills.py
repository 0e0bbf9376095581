"""Deposits, withdrawals and suspensions while the processes that they pass are killed: each is done once or never."""

from __future__ import annotations

import os
import random
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path

import httpx2
import pytest
from tests.e2e.bank import admin_of, ask_everyone, check_ledger, check_statement, fresh
from tests.e2e.users import Json, User, make_user, sign_in
from tests.engines import Engine, running_engine, wait_restarted

ORDER: Json = {"symbol": "BTC/USDT", "side": "buy", "type": "limit", "quantity": "0.5", "price": "100"}
MOVES_BEFORE, MOVES_AFTER = 10, 10
TRIES_MAX = 400
WAIT_S = 40.0


@pytest.fixture(scope="module")
def victim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """Run an engine whose actors may be killed."""
    folder = tmp_path_factory.mktemp("victim") / "data"
    with running_engine(folder, ["--fronts", "2", "--shards", "2"]) as engine:
        yield engine


@dataclass
class Mover:
    """Moves money for one user, and repeats what was not answered until it is. ``total``: what must be there."""

    admin: User
    user: User
    seed: int
    total: Decimal = Decimal(0)
    outcomes: dict[tuple[str, str], str] = field(default_factory=dict)

    def run(self, stop: threading.Event, progress: threading.Semaphore) -> None:
        """Move until asked to stop; releases ``progress`` for each that has its outcome."""
        draw, number = random.Random(self.seed), 0
        while not stop.is_set():
            number += 1
            kind = draw.choice(("deposit", "withdrawal"))
            self.move(kind, draw.randint(1, 40), f"{self.user.name}.{number}")
            progress.release()

    def move(self, kind: str, amount: int, reference: str) -> None:
        """Ask until the outcome is known."""
        body = {"user": self.user.name, "asset": "USDT", "amount": str(amount), "reference": reference}
        for _ in range(TRIES_MAX):
            try:
                with fresh(self.admin) as client:
                    answer = client.post(f"/admin/{kind}s", json=body)
            except httpx2.TransportError:
                continue
            if answer.status_code in {200, 422}:
                break
            assert answer.status_code in {202, 500, 503, 504}, answer.text
        done = answer.status_code == 200
        assert done or answer.json()["error"]["code"] == "INSUFFICIENT_BALANCE", answer.text
        self.outcomes[kind, reference] = "settled" if done else "refused"
        if done:
            self.total += amount if kind == "deposit" else -amount

    def hold(self, stop: threading.Event) -> None:
        """Hold the same money by orders meanwhile, and let it go again."""
        while not stop.is_set():
            try:
                with fresh(self.user) as client:
                    client.post("/orders", json=ORDER)
                    client.delete("/orders")
            except httpx2.TransportError:
                continue


@pytest.mark.parametrize(
    "name", ["risk", *(pytest.param(name, marks=pytest.mark.long) for name in ("settlement", "front-0", "matcher-0"))]
)
def test_each_movement_is_made_once_whatever_dies(victim: Engine, name: str) -> None:
    """Money moves under load while an actor is killed: each reference is done once, and every unit is there."""
    admin = admin_of(victim)
    movers = [
        Mover(admin, make_user(victim, f"{name}-{place}", {"USDT": "100"}), place, Decimal(100)) for place in range(2)
    ]
    stop, progress = threading.Event(), threading.Semaphore(0)
    threads = [threading.Thread(target=mover.run, args=(stop, progress)) for mover in movers]
    threads += [threading.Thread(target=mover.hold, args=(stop,)) for mover in movers]
    for thread in threads:
        thread.start()
    try:
        pass_(progress, MOVES_BEFORE)
        pid = victim.actors()[name]
        os.kill(pid, signal.SIGKILL)
        wait_restarted(victim, name, pid)
        pass_(progress, MOVES_AFTER)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    for mover in movers:
        user = sign_in(victim, mover.user.name)
        user.call("DELETE", "/orders")
        assert user.balances()["USDT"] == (mover.total, mover.total, Decimal(0))
        check_statement(user)
        for (kind, reference), outcome in mover.outcomes.items():
            assert admin.call("GET", f"/admin/{kind}s/{reference}")["status"] == outcome
        user.http.close()
        mover.user.http.close()
    admin.http.close()
    check_ledger(victim)


def pass_(progress: threading.Semaphore, count: int) -> None:
    """Wait until so many movements have their outcome."""
    for _ in range(count):
        assert progress.acquire(timeout=WAIT_S)


@pytest.mark.parametrize("name", ["risk", "settlement"])
def test_suspension_outlives_who_carries_it(victim: Engine, name: str) -> None:
    """A suspended user stays so while risk or settlement is killed and replaced, and may cancel afterwards."""
    admin, user = admin_of(victim), make_user(victim, f"suspended-{name}", {"USDT": "1000"})
    user.place(**ORDER)
    admin.call("POST", f"/admin/users/{user.name}/suspend", json={"reason": "x"})
    pid = victim.actors()[name]
    os.kill(pid, signal.SIGKILL)
    wait_restarted(victim, name, pid)
    assert set(ask_everyone(user, "POST", "/orders", json=ORDER)) == {(403, "ACCOUNT_SUSPENDED")}
    assert user.call("DELETE", "/orders")["cancelled"] == 1
    admin.call("POST", f"/admin/users/{user.name}/resume", json={"reason": "x"})
    assert set(ask_everyone(user, "GET", "/orders")) == {(200, "")}
    for one in (admin, user):
        one.http.close()


@pytest.mark.parametrize("name", [pytest.param("risk", marks=pytest.mark.long), "settlement"])
def test_change_that_nobody_can_carry_out_yet(victim: Engine, name: str) -> None:
    """Asked for while risk or settlement stands still, a suspension is answered 503, and comes into force by itself."""
    admin, user = admin_of(victim), make_user(victim, f"later-{name}", {"USDT": "1000"})
    with victim.standing_still(name):
        error = admin.call("POST", f"/admin/users/{user.name}/suspend", 503, json={"reason": "x"})
        assert error["code"] == "NOT_READY"
    # The same again: it has become so meanwhile, or becomes so now.
    for _ in range(TRIES_MAX):
        answer = admin.http.post(f"/admin/users/{user.name}/suspend", json={"reason": "x"})
        if answer.status_code == 200:
            break
    assert set(ask_everyone(user, "GET", "/balances")) == {(403, "ACCOUNT_SUSPENDED")}
    for one in (admin, user):
        one.http.close()


@pytest.mark.long
def test_settings_survive_a_stop_of_everything(tmp_path: Path) -> None:
    """After the engine was stopped and started, limits of users and symbols and suspensions are what they were."""
    with running_engine(tmp_path / "data") as engine:
        admin, user = admin_of(engine), make_user(engine, "lasting", {"USDT": "1000"})
        limits = admin.call("POST", f"/admin/limits/user/{user.name}", json={"max_order_size": "12.5"})
        symbol = admin.call("POST", "/admin/limits/symbol/BTC-USDT", json={"max_order_size": "3"})
        admin.call("POST", f"/admin/users/{user.name}/suspend", json={"reason": "x"})
        for one in (admin, user):
            one.http.close()
    with running_engine(tmp_path / "data") as engine:
        admin, user = admin_of(engine), sign_in(engine, user.name)
        shown = admin.call("GET", f"/admin/limits/user/{user.name}")
        assert (shown["max_order_size"], shown["suspended"]) == (limits["max_order_size"], True)
        assert admin.call("GET", "/admin/limits/symbol/BTC-USDT") == symbol
        assert user.place(403, **ORDER)["code"] == "ACCOUNT_SUSPENDED"
        admin.call("POST", f"/admin/users/{user.name}/resume", json={"reason": "x"})
        assert user.place(400, **(ORDER | {"quantity": "3.1"}))["code"] == "NUMBER_OUT_OF_RANGE"
        for one in (admin, user):
            one.http.close()
