"""Strike a running engine at random, and see that it keeps its promises: ``python -m tests.faults --help``.

The seed decides everything that is wanted and every fault, before the engine starts; when the machine is slow, less
of it happens. A round that finds something keeps its folder, and says how to run it again.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

import trio
from tests.faults.harness.faults import FAULTS
from tests.faults.harness.kinds import struck_names
from tests.faults.harness.plan import PAUSE_S_MAX, Plan, make_plan
from tests.faults.harness.report import Summary
from tests.faults.harness.rounds import Round, run_round


def main() -> int:
    """Run rounds; returns 1 when any found something."""
    options = _options()
    faults = [] if options.faults == "none" else options.faults.split(",")
    only = options.only.split(",") if options.only else []
    if unknown := set(faults) - FAULTS.keys():
        sys.stderr.write(f"no such fault: {', '.join(sorted(unknown))}; there are {', '.join(FAULTS)}\n")
        return 2
    if only and not any(name.startswith(tuple(only)) for name in struck_names()):
        sys.stderr.write(f"nothing is called {options.only}\n")
        return 2
    if options.plan:
        _say(*make_plan(options.seed, faults, options.strikes, only, options.pause).lines())
        return 0
    summary = Summary()
    deadline_s = time.monotonic() + options.minutes * 60 if options.minutes else None
    number = 0
    while number < options.rounds if deadline_s is None else time.monotonic() < deadline_s:
        plan = make_plan(options.seed + number, faults, options.strikes, only, options.pause)
        folder = Path(tempfile.mkdtemp(prefix=f"faults-{plan.seed}-", dir=options.folder))
        _say(f"round {number}, seed {plan.seed}")
        result = trio.run(_run_interruptible, plan, folder)
        if result is None:
            break
        summary.add(result)
        _tell(result, _again(options, plan.seed))
        number += 1
    _say(json.dumps(summary.as_object(), indent=2))
    if options.json:
        options.json.write_text(json.dumps(summary.as_object()) + "\n", encoding="utf-8")
    return 1 if summary.failed_seeds else 0


async def _run_interruptible(plan: Plan, folder: Path) -> Round | None:
    """Run a round; None: it was interrupted, and its engine is ended."""
    result: Round | None = None
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:

            async def obey() -> None:
                async for _ in signals:
                    nursery.cancel_scope.cancel()

            nursery.start_soon(obey)
            result = await run_round(plan, folder)
            nursery.cancel_scope.cancel()
    return result


def _tell(result: Round, again: str) -> None:
    for line in Summary.lines_of(result):
        _say(f"  {line}")
    if not result.wrong:
        shutil.rmtree(result.folder)
        return
    for text in result.wrong:
        _say(f"  WRONG: {text}")
    _say(f"  kept in {result.folder}; again: {again}")


def _again(options: argparse.Namespace, seed: int) -> str:
    """Give the line that runs a round again."""
    only = f" --only {options.only}" if options.only else ""
    drawn = f"--strikes {options.strikes} --pause {options.pause} --faults {options.faults}{only}"
    return f"python -m tests.faults --seed {seed} {drawn}"


def _say(*lines: str) -> None:
    sys.stdout.writelines(f"{line}\n" for line in lines)
    sys.stdout.flush()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--seed", type=int, default=time.time_ns() % 10**6, help="of the first round; random otherwise")
    parser.add_argument("--rounds", type=int, default=1, help="how many; each has the next seed")
    parser.add_argument("--minutes", type=float, help="instead of a number of rounds: begin new ones for so long")
    parser.add_argument("--strikes", type=int, default=40, help="faults in a round")
    parser.add_argument("--faults", default=",".join(FAULTS), help="which kinds; none, or of %(default)s")
    parser.add_argument("--pause", type=float, default=PAUSE_S_MAX, help="seconds between strikes at most: %(default)s")
    parser.add_argument("--only", help="strike only at processes and points whose names begin so: matcher,risk.after")
    parser.add_argument("--folder", type=Path, help="where the folders of rounds are made")
    parser.add_argument("--json", type=Path, help="write the summary into this file, too")
    parser.add_argument("--plan", action="store_true", help="print what the seed stands for, and run nothing")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
