"""``tradeengine deposit``: money in, once, and visible when the command ends."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.engines import Engine, run_command


def total(engine: Engine, user: str, asset: str) -> str:
    """Give a user's total of an asset."""
    with engine.client(user) as client:
        balances = {row["asset"]: row["total"] for row in client.get("/balances").json()["data"]}
    return str(balances.get(asset, "0"))


def test_deposit_is_there_when_the_command_ends(engine: Engine) -> None:
    """A deposit is settled and spendable when the command returns; another one adds to it."""
    engine.deposit("saver", "USDT", "12.5")
    assert total(engine, "saver", "USDT") == "12.50000000"
    result = engine.command("deposit", "saver", "usdt", "0.00000001")
    assert result.stdout.endswith(": 0.00000001 USDT to saver\n")
    assert total(engine, "saver", "USDT") == "12.50000001"


def test_reference_makes_a_deposit_once(engine: Engine) -> None:
    """A repeat with the same reference changes nothing; with another amount it is refused."""
    for _ in range(2):
        result = engine.command("deposit", "careful", "BTC", "1", "--reference", "one")
        assert result.returncode == 0, result.stderr
    assert total(engine, "careful", "BTC") == "1.00000000"
    result = engine.command("deposit", "careful", "BTC", "2", "--reference", "one")
    assert result.returncode == 1
    assert "names another deposit" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("someone", "XYZ", "1"), "asset XYZ is unknown: there are USDT, BTC"),
        (("someone", "USDT", "0"), "must be more than 0"),
        (("someone", "USDT", "-5"), "amount -5 is not allowed: must not be negative"),
        (("someone", "USDT", "1e3"), "must be a plain decimal"),
        (("someone", "USDT", "0.000000001"), "at most 8 decimal places"),
        (("someone", "USDT", "9" * 30), "must not exceed"),
        (("some one", "USDT", "1"), "a user name is 1 to 64 characters"),
    ],
)
def test_impossible_deposit_is_refused(arguments: tuple[str, ...], said: str, engine: Engine) -> None:
    """What cannot be credited is refused in one line."""
    result = engine.command("deposit", *arguments)
    assert (result.returncode, result.stdout) == (1, "")
    assert said in result.stderr


def test_no_deposit_without_an_engine(tmp_path: Path) -> None:
    """Without a running engine nobody could credit it: the command says so."""
    result = run_command("deposit", "someone", "USDT", "1", "--data-dir", str(tmp_path))
    assert result.returncode == 1
    assert "no engine is running" in result.stderr
