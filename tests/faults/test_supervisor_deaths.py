"""The supervisor is killed again and again, in the middle of a start or under load, and started again at once.

Whoever outlives it for a moment ends by itself: the next engine waits for nobody for long, and when it is ready no
process of those before it is left.
"""

from __future__ import annotations

import random
import time
from functools import partial
from pathlib import Path

import pytest
from tests.e2e.users import connect_database, make_user, sign_in
from tests.engines import Engine, start_engine, wait_ready
from tests.faults.load import Trader, audit
from tests.faults.test_kill_under_load import assert_balances_agree, run_until

from tradeengine.actors.data_dir import LOCK_NAME
from tradeengine.storage.embedded import stop_embedded

FUNDS = {"USDT": "1000000", "SOL": "10000"}
STARTING_S_MAX = 8.0
READY_TIMEOUT_S = 120.0


def holders(data_dir: Path) -> set[int]:
    """Tell which processes have the data directory's lock, or have inherited it."""
    lock = (data_dir / LOCK_NAME).resolve()
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if any(fd.readlink() == lock for fd in (process / "fd").iterdir()):
                found.add(int(process.name))
        except OSError:
            continue  # it ended between two looks
    return found


def kill(engine: Engine, old: set[int]) -> None:
    """Kill the supervisor, and note who was there then; what they still say is not waited for."""
    old |= holders(engine.data_dir)
    engine.process.kill()
    engine.process.wait()
    if not engine.lines and engine.process.stdout is not None:
        engine.process.stdout.close()


@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("seed", [1, 2])
def test_supervisor_that_dies_again_and_again_leaves_nobody(tmp_path: Path, seed: int) -> None:
    """Nine deaths: each start finds the directory free, acknowledged orders are there, and nobody old is left."""
    chance = random.Random(seed)
    data_dir = tmp_path / "data"
    traders: list[Trader] = []
    old: set[int] = set()
    engine = start_engine(data_dir)
    try:
        for life in range(3):
            wait_ready(engine, READY_TIMEOUT_S)
            assert not old & holders(data_dir)
            new = [Trader(make_user(engine, f"life-{life}-{number}", FUNDS), seed=number) for number in range(3)]
            traders += new
            run_until(engine, new, partial(kill, engine, old))
            for _ in range(2):
                engine = start_engine(data_dir)
                time.sleep(chance.uniform(0.0, STARTING_S_MAX))
                kill(engine, old)
            engine = start_engine(data_dir)
        wait_ready(engine, READY_TIMEOUT_S)
        assert not old & holders(data_dir)
        for trader in traders:
            trader.user.http.close()
            trader.user = sign_in(engine, trader.user.name)
            trader.settle_unknown()
            assert trader.refused == []
            assert_balances_agree(engine, trader)
            trader.user.http.close()
        with connect_database(engine) as connection:
            audit(connection, traders)
        assert engine.stop() == 0
        assert not old & holders(data_dir)
    finally:
        kill(engine, old)
        stop_embedded(data_dir)
