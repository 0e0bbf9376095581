"""What a replay needs before the first order: a listed symbol, two funded accounts, and a book without its old orders.

Rule 1: everything is asked for in the ways open to any local client: rows in PostgreSQL first, then commands.
Rule 2: what exists is used as it is. A symbol whose tick or lot does not fit the file is refused.
Rule 3: money is deposited once per run, so much that no order of the file can lack it.
It refuses to know how the flow is sent.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from tradeengine.cli.lobster import PRICE_PLACES, Action, LobsterError, ticks_of
from tradeengine.core.money import PPM, UNITS_MAX, NumberError, parse_units
from tradeengine.core.records import CommandKind, EventFlag, EventKind, Reason, command_dtype
from tradeengine.core.symbols import SymbolSpec
from tradeengine.ipc.ring_reader import RingWatch
from tradeengine.ipc.wiring import REFUSALS
from tradeengine.storage.directory import add_asset, add_symbol, load_directory, resolve_account
from tradeengine.storage.funding import FundingKind, FundingStatus, request_funding, wait_funding

if TYPE_CHECKING:
    from collections.abc import Sequence

    import psycopg
    from numpy.typing import NDArray

    from tradeengine.cli.lobster import Flow
    from tradeengine.core.symbols import AssetSpec
    from tradeengine.ipc.ring import RingWriter
    from tradeengine.ipc.ring_reader import RingReader
    from tradeengine.ipc.wiring import Wiring
    from tradeengine.storage.directory import SymbolRow

MAKER_NAME: Final = "replay-maker"
TAKER_NAME: Final = "replay-taker"
ANSWER_TIMEOUT_S: Final = 30.0
QUOTE_PLACES_MIN: Final = 2
HEADROOM: Final = 100
"""A new symbol takes prices and quantities so many times those of the file."""


class ReplayError(Exception):
    """The replay cannot go on; the message says why and what to do."""


@dataclass(frozen=True)
class NewSymbol:
    """How to list a symbol that is missing: decimals and fractions as text."""

    tick: str
    lot: str
    maker_fee: str
    taker_fee: str


class Line:
    """A local client's ends: its ingress ring, and the rings on which it is answered."""

    def __init__(self, wiring: Wiring) -> None:
        self.wiring = wiring
        self.writer: RingWriter = wiring.ring_writer(wiring.ingress_name)
        self.readers: dict[str, RingReader] = {name: wiring.ring_reader(name) for name in wiring.answer_rings}

    def readers_of(self, shard: int) -> list[RingReader]:
        """Readers of whatever can answer a command to a shard, from now on."""
        readers = [self.readers[f"events.{shard}"], self.readers[REFUSALS]]
        for reader in readers:
            reader.seek(reader.head)
        return readers

    def ask(self, command: NDArray[np.void], shard: int) -> np.void:
        """Send one command and give the last event of its answer. Raises ReplayError when none comes."""
        readers = self.readers_of(shard)
        watch = RingWatch(readers)
        sequence, number = self.writer.head, self.wiring.ingress_number
        command = command.view(command_dtype).copy()
        command["ingress_ring"], command["ingress_sequence"], command["timestamp_ns"] = number, sequence, time.time_ns()
        self.writer.publish(command)
        deadline_s = time.monotonic() + ANSWER_TIMEOUT_S
        while time.monotonic() < deadline_s:
            self.wiring.doorbell.wait(0.1, watch)
            for reader in readers:
                events = reader.poll()
                mine = (events["ingress_ring"] == number) & (events["ingress_sequence"] == sequence)
                last = np.flatnonzero(mine & (events["flags"] & EventFlag.LAST_OF_COMMAND != 0))
                if len(last):
                    return events[last[0]].copy()  # type: ignore[no-any-return]
                reader.advance(len(events))
        kind = CommandKind(int(command["kind"][0])).name
        raise ReplayError(f"no answer to {kind} within {ANSWER_TIMEOUT_S:.0f} s: see `tradeengine status`")


def ensure_symbol(line: Line, connection: psycopg.Connection[Any], name: str, new: NewSymbol, flow: Flow) -> SymbolSpec:
    """Give the symbol, listed now if it was missing. Raises ReplayError, ListingError, DirectoryFullError."""
    directory = load_directory(connection)
    row = directory.symbol(name)
    if row is None:
        row = _add_symbol(line.wiring, connection, name, new, flow)
    if not row.listed:
        answer = line.ask(row.spec.to_command(CommandKind.LIST_SYMBOL), row.spec.shard)
        if answer["kind"] != EventKind.SYMBOL_LISTED and answer["reason"] != Reason.SYMBOL_EXISTS:
            raise ReplayError(f"symbol {name} was not listed: {Reason(int(answer['reason'])).name}")
    return row.spec


def tick_of(tick: str) -> int:
    """Give a tick in the file's unit of price. Raises ReplayError when it is finer than that."""
    try:
        units = parse_units(tick, PRICE_PLACES)
    except NumberError as error:
        raise ReplayError(f"tick {tick} is not one for the file, whose prices have 4 places: {error.message}") from None
    if not units:
        raise ReplayError(f"tick {tick} is not allowed: must be more than 0")
    return units


def lots_of(symbol: SymbolSpec, sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Give sizes, which count whole units of the base asset, in lots. Raises LobsterError for one between two lots."""
    lots: NDArray[np.int64]
    lots, rest = np.divmod(sizes * 10**symbol.base.places, symbol.lot_units)
    if rest.any():
        raise LobsterError(f"size {int(sizes[np.flatnonzero(rest)[0]])} is no multiple of the lot {symbol.lot}")
    return lots


def fund_accounts(
    line: Line, connection: psycopg.Connection[Any], symbol: SymbolSpec, steps: NDArray[np.void], run_tag: str
) -> tuple[int, int]:
    """Give the ids of the maker's and the taker's account, with money for every step. Raises ReplayError.

    steps: with ``price`` in ticks and ``size`` in lots.
    """
    accounts_max = line.wiring.settings.limits.accounts_max
    makers = steps[steps["action"] == Action.PLACE]
    takers = steps[steps["action"] == Action.EXECUTE]
    account_ids = []
    for name, placed, buys in (
        (MAKER_NAME, makers, makers["direction"] == 1),
        (TAKER_NAME, takers, takers["direction"] == -1),
    ):
        account_id = resolve_account(connection, name, accounts_max=accounts_max)
        _deposit(connection, account_id, symbol.quote, _cost_units(symbol, placed[buys]), f"{run_tag}.{name}.quote")
        base_units = int(placed["size"][~buys].astype(object).sum()) * symbol.lot_units
        _deposit(connection, account_id, symbol.base, base_units, f"{run_tag}.{name}.base")
        account_ids.append(account_id)
    return account_ids[0], account_ids[1]


def cancel_leftovers(line: Line, symbol: SymbolSpec, account_ids: Sequence[int]) -> int:
    """End what an earlier replay left in this book; returns how many orders that were. Raises ReplayError."""
    count = 0
    for account_id in account_ids:
        command = np.zeros(1, command_dtype)
        command["kind"] = CommandKind.CANCEL_ALL
        command["symbol_id"] = symbol.symbol_id
        command["account_id"] = account_id
        answer = line.ask(command, symbol.shard)
        if answer["kind"] != EventKind.CANCELLED_ALL:
            raise ReplayError(f"orders of an earlier replay cannot be cancelled: {Reason(int(answer['reason'])).name}")
        count += int(answer["quantity_lots"])
    return count


def _add_symbol(
    wiring: Wiring, connection: psycopg.Connection[Any], name: str, new: NewSymbol, flow: Flow
) -> SymbolRow:
    limits = wiring.settings.limits
    base_name, slash, quote_name = name.partition("/")
    if not slash:
        raise ReplayError(f"symbol {name!r} has no quote asset: write it like AAPL/USD")
    # Before anything is listed: a file that does not fit it would leave the symbol behind.
    ticks_of(flow.steps["price"], tick_of(new.tick))
    lot_places, tick_places = _places(new.lot), _places(new.tick)
    base = add_asset(connection, base_name, lot_places, assets_max=limits.assets_max)
    quote_places = max(QUOTE_PLACES_MIN, tick_places + lot_places)
    quote = add_asset(connection, quote_name, quote_places, assets_max=limits.assets_max)
    symbols = load_directory(connection).symbols.values()
    shards = [row.spec.shard for row in symbols]
    spec = SymbolSpec.from_decimals(
        symbol_id=0,
        base=base,
        quote=quote,
        tick=new.tick,
        lot=new.lot,
        price_max=str(HEADROOM * (int(flow.steps["price"].max(initial=0)) // 10**PRICE_PLACES + 1)),
        quantity_min=new.lot,
        quantity_max=str(HEADROOM * int(flow.steps["size"].max(initial=1))),
        min_notional="0",
        max_price_deviation="0",
        maker_fee=new.maker_fee,
        taker_fee=new.taker_fee,
        shard=min(range(wiring.shard_count), key=shards.count),
    )
    return add_symbol(connection, spec, symbols_max=limits.symbols_max)


def _places(text: str) -> int:
    return len(text.partition(".")[2].rstrip("0"))


def _cost_units(symbol: SymbolSpec, placed: NDArray[np.void]) -> int:
    """Give what buying all of it at its price costs at most, fees included, and a unit per order for rounding."""
    notional_ticks = int((placed["price"].astype(object) * placed["size"]).sum()) if len(placed) else 0
    notional_units = notional_ticks * symbol.tick_lot_units
    fee_ppm = max(symbol.maker_fee_ppm, symbol.taker_fee_ppm)
    return notional_units + notional_units * fee_ppm // PPM + len(placed)


def _deposit(
    connection: psycopg.Connection[Any], account_id: int, asset: AssetSpec, amount_units: int, reference: str
) -> None:
    if amount_units <= 0:
        return
    if amount_units > UNITS_MAX // 4:
        raise ReplayError(f"the file moves {asset.format(amount_units)} {asset.name}: more than the engine can count")
    request = request_funding(
        connection,
        FundingKind.DEPOSIT,
        reference=reference,
        account_id=account_id,
        asset_id=asset.asset_id,
        amount_units=amount_units,
    )
    settled = wait_funding(connection, request, timeout_s=ANSWER_TIMEOUT_S)
    if settled.status is not FundingStatus.SETTLED:
        raise ReplayError(
            f"the deposit of {asset.name} is {settled.status.value}: {settled.status_reason or 'no answer'}"
        )
