"""How fast a ring carries records between two processes.

Three figures, with the engine's own objects and 128-byte records (commands):

- *floor*: half a round trip of single records between two compiled loops that spin; nothing is faster.
- *latency*: one way, from before ``publish`` to after ``poll``, single records with pauses between them, so that the
  reader sleeps when it can: spinning, asleep in poll(2), asleep in trio. Clocks of both processes are the same one.
- *throughput*: records per second in batches of 1 to 4096, the reader copying them out without pause.

``python -m perf.ring [--records N] [--pin]``; its last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import trio
from numba import njit
from perf.engine import machine

from tradeengine.core.records import command_dtype
from tradeengine.ipc.atomics import address_of, load_acquire, load_word, store_release
from tradeengine.ipc.doorbell import Doorbell, create_page
from tradeengine.ipc.ring import ReaderSpec, Ring, RingFull, RingReader, RingWatch, RingWriter
from tradeengine.ipc.ring_kernels import publish
from tradeengine.ipc.segment import Segment

BATCHES: Final = (1, 4, 16, 64, 256, 1024, 4096)
CAPACITY: Final = 1 << 14
PERCENTILES: Final = (50, 90, 99, 99.9)
RUNS: Final = 3
"""Of each throughput; the median counts, because others use the machine too."""
PAUSE_US: Final = 200
SPIN_US: Final = 1_000_000
WAIT_S: Final = 5.0
HERE, THERE = 0, 1


@dataclass(frozen=True)
class Ends:
    """What both processes share: a ring each way, and a bell for each."""

    page: Segment
    bells: tuple[Doorbell, Doorbell]
    there: Ring
    back: Ring

    @classmethod
    def create(cls) -> Ends:
        """Make everything."""
        page = create_page("bells", 2)
        specs = [[ReaderSpec("reader", gating=True, doorbell_index=index)] for index in (THERE, HERE)]
        rings = [Ring.create(name, command_dtype, CAPACITY, spec) for name, spec in zip("tb", specs, strict=True)]
        return cls(page, (Doorbell.create(page, HERE), Doorbell.create(page, THERE)), *rings)

    @classmethod
    def attach(cls, fds: list[int]) -> Ends:
        """Use what the other process made."""
        page = Segment.attach(fds[0], writable=True)
        bells = (Doorbell.attach(page, HERE, fds[1]), Doorbell.attach(page, THERE, fds[2]))
        there, back = (Ring.attach(fd, command_dtype, writable=True) for fd in fds[3:])
        return cls(page, bells, there, back)

    def fds(self) -> list[int]:
        """List descriptors in the order of ``attach``."""
        return [self.page.fd, *(bell.fd for bell in self.bells), self.there.fd, self.back.fd]

    def writer(self, ring: Ring) -> RingWriter:
        """Give a writer that rings."""
        return ring.writer(dict(enumerate(self.bells)))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="perf.ring")
    parser.add_argument("--records", type=int, default=4_000_000, help="records per throughput measurement")
    parser.add_argument("--samples", type=int, default=5000, help="records per latency measurement")
    parser.add_argument("--pin", action="store_true", help="pin both processes to a core each")
    parser.add_argument("--other", nargs="*", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.other:
        run_other(options.other[0], [int(fd) for fd in options.other[3:]], int(options.other[1]), int(options.other[2]))
        return
    if options.pin:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    print(f"machine: {machine()}")
    print(f"topology: one producer, one gating reader, 128-byte records, {CAPACITY} slots; two processes")
    print(f"pinning: {'one core each' if options.pin else 'none'}; load before: {os.getloadavg()[0]:.1f}")
    figures: dict[str, Any] = {"benchmark": "ring", "record_bytes": command_dtype.itemsize}
    figures["floor_us"] = measure_floor(options)
    print(f"floor, compiled spin, half a round trip: {figures['floor_us']:.2f} us")
    for wait in ("spin", "poll", "trio"):
        samples_us = measure_latency(options, wait)
        values = dict(zip(PERCENTILES, np.percentile(samples_us, PERCENTILES).tolist(), strict=True))
        print(f"one way, {wait}, batch 1: " + ", ".join(f"p{p:g} {value:.1f} us" for p, value in values.items()))
        figures[f"{wait}_us"] = {f"p{p:g}": round(value, 2) for p, value in values.items()}
    figures["records_per_s"] = {}
    for batch in BATCHES:
        rate = float(np.median([measure_throughput(options, batch) for _ in range(RUNS)]))
        print(f"throughput, batch {batch}, median of {RUNS}: {rate / 1e6:.2f} M records/s")
        figures["records_per_s"][str(batch)] = round(rate)
    print(json.dumps(figures))


def measure_floor(options: argparse.Namespace) -> float:
    """Give half a round trip of compiled loops, µs, the median of five runs."""
    ends, rounds, results = Ends.create(), 20_000, []
    with other("floor", ends, 6 * rounds, options):
        plan, head, cursor = _words(ends.there, ends.back)
        for run in range(6):
            start = time.perf_counter_ns()
            _ping(address_of(plan), head, cursor, run * rounds, rounds, _one())
            results.append((time.perf_counter_ns() - start) / rounds / 2000)
    # The first run waits for the other process to start.
    return float(np.median(results[1:]))


def measure_latency(options: argparse.Namespace, wait: str) -> np.ndarray[Any, Any]:
    """Give one-way latencies, µs."""
    ends, count = Ends.create(), options.samples
    with other(wait, ends, count, options) as process:
        writer, record = ends.writer(ends.there), np.zeros(1, command_dtype)
        acknowledged = ends.back.reader("reader")
        _await(RingWatch([acknowledged]))
        for _ in range(count):
            # Long enough for the reader to fall asleep again, too short for the core to do so deeply.
            end = time.perf_counter_ns() + PAUSE_US * 1000
            while time.perf_counter_ns() < end:
                pass
            record["timestamp_ns"] = time.perf_counter_ns()
            writer.publish(record)
        answer = process.communicate()[0]
    return np.array(json.loads(answer)) / 1000


def measure_throughput(options: argparse.Namespace, batch: int) -> float:
    """Give records per second from the first publication until the reader has passed the last."""
    ends = Ends.create()
    count = options.records if batch >= 64 else options.records // 10
    count -= count % batch
    with other("drain", ends, count, options):
        writer, records = ends.writer(ends.there), np.zeros(batch, command_dtype)
        reader = ends.back.reader("reader")
        _await(RingWatch([reader]))
        start = time.perf_counter_ns()
        while writer.head < count:
            with suppress(RingFull):
                writer.publish(records)
        cursor = ends.there.cursor_address(0)
        while load_word(cursor) < count:
            pass
        elapsed_ns = time.perf_counter_ns() - start
    return float(count / elapsed_ns * 1e9)


class other:  # noqa: N801 - reads as a statement: with other(...)
    """The second process: this program again, which is waited for at the end of the block."""

    def __init__(self, role: str, ends: Ends, count: int, options: argparse.Namespace) -> None:
        program = [sys.executable, "-m", "perf.ring", "--other", role, str(count), str(int(options.pin))]
        fds = ends.fds()
        self._process = subprocess.Popen([*program, *map(str, fds)], pass_fds=fds, stdout=subprocess.PIPE, text=True)

    def __enter__(self) -> subprocess.Popen[str]:
        return self._process

    def __exit__(self, *_: object) -> None:
        self._process.wait()


def run_other(role: str, fds: list[int], count: int, pin: int) -> None:
    """Do the reader's part."""
    if pin:
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    ends = Ends.attach(fds)
    if role == "floor":
        plan, head, cursor = _words(ends.back, ends.there)
        _pong(address_of(plan), head, cursor, count, _one())
        return
    reader, writer = ends.there.reader("reader"), ends.writer(ends.back)
    # Ready.
    writer.publish(np.zeros(1, command_dtype))
    if role == "drain":
        while reader.cursor < count:
            reader.advance(len(reader.poll_copy()))
    elif role == "trio":
        print(json.dumps(trio.run(_receive_trio, reader, ends.bells[THERE], count)))
    else:
        print(json.dumps(_receive(reader, ends.bells[THERE], count, SPIN_US if role == "spin" else 0)))


def _receive(reader: RingReader, bell: Doorbell, count: int, spin_us: int) -> list[int]:
    watch = RingWatch([reader])
    latencies_ns: list[int] = []
    while len(latencies_ns) < count:
        bell.wait(WAIT_S, watch, spin_us)
        latencies_ns += _take(reader)
    return latencies_ns


async def _receive_trio(reader: RingReader, bell: Doorbell, count: int) -> list[int]:
    watch = RingWatch([reader])
    latencies_ns: list[int] = []
    while len(latencies_ns) < count:
        await bell.wait_trio(WAIT_S, watch)
        latencies_ns += _take(reader)
    return latencies_ns


def _take(reader: RingReader) -> list[int]:
    records = reader.poll()
    now_ns = time.perf_counter_ns()
    latencies_ns = (now_ns - records["timestamp_ns"]).tolist()
    reader.advance(len(records))
    return latencies_ns  # type: ignore[no-any-return]


def _await(watch: RingWatch) -> None:
    while not watch():
        pass


def _words(written: Ring, read: Ring) -> tuple[np.ndarray[Any, np.dtype[np.int64]], int, int]:
    """Give what compiled code needs to write one ring and to read the other: a plan, a head and a cursor."""
    return written.plan([written.cursor_address(0)], []), read.head_address, read.cursor_address(0)


def _one() -> np.ndarray[Any, Any]:
    return np.zeros(command_dtype.itemsize, np.uint8)


@njit("void(int64, int64, int64, int64, int64, uint8[::1])", cache=True)
def _ping(plan, head, cursor, first, rounds, record):  # type: ignore[no-untyped-def]
    for number in range(first, first + rounds):
        publish(plan, number, record)
        while load_acquire(head) <= number:
            pass
        store_release(cursor, number + 1)


@njit("void(int64, int64, int64, int64, uint8[::1])", cache=True)
def _pong(plan, head, cursor, rounds, record):  # type: ignore[no-untyped-def]
    for number in range(rounds):
        while load_acquire(head) <= number:
            pass
        store_release(cursor, number + 1)
        publish(plan, number, record)


if __name__ == "__main__":
    main()
