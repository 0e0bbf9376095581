"""Signed requests: what of a request is signed, how a signature is written, and what it is checked with.

Signed is a text of five lines: time stamp in milliseconds, window in milliseconds, method, path with query exactly as
sent, and the SHA-256 of the body in hexadecimal. So nothing of it can be changed on the way, and it counts only from
the time stamp on for as long as the window.

Rule 1: every header has one form; what could be read in two ways is refused.
Rule 2: secrets are compared in a time that does not depend on them.
It refuses to know whose key it is and which requests came before.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final, NoReturn

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from tradeengine.web.errors import ApiError

KEY_HEADER: Final = "X-API-Key"
TIMESTAMP_HEADER: Final = "X-API-Timestamp"
WINDOW_HEADER: Final = "X-API-Window"
SIGNATURE_HEADER: Final = "X-API-Signature"
WINDOW_MS_DEFAULT: Final = 5000
FUTURE_MS_MAX: Final = 1000
"""A time stamp may be ahead of this clock by so much."""
STREAM_METHOD: Final = b"AUTH"
STREAM_TARGET: Final = b"/ws/stream"
"""In place of method and path where a connection signs in by a message."""
PUBLIC_KEY_CHARACTERS_MAX: Final = 1024

_KEY_ID: Final = re.compile(r"[1-9][0-9]{0,18}")
_MILLISECONDS: Final = re.compile(r"[1-9][0-9]{0,14}")
_HMAC_SIGNATURE: Final = re.compile(r"[0-9A-Fa-f]{64}")
_ED25519_SIGNATURE: Final = re.compile(r"[A-Za-z0-9+/]{86}==")
_ED25519_KEY: Final = re.compile(r"[A-Za-z0-9+/]{43}=")


@dataclass(frozen=True, slots=True)
class SignedRequest:
    """A request with a signature that nobody has checked yet. ``content``: what is signed."""

    key_id: int
    timestamp_ms: int
    window_ms: int
    content: bytes
    signature: str

    @property
    def expires_ms(self) -> int:
        """When its time is over."""
        return self.timestamp_ms + self.window_ms


class HmacVerifier:
    """Checks HMAC-SHA256 signatures: 64 hexadecimal digits."""

    def __init__(self, secret: str) -> None:
        self._secret = secret.encode()

    def verifies(self, content: bytes, signature: str) -> bool:
        """Whether the signature is right."""
        if not _HMAC_SIGNATURE.fullmatch(signature):
            return False
        return hmac.compare_digest(hmac.digest(self._secret, content, "sha256"), bytes.fromhex(signature))


class Ed25519Verifier:
    """Checks Ed25519 signatures: 64 bytes in base64."""

    def __init__(self, public_key: bytes) -> None:
        self._key = Ed25519PublicKey.from_public_bytes(public_key)

    def verifies(self, content: bytes, signature: str) -> bool:
        """Whether the signature is right."""
        if not _ED25519_SIGNATURE.fullmatch(signature):
            return False
        try:
            self._key.verify(base64.b64decode(signature), content)
        except InvalidSignature:
            return False
        return True


Verifier = HmacVerifier | Ed25519Verifier


def read_signed_request(
    values: Callable[[str], Sequence[str]], method: str, target: bytes, body: bytes, window_ms_max: int
) -> SignedRequest:
    """Read the headers of a signed request. values: gives all values of a header. target: path and query as sent.

    Raises ApiError UNAUTHORIZED.
    """
    if values("Authorization"):
        refuse_key(f"Send either Authorization or {KEY_HEADER}, not both.")
    named = {name: values(name) for name in (KEY_HEADER, TIMESTAMP_HEADER, SIGNATURE_HEADER)}
    for name, given in named.items():
        if len(given) != 1:
            refuse_key(f"A signed request has the header {name} once.")
    windows = values(WINDOW_HEADER)
    if len(windows) > 1:
        refuse_key(f"A signed request has the header {WINDOW_HEADER} once at most.")
    return make_signed_request(
        named[KEY_HEADER][0],
        named[TIMESTAMP_HEADER][0],
        windows[0] if windows else str(WINDOW_MS_DEFAULT),
        named[SIGNATURE_HEADER][0],
        signed_content=(method.encode(), target, body),
        window_ms_max=window_ms_max,
    )


def sent_target(scope: Mapping[str, Any]) -> bytes:
    """Give path and query of an ASGI scope as they were sent."""
    query: bytes = scope["query_string"]
    path: bytes = scope["raw_path"]
    return path + b"?" + query if query else path


def make_signed_request(
    key_id: str,
    timestamp: str,
    window: str,
    signature: str,
    *,
    signed_content: tuple[bytes, bytes, bytes],
    window_ms_max: int,
) -> SignedRequest:
    """Put a signed request together from texts. signed_content: method, target and body.

    Raises ApiError UNAUTHORIZED for what is no id or no whole number of milliseconds.
    """
    method, target, body = signed_content
    if not _KEY_ID.fullmatch(key_id):
        refuse_key(f"{KEY_HEADER} is no id of an API key.")
    for name, text in ((TIMESTAMP_HEADER, timestamp), (WINDOW_HEADER, window)):
        if not _MILLISECONDS.fullmatch(text):
            refuse_key(f"{name} must be a whole number of milliseconds.")
    if int(window) > window_ms_max:
        refuse_key(f"{WINDOW_HEADER} may be at most {window_ms_max}.", maximum=window_ms_max)
    head = b"%s\n%s\n%s\n%s\n" % (timestamp.encode(), window.encode(), method, target)
    content = head + sha256(body).hexdigest().encode()
    return SignedRequest(int(key_id), int(timestamp), int(window), content, signature)


def check_time(signed: SignedRequest, now_ms: int) -> None:
    """Refuse a request whose time is over or has not come. Raises ApiError UNAUTHORIZED."""
    if signed.timestamp_ms > now_ms + FUTURE_MS_MAX:
        what = "ahead of this server's clock"
    elif signed.expires_ms < now_ms:
        what = "too old for its window"
    else:
        return
    # Who asks may have a wrong clock, and then needs to know ours.
    refuse_key(f"{TIMESTAMP_HEADER} is {what}.", server_time_ms=now_ms, timestamp_ms=signed.timestamp_ms)


def read_public_key(text: str) -> bytes:
    """Read an Ed25519 public key: its 32 bytes in base64, or PEM. Raises ValueError."""
    text = text.strip()
    if len(text) > PUBLIC_KEY_CHARACTERS_MAX:
        raise ValueError("it is too long")
    if text.startswith("-----BEGIN PUBLIC KEY-----"):
        key = load_pem_public_key(text.encode("ascii"))
        if not isinstance(key, Ed25519PublicKey):
            raise ValueError("it is a key of another kind")
        return key.public_bytes_raw()
    if not _ED25519_KEY.fullmatch(text):
        raise ValueError("it is neither 32 bytes in base64 nor PEM")
    try:
        raw = base64.b64decode(text, validate=True)
    except binascii.Error:
        raise ValueError("it is not base64") from None
    Ed25519PublicKey.from_public_bytes(raw)
    return raw


def refuse_key(message: str, **details: int) -> NoReturn:
    """Refuse a signed request. Raises ApiError UNAUTHORIZED."""
    raise ApiError("UNAUTHORIZED", message, dict(details), {"WWW-Authenticate": 'ApiKey realm="tradeengine"'})
