"""A fingerprint of record layouts, kept in shared memory beside the records."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np


def layout_checksum(dtype: np.dtype[Any]) -> int:
    """Fingerprint names, types and offsets, so that two versions of a layout are never mixed up."""
    fields: Mapping[str, Any] = dtype.fields or {}
    described = sorted((name, str(field[0]), field[1]) for name, field in fields.items())
    return zlib.crc32(repr((dtype.itemsize, described)).encode())
