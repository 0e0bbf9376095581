"""Probes: short looks at what the engine depends on, for whoever asks how it is.

Rule 1: a probe ends within its time, also when what it looks at hangs; the thread that hangs with it stays one, because
the next probe waits for it, as long as that one's time allows.
It refuses to know what follows from what it finds.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

import httpx2
import psycopg
import trio

from tradeengine.settings import Settings
from tradeengine.storage.patient import PatientConnection
from tradeengine.wallet.http import HttpWallet, open_http
from tradeengine.wallet.port import Unavailable
from tradeengine.web.admission import waiting

PROBE_S_MAX: Final = 0.6
_LINGER_S: Final = 2
"""A thread that nobody waits for any more gives up after this."""
Found = TypeVar("Found")


@dataclass(frozen=True, slots=True)
class Probe:
    """What was found, and how long that took. ``error``: why nothing was; "": it was."""

    error: str
    latency_ms: float
    details: dict[str, Any] = field(default_factory=dict)


class Probes:
    """Looks at the database, the disk and the wallet service."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._database_turn = trio.CapacityLimiter(1)
        self._disk_turn = trio.CapacityLimiter(1)
        self._connection: PatientConnection | None = None
        self._wallet: HttpWallet | None = None

    async def run(self) -> None:
        """Keep a way to the wallet service, where there is one, until cancelled."""
        wallet = self._settings.wallet
        if wallet.kind == "http":
            async with open_http(wallet.url, "", timeout_s=PROBE_S_MAX, connections_max=1) as self._wallet:
                await trio.sleep_forever()

    async def database(self) -> Probe:
        """Ask PostgreSQL something."""
        return await _in_thread(self._ask_database, self._database_turn, "PostgreSQL")

    async def disk(self) -> Probe:
        """Look at the disk of the data directory."""
        return await _in_thread(lambda: _disk_usage(self._settings.data_dir), self._disk_turn, "the disk")

    async def wallet(self) -> Probe:
        """Ask the wallet service for its health."""
        began_s = time.perf_counter()
        error = f"the wallet service did not answer within {PROBE_S_MAX:g} s"
        with trio.move_on_after(PROBE_S_MAX), waiting():
            try:
                if self._wallet is not None:
                    await self._wallet.health()
                error = "" if self._wallet is not None else "the wallet service has not been asked yet"
            except (Unavailable, httpx2.HTTPError) as problem:
                error = str(problem) or type(problem).__name__
        return Probe(error, _since_ms(began_s))

    def _ask_database(self) -> dict[str, Any]:
        """Run in a thread, one at a time; keeps its connection for the next time."""
        connection = self._connection
        self._connection = None
        try:
            if connection is None:
                connection = self._connect()
            row = connection.execute(
                "SELECT current_setting('server_version'), pg_is_in_recovery(),"
                " (SELECT count(*) FROM pg_stat_activity WHERE datname = current_database())"
            ).fetchone()
        except psycopg.Error:
            if connection is not None:
                with suppress(psycopg.Error):
                    connection.close()
            raise
        self._connection = connection
        assert row is not None
        return {"server_version": row[0], "read_only": row[1], "connections": row[2]}

    def _connect(self) -> PatientConnection:
        connection = PatientConnection.open(
            self._settings.database.dsn,
            lambda: None,
            connect_timeout_s=_LINGER_S,
            silence_s_max=_LINGER_S,
            name="tradeengine-probe",
        )
        # A pooler may be in between, which gives each question another server.
        connection.prepare_threshold = None
        return connection


async def _in_thread(look: Callable[[], dict[str, Any]], turn: trio.CapacityLimiter, what: str) -> Probe:
    began_s = time.perf_counter()
    with trio.move_on_after(PROBE_S_MAX), waiting():
        try:
            details = await trio.to_thread.run_sync(look, limiter=turn, abandon_on_cancel=True)
        except (psycopg.Error, OSError) as error:
            return Probe(" ".join(str(error).split()) or type(error).__name__, _since_ms(began_s))
        return Probe("", _since_ms(began_s), details)
    return Probe(f"{what} did not answer within {PROBE_S_MAX:g} s", _since_ms(began_s))


def _disk_usage(data_dir: Path) -> dict[str, Any]:
    usage = shutil.disk_usage(data_dir)
    return {"free_bytes": usage.free, "size_bytes": usage.total}


def _since_ms(began_s: float) -> float:
    return round((time.perf_counter() - began_s) * 1000, 3)
