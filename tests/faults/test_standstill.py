"""Processes that stand still without dying: who waits for them is told so, and nothing is said that is not known."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from threading import Thread
from typing import Any

import httpx2
import pytest
from tests.e2e.users import Json, sign_in
from tests.engines import READY_TIMEOUT_S, Engine, database_away, running_engine, wait_restarted

from tradeengine.ipc.client import ask

ORDER: Json = {"symbol": "SOL/USDT", "side": "buy", "type": "limit", "quantity": "1", "price": "90.00"}


@pytest.fixture(scope="module")
def patient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """Run an engine whose processes are stopped for a while."""
    environment = {"TRADEENGINE_HTTP_COMMAND_TIMEOUT_MS": "2000", "TRADEENGINE_ENGINE_FRONTS": "1"}
    with running_engine(tmp_path_factory.mktemp("patient") / "data", environment=environment) as engine:
        yield engine


@pytest.mark.parametrize("name", ["risk", "matcher-0"])
def test_engine_is_not_ready_while_orders_stand_still(patient: Engine, name: str) -> None:
    """While risk or the only matcher stands still, /ready says so and names it; and is ready again when it goes on."""
    with patient.standing_still(name):
        error = wait_ready_is(patient, 503)["error"]
        assert error["code"] == "NOT_READY"
        assert any(f"{name} has been silent" in trouble for trouble in error["details"]["degraded"])
    wait_ready_is(patient, 200)


def test_one_id_posted_many_times_at_once_places_one_order(patient: Engine) -> None:
    """Of several requests with one client order id, all on their way together, one places and the others are told."""
    users = [sign_in(patient, "demo-1") for _ in range(8)]
    answers: list[httpx2.Response] = []
    order = ORDER | {"client_order_id": "at-once"}
    threads = [Thread(target=lambda user=user: answers.append(user.http.post("/orders", json=order))) for user in users]
    sent = orders_sent(patient)
    # Risk sees all of them before the matcher has the first one.
    with patient.standing_still("matcher-0"):
        for thread in threads:
            thread.start()
        wait_until(lambda: orders_sent(patient) == sent + len(users))
    for thread in threads:
        thread.join()
    for user in users:
        user.http.close()
    assert sorted(answer.status_code for answer in answers) == [200] * 7 + [201]
    assert len({answer.json()["data"]["order"]["id"] for answer in answers}) == 1


def test_repeat_of_an_order_that_stands_still_is_unknown_and_then_answered(patient: Engine) -> None:
    """While the matcher stands still the outcome is unknown however often it is asked for; then it is the original."""
    user = sign_in(patient, "demo-1")
    order = ORDER | {"client_order_id": "patience"}
    with patient.standing_still("matcher-0"):
        for _ in range(2):
            error = user.call("POST", "/orders", 504, json=order)
            assert (error["code"], error["details"]) == ("OUTCOME_UNKNOWN", {"client_order_id": "patience"})
    placed = user.place(200, **order)["order"]
    assert (placed["client_order_id"], placed["status"]) == ("patience", "open")
    user.http.close()


def test_risk_that_starts_without_a_database_waits_for_it(patient: Engine) -> None:
    """Risk killed while the database is away says what it waits for, is never given up, and then knows every order."""
    user = sign_in(patient, "demo-1")
    order_id = user.place(**ORDER)["order"]["id"]
    first_pid = patient.actors()["risk"]
    with database_away(patient):
        patient.kill_actor("risk")
        wait_until(lambda: "the database cannot be read" in state_of(patient, "risk")["message"])
        assert state_of(patient, "risk")["state"] == "blocked"
    wait_restarted(patient, "risk", first_pid)
    wait_ready_is(patient, 200)
    assert user.call("DELETE", f"/orders/{order_id}")["order"]["status"] == "cancelled"
    user.http.close()


def state_of(engine: Engine, name: str) -> dict[str, Any]:
    """Give what the supervisor knows of an actor."""
    return next(actor for actor in ask(engine.data_dir, "status")["actors"] if actor["name"] == name)


def orders_sent(engine: Engine) -> int:
    """Count the commands that the front has sent."""
    text = httpx2.get(f"{engine.url}/metrics", timeout=20).text
    (value,) = re.findall(r'^tradeengine_front_orders_sent_total\{actor="front-0"\} (\S+)$', text, re.MULTILINE)
    return int(float(value))


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait until something is so."""
    deadline_s = time.monotonic() + READY_TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def wait_ready_is(engine: Engine, status: int) -> dict[str, Any]:
    """Wait until /ready answers with a status; gives its body."""
    deadline_s = time.monotonic() + READY_TIMEOUT_S
    while (answer := httpx2.get(f"{engine.url}/ready", timeout=20)).status_code != status:
        assert time.monotonic() < deadline_s, answer.text
        time.sleep(0.02)
    body: dict[str, Any] = answer.json()
    return body
