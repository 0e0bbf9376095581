"""Log lines: one form for all, told by which process."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

SAY = """
import logging, structlog
from tradeengine.ipc.logs import configure_logs
from tradeengine.settings import Log
configure_logs(Log(level="info", debug=(), access=False, format="{}"), "risk")
structlog.get_logger().info("ours", count=3, reason=None)
logging.getLogger("library").warning("theirs")
"""


def said(form: str) -> tuple[int, list[str]]:
    """Let a process say two lines; returns its id and the lines."""
    with subprocess.Popen([sys.executable, "-c", SAY.format(form)], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        return process.pid, process.stderr.read().splitlines()


def test_json_lines_have_one_form() -> None:
    """Our lines and a library's carry time, level, actor and process id; what has no value is left out."""
    pid, lines = said("json")
    ours, theirs = (json.loads(line) for line in lines)
    assert (ours["event"], ours["count"], theirs["event"]) == ("ours", 3, "theirs")
    assert "reason" not in ours
    for line, level in ((ours, "info"), (theirs, "warning")):
        assert (line["actor"], line["pid"], line["level"]) == ("risk", pid, level)
        assert line["timestamp"].endswith("Z")


@pytest.mark.parametrize("word", ["ours", "count=3", "actor=risk"])
def test_console_lines_say_the_same(word: str) -> None:
    """On a console the same words are there, and nothing without a value."""
    _, (ours, _) = said("console")
    assert word in ours
    assert "None" not in ours
