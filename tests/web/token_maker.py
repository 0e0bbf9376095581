"""Tokens and keys as issuers, and attackers, make them: by hand, so that nothing is too wrong to be made."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from functools import cache
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tests.web.bench import SECRET

from tradeengine.settings_files import load_settings
from tradeengine.web.auth import Authenticator, Identity

LIFE_S = 86_400
Signer = bytes | rsa.RSAPrivateKey | Ed25519PrivateKey


def good_claims(**claims: Any) -> dict[str, Any]:
    """Make claims that are let in, but for what is given."""
    return {"sub": "alice", "exp": int(time.time()) + LIFE_S} | claims


@cache
def rsa_key(name: str = "rsa", bits: int = 2048) -> rsa.RSAPrivateKey:
    """Make an RSA key, one for each name."""
    assert name
    return rsa.generate_private_key(public_exponent=65537, key_size=bits)


@cache
def ed_key(name: str = "ed") -> Ed25519PrivateKey:
    """Make an Ed25519 key, one for each name."""
    assert name
    return Ed25519PrivateKey.generate()


def encode(content: bytes) -> str:
    """Write base64url without padding."""
    return base64.urlsafe_b64encode(content).decode().rstrip("=")


def public_pem(key: rsa.RSAPrivateKey) -> bytes:
    """Write the public part of a key as everybody may see it."""
    return key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def private_pem(key: rsa.RSAPrivateKey | Ed25519PrivateKey) -> bytes:
    """Write a private key as issuers keep it."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def jwk(key_id: str, key: Signer, **fields: Any) -> dict[str, Any]:
    """Write the entry of a JWKS for a key, as its issuer publishes it."""
    if isinstance(key, bytes):
        parts = {"kty": "oct", "k": encode(key)}
    elif isinstance(key, rsa.RSAPrivateKey):
        numbers = key.public_key().public_numbers()
        modulus, exponent = (
            encode(number.to_bytes((number.bit_length() + 7) // 8)) for number in (numbers.n, numbers.e)
        )
        parts = {"kty": "RSA", "n": modulus, "e": exponent}
    else:
        raw = key.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
        parts = {"kty": "OKP", "crv": "Ed25519", "x": encode(raw)}
    return {"kid": key_id, **parts, **fields}


def write_keys(path: Path, *entries: Any) -> Path:
    """Write a JWKS file, in one step, as whoever rotates keys should."""
    making = path.with_suffix(".new")
    making.write_text(json.dumps({"keys": entries}))
    making.rename(path)
    return path


def sign(key: Signer, claims: Any, **header: Any) -> str:
    """Sign claims. header: joins or replaces ``alg``, which is the key's own; None leaves a field out."""
    algorithm = "HS256" if isinstance(key, bytes) else "RS256" if isinstance(key, rsa.RSAPrivateKey) else "EdDSA"
    fields = {"alg": algorithm, "typ": "JWT"} | header
    return sign_raw(
        key,
        json.dumps({name: value for name, value in fields.items() if value is not None}).encode(),
        json.dumps(claims).encode(),
    )


def sign_raw(key: Signer, header: bytes, claims: bytes) -> str:
    """Sign whatever bytes there are where header and claims should be."""
    message = f"{encode(header)}.{encode(claims)}"
    if isinstance(key, bytes):
        signature = hmac.new(key, message.encode(), hashlib.sha256).digest()
    elif isinstance(key, rsa.RSAPrivateKey):
        signature = key.sign(message.encode(), padding.PKCS1v15(), hashes.SHA256())
    else:
        signature = key.sign(message.encode())
    return f"{message}.{encode(signature)}"


def authenticator(**settings: Any) -> Authenticator:
    """Make an authenticator that is configured so; its own secret is ``SECRET``."""
    overrides = {f"auth.{name}": value for name, value in ({"secret": SECRET, "leeway_s": 0} | settings).items()}
    return Authenticator(load_settings(overrides=overrides, environ={}).auth)


def identify(token: str, **settings: Any) -> Identity:
    """Check one token."""
    return authenticator(**settings).identify([f"Bearer {token}"])
