"""Order and trade ids: time-ordered, unique over all shards, and telling when and where they were made.

An order id is ``ms << 22 | shard << 16 | epoch << 12 | counter``, a trade id ``ms << 22 | shard << 16 | counter``; ms
counts from 2024-01-01T00:00Z. Rule 1: ids of one shard strictly ascend; a full counter borrows the next millisecond.
Rule 2: an id is a positive int64 until the year 2093. It refuses to know clocks.
"""

from __future__ import annotations

from typing import Final

EPOCH_2024_MS: Final = 1_704_067_200_000
TIMESTAMP_SHIFT: Final = 22
SHARD_SHIFT: Final = 16
TRADE_SHARD_SHIFT: Final = SHARD_SHIFT
EPOCH_SHIFT: Final = 12
SHARDS_MAX: Final = 1 << (TIMESTAMP_SHIFT - SHARD_SHIFT)
EPOCHS_MAX: Final = 1 << (SHARD_SHIFT - EPOCH_SHIFT)
COUNTER_MAX: Final = (1 << EPOCH_SHIFT) - 1
TRADE_COUNTER_MAX: Final = (1 << SHARD_SHIFT) - 1


def shard_of(any_id: int) -> int:
    """Shard of an order or trade id: 0 … 63."""
    return (any_id >> SHARD_SHIFT) & (SHARDS_MAX - 1)


def epoch_of(order_id: int) -> int:
    """Epoch in which risk made an order id: 0 … 15, counting its restarts round and round."""
    return (order_id >> EPOCH_SHIFT) & (EPOCHS_MAX - 1)


def timestamp_ms_of(any_id: int) -> int:
    """Milliseconds since 1970, UTC, in an order or trade id."""
    return (any_id >> TIMESTAMP_SHIFT) + EPOCH_2024_MS


def first_id_at(timestamp_ms: int) -> int:
    """Smallest id, of an order or a trade, made at or after a time: time ranges become ranges of ids.

    timestamp_ms: since 1970, UTC. Times before 2024 give 0.
    """
    return max(0, timestamp_ms - EPOCH_2024_MS) << TIMESTAMP_SHIFT


def make_order_id(timestamp_ms: int, shard: int, epoch: int, counter: int) -> int:
    """Order id from its parts. timestamp_ms: since 1970, 2024 or later; epoch is taken modulo 16."""
    assert timestamp_ms >= EPOCH_2024_MS
    assert 0 <= shard < SHARDS_MAX
    assert 0 <= counter <= COUNTER_MAX
    return (
        (timestamp_ms - EPOCH_2024_MS) << TIMESTAMP_SHIFT
        | shard << SHARD_SHIFT
        | (epoch % EPOCHS_MAX) << EPOCH_SHIFT
        | counter
    )
