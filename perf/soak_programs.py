"""The programs beside a soaked engine: started, heard line by line, and ended by the end of their input."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from threading import Lock, Thread
from typing import Any, Final, Self

from perf.soak_verdict import add_up

STOP_TIMEOUT_S: Final = 120.0
MINUTE_S: Final = 60.0
UNEXPECTED_SHOWN_MAX: Final = 20


class Program:
    """One program: ``python -m perf.soak_NAME``. Lines are kept by the minute of their coming."""

    def __init__(self, name: str, wanted: dict[str, Any]) -> None:
        self.name = name
        self.counts: Counter[str] = Counter()
        self.unexpected: list[str] = []
        self.latencies: dict[str, dict[int, Counter[int]]] = {}
        self._lock = Lock()
        self._process = subprocess.Popen(
            [sys.executable, "-m", f"perf.soak_{name}", json.dumps(wanted)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            # So that Ctrl-C reaches whoever judges, and not those who are judged by.
            process_group=0,
        )
        self._thread = Thread(target=self._hear, daemon=True)
        self._thread.start()

    def total(self, name: str) -> int:
        """Give a count so far."""
        with self._lock:
            return self.counts[name]

    def check(self) -> None:
        """Raise RuntimeError when it has ended by itself."""
        if self._process.poll() is not None:
            raise RuntimeError(f"soak_{self.name} ended with {self._process.returncode}; what it said is above")

    def minute(self, what: str, minute: int) -> Counter[int]:
        """Give the latencies that were told of in a minute of the monotonic clock."""
        with self._lock:
            return Counter(self.latencies.get(what, {}).get(minute, {}))

    def forget_unexpected(self) -> None:
        """Forget what was not expected until now: it is of the warm-up."""
        with self._lock:
            for name in ("unexpected", "busy"):
                self.counts[f"{name}_in_warm_up"] += self.counts.pop(name, 0)
            self.unexpected.clear()

    def stop(self) -> None:
        """Ask it to end, and hear it out."""
        assert self._process.stdin is not None
        self._process.stdin.close()

    def join(self) -> None:
        """Wait for its end, and end it when it takes too long."""
        try:
            self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self.unexpected.append(f"soak_{self.name} did not end")
        self._thread.join(STOP_TIMEOUT_S)
        assert self._process.stdout is not None
        self._process.stdout.close()

    def _hear(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            told = json.loads(line)
            minute = int(time.monotonic() // MINUTE_S)
            with self._lock:
                self.counts.update(told["counts"])
                self.unexpected += told["unexpected"]
                for what, latencies_ms in told["latencies_ms"].items():
                    of_minute = self.latencies.setdefault(what, {}).setdefault(minute, Counter())
                    of_minute.update({int(latency): count for latency, count in latencies_ms.items()})


class Programs:
    """All of them."""

    def __init__(self) -> None:
        self._programs: list[Program] = []
        self._stopped = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self, name: str, wanted: dict[str, Any]) -> Program:
        """Start one."""
        program = Program(name, wanted)
        self._programs.append(program)
        return program

    def check(self) -> None:
        """Raise RuntimeError when one has ended by itself."""
        for program in self._programs:
            program.check()

    def stop(self) -> None:
        """End all, and wait for them."""
        if not self._stopped:
            self._stopped = True
            for program in self._programs:
                program.stop()
            for program in self._programs:
                program.join()

    def forget_unexpected(self) -> None:
        """Forget what was not expected until now: while everything is being filled, reads may be refused."""
        for program in self._programs:
            program.forget_unexpected()

    def counts(self) -> Counter[str]:
        """Add up what all have counted."""
        total: Counter[str] = Counter()
        for program in self._programs:
            total.update(program.counts)
        return total

    def unexpected(self) -> list[str]:
        """Give what should not have been, the first of each kind with how often it was."""
        kinds = Counter(what for program in self._programs for what in program.unexpected)
        told = sum(kinds.values())
        beyond = self.counts()["unexpected"] - told
        shown = [f"{what} ({count} ×)" for what, count in kinds.most_common(UNEXPECTED_SHOWN_MAX)]
        left = told - sum(count for _, count in kinds.most_common(UNEXPECTED_SHOWN_MAX)) + beyond
        return [*shown, f"{left} more of what was not expected"] if left > 0 else shown

    def minutes(self, what: str, since_s: float) -> list[Counter[int]]:
        """Give latencies of each whole minute since a time: not of the last, in which the programs were ended."""
        first = int(since_s // MINUTE_S) + 1
        last = max((max(program.latencies.get(what, {0: None})) for program in self._programs), default=0)
        return [add_up([program.minute(what, minute) for program in self._programs]) for minute in range(first, last)]
