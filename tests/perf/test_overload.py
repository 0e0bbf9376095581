"""An engine that is asked for far more than it can do: everything is answered, and whoever asks little is served."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from perf.engine import running_engine
from perf.overload import CANCEL, HEALTH, ORDER, SETTINGS, Clients, finish
from perf.overload_stream import StreamLoad, run_streams

from perf import overload

FLOOD_PER_S = 4000.0
CONNECTIONS = 150
"""On which orders are on their way at a time."""
PATIENCE_S = 60.0
"""A machine with much else to do is slow, and no answer may be lost for that."""
SECONDS = 4.0


@pytest.mark.long
@pytest.mark.timeout(300)
def test_flood_is_answered_and_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a flood of orders each is placed or told to come again; beside it others place, cancel and see the health."""
    monkeypatch.setattr(overload, "CONNECTIONS", CONNECTIONS)
    monkeypatch.setattr(overload, "TIMEOUT_S", PATIENCE_S)
    tmp_path.chmod(0o755)
    with running_engine(tmp_path, SETTINGS) as engine:
        clients = Clients(engine)
        quiet = {
            "orders": clients.start(1, 5, SECONDS, ORDER),
            "cancels": clients.start(2, 5, SECONDS, CANCEL),
            "health": clients.start(3, 5, SECONDS, HEALTH),
        }
        flood = finish(clients.start(0, FLOOD_PER_S, SECONDS, ORDER))
        answers = {name: finish(client)["answers"] for name, client in quiet.items()}
        metrics = engine.metrics()
        restarts = sum(value for name, value in metrics.items() if name.startswith("tradeengine_actor_restarts_total"))
    # What the client itself never sent was neither.
    assert set(flood["answers"]) - {"not sent"} == {"201", "503 ENGINE_OVERLOADED"}
    assert flood["without_retry_after"] == 0
    assert metrics['tradeengine_front_requests_shed_total{actor="front-0"}'] > 0
    assert [set(counted) for counted in answers.values()] == [{"201"}, {"200"}, {"200"}]
    assert restarts == 0


@pytest.mark.long
@pytest.mark.timeout(300)
def test_flooded_stream_is_answered_and_refused(tmp_path: Path) -> None:
    """Of a connection that sends orders without waiting each is placed or refused; another one's are all placed."""
    tmp_path.chmod(0o755)
    place: dict[str, Any] = dict(overload.PLACE)
    with running_engine(tmp_path, SETTINGS) as engine:
        clients = Clients(engine)
        loads = [StreamLoad(clients.tokens[0], FLOOD_PER_S / 2), StreamLoad(clients.tokens[1], 5)]
        flood, quiet = run_streams(clients.port, loads, SECONDS, place)
    # How many of each depends on the machine.
    assert set(flood["answers"]) <= {"ack", "ENGINE_OVERLOADED"}
    assert flood["answers"]["ack"] > 0
    assert set(quiet["answers"]) == {"ack"}


@pytest.mark.long
def test_client_counts_what_has_no_answer() -> None:
    """A server that takes connections and says nothing is no answer: the client counts what was closed."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def hang_up() -> None:
            for _ in range(3):
                line, _ = listener.accept()
                with line:
                    line.recv(65_536)

        thread = Thread(target=hang_up)
        thread.start()
        wanted = {"port": listener.getsockname()[1], "token": "x", "rate_per_s": 1.5, "seconds": 2.0, "connections": 10}
        wanted |= {"address": "127.0.0.1", "method": "POST", "path": "/", "body": None}
        program = [sys.executable, "-m", "perf.overload_client", json.dumps(wanted)]
        done = subprocess.run(program, stdout=subprocess.PIPE, text=True, check=True)
        thread.join()
    assert json.loads(done.stdout)["answers"] == {"closed": 3}
