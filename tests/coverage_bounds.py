"""What `make coverage` demands of the figures that it measured; ends with 1 and names what is missing.

Lines and branches count together where the whole is demanded: a function that nothing calls has no branch to miss.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Final

from coverage import Coverage

LINES_OVERALL: Final = 90.0
LINES_PER_PACKAGE: Final = 80.0
WHOLE: Final[Mapping[str, str]] = {
    "src/core/*.py": "decides on every order and every unit of money",
    "src/storage/journal*.py": "what is acknowledged is in it and nowhere else",
    "src/storage/snapshots.py": "a journal's beginning, once its first segments are gone",
    "src/web/placing.py": "makes commands of what clients send",
    "src/web/batches.py": "makes many commands of what clients send",
    "src/web/trading.py": "sends commands, and says what became of them",
    "src/web/routes/orders.py": "order placement over HTTP",
    "src/actors/risk*.py": "takes holds, and what is on its way when it starts again",
    "src/actors/settlement*.py": "brings events to the ledger, once each",
    "src/storage/settle*.py": "the settlement transaction",
    "src/storage/recovery.py": "what risk begins with",
}
"""Files of which every line and branch is taken in some test, and why these."""

Files = Mapping[str, Mapping[str, Any]]


def main() -> int:
    """Compare the combined measurement with the bounds, print both; returns the exit status."""
    files = measured()
    shortfalls = [*_shortfalls_of_lines(files), *_shortfalls_of_branches(files)]
    for shortfall in shortfalls:
        sys.stderr.write(f"{shortfall}\n")
    return 1 if shortfalls else 0


def measured() -> Files:
    """Give what coverage's JSON report says of each file, by its path from the project's folder."""
    coverage = Coverage()
    coverage.load()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "coverage.json")
        coverage.json_report(outfile=str(path))
        files: Files = json.loads(path.read_text(encoding="utf-8"))["files"]
    return files


def percent(covered: int, of: int) -> float:
    """Give the share; of nothing all is covered."""
    return 100.0 * covered / of if of else 100.0


def _shortfalls_of_lines(files: Files) -> Iterator[str]:
    packages: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for path, file in files.items():
        packages[str(Path(path).parent)].append(file["summary"])
    for package, summaries in [*sorted(packages.items()), ("all", [file["summary"] for file in files.values()])]:
        lines = percent(sum(s["covered_lines"] for s in summaries), sum(s["num_statements"] for s in summaries))
        bound = LINES_OVERALL if package == "all" else LINES_PER_PACKAGE
        sys.stdout.write(f"{package:<30} {lines:5.1f} % of lines\n")
        if lines < bound:
            yield f"{package}: {lines:.1f} % of lines, wanted {bound:.0f}"


def _shortfalls_of_branches(files: Files) -> Iterator[str]:
    for pattern in WHOLE:
        paths = [
            path for path in sorted(files) if fnmatch(path, pattern) and "/" not in path.removeprefix(_folder(pattern))
        ]
        if not paths:
            yield f"{pattern}: no such file"
        for path in paths:
            summary = files[path]["summary"]
            branches = percent(summary["covered_branches"], summary["num_branches"])
            places = [f"{line}" for line in files[path]["missing_lines"]]
            places += [f"{start}->{end if end > 0 else 'exit'}" for start, end in files[path]["missing_branches"]]
            if places:
                yield f"{path}: {branches:.1f} % of branches, wanted 100; not taken: {', '.join(places)}"


def _folder(pattern: str) -> str:
    return pattern.rpartition("/")[0] + "/"


if __name__ == "__main__":
    sys.exit(main())
