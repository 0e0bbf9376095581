"""``tradeengine match``: the matching core alone. Lines of JSON in, events as lines of JSON out, no server.

It is the production book with one symbol in it and money without end. Rule 1: the same lines give the same bytes, in
whatever pieces they arrive. Rule 2: what is there is answered before more is waited for, so that a person at a terminal
or a program at the other end of a pipe can talk with it. Rule 3: a bad line is named by its number on standard error
and changes nothing; the rest goes on.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TextIO

import numpy as np

from tradeengine.cli.errors import CommandError
from tradeengine.cli.match_lines import LINE_BYTES_MAX, LineError, LineReader
from tradeengine.core.book import (
    BookLimits,
    apply,
    in_command,
    levels,
    make_book,
    next_command_sequence,
    next_expiry_ns,
    state_hash,
    stops,
)
from tradeengine.core.money import PLACES_MAX, UNITS_MAX, NumberError, format_units, parse_decimal
from tradeengine.core.records import CommandKind, EventKind, Reason, Side, command_dtype, event_dtype
from tradeengine.core.symbols import AssetSpec, ListingError, SymbolSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

READ_BYTES: Final = 1 << 20
BATCH_COMMANDS: Final = 1024
BATCH_EVENTS: Final = 4096
LIMITS: Final = BookLimits(orders_max=1 << 20, symbols_max=1, levels_max=1 << 16, accounts_max=1 << 26, shard=0)
STEPS_MAX: Final = 10**9
"""Greatest price in ticks, and greatest quantity in lots where the product fits."""

_NAMES: Final = {
    EventKind.ACCEPTED: "accepted",
    EventKind.TRIGGERED: "triggered",
    EventKind.AMENDED: "amended",
    EventKind.CANCELLED: "cancelled",
    EventKind.REJECTED: "rejected",
    EventKind.REFUSED: "rejected",
}
_REASONS: Final = {reason.value: f'"{reason.name}"' if reason else "null" for reason in Reason}
_FIELDS: Final = (
    *("kind", "reason", "order_id", "maker_order_id", "price_ticks", "quantity_lots"),
    *("remaining_lots", "maker_remaining_lots", "sequence", "ingress_sequence"),
)


@dataclass(frozen=True, slots=True)
class MatchOptions:
    """Decimals as the user wrote them; ``book``: whether the final book is wanted."""

    tick: str
    lot: str
    maker_fee: str
    taker_fee: str
    max_price_deviation: str
    book: bool


def run_match(options: MatchOptions) -> int:
    """Match standard input to standard output. Returns the exit status: 1 when a line was bad. Raises CommandError."""
    matcher = LineMatcher(make_spec(options), sys.stdout, sys.stderr)
    try:
        for line_number, line in read_lines(sys.stdin.fileno(), matcher.flush):
            matcher.take(line, line_number)
        matcher.flush()
        if options.book:
            matcher.print_book()
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever reads has seen enough. What Python would still write at its end has nowhere to go.
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return int(matcher.bad_lines > 0)


def make_spec(options: MatchOptions) -> SymbolSpec:
    """Make the one symbol; prices and quantities may have 10**9 steps, as far as their product fits.

    Raises CommandError naming the option.
    """
    tick, tick_places = _step("tick", options.tick)
    lot, lot_places = _step("lot", options.lot)
    lots_max = min(STEPS_MAX, UNITS_MAX // (STEPS_MAX * tick * lot))
    if lots_max < 1 or tick_places + lot_places > PLACES_MAX:
        raise CommandError(f"--tick and --lot together are too large, or have more than {PLACES_MAX} decimal places")
    try:
        return SymbolSpec.from_decimals(
            symbol_id=0,
            base=AssetSpec(0, "BASE", lot_places),
            quote=AssetSpec(1, "QUOTE", tick_places + lot_places),
            tick=options.tick,
            lot=options.lot,
            price_max=format_units(tick * STEPS_MAX, tick_places),
            quantity_min=options.lot,
            quantity_max=format_units(lot * lots_max, lot_places),
            min_notional="0",
            max_price_deviation=options.max_price_deviation,
            maker_fee=options.maker_fee,
            taker_fee=options.taker_fee,
            shard=0,
        )
    except ListingError as error:
        raise CommandError(f"--{error.field.replace('_', '-')} {error.message}") from None


def read_lines(fd: int, before_waiting: Callable[[], None]) -> Iterator[tuple[int, bytes]]:
    """Read lines with their numbers, from 1 on, as they come. A line that is too long comes cut, longer than allowed.

    before_waiting: called when all lines that have come are taken. The last line needs no line feed.
    """
    line_number, rest = 0, b""
    while chunk := os.read(fd, READ_BYTES):
        *lines, rest_of_chunk = chunk.split(b"\n")
        for line in lines:
            line_number += 1
            yield line_number, rest + line
            rest = b""
        # Of a line without end only as much is kept as shows that it is too long.
        rest = (rest + rest_of_chunk)[: LINE_BYTES_MAX + 1]
        before_waiting()
    if rest:
        yield line_number + 1, rest


class LineMatcher:
    """Collects commands, gives them to the book in batches, and writes events."""

    def __init__(self, spec: SymbolSpec, out: TextIO, error_out: TextIO) -> None:
        """List the symbol. Its event is not shown."""
        self.bad_lines = 0
        self._spec = spec
        self._out = out
        self._error_out = error_out
        self._reader = LineReader(spec, LIMITS.accounts_max)
        self._book = make_book(LIMITS)
        self._batch = np.zeros(BATCH_COMMANDS, command_dtype)
        self._batch_bytes = self._batch.view(np.uint8).reshape(BATCH_COMMANDS, -1)
        self._texts: list[str] = []  # ids of the batch's commands, as JSON
        self._events = np.zeros(BATCH_EVENTS, event_dtype)
        self._remaining = [0]  # lots left of each order
        listing = spec.to_command(CommandKind.LIST_SYMBOL).view(command_dtype)
        apply(self._book, listing, 0, 0, self._events)

    def take(self, line: bytes, line_number: int) -> None:
        """Take one line; blank ones are passed over."""
        if not line.strip():
            return
        then_ns = self._reader.now_ns
        try:
            command, text = self._reader.read(line, line_number)
        except LineError as error:
            self.bad_lines += 1
            self._error_out.write(f"line {line_number}: {error}\n")
            return
        if self._reader.now_ns != then_ns:
            self._expire()
        self._batch_bytes[len(self._texts)] = command.view(np.uint8)
        self._batch["ingress_sequence"][len(self._texts)] = len(self._texts)
        self._texts.append(text)
        if len(self._texts) == BATCH_COMMANDS:
            self._match()

    def flush(self) -> None:
        """Match what was taken, and let its events go."""
        self._match()
        self._out.flush()

    def print_book(self) -> None:
        """Write the last line: the book, best first, its waiting stops in the order in which they fire, its hash."""
        spec = self._spec
        sides = {
            name: [[spec.format_price(price), spec.format_quantity(lots)] for price, lots in rows]
            for name, rows in (("bids", levels(self._book, 0, Side.BUY)), ("asks", levels(self._book, 0, Side.SELL)))
        }
        waiting = [
            [Side(side).name.lower(), spec.format_price(price), spec.format_quantity(lots)]
            for side, price, lots in stops(self._book, 0)
        ]
        book = {**sides, "stops": waiting}
        self._out.write(_json({"book": book, "hash": f"{state_hash(self._book) & (2**64 - 1):016x}"}))

    def _expire(self) -> None:
        """Time has moved on: what was taken before comes first, then what is over ends."""
        self._match()
        if next_expiry_ns(self._book) > self._reader.now_ns:
            return
        command = np.zeros(1, command_dtype)
        command["kind"] = CommandKind.EXPIRE
        command["timestamp_ns"] = self._reader.now_ns
        self._apply(command)

    def _match(self) -> None:
        self._apply(self._batch[: len(self._texts)])
        self._texts.clear()

    def _apply(self, commands: NDArray[np.void]) -> None:
        first, done = next_command_sequence(self._book), 0
        while done < len(commands) or in_command(self._book):
            done, count = apply(self._book, commands, first, done, self._events)
            self._out.write("".join(self._lines(self._events[:count])))

    def _lines(self, events: NDArray[np.void]) -> Iterator[str]:
        """Write events as lines, those of orders and trades."""
        texts, remaining = self._reader.names.texts, self._remaining
        remaining.extend([0] * (len(texts) - len(remaining)))
        price, quantity = self._spec.format_price, self._spec.format_quantity
        for kind, reason, order, maker, ticks, lots, left, maker_left, sequence, place in zip(
            *(events[name].tolist() for name in _FIELDS), strict=True
        ):
            if kind == EventKind.TRADED:
                remaining[order], remaining[maker] = left, maker_left
                yield (
                    f'{{"event":"traded","maker":{texts[maker]},"taker":{texts[order]},"price":"{price(ticks)}",'
                    f'"quantity":"{quantity(lots)}","sequence":{sequence}}}\n'
                )
                continue
            name = _NAMES.get(kind)
            if name is None:
                continue
            if kind == EventKind.REFUSED:
                # It is about the command: its id may be of no order, and an order that it names is as it was.
                text, left = self._texts[place], remaining[order] if order else 0
            else:
                text = texts[order]
                remaining[order] = 0 if kind == EventKind.CANCELLED else left
            yield (
                f'{{"event":"{name}","id":{text},"reason":{_REASONS[reason]},"remaining":"{quantity(left)}",'
                f'"sequence":{sequence}}}\n'
            )


def _step(option: str, text: str) -> tuple[int, int]:
    """Read a tick or lot as its digits and decimal places. Raises CommandError."""
    try:
        digits, places = parse_decimal(text)
    except NumberError as error:
        raise CommandError(f"--{option} {error.message}") from None
    if digits == 0:
        raise CommandError(f"--{option} must be more than 0")
    return digits, places


def _json(value: dict[str, Any]) -> str:
    return json.dumps(value, separators=(",", ":")) + "\n"
