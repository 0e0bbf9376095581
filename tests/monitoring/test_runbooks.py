"""The runbooks: one for each alert, each with all that it must say, and what it says to type can be typed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import httpx2
import pytest
import typer
from tests.engines import Engine
from tests.monitoring.prometheus import read_rules

from tradeengine.cli.app import app

ROOT = Path(__file__).parents[2]
RUNBOOKS = ROOT / "docs" / "runbooks"
ALERTS = {rule["alert"]: rule for rule in read_rules("alerts.yml")}
SECTIONS = ["Look", "Do", "It ends"]
PAGES = sorted(page.stem for page in RUNBOOKS.glob("*.md") if page.stem != "README")


def text_of(name: str) -> str:
    """Read a page."""
    return (RUNBOOKS / f"{name}.md").read_text(encoding="utf-8")


def test_each_alert_has_its_page() -> None:
    """There is a page for each alert and none for anything else, and the index has them all with their severities."""
    assert sorted(ALERTS) == PAGES
    listed = re.findall(r"^\| \[(\w+)\]\((\w+)\.md\) \| (\w+) \|", text_of("README"), re.MULTILINE)
    severities = sorted((name, name, rule["labels"]["severity"]) for name, rule in ALERTS.items())
    assert sorted(listed) == severities


@pytest.mark.parametrize("name", PAGES)
def test_page_says_all_that_it_must(name: str) -> None:
    """A page begins with the severity and the meaning, then says how to look, what to do and how it ends."""
    text = text_of(name)
    severity = ALERTS[name]["labels"]["severity"]
    assert text.startswith(f"# {name}\n\n**{severity}.** ")
    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == SECTIONS
    assert all(section.strip() for section in re.split(r"^## .+$", text, flags=re.MULTILINE))


def test_what_they_say_to_type_can_be_typed(engine: Engine, tmp_path: Path) -> None:
    """All lines for a shell, of all pages, run against an engine that runs; none of them changes anything."""
    tmp_path.joinpath("tradeengine").write_text(f'#!/bin/sh\nexec {sys.executable} -m tradeengine.cli.app "$@"\n')
    tmp_path.joinpath("tradeengine").chmod(0o755)
    tmp_path.joinpath("data").symlink_to(engine.data_dir)
    first, lines = "", dict[str, None]()
    for name in ("README", *PAGES):
        for block in re.findall(r"```sh\n(.*?)```", text_of(name), re.DOTALL):
            if name == "README":
                first = block
            else:
                lines.update(dict.fromkeys(block.splitlines()))
    assert len(lines) > 5
    script = "\n".join([first, *lines]).replace("http://127.0.0.1:8000", engine.url)
    result = subprocess.run(
        ["bash", "-euc", script],
        cwd=tmp_path,
        env={
            **os.environ,
            "PATH": f"{tmp_path}:{os.environ['PATH']}",
            "TRADEENGINE_ENGINE_DATA_DIR": str(engine.data_dir),
        },
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_commands_in_their_words_exist() -> None:
    """Each command of the program that a page names is one, also those that no page says to type as they stand."""
    named = {
        command
        for name in ("README", *PAGES)
        for command in re.findall(
            r"\btradeengine ([a-z][a-z-]+(?: (?:list|show|retry|discard|verify))?)", text_of(name)
        )
    }
    assert len(named) > 5
    program = typer.main.get_command(app)
    assert isinstance(program, typer.core.TyperGroup)
    for command in named:
        first, _, second = command.partition(" ")
        found = program.commands.get(first)
        assert found is not None, command
        assert not second or (isinstance(found, typer.core.TyperGroup) and second in found.commands), command


def test_calls_in_their_words_exist(engine: Engine) -> None:
    """Each call that a page names is one of the API's."""
    named = {call for name in ("README", *PAGES) for call in re.findall(r"\bcall (/[\w/-]+)", text_of(name))}
    assert len(named) > 3
    paths = httpx2.get(f"{engine.url}/openapi.json", trust_env=False).json()["paths"]
    patterns = [re.sub(r"\{\w+\}", "[^/]+", path).removeprefix("/api/v1") for path in paths]
    assert [call for call in named if not any(re.fullmatch(pattern, call) for pattern in patterns)] == []


def test_settings_in_their_words_exist() -> None:
    """Each setting that a page names is one."""
    defaults = tomllib.loads((ROOT / "config" / "default.toml").read_text(encoding="utf-8"))
    named = {
        (section, setting)
        for name in PAGES
        for section, setting in re.findall(r"`([a-z]+)\.([a-z_]+)(?: = [^`]+)?`", text_of(name))
        if section in defaults
    }
    assert len(named) > 10
    assert [(section, setting) for section, setting in named if setting not in defaults[section]] == []
