"""``tradeengine import-trades``: the past of a symbol from a CSV file, beside a running engine or without one.

The file is read once, line by line, into a temporary table of the database, and added from there in order of time, a
batch a transaction. So its order does not matter, and an import that was broken off is finished by repeating it.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import psycopg
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from tradeengine.cli.database import connect_or_start, one_line
from tradeengine.cli.errors import CommandError
from tradeengine.cli.recorded import recorded
from tradeengine.cli.trade_file import (
    Columns,
    FileError,
    LineError,
    ParsedTrade,
    TradeParser,
    read_header,
    split_line,
)
from tradeengine.core.times import format_ms
from tradeengine.storage.directory import load_directory
from tradeengine.storage.imports import ImportRows, ImportStopped, TradeImport, history_end_ms, open_import

if TYPE_CHECKING:
    from pathlib import Path

    from tradeengine.core.symbols import SymbolSpec
    from tradeengine.settings import Settings

STAGED_ROWS: Final = 50_000
"""Rows that are in memory at a time."""


@dataclass
class Counts:
    """What became of the rows; ``read`` is all of them."""

    read: int = 0
    added: int = 0
    known: int = 0
    bad: int = 0


def run_import(settings: Settings, file: Path, symbol: str) -> int:
    """Import a file and print what became of its rows; gives the exit status: 1 when some were bad.

    Raises CommandError when nothing more can be done.
    """
    counts = Counts()
    try:
        with (
            connect_or_start(settings) as connection,
            recorded(settings, "import_trades", symbol, file=file.name) as known,
        ):
            spec = _listed(connection, symbol)
            known.after = vars(counts)  # as it is at the end, however that comes
            with open_import(connection, spec.symbol_id) as trades, _progress() as progress:
                _Reader(spec, *_end_of_history(connection, spec), counts, progress).stage(file, trades)
                task = progress.add_task("add", total=counts.read - counts.bad)
                for looked_at, added in trades.add():
                    counts.added += added
                    counts.known += looked_at - added
                    progress.update(task, advance=looked_at)
    except OSError as error:
        raise CommandError(f"{file} cannot be read: {error.strerror}") from None
    except FileError as error:
        raise CommandError(f"{file}: {error}") from None
    except ImportStopped as error:
        raise CommandError(str(error)) from None
    except psycopg.Error as error:
        raise CommandError(
            f"the database failed after {counts.added} trades, repeat the command to go on: {one_line(error)}"
        ) from None
    sys.stdout.write(
        f"imported   {spec.name}: {counts.read} rows read, {counts.added} added, {counts.known} known already, "
        f"{counts.bad} bad\n"
    )
    return 1 if counts.bad else 0


def _listed(connection: psycopg.Connection[Any], name: str) -> SymbolSpec:
    symbols = load_directory(connection).symbols.values()
    wanted = name.upper().replace("-", "/", 1)
    for row in symbols:
        if row.spec.name == wanted and row.listed:
            return row.spec
    names = ", ".join(row.spec.name for row in symbols if row.listed)
    raise CommandError(f"symbol {name} is not listed: there are {names or 'none'}")


def _end_of_history(connection: psycopg.Connection[Any], spec: SymbolSpec) -> tuple[int, str]:
    """Last millisecond that is taken, and what is said of a later one."""
    now_ms = time.time_ns() // 1_000_000
    own_ms = history_end_ms(connection, spec.symbol_id)
    if own_ms is None or own_ms > now_ms:
        return now_ms, "is in the future"
    return own_ms, f"is too late: history ends where the engine's own trades begin, at {format_ms(own_ms)}"


class _Reader:
    """Reads a file's rows into the stage, and names the bad ones."""

    def __init__(self, spec: SymbolSpec, end_ms: int, end_reason: str, counts: Counts, progress: Progress) -> None:
        self._spec = spec
        self._end_ms = end_ms
        self._end_reason = end_reason
        self._parser: TradeParser | None = None
        self._counts = counts
        self._progress = progress
        self._lines: list[int] = []
        self._trades: list[ParsedTrade] = []

    def stage(self, file: Path, trades: TradeImport) -> None:
        """Read the whole file."""
        with file.open("rb") as lines:
            task = self._progress.add_task("read", total=file.stat().st_size)
            byte_count = 0
            for number, line in enumerate(lines, 1):
                byte_count += len(line)
                self._take(number, line)
                if len(self._trades) >= STAGED_ROWS:
                    self._flush(trades)
                    self._progress.update(task, completed=byte_count)
            self._flush(trades)
            self._progress.update(task, completed=byte_count)

    def _take(self, number: int, line: bytes) -> None:
        try:
            cells = split_line(line)
            if not cells or (self._parser is None and self._take_header(cells)):
                return
            assert self._parser is not None
            self._trades.append(self._parser.parse(cells))
            self._lines.append(number)
        except LineError as error:
            self._counts.bad += 1
            said = f"line {number}: {error}"
            self._progress.console.print(said, markup=False, highlight=False, soft_wrap=True, emoji=False)
        self._counts.read += 1

    def _take_header(self, cells: list[str]) -> bool:
        """Take the first line as what it is; tells whether it was a header."""
        columns = read_header(cells)
        self._parser = TradeParser(self._spec, columns or Columns(), self._end_ms, self._end_reason)
        return columns is not None

    def _flush(self, trades: TradeImport) -> None:
        if not self._trades:
            return
        time_ms, price_ticks, quantity_lots, taker_buys = zip(*self._trades, strict=True)
        trades.stage(
            ImportRows(
                line=np.array(self._lines, np.int64),
                time_ms=np.array(time_ms, np.int64),
                price_ticks=np.array(price_ticks, np.int64),
                quantity_lots=np.array(quantity_lots, np.int64),
                taker_buys=np.array(taker_buys, np.bool_),
            )
        )
        self._lines, self._trades = [], []


def _progress() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
