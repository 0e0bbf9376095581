"""Layouts of the shared tables: what one actor publishes as state and others read at any moment.

Rule 1: as with records, a layout is described once, here. Rule 2: one writer per row; readers never write.
Rule 3: sizes come from the limits fixed at start, so layouts that depend on a limit are functions of it.
Rule 4: integers in the units of ``core.records``; a side of a book is an array of (price_ticks, lots), best first.
It refuses to know seqlocks, memory and who asks.

=================== ================== ============================ ====================================================
table               row                writer                       what
=================== ================== ============================ ====================================================
``balances``        account            risk                         total and held of every asset
``accounts``        account            risk                         settings of the account that others act on
``touch``           symbol             the symbol's matcher         best bid and ask, last price, trading state
``trading_states``  symbol             publisher                    since when and why the trading state is what it is
``depth``           symbol             publisher                    the first thousand levels of each side
``tickers``         symbol             publisher                    the last 24 hours in one row
``levels.s``        one                matcher s                    a symbol's whole book, on request
``level_requests.s`` one               publisher                    which symbol's book is wanted
``directory``       one                supervisor                   assets and symbols by name, as a msgpack blob
``actors``          actor              supervisor                   process, state and restarts of each actor
``demand.f``        one                front f                      what its clients have subscribed to
``connections.f``   connection         front f                      its stream clients, as of the last second
``risk_census``     one                risk                         its live orders and balances, on request
``book_census.s``   one                matcher s                    its live orders, on request
``census_requests`` one                keeper                       the number of the census that is wanted
=================== ================== ============================ ====================================================
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

import numpy as np

from tradeengine.core.census import book_census_dtype, census_request_dtype, risk_census_dtype
from tradeengine.core.feed import demand_dtype

DEPTH_LEVELS_MAX: Final = 1000
DIRECTORY_BYTES_MAX: Final = 1 << 20
ACTOR_NAME_BYTES_MAX: Final = 24
ACTOR_MESSAGE_BYTES_MAX: Final = 200
TRADING_REASON_BYTES_MAX: Final = 256
"""More than a record has: what was replaced there, because it was no text, may be longer."""

CONNECTION_USER_BYTES_MAX: Final = 64
CONNECTION_ADDRESS_BYTES_MAX: Final = 64
CONNECTION_CHANNELS_BYTES_MAX: Final = 256

SILENCE_MS_MAX: Final = 3000
"""Actors beat many times a second; whoever has not for so long does not run, though nobody may have noticed yet."""

NO_PRICE: Final = 0
"""A price of zero ticks says that there is none: no bid, no ask, no trade yet."""


class ActorState(IntEnum):
    """What the supervisor knows about an actor."""

    STOPPED = 0
    STARTING = 1
    """The process runs and recovers; it does not do its duty yet."""
    READY = 2
    STALLED = 3
    """It runs, but its heartbeat is late."""
    RESTARTING = 4
    """It died; the next process starts after a pause."""
    BLOCKED = 5
    """It runs and says that it cannot go on by itself; ``message`` is why."""
    FAILED = 6
    """It died too often; nobody starts it again before the engine is started anew."""
    STOPPING = 7


touch_dtype: Final = np.dtype(
    [
        ("best_bid_ticks", "<i8"),  # 0: no bid
        ("best_bid_lots", "<i8"),
        ("best_ask_ticks", "<i8"),  # 0: no ask
        ("best_ask_lots", "<i8"),
        ("last_price_ticks", "<i8"),  # 0: no trade yet
        ("trading_state", "<i8"),
        ("sequence", "<i8"),  # of the shard's last event that this row includes
        ("listed", "<i8"),  # 1 once the matcher knows the symbol
        ("shard", "<i8"),
    ]
)

trading_state_dtype: Final = np.dtype(
    [
        ("state", "<i8"),  # TradingState; 0: nobody has looked yet
        ("sequence", "<i8"),  # of the event that set it; -1: none is known
        ("timestamp_ns", "<i8"),
        ("before_all", "<i8"),  # TradingState before a command for all symbols set it; 0: a command of its own did
        ("byte_count", "<i8"),
        ("reason", "u1", (TRADING_REASON_BYTES_MAX,)),  # UTF-8
    ]
)

accounts_dtype: Final = np.dtype(
    [
        ("version", "<i8"),  # of the account's settings, 0: none; row 0 has the highest version of all
        ("flags", "<i8"),  # AccountFlag
        ("keys_version", "<i8"),  # keys made known under another one are to be looked up again
    ]
)

depth_dtype: Final = np.dtype(
    [
        ("sequence", "<i8"),
        ("timestamp_ns", "<i8"),
        ("bid_count", "<i8"),
        ("ask_count", "<i8"),
        ("bids", "<i8", (DEPTH_LEVELS_MAX, 2)),
        ("asks", "<i8", (DEPTH_LEVELS_MAX, 2)),
    ]
)

ticker_dtype: Final = np.dtype(
    [
        ("sequence", "<i8"),
        ("timestamp_ns", "<i8"),
        ("best_bid_ticks", "<i8"),
        ("best_bid_lots", "<i8"),
        ("best_ask_ticks", "<i8"),
        ("best_ask_lots", "<i8"),
        ("last_price_ticks", "<i8"),
        ("last_quantity_lots", "<i8"),
        ("open_ticks", "<i8"),  # of the first trade in the last 24 hours; 0: none
        ("high_ticks", "<i8"),
        ("low_ticks", "<i8"),
        ("volume_lots", "<i8"),
        ("quote_volume_units", "<i8"),
        ("trade_count", "<i8"),
    ]
)

level_request_dtype: Final = np.dtype(
    [
        ("number", "<i8"),  # counts requests; 0: none was made yet
        ("symbol_id", "<i8"),
    ]
)

actor_dtype: Final = np.dtype(
    [
        ("name", f"S{ACTOR_NAME_BYTES_MAX}"),
        ("message", f"S{ACTOR_MESSAGE_BYTES_MAX}"),
        ("pid", "<i8"),  # 0: no process
        ("state", "<i8"),  # ActorState
        ("restart_count", "<i8"),
        ("started_ns", "<i8"),  # UTC, of the present process
        ("heartbeat_age_ms", "<i8"),
    ]
)

connection_dtype: Final = np.dtype(
    [
        ("connection_id", "<i8"),  # grows with time; 0: the row is free
        ("pid", "<i8"),  # of the front: what another process has left here is over
        ("since_ns", "<i8"),
        ("queued_bytes", "<i8"),
        ("message_count", "<i8"),  # sent to it so far
        ("channel_count", "<i8"),
        ("binary", "<i8"),
        ("user", f"S{CONNECTION_USER_BYTES_MAX}"),  # empty: it has not said who it is
        ("address", f"S{CONNECTION_ADDRESS_BYTES_MAX}"),
        ("channels", f"S{CONNECTION_CHANNELS_BYTES_MAX}"),  # names, separated by blanks, as many as fit
    ]
)

directory_dtype: Final = np.dtype(
    [
        ("version", "<i8"),  # grows with every change
        ("byte_count", "<i8"),
        ("data", "u1", (DIRECTORY_BYTES_MAX,)),
    ]
)


def table_dtype(
    name: str, *, assets_max: int, levels_max: int, accounts_max: int, symbols_max: int, orders_max: int, shards: int
) -> np.dtype[np.void]:
    """Give the row layout of a table by its name; ``levels.3`` is a table of the kind ``levels``. Raises KeyError."""
    kind = name.partition(".")[0]
    if kind == "balances":
        return balances_dtype(assets_max)
    if kind == "levels":
        return levels_dtype(levels_max)
    if kind == "demand":
        return demand_dtype(accounts_max, symbols_max)
    if kind == "risk_census":
        return risk_census_dtype(orders_max * shards, accounts_max, assets_max)
    if kind == "book_census":
        return book_census_dtype(orders_max)
    return _FIXED_LAYOUTS[kind]


def balances_dtype(assets_max: int) -> np.dtype[np.void]:
    """Lay out one account: ``units[asset_id]`` is (total, held) in minor units; available is total - held."""
    return np.dtype([("units", "<i8", (assets_max, 2))])


def levels_dtype(levels_max: int) -> np.dtype[np.void]:
    """Lay out the whole book of one symbol, as the answer to request ``number``.

    levels_max: as many levels as a side of a book can have. ``sequence`` is that of the shard's last event that the
    copy includes. Readers copy only the first ``bid_count`` and ``ask_count`` pairs.
    """
    return np.dtype(
        [
            ("number", "<i8"),
            ("symbol_id", "<i8"),
            ("sequence", "<i8"),
            ("bid_count", "<i8"),
            ("ask_count", "<i8"),
            ("bids", "<i8", (levels_max, 2)),
            ("asks", "<i8", (levels_max, 2)),
        ]
    )


_FIXED_LAYOUTS: Final = {
    "accounts": accounts_dtype,
    "touch": touch_dtype,
    "trading_states": trading_state_dtype,
    "depth": depth_dtype,
    "tickers": ticker_dtype,
    "level_requests": level_request_dtype,
    "census_requests": census_request_dtype,
    "connections": connection_dtype,
    "directory": directory_dtype,
    "actors": actor_dtype,
}
for _dtype in _FIXED_LAYOUTS.values():
    assert _dtype.itemsize % 8 == 0  # seqlocks copy whole words
