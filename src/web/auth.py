"""Who is asking: bearer tokens.

Rule 1: a token counts only if everything about it is right: the algorithm and key that we expect, the signature, the
times, issuer and audience where they are configured, a subject of the allowed letters. Whatever is wrong, the answer
is 401 and says which part was wrong, nothing more.
Rule 2: a signature is checked once per token and front; its times are checked at every use. When the keys change,
nothing that was checked before counts.
It refuses to know accounts, passwords and who issues tokens.
"""

from __future__ import annotations

import re
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NoReturn

import jwt
import trio
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from tradeengine.settings import Auth
from tradeengine.web.errors import ApiError
from tradeengine.web.token_keys import KEY_ID_PATTERN, TokenKey, TokenKeys
from tradeengine.web.tokens import TOKEN_CHARACTERS_MAX, BadTokenError, read_signed

SUBJECT_PATTERN: Final = re.compile(r"[A-Za-z0-9_.:@-]{1,64}\Z")
ALL_PERMISSIONS: Final = frozenset({"read", "trade"})
ROLES: Final = ("user", "admin", "super_admin")
CACHED_TOKENS_MAX: Final = 10_000
KEYS_LOOK_INTERVAL_S: Final = 5.0
_NOT_OURS: Final = "The token is not one of ours: its form, algorithm, key or signature is wrong."


@dataclass(frozen=True, slots=True)
class Identity:
    """A caller whose token was right."""

    name: str
    role: str
    two_factor: bool
    permissions: frozenset[str] = ALL_PERMISSIONS
    key_id: str | None = None
    """Of the API key that signed the request; None: a token of the user's own."""
    token_key: TokenKey | None = field(default=None, compare=False)
    """What the token was signed with."""

    @property
    def is_admin(self) -> bool:
        """Whether the caller may see what is not theirs."""
        return self.role != "user"


@dataclass(frozen=True, slots=True)
class _Checked:
    identity: Identity
    expires_s: float
    not_before_s: float


class Authenticator:
    """Checks tokens. Keeps the latest good ones, so that most requests pay for no signature."""

    def __init__(self, settings: Auth) -> None:
        """Check as configured."""
        self._settings = settings
        self._keys = TokenKeys(settings)
        self._checked: OrderedDict[str, _Checked] = OrderedDict()

    def identify(self, authorization: Sequence[str]) -> Identity:
        """Name the caller from the values of the ``Authorization`` header.

        Raises ApiError UNAUTHORIZED when there is not exactly one good bearer token, NOT_READY without keys.
        """
        return self.identify_token(bearer_token(authorization))[0]

    def identify_token(self, token: str) -> tuple[Identity, float]:
        """Name the owner of a token, and tell until when it counts, in seconds since 1970.

        Raises ApiError UNAUTHORIZED, NOT_READY.
        """
        if len(token) > TOKEN_CHARACTERS_MAX:
            _refuse("The token is too long.")
        checked = self._checked.get(token)
        if checked is None:
            checked = self._check(token)
        leeway_s = self._settings.leeway_s
        now_s = time.time()
        if now_s >= checked.expires_s + leeway_s:
            self._checked.pop(token, None)
            _refuse("The token has expired; get a new one.")
        if now_s < checked.not_before_s - leeway_s:
            _refuse("The token is not valid yet.")
        self._remember(token, checked)
        return checked.identity, checked.expires_s + leeway_s

    def knows(self, identity: Identity) -> bool:
        """Whether the key that somebody's token was signed with still counts."""
        keys = self._keys.current
        return identity.token_key is None or (keys is not None and identity.token_key in keys)

    async def follow_keys(self) -> None:
        """Take over changes of the file with the keys, for as long as the front runs."""
        while True:
            await trio.sleep(KEYS_LOOK_INTERVAL_S)
            self.look_at_keys()

    def look_at_keys(self) -> None:
        """Take over the file with the keys if it has changed."""
        if self._keys.look():
            self._checked.clear()

    def _check(self, token: str) -> _Checked:
        keys = self._keys.current
        if keys is None:
            raise ApiError("NOT_READY", "The server cannot read its keys, so it can check no token. Try again.")
        try:
            claims, key = read_signed(token, keys)
        except BadTokenError:
            _refuse(_NOT_OURS)
        _check_claim("issuer", claims.get("iss"), self._settings.issuer)
        _check_claim("audience", claims.get("aud"), self._settings.audience)
        return _read_claims(claims, key)

    def _remember(self, token: str, checked: _Checked) -> None:
        self._checked[token] = checked
        if len(self._checked) > CACHED_TOKENS_MAX:
            self._checked.popitem(last=False)


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A private key to sign tokens with, and what those who check them call it."""

    key_id: str
    key: RSAPrivateKey | Ed25519PrivateKey

    @property
    def algorithm(self) -> str:
        """The one algorithm that it is for."""
        return "RS256" if isinstance(self.key, RSAPrivateKey) else "EdDSA"


def read_signing_key(path: Path, key_id: str) -> SigningKey:
    """Read a private key, PEM without a password. Raises ValueError that names the file."""
    if not KEY_ID_PATTERN.match(key_id):
        raise ValueError("a kid is 1 to 128 printable characters")
    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise ValueError(f"{path} is no PEM file of a private key without a password") from None
    if isinstance(key, RSAPrivateKey | Ed25519PrivateKey):
        return SigningKey(key_id, key)
    raise ValueError(f"{path} is a key for another algorithm than RS256 and EdDSA (Ed25519)")


def issue_token(
    secret: bytes | SigningKey,
    name: str,
    role: str,
    lifetime_s: float,
    *,
    two_factor: bool = False,
    issuer: str = "",
    audience: str = "",
) -> str:
    """Make a token for ``name``. secret: for HS256, or a private key.

    Raises ValueError for a name or role that could not sign in.
    """
    if not SUBJECT_PATTERN.match(name):
        raise ValueError("a user name is 1 to 64 characters of A-Z a-z 0-9 _ . : @ -")
    if role not in ROLES:
        raise ValueError(f"a role is one of {', '.join(ROLES)}")
    now_s = int(time.time())
    claims: dict[str, Any] = {"sub": name, "role": role, "iat": now_s, "exp": now_s + int(lifetime_s)}
    if two_factor:
        claims["amr"] = ["otp"]
    if issuer:
        claims["iss"] = issuer
    if audience:
        claims["aud"] = audience
    if isinstance(secret, SigningKey):
        return jwt.encode(claims, secret.key, algorithm=secret.algorithm, headers={"kid": secret.key_id})
    return jwt.encode(claims, secret, algorithm="HS256")


def bearer_token(authorization: Sequence[str]) -> str:
    """Take the token from the values of the ``Authorization`` header. Raises ApiError UNAUTHORIZED."""
    if not authorization:
        _refuse("This call needs a token: Authorization: Bearer <token>.")
    if len(authorization) > 1:
        _refuse("There must be one Authorization header.")
    scheme, _, token = authorization[0].partition(" ")
    token = token.strip(" ")  # of a space that is none in ASCII, or a control character, a token has none
    if scheme.lower() != "bearer" or not token:
        _refuse("The Authorization header must read: Bearer <token>.")
    return token


def _check_claim(name: str, claimed: object, expected: str) -> None:
    """Refuse a token that is not from, or not for, whom it must be; an audience may be a list."""
    if not expected:
        return
    named = claimed if isinstance(claimed, list) and name == "audience" else [claimed]
    if not any(isinstance(value, str) and value == expected for value in named):
        _refuse(f"The token's {name} is not the one that is expected here.")


def _read_claims(claims: Mapping[str, Any], key: TokenKey) -> _Checked:
    for name in ("sub", "exp"):
        if claims.get(name) is None:
            _refuse(f"The token has no {name}.")
    subject = claims["sub"]
    if not isinstance(subject, str) or not SUBJECT_PATTERN.match(subject):
        _refuse("The token's sub is not a user name.")
    role = claims.get("role", "user")
    if role not in ROLES:
        _refuse("The token's role is unknown.")
    methods = claims.get("amr", [])
    if not isinstance(methods, list) or not all(isinstance(method, str) for method in methods):
        _refuse("The token's amr is not a list of texts.")
    return _Checked(
        identity=Identity(name=subject, role=role, two_factor="otp" in methods, token_key=key),
        expires_s=_seconds(claims, "exp"),
        not_before_s=_seconds(claims, "nbf") if "nbf" in claims else float("-inf"),
    )


def _seconds(claims: Mapping[str, Any], name: str) -> float:
    value = claims[name]
    if isinstance(value, bool) or not isinstance(value, int | float) or not -1e12 < value < 1e12:
        _refuse(f"The token's {name} is not a time in seconds.")
    return float(value)


def _refuse(message: str) -> NoReturn:
    raise ApiError("UNAUTHORIZED", message, headers={"WWW-Authenticate": 'Bearer error="invalid_token"'})
