"""docs/wallet.md, followed to the letter: what it says to type is typed, and what it promises happens."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.engines import SMALL
from tests.wallet.service import free_port

from tradeengine.storage.embedded import stop_embedded

DOCUMENT = Path(__file__).parents[2] / "docs" / "wallet.md"
PROGRAM = f"{sys.executable} -m tradeengine.cli.app"
END = "--- typed ---"
UNTIL_DEAD = f"until {PROGRAM} dead-letters list | grep '^1 '; do sleep 0.2; done"
"""The page waits three seconds for the dead letter, which a busy machine may need more than."""
STOP_TIMEOUT_S = 60


@pytest.mark.long
def test_followed_to_the_letter(tmp_path: Path) -> None:
    """Trade, stop the wallet, trade on, start it: all drains, nothing differs; nor after a discarded dead letter."""
    wallet, engine, arrive, trade, trade_on, reconcile, spoil, discard = _blocks(free_port(), free_port())
    try:
        with terminal(tmp_path, engine.removesuffix("\n")) as _, terminal_of_its_own(tmp_path) as shell:
            with terminal(tmp_path, wallet):
                deposits = typed(shell, arrive)
                assert deposits.count("settled ") == 2, deposits
                balances = json.loads(typed(shell, trade).splitlines()[-1])["data"]
                reserved = {(each["user"], each["asset"]): each["reserved"] for each in balances}
                assert reserved["alice", "USDT"] == "94995"
                assert reserved["exchange", "USDT"] == "7.5"
            said = typed(shell, trade_on).splitlines()
            assert json.loads(said[-2])["data"]["status"] == "degraded"
            statuses = [each["settlement_status"] for each in json.loads(said[-1])["data"]]
            assert statuses == ["pending", "settled"]
            with terminal(tmp_path, wallet):
                assert re.search(r"differences +0\n", typed(shell, reconcile))
                assert typed(shell, "echo status $?").strip().endswith("0")
                assert typed(shell, f"{spoil}\n{UNTIL_DEAD}").splitlines()[-1] == "1 dead letter"
                printed = typed(shell, discard)
                assert '"INSUFFICIENT_BALANCE: ' in printed
                assert "\ndiscarded  transfer " in printed
                assert re.search(r"differences +0\n", printed), printed
    finally:
        stop_embedded(tmp_path / "data")


def _blocks(wallet_port: int, engine_port: int) -> Sequence[str]:
    """Give what the page says to type, with ports of the test's own."""
    blocks = re.findall(r"```sh\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    made = []
    for block in blocks:
        text = block.replace("8090", str(wallet_port)).replace("8000", str(engine_port))
        text = text.replace(".venv/bin/tradeengine wallet", f"{PROGRAM} wallet --port {wallet_port}")
        text = text.replace(".venv/bin/tradeengine up", f"{PROGRAM} up --port {engine_port}")
        made.append(text.replace(".venv/bin/tradeengine", PROGRAM))
    address = f"TRADEENGINE_WALLET_URL=http://127.0.0.1:{wallet_port} "
    return [made[0], address + made[1], *made[2:]]


@contextmanager
def terminal(folder: Path, command: str) -> Iterator[None]:
    """Type a command whose program goes on until Ctrl-C; the block begins when it says that it is ready."""
    process = subprocess.Popen(
        ["bash", "-c", _with_exec(command)], cwd=folder, stdout=subprocess.PIPE, text=True, env=_environment()
    )
    assert process.stdout is not None
    try:
        for line in process.stdout:
            if line.startswith("ready"):
                break
        else:
            raise AssertionError(f"{command} was never ready")
        yield
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(STOP_TIMEOUT_S)
        process.stdout.close()


@contextmanager
def terminal_of_its_own(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Open a shell to type into."""
    with subprocess.Popen(
        ["bash"], cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=_environment()
    ) as shell:
        yield shell
        assert shell.stdin is not None
        shell.stdin.close()


def typed(shell: subprocess.Popen[str], commands: str) -> str:
    """Type commands and read what they print; ``$?`` is kept for the next."""
    assert shell.stdin is not None
    assert shell.stdout is not None
    shell.stdin.write(f"{commands}\n_status=$?; echo '{END}'; (exit $_status)\n")
    shell.stdin.flush()
    lines: list[str] = []
    for line in shell.stdout:
        if line.strip() == END:
            return "".join(lines)
        lines.append(line)
    raise AssertionError("the shell has ended")


def _with_exec(command: str) -> str:
    """Let the program take the shell's place, so that a signal reaches it."""
    return re.sub(r"(?=" + re.escape(PROGRAM) + ")", "exec ", command, count=1)


def _environment() -> dict[str, str]:
    return {**os.environ, **SMALL}
