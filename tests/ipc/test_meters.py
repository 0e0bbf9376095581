"""Meters: how busy an actor is, and what it logs, on its metric page."""

from __future__ import annotations

import logging
import time

import trio

from tradeengine.ipc.meters import BusyTime, LineCounter, LoopMeter, measured
from tradeengine.ipc.metric_families import family_of, split_labels
from tradeengine.ipc.metric_names import ERROR_LINES, EVERYWHERE, TASKS, WARNING_LINES
from tradeengine.ipc.metrics import MetricPage


def make_page() -> MetricPage:
    """Make a page with what every actor has."""
    return MetricPage.create("front-0", "front", EVERYWHERE, (TASKS,))


def test_parts_of_a_microsecond_add_up() -> None:
    """A thousand rounds of 1,300 ns are 1,300 µs, though each counts as one."""
    page = make_page()
    busy = BusyTime(page)
    for _ in range(1000):
        busy.add(1300)
    assert page.snapshot().counters["busy_us"] == 1300


def test_rounds_that_do_nothing_are_sleep() -> None:
    """A round is busy time when it says that it did something; what it says is passed on."""
    page, did = make_page(), iter((0, 5))

    def duty() -> int:
        time.sleep(0.002)
        return next(did)

    work = measured(page, duty)
    assert work() == 0
    assert page.snapshot().counters["busy_us"] == 0
    assert work() == 5
    assert page.snapshot().counters["busy_us"] >= 2000


def test_loop_is_busy_between_its_sleeps() -> None:
    """What a trio program works is counted, what it sleeps is not."""
    page = make_page()

    async def work_and_sleep() -> None:
        time.sleep(0.01)  # noqa: ASYNC251 - stands for work, which lets nobody else run either
        await trio.sleep(0.5)

    began_ns = time.perf_counter_ns()
    trio.run(work_and_sleep, instruments=[LoopMeter(page)])
    elapsed_us = (time.perf_counter_ns() - began_ns) // 1000
    # Deadlines are moments: what passes until trio looks at the clock again is not slept.
    assert 10_000 <= page.snapshot().counters["busy_us"] <= elapsed_us - 450_000


def test_tasks_of_a_loop_are_counted() -> None:
    """A trio program's page says how many tasks it has: those that leak are seen."""
    page = make_page()

    async def live() -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(trio.sleep_forever)
            while page.snapshot().gauges[TASKS] <= 20:  # noqa: ASYNC110 - nobody tells of a page
                await trio.sleep(0.01)
            assert page.snapshot().gauges[TASKS] == trio.lowlevel.current_statistics().tasks_living
            nursery.cancel_scope.cancel()

    trio.run(live, instruments=[LoopMeter(page)])


def test_lines_are_counted_by_level() -> None:
    """Warnings and errors are counted, whoever logs them; what is less is not."""
    page = make_page()
    logger, counter = logging.Logger("actor"), LineCounter(page)
    logger.addHandler(counter)
    logger.info("one")
    logger.warning("two")
    logger.error("three")
    logger.critical("four")
    counters = page.snapshot().counters
    assert (counters[WARNING_LINES], counters[ERROR_LINES]) == (1, 2)


def test_names_are_shown_in_base_units() -> None:
    """The end of a name says its unit; shown is the base unit, and by how much the page's numbers are divided."""
    shown = {
        ("matcher", "histogram", "sync_latency_us"): ("tradeengine_matcher_sync_latency_seconds", 10**6),
        ("keeper", "gauge", "reconciled_at_s"): ("tradeengine_keeper_reconciled_timestamp_seconds", 1),
        ("wallet", "gauge", "outbox_oldest_age_s"): ("tradeengine_wallet_outbox_oldest_age_seconds", 1),
        ("operator", "gauge", "clock_offset_ns"): ("tradeengine_operator_clock_offset_seconds", 10**9),
        ("matcher", "counter", "journal_bytes"): ("tradeengine_matcher_journal_bytes_total", 1),
        ("risk", "counter", "busy_us"): ("tradeengine_actor_busy_seconds_total", 10**6),
        ("front", "counter", "http_requests"): ("tradeengine_http_requests_total", 1),
    }
    for (role, kind, name), (family, divisor) in shown.items():
        found = family_of(role, kind, name)
        assert (found.name, found.kind, found.divisor) == (family, kind, divisor)
    assert split_labels('requests{route="/orders/{order_id}",code="200"}') == (
        "requests",
        'route="/orders/{order_id}",code="200"',
    )
