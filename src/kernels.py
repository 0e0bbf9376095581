"""Compiled kernels: what to compile when the program is installed, and what to load when an actor starts.

numba keeps machine code in files: beside the sources, or in the user's cache folder where these are read-only.
Compiling all kernels takes a minute or two; loading takes a moment. A kernel has one set of argument types, and its
module's ``compile_kernels`` calls it once with these, so nothing is ever compiled while orders wait.
numba notices a change in a kernel's own file but not in the files of what it calls, so installing starts from nothing:
machine code of older sources would run otherwise.
Run as a program (``python -m tradeengine.kernels``) it compiles everything and says so.
"""

from __future__ import annotations

import importlib
import sys
import time
from pathlib import Path
from typing import Final

_IPC: Final = ("ipc.atomics", "ipc.ring_kernels", "ipc.seqlock_kernels", "ipc.histogram")
_BOOK: Final = ("core.book", "core.book_dump", "core.hashing", "storage.journal_scan")

KERNEL_MODULES: Final[dict[str, tuple[str, ...]]] = {
    "risk": (*_IPC, "core.money", "core.risk"),
    "matcher": (*_IPC, *_BOOK, "core.book_census", "actors.matcher_survey"),
    "settlement": _IPC,
    "publisher": _IPC,
    "shadow": (*_IPC, *_BOOK),
    "keeper": _IPC,
    "wallet": _IPC,
    "front": (*_IPC, "ipc.buckets", "ipc.replay_guard"),
    "supervisor": (*_IPC, "storage.journal_scan"),
}
"""Modules with a ``compile_kernels`` function, by the role that runs them."""


def load_kernels(role: str) -> None:
    """Load (compile, when that was not done before) the kernels that a role runs."""
    for name in KERNEL_MODULES[role]:
        importlib.import_module(f"tradeengine.{name}").compile_kernels()


def main() -> None:
    """Compile all kernels anew."""
    started_s = time.monotonic()
    remove_compiled(Path(__file__).parent)
    names = list(dict.fromkeys(name for names in KERNEL_MODULES.values() for name in names))
    sys.stdout.write(f"compiling {len(names)} modules of kernels, once; this takes a minute or two\n")
    for name in names:
        importlib.import_module(f"tradeengine.{name}").compile_kernels()
        sys.stdout.write(f"  tradeengine.{name}\n")
        sys.stdout.flush()
    sys.stdout.write(f"compiled in {time.monotonic() - started_s:.0f} s\n")


def remove_compiled(folder: Path) -> None:
    """Remove what numba keeps beside the sources in ``folder``: index and machine code of each kernel."""
    for pattern in ("*.nbi", "*.nbc"):
        for path in folder.rglob(pattern):
            path.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
