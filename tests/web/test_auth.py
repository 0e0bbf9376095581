"""Bearer tokens: what is let in, and everything that is not."""

from __future__ import annotations

import base64
import json
import time
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from tests.web.bench import SECRET, Bench, bearer
from tests.web.token_maker import authenticator, identify

from tradeengine.web import auth
from tradeengine.web.auth import issue_token
from tradeengine.web.errors import ApiError

NOW_S = int(time.time())
LIFE_S = 86_400
GOOD = {"sub": "alice", "exp": NOW_S + LIFE_S}


def sign(claims: dict[str, Any], key: Any = SECRET, algorithm: str = "HS256", **headers: Any) -> str:
    """Make a token of any claims."""
    return jwt.encode(claims, key, algorithm=algorithm, headers=headers or None)


def forge(header: dict[str, Any], claims: Any, signature: bytes = b"") -> str:
    """Make a token by hand, as a library would refuse to."""
    parts = (json.dumps(header).encode(), json.dumps(claims).encode(), signature)
    return ".".join(base64.urlsafe_b64encode(part).decode().rstrip("=") for part in parts)


def test_good_token_names_its_owner() -> None:
    """A signed token in time gives name, role and whether a second factor was used."""
    identity = identify(sign(GOOD | {"role": "admin", "amr": ["pwd", "otp"], "aud": "elsewhere", "iat": NOW_S}))
    assert (identity.name, identity.role, identity.two_factor, identity.is_admin) == ("alice", "admin", True, True)
    assert identify(sign(GOOD)).role == "user"


def test_issued_token_is_taken() -> None:
    """What ``issue_token`` makes signs in, and it makes none that could not."""
    assert identify(issue_token(SECRET.encode(), "a.b:c@d-e_1", "user", 60)).name == "a.b:c@d-e_1"
    for name, role in (("", "user"), ("a b", "user"), ("x" * 65, "user"), ("alice", "root")):
        with pytest.raises(ValueError, match="is"):
            issue_token(SECRET.encode(), name, role, 60)


@pytest.mark.parametrize(
    "claims",
    [
        {"exp": NOW_S + LIFE_S},
        {"sub": "alice"},
        GOOD | {"exp": NOW_S - 1},
        GOOD | {"nbf": NOW_S + LIFE_S},
        GOOD | {"exp": str(NOW_S + LIFE_S)},
        GOOD | {"exp": True},
        GOOD | {"exp": None},
        GOOD | {"exp": float("nan")},
        GOOD | {"exp": 10**400},
        GOOD | {"nbf": "soon"},
        GOOD | {"sub": ""},
        GOOD | {"sub": "x" * 65},
        GOOD | {"sub": "alice\n"},
        GOOD | {"sub": "*exchange*"},
        GOOD | {"sub": "älice"},
        GOOD | {"role": "root"},
        GOOD | {"role": ["admin"]},
        GOOD | {"amr": "otp"},
    ],
)
def test_wrong_claims_are_refused(claims: dict[str, Any]) -> None:
    """Missing, expired, early or malformed claims are 401, though the signature is right."""
    with pytest.raises(ApiError) as refusal:
        identify(sign(claims))
    assert refusal.value.status == 401


def test_sub_that_is_no_string_is_refused() -> None:
    """A number as sub is 401; the library would not even sign it, so the token is made by hand."""
    header = base64.urlsafe_b64encode(b'{"alg":"HS256","typ":"JWT"}').rstrip(b"=")
    payload = base64.urlsafe_b64encode(json.dumps(GOOD | {"sub": 7}).encode()).rstrip(b"=")
    algorithm = jwt.get_algorithm_by_name("HS256")
    signature = algorithm.sign(header + b"." + payload, algorithm.prepare_key(SECRET))
    token = b".".join((header, payload, base64.urlsafe_b64encode(signature).rstrip(b"="))).decode()
    with pytest.raises(ApiError):
        identify(token)


def test_other_algorithms_and_keys_are_refused() -> None:
    """No algorithm but the configured one counts, whatever the header says, and no other key."""
    private_key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    tokens = [
        forge({"alg": "none"}, GOOD),
        forge({"alg": "None", "typ": "JWT"}, GOOD),
        forge({"alg": "HS256"}, GOOD, b"x" * 32),
        forge({}, GOOD),
        sign(GOOD, key=SECRET + "x"),
        sign(GOOD, key=SECRET * 2, algorithm="HS512"),
        sign(GOOD, key=SECRET, algorithm="HS384"),
        sign(GOOD, key=private_key, algorithm="RS256"),
        sign(GOOD, crit=["exp2"]),
        sign(GOOD)[:-2],
        sign(GOOD) + "=",
        sign(GOOD).replace(".", "=.", 1),
        "a.b.c",
        "not a token",
        "x" * 5000,
    ]
    for token in tokens:
        with pytest.raises(ApiError) as refusal:
            identify(token)
        assert refusal.value.code == "UNAUTHORIZED", token


@pytest.mark.parametrize(
    "header",
    [
        [],
        ["Bearer"],
        ["Bearer "],
        ["Basic YTpi"],
        [f"Bearer {sign(GOOD)}"] * 2,
        [sign(GOOD)],
        ["Bearer a b"],
        [f"Bearer {sign(GOOD)}\xa0"],
    ],
)
def test_header_must_hold_one_bearer_token(header: list[str]) -> None:
    """No header, two headers, or another scheme is 401."""
    with pytest.raises(ApiError) as refusal:
        authenticator().identify(header)
    assert "WWW-Authenticate" in refusal.value.headers


def test_remembered_token_still_expires(monkeypatch: pytest.MonkeyPatch) -> None:
    """A token that was checked before is refused once its time, and the leeway after it, is over."""
    patient = authenticator(leeway_s=5)
    header = [f"bearer {sign(GOOD)}"]
    assert patient.identify(header).name == "alice"
    monkeypatch.setattr("tradeengine.web.auth.time.time", lambda: NOW_S + LIFE_S + 4)
    assert patient.identify(header).name == "alice"
    monkeypatch.setattr("tradeengine.web.auth.time.time", lambda: NOW_S + LIFE_S + 5)
    with pytest.raises(ApiError):
        patient.identify(header)
    assert not patient._checked


def test_remembered_tokens_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many tokens come, only so many are kept."""
    monkeypatch.setattr(auth, "CACHED_TOKENS_MAX", 3)
    bounded = authenticator()
    for number in range(10):
        assert bounded.identify([f"Bearer {sign(GOOD | {'sub': f'u{number}'})}"]).name == f"u{number}"
    assert len(bounded._checked) == 3


async def test_wrong_token_is_refused_even_where_none_is_needed(bench: Bench) -> None:
    """A trade is public, but who names themselves must do it rightly."""
    answer = await bench.client.get("/api/v1/trades/1", headers={"Authorization": "Bearer nonsense"})
    assert answer.status_code == 401
    assert (await bench.client.get("/api/v1/trades/1", headers=bearer())).status_code == 404
