"""Salvage: the commands in a journal that cannot be replayed, as far as they can still be read.

A shard whose journal is damaged is fenced; its commands wait for the file to be mended. But what they hold of their
accounts' money must not be spent elsewhere meanwhile, and those that PostgreSQL does not have are in the journal alone.
So every group that is whole is read, wherever it stands and whatever is missing before it.

Rule 1: a group counts when its header and its payload match their checksums and it is the shard's; nothing else is
believed, and nothing in a file that says that it is another engine's. Rule 2: this is for holds alone. Nothing is
matched, and no file is changed.
It refuses to know what follows from a command.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Final

import numpy as np

from tradeengine.core.records import COMMAND_BYTES, CommandKind, command_dtype
from tradeengine.storage.identity import is_foreign
from tradeengine.storage.journal_format import (
    GROUP_COMMANDS,
    GROUP_HEADER_BYTES,
    GROUP_MAGIC,
    SEGMENT_HEADER_BYTES,
    TRAILER,
    SegmentHeader,
    group_bytes,
    unpack_group,
)
from tradeengine.storage.journal_read import SUFFIX, load_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

_ALIGNMENT: Final = 64


def newer_commands(directory: Path, shard: int, order_id: int, engine_mark: int = 0) -> NDArray[np.void]:
    """Give the commands from the first PLACE behind an order on, in order, as far as they are readable: command_dtype.

    Looks at the newest files first, and no further back than to the first one with an order that is not newer.
    engine_mark: files with the mark of another engine are left out; 0: none is.
    """
    groups: dict[int, NDArray[np.void]] = {}
    for path in sorted(directory.glob(f"*{SUFFIX}*"), reverse=True):
        try:
            data = load_bytes(path)
        except OSError:
            continue
        if _is_foreign(data, engine_mark):
            continue
        found = dict(_whole_groups(data, shard))
        groups |= found
        if any(_placed(commands, 0, order_id).any() for commands in found.values()):
            break
    commands = np.concatenate([np.empty(0, command_dtype), *(groups[first] for first in sorted(groups))])
    newer = np.flatnonzero(_placed(commands, order_id + 1, np.iinfo(np.int64).max))
    return commands[newer[0] :] if len(newer) else commands[:0]


def _is_foreign(data: NDArray[np.uint8], engine_mark: int) -> bool:
    try:
        header = SegmentHeader.unpack(data[:SEGMENT_HEADER_BYTES].tobytes())
    except ValueError:
        return False  # damaged: it does not say whose it is
    return is_foreign(header.engine_mark, engine_mark)


def _whole_groups(data: NDArray[np.uint8], shard: int) -> Iterator[tuple[int, NDArray[np.void]]]:
    """Find the groups of commands in a file's bytes: (first command sequence, commands)."""
    words = data[: len(data) // _ALIGNMENT * _ALIGNMENT].view("<u8")[:: _ALIGNMENT // 8]
    for place in np.flatnonzero(words == GROUP_MAGIC).tolist():
        start = place * _ALIGNMENT
        header = unpack_group(data[start : start + GROUP_HEADER_BYTES].tobytes())
        if header is None or header.shard != shard or header.kind != GROUP_COMMANDS:
            continue
        end = start + group_bytes(header.command_count)
        payload = data[start + GROUP_HEADER_BYTES : start + GROUP_HEADER_BYTES + header.command_count * COMMAND_BYTES]
        whole = zlib.crc32(payload.tobytes()) == header.payload_crc
        if whole and data[end - len(TRAILER) : end].tobytes() == TRAILER:
            yield header.first_command_sequence, payload.view(command_dtype)


def _placed(commands: NDArray[np.void], first_id: int, last_id: int) -> NDArray[np.bool_]:
    """Mark the orders placed whose ids are in a range, both ends included."""
    order_ids = commands["order_id"]
    found: NDArray[np.bool_] = (
        (commands["kind"] == CommandKind.PLACE) & (order_ids >= first_id) & (order_ids <= last_id)
    )
    return found
