"""``tradeengine token``: tokens that the fronts take, and no others."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.engines import Engine, run_command


def test_token_is_taken(engine: Engine) -> None:
    """A printed token signs its user in."""
    token = engine.token("token-user")
    with engine.client() as client:
        assert client.get("/balances", headers={"Authorization": f"Bearer {token}"}).status_code == 200
        assert client.get("/balances").status_code == 401


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("someone", "--role", "king"), "a role is one of user, admin, super_admin"),
        (("two words",), "a user name is 1 to 64 characters"),
        (("x" * 65,), "a user name is 1 to 64 characters"),
    ],
)
def test_impossible_user_is_refused(arguments: tuple[str, ...], said: str, engine: Engine) -> None:
    """A name or role that could not sign in gets no token."""
    result = engine.command("token", *arguments)
    assert (result.returncode, result.stdout) == (1, "")
    assert said in result.stderr


def test_no_token_without_an_engine(tmp_path: Path) -> None:
    """Where no engine was ever started there is no secret to sign with, and none is made."""
    result = run_command("token", "someone", "--data-dir", str(tmp_path))
    assert result.returncode == 1
    assert "tradeengine up" in result.stderr
    assert not list(tmp_path.iterdir())
