"""A real Prometheus for tests: the project's own configuration and rules, at an engine that a test runs.

Rules wait for minutes before they fire, tests do not: so a minute lasts a second here, and an hour five (``hastened``).
That is the only thing that is changed in the rules. Metrics are scraped, and rules evaluated, twice a second.
Whoever has no Prometheus skips.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Set
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx2
import pytest
import yaml

CONFIG: Final = Path(__file__).parents[2] / "config" / "prometheus"
RULE_FILES: Final = ("recording.yml", "alerts.yml")
PATIENCE_S: Final = 60.0
INTERVAL: Final = "500ms"
HASTENED_S: Final = {"m": 1, "h": 5}
_DURATION: Final = re.compile(r"\b(\d+)([mh])\b")
_PRODUCT: Final = re.compile(r"\b(\d+) \* (60|3600)\b")

needs_prometheus: Final = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="Prometheus is not installed: apt-get install prometheus"
)


def read_rules(file: str) -> list[dict[str, Any]]:
    """Give all rules of a file of ``config/prometheus``, as they are written there."""
    groups = yaml.safe_load((CONFIG / file).read_text(encoding="utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def hastened(value: Any) -> Any:
    """Make all durations in rules shorter: ``5m`` is ``5s`` then, ``1h`` is ``5s``, and ``15 * 60`` is ``15 * 1``."""
    if isinstance(value, Mapping):
        return {key: item if key in {"annotations", "labels"} else hastened(item) for key, item in value.items()}
    if isinstance(value, list):
        return [hastened(item) for item in value]
    if isinstance(value, str):
        shorter = _DURATION.sub(lambda found: f"{int(found[1]) * HASTENED_S[found[2]]}s", value)
        return _PRODUCT.sub(lambda found: f"{found[1]} * {HASTENED_S['m' if found[2] == '60' else 'h']}", shorter)
    return value


@dataclass
class Prometheus:
    """A running Prometheus."""

    url: str
    http: httpx2.Client

    def ask(self, path: str, **parameters: str) -> Any:
        """Ask its API; returns ``data``. Raises AssertionError with what it says when it refuses."""
        answer = self.http.get(f"{self.url}/api/v1/{path}", params=parameters).json()
        assert answer["status"] == "success", answer
        return answer["data"]

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Give the series that an expression has now: ``metric`` and ``value``."""
        result: list[dict[str, Any]] = self.ask("query", query=expression)["result"]
        return result

    def value(self, expression: str) -> float:
        """Give the value of an expression that has one series; NaN when it has none."""
        series = self.query(expression)
        assert len(series) <= 1, series
        return float(series[0]["value"][1]) if series else float("nan")

    def firing(self) -> list[dict[str, Any]]:
        """Give the alerts that fire now, each with ``labels`` and ``annotations``."""
        return [alert for alert in self.ask("alerts")["alerts"] if alert["state"] == "firing"]

    def fired(self) -> set[str]:
        """Give the names of all alerts that have fired since the start."""
        series = self.query('max_over_time(ALERTS{alertstate="firing"}[1h])')
        return {one["metric"]["alertname"] for one in series}

    def wait_firing(self, wanted: Mapping[str, Mapping[str, str]]) -> list[dict[str, str]]:
        """Wait until each of these alerts has fired, with these labels among its own; gives their annotations.

        Not until all fire at once: some are about what has just happened, and end while others still wait.
        """
        seen: dict[str, dict[str, str]] = {}

        def all_seen() -> bool:
            for alert in self.firing():
                name = alert["labels"]["alertname"]
                if name in wanted and wanted[name].items() <= alert["labels"].items():
                    seen[name] = alert["annotations"]
            return seen.keys() == wanted.keys()

        self.wait_for(all_seen, f"of {sorted(wanted)} not all fire")
        return list(seen.values())

    def wait_silent(self, names: Set[str]) -> None:
        """Wait until none of these alerts fires any more."""
        self.wait_for(lambda: not {alert["labels"]["alertname"] for alert in self.firing()} & names, "no end")

    def wait_for(self, condition: Callable[[], object], what: str) -> None:
        """Wait until something is so; raises AssertionError with what is going on instead."""
        deadline_s = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < deadline_s, f"{what}: {self.ask('alerts')}\n{self.ask('targets')}"
            time.sleep(0.1)


@contextmanager
def running_prometheus(folder: Path, targets: list[str], token: str = "") -> Iterator[Prometheus]:
    """Run a Prometheus while the block runs, which has scraped all targets when it begins.

    folder: for its data, its log and what it is configured with. targets: as ``127.0.0.1:8000``.
    """
    configure(folder, targets, token)
    log = folder / "prometheus.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [
                "prometheus",
                f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'tsdb'}",
                "--web.listen-address=127.0.0.1:0",
            ],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        with httpx2.Client(timeout=10, trust_env=False) as http:
            prometheus = Prometheus(_address(process, log), http)
            prometheus.wait_for(lambda: prometheus.value("count(up)") >= len(targets), "nothing is scraped")
            yield prometheus
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def configure(folder: Path, targets: list[str], token: str = "") -> None:
    """Write the project's own configuration into a folder, hastened, for these targets."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in RULE_FILES:
        rules = yaml.safe_load((CONFIG / file).read_text(encoding="utf-8"))
        (folder / file).write_text(yaml.safe_dump(hastened(rules)), encoding="utf-8")
    configuration = yaml.safe_load((CONFIG / "prometheus.yml").read_text(encoding="utf-8"))
    configuration["global"] |= dict.fromkeys(("scrape_interval", "scrape_timeout", "evaluation_interval"), INTERVAL)
    (engine,) = (job for job in configuration["scrape_configs"] if job["job_name"] == "tradeengine")
    engine["static_configs"] = [{"targets": targets}]
    configuration["scrape_configs"] = [engine]
    configuration.pop("alerting", None)
    (folder / engine["authorization"]["credentials_file"]).write_text(token, encoding="utf-8")
    (folder / "prometheus.yml").write_text(yaml.safe_dump(configuration), encoding="utf-8")


def _address(process: subprocess.Popen[bytes], log: Path) -> str:
    """Wait for the line in which it says where it listens, and until it answers there."""
    deadline_s = time.monotonic() + PATIENCE_S
    while process.poll() is None and time.monotonic() < deadline_s:
        said = re.search(r'msg="Listening on" address=(\S+)', log.read_text(encoding="utf-8"))
        if said is not None:
            with suppress(httpx2.TransportError):
                if httpx2.get(f"http://{said[1]}/-/ready", timeout=5, trust_env=False).status_code == 200:
                    return f"http://{said[1]}"
        time.sleep(0.05)
    raise AssertionError(log.read_text(encoding="utf-8"))
