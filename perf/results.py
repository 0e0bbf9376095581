"""Results of benchmarks, stored: one JSON file each in ``perf/results``, to compare later ones with.

A file says what was measured on which machine, of which commit, and how long a step of the yardstick took meanwhile.
"""

from __future__ import annotations

import subprocess
import time
from pathlib import Path
from typing import Any, Final

import msgspec
from perf.engine import machine

FOLDER: Final = Path(__file__).parent / "results"


class Result(msgspec.Struct, frozen=True):
    """One stored measurement. ``figures``: what the benchmark's last line said."""

    benchmark: str
    measured_at: str
    commit: str
    machine: str
    yardstick_ns: float
    figures: dict[str, Any]


def make_result(benchmark: str, yardstick_ns: float, figures: dict[str, Any]) -> Result:
    """Describe what was measured just now."""
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=FOLDER, capture_output=True, text=True, check=False
    ).stdout.strip()
    measured_at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    return Result(benchmark, measured_at, commit or "unknown", machine(), round(yardstick_ns, 3), figures)


def store(result: Result) -> Path:
    """Store a result in place of the one before."""
    path = FOLDER / f"{result.benchmark}.json"
    path.write_bytes(msgspec.json.format(msgspec.json.encode(result)) + b"\n")
    return path


def load(benchmark: str) -> Result:
    """Give the stored result. Raises FileNotFoundError when there is none."""
    return msgspec.json.decode((FOLDER / f"{benchmark}.json").read_bytes(), type=Result)
