"""docs/operations.md, followed to the letter: what it says to type is typed into one shell, and all is answered."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

from tests.engines import Engine

DOCUMENT = Path(__file__).parents[2] / "docs" / "operations.md"


def test_followed_to_the_letter(bank: Engine, tmp_path: Path) -> None:
    """Money in and out, limits, suspended and resumed, a statement as CSV, no difference: all as the page has it."""
    text = DOCUMENT.read_text(encoding="utf-8").replace("http://127.0.0.1:8000", bank.url)
    lines = typed(bank, "".join(re.findall(r"```sh\n(.*?)```", text, re.DOTALL)), tmp_path).splitlines()
    answers = [json.loads(line) for line in lines if line.startswith("{")]
    assert all(answer["success"] for answer in answers), answers
    performance, health, deposit, withdrawal, again, limits, limits_again, suspended, resumed, reconciliation = (
        answer["data"] for answer in answers[:10]
    )
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


def typed(engine: Engine, script: str, folder: Path) -> str:
    """Run lines of the document in a folder, with the program where a shell finds it; returns what they print."""
    folder.joinpath("tradeengine").write_text(f'#!/bin/sh\nexec {sys.executable} -m tradeengine.cli.app "$@"\n')
    folder.joinpath("tradeengine").chmod(0o755)
    environment = {"PATH": f"{folder}:{os.environ['PATH']}", "TRADEENGINE_ENGINE_DATA_DIR": str(engine.data_dir)}
    result = subprocess.run(
        ["bash", "-euc", script],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout
