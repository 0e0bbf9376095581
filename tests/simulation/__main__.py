"""Run simulated schedules: ``python -m tests.simulation --seeds 0..10000``, or one of them: ``--seed 17 --trace``."""

from __future__ import annotations

import argparse
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import fields
from functools import partial
from typing import TYPE_CHECKING, Final

from tests.simulation.engine import Counts
from tests.simulation.schedule import Result, run, shorten

if TYPE_CHECKING:
    from collections.abc import Iterator

CHUNK_SEEDS: Final = 20
"""Seeds that a worker takes at once."""
NS_PER_MINUTE: Final = 60 * 10**9


def main() -> int:
    """Run what is asked for; a failing seed is told in one line that repeats it. Ends with 1 when one failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", default="0..1000", help="FIRST..LAST, the last one not included")
    parser.add_argument("--seed", type=int, help="this one only")
    parser.add_argument("--steps", help="only these of its steps, by their places: 3,5,8")
    parser.add_argument("--trace", action="store_true", help="tell what happens")
    parser.add_argument("--failures", type=int, default=5, help="end after so many")
    parser.add_argument("--minutes", type=float, default=600.0, help="end after so long")
    parser.add_argument("--workers", type=int, default=1, help="processes side by side")
    terms = parser.parse_args()
    if terms.seed is not None:
        keep = None if terms.steps is None else [int(place) for place in terms.steps.split(",") if place]
        result = run(terms.seed, keep, tell if terms.trace else None)
        tell(result.failure or "everything holds")
        return 1 if result.failure else 0
    first, _, last = terms.seeds.partition("..")
    return run_many(range(int(first), int(last)), terms.failures, terms.minutes, terms.workers)


def run_many(seeds: range, failures_max: int = 5, minutes_max: float = 600.0, workers: int = 1) -> int:
    """Run a range of seeds; gives 1 when a promise was broken."""
    total, failures, began_ns = Counts(), 0, time.monotonic_ns()
    try:
        for result in _results(seeds, workers, began_ns + int(minutes_max * NS_PER_MINUTE)):
            total.add(result.counts)
            if result.failure:
                failures += 1
                _tell_failure(result)
                if failures >= failures_max:
                    break
    except KeyboardInterrupt:
        tell("ended before all seeds were run")
    minutes = (time.monotonic_ns() - began_ns) / NS_PER_MINUTE
    tell(", ".join(f"{getattr(total, entry.name)} {entry.name.replace('_', ' ')}" for entry in fields(Counts)))
    tell(f"{failures} failed; {minutes:.1f} minutes, {total.schedules / minutes:.0f} schedules a minute")
    return 1 if failures else 0


def _results(seeds: range, workers: int, ends_ns: int) -> Iterator[Result]:
    """Run seeds until the time is over, here or in processes of their own."""
    chunks = [seeds[start : start + CHUNK_SEEDS] for start in range(0, len(seeds), CHUNK_SEEDS)]
    work = partial(_run_chunk, ends_ns)
    if workers == 1:
        for chunk in chunks:
            yield from work(chunk)
        return
    with ProcessPoolExecutor(workers) as pool:
        for results in pool.map(work, chunks):
            yield from results
            if time.monotonic_ns() > ends_ns:
                pool.shutdown(cancel_futures=True)
                return


def _run_chunk(ends_ns: int, seeds: range) -> list[Result]:
    return [run(seed) for seed in seeds if time.monotonic_ns() < ends_ns]


def _tell_failure(result: Result) -> None:
    steps = ",".join(map(str, shorten(result.seed, result.failure)))
    tell(f"FAILED: {result.failure}\n  python -m tests.simulation --seed {result.seed} --steps {steps} --trace")


def tell(text: str) -> None:
    """Tell it at once, whoever reads."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
