"""Log-linear buckets: 16 to each power of two, so that small and large values are counted equally exactly.

Values up to 31 have a bucket each; above, a bucket is a sixteenth of its power of two wide. Values from 2**40 on
share the last bucket: in microseconds that is twelve days.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numba import njit

if TYPE_CHECKING:
    Words = np.ndarray[Any, np.dtype[np.int64]]

_STEPS_BITS: Final = 4
_STEPS: Final = 1 << _STEPS_BITS
_VALUE_BITS: Final = 40
BUCKET_COUNT: Final = (_VALUE_BITS - _STEPS_BITS + 1) * _STEPS
HEAD_WORDS: Final = 3
"""Words of a stored histogram before its buckets: count, sum, maximum."""


def bucket_index(value: int) -> int:
    """Give the bucket of a value ≥ 0."""
    shift = max(value.bit_length() - _STEPS_BITS - 1, 0)
    return min((shift << _STEPS_BITS) + (value >> shift), BUCKET_COUNT - 1)


def bucket_bounds() -> Words:
    """Give the highest value of each bucket."""
    index = np.arange(BUCKET_COUNT, dtype=np.int64)
    shift = np.maximum((index >> _STEPS_BITS) - 1, 0)
    bounds: Words = ((index - (shift << _STEPS_BITS) + 1) << shift) - 1
    return bounds


@njit("void(int64[::1], int64[::1])", cache=True)
def record_values(histogram: Words, values: Words) -> None:
    """Record values into a stored histogram; negative ones count as 0."""
    for raw in values:
        value = max(raw, 0)
        shift = 0
        while value >> shift >= 2 * _STEPS:
            shift += 1
        bucket = min((shift << _STEPS_BITS) + (value >> shift), BUCKET_COUNT - 1)
        histogram[0] += 1
        histogram[1] += value
        histogram[2] = max(histogram[2], value)
        histogram[HEAD_WORDS + bucket] += 1


def compile_kernels() -> None:
    """Compile what is compiled here. Signatures are fixed, so importing has done it already."""
    assert record_values.signatures
