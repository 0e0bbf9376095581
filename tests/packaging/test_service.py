"""The unit of systemd: systemd itself reads it, finds no fault and no needless right, and it fits the program."""

from __future__ import annotations

import re
import shutil
import subprocess
from configparser import ConfigParser
from pathlib import Path

import pytest

from tradeengine.settings_files import load_settings

FOLDER = Path(__file__).parents[2] / "packaging"
UNIT = FOLDER / "systemd" / "tradeengine.service"

needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")


@needs_systemd
def test_unit_is_whole(tmp_path: Path) -> None:
    """Every line of it is understood; nothing that it names is missing once the program is installed."""
    program = tmp_path / "bin" / "tradeengine"
    program.parent.mkdir()
    shutil.copy(FOLDER / "bin" / "tradeengine", program)
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text(encoding="utf-8").replace("/opt/tradeengine/bin/tradeengine", str(program)))
    result = analyze("verify", "--man=no", str(unit))
    # Where systemd does not run, the targets of a boot may be absent; about this unit it has nothing to say.
    assert [line for line in result.stderr.splitlines() if str(unit) in line] == []


@needs_systemd
def test_unit_has_no_needless_rights() -> None:
    """By systemd's own measure, from 0 to 10, it is exposed by 1.6 at most."""
    result = analyze("security", "--offline=true", "--threshold=16", "--no-pager", str(UNIT))
    assert result.returncode == 0, result.stdout


def test_unit_waits_as_long_as_a_stop_may_take() -> None:
    """Nobody is killed before the supervisor would do it; only the supervisor is asked to stop; no demo has money."""
    unit = ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read(UNIT)
    service = unit["Service"]
    settings = load_settings(FOLDER / "systemd" / "settings.toml", environ={})
    assert int(service["TimeoutStopSec"]) > 2 * (settings.http.stop_timeout_s + settings.supervisor.stop_timeout_s)
    assert (service["Type"], service["KillMode"]) == ("notify", "mixed")
    assert str(settings.data_dir) == "/var/lib/" + service["StateDirectory"]
    assert not settings.demo.enabled
    assert not re.search(r"^MemoryDenyWriteExecute=yes", UNIT.read_text(encoding="utf-8"), re.MULTILINE)


def analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Ask systemd about a unit."""
    return subprocess.run(["systemd-analyze", *arguments], capture_output=True, text=True, check=False)
