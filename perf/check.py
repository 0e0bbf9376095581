"""Whether the program became slower: measures again and compares with what is stored, yardstick by yardstick.

``python -m perf.check`` (``make perf-check``) measures the order book's kernel: streams of commands and the yardstick
take turns, the best of each counts, and what is compared is commands per step of the yardstick. More than 30 % lost,
also when it is measured once more, ends with 1. With names (``python -m perf.check rest pipeline``) it runs these
benchmarks too and compares what they do per second, for people to read: whole engines on a shared machine vary by more.
``--store`` stores what was measured instead of comparing it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from typing import Any, Final

from perf.book import time_kernel
from perf.results import Result, load, make_result, store
from perf.workloads import PREFILL, make_chain, make_mixed, to_commands
from perf.yardstick import yardstick_ns

KERNEL: Final = "kernel"
COMMANDS: Final = 200_000
TURNS: Final = 25
LOSS_MAX: Final = 0.30
"""What is lost of the speed that is stored."""


def main() -> int:
    """Measure, then compare or store; returns the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("benchmarks", nargs="*", help="benchmarks to run beside the kernel's own check")
    parser.add_argument("--store", action="store_true", help="store what is measured, compare nothing")
    arguments = parser.parse_args()
    if arguments.store:
        for result in (measure_kernel(), *map(run_benchmark, arguments.benchmarks)):
            print(f"stored {store(result)}")
        return 0
    for name in arguments.benchmarks:
        show(compare(load(name), run_benchmark(name)))
    return check_kernel(load(KERNEL))


def check_kernel(stored: Result) -> int:
    """Compare the kernel with what is stored, twice before it is called slow; returns the exit status."""
    for _ in range(2):
        losses = compare(stored, measure_kernel())
        show(losses)
        if max(losses.values()) <= LOSS_MAX:
            return 0
    print(f"the kernel is more than {LOSS_MAX:.0%} slower than on {stored.measured_at} ({stored.commit})")
    return 1


def measure_kernel() -> Result:
    """Time streams of commands and the yardstick in turns; ``…_per_s``: at the best of each."""
    streams = {}
    for name, workload in (("mixed", make_mixed(COMMANDS, 20_000, 7)), ("chain", make_chain(COMMANDS, 2_000, 7))):
        streams[name] = to_commands(workload.rows), int((workload.rows["op"] == PREFILL).sum())
    seconds: dict[str, list[float]] = {name: [] for name in streams}
    steps_ns = []
    for _ in range(TURNS):
        steps_ns.append(yardstick_ns())
        for name, (commands, prefill) in streams.items():
            seconds[name].append(time_kernel(commands, prefill).seconds)
    figures = {f"{name}_per_s": round(COMMANDS / min(spent)) for name, spent in seconds.items()}
    return make_result(KERNEL, min(steps_ns), figures)


def run_benchmark(name: str) -> Result:
    """Run a benchmark between two looks at the yardstick. Raises SystemExit with its status when it fails."""
    before_ns = yardstick_ns()
    figures = last_line(name)
    return make_result(name, (before_ns + yardstick_ns()) / 2, figures)


def last_line(name: str) -> dict[str, Any]:
    """Run a benchmark, pass on what it prints, and give the JSON object that is its last line."""
    line = ""
    with subprocess.Popen([sys.executable, "-m", f"perf.{name}"], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
    if process.returncode:
        raise SystemExit(process.returncode)
    figures: dict[str, Any] = json.loads(line)
    return figures


def compare(stored: Result, measured: Result) -> dict[str, float]:
    """Say by name what share of its speed each figure has lost, negative: won, both in steps of their yardsticks."""
    losses = {}
    for name, before in stored.figures.items():
        if name.endswith("_per_s") and name in measured.figures:
            after = measured.figures[name]
            losses[f"{measured.benchmark}.{name}"] = 1 - after * measured.yardstick_ns / (before * stored.yardstick_ns)
    return losses


def show(losses: dict[str, float]) -> None:
    """Print each figure's loss or gain."""
    for name, loss in losses.items():
        print(f"{name:40} {'lost' if loss > 0 else 'won'} {abs(loss):6.1%}")


if __name__ == "__main__":
    sys.exit(main())
