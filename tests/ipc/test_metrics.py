"""Metric pages: what an actor counts is what anyone reads, also after its process was replaced."""

import os

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.ipc.processes import Fd, Given, child, finish

from tradeengine.ipc.histogram import BUCKET_COUNT, bucket_index
from tradeengine.ipc.metrics import BUCKET_BOUNDS, MetricPage
from tradeengine.ipc.segment import Segment


def make_page() -> MetricPage:
    """Make a page with two of everything."""
    return MetricPage.create("risk", "risk", ["orders", "refusals"], ["lag", "free"], ["wait_us", "work_us"])


def test_reader_sees_what_the_actor_counts() -> None:
    """A reader that has nothing but a read-only descriptor sees all names and numbers."""
    page = make_page()
    reader = MetricPage.attach(page.segment.read_only_descriptor(), writable=False)
    page.add(page.counter("refusals"))
    page.add(page.counter("refusals"), 4)
    page.set(page.gauge("lag"), 9)
    page.set(page.gauge("lag"), -2)
    page.record(page.histogram("work_us"), 30)
    snapshot = reader.snapshot()
    assert (snapshot.name, snapshot.role) == ("risk", "risk")
    assert snapshot.counters == {"orders": 0, "refusals": 5}
    assert snapshot.gauges == {"lag": -2, "free": 0}
    assert [(name, histogram.count) for name, histogram in snapshot.histograms.items()] == [
        ("wait_us", 0),
        ("work_us", 1),
    ]


def test_page_outlives_its_process() -> None:
    """Counters of a killed actor go on with its successor; pid, start and heartbeat are the successor's."""
    page = make_page()
    assert (page.pid, page.heartbeat_ns) == (0, 0)
    for count in (1, 2):
        with child(work, Fd(page.fd)) as actor:
            finish(actor)
            snapshot = page.snapshot()
            assert snapshot.pid == actor.pid
            assert snapshot.counters["orders"] == 10 * count
            assert 0 < snapshot.started_ns <= snapshot.heartbeat_ns


def test_state_is_a_code_and_a_text() -> None:
    """The state is replaced as a whole; a text that is too long is cut."""
    page = make_page()
    assert (page.snapshot().state_code, page.snapshot().state) == (0, "")
    page.set_state(3, "settlement stopped: event 17")
    page.set_state(4, "ready")
    assert (page.snapshot().state_code, page.snapshot().state) == (4, "ready")
    page.set_state(5, "x" * 500)
    assert page.snapshot().state == "x" * 120


@given(st.lists(st.integers(-5, 1 << 62), min_size=1, max_size=50))
def test_array_counts_as_its_values(values: list[int]) -> None:
    """Recording an array in compiled code is the same as recording its values one by one."""
    values = [value >> 8 for value in values]
    page = make_page()
    for value in values:
        page.record(0, value)
    page.record(1, np.array(values))
    single, batch = page.snapshot().histograms.values()
    assert np.array_equal(single.buckets, batch.buckets)
    assert (single.count, single.sum, single.max) == (batch.count, batch.sum, batch.max)
    assert single.mean == sum(max(value, 0) for value in values) / len(values)


@given(st.lists(st.integers(0, (1 << 40) - 1), min_size=1, max_size=50), st.floats(0, 100))
def test_percentile_is_close_and_never_low(values: list[int], percent: float) -> None:
    """A percentile is at least the true one and at most a sixteenth above it; the top one is the maximum."""
    page = make_page()
    page.record(0, np.array(values))
    histogram = page.snapshot().histograms["wait_us"]
    exact = sorted(values)[max(int(np.ceil(len(values) * percent / 100)), 1) - 1]
    assert exact <= histogram.percentile(percent) <= exact + exact // 16
    assert histogram.percentile(100) == max(values)


def test_buckets_cover_all_values_once() -> None:
    """Bounds ascend, and each bucket holds exactly the values from the one before it to its own bound."""
    assert len(BUCKET_BOUNDS) == BUCKET_COUNT
    for index, bound in enumerate(BUCKET_BOUNDS.tolist()):
        assert bucket_index(bound) == index
        assert index == BUCKET_COUNT - 1 or bucket_index(bound + 1) == index + 1
    assert bucket_index(1 << 62) == BUCKET_COUNT - 1


def test_difference_of_two_snapshots() -> None:
    """What was recorded between two snapshots is their difference."""
    page = make_page()
    assert page.snapshot().histograms["wait_us"].percentile(99) == 0
    assert page.snapshot().histograms["wait_us"].mean == 0
    page.record(0, 1000)
    earlier = page.snapshot().histograms["wait_us"]
    page.record(0, 10)
    recent = page.snapshot().histograms["wait_us"].minus(earlier)
    assert (recent.count, recent.sum, recent.percentile(50)) == (1, 10, 10)


def test_unknown_name_and_foreign_segment() -> None:
    """A name that the page does not have, and memory that is no page, are refused."""
    with pytest.raises(ValueError, match="not in tuple"):
        make_page().counter("nothing")
    other = Segment.create("other", 4096)
    with pytest.raises(msgspec.DecodeError):
        MetricPage.attach(os.dup(other.fd), writable=True)


def test_spare_places_are_named_once_and_for_all() -> None:
    """A name has one place, for readers too and after a restart; when all are taken, others share the one given."""
    page = MetricPage.create("front-0", "front", ["other"], [], ["rest_us"], spare_counters=2, spare_histograms=1)
    reader = MetricPage.attach(page.segment.read_only_descriptor(), writable=False)
    assert reader.snapshot().counters == {"other": 0}
    first = page.name_counter('requests{code="200"}', 0)
    assert page.name_counter('requests{code="200"}', 0) == first
    page.add(first, 3)
    next_process = MetricPage.attach(os.dup(page.fd), writable=True)
    next_process.add(next_process.name_counter('requests{code="200"}', 0))
    next_process.add(next_process.name_counter('requests{code="404"}', 0))
    assert next_process.name_counter('requests{code="500"}', 0) == 0
    assert next_process.name_counter("other", 0) == 0
    assert reader.snapshot().counters == {"other": 0, 'requests{code="200"}': 4, 'requests{code="404"}': 1}
    page.record(page.name_histogram('took_us{route="/"}', 0), 7)
    page.record(page.name_histogram('took_us{route="/orders"}', 0), 9)
    assert {name: found.sum for name, found in reader.snapshot().histograms.items()} == {
        "rest_us": 9,
        'took_us{route="/"}': 7,
    }


def work(fd: Given) -> None:
    """Be an actor for ten orders."""
    page = MetricPage.attach(fd(), writable=True)
    page.started()
    page.add(page.counter("orders"), 10)
    page.heartbeat()
