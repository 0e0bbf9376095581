"""A few rounds of the fault harness; ``make faults`` runs as many as one likes."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
from tests.faults.harness.faults import FAULTS
from tests.faults.harness.plan import make_plan
from tests.faults.harness.rounds import run_round


@pytest.mark.parametrize(("seed", "faults"), [(3, "together"), (4, "crash")])
def test_no_promise_is_broken(tmp_path: Path, seed: int, faults: str) -> None:
    """Killed several at once, or at named points, an engine keeps what it acknowledged, and settles each fill once."""
    run(tmp_path, seed, faults, 4)


@pytest.mark.long
@pytest.mark.timeout(400)
@pytest.mark.parametrize("seed", [5, 6])
def test_no_promise_is_broken_by_any_fault(tmp_path: Path, seed: int) -> None:
    """The same under all kinds of faults, one after the other."""
    run(tmp_path, seed, ",".join(FAULTS), 25)


def run(folder: Path, seed: int, faults: str, strikes: int) -> None:
    """Run a round, and see that nothing was wrong and something was killed."""
    result = trio.run(run_round, make_plan(seed, faults.split(","), strikes), folder)
    assert result.wrong == []
    assert result.findings.kills.total() > 0
    assert result.counts["ok"] > 0
