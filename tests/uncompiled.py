"""A plugin for pytest: everything runs as plain Python, so that coverage sees the lines of kernels.

Run as ``NUMBA_DISABLE_JIT=1 pytest -p tests.uncompiled``. numba then leaves functions as they are written, all but the
intrinsics of ``ipc.atomics``, which are machine instructions. Those get stand-ins that do the same by plain loads and
stores: enough within one process and thread, and for what a test looks at, never for what memory order promises.

Rule 1: the stand-ins are in place before anything else of ``ipc`` is imported. Rule 2: whole numbers wrap in compiled
code; numpy's warning that one did is no failure here.
"""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any, Final

import numba
import numpy as np

from tradeengine.ipc import atomics

if TYPE_CHECKING:
    import pytest

OF_PROCESSES: Final = frozenset(
    {
        "test_processes_never_take_the_same_twice",
        "test_processes_share_a_bucket_to_the_unit",
        "test_reader_never_sees_half_a_row",
        "test_row_of_a_dead_writer_is_busy_until_written_again",
        "test_uncompiled_kernel_gives_the_same_events",
    }
)
_numba_config: Any = numba.config
assert _numba_config.DISABLE_JIT, "set NUMBA_DISABLE_JIT=1"


def pytest_configure(config: pytest.Config) -> None:
    """Let whole numbers wrap without a word, as they do in compiled code."""
    config.addinivalue_line("filterwarnings", "ignore:overflow encountered in:RuntimeWarning")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what other processes do."""
    left_out = [item for item in items if item.name in OF_PROCESSES]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item.name not in OF_PROCESSES]


def _word(address: int) -> ctypes.c_int64:
    return ctypes.c_int64.from_address(int(address))


def _load(address: int) -> int:
    return _word(address).value


def _store(address: int, value: int) -> None:
    _word(address).value = int(value)


def _exchange(address: int, value: int) -> int:
    before = _load(address)
    _store(address, value)
    return before


def _fetch_add(address: int, value: int) -> int:
    before = _load(address)
    _store(address, before + value)
    return before


def _compare_exchange(address: int, expected: int, value: int) -> int:
    before = _load(address)
    if before == expected:
        _store(address, value)
    return before


def _nothing() -> None:
    """Neither fences nor pauses mean anything to one thread."""


def _copy_bytes(destination: int, source: int, count: int) -> None:
    ctypes.memmove(int(destination), int(source), int(count))


def _load_byte(address: int) -> int:
    return ctypes.c_uint8.from_address(int(address)).value


def _bytes_address(array: np.ndarray[Any, np.dtype[np.uint8]]) -> int:
    return int(array.ctypes.data)


STAND_INS: Final[dict[str, Any]] = {
    "load_acquire": _load,
    "store_release": _store,
    "exchange": _exchange,
    "fetch_add": _fetch_add,
    "compare_exchange": _compare_exchange,
    "fence_acquire": _nothing,
    "fence_release": _nothing,
    "fence_full": _nothing,
    "pause": _nothing,
    "copy_bytes": _copy_bytes,
    "load_byte": _load_byte,
    "bytes_address": _bytes_address,
}

for _name, _stand_in in STAND_INS.items():
    assert hasattr(atomics, _name)
    setattr(atomics, _name, _stand_in)
