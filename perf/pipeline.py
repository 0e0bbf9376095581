"""The whole way: local client → risk → journal (fdatasync) → matcher → event back, one shard, settlement attached.

Three parts, each on the engine that ``tradeengine up`` starts in a fresh folder on a real disk:

burst      half a million commands as fast as the rings take them: the time from the first one published to the last
           answer seen. Settlement works meanwhile and is behind at the end; the rings are large enough for that.
sustained  commands as fast as settlement keeps up, for a minute; the rate counts until PostgreSQL has the last of them.
open loop  10,000 commands a second, each at its own time; a latency is from that time to the answer seen, so a stall
           counts against every command that was due in it.

A command's answer is its last event. The client spins; it is no part of the engine.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from perf.engine import Engine, arguments_parser, machine, running_engine, say_machine
from perf.figures import say
from perf.load import SETTINGS, SYMBOL, TAKERS, Load, burst, open_loop, owners, settle, sustained
from perf.traffic import CYCLE

from tradeengine.cli.database import connect
from tradeengine.core.records import Reason
from tradeengine.ipc.client import open_client

WARM_UP_S: Final = 1.0
"""Of the open loop: the first commands after a start touch memory that nobody has touched before."""
_WATCHED_METRICS: Final = (
    "tradeengine_matcher_commands_total",
    "tradeengine_matcher_groups_total",
    "tradeengine_matcher_sync_latency_seconds_sum",
)


def main() -> int:
    """Run the parts that were asked for and print what was measured."""
    arguments = _arguments()
    say_machine(arguments.dir)
    print("topology   client (spinning) → risk → matcher-0 (fdatasync per group) → event ring → client; settlement,")
    print("           publisher, shadow and a front attached; actors sleep on eventfds, nothing is pinned")
    share = arguments.takers / CYCLE
    print(f"traffic    {2 * share:.0%} of the commands are orders that trade, {share:.1f} trades per command; {SYMBOL}")
    with running_engine(arguments.dir, SETTINGS) as engine:
        figures = _measure(engine, arguments)
    print(json.dumps(figures))
    return 0


def _measure(engine: Engine, arguments: argparse.Namespace) -> dict[str, Any]:
    figures: dict[str, Any] = {"machine": machine(), "trades_per_command": arguments.takers / CYCLE}
    with connect(engine.settings()) as connection, open_client(engine.data_dir) as wiring:
        load = Load.prepared(connection, wiring, owners(), "b", arguments.takers)
        if arguments.rate:
            open_loop(load, arguments.rate, WARM_UP_S)
            with _watched(engine):
                figures["open_loop"] = say("open loop", open_loop(load, arguments.rate, arguments.open_seconds))
        if arguments.burst:
            runs = []
            for _ in range(arguments.runs):
                commands = load.make(arguments.burst)
                with _watched(engine):
                    runs.append(say("burst", burst(load, commands)))
                print(f"           settled {settle(load):.1f} s later")
            figures["burst_commands_per_s"] = round(statistics.median(run["commands_per_s"] for run in runs))
        if arguments.seconds:
            with _watched(engine):
                figures["sustained"] = say("sustained", sustained(load, arguments.seconds, arguments.backlog))
        figures["refused"] = {Reason(reason).name: count for reason, count in load.refused.items()}
        trades = connection.execute("SELECT count(*) FROM trades").fetchone()
        figures["trades_in_postgresql_agree"] = trades is not None and trades[0] == load.trades
    say("checked", {name: figures[name] for name in ("refused", "trades_in_postgresql_agree")})
    return figures


@contextmanager
def _watched(engine: Engine) -> Iterator[None]:
    """Say what a part cost each actor, and how large the matcher's groups were."""
    metrics, processor_s, started_s = engine.metrics(), engine.processor_s(), time.perf_counter()
    yield
    elapsed_s = time.perf_counter() - started_s
    after = engine.processor_s()
    shares = ", ".join(f"{name} {(after[name] - processor_s[name]) / elapsed_s:.0%}" for name in processor_s)
    commands, groups, sync_s = (
        sum(value - metrics.get(name, 0) for name, value in engine.metrics().items() if name.startswith(prefix))
        for prefix in _WATCHED_METRICS
    )
    print(f"           processor {shares}")
    count = max(groups, 1)
    print(f"           group {commands / count:,.1f} commands, sync {sync_s * 1e6 / count:,.0f} µs, on average")


def _arguments() -> argparse.Namespace:
    parser = arguments_parser(__doc__)
    parser.add_argument(
        "--takers", type=int, default=TAKERS, help="of ten commands, how many make a trade each: 1 to 4"
    )
    parser.add_argument("--burst", type=int, default=500_000, help="commands of a burst; 0: none")
    parser.add_argument("--runs", type=int, default=3, help="bursts, of which the median counts")
    parser.add_argument("--seconds", type=float, default=60.0, help="length of the sustained part; 0: none")
    parser.add_argument("--backlog", type=int, default=200_000, help="unsettled events at which the client waits")
    parser.add_argument("--rate", type=float, default=10_000, help="commands per second of the open loop; 0: none")
    parser.add_argument("--open-seconds", type=float, default=10.0, help="length of the open loop")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
