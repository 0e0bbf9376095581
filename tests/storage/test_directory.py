"""Assets, symbols and accounts: dense ids, given once, whoever asks at the same time."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from tests.postgres import btc_usdt

from tradeengine.core.records import ACCOUNT_ID_EXCHANGE, ACCOUNT_ID_OUTSIDE, TradingState
from tradeengine.core.symbols import SymbolSpec
from tradeengine.settings_files import load_seeds
from tradeengine.storage.directory import (
    ACCOUNT_NAME_EXCHANGE,
    ACCOUNT_NAME_OUTSIDE,
    DirectoryFullError,
    account_names,
    add_asset,
    add_symbol,
    find_account,
    load_directory,
    remove_pending_symbol,
    resolve_account,
    seed_directory,
)


def test_seeds_a_new_database(connection: psycopg.Connection) -> None:
    """The seeds that come with the program are listed as pending, each on a shard that exists, with dense ids."""
    directory = seed_directory(connection, load_seeds(), shards=3, assets_max=64, symbols_max=64)
    assert sorted(directory.symbols) == list(range(10))
    assert sorted(directory.assets) == list(range(len(directory.assets)))
    assert not any(symbol.listed for symbol in directory.symbols.values())
    assert {symbol.spec.shard for symbol in directory.symbols.values()} == {0, 1, 2}
    symbol = directory.symbol("BTC/USDT")
    assert symbol is not None
    assert (symbol.spec.tick, symbol.spec.lot, symbol.trading_state) == ("0.01", "0.00001", TradingState.OPEN)


def test_seeding_again_changes_nothing(connection: psycopg.Connection) -> None:
    """Seeds only fill what is missing: what was changed since stays, ids too."""
    first = seed_directory(connection, load_seeds(), shards=2, assets_max=64, symbols_max=64)
    connection.execute("UPDATE symbols SET maker_fee_ppm = 1, status = 'listed', trading_state = 'halted' WHERE id = 0")
    again = seed_directory(connection, load_seeds(), shards=2, assets_max=64, symbols_max=64)
    assert again.symbols[0].spec.maker_fee_ppm == 1
    assert again.symbols[0].listed
    assert again.symbols[0].trading_state is TradingState.HALTED
    assert {k: v for k, v in again.symbols.items() if k} == {k: v for k, v in first.symbols.items() if k}


def test_symbol_comes_back_as_it_went_in(connection: psycopg.Connection, symbol: SymbolSpec) -> None:
    """Every parameter survives the way through the database."""
    assert load_directory(connection).symbols[symbol.symbol_id].spec == symbol


def test_symbol_that_comes_meanwhile_has_its_assets(dsn: str, connection: psycopg.Connection) -> None:
    """Whoever reads the directory while a symbol of new assets is added finds it with them, or not at all."""
    with psycopg.connect(dsn) as adding, psycopg.connect(dsn, autocommit=True) as reading:
        adding.execute("LOCK TABLE symbols IN ACCESS EXCLUSIVE MODE")
        with ThreadPoolExecutor(1) as pool:
            read = pool.submit(load_directory, reading)
            blocked = "SELECT cardinality(pg_blocking_pids(%s)) > 0"
            while connection.execute(blocked, (reading.info.backend_pid,)).fetchone() != (True,):
                pass
            base, quote = (add_asset(adding, name, 8, assets_max=16) for name in ("AAPL", "USD"))
            added = add_symbol(adding, btc_usdt(base, quote), symbols_max=16)
            adding.commit()
            assert [symbol.spec for symbol in read.result().symbols.values()] in ([], [added.spec])


def test_id_of_removed_symbol_is_not_given_again(connection: psycopg.Connection, symbol: SymbolSpec) -> None:
    """A symbol that the engine refused to list is gone, and so is its id."""
    remove_pending_symbol(connection, symbol.symbol_id)
    assert load_directory(connection).symbols == {}
    assert add_symbol(connection, symbol, symbols_max=16).spec.symbol_id == symbol.symbol_id + 1


def test_listed_symbol_is_not_removed(connection: psycopg.Connection, symbol: SymbolSpec) -> None:
    """Only what is pending can be taken back."""
    connection.execute("UPDATE symbols SET status = 'listed'")
    remove_pending_symbol(connection, symbol.symbol_id)
    assert list(load_directory(connection).symbols) == [symbol.symbol_id]


def test_limits_are_named(connection: psycopg.Connection) -> None:
    """What does not fit the arrays fixed at start is refused with the limit's name, and takes no id."""
    resolve_account(connection, "alice", accounts_max=17)
    for _ in range(2):
        with pytest.raises(DirectoryFullError, match=r"limits\.accounts_max"):
            resolve_account(connection, "bob", accounts_max=17)
    assert resolve_account(connection, "bob", accounts_max=18) == 17
    with pytest.raises(DirectoryFullError, match=r"limits\.assets_max"):
        add_asset(connection, "BTC", 8, assets_max=0)


def test_account_is_made_once(dsn: str) -> None:
    """Many who meet the same new names at once agree on one id each, and users' ids begin at 16 without gaps."""
    names = [f"user-{number % 5}" for number in range(40)]

    def resolve(name: str) -> int:
        with psycopg.connect(dsn, autocommit=True) as connection:
            return resolve_account(connection, name, accounts_max=1000)

    with ThreadPoolExecutor(8) as executor:
        found = dict(zip(names, executor.map(resolve, names), strict=True))
    assert sorted(found.values()) == [16, 17, 18, 19, 20]
    assert [resolve(name) for name in names] == [found[name] for name in names]


def test_engine_accounts_exist(connection: psycopg.Connection) -> None:
    """The exchange's account and the outside are rows like others, under names that no token can carry."""
    assert find_account(connection, ACCOUNT_NAME_EXCHANGE) == ACCOUNT_ID_EXCHANGE
    assert find_account(connection, ACCOUNT_NAME_OUTSIDE) == ACCOUNT_ID_OUTSIDE
    assert account_names(connection, [1, 2, 99]) == {1: ACCOUNT_NAME_EXCHANGE, 2: ACCOUNT_NAME_OUTSIDE}
    assert find_account(connection, "nobody") is None
