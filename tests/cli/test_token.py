"""``tradeengine token``: tokens that the fronts take, and no others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jwt
import pytest
from tests.engines import Engine, run_command
from tests.web.token_maker import ed_key, identify, jwk, private_pem, public_pem, rsa_key, write_keys

from tradeengine.cli.accounts import run_token
from tradeengine.cli.errors import CommandError
from tradeengine.settings import Settings
from tradeengine.settings_files import load_settings


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


def issuers_settings(folder: Path, **settings: Any) -> Settings:
    """Make settings of an engine that takes an issuer's tokens; the keys are in ``keys.json`` of that folder."""
    file = write_keys(folder / "keys.json", jwk("rsa", rsa_key()), jwk("ed", ed_key()))
    auth = {"algorithms": ["RS256", "EdDSA"], "keys_file": str(file), "issuer": "i", "audience": "a"} | settings
    overrides = {f"auth.{name}": value for name, value in auth.items()}
    return load_settings(overrides={"engine.data_dir": str(folder), **overrides}, environ={})


@pytest.mark.parametrize("name", ["rsa", "ed"])
def test_token_is_signed_with_a_private_key(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With a private key the token names it, says issuer and audience, and signs in where only such tokens count."""
    settings = issuers_settings(tmp_path)
    file = tmp_path / "key.pem"
    file.write_bytes(private_pem(rsa_key() if name == "rsa" else ed_key()))
    run_token(settings, "someone", "admin", two_factor=True, key=file, key_id=name)
    token = capsys.readouterr().out.strip()
    auth = settings.auth
    identity = identify(
        token, algorithms=auth.algorithms, keys_file=auth.keys_file, issuer=auth.issuer, audience=auth.audience
    )
    assert (identity.name, identity.role, identity.two_factor) == ("someone", "admin", True)
    assert jwt.get_unverified_header(token)["kid"] == name


@pytest.mark.parametrize(
    ("content", "key_id", "settings", "said"),
    [
        (None, "", {}, "name a private key by --key FILE --kid ID"),
        (b"", "ed", {}, "is no PEM file of a private key"),
        (public_pem(rsa_key()), "rsa", {}, "is no PEM file of a private key"),
        (private_pem(ed_key()), "", {}, "a kid is 1 to 128 printable characters"),
        (private_pem(ed_key()), "rsa", {}, "has no EdDSA key 'rsa' that is the public part of this one"),
        (private_pem(ed_key("attacker")), "ed", {}, "the engine would not take it"),
        (private_pem(ed_key()), "ed", {"algorithms": ["RS256"]}, "auth.algorithms does not name EdDSA"),
    ],
)
def test_key_that_signs_nobody_in_is_refused(
    content: bytes | None,
    key_id: str,
    settings: dict[str, Any],
    said: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """No token is printed that the engine would not take; what is wrong with the key is said, or that one is needed."""
    file = tmp_path / "key.pem"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(CommandError) as refusal:
        run_token(
            issuers_settings(tmp_path, **settings),
            "someone",
            "user",
            two_factor=False,
            key=file if content is not None else None,
            key_id=key_id,
        )
    assert said in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert capsys.readouterr().out == ""
