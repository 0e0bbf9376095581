# ruff: noqa: ARG001 - numba reads an intrinsic's parameters off its signature; the code generator gets the values
"""Asking for memory before it is needed.

A book of more than some ten thousand orders does not fit the cache next to the core, and what a cancel touches lies
anywhere in it: an entry of the id index, then the order. Waiting for these two was more than half of its time. A
batch tells which orders come next, so their memory is asked for some commands ahead: first the index entry, then,
when that has arrived, the order it names and its account's list. Rule: nothing here decides anything; a wrong guess
costs a cache line.
"""

from __future__ import annotations

from typing import Any, Final

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

from tradeengine.core.book_events import C_ACCOUNT, C_ORDER_ID, COMMAND_SHIFT
from tradeengine.core.book_index import hash_id
from tradeengine.core.book_state import (
    H_ACCOUNTS_MAX,
    H_INDEX_MASK,
    LINK_SHIFT,
    LOW_32,
    ORDER_SHIFT,
    BookState,
    at,
    leaf,
)

FARTHEST: Final = 40
"""Commands ahead at which the command itself is asked for: it comes from another core's cache."""
FAR: Final = 12
"""Commands ahead at which the index entry is asked for."""
NEAR: Final = 6
"""Commands ahead at which the order is asked for."""
_LINE_WORDS: Final = 8


@leaf
def look_ahead(book: BookState, commands: NDArray[np.int64], index: int, end: int) -> None:
    """Ask for command ``index + FARTHEST`` and for what commands ``index + FAR`` and ``index + NEAR`` will touch."""
    mask = book.header[H_INDEX_MASK]
    if index + FARTHEST < end:
        prefetch(commands, at(index + FARTHEST, COMMAND_SHIFT))
        prefetch(commands, at(index + FARTHEST, COMMAND_SHIFT) + _LINE_WORDS)
    if index + FAR < end:
        order_id = commands[at(index + FAR, COMMAND_SHIFT) + C_ORDER_ID]
        prefetch(book.id_index, hash_id(order_id) & mask)
    if index + NEAR < end:
        order_id = commands[at(index + NEAR, COMMAND_SHIFT) + C_ORDER_ID]
        slot = book.id_index[hash_id(order_id) & mask] & LOW_32
        prefetch(book.orders, at(slot, ORDER_SHIFT))
        prefetch(book.orders, at(slot, ORDER_SHIFT) + _LINE_WORDS)
        prefetch(book.links, at(slot, LINK_SHIFT))
        account = commands[at(index + NEAR, COMMAND_SHIFT) + C_ACCOUNT] & LOW_32
        if account < book.header[H_ACCOUNTS_MAX]:
            prefetch(book.accounts, account << 1)


def _prefetch_uncompiled(array: NDArray[Any], index: int) -> None:
    """With compilation off there is nothing to ask for."""


def _prefetch(typing_context: Any, array: Any, index: Any) -> Any:  # pragma: no cover - runs while numba compiles
    """Bring the cache line of ``array[index]`` near. The index is within the array."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        record = context.make_array(signature.args[0])(context, builder, arguments[0])
        bit_32, pointer = ir.IntType(32), ir.IntType(8).as_pointer()
        function = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(ir.VoidType(), [pointer, bit_32, bit_32, bit_32]), "llvm.prefetch.p0"
        )
        address = builder.bitcast(builder.gep(record.data, [arguments[1]]), pointer)
        builder.call(function, [address, bit_32(0), bit_32(3), bit_32(1)])  # to read, keep near, data
        return context.get_dummy_value()

    return types.void(array, types.int64), codegen


_numba_config: Any = numba.config
prefetch: Any = _prefetch_uncompiled if _numba_config.DISABLE_JIT else intrinsic(_prefetch)
