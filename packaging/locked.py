"""Prints the part of requirements.lock that some packages need: those of the program, or those that are named.

The lock file is one for everything, development too, so that what is tested is what runs; on a server only what runs
is wanted. uv notes below each package who needs it (``via``); what is followed here are these notes. Standard library
only, because nothing is installed yet.

    packaging/locked.py               what the program needs
    packaging/locked.py hatchling     what a package of the lock file needs
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

PROGRAM = "tradeengine (pyproject.toml)"


def main() -> None:
    """Print the entries, hashes and markers included, in the order of the file."""
    text = (Path(__file__).parents[1] / "requirements.lock").read_text(encoding="utf-8")
    sys.stdout.write("".join(needed(text, sys.argv[1:])))


def needed(text: str, names: list[str]) -> list[str]:
    """Choose the entries of a lock file that packages need, themselves included; without names: the program."""
    entries = {entry.partition("==")[0]: entry for entry in re.split(r"^(?=[a-z0-9])", text, flags=re.MULTILINE)[1:]}
    unknown = set(names) - entries.keys()
    if unknown:
        raise SystemExit(f"not in requirements.lock: {', '.join(sorted(unknown))}")
    wanted = set(names or [PROGRAM])
    while True:
        more = {name for name, entry in entries.items() if wanted & needed_by(entry)} | wanted
        if more == wanted:
            return [entry for name, entry in entries.items() if name in wanted]
        wanted = more


def needed_by(entry: str) -> set[str]:
    """Name who needs a package, as the comment below its entry says."""
    return set(re.findall(r"^ +# +(?:via )?(\S.*)$", entry.replace("# via\n", ""), flags=re.MULTILINE))


if __name__ == "__main__":
    main()
