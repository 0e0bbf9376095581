"""A disk whose calls fail as a test wants it, for engines: see ``faulty_disk/sitecustomize.py``."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

SEAM: Final = Path(__file__).parent / "faulty_disk"
WAIT_S: Final = 30.0


@dataclass(frozen=True)
class Disk:
    """The faults of one engine's disk; ``folder``: where they are told."""

    folder: Path

    def environment(self) -> dict[str, str]:
        """Give what an engine needs to have this disk."""
        path = os.pathsep.join(filter(None, [str(SEAM), os.environ.get("PYTHONPATH", "")]))
        return {"DISK_FAULTS": str(self.folder), "PYTHONPATH": path}

    def break_down(self, call: str, part: str, what: str) -> None:
        """Let a call fail from now on for files whose path contains ``part``; what: see the seam."""
        with suppress(FileNotFoundError):
            (self.folder / f"{call}.met").unlink()
        told = self.folder / f"{call}.told"
        told.write_text(f"{part} {what}", encoding="ascii")
        told.rename(self.folder / call)

    def mend(self, call: str) -> None:
        """Let a call work again."""
        with suppress(FileNotFoundError):
            (self.folder / call).unlink()

    def wait_met(self, call: str) -> None:
        """Wait until somebody met the fault of a call."""
        deadline_s = time.monotonic() + WAIT_S
        while not (self.folder / f"{call}.met").exists():
            assert time.monotonic() < deadline_s, f"nobody met the fault of {call}"
            time.sleep(0.005)

    @contextmanager
    def fault(self, call: str, part: str, what: str) -> Iterator[None]:
        """Let a call fail while the block runs."""
        self.break_down(call, part, what)
        try:
            yield
        finally:
            self.mend(call)
