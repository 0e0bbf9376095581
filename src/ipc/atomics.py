# ruff: noqa: ARG001 - numba reads an intrinsic's parameters off its signature; the code generator gets the values
"""Atomic loads, stores and fences on 64-bit words of shared memory, for compiled code.

Why they exist: plain loads and stores in compiled code are wrong on memory that another process writes, on x86 too.
A loop that spins on ``a[0]`` compiles to an endless loop over a register, and two stores to a cursor are merged or
moved past the payload that they announce. What is here compiles to one instruction each, which stays where it is.

Rule 1: words are named by their *address*, an int64, and never by an array. A read-only mapping gives a read-only
array, which numba treats as another type and compiles anew; an address is always one type, and costs less to pass.
Rule 2: who passes an address keeps the memory mapped: objects of this package hold their segment.
Rule 3: every word is aligned to eight bytes, so that it is never torn.
With compilation off (``NUMBA_DISABLE_JIT``) nothing in ``ipc`` works; ``core`` and the journal use nothing from here.
"""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING, Any

from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

if TYPE_CHECKING:
    import numpy as np

WORD_BYTES = 8
_WORD = ir.IntType(64)
# numba is untyped: what its decorator makes of a function is callable from compiled code, with other arguments.
_intrinsic: Any = intrinsic
# Tells the core that this is a spin, so that its sibling thread gets the time; elsewhere a spin does without.
_PAUSE_INTRINSIC = {"x86_64": "llvm.x86.sse2.pause"}.get(platform.machine(), "")


def address_of(array: np.ndarray[Any, Any]) -> int:
    """Give the address of an array's first byte. The caller keeps the array alive as long as the address is used."""
    return int(array.ctypes.data)


@_intrinsic
def load_acquire(_typing_context: Any, address: Any) -> Any:
    """Load the word at ``address``; what its writer stored before releasing it is visible afterwards."""

    def codegen(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.load_atomic(_pointer(builder, arguments[0]), "acquire", WORD_BYTES)

    return types.int64(types.int64), codegen


@_intrinsic
def store_release(_typing_context: Any, address: Any, value: Any) -> Any:
    """Store ``value`` at ``address``, after everything stored before."""

    def codegen(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        builder.store_atomic(arguments[1], _pointer(builder, arguments[0]), "release", WORD_BYTES)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), codegen


@_intrinsic
def exchange(_typing_context: Any, address: Any, value: Any) -> Any:
    """Store ``value`` and return what was there, in one step; also a full fence."""

    def codegen(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.atomic_rmw("xchg", _pointer(builder, arguments[0]), arguments[1], "seq_cst")

    return types.int64(types.int64, types.int64), codegen


@_intrinsic
def fetch_add(_typing_context: Any, address: Any, value: Any) -> Any:
    """Add ``value`` and return what was there before, in one step; also a full fence."""

    def codegen(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.atomic_rmw("add", _pointer(builder, arguments[0]), arguments[1], "seq_cst")

    return types.int64(types.int64, types.int64), codegen


@_intrinsic
def compare_exchange(_typing_context: Any, address: Any, expected: Any, value: Any) -> Any:
    """Store ``value`` if the word is ``expected``, in one step; returns what was there. Also a full fence."""

    def codegen(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        pair = builder.cmpxchg(_pointer(builder, arguments[0]), arguments[1], arguments[2], "seq_cst", "seq_cst")
        return builder.extract_value(pair, 0)

    return types.int64(types.int64, types.int64, types.int64), codegen


@_intrinsic
def fence_acquire(_typing_context: Any) -> Any:
    """Keep loads before it before all loads and stores after it."""
    return types.void(), _fence("acquire")


@_intrinsic
def fence_release(_typing_context: Any) -> Any:
    """Keep loads and stores before it before all stores after it."""
    return types.void(), _fence("release")


@_intrinsic
def fence_full(_typing_context: Any) -> Any:
    """Fence, sequentially consistent: the only fence that keeps a load after it from overtaking a store before it."""
    return types.void(), _fence("seq_cst")


@_intrinsic
def pause(_typing_context: Any) -> Any:
    """Take one turn of a spin."""

    def codegen(context: Any, builder: Any, _signature: Any, _arguments: Any) -> Any:
        if _PAUSE_INTRINSIC:
            function_type = ir.FunctionType(ir.VoidType(), [])
            builder.call(builder.module.declare_intrinsic(_PAUSE_INTRINSIC, (), function_type), ())
        return context.get_dummy_value()

    return types.void(), codegen


@_intrinsic
def copy_bytes(_typing_context: Any, destination: Any, source: Any, count: Any) -> Any:
    """Copy ``count`` bytes between addresses that do not overlap. Fences order it like plain stores."""

    def codegen(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        byte = ir.IntType(8).as_pointer()
        target = builder.inttoptr(arguments[0], byte)
        cgutils.raw_memcpy(builder, target, builder.inttoptr(arguments[1], byte), arguments[2], 1)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), codegen


@_intrinsic
def load_byte(_typing_context: Any, address: Any) -> Any:
    """Load the byte at ``address`` by a plain load: whether it was torn is for the caller to verify afterwards."""

    def codegen(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        byte = builder.load(builder.inttoptr(arguments[0], ir.IntType(8).as_pointer()))
        return builder.zext(byte, _WORD)

    return types.int64(types.int64), codegen


@_intrinsic
def bytes_address(_typing_context: Any, array: Any) -> Any:
    """Give the address of the first byte of a ``uint8[::1]`` array: cheaper than asking numpy for it."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        structure = context.make_array(signature.args[0])(context, builder, arguments[0])
        return builder.ptrtoint(structure.data, _WORD)

    return types.int64(array), codegen


def _pointer(builder: Any, address: Any) -> Any:
    return builder.inttoptr(address, _WORD.as_pointer())


def _fence(ordering: str) -> Any:
    def codegen(context: Any, builder: Any, _signature: Any, _arguments: Any) -> Any:
        builder.fence(ordering)
        return context.get_dummy_value()

    return codegen


@njit("int64(int64)", cache=True)
def load_word(address: int) -> int:
    """``load_acquire`` for interpreted code."""
    word: int = load_acquire(address)
    return word


@njit("void(int64, int64)", cache=True)
def store_word(address: int, value: int) -> None:
    """``store_release`` for interpreted code."""
    store_release(address, value)


@njit("int64(int64, int64)", cache=True)
def exchange_word(address: int, value: int) -> int:
    """``exchange`` for interpreted code."""
    before: int = exchange(address, value)
    return before


@njit("int64(int64, int64)", cache=True)
def fetch_add_word(address: int, value: int) -> int:
    """``fetch_add`` for interpreted code."""
    before: int = fetch_add(address, value)
    return before


@njit("int64(int64, int64, int64)", cache=True)
def compare_exchange_word(address: int, expected: int, value: int) -> int:
    """``compare_exchange`` for interpreted code."""
    before: int = compare_exchange(address, expected, value)
    return before


@njit("int64(int64)", cache=True)
def load_word_after_fence(address: int) -> int:
    """Fence fully, then load the word: what a waker does between publishing and looking for a sleeper."""
    fence_full()
    word: int = load_acquire(address)
    return word


def compile_kernels() -> None:
    """Compile what is compiled here. Signatures are fixed, so importing has done it already."""
    kernels = (load_word, store_word, exchange_word, fetch_add_word, compare_exchange_word, load_word_after_fence)
    for kernel in kernels:
        assert kernel.signatures
