"""Profiles of actors, asked for on the command line."""

from __future__ import annotations

import pstats
from pathlib import Path

import pytest
from tests.engines import run_command, running_engine

ORDER = {"symbol": "BTC/USDT", "side": "buy", "type": "limit", "quantity": "0.5", "price": "40000.00"}


@pytest.mark.long
@pytest.mark.parametrize(
    ("actor", "duty"),
    [
        ("risk", "main"),
        ("front-0", "place_order"),
        ("matcher-0", "main"),
        ("settlement", "main"),
        ("publisher", "main"),
    ],
)
def test_profile_says_where_an_actors_time_went(tmp_path: Path, actor: str, duty: str) -> None:
    """With --profile, an actor leaves a profile for tools and one for people when it ends; the others leave none."""
    with running_engine(tmp_path / "data", ["--profile", actor]) as engine:
        pid = engine.actors()[actor]
        engine.deposit("ann", "USDT", "100000")
        with engine.client("ann") as client:
            assert client.post("/orders", json=ORDER).status_code == 201
        engine.stop()
    left = sorted(path.name for path in (tmp_path / "data" / "profiles").iterdir())
    assert left == [f"{actor}-{pid}.prof", f"{actor}-{pid}.txt"]
    profile = pstats.Stats(str(tmp_path / "data" / "profiles" / left[0]))
    assert duty in {function for _, _, function in profile.stats}  # type: ignore[attr-defined]  # typeshed has none
    assert "tottime" in (tmp_path / "data" / "profiles" / left[1]).read_text(encoding="utf-8")


def test_actor_that_is_not_there_cannot_be_profiled(tmp_path: Path) -> None:
    """A slip in the name is told at the start, with the names that there are."""
    result = run_command("up", "--port", "0", "--data-dir", str(tmp_path / "data"), "--profile", "matcher-7")
    assert result.returncode == 1
    assert "supervisor.profile = 'matcher-7'" in result.stderr
    assert "matcher-0" in result.stderr
