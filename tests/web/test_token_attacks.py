"""Attacks on tokens: whatever is forged, confused, smuggled in or blown up is answered 401, and does nothing."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from tests.web.bench import SECRET
from tests.web.token_maker import (
    authenticator,
    ed_key,
    encode,
    good_claims,
    identify,
    jwk,
    public_pem,
    rsa_key,
    sign,
    sign_raw,
    write_keys,
)

from tradeengine.web.auth import Authenticator
from tradeengine.web.errors import ApiError

OWN = SECRET.encode()
ALL = ["HS256", "RS256", "EdDSA"]


@pytest.fixture
def checks(tmp_path: Path) -> Authenticator:
    """Give an authenticator that takes all three algorithms, with a key of each."""
    file = write_keys(tmp_path / "keys.json", jwk("rsa", rsa_key()), jwk("ed", ed_key()))
    return authenticator(algorithms=ALL, keys_file=str(file))


def refuse(token: str, checks: Authenticator) -> str:
    """See that a token is refused as every other; returns what is said."""
    with pytest.raises(ApiError) as refusal:
        checks.identify([f"Bearer {token}"])
    assert (refusal.value.code, refusal.value.status) == ("UNAUTHORIZED", 401)
    assert refusal.value.details == {}
    return refusal.value.message


@pytest.mark.parametrize(
    "name", ["none", "None", "NONE", "nOnE", "", "hs256", "HS256 ", None, 0, ["HS256"], {"HS256": 1}]
)
def test_unsigned_token(name: Any, checks: Authenticator) -> None:
    """``alg: none``, in whatever letters, and algorithms that are no text, are refused, signed or not."""
    header = json.dumps({"alg": name, "typ": "JWT"}).encode()
    claims = json.dumps(good_claims(role="super_admin")).encode()
    refuse(f"{encode(header)}.{encode(claims)}.", checks)
    refuse(f"{encode(header)}.{encode(claims)}", checks)
    refuse(sign_raw(OWN, header, claims), checks)


@pytest.mark.parametrize("name", ["HS384", "HS512", "RS512", "PS256", "ES256", "ES256K", "Ed448", "dir", "A128KW"])
def test_algorithm_that_is_not_ours(name: str, checks: Authenticator) -> None:
    """An algorithm that we do not take is refused, also with a key of ours."""
    for key, key_id in ((OWN, None), (rsa_key(), "rsa"), (ed_key(), "ed")):
        refuse(sign(key, good_claims(), alg=name, **({"kid": key_id} if key_id else {})), checks)


def test_public_key_as_secret(checks: Authenticator) -> None:
    """A public key, in any form in which it is known, is no secret: who signs HS256 with it is refused."""
    public = rsa_key().public_key()
    forms = [
        public_pem(rsa_key()),
        public_pem(rsa_key()).strip(),
        public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo),
        public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.PKCS1),
        public.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH),
        json.dumps(jwk("rsa", rsa_key())).encode(),
        str(public.public_numbers().n).encode(),
        ed_key().public_key().public_bytes_raw(),
        b"",
        b"\0",
    ]
    for secret in forms:
        for key_id in ("rsa", "ed", "default", None):
            refuse(sign(secret, good_claims(), **({"kid": key_id} if key_id else {})), checks)


def test_signature_of_one_algorithm_under_the_name_of_another(checks: Authenticator) -> None:
    """A key is tried with its own algorithm alone, whatever a header says that it is."""
    for key, key_id in ((OWN, "default"), (rsa_key(), "rsa"), (ed_key(), "ed")):
        assert checks.identify_token(sign(key, good_claims(), kid=key_id))[0].name == "alice"
        own = {"default": "HS256", "rsa": "RS256", "ed": "EdDSA"}[key_id]
        for other in ALL:
            if other != own:
                refuse(sign(key, good_claims(), kid=key_id, alg=other), checks)
                refuse(sign(key, good_claims(), alg=other), checks)


@pytest.mark.parametrize(
    "key_id",
    [
        "../../../../dev/null",
        "/dev/null",
        "/proc/self/environ",
        "file:///dev/null",
        "https://attacker.example/keys",
        "' OR '1'='1",
        "x'; DROP TABLE accounts; --",
        "' UNION SELECT 'secret' --",
        "default\0",
        "\0",
        "default ",
        "DEFAULT",
        "$(id)",
        "{{7*7}}",
        "<script>alert(1)</script>",
        "k" * 3000,
        "\ud800",
        "",
        None,
        0,
        True,
        ["default"],
        {"kid": "default"},
    ],
)
def test_name_of_a_key_is_only_a_name(key_id: Any, checks: Authenticator) -> None:
    """A ``kid`` is looked up and nothing else: a path, SQL, a null byte, a list or a huge one names no key."""
    header = json.dumps({"alg": "HS256", "typ": "JWT", "kid": key_id}).encode()
    claims = json.dumps(good_claims()).encode()
    for secret in (OWN, b"", b"secret"):
        refuse(sign_raw(secret, header, claims), checks)


def test_keys_that_a_token_brings_along_are_not_looked_at(checks: Authenticator) -> None:
    """``jwk``, ``jku``, ``x5u``, ``x5c`` say where an attacker's key is: the signature is checked with ours."""
    brought = {
        "jwk": jwk("attacker", rsa_key("attacker")),
        "jku": "http://127.0.0.1:1/keys.json",
        "x5u": "http://127.0.0.1:1/certificate.pem",
        "x5c": [encode(public_pem(rsa_key("attacker")))],
        "x5t": "AAAA",
    }
    for name, value in brought.items():
        for key_id in ("rsa", "attacker"):
            refuse(sign(rsa_key("attacker"), good_claims(), kid=key_id, **{name: value}), checks)
    assert checks.identify_token(sign(rsa_key(), good_claims(), kid="rsa", **brought))[0].name == "alice"


@pytest.mark.parametrize(
    "header",
    [
        {"crit": ["exp"]},
        {"crit": []},
        {"crit": "exp"},
        {"crit": ["b64"], "b64": False},
        {"b64": False},
        {"b64": True},
        {"zip": "DEF"},
        {"enc": "A128GCM"},
        {"typ": "logout+jwt"},
        {"typ": "Refresh"},
        {"typ": 7},
        {"typ": ["JWT"]},
    ],
)
def test_header_that_asks_for_more(header: dict[str, Any], checks: Authenticator) -> None:
    """What a header calls critical, packed, or a token for something else, is refused, though it is well signed."""
    refuse(sign(OWN, good_claims(), **header), checks)


@pytest.mark.parametrize("kind", ["JWT", "jwt", "at+jwt", "application/at+jwt", None])
def test_kinds_of_tokens_that_are_for_us(kind: str | None, checks: Authenticator) -> None:
    """A token calls itself what issuers call an access token, or nothing."""
    assert checks.identify_token(sign(OWN, good_claims(), typ=kind))[0].name == "alice"


@pytest.mark.parametrize(
    ("header", "claims"),
    [
        (b'{"alg":"none","alg":"HS256"}', None),
        (b'{"alg":"HS256","kid":"ed","kid":"default"}', None),
        (None, b'{"sub":"alice","sub":"root","exp":%d}'),
        (None, b'{"sub":"alice","exp":1,"exp":%d}'),
        (None, b'{"sub":"alice","role":"user","role":"super_admin","exp":%d}'),
        (None, b'{"sub":"alice","r\\u006fle":"user","role":"super_admin","exp":%d}'),
        (None, b'{"sub":"alice","act":{"sub":"a","sub":"b"},"exp":%d}'),
    ],
)
def test_name_that_is_there_twice(header: bytes | None, claims: bytes | None, checks: Authenticator) -> None:
    """Where a name is there twice two readers may see two tokens: it is refused, though it is well signed."""
    exp = int(time.time()) + 1000
    refuse(
        sign_raw(
            OWN,
            header or b'{"alg":"HS256"}',
            claims % exp if claims is not None else json.dumps(good_claims()).encode(),
        ),
        checks,
    )


@pytest.mark.parametrize(
    "claims",
    [
        b"",
        b"null",
        b"7",
        b'"alice"',
        b"[]",
        b'[["sub","alice"]]',
        b'{"sub":"alice"',
        b'{"sub":"alice","exp":9999999999}garbage',
        b'{"sub":"alice","exp":NaN}',
        b'{"sub":"alice","exp":Infinity}',
        b'{"sub":"alice","exp":1e999}',
        b'{"sub":"alice","exp":9999999999,"note":NaN}',
        b'{"sub":"alice","exp":9999999999,"note":-Infinity}',
        b'{"sub":"alice","exp":' + b"9" * 3000 + b"}",
        b'{"sub":"\xff","exp":9999999999}',
        b"\xef\xbb\xbf" + b'{"sub":"alice","exp":9999999999}',
        '{"sub":"alice","exp":9999999999}'.encode("utf-16"),
        '{"sub":"alice","exp":9999999999}'.encode("utf-32-be"),
        b"[" * 2000,
        b'{"a":' * 500,
    ],
)
def test_claims_that_are_no_object(claims: bytes, checks: Authenticator) -> None:
    """Well-signed bytes that are no JSON object, or are nested or numbered to hurt, are refused and hurt nobody."""
    refuse(sign_raw(OWN, b'{"alg":"HS256"}', claims), checks)


@pytest.mark.parametrize("name", ["sub", "exp"])
def test_claim_that_must_be_there(name: str, checks: Authenticator) -> None:
    """A token without a subject or an end is refused, and so is one where it is null."""
    claims = good_claims()
    del claims[name]
    assert name in refuse(sign(OWN, claims), checks)
    assert name in refuse(sign(OWN, claims | {name: None}), checks)


@pytest.mark.parametrize("value", ["soon", "9999999999", True, [], {}, [9999999999], -1, 0, 1.5, 10**13, -(10**400)])
@pytest.mark.parametrize("name", ["exp", "nbf"])
def test_time_that_is_none(name: str, value: Any, checks: Authenticator) -> None:
    """A time that is no number, or none that a clock will show, is refused; a time that has passed ends a token."""
    if name == "nbf" and value in (-1, 0, 1.5) and not isinstance(value, bool | list | dict):
        assert checks.identify_token(sign(OWN, good_claims(nbf=value)))[0].name == "alice"
    else:
        refuse(sign(OWN, good_claims(**{name: value})), checks)


def test_expired_and_early_tokens(checks: Authenticator) -> None:
    """A token counts neither at its end nor before its beginning, to the second."""
    now_s = int(time.time())
    assert "expired" in refuse(sign(OWN, good_claims(exp=now_s)), checks)
    assert "not valid yet" in refuse(sign(OWN, good_claims(nbf=now_s + 60)), checks)
    assert identify(sign(OWN, good_claims(exp=now_s - 1)), leeway_s=300).name == "alice"
    assert identify(sign(OWN, good_claims(nbf=now_s + 60)), leeway_s=300).name == "alice"


@pytest.mark.parametrize(
    "role", ["root", "Admin", "ADMIN", "super-admin", "admin ", "", None, True, 1, ["admin"], {"admin": True}]
)
def test_role_that_is_none(role: Any, checks: Authenticator) -> None:
    """A role is one of three words; anything else is refused and not taken for less or more."""
    refuse(sign(OWN, good_claims(role=role)), checks)


def test_roles_by_other_names_give_nothing(checks: Authenticator) -> None:
    """Whoever is called an administrator by another claim, or in the header, is a user."""
    claims = good_claims(roles=["super_admin"], Role="super_admin", admin=True, scope="admin", is_admin=True)
    identity = checks.identify_token(sign(OWN, claims, role="super_admin"))[0]
    assert (identity.role, identity.is_admin, identity.two_factor) == ("user", False, False)


@pytest.mark.parametrize("methods", ["otp", {"otp": 1}, 7, None, ["otp", 7], [["otp"]]])
def test_second_factor_that_is_none(methods: Any, checks: Authenticator) -> None:
    """A second factor counts only in a list of texts."""
    refuse(sign(OWN, good_claims(amr=methods)), checks)


@pytest.mark.parametrize(
    "subject",
    [
        "",
        " ",
        "a b",
        "x" * 65,
        "alice\n",
        "alice\0",
        "*exchange*",
        "älice",
        "аlice",
        "a/b",
        "a\\b",
        "a'b",
        "<b>",
        7,
        None,
        ["a"],
    ],
)
def test_subject_that_is_no_name(subject: Any, checks: Authenticator) -> None:
    """A subject of other letters, too long, or no text, is nobody; the engine's own accounts are out of reach."""
    refuse(sign(OWN, good_claims(sub=subject)), checks)


def test_token_without_end(checks: Authenticator) -> None:
    """A token beyond the bound is refused before anything of it is read, well signed or not."""
    good = sign(OWN, good_claims(note="x" * 2800))
    assert 3800 < len(good) <= 4096
    assert checks.identify_token(good)[0].name == "alice"
    assert "too long" in refuse(sign(OWN, good_claims(note="x" * 3200)), checks)
    assert "too long" in refuse("a." * 1_000_000, checks)


def test_form_of_a_token(checks: Authenticator) -> None:
    """Padding, other alphabets, spare bits, more or fewer parts: a token can be written in one way only."""
    token = sign(OWN, good_claims())
    head, claims, signature = token.split(".")
    assert checks.identify_token(token)[0].name == "alice"
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    # 32 bytes take 43 letters, of whose last two bits nothing is read: so four letters would mean the same.
    spare = signature[:-1] + alphabet[alphabet.index(signature[-1]) ^ 1]
    forms = [
        f"{head}.{claims}.{spare}",
        f"{head}.{claims}.{signature}=",
        f"{head}=.{claims}.{signature}",
        f"{head}.{claims}.{signature[:-1]}",
        f"{head}.{claims}.{signature}A",
        f"{head}.{claims}.{signature}.",
        f"{head}.{claims}.{signature}.{signature}",
        f".{head}.{claims}.{signature}",
        f"{head}.{claims}",
        f"{head}..{signature}",
        f"{head}.{claims}.",
        f"{head}.{claims}. {signature}",
        f"{head}\n.{claims}.{signature}",
        f"{head}%2e{claims}.{signature}",
        f"{head}.{claims}.{signature}\u200b",
        f"{head}.{claims}.{signature}".replace(head[0], "\uff21", 1),
    ]
    for form in forms:
        assert form != token
        refuse(form, checks)


def test_claims_under_a_signature_of_others(checks: Authenticator) -> None:
    """A good signature over one token's claims is none over another's, nor with another header."""
    user, admin = sign(OWN, good_claims()).split("."), sign(OWN, good_claims(role="admin", note=1)).split(".")
    refuse(".".join((user[0], admin[1], user[2])), checks)
    refuse(".".join((encode(b'{"alg":"HS256"}'), user[1], user[2])), checks)
    flipped = bytearray(user[1].encode())
    flipped[10] ^= 1
    refuse(".".join((user[0], flipped.decode("latin1"), user[2])), checks)


def test_refused_token_is_not_remembered(checks: Authenticator) -> None:
    """What was refused is refused again, and no amount of it pushes out or adds to what is remembered."""
    good = sign(OWN, good_claims())
    checks.identify_token(good)
    for number in range(100):
        refuse(sign(b"x" * 32, good_claims(n=number)), checks)
        refuse(sign(OWN, good_claims(n=number, exp=1)), checks)
    assert list(checks._checked) == [good]
