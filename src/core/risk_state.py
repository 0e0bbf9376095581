"""What risk knows, as numpy arrays that compiled code works on: balances, live orders, symbols, client order ids.

Rule 1: everything has a size fixed at start (``RiskLimits``); nothing grows.
Rule 2: an account's free balance is total - held, and held is the sum over its live orders' holds, exactly, after
every command and every event.
Rule 3: each kind of row has its words named here once; the files beside this one hold one duty each.
Rule 4: the engine's own accounts are rows like others: the exchange's earns the fees, the outside's goes down by what
comes in; so the totals of an asset sum to zero over all accounts, always.
It refuses to know rings, clocks, databases, and names of users, assets and symbols.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, TypeVar, cast

import numpy as np
from numba import njit
from numpy.typing import NDArray

from tradeengine.core.ids import SHARDS_MAX
from tradeengine.core.records import ACCOUNT_ID_FIRST_USER

Int64Array = NDArray[np.int64]
_Function = TypeVar("_Function", bound=Callable[..., Any])


def kernel(function: _Function) -> _Function:
    """Compile with an on-disk cache. Nothing is divided by zero, and no memory is taken, so none is counted."""
    return cast("_Function", njit(cache=True, error_model="numpy", _nrt=False)(function))  # type: ignore[call-overload]


_inlined = njit(cache=True, error_model="numpy", _nrt=False, forceinline=True)  # type: ignore[call-overload]


def leaf(function: _Function) -> _Function:
    """Compile into its callers: a call that passes all arrays costs more than most leaves."""
    return cast("_Function", _inlined(function))


# Balances: words of [account, asset].
TOTAL: Final = 0
HELD: Final = 1

# Worth: words of [quote asset, account].
OPEN: Final = 0
"""What the account's live orders could still trade, each at its own price."""
TRADED: Final = 1
"""What the account's fills of one day came to; stops at ``TRADED_MAX``."""
TRADED_DAY: Final = 2
"""Which UTC day, counted since 1970."""
WORTH_WORDS: Final = 4
TRADED_MAX: Final = 1 << 62
OPEN_MAX: Final = 1 << 62
"""Bound of every OPEN; the greatest order may come to half of it."""

# An account's settings: 64 bytes, a cache line. Amounts are mantissas of decimals, -1: no limit.
SETTING_VERSION: Final = 0
SETTING_KEYS: Final = 1
SETTING_PARTS: Final = 2
"""Flags and the scales of the amounts, as in the command (``A_PARTS``)."""
SETTING_ORDER_NOTIONAL: Final = 3
SETTING_DAY_NOTIONAL: Final = 4
SETTING_TWO_FACTOR: Final = 5
SETTING_OPEN_ORDERS: Final = 6
SETTING_WORDS: Final = 8
NO_LIMIT: Final = -1

# A live order: 64 bytes, a cache line. Where: account, symbol and ORDER_… bits. Price: ticks and the frozen fee rate.
ORDER_ID: Final = 0
ORDER_WHERE: Final = 1
ORDER_PRICE: Final = 2
ORDER_STOP_PRICE: Final = 3
ORDER_QUANTITY: Final = 4
ORDER_FILLED: Final = 5
ORDER_HOLD: Final = 6
"""What the matcher says that the order holds, as of the last event."""
ORDER_EXTRA: Final = 7
"""What was taken in addition for amends that are still on their way."""
ORDER_WORDS: Final = 8

ACCOUNT_BITS: Final = 24
SYMBOL_BITS: Final = 16
PRICE_BITS: Final = 42
SYMBOL_SHIFT: Final = ACCOUNT_BITS
FLAGS_SHIFT: Final = ACCOUNT_BITS + SYMBOL_BITS
ORDER_SELL: Final = 1 << FLAGS_SHIFT
ORDER_PRICED: Final = 2 << FLAGS_SHIFT
"""It has a limit price."""
ORDER_STOP: Final = 4 << FLAGS_SHIFT
ORDER_TRIGGERED: Final = 8 << FLAGS_SHIFT
ORDER_NEW: Final = 16 << FLAGS_SHIFT
"""Forwarded; the matcher has not said yet what became of it."""
ORDER_ENDED: Final = 32 << FLAGS_SHIFT
"""It is over, and stays only until the amends behind it have given back what was taken for them."""
ORDER_AS_HELD: Final = 64 << FLAGS_SHIFT
"""What it could still trade is what it holds: a buy by quote amount, or one of which no price is known any more."""
ORDER_AMENDING: Final = 128 << FLAGS_SHIFT
"""Amends of it are on their way: it has a row among ``amends``."""

# An order with amends on their way: what they may make of it at most.
AMENDS_ORDER: Final = 0
AMENDS_COUNT: Final = 1
AMENDS_QUANTITY: Final = 2
AMENDS_PRICE: Final = 3
AMENDS_WORDS: Final = 4

# A symbol.
SYMBOL_LISTED: Final = 0
SYMBOL_SHARD: Final = 1
SYMBOL_BASE: Final = 2
SYMBOL_QUOTE: Final = 3
SYMBOL_TICK_LOT_UNITS: Final = 4
SYMBOL_LOT_UNITS: Final = 5
SYMBOL_PRICE_TICKS_MAX: Final = 6
SYMBOL_LOTS_MIN: Final = 7
SYMBOL_LOTS_MAX: Final = 8
SYMBOL_NOTIONAL_MIN: Final = 9
SYMBOL_MAKER_PPM: Final = 10
SYMBOL_TAKER_PPM: Final = 11
SYMBOL_COLLAR_PPM: Final = 12
SYMBOL_RING_SEQUENCE: Final = 13
"""Of the command that set these values; -1: from the database."""
SYMBOL_WORDS: Final = 16

# A client order id: 32 bytes. Its time is in the order id.
CLIENT_HASH: Final = 0
CLIENT_KEY: Final = 1
"""The account and 40 bits of a second hash."""
CLIENT_CONTENT: Final = 2
CLIENT_ORDER: Final = 3
NO_ORDER: Final = -1
"""In place of an order id, older than any: the client order id is free again."""
CLIENT_WORDS: Final = 4
CLIENT_ID_LIFETIME_MS: Final = 24 * 3600 * 1000

# Touch: what risk reads of the matchers' page, words of [symbol].
TOUCH_BID: Final = 0
TOUCH_ASK: Final = 1

# Scalars.
LAST_TIMESTAMP_NS: Final = 0
FUNDING_NUMBER: Final = 1
"""Of the last deposit or withdrawal that was applied or refused."""
ORDER_COUNT: Final = 2
CLIENT_HEAD: Final = 3
CLIENT_TAIL: Final = 4
DIRTY_COUNT: Final = 5
EPOCH: Final = 6
ORDERS_MAX: Final = 7
OPEN_ORDERS_MAX: Final = 8
SHARD_COUNT: Final = 9
MISMATCH_COUNT: Final = 10
"""Events that did not fit what risk knew: always 0 unless a part of the engine is wrong."""
FUNDING_SKIPPED_COUNT: Final = 11
ACCOUNTS_VERSION: Final = 12
"""Highest version of an account's settings that was taken over."""
AMENDS_IN_USE: Final = 13
AMENDS_MAX: Final = 14
SCALAR_WORDS: Final = 16

REASONS_MAX: Final = 64


@dataclass(frozen=True, slots=True)
class RiskLimits:
    """Sizes fixed at start.

    ``orders_max``: live orders in all shards; ``open_orders_max``: of one account. ``amends_max``: orders of which
    amends are on their way; at least as many as all command rings have slots, so that a restart never lacks room.
    """

    accounts_max: int
    assets_max: int
    symbols_max: int
    orders_max: int
    client_ids_max: int
    open_orders_max: int
    shards: int = 1
    amends_max: int = 1024

    def __post_init__(self) -> None:
        assert ACCOUNT_ID_FIRST_USER < self.accounts_max <= 1 << ACCOUNT_BITS
        assert 1 <= self.symbols_max <= 1 << SYMBOL_BITS
        assert 1 <= self.shards <= SHARDS_MAX
        assert self.orders_max >= 1
        assert self.client_ids_max >= 1


class RiskState(NamedTuple):
    """All arrays of risk. ``orders``, ``amends`` and ``client_index`` are open-addressing tables, 2 ** n long."""

    balances: Int64Array  # [accounts_max, assets_max, 2]
    worth: Int64Array  # [assets_max, accounts_max, WORTH_WORDS]; few assets are quoted in: theirs lie together
    asset_places: Int64Array  # [assets_max]: decimal places
    accounts: Int64Array  # [accounts_max, SETTING_WORDS]
    restricted: NDArray[np.uint8]  # [accounts_max]: 1 where the settings hold something that a new order may break
    open_orders: Int64Array  # [accounts_max]
    orders: Int64Array  # [order slots, ORDER_WORDS]
    amends: Int64Array  # [slots, AMENDS_WORDS]
    symbols: Int64Array  # [symbols_max, SYMBOL_WORDS]
    client_ids: Int64Array  # [client_ids_max, CLIENT_WORDS], a ring from CLIENT_TAIL to CLIENT_HEAD
    client_index: Int64Array  # [index slots]: 32 bits of the hash, 32 bits of the row + 1; 0: empty
    last_order_ids: Int64Array  # [SHARDS_MAX]
    dirty: NDArray[np.uint8]  # [accounts_max]
    dirty_accounts: Int64Array  # [accounts_max], the first DIRTY_COUNT
    refusals: Int64Array  # [REASONS_MAX], counts by reason since the start
    scalars: Int64Array  # [SCALAR_WORDS]


def make_risk(limits: RiskLimits) -> RiskState:
    """Make an empty state: no money, no symbols, no orders."""
    scalars = np.zeros(SCALAR_WORDS, np.int64)
    accounts = np.zeros((limits.accounts_max, SETTING_WORDS), np.int64)
    accounts[:, SETTING_ORDER_NOTIONAL : SETTING_OPEN_ORDERS + 1] = NO_LIMIT
    scalars[ORDERS_MAX] = limits.orders_max
    scalars[OPEN_ORDERS_MAX] = limits.open_orders_max
    scalars[SHARD_COUNT] = limits.shards
    scalars[AMENDS_MAX] = limits.amends_max
    return RiskState(
        balances=np.zeros((limits.accounts_max, limits.assets_max, 2), np.int64),
        worth=np.zeros((limits.assets_max, limits.accounts_max, WORTH_WORDS), np.int64),
        asset_places=np.zeros(limits.assets_max, np.int64),
        accounts=accounts,
        restricted=np.zeros(limits.accounts_max, np.uint8),
        open_orders=np.zeros(limits.accounts_max, np.int64),
        orders=np.zeros((_table_slots(limits.orders_max, 3, 2), ORDER_WORDS), np.int64),
        amends=np.zeros((_table_slots(limits.amends_max, 3, 2), AMENDS_WORDS), np.int64),
        symbols=np.zeros((limits.symbols_max, SYMBOL_WORDS), np.int64),
        client_ids=np.zeros((limits.client_ids_max, CLIENT_WORDS), np.int64),
        client_index=np.zeros(_table_slots(limits.client_ids_max, 3, 2), np.int64),
        last_order_ids=np.zeros(SHARDS_MAX, np.int64),
        dirty=np.zeros(limits.accounts_max, np.uint8),
        dirty_accounts=np.zeros(limits.accounts_max, np.int64),
        refusals=np.zeros(REASONS_MAX, np.int64),
        scalars=scalars,
    )


def order_count(risk: RiskState) -> int:
    """Count the live orders of all accounts."""
    return int(risk.scalars[ORDER_COUNT])


def take_dirty_accounts(risk: RiskState) -> Int64Array:
    """Give the accounts whose balances changed since the last call, each once, and forget them: int64[n]."""
    count = int(risk.scalars[DIRTY_COUNT])
    accounts = risk.dirty_accounts[:count].copy()
    risk.dirty[accounts] = 0
    risk.scalars[DIRTY_COUNT] = 0
    return accounts


@leaf
def mark_dirty(risk: RiskState, account_id: int) -> None:
    """Note that an account's balances changed."""
    if risk.dirty[account_id] == 0:
        risk.dirty[account_id] = 1
        count = risk.scalars[DIRTY_COUNT]
        risk.dirty_accounts[count] = account_id
        risk.scalars[DIRTY_COUNT] = count + 1


def _table_slots(entries_max: int, numerator: int, denominator: int) -> int:
    """Choose a power of two that keeps a table at most two thirds full, so that probes stay short."""
    wanted = -(-entries_max * numerator // denominator) + 1
    return 1 << (wanted - 1).bit_length()
