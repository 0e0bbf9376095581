"""An engine of one's own for a benchmark: in a fresh folder on a real disk, started by the command line."""

from __future__ import annotations

import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psycopg

from tradeengine.core.symbols import AssetSpec
from tradeengine.ipc.client import ask
from tradeengine.storage.directory import resolve_account
from tradeengine.storage.funding import FundingKind, FundingStatus, request_funding, wait_funding

START_LINES_MAX: Final = 1000
STOP_TIMEOUT_S: Final = 120
DEFAULT_DIR: Final = Path("/var/tmp")  # noqa: S108 - a disk, unlike /tmp on many machines; a private folder is made there


@dataclass(frozen=True)
class Engine:
    """A running engine: where its data is, and where it listens."""

    data_dir: Path
    url: str

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
    data_dir = Path(tempfile.mkdtemp(prefix="tradeengine-perf-", dir=parent))
    # PostgreSQL may run as another user and has to reach its own folder.
    data_dir.chmod(0o755)
    environment = os.environ | {f"TRADEENGINE_{name}": str(value) for name, value in settings.items()}
    program = [sys.executable, "-m", "tradeengine.cli.app", "up", "--port", "0", "--shards", str(shards)]
    process = subprocess.Popen(
        [*program, "--data-dir", str(data_dir)], env=environment, stdout=subprocess.PIPE, text=True
    )
    try:
        yield Engine(data_dir, _wait_ready(process))
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
        if process.stdout is not None:
            process.stdout.close()
        shutil.rmtree(data_dir, ignore_errors=True)


def fund_accounts(
    connection: psycopg.Connection[Any], names: list[str], amounts: Mapping[AssetSpec, int], accounts_max: int
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


def _wait_ready(process: subprocess.Popen[str]) -> str:
    """Wait until orders are accepted; returns the address."""
    assert process.stdout is not None
    url = ""
    for _, line in zip(range(START_LINES_MAX), process.stdout, strict=False):
        words = line.split()
        if words[:1] == ["listening"]:
            url = words[1]
        if words[:1] == ["ready"]:
            return url
    raise RuntimeError("the engine did not become ready; what it said is above")
