"""Run simulated schedules: ``python -m tests.simulation --seeds 0..10000``, or one of them: ``--seed 17 --trace``."""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import fields

from tests.simulation.engine import Counts
from tests.simulation.schedule import run, shorten


def main() -> int:
    """Run what is asked for; a failing seed is told in one line that repeats it. Ends with 1 when one failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", default="0..1000", help="FIRST..LAST, the last one not included")
    parser.add_argument("--seed", type=int, help="this one only")
    parser.add_argument("--steps", help="only these of its steps, by their places: 3,5,8")
    parser.add_argument("--trace", action="store_true", help="tell what happens")
    parser.add_argument("--failures", type=int, default=5, help="end after so many")
    terms = parser.parse_args()
    if terms.seed is not None:
        keep = None if terms.steps is None else [int(place) for place in terms.steps.split(",") if place]
        result = run(terms.seed, keep, tell if terms.trace else None)
        tell(result.failure or "everything holds")
        return 1 if result.failure else 0
    first, _, last = terms.seeds.partition("..")
    return run_many(int(first), int(last), terms.failures)


def run_many(first: int, last: int, failures_max: int) -> int:
    """Run a range of seeds; gives 1 when a promise was broken."""
    total, failures, began_s = Counts(), 0, time.monotonic()
    for seed in range(first, last):
        result = run(seed)
        total.add(result.counts)
        if result.failure:
            failures += 1
            steps = ",".join(map(str, shorten(seed, result.failure)))
            tell(f"FAILED: {result.failure}\n  python -m tests.simulation --seed {seed} --steps {steps} --trace")
            if failures == failures_max:
                break
    duration_s = time.monotonic() - began_s
    tell(", ".join(f"{getattr(total, entry.name)} {entry.name.replace('_', ' ')}" for entry in fields(Counts)))
    tell(f"{failures} failed; {total.schedules / duration_s * 60:.0f} schedules a minute")
    return 1 if failures else 0


def tell(text: str) -> None:
    """Tell it at once, whoever reads."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
