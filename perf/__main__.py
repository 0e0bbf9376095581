"""All benchmarks, one after the other, as ``python -m perf.NAME`` would run each: ``make perf``.

Each prints its topology, percentiles and the machine, and as its last line one JSON object, which is stored in
``perf/results`` to compare later ones with. The first that fails ends the run with its exit status. The soak is left to
``make soak``.
"""

from __future__ import annotations

from typing import Final

from perf.check import measure_kernel, run_benchmark
from perf.results import store

BENCHMARKS: Final = (
    "book",
    "ring",
    "settlement",
    "recovery",
    "restart",
    "pipeline",
    "halting",
    "rest",
    "operations",
    "market_data",
    "streams",
    "reconcile",
    "verify",
    "wallet_service",
    "wallet",
    "overload",
)


def main() -> None:
    """Run and store them in order. Raises SystemExit with the status of the first that fails."""
    store(measure_kernel())
    for name in BENCHMARKS:
        print(f"== {name}", flush=True)
        store(run_benchmark(name))


if __name__ == "__main__":
    main()
