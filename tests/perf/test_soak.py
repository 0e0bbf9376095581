"""The soak's verdict: what is flat passes, what grows, drifts or fails does not."""

from __future__ import annotations

import math
import os
import random
import re
import xml.etree.ElementTree as ET
from collections import Counter
from pathlib import Path

import pytest
from perf.figures import percentile
from perf.soak_picture import Panel, draw_panels, step_of
from perf.soak_programs import Programs
from perf.soak_samples import look_at, watched
from perf.soak_verdict import (
    CALLS_MIN,
    GROWTH_KIB_FORGIVEN,
    growth,
    judge_count,
    judge_drift,
    judge_memory,
)

TIMES_S = [5.0 * number for number in range(120)]
LARGE_KIB = 200 * 1024


def noisy(start: float, rise: float, noise: float) -> list[float]:
    """Give a series that rises evenly, with noise that repeats itself."""
    chance = random.Random(7)
    return [start + rise * place / len(TIMES_S) + chance.uniform(-noise, noise) for place in range(len(TIMES_S))]


def latencies(p99_ms: int, minutes: int) -> list[Counter[int]]:
    """Give minutes of which each has this 99th percentile."""
    return [Counter({5: CALLS_MIN * 97 // 100, p99_ms: CALLS_MIN * 3 // 100}) for _ in range(minutes)]


def test_flat_memory_passes() -> None:
    """Memory that goes up and down and does not rise is flat, and so is one that falls."""
    assert judge_memory(TIMES_S, noisy(LARGE_KIB, 0, 2000)) is None
    assert judge_memory(TIMES_S, noisy(LARGE_KIB, -20_000, 2000)) is None


def test_memory_that_rises_is_found() -> None:
    """Three per cent over the time are too much, however noisy; one per cent is not."""
    fault = judge_memory(TIMES_S, noisy(LARGE_KIB, LARGE_KIB * 0.03, 2000))
    assert fault is not None
    assert re.search(r"MiB, (2\.[89]|3\.[012])%", fault)
    assert judge_memory(TIMES_S, noisy(LARGE_KIB, LARGE_KIB * 0.01, 2000)) is None


def test_small_process_is_forgiven_a_little() -> None:
    """Of a small process so much is forgiven, and no more; of an actor of many processes so much for each."""
    assert judge_memory(TIMES_S, noisy(20_000, GROWTH_KIB_FORGIVEN * 0.9, 0)) is None
    assert judge_memory(TIMES_S, noisy(20_000, GROWTH_KIB_FORGIVEN * 1.2, 0)) is not None
    assert judge_memory(TIMES_S, noisy(20_000, GROWTH_KIB_FORGIVEN * 1.2, 0), 2) is None


def test_peaks_are_no_growth() -> None:
    """What is taken for a moment, more of it towards the end, does not count."""
    values = noisy(LARGE_KIB, 0, 100)
    for place in (60, 80, 95, 105, 112, 117):
        values[place] += 100_000
    assert judge_memory(TIMES_S, values) is None


def test_leaking_descriptors_are_found() -> None:
    """A few that come and go pass, two more every minute do not."""
    comes_and_goes = [200.0 + place % 10 for place in range(len(TIMES_S))]
    assert judge_count(TIMES_S, comes_and_goes, "descriptors") is None
    assert judge_count(TIMES_S, [50 + time_s // 30 for time_s in TIMES_S], "descriptors") is not None


def test_line_of_one_sample_is_flat() -> None:
    """Nothing is said of what was looked at once, or never."""
    assert growth([1.0], [5.0]).rise == 0
    assert growth([], []).rise == 0


def test_percentiles_of_counted_latencies() -> None:
    """A percentile is a latency that was measured; of none it is 0."""
    assert percentile({1: 98, 50: 1, 70: 1}, 99) == 50
    assert percentile({1: 98, 50: 1, 70: 1}, 50) == 1
    assert percentile({}, 99) == 0


def test_drift_is_found() -> None:
    """A 99th percentile that doubles from the first third to the last has drifted; one that varies has not."""
    control = latencies(2, 12)
    assert judge_drift(latencies(30, 6) + latencies(60, 6), control) is not None
    assert judge_drift(latencies(30, 6) + latencies(36, 6), control) is None
    assert judge_drift(latencies(3, 6) + latencies(6, 6), control) is None, "a few milliseconds are none"
    one_bad = latencies(30, 12)
    one_bad[11] = latencies(900, 1)[0]
    assert judge_drift(one_bad, control) is None, "one bad minute is none"


def test_machine_that_got_slower_is_no_drift() -> None:
    """What took the control twice as long is not the engine's."""
    slower = latencies(10, 6) + latencies(20, 6)
    assert judge_drift(latencies(30, 6) + latencies(60, 6), slower) is None
    assert judge_drift(latencies(30, 6) + latencies(120, 6), slower) is not None


def test_few_calls_are_not_judged() -> None:
    """Where there are few calls, or few minutes, nothing is compared."""
    few = [Counter({5: 3, 900: 1}) for _ in range(12)]
    assert judge_drift(few, latencies(2, 12)) is None
    assert judge_drift(latencies(30, 2) + latencies(90, 2), latencies(2, 4)) is None


def test_minutes_with_few_calls_are_joined() -> None:
    """A third of the calls in each minute is enough once there are three times as many minutes, and drift is found."""

    def thin(p99_ms: int, minutes: int) -> list[Counter[int]]:
        return [Counter({5: CALLS_MIN // 3 - 3, p99_ms: 3}) for _ in range(minutes)]

    assert judge_drift(thin(30, 6) + thin(60, 6), latencies(2, 12)) is None
    assert judge_drift(thin(30, 18) + thin(60, 18), latencies(2, 36)) is not None
    assert judge_drift(thin(30, 36), latencies(2, 36)) is None


def test_metrics_that_must_be_zero_are_added_up() -> None:
    """All actors' samples of a family count, and of lines that were logged only the errors."""
    found = watched(
        {
            'tradeengine_actor_log_lines_total{actor="risk",role="risk",level="error"}': 1,
            'tradeengine_actor_log_lines_total{actor="front-0",role="front",level="error"}': 2,
            'tradeengine_actor_log_lines_total{actor="front-0",role="front",level="warning"}': 9,
            'tradeengine_actor_restarts_total{actor="risk",role="risk"}': 4,
        }
    )
    assert found["errors logged"] == 3
    assert found["restarts"] == 4
    assert found["replays that differ"] == 0


def test_process_is_looked_at() -> None:
    """This process has memory, threads and descriptors; one that is gone has none of it."""
    look = look_at(os.getpid(), 5)
    assert look.own_kib > 1000
    assert look.threads >= 1
    assert look.descriptors >= 3
    assert look.tasks == 5
    assert look_at(1 << 30, 0).resident_kib == 0


def test_program_is_heard_to_its_end() -> None:
    """A program beside the engine is told to end, says its last line first, and its latencies are kept by minutes."""
    with Programs() as programs:
        control = programs.start("control", {})
        programs.check()
        programs.stop()
        (of_minutes,) = control.latencies.values()
        assert sum(minute.total() for minute in of_minutes.values()) == control.total("control") > 0
        # The minute in which it ended is no whole one.
        whole = sum(minute.total() for number, minute in of_minutes.items() if number != max(of_minutes))
        assert sum(minute.total() for minute in programs.minutes("control", -60)) == whole
        assert programs.unexpected() == []
        with pytest.raises(RuntimeError, match="soak_control"):
            programs.check()


def test_unexpected_is_told_once_with_its_count() -> None:
    """The same fault many times is one line; what was not told in full is counted, and a warm-up's is forgotten."""
    with Programs() as programs:
        control = programs.start("control", {})
        programs.stop()
        control.unexpected += ["wrong"] * 3
        control.counts["unexpected"] += 5
        assert programs.unexpected() == ["wrong (3 ×)", "2 more of what was not expected"]
        programs.forget_unexpected()
        assert programs.unexpected() == []
        assert control.counts["unexpected_in_warm_up"] == 5


def test_picture_is_drawn(tmp_path: Path) -> None:
    """A picture is well-formed, has a line for each actor, and says nothing that is no number."""
    path = tmp_path / "soak.svg"
    lines = {"risk": [(0.0, 90.0), (10.0, 95.0)], "front-0": [(0.0, 120.0), (10.0, 130.5)], "gone": []}
    draw_panels(path, "A soak", [Panel("memory, MiB", lines), Panel("p99, ms", {"POST": [(1.0, 12.0)]})], 2.0)
    text = path.read_text()
    ET.parse(path)  # noqa: S314 - our own
    assert text.count("<polyline") == 3
    assert "nan" not in text
    assert "front-0" in text


@pytest.mark.parametrize("largest", [0.4, 1, 7, 12, 99, 130, 4000])
def test_steps_are_few_and_round(largest: float) -> None:
    """An axis has at most eight lines, at 1, 2 or 5 times a power of ten."""
    step = step_of(largest)
    assert largest / step <= 8
    assert step / 10 ** math.floor(math.log10(step)) == pytest.approx(1, abs=1e-9) or step in {
        mantissa * 10.0**power for mantissa in (2, 5) for power in range(-3, 6)
    }
