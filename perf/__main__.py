"""All benchmarks, one after the other, as ``python -m perf.NAME`` would run each: ``make perf``.

Each prints its topology, percentiles and the machine, and as its last line one JSON object. The first that fails ends
the run with its exit status.
"""

from __future__ import annotations

import subprocess
import sys
from typing import Final

BENCHMARKS: Final = (
    "book",
    "ring",
    "settlement",
    "recovery",
    "pipeline",
    "rest",
    "market_data",
    "streams",
    "reconcile",
    "wallet_service",
    "wallet",
)


def main() -> int:
    """Run them in order; give the exit status of the first that fails, else 0."""
    for name in BENCHMARKS:
        print(f"== {name}", flush=True)
        status = subprocess.run([sys.executable, "-m", f"perf.{name}"], check=False).returncode
        if status:
            return status
    return 0


if __name__ == "__main__":
    sys.exit(main())
