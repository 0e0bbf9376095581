"""The rules as promtool sees them: well formed; each alert fires for its series, after its time, and for no less."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.monitoring.prometheus import CONFIG, RULE_FILES, hastened, needs_prometheus, read_rules
from tests.monitoring.stories import FAULTY_S, HEALTHY_S, STEP_S, STORIES, Story, series

ALERTS = {rule["alert"]: rule for rule in read_rules("alerts.yml")}
SEVERITIES = {"critical", "warning", "info"}


def promtool(*arguments: str, folder: Path = CONFIG) -> str:
    """Run promtool, which must be content; returns what it says."""
    result = subprocess.run(["promtool", *arguments], cwd=folder, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout + result.stderr


@needs_prometheus
def test_configuration_is_taken(tmp_path: Path) -> None:
    """The scrape configuration, its rules and the file with the token are taken without a complaint."""
    folder = tmp_path / "prometheus"
    shutil.copytree(CONFIG, folder)
    (folder / "metrics_token").write_text("a token", encoding="utf-8")
    said = promtool("check", "config", "--lint=all", "--lint-fatal", "prometheus.yml", folder=folder)
    assert f"{len(ALERTS)} rules found" in said


@pytest.mark.skipif(shutil.which("amtool") is None, reason="not installed: apt-get install prometheus-alertmanager")
def test_alertmanager_example_is_taken() -> None:
    """The example for Alertmanager is one, and names only alerts that there are."""
    subprocess.run(["amtool", "check-config", str(CONFIG / "alertmanager.yml")], check=True, capture_output=True)
    text = (CONFIG / "alertmanager.yml").read_text(encoding="utf-8")
    named = {name for names in re.findall(r'alertname=~?"([\w|]+)"', text) for name in names.split("|")}
    assert named
    assert named <= ALERTS.keys()


@needs_prometheus
def test_lines_of_the_page_can_be_typed(tmp_path: Path) -> None:
    """What docs/monitoring.md says to type works as it stands, up to the line that starts Prometheus."""
    shutil.copytree(CONFIG, tmp_path / "config" / "prometheus")
    page = (CONFIG.parents[1] / "docs" / "monitoring.md").read_text(encoding="utf-8")
    (lines,) = re.findall(r"## Prometheus\n.*?```sh\n(.*?)```", page, re.DOTALL)
    typed, started = lines.split("prometheus --config.file")
    assert started.startswith("=config/prometheus/prometheus.yml --web.listen-address=127.0.0.1:")
    subprocess.run(["bash", "-euc", typed], cwd=tmp_path, check=True, capture_output=True)
    assert f"| {len(ALERTS)} alerts;" in page


@needs_prometheus
def test_each_alert_fires_for_its_fault_and_no_less(tmp_path: Path) -> None:
    """Each alert fires when its fault has lasted, not before, not for the last good value, and ends with it."""
    tests = [_played("just below", at_fault=False), _played("at its fault", at_fault=True)]
    document = {
        "rule_files": [str(CONFIG / file) for file in RULE_FILES],
        "evaluation_interval": f"{STEP_S}s",
        "tests": tests,
    }
    (tmp_path / "stories.yml").write_text(yaml.safe_dump(document), encoding="utf-8")
    promtool("test", "rules", "stories.yml", folder=tmp_path)


def test_each_alert_has_a_story() -> None:
    """No alert is without its series, and no series without its alert."""
    assert sorted(story.alert for story in STORIES) == sorted(ALERTS)


@pytest.mark.parametrize("name", ALERTS)
def test_each_alert_says_what_it_must(name: str) -> None:
    """Each has a severity, a summary, a description, and a link to the page of its own name."""
    rule = ALERTS[name]
    assert rule["labels"]["severity"] in SEVERITIES
    assert rule["annotations"].keys() == {"summary", "description", "runbook_url"}
    assert rule["annotations"]["runbook_url"] == f"{{{{ $externalLabels.runbooks }}}}/{name}.md"
    assert "$labels" in rule["annotations"]["summary"] + rule["annotations"]["description"]


def test_hastened_changes_durations_only() -> None:
    """A minute becomes a second, an hour five, in windows, waiting times and products; the rest stays as it is."""
    rule = {"expr": 'rate(x:p_5m{y="5"}[5m]) > 15 * 60 + 0.05', "for": "2m", "labels": {"z": "1m"}}
    assert hastened(rule) == {"expr": 'rate(x:p_5m{y="5"}[5s]) > 15 * 1 + 0.05', "for": "2s", "labels": {"z": "1m"}}
    assert hastened({"expr": "x - x offset 1h > 3 * 3600"}) == {"expr": "x - x offset 5s > 3 * 5"}


def _played(name: str, *, at_fault: bool) -> dict[str, Any]:
    """Make a test for promtool of all stories at once, which is a hundred times quicker than one after the other."""
    return {
        "name": name,
        "interval": f"{STEP_S}s",
        "external_labels": {"runbooks": "https://runbooks.example"},
        "input_series": [made for story in STORIES for made in _series(story, at_fault=at_fault)],
        "promql_expr_test": [looked for story in STORIES for looked in _looks(story, at_fault=at_fault)],
    }


def _series(story: Story, *, at_fault: bool) -> list[dict[str, str]]:
    fault = story.above if at_fault else story.below
    return [series(name, value, fault.get(name, value)) for name, value in story.healthy.items()]


def _looks(story: Story, *, at_fault: bool) -> list[dict[str, Any]]:
    """Say how often an alert fires at the moments that matter."""
    waits_s = _seconds(ALERTS[story.alert].get("for", "0m"))
    window_s = max([_seconds(window) for window in _windows(story.alert)], default=0)
    begins_s, ends_s = HEALTHY_S, HEALTHY_S + FAULTY_S
    counts = {
        begins_s - STEP_S: 0,
        begins_s + max(waits_s - STEP_S, -STEP_S): 0,
        min(begins_s + waits_s + window_s + 3 * STEP_S, ends_s - STEP_S): int(at_fault),
        ends_s - STEP_S: int(at_fault),
        ends_s + window_s + 3 * STEP_S: 0,
    }
    wanted = "".join(f', {key}="{value}"' for key, value in story.labels.items())
    expression = f'count(ALERTS{{alertname="{story.alert}", alertstate="firing"{wanted}}}) or vector(0)'
    return [
        {"expr": expression, "eval_time": f"{time_s}s", "exp_samples": [{"labels": "{}", "value": count}]}
        for time_s, count in counts.items()
    ]


def _windows(alert: str) -> list[str]:
    """Find the windows of rates that an alert looks at, in the recorded series that it uses, too."""
    recorded = {rule["record"]: rule["expr"] for rule in read_rules("recording.yml")}
    expressions = [ALERTS[alert]["expr"]]
    for _ in range(3):
        expressions += [expr for name, expr in recorded.items() if any(name in one for one in expressions)]
    return [window for expression in expressions for window in re.findall(r"\[(\d+\w)\]", expression)]


def _seconds(duration: str) -> int:
    return int(duration[:-1]) * {"s": 1, "m": 60, "h": 3600}[duration[-1]]
