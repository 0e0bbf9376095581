"""The documents keep in step: what they name exists, and what exists is named."""

from __future__ import annotations

import ast
import re
import tomllib
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
REFERENCE = re.compile(r"`([\w/]*test_\w+)::(\w+)`")
LINK = re.compile(r"\]\(([^)#:]+)\)")
NAMED_FILE = re.compile(r"`((?:src|config|migrations|packaging|perf|tests|docs)/(?:[\w./-]*\.\w+|[\w/-]*/))`")
DOCUMENTS = [*sorted((ROOT / "docs").rglob("*.md")), ROOT / "README.md"]


@cache
def names_in(file: str) -> set[str]:
    """Return the names of the tests in a file of ``tests``."""
    tree = ast.parse((ROOT / "tests" / f"{file}.py").read_text(encoding="utf-8"))
    functions = (node for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    return {function.name.removeprefix("test_") for function in functions}


def test_every_test_that_is_named_exists() -> None:
    """Each test that the requirements name is a test in the file that they name."""
    named = REFERENCE.findall((ROOT / "docs" / "requirements.md").read_text(encoding="utf-8"))
    assert len(named) > 100
    missing = [(file, name) for file, name in named if name not in names_in(file)]
    assert missing == []


def test_every_setting_is_named() -> None:
    """Each setting has a row in the requirements, and no row is about a setting that is gone."""
    defaults = tomllib.loads((ROOT / "config" / "default.toml").read_text(encoding="utf-8"))
    settings = {f"{section}.{name}" for section, values in defaults.items() for name in values}
    section = (ROOT / "docs" / "requirements.md").read_text(encoding="utf-8").partition("\n## Settings\n")[2]
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    assert {name for row in rows for name in re.findall(r"`([\w.]+)`", row)} == settings


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    """Each relative link in a document leads to a file that is there."""
    links = LINK.findall(document.read_text(encoding="utf-8"))
    assert [link for link in links if not (document.parent / link).exists()] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_named_files_exist(document: Path) -> None:
    """Each file and folder of the project that a document names in full is there; ``NAME`` stands for any name."""
    named = NAMED_FILE.findall(document.read_text(encoding="utf-8"))
    assert [name for name in named if not any(ROOT.glob(name.replace("NAME", "*")))] == []


def test_every_decision_is_in_the_index() -> None:
    """Each page of a decision is linked from the index, and by its title."""
    folder = ROOT / "docs" / "decisions"
    index = (folder / "README.md").read_text(encoding="utf-8")
    pages = sorted(page.name for page in folder.glob("0*.md"))
    assert re.findall(r"\]\((0[^)]+)\)", index) == pages
