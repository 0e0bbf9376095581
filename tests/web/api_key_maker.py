"""API keys for tests, and requests signed by hand, as docs/api-keys.md says how."""

from __future__ import annotations

import base64
import hashlib
import hmac
import time
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tests.web.bench import ACCOUNT_ID
from tests.web.bench import SECRET as MASTER
from tests.web.fake_database import MADE_AT

from tradeengine.storage.api_keys import StoredKey
from tradeengine.web.key_vault import KeyVault

VAULT: Final = KeyVault(MASTER)
KEY_ID: Final = VAULT.make_id(1_795_000_000_000)
KEY_SECRET: Final = "a-secret-of-a-key_0123456789"


def make_stored_key(key_id: int = KEY_ID, secret: str = KEY_SECRET, **changes: Any) -> StoredKey:
    """Make a key of alice that may do everything that keys may."""
    fields: dict[str, Any] = {
        "key_id": key_id,
        "account_id": ACCOUNT_ID,
        "name": "maker",
        "algorithm": "hmac-sha256",
        "permissions": ("read", "trade"),
        "addresses": (),
        "two_factor": False,
        "sealed_secret": VAULT.seal(secret, key_id, ACCOUNT_ID),
        "created_at": MADE_AT,
        "user": "alice",
    }
    return StoredKey(**fields | changes)


def now_ms() -> int:
    """Tell the time in milliseconds."""
    return time.time_ns() // 10**6


def signed_text(timestamp: object, window: object, method: str, target: str, body: bytes = b"") -> bytes:
    """Put together what is signed."""
    return f"{timestamp}\n{window}\n{method}\n{target}\n{hashlib.sha256(body).hexdigest()}".encode()


def hmac_signature(secret: str, text: bytes) -> str:
    """Sign with a secret."""
    return hmac.new(secret.encode(), text, hashlib.sha256).hexdigest()


def ed25519_signature(private_key: Ed25519PrivateKey, text: bytes) -> str:
    """Sign with a private key."""
    return base64.b64encode(private_key.sign(text)).decode()


def signed_headers(
    key_id: object,
    secret: str | Ed25519PrivateKey,
    method: str,
    target: str,
    body: bytes = b"",
    *,
    timestamp: object | None = None,
    window: object | None = None,
) -> dict[str, str]:
    """Make the headers of a signed request. target: path and query. timestamp: by default now."""
    timestamp = now_ms() if timestamp is None else timestamp
    text = signed_text(timestamp, 5000 if window is None else window, method, target, body)
    signature = hmac_signature(secret, text) if isinstance(secret, str) else ed25519_signature(secret, text)
    headers = {"X-API-Key": str(key_id), "X-API-Timestamp": str(timestamp), "X-API-Signature": signature}
    return headers if window is None else headers | {"X-API-Window": str(window)}
