"""``tradeengine status``: the actors and rings of a running engine, as tables."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any, Final

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tradeengine.cli.errors import CommandError
from tradeengine.ipc.client import ClientError, ask

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tradeengine.settings import Settings

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
    console = Console(soft_wrap=True)
    megabytes = status["memory_bytes"] / 2**20
    console.print(
        f"up {_duration(status['uptime_s'])}, process {status['pid']}, {megabytes:.0f} MiB of rings and tables"
    )
    console.print(_actors(status["actors"]))
    console.print(_rings(status["rings"]))


def _actors(actors: list[Mapping[str, Any]]) -> Table:
    table = Table("actor", "state", title="actors", title_justify="left")
    for name in ("process", "up", "heartbeat", "restarts"):
        table.add_column(name, justify="right")
    table.add_column("message")
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
            escape(actor["message"]),
        )
    return table


def _rings(rings: list[Mapping[str, Any]]) -> Table:
    """Lay out one row per ring, with how far behind each reader is that holds the writer back."""
    table = Table("ring", title="rings", title_justify="left")
    for name in ("slots", "written since start", "used"):
        table.add_column(name, justify="right")
    table.add_column("records behind, by reader")
    for ring in rings:
        used = max((reader["lag"] for reader in ring["readers"]), default=0) / ring["slots"]
        behind = ", ".join(f"{reader['name']} {reader['lag']}" for reader in ring["readers"])
        table.add_row(ring["name"], f"{ring['slots']}", f"{ring['written']}", f"{used:.0%}", behind)
    return table


def _duration(seconds: float) -> str:
    minutes, rest_s = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest_s:02}"
