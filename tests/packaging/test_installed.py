"""What packaging/install and the commands beside it do: what is installed, and with which settings it is run."""

from __future__ import annotations

import ast
import os
import re
import shutil
import socket
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from tests.engines import Engine

ROOT = Path(__file__).parents[2]


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """Give a folder as packaging/install leaves it, with the tests' environment in the place of one of its own."""
    folder = tmp_path / "opt"
    (folder / "bin").mkdir(parents=True)
    (folder / "venv").symlink_to(sys.prefix)
    (folder / "processor").write_text("")
    for path in (ROOT / "packaging" / "bin").iterdir():
        (folder / "bin" / path.name).write_bytes(path.read_bytes())
        (folder / "bin" / path.name).chmod(0o755)
    return folder


def test_only_what_runs_is_installed() -> None:
    """Of requirements.lock everything that the program imports is installed, with its hashes, and no tool of tests."""
    printed = subprocess.run(
        [sys.executable, "packaging/locked.py"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    names = set(re.findall(r"^([a-z0-9-]+)==", printed, re.MULTILINE))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    wanted = {name_of(line) for line in project["project"]["dependencies"]}
    assert wanted <= names
    assert names.isdisjoint({"pytest", "mypy", "ruff", "coverage", "hypothesis", "check-jsonschema", "hatchling"})
    assert printed.count("--hash=sha256:") > len(names)


def test_names_of_the_lock_are_all_there_are() -> None:
    """A package that the lock file does not have is refused by its name."""
    result = subprocess.run(
        [sys.executable, "packaging/locked.py", "hatchling", "nonsense"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (result.returncode, result.stderr.strip()) == (1, "not in requirements.lock: nonsense")


def test_wheel_has_all_that_the_program_needs(tmp_path: Path) -> None:
    """Sources, pages, settings, seeds and migrations are in what is installed, and nothing of the tests."""
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    line = [*pip, "wheel", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", str(tmp_path), str(ROOT)]
    subprocess.run(line, check=True)
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        inside = {name for name in wheel.namelist() if ".dist-info/" not in name}
    wanted = {f"tradeengine/{path.relative_to(ROOT / 'src')}" for path in tracked("src")}
    wanted |= {f"tradeengine/{path.relative_to(ROOT)}" for path in (*tracked("config"), *tracked("migrations"))}
    assert wanted <= inside
    assert [name for name in inside if not name.startswith("tradeengine/") or name.endswith((".nbi", ".nbc"))] == []


def test_secrets_are_read_from_files(installed: Path, tmp_path: Path) -> None:
    """A file by the name of a setting's variable is that setting; other files are left alone."""
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    (secrets / "TRADEENGINE_AUTH_SECRET").write_text("s" * 31)
    (secrets / "OTHER").write_text("x")
    result = command(installed, "token", "ann", SECRETS_DIRECTORY=str(secrets))
    assert "auth.secret = '(hidden)' is not allowed" in result.stderr
    (secrets / "TRADEENGINE_AUTH_SECRET").write_text("s" * 32)
    credentials = command(installed, "token", "ann", CREDENTIALS_DIRECTORY=str(secrets), SECRETS_DIRECTORY="/nowhere")
    assert credentials.returncode == 0, credentials.stderr
    assert credentials.stdout.count(".") == 2


@pytest.mark.long
def test_kernels_are_taken_as_they_were_compiled(installed: Path) -> None:
    """The program is told for which processor its kernels are, so that no other machine compiles them anew."""
    (installed / "venv").unlink()
    (installed / "venv" / "bin").mkdir(parents=True)
    stand_in = installed / "venv" / "bin" / "tradeengine"
    stand_in.write_text('#!/bin/sh\necho "$NUMBA_CPU_NAME/${NUMBA_CPU_FEATURES-none} $*"\n')
    stand_in.chmod(0o755)
    (installed / "processor").write_text("x86-64-v3")
    assert command(installed, "up", "--port", "0").stdout == "x86-64-v3/ up --port 0\n"


@pytest.mark.long
def test_kernels_are_found_where_nobody_may_write(tmp_path: Path) -> None:
    """Machine code is loaded from an installation that is read-only, and none is compiled into the user's cache."""
    program, home = tmp_path / "lib" / "tradeengine", tmp_path / "home"
    shutil.copytree(ROOT / "src", program)
    home.mkdir()
    for folder, _, _ in os.walk(program):
        Path(folder).chmod(0o555)
    installed = (ROOT / "packaging" / "bin" / "tradeengine").read_text(encoding="utf-8")
    locator = re.findall(r"^export (NUMBA_CACHE_LOCATOR_CLASSES)=(\S+)$", installed, re.MULTILINE)
    # Root may write anywhere, but for this.
    bound = ["setpriv", "--bounding-set=-dac_override"] if os.geteuid() == 0 else []
    load = "import tradeengine as t, tradeengine.ipc.atomics as a; a.compile_kernels(); print(t.__file__)"
    result = subprocess.run(
        [*bound, sys.executable, "-c", load],
        env={"PATH": os.environ["PATH"], "HOME": str(home), "PYTHONPATH": str(program.parent), **dict(locator)},
        capture_output=True,
        text=True,
        check=False,
    )
    for folder, _, _ in os.walk(program):
        Path(folder).chmod(0o755)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == str(program / "__init__.py")
    assert list(home.rglob("*.nb?")) == []


@pytest.mark.long
def test_health_check_says_whether_orders_are_accepted(installed: Path, engine: Engine) -> None:
    """It ends with 0 for an engine that is ready, and with 1 where nobody listens."""
    check = str(installed / "bin" / "tradeengine-healthcheck")
    port = engine.url.rpartition(":")[2]
    result = subprocess.run([check], env={**os.environ, "TRADEENGINE_HTTP_PORT": port}, check=False)
    assert result.returncode == 0
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        absent = {**os.environ, "TRADEENGINE_HTTP_PORT": str(taken.getsockname()[1])}
        result = subprocess.run([check], env=absent, capture_output=True, check=False)
    assert result.returncode == 1
    assert b"not ready" in result.stderr


def test_install_refuses_a_folder_with_anything_in_it(tmp_path: Path) -> None:
    """Nothing is written over an installation that is there."""
    (tmp_path / "file").write_text("mine")
    result = subprocess.run(
        [ROOT / "packaging" / "install", tmp_path], capture_output=True, text=True, timeout=20, check=False
    )
    assert (result.returncode, result.stderr) == (1, f"packaging/install: {tmp_path} is not empty\n")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_lock_script_runs_before_anything_is_installed() -> None:
    """packaging/locked.py imports nothing but the standard library."""
    tree = ast.parse((ROOT / "packaging" / "locked.py").read_text(encoding="utf-8"))
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.partition(".")[0] for name in imported} <= sys.stdlib_module_names


def command(installed: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the installed command in a clean folder with nothing but what is given."""
    environment = {"PATH": "/usr/bin:/bin", "TRADEENGINE_ENGINE_DATA_DIR": str(installed / "data"), **environment}
    line = [str(installed / "bin" / "tradeengine"), *arguments]
    return subprocess.run(line, env=environment, cwd=installed, capture_output=True, text=True, check=False)


def name_of(requirement: str) -> str:
    """Take the package's name from a requirement."""
    match = re.match(r"[A-Za-z0-9-]+", requirement)
    assert match is not None
    return match.group().lower()


def tracked(folder: str) -> list[Path]:
    """Name the files of a folder that are the project's."""
    files = [path for path in (ROOT / folder).rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    return [path for path in files if path.name != "metrics_token"]
