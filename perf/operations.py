"""What operators and their tools ask all the time: how soon ``/health``, ``/ready`` and ``/metrics`` answer.

An engine with eight shards and two fronts is started as a user would start it, and left alone but for these calls. Each
route of the API is asked for once before, so that all of them are in the metrics. One kept connection asks at a steady
rate, each call in turn, and waits for the answer; a connection is one front's. ``python -m perf.operations
[--seconds N] [--shards N]``; the last line is one JSON object.
"""

from __future__ import annotations

import http.client
import json
import time
from contextlib import closing
from typing import Final
from urllib.parse import urlsplit

from perf.engine import Engine, arguments_parser, filesystem, machine, running_engine
from perf.figures import goals_met, percentile_ms

PATHS: Final = ("/health", "/ready", "/metrics")
GOALS: Final = {"health_p99_ms": 5.0, "ready_p99_ms": 20.0, "metrics_p99_ms": 50.0}
INTERVAL_S: Final = 0.02
FRONTS: Final = ("front-0", "front-1")
PROCESSOR_CALLS: Final = 200
SETTLE_S: Final = 3.0
"""After the start the keeper makes partitions, and the first journals are laid out."""


def main() -> int:
    """Ask, print and compare with the goals."""
    parser = arguments_parser(__doc__)
    parser.add_argument("--seconds", type=float, default=30.0, help="how long to ask, all calls together")
    parser.add_argument("--shards", type=int, default=8)
    arguments = parser.parse_args()
    print(f"machine    {machine()}")
    print(f"topology   {arguments.shards} shards, 2 fronts, idle; journal on {filesystem(arguments.dir)}")
    with running_engine(arguments.dir, {"ENGINE_FRONTS": 2}, shards=arguments.shards) as engine:
        address = urlsplit(engine.url)
        assert address.hostname is not None
        with closing(http.client.HTTPConnection(address.hostname, address.port or 80, timeout=30)) as connection:
            route_count = ask_for_every_route(connection)
            time.sleep(SETTLE_S)
            figures = measure(connection, arguments.seconds) | measure_processor(engine, connection)
            lines = len(ask(connection, "GET", "/metrics")[1].splitlines())
    print(f"metrics    {lines} lines, with {route_count} routes")
    print(json.dumps({**figures, "metrics_lines": lines, "machine": machine(), "goals_met": goals_met(figures, GOALS)}))
    return 0


def ask_for_every_route(connection: http.client.HTTPConnection) -> int:
    """Make each call of the API once, with nobody's token; returns how many there are."""
    described = json.loads(ask(connection, "GET", "/openapi.json")[1])
    calls = [(method.upper(), path) for path, methods in described["paths"].items() for method in methods]
    for method, path in calls:
        ask(connection, method, path.replace("{", "").replace("}", ""))
    return len(calls)


def measure(connection: http.client.HTTPConnection, seconds: float) -> dict[str, float]:
    """Make the calls in turn; returns percentiles in milliseconds."""
    took_s: dict[str, list[float]] = {path: [] for path in PATHS}
    due_s = time.perf_counter()
    for count in range(int(seconds / INTERVAL_S)):
        path = PATHS[count % len(PATHS)]
        due_s += INTERVAL_S
        time.sleep(max(due_s - time.perf_counter(), 0))
        began_s = time.perf_counter()
        status, _ = ask(connection, "GET", path)
        took_s[path].append(time.perf_counter() - began_s)
        assert status == 200, f"{path}: {status}"
    figures = {}
    for path, durations_s in took_s.items():
        durations_s.sort()
        for percent, name in ((50, "p50"), (99, "p99"), (100, "max")):
            figures[f"{path[1:]}_{name}_ms"] = percentile_ms(durations_s, percent)
        shown = ", ".join(f"{name} {figures[f'{path[1:]}_{name}_ms']:.2f} ms" for name in ("p50", "p99", "max"))
        print(f"{path:10} {len(durations_s)} calls: {shown}")
    return figures


def measure_processor(engine: Engine, connection: http.client.HTTPConnection) -> dict[str, float]:
    """Say what a call costs a front of processor time, in milliseconds: other programs do not change that much."""
    figures = {}
    for path in PATHS:
        before = sum(engine.processor_s()[name] for name in FRONTS)
        for _ in range(PROCESSOR_CALLS):
            ask(connection, "GET", path)
        used_s = sum(engine.processor_s()[name] for name in FRONTS) - before
        figures[f"{path[1:]}_processor_ms"] = round(used_s / PROCESSOR_CALLS * 1000, 2)
    print(f"processor  {', '.join(f'{name} {value}' for name, value in figures.items())}")
    return figures


def ask(connection: http.client.HTTPConnection, method: str, path: str) -> tuple[int, bytes]:
    """Make one call; returns its status and body."""
    connection.request(method, path)
    answer = connection.getresponse()
    return answer.status, answer.read()


if __name__ == "__main__":
    raise SystemExit(main())
