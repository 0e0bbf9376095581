"""Crash points: who passes one that is armed is gone at once, and nobody else is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tradeengine.ipc.crashpoints import VARIABLE, armed

PASSING = "from tradeengine.ipc.crashpoints import crash_point\nfor name in 'abab': crash_point('role.' + name)\n"


def pass_by(setting: str) -> subprocess.Popen[bytes]:
    """Let a process pass two points, each twice; returns it when it has ended."""
    process = subprocess.Popen([sys.executable, "-c", PASSING], env=os.environ | {VARIABLE: setting})
    process.wait(60)
    return process


@pytest.mark.parametrize(
    ("setting", "status"),
    [("", 0), ("role.c", 0), ("role.b", -signal.SIGKILL), ("role.a:2", -signal.SIGKILL), ("role.a:3", 0)],
)
def test_point_is_passed_so_often(setting: str, status: int) -> None:
    """The process dies at the pass that is named, by SIGKILL, and not at another."""
    assert pass_by(setting).returncode == status


def test_points_are_armed_by_a_file(tmp_path: Path) -> None:
    """A file that names a point kills one who passes it, who renames it; without it, or at others, nobody dies."""
    place = tmp_path / "crash"
    assert pass_by(f"@{place}").returncode == 0
    place.write_text("role.c")
    assert pass_by(f"@{place}").returncode == 0
    place.write_text("role.b")
    killed = pass_by(f"@{place}")
    assert killed.returncode == -signal.SIGKILL
    assert [path.name for path in tmp_path.iterdir()] == [f"crash.{killed.pid}"]
    assert pass_by(f"@{place}").returncode == 0


def test_pass_counts_from_one() -> None:
    """A pass that cannot be is refused at once."""
    with pytest.raises(ValueError, match="counts from 1"):
        armed("role.a:0")
