"""The data directory: one owner at a time, and a secret that only the owner reads."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tradeengine.actors import data_dir
from tradeengine.actors.data_dir import DataDirError, ensure_secret, open_data_dir, owner_pid, read_secret

HOLD = """
import subprocess, sys
from pathlib import Path
from tradeengine.actors.data_dir import open_data_dir
with open_data_dir(Path(sys.argv[1])) as lock:
    child = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], pass_fds=(lock,))
    print(child.pid, flush=True)
    child.wait()
"""


def test_second_owner_is_refused(tmp_path: Path) -> None:
    """Who comes second is refused with the process id of the first, until that one is gone."""
    with open_data_dir(tmp_path):
        assert owner_pid(tmp_path) == os.getpid()
        with (
            pytest.raises(DataDirError, match=rf"in use by the engine with process id {os.getpid()}"),
            open_data_dir(tmp_path),
        ):
            pytest.fail("two owners")
    assert owner_pid(tmp_path) is None
    with open_data_dir(tmp_path):
        assert owner_pid(tmp_path) == os.getpid()


def test_lock_lives_as_long_as_any_process_of_the_engine(tmp_path: Path) -> None:
    """After the owner was killed, the next one waits for the processes that inherited the lock."""
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdin is not None
    child_pid = int(holder.stdout.readline())
    holder.kill()
    holder.wait()
    assert owner_pid(tmp_path) == holder.pid
    # Its end of the pipe closes with ours: now the child ends too.
    holder.stdin.close()
    holder.stdout.close()
    with open_data_dir(tmp_path):
        assert not Path(f"/proc/{child_pid}/fd").exists() or not list(Path(f"/proc/{child_pid}/fd").iterdir())


def test_actor_that_hangs_after_its_engine_died_is_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waits in vain for what is left of a dead engine is told that it has died, and what is open where."""
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdin is not None
    holder.stdout.readline()
    holder.kill()
    holder.wait()
    monkeypatch.setattr(data_dir, "ORPHANS_TIMEOUT_S", 0.1)
    said = rf"what is left of the engine with process id {holder.pid}, which has died.*engine.lock"
    with pytest.raises(DataDirError, match=said), open_data_dir(tmp_path):
        pytest.fail("two owners")
    holder.stdin.close()
    holder.stdout.close()


def test_secret_is_made_once_and_private(tmp_path: Path) -> None:
    """The secret is made at the first start, is long and random, readable by its owner only, and stays."""
    secret = ensure_secret(tmp_path)
    assert len(secret) >= 43
    assert stat.S_IMODE((tmp_path / "secret").stat().st_mode) == 0o600
    assert ensure_secret(tmp_path) == read_secret(tmp_path) == secret
    other = tmp_path / "other"
    other.mkdir()
    assert ensure_secret(other) != secret


def test_torn_attempt_at_a_secret_is_no_secret(tmp_path: Path) -> None:
    """What a start that was killed while making the secret left behind is replaced."""
    (tmp_path / f"secret.{os.getpid()}").write_text("half")
    assert ensure_secret(tmp_path) != "half"


@pytest.mark.parametrize(("content", "said"), [(b"", "has 0 "), (b"12345\n", "has 5 "), (b"\xff" * 40, "not a secret")])
def test_secret_that_is_none_is_refused(content: bytes, said: str, tmp_path: Path) -> None:
    """An empty, short or broken secret is used by nobody, and the refusal names the file and not what is in it."""
    (tmp_path / "secret").write_bytes(content)
    for take in (read_secret, ensure_secret):
        with pytest.raises(DataDirError, match=said) as refusal:
            take(tmp_path)
        assert str(tmp_path / "secret") in str(refusal.value)
        assert "12345" not in str(refusal.value)


def test_no_secret_before_the_first_start(tmp_path: Path) -> None:
    """Reading the secret of a directory where no engine was ever started says how to start one."""
    with pytest.raises(DataDirError, match="tradeengine up"):
        read_secret(tmp_path)


def test_unusable_directory_is_refused(tmp_path: Path) -> None:
    """A data directory whose place is taken by a file is refused by name, and told why."""
    place = tmp_path / "file"
    place.write_text("")
    with pytest.raises(DataDirError, match=f"{place} .*is not a directory"), open_data_dir(place):
        pytest.fail("a file is no directory")
