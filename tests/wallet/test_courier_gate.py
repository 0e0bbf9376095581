"""Requests wait at a gate while the courier may not deliver; whatever happens meanwhile, they go on when it opens."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing

import pytest
from tests.wallet.courier_bench import CourierBench, quick_settings
from tests.wallet.service import Service

from tradeengine.storage.outbox import DELIVERY_LOCK_KEY

BREAK_OFF = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()
"""


@pytest.fixture
def bench(make_database: Callable[[str], str], service: Service) -> Iterator[CourierBench]:
    """Put a courier between a new database and the service."""
    bench = CourierBench(make_database("tradeengine"), service, service.url, quick_settings())
    with closing(bench.connection):
        yield bench


async def test_database_that_breaks_off_while_deliveries_pause(bench: CourierBench) -> None:
    """Transfers that wait while deliveries pause are made afterwards, though the database broke off twice meanwhile."""
    async with bench.running():
        await bench.fund("alice", Q="1000")
        await bench.fund("bob", B="10")
    bench.connection.execute("SELECT pg_advisory_lock(%s)", (DELIVERY_LOCK_KEY,))
    ids = [bench.trade("alice", "bob") for _ in range(3)]
    async with bench.running() as courier:
        waiting = quick_settings().concurrency - len(ids)
        await bench.until(lambda: courier._jobs.statistics().tasks_waiting_receive == waiting)

        def is_broken(times: int) -> bool:
            bench.connection.execute(BREAK_OFF)
            return bench.counter("errors") >= times

        await bench.until(lambda: is_broken(2))
        assert bench.transfers("pending") == ids
        bench.connection.execute("SELECT pg_advisory_unlock(%s)", (DELIVERY_LOCK_KEY,))
        await bench.drained()
    bench.agree()
