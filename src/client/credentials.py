"""Who asks: a token, or an API key with which each request is signed.

Signed is a text of five lines, joined by line feeds: the time stamp in milliseconds, the window in milliseconds, the
method, path and query as sent, and the SHA-256 of the body in hexadecimal. The engine takes each signature once.

Rule 1: time stamps of one key only grow, so that two equal requests in one millisecond have two signatures.
Rule 2: a repeat is signed anew, because the engine may have taken the first signature before its answer was lost.
It refuses to know connections.
"""

from __future__ import annotations

import base64
import hmac
import time
from collections.abc import Callable
from hashlib import sha256
from typing import Any, Final, Protocol, TypeAlias

WINDOW_MS: Final = 5000
STREAM_METHOD: Final = "AUTH"
STREAM_TARGET: Final = "/ws/stream"
"""In place of method and path where a connection signs in by a message."""

Token: TypeAlias = str | Callable[[], str]
"""An access token, or a function that gives one that is valid now."""


class _Signer(Protocol):
    """What signs a text."""

    def __call__(self, text: bytes) -> str:
        """Give the signature as it is sent."""


class _SigningKey:
    """What API keys of both kinds have in common."""

    def __init__(self, key_id: str, sign: _Signer, window_ms: int, clock_ms: Callable[[], int]) -> None:
        self.key_id = key_id
        self._sign = sign
        self._window_ms = window_ms
        self._clock_ms = clock_ms
        self._last_ms = 0

    def headers(self, method: str, target: str, body: bytes = b"") -> dict[str, str]:
        """Make the headers of a request. target: path and query, exactly as they are sent."""
        timestamp_ms = self._next_ms()
        return {
            "X-API-Key": self.key_id,
            "X-API-Timestamp": str(timestamp_ms),
            "X-API-Window": str(self._window_ms),
            "X-API-Signature": self._sign(signed_text(timestamp_ms, self._window_ms, method, target, body)),
        }

    def sign_in(self) -> dict[str, Any]:
        """Make the fields of the operation ``auth``."""
        timestamp_ms = self._next_ms()
        text = signed_text(timestamp_ms, self._window_ms, STREAM_METHOD, STREAM_TARGET)
        return {
            "api_key": self.key_id,
            "timestamp": timestamp_ms,
            "window": self._window_ms,
            "signature": self._sign(text),
        }

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.key_id!r})"  # the secret is nobody's business

    def _next_ms(self) -> int:
        self._last_ms = max(self._clock_ms(), self._last_ms + 1)
        return self._last_ms


def _now_ms() -> int:
    return time.time_ns() // 10**6


class ApiKey(_SigningKey):
    """An API key with a secret: HMAC-SHA256.

    window_ms: for how long after its time stamp a request counts. clock_ms: milliseconds since 1970; another clock than
    this machine's where that is wrong.
    """

    def __init__(
        self, key_id: str, secret: str, *, window_ms: int = WINDOW_MS, clock_ms: Callable[[], int] = _now_ms
    ) -> None:
        super().__init__(key_id, lambda text: hmac.digest(secret.encode(), text, "sha256").hex(), window_ms, clock_ms)


class Ed25519Key(_SigningKey):
    """An API key whose private half never leaves this side.

    private_key: its 32 bytes, or PEM (PKCS #8, without a password). It needs the package ``cryptography``. Raises
    ValueError for what is none.
    """

    def __init__(
        self,
        key_id: str,
        private_key: bytes,
        *,
        window_ms: int = WINDOW_MS,
        clock_ms: Callable[[], int] = _now_ms,
    ) -> None:
        # Here, so that whoever signs by HMAC needs no more than the standard library.
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        if private_key.lstrip().startswith(b"-----BEGIN"):
            key = load_pem_private_key(private_key, password=None)
        else:
            key = Ed25519PrivateKey.from_private_bytes(private_key)
        if not isinstance(key, Ed25519PrivateKey):
            raise ValueError("this is a private key of another kind than Ed25519")  # noqa: TRY004 - a wrong value
        super().__init__(key_id, lambda text: base64.b64encode(key.sign(text)).decode(), window_ms, clock_ms)


Key: TypeAlias = ApiKey | Ed25519Key
Credentials: TypeAlias = Token | ApiKey | Ed25519Key | None


def signed_text(timestamp_ms: int, window_ms: int, method: str, target: str, body: bytes = b"") -> bytes:
    """Put together what is signed."""
    return f"{timestamp_ms}\n{window_ms}\n{method}\n{target}\n{sha256(body).hexdigest()}".encode()


def credential_headers(credentials: Credentials, method: str, target: str, body: bytes = b"") -> dict[str, str]:
    """Make the headers that say who asks. target: path and query, exactly as they are sent."""
    if credentials is None:
        return {}
    if isinstance(credentials, ApiKey | Ed25519Key):
        return credentials.headers(method, target, body)
    return {"Authorization": f"Bearer {credentials if isinstance(credentials, str) else credentials()}"}


def one_of(token: Token | None, key: Key | None) -> Credentials:
    """Take what was given of the two. Raises ValueError when both were."""
    if token is not None and key is not None:
        raise ValueError("give a token or an API key, not both")
    return token if key is None else key
