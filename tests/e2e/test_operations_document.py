"""docs/operations.md and its pages, to the letter: what they say to type is typed into a shell, and is answered."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.engines import SMALL, Engine
from tests.wallet.service import free_port

DOCUMENTS = Path(__file__).parents[2] / "docs"
ADDRESS = "http://127.0.0.1:8000"

# Each page is a dozen commands and more, and each of these a program that starts.
pytestmark = pytest.mark.timeout(300)


def test_followed_to_the_letter(bank: Engine, tmp_path: Path) -> None:
    """Money in and out, limits, suspended and resumed, a statement as CSV, no difference: all as the page has it."""
    lines = typed(bank, "operations.md", tmp_path).splitlines()
    (
        performance,
        health,
        deposit,
        withdrawal,
        again,
        limits,
        limits_again,
        suspended,
        resumed,
        reconciliation,
        *_,
    ) = answers_in(lines)
    assert any(line.startswith("actor ") for line in lines)
    assert performance["matching_engine"]["orders_placed"] >= 0
    assert health["components"]["matching_engine"]["status"] == "healthy"
    assert (deposit["kind"], deposit["status"]) == ("deposit", "settled")
    assert (withdrawal["status"], again["transaction_id"]) == ("settled", withdrawal["transaction_id"])
    assert limits == limits_again
    assert (suspended["suspended"], resumed["suspended"]) == (True, False)
    statement = lines[lines.index("time,kind,asset,amount,balance,transaction_id,trade_id,order_id,reference") + 1 :]
    assert [entry.split(",")[1:5] for entry in statement[:2]] == [
        ["withdrawal", "USDT", "-250.00000000", "750.00000000"],
        ["deposit", "USDT", "1000.00000000", "1000.00000000"],
    ]
    assert "differences  0" in lines
    assert reconciliation["difference_count"] == 0


def test_symbols_and_halts(bank: Engine, tmp_path: Path) -> None:
    """A symbol is listed and opened; one is halted, takes cancels only and is resumed; everything is, and is again."""
    bank.deposit("alice", "USDT", "10")
    would_be, listed, opened, symbols, dry, halted, cancel_only, resumed, all_halted, all_resumed, *cancels = (
        answers_in(typed(bank, "operations/trading.md", tmp_path).splitlines())
    )
    assert (would_be["dry_run"], listed["created"]) == (True, True)
    assert opened["status"] == "open"
    assert "PEPE/USDT" in {row["symbol"] for row in symbols}
    assert (dry["dry_run"], dry["previous_status"]) == (True, "open")
    assert [change["status"] for change in (halted, cancel_only, resumed)] == ["halted", "cancel_only", "open"]
    assert all_halted["count"] == all_resumed["count"] == len(symbols)
    assert [cancel["dry_run"] for cancel in cancels] == [True, False]


def test_recordings(bank: Engine, tmp_path: Path) -> None:
    """Trades of the past are in the candles, and a replayed recording leaves the book that it says."""
    imported, *_ = lines = typed(bank, "recorded.md", tmp_path).splitlines()
    candles, book = answers_in(lines)
    assert imported.endswith("3 rows read, 3 added, 0 known already, 0 bad")
    assert [candle["volume"] for candle in candles] == ["0.70000", "0.10000"]
    assert (book["bids"], book["asks"]) == ([], [["585.72", "150"]])


@pytest.mark.long
def test_backed_up_and_restored(bank: Engine, tmp_path: Path) -> None:
    """A backup, one upon it, verified, and restored into another directory."""
    said = typed(bank, "operations/backup.md", tmp_path)
    assert "restored" in said
    assert (tmp_path / "restored" / "postgres").is_dir()


@pytest.mark.long
def test_started_stopped_upgraded_and_taken_back(tmp_path: Path) -> None:
    """An engine by hand: started, stopped, backed up before an upgrade, and restored after it, without a difference."""
    said = typed(None, "operations/running.md", tmp_path)
    assert said.count("stopped\n") == 4
    assert said.count("differences  0") == 3


@pytest.mark.long
def test_mended(tmp_path: Path) -> None:
    """A lost database and a lost data directory come back, and each look at what is wrong ends well on what is well."""
    said = typed(None, "operations/trouble.md", tmp_path)
    assert said.count("differences  0") == 4
    assert {path.name for path in tmp_path.glob("*.broken")} == {"data.broken", "postgres.broken"}


def answers_in(lines: list[str]) -> list[Any]:
    """Pick the data of what the API answered; every answer is a success."""
    answers = [json.loads(line) for line in lines if line.startswith('{"success"')]
    assert all(answer["success"] for answer in answers), answers
    return [answer["data"] for answer in answers if "data" in answer]


def typed(engine: Engine | None, page: str, folder: Path) -> str:
    """Run a page's lines in a folder, with the program where a shell finds it; returns what they print.

    engine: the one that the page is about; None: the page starts its own, in that folder.
    """
    folder.joinpath("tradeengine").write_text(f'#!/bin/sh\nexec {sys.executable} -m tradeengine.cli.app "$@"\n')
    folder.joinpath("tradeengine").chmod(0o755)
    environment = {"PATH": f"{folder}:{os.environ['PATH']}"}
    if engine is None:
        port = free_port()
        environment |= {**SMALL, "TRADEENGINE_HTTP_PORT": str(port)}
        url = f"http://127.0.0.1:{port}"
    else:
        environment["TRADEENGINE_ENGINE_DATA_DIR"] = str(engine.data_dir)
        url = engine.url
    text = (DOCUMENTS / page).read_text(encoding="utf-8").replace(ADDRESS, url)
    # Whatever becomes of the lines, an engine that they have started ends with them.
    script = "trap 'kill ${engine:-} 2> /dev/null || true' EXIT\n" + "".join(
        re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    )
    result = subprocess.run(
        ["bash", "-euc", script],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout
