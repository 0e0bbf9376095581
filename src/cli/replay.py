"""``tradeengine replay``: sends recorded order flow through the running engine and accounts for every command.

The replay is a local client: it has an ingress ring of its own and reads events as a front does, so a command goes the
whole way: risk, journal, matcher, settlement. It goes as fast as answers and settlement allow, or at a multiple of the
recorded speed.

Rule 1: nothing is refused for load. Commands go out only while few wait for answers and settlement keeps up; what is
refused all the same, because others load the engine too, goes out again.
Rule 2: at the end every step was answered or skipped, or the command fails and says what is missing.
"""

from __future__ import annotations

import json
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import psycopg
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from tradeengine.cli.database import connect, one_line
from tradeengine.cli.errors import CommandError
from tradeengine.cli.lobster import LobsterError, read_messages, ticks_of, translate
from tradeengine.cli.recorded import recorded
from tradeengine.cli.replay_market import (
    Line,
    NewSymbol,
    ReplayError,
    cancel_leftovers,
    ensure_symbol,
    fund_accounts,
    lots_of,
    tick_of,
)
from tradeengine.cli.replay_session import ReplaySession, Terms
from tradeengine.cli.touch_recorder import TouchRecorder
from tradeengine.core.symbols import ListingError
from tradeengine.ipc.client import ClientError, open_client
from tradeengine.ipc.ring_reader import Lapped, RingWatch
from tradeengine.storage.directory import DirectoryFullError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tradeengine.cli.lobster import Flow
    from tradeengine.core.symbols import SymbolSpec
    from tradeengine.settings import Settings

STALL_TIMEOUT_S: Final = 30.0
"""Without any answer for so long the replay gives up."""
BACKLOG_LOOK_NS: Final = 5_000_000
PERCENTILES: Final = (50, 90, 99, 99.9)


@dataclass(frozen=True)
class ReplayOptions:
    """What is replayed, and how. ``speed``: multiple of the recorded one; 0: as fast as it goes."""

    file: Path
    symbol: str
    new_symbol: NewSymbol
    speed: float
    window: int
    removals: tuple[tuple[int, int], ...]
    rows_max: int | None
    touch_out: Path | None
    as_json: bool


def run_replay(settings: Settings, options: ReplayOptions) -> None:
    """Replay a file and print the report. Raises CommandError."""
    try:
        flow = translate(read_messages(options.file, rows_max=options.rows_max), options.removals)
        with ExitStack() as stack:
            connection = stack.enter_context(connect(settings))
            stack.enter_context(recorded(settings, "replay", options.symbol, file=options.file.name))
            line = Line(stack.enter_context(open_client(settings.data_dir)))
            report = _replay(line, connection, flow, options, stack)
    except OSError as error:
        raise CommandError(f"{options.file} cannot be read: {error.strerror}") from None
    except psycopg.Error as error:
        raise CommandError(f"the database failed: {one_line(error)}") from None
    except (LobsterError, ReplayError, ClientError, ListingError, DirectoryFullError) as error:
        raise CommandError(str(error)) from None
    if options.as_json:
        sys.stdout.write(json.dumps(report) + "\n")
    else:
        _print_report(report)


def _replay(
    line: Line, connection: psycopg.Connection[Any], flow: Flow, options: ReplayOptions, stack: ExitStack
) -> dict[str, Any]:
    symbol = ensure_symbol(line, connection, options.symbol, options.new_symbol, flow)
    tick = tick_of(symbol.tick)
    steps = flow.steps.copy()
    steps["price"] = ticks_of(steps["price"], tick)
    steps["size"], steps["reduced"] = lots_of(symbol, steps["size"]), lots_of(symbol, steps["reduced"])
    run_tag = f"r{time.time_ns() // 10**6:x}"
    maker_id, taker_id = fund_accounts(line, connection, symbol, steps, run_tag)
    cancelled_count = cancel_leftovers(line, symbol, (maker_id, taker_id))
    recorder = None
    if options.touch_out is not None:
        _require_empty_book(line, symbol)
        recorder = TouchRecorder(stack.enter_context(options.touch_out.open("w", encoding="ascii")), symbol, tick)
    session = ReplaySession(
        steps,
        len(flow.order_ids),
        Terms(symbol.symbol_id, maker_id, taker_id, line.wiring.ingress_number, run_tag),
        first_sequence=line.writer.head,
        outstanding_max=options.window,
    )
    started_s = time.monotonic()
    Sender(line, session, symbol.shard, recorder).run(options.speed)
    elapsed_s = time.monotonic() - started_s
    report = {"file": options.file.name, "symbol": symbol.name, "leftover_orders_cancelled": cancelled_count}
    report |= _report(flow, session, elapsed_s)
    if recorder is not None:
        report["touch_states"] = recorder.state_count
    return report


def _require_empty_book(line: Line, symbol: SymbolSpec) -> None:
    touch = line.wiring.table("touch").read(symbol.symbol_id)
    if touch["best_bid_ticks"] or touch["best_ask_ticks"]:
        raise ReplayError(f"--touch-out needs a book without others' orders, and {symbol.name} has some")


class Sender:
    """Moves commands and events between a session and its rings until every step is answered."""

    def __init__(self, line: Line, session: ReplaySession, shard: int, recorder: TouchRecorder | None) -> None:
        self._line = line
        self._session = session
        self._recorder = recorder
        self._readers = line.readers_of(shard)
        self._watch = RingWatch(self._readers)
        self._shard_reader = self._readers[0]
        settings = line.wiring.settings
        self._backlog_max = settings.settlement.backlog_events_max // 2
        self._backlog_seen_ns = 0
        self._backlogged = False

    def run(self, speed: float) -> None:
        """Send everything. Raises ReplayError when answers stay away, or were missed."""
        session, bell = self._session, self._line.wiring.doorbell
        first_time_ns, started_ns = session.next_time_ns(), time.time_ns()
        heard_s = time.monotonic()
        with _progress() as progress:
            task = progress.add_task("replay", total=session.step_count)
            while not session.finished:
                due_ns = None
                if speed and first_time_ns is not None:
                    due_ns = first_time_ns + int((time.time_ns() - started_ns) * speed)
                if self._line.wiring.stopping():
                    raise ReplayError(f"the engine is gone, with {session.outstanding_count} commands unanswered")
                sent, heard = self._send(due_ns), self._hear()
                if heard or not session.outstanding_count:
                    heard_s = time.monotonic()
                elif time.monotonic() - heard_s > STALL_TIMEOUT_S:
                    raise ReplayError(
                        f"{session.outstanding_count} commands had no answer for {STALL_TIMEOUT_S:.0f} s: "
                        "see `tradeengine status`"
                    )
                progress.update(task, completed=session.step_number)
                if not sent and not heard:
                    bell.wait(0.001 if speed or self._backlogged else 0.1, self._watch)
            progress.update(task, completed=session.step_number)

    def _send(self, due_ns: int | None) -> int:
        now_ns = time.time_ns()
        if self._behind(now_ns):
            return 0
        writer = self._line.writer
        commands = self._session.next_commands(writer.free(), now_ns, time_ns_max=due_ns)
        if len(commands):
            writer.publish(commands)
        return len(commands)

    def _hear(self) -> int:
        count = 0
        for reader in self._readers:
            try:
                events = reader.poll()
            except Lapped as lapped:
                raise ReplayError(
                    f"{lapped}: answers were missed, so the replay cannot account for its orders"
                ) from None
            if not len(events):
                continue
            if self._recorder is not None and reader is self._shard_reader:
                self._recorder.fold(events, self._session.rows(events))
            self._session.fold(events, time.time_ns())
            reader.advance(len(events))
            count += len(events)
        return count

    def _behind(self, now_ns: int) -> bool:
        """Tell whether settlement has so much to do that risk would soon refuse."""
        if now_ns - self._backlog_seen_ns >= BACKLOG_LOOK_NS:
            self._backlog_seen_ns = now_ns
            self._backlogged = any(
                cursor.lag > min(self._backlog_max, reader.ring.capacity // 2)
                for reader in self._readers
                for cursor in reader.ring.statistics().readers
                if cursor.gating
            )
        return self._backlogged


def _progress() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True), transient=True)


def _report(flow: Flow, session: ReplaySession, elapsed_s: float) -> dict[str, Any]:
    latencies_ns = session.latencies_ns()
    percentiles = np.percentile(latencies_ns, PERCENTILES) if len(latencies_ns) else np.zeros(len(PERCENTILES))
    return {
        "rows": flow.row_count,
        "rows_skipped": {kind.name.lower(): count for kind, count in sorted(flow.skipped.items())},
        "orders_entered": flow.entered_count,
        "steps": len(flow.steps),
        "steps_skipped": {action.name.lower(): count for action, count in sorted(session.skipped.items())},
        "commands": session.sent_count,
        "commands_per_s": round(session.sent_count / elapsed_s) if elapsed_s else 0,
        "elapsed_s": round(elapsed_s, 3),
        "answers": {
            f"{answer.action.name} {answer.kind.name} {answer.reason.name}".lower(): count
            for answer, count in sorted(session.answers.items())
        },
        "retried": session.retried_count,
        "trades": session.trade_count,
        "traded_lots": session.traded_lots,
        "executions_not_filled": session.unfilled_count,
        "submissions_that_traded": session.submissions_traded_count,
        "fills_of_another_order": session.stand_ins.fill_count,
        "latency_us": {
            f"p{percentile:g}": round(value / 1000)
            for percentile, value in zip(PERCENTILES, percentiles.tolist(), strict=True)
        },
    }


def _print_report(report: dict[str, Any]) -> None:
    table = Table(title=f"replay of {report['file']} on {report['symbol']}", show_header=False)
    for name, value in report.items():
        if name in {"file", "symbol"}:
            continue
        if isinstance(value, dict):
            for key, number in value.items():
                table.add_row(f"{name.replace('_', ' ')}: {key}", f"{number:,}")
        else:
            table.add_row(name.replace("_", " "), f"{value:,}")
    Console(soft_wrap=True).print(table)


def parse_removals(texts: Sequence[str]) -> tuple[tuple[int, int], ...]:
    """Read ``ROW:ORDER_ID`` pairs. Raises CommandError."""
    removals = []
    for text in texts:
        row, colon, order_id = text.partition(":")
        if not (colon and row.isdigit() and order_id.isdigit()):
            raise CommandError(f"--remove-before {text!r} is not allowed: must be ROW:ORDER_ID, rows counted from 0")
        removals.append((int(row), int(order_id)))
    return tuple(removals)
