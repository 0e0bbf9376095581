"""Processes that stand still without dying: who waits for them is told so, and nothing is said that is not known."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx2
import pytest
from tests.engines import READY_TIMEOUT_S, Engine, running_engine


@pytest.fixture(scope="module")
def patient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """Run an engine whose processes are stopped for a while."""
    with running_engine(tmp_path_factory.mktemp("patient") / "data") as engine:
        yield engine


@contextmanager
def standing_still(engine: Engine, name: str) -> Iterator[None]:
    """Stop an actor's process, as a frozen machine would, while the block runs."""
    pid = engine.actors()[name]
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@pytest.mark.parametrize("name", ["risk", "matcher-0"])
def test_engine_is_not_ready_while_orders_stand_still(patient: Engine, name: str) -> None:
    """While risk or the only matcher stands still, /ready says so and names it; and is ready again when it goes on."""
    with standing_still(patient, name):
        error = wait_ready_is(patient, 503)["error"]
        assert error["code"] == "NOT_READY"
        assert any(f"{name} has been silent" in trouble for trouble in error["details"]["degraded"])
    wait_ready_is(patient, 200)


def wait_ready_is(engine: Engine, status: int) -> dict[str, Any]:
    """Wait until /ready answers with a status; gives its body."""
    deadline_s = time.monotonic() + READY_TIMEOUT_S
    while (answer := httpx2.get(f"{engine.url}/ready", timeout=20)).status_code != status:
        assert time.monotonic() < deadline_s, answer.text
        time.sleep(0.02)
    body: dict[str, Any] = answer.json()
    return body
