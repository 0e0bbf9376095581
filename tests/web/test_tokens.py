"""Tokens of other issuers: their keys, which are chosen by name and change while the engine runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import structlog
from tests.web.bench import SECRET
from tests.web.token_maker import (
    Signer,
    authenticator,
    ed_key,
    good_claims,
    identify,
    jwk,
    private_pem,
    rsa_key,
    sign,
    write_keys,
)

from tradeengine.settings import SettingsError
from tradeengine.settings_files import load_settings
from tradeengine.web.auth import Authenticator, issue_token, read_signing_key
from tradeengine.web.errors import ApiError
from tradeengine.web.token_keys import load_keys

OTHER_SECRET = b"another secret, of an issuer who signs with HS256 too"
ALL = ["HS256", "RS256", "EdDSA"]
KEYS: dict[str, Signer] = {"rsa-1": rsa_key("rsa-1"), "ed-1": ed_key("ed-1"), "oct-1": OTHER_SECRET}


@pytest.fixture
def keys_file(tmp_path: Path) -> Path:
    """Give a JWKS file with a key of each kind."""
    return write_keys(tmp_path / "keys.json", *(jwk(name, key) for name, key in KEYS.items()))


def refusal_of(token: str, checks: Authenticator) -> str:
    """Say why a token is refused; it has to be."""
    with pytest.raises(ApiError) as refusal:
        checks.identify_token(token)
    assert refusal.value.code == "UNAUTHORIZED"
    return refusal.value.message


@pytest.mark.parametrize("name", KEYS)
def test_key_is_chosen_by_its_name(name: str, keys_file: Path) -> None:
    """A token of each algorithm is let in by the key that it names, and by no other, be it of the same kind."""
    checks = authenticator(algorithms=ALL, keys_file=str(keys_file))
    assert checks.identify_token(sign(KEYS[name], good_claims(role="admin"), kid=name))[0].role == "admin"
    for wrong in [other for other in (*KEYS, "nobody", "default", "") if other != name]:
        assert "not one of ours" in refusal_of(sign(KEYS[name], good_claims(), kid=wrong), checks)


def test_own_secret_needs_no_name(keys_file: Path) -> None:
    """The engine's own secret is meant by a token that names no key, and has a name all the same."""
    checks = authenticator(algorithms=ALL, keys_file=str(keys_file))
    for header in ({}, {"kid": "default"}):
        assert checks.identify_token(sign(SECRET.encode(), good_claims(), **header))[0].name == "alice"
    refusal_of(sign(OTHER_SECRET, good_claims()), checks)


def test_only_key_of_its_algorithm_needs_no_name(keys_file: Path) -> None:
    """A token that names no key is let in where one key alone can be meant, and not where there are two."""
    token = sign(KEYS["rsa-1"], good_claims())
    checks = authenticator(algorithms=ALL, keys_file=str(keys_file))
    assert checks.identify_token(token)[0].name == "alice"
    write_keys(keys_file, jwk("rsa-1", KEYS["rsa-1"]), jwk("rsa-2", rsa_key("rsa-2")))
    checks.look_at_keys()
    refusal_of(token, checks)
    assert checks.identify_token(sign(KEYS["rsa-1"], good_claims(), kid="rsa-1"))[0].name == "alice"


def test_algorithm_that_is_not_configured_counts_nothing(keys_file: Path) -> None:
    """Keys for other algorithms may be in the file, and even the engine's own secret signs nobody in."""
    checks = authenticator(algorithms=["EdDSA"], keys_file=str(keys_file))
    assert checks.identify_token(sign(KEYS["ed-1"], good_claims(), kid="ed-1"))[0].name == "alice"
    refusal_of(sign(KEYS["rsa-1"], good_claims(), kid="rsa-1"), checks)
    refusal_of(sign(KEYS["oct-1"], good_claims(), kid="oct-1"), checks)
    refusal_of(sign(SECRET.encode(), good_claims()), checks)
    refusal_of(sign(SECRET.encode(), good_claims(), kid="default"), checks)


def test_issuer_and_audience_are_checked_when_configured() -> None:
    """With both configured a token must have both, exactly; an audience may be one of a list."""
    terms = {"issuer": "https://id.example", "audience": "trade"}
    good = {"iss": "https://id.example", "aud": "trade"}
    assert identify(sign(SECRET.encode(), good_claims(**good)), **terms).name == "alice"
    assert identify(sign(SECRET.encode(), good_claims(**good | {"aud": ["web", "trade"]})), **terms).name == "alice"
    assert identify(sign(SECRET.encode(), good_claims(iss=7, aud={}))).name == "alice"
    wrong: list[tuple[str, Any]] = [
        *(("iss", value) for value in (None, "", "https://id.example/", ["https://id.example"], 7, True)),
        *(("aud", value) for value in (None, "", "Trade", "trad", [], ["web"], [["trade"]], {"trade": 1}, 7)),
    ]
    for name, value in wrong:
        claims = good_claims(**good | {name: value})
        message = refusal_of(sign(SECRET.encode(), claims), authenticator(**terms))
        assert {"iss": "issuer", "aud": "audience"}[name] in message
        del claims[name]
        refusal_of(sign(SECRET.encode(), claims), authenticator(**terms))


def test_issued_token_says_issuer_and_audience(tmp_path: Path) -> None:
    """What is issued with a private key, for an issuer and an audience, is taken where these are configured."""
    for name in ("rsa-1", "ed-1"):
        key_file = tmp_path / "key.pem"
        key_file.write_bytes(private_pem(KEYS[name]))  # type: ignore[arg-type]  # both of these are private keys
        file = write_keys(tmp_path / "keys.json", jwk(name, KEYS[name]))
        token = issue_token(
            read_signing_key(key_file, name), "bob", "user", 60, two_factor=True, issuer="i", audience="a"
        )
        identity = identify(token, algorithms=["RS256", "EdDSA"], keys_file=str(file), issuer="i", audience="a")
        assert (identity.name, identity.two_factor) == ("bob", True)


def test_keys_change_while_the_engine_runs(keys_file: Path) -> None:
    """A new key counts and one that is gone does not, also for tokens that were checked and remembered before."""
    checks = authenticator(algorithms=["EdDSA"], keys_file=str(keys_file))
    old, new = sign(KEYS["ed-1"], good_claims(), kid="ed-1"), sign(ed_key("ed-2"), good_claims(), kid="ed-2")
    identity = checks.identify_token(old)[0]
    refusal_of(new, checks)
    write_keys(keys_file, jwk("ed-1", KEYS["ed-1"]), jwk("ed-2", ed_key("ed-2")))
    checks.look_at_keys()
    assert checks.identify_token(old)[0] == checks.identify_token(new)[0]
    assert checks.knows(identity)
    write_keys(keys_file, jwk("ed-2", ed_key("ed-2")))
    checks.look_at_keys()
    refusal_of(old, checks)
    assert not checks.knows(identity)


def test_name_that_stands_for_another_key_now_lets_nobody_in(keys_file: Path) -> None:
    """When another key takes over a name, tokens that the one before had signed count no more."""
    checks = authenticator(algorithms=["EdDSA"], keys_file=str(keys_file))
    token = sign(KEYS["ed-1"], good_claims(), kid="ed-1")
    identity = checks.identify_token(token)[0]
    write_keys(keys_file, jwk("ed-1", ed_key("ed-2")))
    checks.look_at_keys()
    refusal_of(token, checks)
    assert not checks.knows(identity)


def test_broken_change_keeps_the_keys(keys_file: Path) -> None:
    """A file that is broken or gone leaves the keys as they were, and is told once; the next good one counts."""
    checks = authenticator(algorithms=["EdDSA"], keys_file=str(keys_file))
    token = sign(KEYS["ed-1"], good_claims(), kid="ed-1")
    with structlog.testing.capture_logs() as said:
        keys_file.write_text('{"keys": [')
        for _ in range(3):
            checks.look_at_keys()
        keys_file.unlink()
        for _ in range(3):
            checks.look_at_keys()
    assert [line["log_level"] for line in said] == ["error", "error"]
    assert all(str(keys_file) in line["error"] for line in said)
    assert checks.identify_token(token)[0].name == "alice"
    write_keys(keys_file, jwk("ed-2", ed_key("ed-2")))
    checks.look_at_keys()
    refusal_of(token, checks)


def test_front_without_keys_says_so_and_waits_for_them(keys_file: Path) -> None:
    """A front that starts anew while the file is broken lets nobody in, blames no token, and takes the next one."""
    keys_file.write_text("{}")
    with structlog.testing.capture_logs() as said:
        checks = authenticator(algorithms=["EdDSA"], keys_file=str(keys_file))
    assert [line["log_level"] for line in said] == ["error"]
    token = sign(KEYS["ed-1"], good_claims(), kid="ed-1")
    with pytest.raises(ApiError) as refusal:
        checks.identify_token(token)
    assert refusal.value.status == 503
    write_keys(keys_file, jwk("ed-1", KEYS["ed-1"]))
    checks.look_at_keys()
    assert checks.identify_token(token)[0].name == "alice"


RSA = jwk("k", KEYS["rsa-1"])
ED = jwk("k", KEYS["ed-1"])
OCT = jwk("k", OTHER_SECRET)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "no JWKS"),
        ('{"keys": {}}', "no JWKS"),
        (json.dumps({"keys": []}), "must hold a key for RS256 or EdDSA"),
        (json.dumps({"keys": [7]}), "keys[0] is no object"),
        (json.dumps({"keys": [OCT]}), "must hold a key for"),
        (json.dumps({"keys": [RSA | {"use": "enc"}]}), "must hold a key for"),
        (json.dumps({"keys": [RSA | {"alg": "RS512"}]}), "must hold a key for"),
        (json.dumps({"keys": [RSA | {"kid": None}]}), "keys[0] has no kid"),
        (json.dumps({"keys": [ED | {"kid": "x" * 129}]}), "keys[0] has no kid"),
        (json.dumps({"keys": [ED | {"kid": "a\nb"}]}), "keys[0] has no kid"),
        (json.dumps({"keys": [ED | {"kid": "default"}]}), "engine's own secret"),
        (json.dumps({"keys": [RSA, ED]}), "several keys with kid 'k'"),
        (json.dumps({"keys": [ED | {"d": "AAAA"}]}), "'k' is a private key"),
        (json.dumps({"keys": [RSA | {"n": "AQAB"}]}), "'k' has 17 bits"),
        (json.dumps({"keys": [jwk("k", rsa_key("weak", 1024))]}), "'k' has 1024 bits"),
        (json.dumps({"keys": [RSA | {"e": "AA"}]}), "'k' is no RS256 key"),
        (json.dumps({"keys": [RSA | {"n": 7}]}), "'k' is no RS256 key"),
        (json.dumps({"keys": [{"kid": "k", "kty": "RSA"}]}), "'k' is no RS256 key"),
        (json.dumps({"keys": [ED | {"crv": "Ed448"}]}), "another curve"),
        (json.dumps({"keys": [ED | {"x": "AAAA"}]}), "'k' is no EdDSA key"),
        (json.dumps({"keys": [ED | {"x": ED["x"] + "="}]}), "'k' is no EdDSA key"),
        (json.dumps({"keys": [ED]}).replace('"kid"', '"kid": "j", "kid"'), "a name is there twice"),
        ('{"keys": [' + " " * (1 << 20) + "]}", "larger than"),
    ],
)
def test_broken_file_is_refused_by_name(content: str, said: str, tmp_path: Path) -> None:
    """What is wrong with a file of keys is said in one line, with the file's name and the key's."""
    file = tmp_path / "keys.json"
    file.write_text(content)
    auth = load_settings(
        overrides={"auth.algorithms": ["RS256", "EdDSA"], "auth.keys_file": str(file)}, environ={}
    ).auth
    with pytest.raises(SettingsError) as refusal:
        load_keys(auth)
    assert said in str(refusal.value)
    assert str(file) in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_refusal_shows_no_secret(tmp_path: Path) -> None:
    """A secret that is too short, or malformed, is refused without showing any of it."""
    for secret in ("c2hvcnQ", "c2hvcnQ!", 12345):
        file = write_keys(tmp_path / "keys.json", OCT | {"k": secret})
        auth = load_settings(overrides={"auth.keys_file": str(file)}, environ={}).auth
        with pytest.raises(SettingsError) as refusal:
            load_keys(auth)
        assert "'k'" in str(refusal.value)
        assert str(secret) not in str(refusal.value)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"algorithms": []}, "auth.algorithms"),
        ({"algorithms": ["HS256", "HS256"]}, "auth.algorithms"),
        ({"algorithms": ["none"]}, "auth.algorithms[0] = 'none'"),
        ({"algorithms": ["HS512"]}, "auth.algorithms[0] = 'HS512'"),
        ({"algorithms": ["RS256"]}, "auth.keys_file"),
        ({"algorithms": ["HS256", "EdDSA"]}, "auth.keys_file"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, Any], said: str) -> None:
    """Algorithms that are unknown, twice or none, and others than HS256 without a file, are refused by name."""
    with pytest.raises(SettingsError, match="is not allowed") as refusal:
        load_settings(overrides={f"auth.{name}": value for name, value in settings.items()}, environ={})
    assert said in str(refusal.value)
