"""A soak: nothing grows, drifts or fails while the engine is used in every way for a long time.

One engine, one shard, one front, embedded PostgreSQL. Beside it run programs of their own: traders over HTTP who place,
repeat, change, cancel and read (``soak_rest``), a hundred WebSocket clients of whom some are slow and some come and go
(``soak_streams``), a local client on a ring (``soak_ring``), and a control that does the same work for ever and tells
what the machine is like (``soak_control``). What has a bound is given a small one, so that all of it has been filled
when the warm-up ends: a bound that is not reached cannot be seen to hold. From then on the engine is looked at every
few seconds (``soak_samples``), and judged at the end (``soak_verdict``).

``python -m perf.soak --hours 0.2`` ends by itself and with 1 when something grew, drifted or failed; Ctrl-C ends it
early with a verdict on what there is. Its last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from perf.engine import Engine, arguments_parser, filesystem, fund_traders, machine, running_engine
from perf.load import SYMBOL
from perf.results import make_result, store
from perf.soak_programs import Program, Programs
from perf.soak_report import LATENCIES, MINUTE_S, Soak, describe, picture, processes, tell
from perf.soak_rest import SYMBOL as REST_SYMBOL
from perf.soak_samples import DATABASE, WATCHED, Sampler
from perf.soak_verdict import judge_count, judge_drift, judge_memory
from perf.yardstick import yardstick_ns

from tradeengine.cli.database import connect
from tradeengine.cli.reconcile import run_reconcile
from tradeengine.settings import Settings

TRADERS: Final = 4
SETTINGS: Final = {
    "LOG_LEVEL": "warning",
    "RINGS_EVENTS_SLOTS": 1 << 16,
    "RINGS_RISK_EVENTS_SLOTS": 1 << 12,
    "RINGS_FEED_SLOTS": 1 << 11,
    "SETTLEMENT_BACKLOG_EVENTS_MAX": 1 << 15,
    "LIMITS_CLIENT_IDS_MAX": 1 << 16,
    "LIMITS_ORDERS_MAX": 1 << 16,
    "JOURNAL_SEGMENT_BYTES": 1 << 22,
    "JOURNAL_RETAIN_H": 0,
    "KEEPER_RECONCILE_INTERVAL_S": 30,
    "KEEPER_DEPTH_SNAPSHOT_INTERVAL_S": 10,
    "KEEPER_AUDIT_INTERVAL_S": 10,
}
"""Everything that fills is small enough to be full when the warm-up ends."""
WARM_UP_COMMANDS: Final = 200_000
WARM_UP_TIMEOUT_S: Final = 300.0
ORDERS_PER_S_MIN: Final = 10.0
BUSY_SHARE_MAX: Final = 0.0005
"""Of the calls over HTTP: what is answered 503."""
COUNTS: Final = ("threads", "descriptors", "tasks")


def main() -> int:
    """Run the soak; returns 0 when nothing grew, drifted or failed."""
    arguments = _arguments()
    with running_engine(arguments.dir, SETTINGS) as engine:
        print(f"machine    {machine()}")
        print(f"topology   1 shard, 1 front, embedded PostgreSQL, fdatasync on {filesystem(engine.data_dir)}")
        settings = engine.settings()
        soak, programs = run(engine, settings, arguments)
        faults = judge(soak, programs)
        if run_reconcile(settings, as_json=False):
            faults.append("the reconciliation at the end found differences")
    rates = {"http_per_s": arguments.http_rate, "local_per_s": arguments.ring_rate, "clients": arguments.clients}
    figures = describe(soak, programs) | {"rates": rates, "faults": faults, "machine": machine()}
    if arguments.store and not soak.interrupted:
        print(f"stored     {store(make_result('soak', yardstick_ns(), figures))}")
    if arguments.picture:
        picture(arguments.picture, soak, programs)
    print("\n".join(f"FAULT      {fault}" for fault in faults) or "verdict    nothing grew, drifted or failed")
    print(json.dumps(figures))
    return 1 if faults else 0


def run(engine: Engine, settings: Settings, arguments: argparse.Namespace) -> tuple[Soak, Programs]:
    """Load and look until the time is over, or somebody presses Ctrl-C."""
    tokens = fund(engine, settings)
    crowd = {
        "port": engine.port,
        "symbols": [SYMBOL, REST_SYMBOL],
        "tokens": [token for pair in tokens for token in pair],
    }
    others = arguments.clients // 10
    with ExitStack() as stack:
        connection = stack.enter_context(connect(settings))
        connection.autocommit = True
        programs = stack.enter_context(Programs())
        soak = Soak(time.monotonic())
        try:
            programs.start("control", {})
            local = {"data_dir": str(engine.data_dir), "rate_per_s": arguments.ring_rate}
            ring = programs.start("ring", local | {"warm_up_commands": WARM_UP_COMMANDS})
            programs.start("rest", {"port": engine.port, "tokens": tokens, "rate_per_s": arguments.http_rate})
            few = {"listening": 0, "slow": others, "passing": others}
            programs.start("streams", crowd | few)
            programs.start("streams", crowd | {"listening": arguments.clients - 2 * others, "slow": 0, "passing": 0})
            look(soak, Sampler(engine, connection), programs, ring, arguments)
        except KeyboardInterrupt:
            soak.interrupted = True
            print("interrupted; this is what there is", flush=True)
        programs.stop()
    return soak, programs


def look(soak: Soak, sampler: Sampler, programs: Programs, ring: Program, arguments: argparse.Namespace) -> None:
    """Take samples; the time counts from the end of the warm-up."""
    told_s = 0.0
    while True:
        sample = sampler.look()
        soak.samples.append(sample)
        programs.check()
        if not soak.warm_s:
            filled = ring.total("warm") and sample.at_s - soak.started_s >= arguments.warm_up_s
            if filled:
                soak.warm_s = sample.at_s
                programs.forget_unexpected()
                print(f"warm       after {soak.minutes(sample.at_s):.1f} minutes", flush=True)
            elif sample.at_s - soak.started_s > arguments.warm_up_s + WARM_UP_TIMEOUT_S:
                raise SystemExit("the local client has not warmed up")
        elif sample.at_s - soak.warm_s >= arguments.hours * 3600:
            return
        if sample.at_s - told_s >= MINUTE_S:
            told_s = sample.at_s
            tell(soak, sample, programs)
        time.sleep(max(sample.at_s + arguments.interval - time.monotonic(), 0))


def fund(engine: Engine, settings: Settings) -> list[list[str]]:
    """Give the traders money; returns their tokens, by pairs."""
    users = [[f"soak-{side}-{number}" for side in ("a", "b")] for number in range(TRADERS)]
    with connect(settings) as connection:
        fund_traders(connection, REST_SYMBOL, [name for pair in users for name in pair], settings.limits.accounts_max)
    return [[engine.token(name, lifetime_s=400 * 24 * 3600) for name in pair] for pair in users]


def judge(soak: Soak, programs: Programs) -> list[str]:
    """Say all that is wrong; nothing: the soak is passed."""
    faults = programs.unexpected()
    if not soak.judged:
        return [*faults, "it ended before everything was warm"]
    times_s = [sample.at_s for sample in soak.judged]
    for name, series in processes(soak.judged).items():
        if len({process.pid for process in series}) > 1 or len(series) < len(times_s):
            faults.append(f"{name} was started anew, or was not there")
            continue
        parts = series[-1].threads if name == DATABASE else 1
        found = [judge_memory(times_s, [process.own_kib for process in series], parts)]
        # A server's processes keep files open that they have read, up to a bound of their own.
        counted = COUNTS[:1] if name == DATABASE else COUNTS
        found += [judge_count(times_s, [getattr(process, what) for process in series], what) for what in counted]
        faults += [f"{name}: {fault}" for fault in found if fault]
    shared = [sample.shared_bytes / 1024 for sample in soak.judged]
    faults += [f"shared memory: {fault}" for fault in [judge_memory(times_s, shared)] if fault]
    achieved_per_s = programs.counts()["orders"] / (soak.samples[-1].at_s - soak.started_s)
    if achieved_per_s < ORDERS_PER_S_MIN:
        faults.append(f"only {achieved_per_s:.1f} orders a second went over HTTP")
    counts = programs.counts()
    calls = sum(counts[method] for method in ("POST", "GET", "PATCH", "DELETE"))
    if counts["busy"] > calls * BUSY_SHARE_MAX:
        faults.append(f"{counts['busy']} of {calls} calls over HTTP were told to come again")
    # Of what the warm-up does as fast as it can, readers may be lapped.
    before, after = soak.judged[0].metrics, soak.samples[-1].metrics
    faults += [f"{what}: {after[what] - before[what]:g}" for what in WATCHED if after[what] > before[what]]
    control = programs.minutes("control", soak.warm_s)
    for what in LATENCIES:
        fault = judge_drift(programs.minutes(what, soak.warm_s), control)
        if fault:
            faults.append(f"{what}: {fault}")
    return faults


def _arguments() -> argparse.Namespace:
    parser = arguments_parser(__doc__)
    parser.add_argument(
        "--hours", type=float, default=0.2, help="how long, from the end of the warm-up; a fraction too"
    )
    parser.add_argument(
        "--http-rate", type=float, default=40.0, help="calls a second over HTTP; two in five are orders"
    )
    parser.add_argument("--ring-rate", type=float, default=200.0, help="commands a second over a ring")
    parser.add_argument("--clients", type=int, default=100, help="WebSocket clients; a tenth slow, a tenth passing by")
    parser.add_argument("--interval", type=float, default=5.0, help="seconds between two looks")
    parser.add_argument("--warm-up-s", type=float, default=120.0, help="seconds at least before anything is judged")
    parser.add_argument("--store", action="store_true", help="store the figures in perf/results")
    parser.add_argument("--picture", type=Path, help="where the picture goes (SVG)")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
