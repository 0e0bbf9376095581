"""The check of performance: it passes what is as fast as before, and finds a kernel that does its work twice."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray
from perf.book import Timing, time_kernel
from perf.results import Result, load, make_result

from perf import check

FEW_TURNS = 5


@pytest.fixture(autouse=True)
def _few_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "TURNS", FEW_TURNS)
    monkeypatch.setattr(check, "COMMANDS", 50_000)


def slowed(times: int) -> Callable[[NDArray[np.void], int], Timing]:
    """Give a kernel that does everything so many times."""

    def time_slowed(commands: NDArray[np.void], prefill: int) -> Timing:
        timings = [time_kernel(commands, prefill) for _ in range(times)]
        return Timing(sum(timing.seconds for timing in timings), timings[0].us_per_command)

    return time_slowed


@pytest.mark.long
def test_slow_kernel_is_found(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A kernel that does all its work four times fails the check, which says how much is lost and since when."""
    stored = check.measure_kernel()
    monkeypatch.setattr(check, "time_kernel", slowed(4))
    assert check.check_kernel(stored) == 1
    said = capsys.readouterr().out
    assert "kernel.mixed_per_s" in said
    assert f"slower than on {stored.measured_at}" in said


def test_slow_machine_is_no_slow_kernel() -> None:
    """When everything is slower, the yardstick too, nothing is lost."""
    stored = make_result("kernel", 8.0, {"mixed_per_s": 9_000_000, "chain_per_s": 8_000_000, "trades": 7})
    slow = msgspec.structs.replace(
        stored, yardstick_ns=16.0, figures={"mixed_per_s": 4_500_000, "chain_per_s": 2_000_000, "trades": 7}
    )
    assert check.compare(stored, slow) == pytest.approx({"kernel.mixed_per_s": 0.0, "kernel.chain_per_s": 0.5})


def test_one_slow_measurement_is_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was slow once is measured again, because machines hiccup; what stays slow fails."""
    stored = make_result("kernel", 8.0, {"mixed_per_s": 9_000_000})
    slow = msgspec.structs.replace(stored, figures={"mixed_per_s": 6_000_000})
    measured = iter([slow, stored, slow, slow])
    monkeypatch.setattr(check, "measure_kernel", lambda: next(measured))
    assert check.check_kernel(stored) == 0
    assert check.check_kernel(stored) == 1


def test_stored_kernel_is_comparable() -> None:
    """What is stored of the kernel has every figure that is measured."""
    stored: Result = load(check.KERNEL)
    measured: dict[str, Any] = check.measure_kernel().figures
    assert stored.figures.keys() == measured.keys()
    assert stored.yardstick_ns > 0
