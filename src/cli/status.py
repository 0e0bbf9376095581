"""``tradeengine status``: the actors, local clients and rings of a running engine, as tables."""

from __future__ import annotations

import json
import sys
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, Final

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tradeengine.cli.errors import CommandError
from tradeengine.ipc.client import ClientError, ask

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tradeengine.settings import Settings

CLI_MODULE: Final = "tradeengine.cli.app"
STYLES: Final = {"ready": "green", "starting": "yellow", "restarting": "yellow", "stopping": "yellow"}


def run_status(settings: Settings, *, as_json: bool) -> None:
    """Print what the supervisor knows. Raises CommandError when no engine answers."""
    try:
        status = ask(settings.data_dir, "status")
    except ClientError as error:
        raise CommandError(str(error)) from None
    if as_json:
        sys.stdout.write(json.dumps(status) + "\n")
        return
    console = Console(highlight=False)
    megabytes = status["memory_bytes"] / 2**20
    console.print(
        f"up {_duration(status['uptime_s'])}, process {status['pid']}, {megabytes:.0f} MiB of rings and tables"
    )
    console.print(_actors(status["actors"]))
    # Below and not in the table: a message may be a long sentence.
    for actor in status["actors"]:
        if actor["message"]:
            console.print(f"{actor['name']}: {escape(actor['message'])}", soft_wrap=True)
    console.print(_recoveries(status["actors"]))
    console.print(f"local clients: {len(status['clients'])} of {status['client_places']} places are taken")
    if status["clients"]:
        console.print(_clients(status["clients"]))
    console.print(_rings(status["rings"]))


def _actors(actors: list[Mapping[str, Any]]) -> Table:
    table = _table("actors", "actor", "state")
    for name in ("process", "up", "heartbeat", "restarts"):
        table.add_column(name, justify="right")
    for actor in actors:
        style = STYLES.get(actor["state"], "red")
        runs = actor["pid"] != 0
        table.add_row(
            actor["name"],
            f"[{style}]{actor['state']}[/{style}]",
            str(actor["pid"]) if runs else "–",
            _duration(actor["uptime_s"]) if runs else "–",
            f"{actor['heartbeat_age_s']:.1f} s" if runs and actor["heartbeat_age_s"] is not None else "–",
            str(actor["restart_count"]),
        )
    return table


def _recoveries(actors: list[Mapping[str, Any]]) -> Table:
    """Lay out what each process found when it began: sequences that come next, and counts."""
    table = _table("at their last start")
    table.add_column("ready after", justify="right", no_wrap=True)
    table.add_column("actor", no_wrap=True)
    table.add_column("found", overflow="fold")
    for actor in actors:
        if actor["ready_s"]:
            found = ", ".join(f"{name} {value}" for name, value in actor["recovered"].items())
            table.add_row(f"{actor['ready_s']:.2f} s", actor["name"], found)
    return table


def _clients(clients: list[Mapping[str, Any]]) -> Table:
    """Lay out who sits in the places for local clients."""
    table = _table("")
    table.add_column("place", no_wrap=True)
    table.add_column("process", justify="right", no_wrap=True)
    table.add_column("program", overflow="fold")
    for client in clients:
        table.add_row(client["name"], str(client["pid"]), escape(_program(client["command"])))
    return table


def _program(words: list[str]) -> str:
    """Shorten a command line to what a user would have typed."""
    for place, word in enumerate(words):
        if PurePath(word).name in {"tradeengine", CLI_MODULE}:
            return " ".join(("tradeengine", *words[place + 1 :]))
    return " ".join(words) or "ended; its last commands are on their way"


def _rings(rings: list[Mapping[str, Any]]) -> Table:
    """Lay out one row per ring, with how far behind each reader is that holds the writer back."""
    table = _table("rings, in records: written since the start, readers behind", "ring")
    for name in ("slots", "written", "used"):
        table.add_column(name, justify="right")
    table.add_column("behind")
    for ring in rings:
        used = max((reader["lag"] for reader in ring["readers"]), default=0) / ring["slots"]
        behind = ", ".join(f"{reader['name']} {reader['lag']}" for reader in ring["readers"])
        table.add_row(ring["name"], f"{ring['slots']}", f"{ring['written']}", f"{used:.0%}", behind)
    return table


def _table(title: str, *columns: str) -> Table:
    """Begin a table that needs no more than 80 columns as long as nothing is far behind."""
    return Table(*columns, title=title or None, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)


def _duration(seconds: float) -> str:
    minutes, rest_s = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest_s:02}"
