"""Who and what exists in PostgreSQL: assets, symbols and accounts.

Rule 1: ids are small, dense and never given out twice, because arrays in shared memory are indexed by them.
Rule 2: a symbol's row comes before its command (status pending) and is listed when settlement has seen the event.
Rule 3: parameters are the integers that records carry; the decimals beside them are for people.
It refuses to know rings and who asks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import psycopg
from psycopg.rows import args_row

from tradeengine.core.records import ACCOUNT_ID_FIRST_USER, TradingState
from tradeengine.core.symbols import AssetSpec, SymbolSpec
from tradeengine.core.trading import Trading
from tradeengine.settings import Seeds

ACCOUNT_NAME_EXCHANGE: Final = "*exchange*"
ACCOUNT_NAME_OUTSIDE: Final = "*outside*"

Connection = psycopg.Connection[Any]


class DirectoryFullError(Exception):
    """No id is left within a limit fixed at start; the message names the limit."""


@dataclass(frozen=True, slots=True)
class SymbolRow:
    """A symbol as the database knows it. ``listed``: the matcher has confirmed it."""

    spec: SymbolSpec
    listed: bool
    trading: Trading

    @property
    def trading_state(self) -> TradingState:
        """In which state it was when settlement last heard."""
        return self.trading.state


@dataclass(frozen=True, slots=True)
class Directory:
    """All assets and symbols, by id."""

    assets: dict[int, AssetSpec]
    symbols: dict[int, SymbolRow]

    def asset(self, name: str) -> AssetSpec | None:
        """Find an asset by name."""
        return next((asset for asset in self.assets.values() if asset.name == name), None)

    def symbol(self, name: str) -> SymbolRow | None:
        """Find a symbol by name."""
        return next((symbol for symbol in self.symbols.values() if symbol.spec.name == name), None)


def load_directory(connection: Connection) -> Directory:
    """Read all assets and symbols."""
    # Symbols first: assets only come, so none is missing to a symbol that is added meanwhile.
    rows = connection.execute(_SELECT_SYMBOLS).fetchall()
    with connection.cursor(row_factory=args_row(AssetSpec)) as cursor:
        assets = {asset.asset_id: asset for asset in cursor.execute("SELECT id, name, places FROM assets ORDER BY id")}
    symbols = {}
    for row in rows:
        spec = SymbolSpec(row[0], assets[row[1]], assets[row[2]], *row[3:13])
        symbols[spec.symbol_id] = SymbolRow(spec, row[13] == "listed", _trading(*row[14:]))
    return Directory(assets, symbols)


def seed_directory(
    connection: Connection, seeds: Seeds, *, shards: int, assets_max: int, symbols_max: int
) -> Directory:
    """Add the assets and symbols that are missing, as pending, and return all; what is there stays as it is.

    Raises ListingError for a seed that cannot be listed, DirectoryFullError beyond a limit.
    """
    with connection.transaction():
        for asset in seeds.assets:
            add_asset(connection, asset.name, asset.places, assets_max=assets_max)
        directory = load_directory(connection)
        for seed in seeds.symbols:
            base_name, _, quote_name = seed.name.partition("/")
            base, quote = directory.asset(base_name), directory.asset(quote_name)
            if base is None or quote is None:
                raise DirectoryFullError(f"symbol {seed.name} needs assets {base_name} and {quote_name}: seed them too")
            spec = SymbolSpec.from_decimals(
                symbol_id=0,
                base=base,
                quote=quote,
                tick=seed.tick,
                lot=seed.lot,
                price_max=seed.price_max,
                quantity_min=seed.quantity_min,
                quantity_max=seed.quantity_max,
                min_notional=seed.min_notional,
                max_price_deviation=seed.max_price_deviation,
                maker_fee=seed.maker_fee,
                taker_fee=seed.taker_fee,
                shard=seed.shard % shards,
            )
            add_symbol(connection, spec, symbols_max=symbols_max)
    return load_directory(connection)


def add_asset(connection: Connection, name: str, places: int, *, assets_max: int) -> AssetSpec:
    """Add an asset unless one of that name exists; return what is then there.

    Raises ListingError for a name or places that cannot be, DirectoryFullError beyond ``assets_max``.
    """
    AssetSpec(0, name, places)
    with connection.transaction():
        _lock_counter(connection, "asset")
        row = connection.execute("SELECT id, name, places FROM assets WHERE name = %s", (name,)).fetchone()
        if row is not None:
            return AssetSpec(*row)
        asset = AssetSpec(_next_id(connection, "asset", assets_max), name, places)
        connection.execute("INSERT INTO assets (id, name, places) VALUES (%s, %s, %s)", (asset.asset_id, name, places))
        return asset


def add_symbol(
    connection: Connection, spec: SymbolSpec, *, symbols_max: int, state: TradingState = TradingState.OPEN
) -> SymbolRow:
    """Add a symbol as pending unless one of that name exists; return what is then there.

    spec: its ``symbol_id`` is ignored and given here. state: in which it is to be listed. Raises DirectoryFullError.
    """
    with connection.transaction():
        _lock_counter(connection, "symbol")
        found = load_directory(connection).symbol(spec.name)
        if found is not None:
            return found
        parameters: dict[str, object] = {name: getattr(spec, name) for name in _PARAMETERS}
        parameters |= {
            "id": _next_id(connection, "symbol", symbols_max),
            "name": spec.name,
            "base_asset_id": spec.base.asset_id,
            "quote_asset_id": spec.quote.asset_id,
            "tick": spec.tick,
            "lot": spec.lot,
            "trading_state": state.name.lower(),
        }
        connection.execute(_INSERT_SYMBOL, parameters)
    found = load_directory(connection).symbol(spec.name)
    assert found is not None
    return found


def change_symbol(
    connection: Connection,
    symbol_id: int,
    change: Callable[[SymbolSpec], SymbolSpec],
    carry_out: Callable[[SymbolSpec], None],
) -> SymbolSpec:
    """Change a symbol as it is while nobody else does, so that no two changes undo parts of each other.

    connection: in autocommit. carry_out: has the engine take the changed symbol over and settlement write the row,
    which is free for it. Raises what these two raise.
    """
    with connection.transaction():
        connection.execute("SELECT pg_advisory_xact_lock(%s, %s)", (_SYMBOL_LOCK_KEY, symbol_id))
        changed = change(load_directory(connection).symbols[symbol_id].spec)
        carry_out(changed)
    return changed


def remove_pending_symbol(connection: Connection, symbol_id: int) -> None:
    """Take back a symbol that the engine refused to list. Its id is not given out again."""
    connection.execute("DELETE FROM symbols WHERE id = %s AND status = 'pending'", (symbol_id,))


def resolve_account(connection: Connection, name: str, *, accounts_max: int) -> int:
    """Account id of a user's name, made when it is new. Raises DirectoryFullError beyond ``accounts_max``.

    name: the ``sub`` of a token; that it is well-formed was checked where it came in.
    """
    account_id = find_account(connection, name)
    if account_id is not None:
        return account_id
    with connection.transaction():
        _lock_counter(connection, "account")
        account_id = find_account(connection, name)
        if account_id is not None:
            return account_id
        account_id = _next_id(connection, "account", accounts_max)
        assert account_id >= ACCOUNT_ID_FIRST_USER
        connection.execute("INSERT INTO accounts (id, name) VALUES (%s, %s)", (account_id, name))
        return account_id


def has_room_for_account(connection: Connection, accounts_max: int) -> bool:
    """Whether one more account can be made."""
    query = "SELECT FROM counters WHERE name = 'account' AND value + 1 < %s"
    return connection.execute(query, (accounts_max,)).rowcount == 1


def find_account(connection: Connection, name: str) -> int | None:
    """Account id of a name, or None."""
    row = connection.execute("SELECT id FROM accounts WHERE name = %s", (name,)).fetchone()
    return None if row is None else int(row[0])


def account_names(connection: Connection, account_ids: Sequence[int]) -> dict[int, str]:
    """Names of those accounts that exist."""
    rows = connection.execute("SELECT id, name FROM accounts WHERE id = ANY (%s)", (list(account_ids),))
    return dict(rows.fetchall())


def _trading(state: str, sequence: int, changed_us: int | None, reason: str | None, before_all: str | None) -> Trading:
    before = TradingState[before_all.upper()] if before_all else None
    return Trading(TradingState[state.upper()], sequence, (changed_us or 0) * 1000, reason, before)


def _lock_counter(connection: Connection, name: str) -> None:
    connection.execute("SELECT value FROM counters WHERE name = %s FOR UPDATE", (name,))


def _next_id(connection: Connection, name: str, limit: int) -> int:
    query = "UPDATE counters SET value = value + 1 WHERE name = %s RETURNING value"
    row = connection.execute(query, (name,)).fetchone()
    assert row is not None
    if row[0] >= limit:
        raise DirectoryFullError(f"all {limit} ids are taken: raise limits.{name}s_max and start the engine again")
    return int(row[0])


_SYMBOL_LOCK_KEY: Final = 0x7452_6164
"""Advisory locks with two keys; the engine's others have one."""

_PARAMETERS: Final = (
    "tick_lot_units",
    "lot_units",
    "price_ticks_max",
    "quantity_lots_min",
    "quantity_lots_max",
    "notional_units_min",
    "maker_fee_ppm",
    "taker_fee_ppm",
    "collar_ppm",
    "shard",
)

_SELECT_SYMBOLS: Final = f"""
SELECT id, base_asset_id, quote_asset_id, {", ".join(_PARAMETERS)}, status::text, trading_state::text,
       trading_sequence, (extract(epoch FROM trading_changed_at) * 1000000)::bigint, trading_reason,
       trading_before_all::text
FROM symbols ORDER BY id
"""  # noqa: S608 - made of our own names

_INSERT_SYMBOL: Final = f"""
INSERT INTO symbols (id, name, base_asset_id, quote_asset_id, tick, lot, trading_state, {", ".join(_PARAMETERS)})
VALUES (%(id)s, %(name)s, %(base_asset_id)s, %(quote_asset_id)s, %(tick)s, %(lot)s, %(trading_state)s,
        {", ".join(f"%({name})s" for name in _PARAMETERS)})
"""  # noqa: S608 - made of our own names
