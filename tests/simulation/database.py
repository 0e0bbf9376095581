"""PostgreSQL under the simulated engine: rows, transactions that are committed whole or not at all, and lost answers.

The statements are the database's own business and are tested against a real one. Here the same rows are kept as the
statements would: what one transaction of settlement writes is checked when it is written, and is there from its commit.

Rule 1: a transaction that ends by an exception leaves nothing, whatever ended it. Rule 2: a connection may break at any
call, and at a commit both before and after it took effect: who asked cannot tell. Rule 3: keys are unique, and what is
to be changed must be there, as the tables and settlement's own counts demand.
"""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final, cast

import numpy as np
import psycopg

from tradeengine.core.records import (
    AccountFlag,
    CommandKind,
    EventFlag,
    EventKind,
    TradingState,
    account_command_dtype,
    funding_command_dtype,
    symbol_command_dtype,
)
from tradeengine.core.risk_recovery import client_id_dtype, live_order_dtype, traded_dtype
from tradeengine.storage.recovery import RiskRecovery
from tradeengine.storage.settle import RISK_SHARD, CursorMoved, Settler
from tradeengine.storage.settle_fold import NS_PER_MINUTE, Fold, SettlementStopped
from tradeengine.storage.settle_postings import SymbolUnits

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

Row = dict[str, Any]
NS_PER_DAY: Final = 86_400 * 10**9
NO_LIMIT: Final = -1
_PARAMETERS: Final = (
    *("tick_lot_units", "lot_units", "quantity_lots_min", "quantity_lots_max", "notional_units_min"),
    *("price_ticks_max", "base_asset_id", "quote_asset_id", "maker_fee_ppm", "taker_fee_ppm", "collar_ppm", "shard"),
)


@dataclass
class Rows:
    """All tables. ``balances`` by (account, asset), ``fundings`` and ``settings`` by number and account."""

    symbols: dict[int, Row]
    orders: dict[int, Row] = field(default_factory=dict)
    trades: dict[int, Row] = field(default_factory=dict)
    postings: list[tuple[int, int, int, int]] = field(default_factory=list)
    balances: Counter[tuple[int, int]] = field(default_factory=Counter)
    minutes: dict[tuple[int, int], list[int]] = field(default_factory=dict)
    fundings: dict[int, Row] = field(default_factory=dict)
    settings: dict[int, Row] = field(default_factory=dict)
    cursors: dict[int, int] = field(default_factory=lambda: {RISK_SHARD: 0})
    settings_version: int = 0


class Database:
    """The rows, and what goes wrong next: ``away`` refuses everything; ``breaks`` counts calls until one breaks."""

    def __init__(self, symbols: NDArray[np.void], shards: int) -> None:
        """Begin with symbols that are not listed yet (``symbol_command_dtype``)."""
        self.rows = Rows({int(symbol["symbol_id"]): _symbol_row(symbol) for symbol in symbols})
        self.shards = shards
        self.away = False
        self.breaks = 0
        self.announced = 0
        """Counts what listeners hear of."""

    def call(self) -> None:
        """Pass a place at which the connection may break. Raises psycopg.OperationalError."""
        if self.away:
            raise psycopg.OperationalError("the simulated database is away")
        if self.breaks:
            self.breaks -= 1
            if self.breaks == 0:
                raise psycopg.OperationalError("the simulated connection broke")

    def request_funding(self, account_id: int, asset_id: int, amount_units: int) -> int:
        """Write a request for a deposit, or a withdrawal (below 0), down; give its number."""
        number = len(self.rows.fundings) + 1
        self.rows.fundings[number] = {
            "account_id": account_id,
            "asset_id": asset_id,
            "amount_units": amount_units,
            "status": "pending",
        }
        self.announced += 1
        return number

    def set_account(self, account_id: int, **changes: Any) -> None:
        """Change an account's settings: ``suspended``, ``open_orders_max``."""
        self.rows.settings_version += 1
        row = self.rows.settings.setdefault(account_id, {"suspended": False, "open_orders_max": NO_LIMIT})
        row.update(changes, version=self.rows.settings_version)
        self.announced += 1

    def connect(self) -> SimulatedSettler:
        """Make settlement's connection. Raises psycopg.OperationalError."""
        self.call()
        return SimulatedSettler(cast("Any", Connection(self)), self.shards)

    def recovery(self) -> RiskRecovery:
        """Read what risk starts from, at one moment. Raises psycopg.OperationalError."""
        self.call()
        rows = self.rows
        balances = np.array([(*key, units) for key, units in rows.balances.items()], np.int64).reshape(-1, 3)
        places = np.arange(1 + len(rows.symbols))
        return RiskRecovery(
            symbols=self._listed(),
            account_ids=balances[:, 0].copy(),
            asset_ids=balances[:, 1].copy(),
            total_units=balances[:, 2].copy(),
            place_asset_ids=places,
            places=np.full(len(places), 2),
            settings=pending_settings(cast("Any", Connection(self)), 0, None),
            traded=self._traded(),
            orders=self._live_orders(),
            client_ids=self._client_ids(),
            funding_number=max((n for n, row in rows.fundings.items() if row["status"] != "pending"), default=0),
            last_order_id=max(rows.orders, default=0),
            cursors=dict(rows.cursors),
        )

    def history(self, shard: int) -> tuple[int, dict[int, list[tuple[int, ...]]], dict[int, tuple[int, int]]]:
        """Read what a publisher's tickers start from: the cursor, minutes and last trades. Raises OperationalError."""
        self.call()
        own = [symbol_id for symbol_id, row in self.rows.symbols.items() if row["shard"] == shard]
        minutes: dict[int, list[tuple[int, ...]]] = {symbol_id: [] for symbol_id in own}
        for (symbol_id, minute), values in sorted(self.rows.minutes.items()):
            if symbol_id in minutes:
                minutes[symbol_id].append((minute, *values))
        lasts = {row["symbol_id"]: (row["price_ticks"], row["quantity_lots"]) for row in self.rows.trades.values()}
        return self.rows.cursors.get(shard, 0), minutes, {s: last for s, last in lasts.items() if s in minutes}

    def _listed(self) -> NDArray[np.void]:
        listed = [(symbol_id, row) for symbol_id, row in self.rows.symbols.items() if row["listed"]]
        symbols = np.zeros(len(listed), symbol_command_dtype)
        symbols["kind"] = CommandKind.LIST_SYMBOL
        for symbol, (symbol_id, row) in zip(symbols, listed, strict=True):
            symbol["symbol_id"], symbol["trading_state"] = symbol_id, row["trading_state"]
            for name in _PARAMETERS:
                symbol[name] = row[name]
        return symbols

    def _live_orders(self) -> NDArray[np.void]:
        live = [row for row in self.rows.orders.values() if not row["closed"]]
        orders = np.zeros(len(live), live_order_dtype)
        for order, row in zip(orders, live, strict=True):
            for name in live_order_dtype.names or ():
                order[name] = row[name]
        return orders

    def _client_ids(self) -> NDArray[np.void]:
        named = [row for _, row in sorted(self.rows.orders.items()) if row["client_order_id"]]
        client_ids = np.zeros(len(named), client_id_dtype)
        for client_id, row in zip(client_ids, named, strict=True):
            for name in client_id_dtype.names or ():
                client_id[name] = row[name]
        return client_ids

    def _traded(self) -> NDArray[np.void]:
        if not self.rows.trades:
            return np.zeros(0, traded_dtype)
        day = self.rows.trades[max(self.rows.trades)]["timestamp_ns"] // NS_PER_DAY
        sums: Counter[tuple[int, int, int]] = Counter()
        for row in self.rows.trades.values():
            quote = self.rows.symbols[row["symbol_id"]]["quote_asset_id"]
            if row["timestamp_ns"] // NS_PER_DAY >= day:
                for party in ("account_id", "maker_account_id"):
                    sums[row[party], quote, row["timestamp_ns"] // NS_PER_DAY] += row["notional_units"]
        traded = np.zeros(len(sums), traded_dtype)
        for entry, ((account_id, asset_id, of_day), units) in zip(traded, sums.items(), strict=True):
            entry["account_id"], entry["asset_id"], entry["day"] = account_id, asset_id, of_day
            entry["notional_units"] = units
        return traded


class Connection:
    """What settlement and its feed use of a connection. It breaks for good once."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.pgconn = SimpleNamespace(consume_input=self.call, notifies=self._notifies)
        self._heard = database.announced
        self._broken = False

    def call(self) -> None:
        """Pass a place at which it may break. Raises psycopg.OperationalError."""
        if self._broken:
            raise psycopg.OperationalError("the simulated connection is broken")
        try:
            self.database.call()
        except psycopg.OperationalError:
            self._broken = True
            raise

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Commit what the block stages, when it ends well."""
        self.staged: list[Any] = []
        self.call()
        yield
        self.call()
        for change in self.staged:
            change()
        self.staged = []
        # Committed, and perhaps nobody hears of it.
        self.call()

    def execute(self, statement: str) -> None:
        """Take LISTEN, which is all that is asked for in words."""
        assert statement.startswith("LISTEN")
        self.call()

    def add_notify_handler(self, _handler: Any) -> None:
        """Take a handler; notices are given by ``pgconn.notifies``."""

    def close(self) -> None:
        """Close."""
        self._broken = True

    def _notifies(self) -> object:
        if self._heard == self.database.announced:
            return None
        self._heard = self.database.announced
        return self


class SimulatedSettler(Settler):
    """The real settler over simulated rows: what it decides is its own, what the statements do is here."""

    def _begin(self, shards: int) -> None:
        connection = cast("Connection", self.connection)
        connection.call()
        rows = self._rows = connection.database.rows
        for shard in range(shards):
            rows.cursors.setdefault(shard, 0)
        self.cursors = dict(rows.cursors)
        self._symbols = SymbolUnits()
        for symbol_id, row in rows.symbols.items():
            self._symbols.put(symbol_id, row["base_asset_id"], row["quote_asset_id"], row["lot_units"])
        self.partitions = cast("Any", SimpleNamespace(make_ahead=lambda *_, **__: None))

    def _cover(self, fold: Fold) -> None:
        """Do nothing: a simulated table has no partitions."""

    def _stage(self, change: Any) -> None:
        cast("Connection", self.connection).staged.append(change)

    def _advance(self, after: Mapping[int, int]) -> None:
        if any(self._rows.cursors[shard] != self.cursors[shard] for shard in after):
            raise CursorMoved("settlement cursors were not where they were believed to be")
        self._stage(lambda: self._rows.cursors.update(after))

    def _write(self, fold: Fold) -> None:
        connection = cast("Connection", self.connection)
        connection.call()
        for event in fold.symbols:
            self._put_symbol(event)
        self._put_trades(fold)
        connection.call()
        self._put_orders(fold)
        self._close_fundings(fold)

    def _put_symbol(self, event: np.void) -> None:
        row = self._rows.symbols[int(event["symbol_id"])]
        changes: Row = {"listed": True}
        if event["kind"] != EventKind.TRADING_STATE_SET:
            changes |= {name: int(event[name]) for name in _PARAMETERS}
        if event["kind"] != EventKind.PARAMETERS_SET:
            changes["trading_state"] = int(event["trading_state"])
        self._stage(lambda: row.update(changes))

    def _put_trades(self, fold: Fold) -> None:
        names = fold.trades.dtype.names or ()
        for trade in fold.trades:
            row = {name: trade[name].item() for name in names}
            if row["trade_id"] in self._rows.trades:
                raise psycopg.errors.UniqueViolation(f"trade {row['trade_id']} is there already")
            self._stage(lambda row=row: self._rows.trades.update({row["trade_id"]: row}))
        postings = fold.postings
        columns = (postings.transaction_id, postings.account_id, postings.asset_id, postings.amount_units)
        rows = list(zip(*(column.tolist() for column in columns), strict=True))
        self._stage(lambda: self._rows.postings.extend(rows))
        balances = fold.balances
        for account_id, asset_id, delta in zip(
            balances.account_id.tolist(), balances.asset_id.tolist(), balances.delta_units.tolist(), strict=True
        ):
            self._stage(lambda key=(account_id, asset_id), delta=delta: self._rows.balances.update({key: delta}))
        minutes = fold.minutes
        for index in range(len(minutes.symbol_id)):
            key = int(minutes.symbol_id[index]), int(minutes.time_ns[index]) // NS_PER_MINUTE
            names = ("open_ticks", "high_ticks", "low_ticks", "close_ticks")
            values = [int(getattr(minutes, name)[index]) for name in names]
            values += [int(getattr(minutes, n)[index]) for n in ("volume_lots", "notional_units", "trade_count")]
            self._stage(lambda key=key, values=values: self._add_minute(key, values))

    def _add_minute(self, key: tuple[int, int], new: list[int]) -> None:
        old = self._rows.minutes.get(key)
        if old is not None:
            new = [old[0], max(old[1], new[1]), min(old[2], new[2]), new[3], *(old[n] + new[n] for n in (4, 5, 6))]
        self._rows.minutes[key] = new

    def _put_orders(self, fold: Fold) -> None:
        orders, events = fold.orders, fold.orders.events
        for at in range(len(orders.order_id)):
            order_id = int(orders.order_id[at])
            first, content = events[orders.first_at[at]], events[orders.content_at[at]]
            began, by_quote = bool(orders.began[at]), bool(first["flags"] & EventFlag.BY_QUOTE)
            if began == (order_id in self._rows.orders):
                if began:
                    raise psycopg.errors.UniqueViolation(f"order {order_id} is there already")
                raise SettlementStopped("ORDER_UNKNOWN", f"order {order_id} is not there")
            row = {} if began else dict(self._rows.orders[order_id])
            if began:
                names = ("account_id", "symbol_id", "side", "order_type", "client_order_id")
                row |= {name: first[name].item() for name in names}
                row |= {"order_id": order_id, "content": int(orders.content_hash[at]), "filled_lots": 0, "triggered": 0}
                row["by_quote"] = by_quote
            if orders.has_content[at]:
                row |= {name: int(content[name]) for name in ("price_ticks", "stop_price_ticks", "quantity_lots")}
            row["filled_lots"] += int(orders.filled_lots[at])
            if row["by_quote"]:
                row["quantity_lots"] = row["filled_lots"]
            row["triggered"] |= int(orders.triggered_ns[at] != 0)
            row |= {
                name: int(getattr(orders, name)[at]) for name in ("hold_units", "remaining_lots", "status", "sequence")
            }
            row["closed"] = bool(orders.closed[at])
            self._stage(lambda order_id=order_id, row=row: self._rows.orders.update({order_id: row}))

    def _close_fundings(self, fold: Fold) -> None:
        for event in fold.fundings:
            number = int(event["funding_number"])
            row = self._rows.fundings[number]
            if row["status"] != "pending":
                raise SettlementStopped("FUNDING_NOT_PENDING", f"funding {number} is {row['status']}")
            status = "settled" if event["kind"] == EventKind.FUNDED else "refused"
            self._stage(lambda row=row, status=status: row.update(status=status))


def pending_commands(connection: Any, after_number: int, limit: int) -> NDArray[np.void]:
    """Stand in for ``storage.funding.pending_commands``."""
    connection.call()
    pending = [
        (number, row)
        for number, row in sorted(connection.database.rows.fundings.items())
        if row["status"] == "pending" and number > after_number
    ][:limit]
    commands = np.zeros(len(pending), funding_command_dtype)
    commands["kind"] = CommandKind.FUND
    for command, (number, row) in zip(commands, pending, strict=True):
        command["funding_number"] = number
        for name in ("account_id", "asset_id", "amount_units"):
            command[name] = row[name]
    return commands


def count_pending(connection: Any) -> int:
    """Stand in for ``storage.funding.count_pending``."""
    connection.call()
    return sum(row["status"] == "pending" for row in connection.database.rows.fundings.values())


def pending_settings(connection: Any, after_version: int, limit: int | None) -> NDArray[np.void]:
    """Stand in for ``storage.account_settings.pending_settings``."""
    connection.call()
    rows = sorted(connection.database.rows.settings.items(), key=lambda item: int(item[1]["version"]))
    new = [(account_id, row) for account_id, row in rows if row["version"] > after_version][:limit]
    commands = np.zeros(len(new), account_command_dtype)
    commands["kind"] = CommandKind.SET_ACCOUNT
    for name in ("order_notional_max", "day_notional_max", "two_factor_above"):
        commands[name] = NO_LIMIT
    for command, (account_id, row) in zip(commands, new, strict=True):
        command["account_id"], command["version"] = account_id, row["version"]
        command["open_orders_max"] = row["open_orders_max"]
        command["account_flags"] = AccountFlag.SUSPENDED if row["suspended"] else 0
    return commands


def _symbol_row(symbol: np.void) -> Row:
    return {name: int(symbol[name]) for name in _PARAMETERS} | {
        "listed": False,
        "trading_state": int(TradingState.OPEN),
    }
