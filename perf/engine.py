"""An engine of one's own for a benchmark: in a fresh folder on a real disk, started by the command line."""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx2
import psycopg

from tradeengine.actors.data_dir import read_secret
from tradeengine.core.symbols import AssetSpec, SymbolSpec
from tradeengine.ipc.client import ask
from tradeengine.settings import Settings
from tradeengine.settings_files import load_settings
from tradeengine.storage.directory import load_directory, resolve_account
from tradeengine.storage.funding import FundingKind, FundingStatus, request_funding, wait_funding
from tradeengine.web.auth import issue_token

PROGRAM: Final = (sys.executable, "-m", "tradeengine.cli.app")
START_LINES_MAX: Final = 1000
STOP_TIMEOUT_S: Final = 120
DEFAULT_DIR: Final = Path("/var/tmp")  # noqa: S108 - a disk, unlike /tmp on many machines; a private folder is made there


@dataclass(frozen=True)
class Engine:
    """A running engine: where its data is, and where it listens."""

    data_dir: Path
    url: str

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return int(self.url.rpartition(":")[2])

    def settings(self) -> Settings:
        """Read the settings as a command does that is told nothing but the data directory."""
        return load_settings(None, {"engine.data_dir": str(self.data_dir)})

    def token(self, user: str, role: str = "user", lifetime_s: int = 24 * 3600) -> str:
        """Make an access token."""
        return issue_token(read_secret(self.data_dir).encode(), user, role, lifetime_s)

    def client(self, user: str, role: str = "user") -> httpx2.Client:
        """Connect over HTTP as a user; to be closed by the caller."""
        headers = {"Authorization": f"Bearer {self.token(user, role)}"}
        return httpx2.Client(base_url=f"{self.url}/api/v1", headers=headers, timeout=20, trust_env=False)

    def metrics(self) -> dict[str, float]:
        """Read all its metrics; a name is as ``/metrics`` writes it, labels included."""
        with urllib.request.urlopen(f"{self.url}/metrics", timeout=30) as answer:  # noqa: S310 - our own engine
            lines = answer.read().decode().splitlines()
        return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line[:1] != "#")}

    def processor_s(self) -> dict[str, float]:
        """Give the processor time of each actor so far."""
        actors = ask(self.data_dir, "status")["actors"]
        return {actor["name"]: _processor_s(actor["pid"]) for actor in actors}


@contextmanager
def running_engine(parent: Path, settings: Mapping[str, object], *, shards: int = 1) -> Iterator[Engine]:
    """Run an engine in a new folder of ``parent``, which is removed at the end.

    settings: as the environment names them: ``{"RINGS_EVENTS_SLOTS": 1 << 21}``.
    """
    with private_folder(parent) as data_dir:
        process = start_engine(data_dir, settings, shards=shards)
        try:
            yield Engine(data_dir, wait_ready(process))
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
            if process.stdout is not None:
                process.stdout.close()


@contextmanager
def private_folder(parent: Path) -> Iterator[Path]:
    """Make a new folder, which is removed at the end."""
    folder = Path(tempfile.mkdtemp(prefix="tradeengine-perf-", dir=parent))
    # PostgreSQL may run as another user and has to reach its own folder.
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def start_engine(data_dir: Path, settings: Mapping[str, object], *, shards: int = 1) -> subprocess.Popen[str]:
    """Start an engine on any free port, without waiting for it; settings as in ``running_engine``."""
    command = [*PROGRAM, "up", "--port", "0", "--shards", str(shards), "--data-dir", str(data_dir)]
    return subprocess.Popen(command, env=environment_of(settings), stdout=subprocess.PIPE, text=True)


def wait_ready(process: subprocess.Popen[str]) -> str:
    """Wait until orders are accepted; returns the address. Raises RuntimeError."""
    assert process.stdout is not None
    url = ""
    for _, line in zip(range(START_LINES_MAX), process.stdout, strict=False):
        words = line.split()
        if words[:1] == ["listening"]:
            url = words[1]
        if words[:1] == ["ready"]:
            return url
    raise RuntimeError("the engine did not become ready; what it said is above")


def environment_of(settings: Mapping[str, object]) -> dict[str, str]:
    """Give the environment of a program of the engine that shall have these settings."""
    return os.environ | {f"TRADEENGINE_{name}": str(value) for name, value in settings.items()}


def fund_traders(
    connection: psycopg.Connection[Any], symbol_name: str, names: Sequence[str], accounts_max: int
) -> tuple[SymbolSpec, list[int]]:
    """Give accounts of these names more of a symbol's assets than they will need; returns the symbol and their ids."""
    row = load_directory(connection).symbol(symbol_name)
    assert row is not None
    base, quote = row.spec.base, row.spec.quote
    amounts = {base: base.parse("100000"), quote: quote.parse("100000000")}
    return row.spec, fund_accounts(connection, names, amounts, accounts_max)


def fund_accounts(
    connection: psycopg.Connection[Any], names: Sequence[str], amounts: Mapping[AssetSpec, int], accounts_max: int
) -> list[int]:
    """Give accounts of these names so many units of each asset; returns their ids."""
    account_ids = [resolve_account(connection, name, accounts_max=accounts_max) for name in names]
    requests = [
        request_funding(
            connection,
            FundingKind.DEPOSIT,
            reference=f"perf.{account_id}.{asset.name}",
            account_id=account_id,
            asset_id=asset.asset_id,
            amount_units=amount_units,
        )
        for account_id in account_ids
        for asset, amount_units in amounts.items()
    ]
    for request in requests:
        assert wait_funding(connection, request, timeout_s=60).status is FundingStatus.SETTLED
    return account_ids


def arguments_parser(description: str | None) -> argparse.ArgumentParser:
    """Begin a benchmark's command line: what it measures, and ``--dir``, which all have that keep data."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--dir", "--directory", type=Path, default=DEFAULT_DIR, help="where the data is kept: a folder on a real disk"
    )
    return parser


def say_machine(folder: Path) -> None:
    """Print what is measured on. Raises SystemExit when the folder is in memory: a sync would cost nothing there."""
    kind = filesystem(folder)
    if kind in {"tmpfs", "ramfs"}:
        raise SystemExit(f"{folder} is on {kind}: name a folder on a real disk with --dir")
    print(f"machine    {machine()}; journal on {kind}")


def machine() -> str:
    """Name the processor, the cores and the software."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.partition(":")[2].strip() for line in lines if "model name" in line), platform.machine())
    return f"{model}, {os.cpu_count()} cores, Linux {platform.release()}, Python {platform.python_version()}"


def filesystem(path: Path) -> str:
    """Name the kind of file system that a path is on."""
    best = ("", "unknown")
    for line in Path("/proc/mounts").read_text().splitlines():
        _, mount, kind = line.split()[:3]
        if path.resolve().is_relative_to(mount) and len(mount) >= len(best[0]):
            best = (mount, kind)
    return best[1]


def _processor_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
