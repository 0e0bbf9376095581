"""``tradeengine status``: every actor and ring of a running engine."""

from __future__ import annotations

import json
import os
from pathlib import Path

from tests.engines import Engine, run_command

from tradeengine.ipc.client import open_client
from tradeengine.storage.embedded import running_embedded


def test_status_shows_every_actor_and_ring(engine: Engine) -> None:
    """Actors and database are there with process and state, rings with their readers; the tables name them all."""
    result = engine.command("status", "--json")
    assert result.returncode == 0, result.stderr
    status = json.loads(result.stdout)
    assert status["pid"] == engine.process.pid
    server = running_embedded(engine.data_dir)
    assert server is not None
    assert {actor["name"]: actor["pid"] for actor in status["actors"]} == engine.actors() | {"database": server.pid}
    # Those work in the background, and no start waits for them.
    states = {actor["name"]: actor["state"] for actor in status["actors"] if actor["name"] not in {"shadow", "keeper"}}
    assert set(states.values()) == {"ready"}
    rings = {ring["name"]: ring for ring in status["rings"]}
    assert {reader["name"] for reader in rings["events.0"]["readers"]} == {"risk", "settlement"}
    assert rings["events.0"]["written"] >= 10
    shown = engine.command("status")
    assert shown.returncode == 0, shown.stderr
    assert all(name in shown.stdout for name in (*engine.actors(), *rings))


def test_status_tells_what_each_actor_recovered(engine: Engine) -> None:
    """Each actor has said after how long it was ready, those with something to recover sequences and counts too."""
    actors = {actor["name"]: actor for actor in json.loads(engine.command("status", "--json").stdout)["actors"]}
    for name in ("risk", "matcher-0", "settlement", "publisher", "front-0"):
        assert actors[name]["ready_s"] > 0, name
    assert {"orders", "next_command", "next_event", "commands_replayed"} <= actors["matcher-0"]["recovered"].keys()
    assert {"orders", "accounts", "next_event.0"} <= actors["risk"]["recovered"].keys()
    assert actors["settlement"]["recovered"].keys() == {"settled.0", "settled.risk"}
    assert "books" in actors["publisher"]["recovered"]
    shown = engine.command("status").stdout
    assert "at their last start" in shown
    assert f"next_command {actors['matcher-0']['recovered']['next_command']}" in " ".join(shown.split())
    (line,) = (line for line in engine.errors if " recovered " in line and "actor=supervisor" in line)
    assert "matcher-0=" in line
    assert "next_command" in line


def test_status_shows_who_sits_in_a_place(engine: Engine) -> None:
    """A local client is told with its process and its program while it is attached, and the number of places."""
    with open_client(engine.data_dir) as wiring:
        status = json.loads(engine.command("status", "--json").stdout)
        (client,) = status["clients"]
        assert (client["name"], client["pid"]) == (wiring.name, os.getpid())
        assert client["command"][0]
        shown = engine.command("status").stdout
        assert f"local clients: 1 of {status['client_places']} places are taken" in shown
        assert str(os.getpid()) in shown


def test_status_fits_80_columns(engine: Engine) -> None:
    """In a terminal of 80 columns no line is longer, and every actor and every ring has a line of its own."""
    environment = {"COLUMNS": "80"}
    shown = run_command("status", "--data-dir", str(engine.data_dir), **environment).stdout.splitlines()
    assert max(map(len, shown)) <= 80
    status = json.loads(engine.command("status", "--json").stdout)
    for part in ("actors", "rings"):
        for row in status[part]:
            (line,) = (line for line in shown if line.split()[:1] == [row["name"]])
            for reader in row.get("readers", ()):
                assert f"{reader['name']} " in line


def test_no_status_without_an_engine(tmp_path: Path) -> None:
    """Without a running engine the command says how to start one."""
    result = run_command("status", "--data-dir", str(tmp_path))
    assert (result.returncode, result.stdout) == (1, "")
    assert "no engine is running" in result.stderr
    assert result.stderr.strip().count("\n") == 0
