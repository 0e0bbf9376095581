"""A few rounds of the fault harness; ``make faults`` runs as many as one likes."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest
import trio
from tests.e2e.users import connect_database
from tests.faults.harness.faults import FAULTS, WEIGHTS, Shape, Strike
from tests.faults.harness.plan import make_plan
from tests.faults.harness.rounds import run_round
from tests.faults.harness.venue import Venue


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("seed", "faults"), [pytest.param(3, "together", marks=pytest.mark.long), (6, "crash")])
def test_no_promise_is_broken(tmp_path: Path, seed: int, faults: str) -> None:
    """Killed several at once, or at named points, an engine keeps what it acknowledged, and settles each fill once."""
    run(tmp_path, seed, faults, 4)


@pytest.mark.long
@pytest.mark.timeout(400)
@pytest.mark.parametrize("seed", [4, 5])
def test_no_promise_is_broken_by_any_fault(tmp_path: Path, seed: int) -> None:
    """The same under all kinds of faults, one after the other; one of the engines has a wallet service outside."""
    run(tmp_path, seed, ",".join(FAULTS), 25)


class Forge:
    """Somebody writes in the ledger."""

    def draw(self, _chance: Random, _shape: Shape) -> Strike:
        """Nothing is to be drawn."""
        return Strike("forge")

    async def strike(self, venue: Venue, _strike: Strike) -> None:
        """Make one user a unit richer."""
        with connect_database(venue.engine) as connection:
            connection.execute("UPDATE balances SET total_units = total_units + 1 WHERE account_id = 20")


@pytest.mark.long
@pytest.mark.timeout(400)
def test_round_finds_what_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A unit too much in one balance is found by the harness and by every command that looks, and the round says so."""
    monkeypatch.setitem(FAULTS, "forge", Forge())
    monkeypatch.setitem(WEIGHTS, "forge", 1)
    result = trio.run(run_round, make_plan(5, ["forge"], 1), tmp_path)
    found = {text.partition(":")[0] for text in result.wrong}
    assert {"a balance is not the sum of its postings", "reconcile", "verify"} <= found


def run(folder: Path, seed: int, faults: str, strikes: int) -> None:
    """Run a round, and see that nothing was wrong and something was killed."""
    result = trio.run(run_round, make_plan(seed, faults.split(","), strikes), folder)
    assert result.wrong == []
    assert result.findings.kills.total() > 0
    assert result.counts["ok"] > 0
