"""The program ``tradeengine``: its commands, and how they fail.

Rule 1: a command that fails writes one line that says what and what to do, and exits with status 1 (2 for wrong usage).
Rule 2: nothing heavy is imported before a command needs it: ``--help`` answers at once.
"""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tradeengine.settings import Settings

app = typer.Typer(
    name="tradeengine",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

DataDir = Annotated[
    Path | None, typer.Option("--data-dir", help="Where the engine keeps its data; ./data unless configured.")
]
LetterId = Annotated[int, typer.Argument(min=1, max=(1 << 63) - 1, help="Id of the dead letter.")]
Config = Annotated[Path | None, typer.Option("--config", help="Settings file: what differs from the defaults.")]


class ReplayFormat(StrEnum):
    """Formats of recorded order flow."""

    LOBSTER = "lobster"


class RestoreOnly(StrEnum):
    """Halves of a backup that can be restored alone."""

    DATABASE = "database"
    FILES = "files"


class TopSort(StrEnum):
    """Orders of the actors in ``top``."""

    LOAD = "load"
    BEHIND = "behind"
    RATE = "rate"
    LATENCY = "latency"
    NAME = "name"


def print_version(wanted: bool) -> None:
    """Print the version, if that is what was asked, and end."""
    if wanted:
        from tradeengine import __version__

        sys.stdout.write(f"tradeengine {__version__}\n")
        raise typer.Exit


@app.callback(help="A spot trading engine: one machine, many processes, shared-memory rings.")
def options(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=print_version, help="Print the version and end.")
    ] = False,
) -> None:
    """Take the options of the program itself."""


def main() -> None:
    """Run the command that was asked for; the entry point of the installed program."""
    from tradeengine.cli.errors import CommandError
    from tradeengine.settings import SettingsError

    try:
        app()
    except (CommandError, SettingsError) as error:
        sys.stderr.write(f"tradeengine: {error}\n")
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


@app.command()
def up(
    data_dir: DataDir = None,
    config: Config = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; 0 takes any free one.")] = None,
    shards: Annotated[int | None, typer.Option(help="Number of matchers.")] = None,
    fronts: Annotated[int | None, typer.Option(help="Number of HTTP processes.")] = None,
    dsn: Annotated[str | None, typer.Option(help="PostgreSQL 14 or newer; the embedded one unless given.")] = None,
    demo: Annotated[bool, typer.Option("--demo", help="Let demo traders trade with each other.")] = False,
    profile: Annotated[str | None, typer.Option(metavar="ACTOR", help="Write a profile of this actor.")] = None,
) -> None:
    """Start the engine and run it until Ctrl-C."""
    from tradeengine.cli.up import run_up

    overrides = {
        "engine.shards": shards,
        "engine.fronts": fronts,
        "http.host": host,
        "http.port": port,
        "database.dsn": dsn,
        "supervisor.profile": profile,
    }
    run_up(read_settings(data_dir, config, overrides), demo=demo)


@app.command()
def token(
    user: Annotated[str, typer.Argument(help="Name of the user.")],
    role: Annotated[str, typer.Option(help="user, admin or super_admin.")] = "user",
    two_factor: Annotated[bool, typer.Option("--two-factor", help="As after a sign-in with a second factor.")] = False,
    key: Annotated[Path | None, typer.Option(help="Sign with this private key, PEM, instead of the secret.")] = None,
    kid: Annotated[str, typer.Option(help="Name of that key in auth.keys_file.")] = "",
    data_dir: DataDir = None,
    config: Config = None,
) -> None:
    """Print an access token for a user."""
    from tradeengine.cli.accounts import run_token

    run_token(read_settings(data_dir, config), user, role, two_factor=two_factor, key=key, key_id=kid)


# With its minus sign an amount looks like an option: let through, so that the answer is about the amount.
@app.command(context_settings={"ignore_unknown_options": True})
def deposit(
    user: Annotated[str, typer.Argument(help="Name of the user; a new one gets an account.")],
    asset: Annotated[str, typer.Argument(help="Name of the asset, for example USDT.")],
    amount: Annotated[str, typer.Argument(help="Amount as a plain decimal.")],
    reference: Annotated[str | None, typer.Option(help="Repeats with the same reference are made once.")] = None,
    data_dir: DataDir = None,
    config: Config = None,
) -> None:
    """Credit a user and wait until that is settled."""
    from tradeengine.cli.accounts import run_deposit

    run_deposit(read_settings(data_dir, config), user, asset, amount, reference)


@app.command()
def status(
    data_dir: DataDir = None,
    config: Config = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of tables.")] = False,
) -> None:
    """Show the actors and rings of a running engine."""
    from tradeengine.cli.status import run_status

    run_status(read_settings(data_dir, config), as_json=as_json)


@app.command()
def top(
    data_dir: DataDir = None,
    config: Config = None,
    once: Annotated[bool, typer.Option("--once", help="Print one interval and end.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per interval instead of tables.")] = False,
    interval: Annotated[float, typer.Option(min=0.1, max=60, help="Seconds from one look to the next.")] = 1.0,
    sort: Annotated[TopSort, typer.Option(help="Order of the actors; the key s changes it.")] = TopSort.LOAD,
) -> None:
    """Show actors, rings and symbols of a running engine, live; q ends it."""
    from tradeengine.cli.top import run_top

    run_top(read_settings(data_dir, config), once=once, as_json=as_json, interval_s=interval, sort=sort.value)


@app.command()
def wallet(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes any free one.")] = 8090,
    dsn: Annotated[
        str, typer.Option(help="PostgreSQL 14 or newer; else one of its own in the data directory's folder wallet.")
    ] = "",
    data_dir: DataDir = None,
    config: Config = None,
) -> None:
    """Run the reference wallet service until Ctrl-C: a program of its own, for an engine with wallet.kind = "http"."""
    from tradeengine.cli.wallet import run_wallet

    run_wallet(read_settings(data_dir, config), host, port, dsn)


@app.command()
def reconcile(
    data_dir: DataDir = None,
    config: Config = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of lines.")] = False,
) -> None:
    """Compare ledger, balances, holds and live orders of a running engine wherever they are kept, while it trades.

    Ends with 0 when all agree, with 1 when there is a difference, with 2 when nothing could be compared.
    """
    from tradeengine.cli.reconcile import run_reconcile

    status = run_reconcile(read_settings(data_dir, config), as_json=as_json)
    if status:
        raise typer.Exit(status)


@app.command()
def verify(
    shard: Annotated[int | None, typer.Option(min=0, max=63, help="This shard alone, without the ledger.")] = None,
    from_snapshot: Annotated[
        bool, typer.Option("--from-snapshot/--whole", help="Begin at the newest snapshot, not at the oldest command.")
    ] = False,
    data_dir: DataDir = None,
    config: Config = None,
    dsn: Annotated[str | None, typer.Option(help="PostgreSQL 14 or newer; the embedded one unless given.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of lines.")] = False,
) -> None:
    """Replay the journals and compare hashes, snapshots, trades, orders and ledger with what they give.

    An engine may run meanwhile. Ends with 0 when all agree, with 1 when there is a difference, with 2 when it could not
    be looked; see docs/verify.md.
    """
    from tradeengine.cli.verify import run_verify

    settings = read_settings(data_dir, config, _database(dsn))
    status = run_verify(settings, shard=shard, from_snapshot=from_snapshot, as_json=as_json)
    if status:
        raise typer.Exit(status)


@app.command()
def migrate(
    data_dir: DataDir = None,
    config: Config = None,
    dsn: Annotated[str | None, typer.Option(help="PostgreSQL 14 or newer; the embedded one unless given.")] = None,
) -> None:
    """Bring the database to the schema of this program."""
    from tradeengine.cli.database import run_migrate

    run_migrate(read_settings(data_dir, config, {"database.dsn": dsn}))


@app.command()
def backup(
    words: Annotated[
        list[str], typer.Argument(metavar="[verify] FOLDER", help="A new folder; after `verify`, one that is there.")
    ],
    base: Annotated[
        Path | None, typer.Option(help="Take the database from this backup; only the journals since are copied.")
    ] = None,
    data_dir: DataDir = None,
    config: Config = None,
    dsn: Annotated[str | None, typer.Option(help="PostgreSQL 14 or newer; the embedded one unless given.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of lines.")] = False,
) -> None:
    """Copy database, journals, snapshots and secrets into a new folder while the engine trades, or check a copy."""
    from tradeengine.cli.backup import run_backup, run_verify

    verifying = len(words) == 2 and words[0] == "verify"
    if len(words) != 1 and not verifying:
        raise typer.BadParameter("one folder, or `verify` and a folder", param_hint="FOLDER")
    if verifying:
        run_verify(Path(words[1]), as_json=as_json)
    else:
        settings = read_settings(data_dir, config, _database(dsn))
        run_backup(settings, Path(words[0]), base=base, as_json=as_json)


@app.command()
def restore(
    folder: Annotated[Path, typer.Argument(help="A backup.")],
    only: Annotated[
        RestoreOnly | None,
        typer.Option(help="database: beside journals that are well; files: beside a database that is."),
    ] = None,
    data_dir: DataDir = None,
    config: Config = None,
    dsn: Annotated[
        str | None, typer.Option(help="An empty PostgreSQL database; the embedded one unless given.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of lines.")] = False,
) -> None:
    """Restore a backup into an empty data directory and an empty database; the next start brings them forward."""
    from tradeengine.cli.restore import run_restore

    settings = read_settings(data_dir, config, _database(dsn))
    run_restore(settings, folder, only=None if only is None else only.value, as_json=as_json)


@app.command()
def replay(
    file: Annotated[Path, typer.Argument(help="Recorded order flow.")],
    symbol: Annotated[str, typer.Option(help="Symbol to replay on, for example AAPL/USD; listed when missing.")],
    format_: Annotated[ReplayFormat, typer.Option("--format", help="What the file is.")] = ReplayFormat.LOBSTER,
    speed: Annotated[float, typer.Option(min=0, help="Multiple of the recorded speed; 0: as fast as it goes.")] = 0.0,
    tick: Annotated[str, typer.Option(help="Tick of a symbol that is missing.")] = "0.01",
    lot: Annotated[str, typer.Option(help="Lot of a symbol that is missing.")] = "1",
    maker_fee: Annotated[str, typer.Option(help="Maker fee of a symbol that is missing.")] = "0.0005",
    taker_fee: Annotated[str, typer.Option(help="Taker fee of a symbol that is missing.")] = "0.001",
    remove_before: Annotated[
        list[str] | None, typer.Option(help="ROW:ORDER_ID, an order whose deletion was not recorded; repeatable.")
    ] = None,
    rows: Annotated[int | None, typer.Option(min=1, help="Replay only so many rows.")] = None,
    window: Annotated[int, typer.Option(min=1, max=1 << 16, help="Commands that may wait for answers.")] = 4096,
    touch_out: Annotated[Path | None, typer.Option(help="File for best ask and bid after each row.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as one JSON object.")] = False,
    data_dir: DataDir = None,
    config: Config = None,
) -> None:
    """Send recorded order flow through the running engine."""
    from tradeengine.cli.replay import ReplayOptions, parse_removals, run_replay
    from tradeengine.cli.replay_market import NewSymbol

    assert format_ is ReplayFormat.LOBSTER
    options = ReplayOptions(
        file=file,
        symbol=symbol,
        new_symbol=NewSymbol(tick, lot, maker_fee, taker_fee),
        speed=speed,
        window=1 << (window - 1).bit_length(),
        removals=parse_removals(remove_before or ()),
        rows_max=rows,
        touch_out=touch_out,
        as_json=as_json,
    )
    run_replay(read_settings(data_dir, config), options)


@app.command()
def import_trades(
    file: Annotated[Path, typer.Argument(help="CSV file: time, price, quantity, side; by its header in any order.")],
    symbol: Annotated[str, typer.Option(help="Symbol that they were traded in, for example BTC/USDT; must be listed.")],
    data_dir: DataDir = None,
    config: Config = None,
) -> None:
    """Add trades of the past to a symbol's history and candles; what is there already is not added again.

    Times are RFC 3339, or seconds or milliseconds since 1970. Bad rows are named on standard error, the others go in.
    """
    from tradeengine.cli.import_trades import run_import

    status = run_import(read_settings(data_dir, config), file, symbol)
    if status:
        raise typer.Exit(status)


@app.command()
def match(
    tick: Annotated[str, typer.Option(help="Smallest step of prices.")] = "1",
    lot: Annotated[str, typer.Option(help="Smallest step of quantities.")] = "1",
    maker_fee: Annotated[str, typer.Option(help="Fraction, for example 0.0005.")] = "0",
    taker_fee: Annotated[str, typer.Option(help="Fraction, for example 0.001.")] = "0",
    max_price_deviation: Annotated[str, typer.Option(help="Fraction around the last price; 0: none.")] = "0",
    book: Annotated[bool, typer.Option("--book", help="Print the final book as the last line.")] = False,
    data_dir: DataDir = None,  # noqa: ARG001 - every command takes it; this one keeps no data
) -> None:
    """Match commands from standard input, one JSON object per line, and print their events; no server.

    A line has op (new, cancel, amend; default new), id, account and the order fields of the API; see docs/match.md.
    """
    from tradeengine.cli.match import MatchOptions, run_match

    status = run_match(MatchOptions(tick, lot, maker_fee, taker_fee, max_price_deviation, book))
    if status:
        raise typer.Exit(status)


dead_letters = typer.Typer(
    no_args_is_help=True, help="What a wallet service will not do: list, show, retry, discard; see docs/wallet.md."
)
app.add_typer(dead_letters, name="dead-letters")


@dead_letters.command("list")
def list_dead_letters(
    data_dir: DataDir = None,
    config: Config = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON list with all that is known.")] = False,
) -> None:
    """List them, the newest first."""
    from tradeengine.cli.dead_letters import run_list

    run_list(read_settings(data_dir, config), as_json=as_json)


@dead_letters.command("show")
def show_dead_letter(letter_id: LetterId, data_dir: DataDir = None, config: Config = None) -> None:
    """Show one with its payload, as JSON."""
    from tradeengine.cli.dead_letters import run_show

    run_show(read_settings(data_dir, config), letter_id)


@dead_letters.command("retry")
def retry_dead_letter(letter_id: LetterId, data_dir: DataDir = None, config: Config = None) -> None:
    """Let the wallet be asked again."""
    from tradeengine.cli.dead_letters import run_retry

    run_retry(read_settings(data_dir, config), letter_id)


@dead_letters.command("discard")
def discard_dead_letter(
    letter_id: LetterId,
    reason: Annotated[str, typer.Option(help="Why, for people; it is kept.")],
    data_dir: DataDir = None,
    config: Config = None,
) -> None:
    """Give one up for good; fill and ledger stay, and by how much the wallet differs is written down."""
    from tradeengine.cli.dead_letters import run_discard

    run_discard(read_settings(data_dir, config), letter_id, reason)


audit = typer.Typer(no_args_is_help=True, help="What administrators did: list it, verify it; see docs/audit.md.")
app.add_typer(audit, name="audit")


@audit.command("list")
def list_audit(
    data_dir: DataDir = None,
    config: Config = None,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="Rows at most.")] = 50,
    actor: Annotated[str | None, typer.Option(help="Exactly this user, or cli:NAME.")] = None,
    action: Annotated[str | None, typer.Option(help="Exactly this action, for example suspend_user.")] = None,
    start: Annotated[str | None, typer.Option(help="RFC 3339, inclusive.")] = None,
    end: Annotated[str | None, typer.Option(help="RFC 3339, exclusive.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON list with all that is known.")] = False,
) -> None:
    """List what administrators did, the newest first, refused actions too."""
    from tradeengine.cli.audit import AuditFilter, run_list

    run_list(read_settings(data_dir, config), AuditFilter(limit, actor, action, start, end), as_json=as_json)


@audit.command("verify")
def verify_audit(
    data_dir: DataDir = None,
    config: Config = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of lines.")] = False,
) -> None:
    """Find out whether a row of the log is missing or was altered, and name the first.

    Ends with 0 when the log is whole, with 1 when something is wrong, with 2 when it could not be looked at.
    """
    from tradeengine.cli.audit import run_verify

    status = run_verify(read_settings(data_dir, config), as_json=as_json)
    if status:
        raise typer.Exit(status)


def _database(dsn: str | None) -> dict[str, object]:
    """Name a database by one address, whatever the settings say of a second way to theirs."""
    return {} if dsn is None else {"database.dsn": dsn, "database.session_dsn": ""}


def read_settings(
    data_dir: Path | None, config: Path | None, overrides: Mapping[str, object] | None = None
) -> Settings:
    """Read the settings for a command. Raises SettingsError."""
    from tradeengine.settings_files import load_settings

    directory = None if data_dir is None else str(data_dir)
    return load_settings(config, {"engine.data_dir": directory, **(overrides or {})})


if __name__ == "__main__":
    main()
