"""The keys that tokens are checked with: the engine's own secret, and those of a JWKS file, by name.

Rule 1: a key is for one algorithm, which its kind decides; whatever a token says, no other is ever tried with it.
Rule 2: a file counts as a whole: one bad key in it, and none of it is taken. A change that is bad leaves the keys as
they were and is told in the log; at the start it is refused.
Rule 3: only configured algorithms count; keys for anything else may stand in the file and are passed over.
It refuses to know tokens and what they claim.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, NoReturn

import jwt
import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey, RSAPublicNumbers
from jwt.algorithms import Algorithm

from tradeengine.settings import SECRET_LENGTH_MIN, Auth, SettingsError

OWN_KEY_ID: Final = "default"
"""Name of the engine's own secret. Tokens need not name it."""
RSA_BITS_MIN: Final = 2048
RSA_BITS_MAX: Final = 8192
FILE_BYTES_MAX: Final = 1 << 20
KEYS_MAX: Final = 1000
KEY_ID_PATTERN: Final = re.compile(r"[ -~]{1,128}\Z")
_ALGORITHM_OF_TYPE: Final = {"oct": "HS256", "RSA": "RS256", "OKP": "EdDSA"}
_PRIVATE_PART: Final = "d"

_log = structlog.get_logger()
_Stamp = tuple[int, int, int]
Material = bytes | RSAPublicKey | Ed25519PublicKey


@dataclass(frozen=True, slots=True)
class TokenKey:
    """One key. ``material``: as its algorithm wants it; two keys are the same when all three are."""

    key_id: str
    algorithm: str
    material: Material

    def verifies(self, message: bytes, signature: bytes) -> bool:
        """Whether a message was signed with this key."""
        return _algorithm(self.algorithm).verify(message, self.material, signature)

    def __repr__(self) -> str:
        return f"TokenKey({self.key_id!r}, {self.algorithm})"  # what it is made of is nobody's business


class KeySet:
    """Keys by name. Names are unique."""

    def __init__(self, keys: Sequence[TokenKey]) -> None:
        """Take keys."""
        self._by_id = {key.key_id: key for key in keys}
        assert len(self._by_id) == len(keys)
        self._unnamed: dict[str, TokenKey] = {}
        for algorithm in {key.algorithm for key in keys}:
            of_algorithm = [key for key in keys if key.algorithm == algorithm]
            if len(of_algorithm) == 1 or of_algorithm[0].key_id == OWN_KEY_ID:
                self._unnamed[algorithm] = of_algorithm[0]

    def find(self, algorithm: str, key_id: str | None) -> TokenKey | None:
        """Find the key that a token names. One that names none means the engine's secret, or the only key there is."""
        key = self._unnamed.get(algorithm) if key_id is None else self._by_id.get(key_id)
        return key if key is not None and key.algorithm == algorithm else None

    def __contains__(self, key: TokenKey) -> bool:
        return self._by_id.get(key.key_id) == key

    def __len__(self) -> int:
        return len(self._by_id)


class TokenKeys:
    """The keys in force: they follow the file. ``current``: None while there has not been a good file yet."""

    def __init__(self, settings: Auth) -> None:
        """Take the keys as they are. A bad file is told in the log: a front that starts anew must not end for it."""
        self._settings = settings
        self._stamp: _Stamp | None = None
        self.current: KeySet | None = None
        self.look()

    def look(self) -> bool:
        """Take the file over if it has changed; returns whether it did and is good."""
        stamp = _stamp_of(self._settings.keys_file)
        if self.current is not None and stamp == self._stamp:
            return False
        is_news, self._stamp = stamp != self._stamp or self.current is None, stamp
        try:
            keys = load_keys(self._settings)
        except SettingsError as error:
            if is_news:
                _log.error("the keys of tokens stay as they were", error=str(error))
            return False
        if self.current is not None:
            _log.info("the keys of tokens are new", key_count=len(keys))
        self.current = keys
        return True


def load_keys(settings: Auth) -> KeySet:
    """Read all keys that count; the engine's own is missing before its secret is made.

    Raises SettingsError that names the file and the key, never what it is made of.
    """
    keys = []
    if "HS256" in settings.algorithms and settings.secret:
        try:
            material = _algorithm("HS256").prepare_key(settings.secret)
        except jwt.PyJWTError:
            raise SettingsError("setting auth.secret = '(hidden)' is not allowed: must not be a public key") from None
        keys.append(TokenKey(OWN_KEY_ID, "HS256", material))
    if settings.keys_file:
        keys += _read_file(Path(settings.keys_file).expanduser(), settings.algorithms)
    if not keys and "HS256" not in settings.algorithms:
        raise SettingsError(
            f"setting auth.keys_file = {settings.keys_file!r} is not allowed: "
            f"must hold a key for {' or '.join(settings.algorithms)}"
        )
    return KeySet(keys)


def _read_file(path: Path, algorithms: Sequence[str]) -> list[TokenKey]:
    refuse = partial(_refuse, path)
    try:
        with path.open("rb") as file:
            content = file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        refuse(f"it cannot be read: {error.strerror}")
    if len(content) > FILE_BYTES_MAX:
        refuse(f"it is larger than {FILE_BYTES_MAX} bytes")
    try:
        read = json.loads(content, object_pairs_hook=unique_names)
    except (ValueError, RecursionError) as error:
        refuse(f"it is not JSON: {error}")
    entries = read.get("keys") if isinstance(read, dict) else None
    if not isinstance(entries, list) or len(entries) > KEYS_MAX:
        refuse(f'it is no JWKS: one object with "keys", a list of at most {KEYS_MAX}')
    keys = [key for place, entry in enumerate(entries) if (key := _read_key(path, place, entry, algorithms))]
    names = [key.key_id for key in keys]
    for name in names:
        if names.count(name) > 1:
            refuse(f"there are several keys with kid {name!r}")
    return keys


def _read_key(path: Path, place: int, entry: Any, algorithms: Sequence[str]) -> TokenKey | None:
    """Read one entry of a JWKS; None: it is for something else. Raises SettingsError."""
    if not isinstance(entry, dict):
        _refuse(path, f"keys[{place}] is no object")
    algorithm = _ALGORITHM_OF_TYPE.get(str(entry.get("kty")), "")
    if algorithm not in algorithms or entry.get("use", "sig") != "sig" or entry.get("alg", algorithm) != algorithm:
        return None
    name = entry.get("kid")
    if not isinstance(name, str) or not KEY_ID_PATTERN.match(name):
        _refuse(path, f"keys[{place}] has no kid of 1 to 128 printable characters")
    refuse = partial(_refuse, path)
    if name == OWN_KEY_ID:
        refuse(f"kid {OWN_KEY_ID!r} is the engine's own secret: give the key another name")
    if _PRIVATE_PART in entry:
        refuse(f"key {name!r} is a private key: only its public part belongs there")
    try:
        return TokenKey(name, algorithm, _MATERIAL_OF[algorithm](entry))
    except _BadKeyError as error:
        refuse(f"key {name!r} {error}")
    except (ValueError, TypeError, KeyError):
        # Whatever the reader said may show what a secret is made of.
        refuse(f"key {name!r} is no {algorithm} key: a part is missing or malformed")


class _BadKeyError(Exception):
    """A key that is read but not good enough; the message goes on after its name."""


def _secret_of(entry: Mapping[str, Any]) -> bytes:
    secret = decode_base64url(entry["k"])
    if len(secret) < SECRET_LENGTH_MIN:
        raise _BadKeyError(f"is too short: a secret has at least {SECRET_LENGTH_MIN} bytes")
    return secret


def _rsa_key_of(entry: Mapping[str, Any]) -> RSAPublicKey:
    modulus, exponent = (int.from_bytes(decode_base64url(entry[part])) for part in ("n", "e"))
    if not RSA_BITS_MIN <= modulus.bit_length() <= RSA_BITS_MAX:
        bits = modulus.bit_length()
        raise _BadKeyError(f"has {bits} bits: an RSA key has {RSA_BITS_MIN} to {RSA_BITS_MAX}")
    return RSAPublicNumbers(exponent, modulus).public_key()


def _ed25519_key_of(entry: Mapping[str, Any]) -> Ed25519PublicKey:
    if entry.get("crv") != "Ed25519":
        raise _BadKeyError("is of another curve than Ed25519")
    return Ed25519PublicKey.from_public_bytes(decode_base64url(entry["x"]))


_MATERIAL_OF: Final[Mapping[str, Callable[[Mapping[str, Any]], Material]]] = {
    "HS256": _secret_of,
    "RS256": _rsa_key_of,
    "EdDSA": _ed25519_key_of,
}


def decode_base64url(text: str) -> bytes:
    """Read base64url without padding, in the one way in which it may be written. Raises ValueError, TypeError."""
    if not _BASE64URL.fullmatch(text):
        raise ValueError("not base64url")
    try:
        content = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except binascii.Error:
        raise ValueError("not base64url") from None
    if base64.urlsafe_b64encode(content).rstrip(b"=") != text.encode():
        raise ValueError("not base64url: bits are left over")
    return content


_BASE64URL: Final = re.compile(r"[A-Za-z0-9_-]*")


def unique_names(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make an object whose names are unique: of two readers one would take the first value, one the last.

    For ``json.loads``. Raises ValueError.
    """
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a name is there twice")
    return made


def _algorithm(name: str) -> Algorithm:
    return jwt.get_algorithm_by_name(name)


def _stamp_of(keys_file: str) -> _Stamp | None:
    """Tell one state of a file from another; None: there is none."""
    try:
        status = Path(keys_file).expanduser().stat() if keys_file else None
    except OSError:
        return None
    return None if status is None else (status.st_mtime_ns, status.st_size, status.st_ino)


def _refuse(path: Path, what: str) -> NoReturn:
    raise SettingsError(f"setting auth.keys_file = {str(path)!r} is not allowed: {what}")
