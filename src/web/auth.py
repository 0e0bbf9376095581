"""Who is asking: bearer tokens.

Rule 1: a token counts only if everything about it is right: the algorithm that we expect, the signature, the times,
a subject of the allowed letters. Whatever is wrong, the answer is 401 and says which part was wrong, nothing more.
Rule 2: a signature is checked once per token and front; its times are checked at every use.
It refuses to know accounts, passwords and who issues tokens.
"""

from __future__ import annotations

import re
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NoReturn

import jwt

from tradeengine.web.errors import ApiError

SUBJECT_PATTERN: Final = re.compile(r"[A-Za-z0-9_.:@-]{1,64}\Z")
_NOT_OURS: Final = "The token is not one of ours: its form, algorithm or signature is wrong."
_TOKEN_FORM: Final = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
ALL_PERMISSIONS: Final = frozenset({"read", "trade"})
ROLES: Final = ("user", "admin", "super_admin")
ALGORITHMS: Final = ("HS256",)
TOKEN_CHARACTERS_MAX: Final = 4096
CACHED_TOKENS_MAX: Final = 10_000


@dataclass(frozen=True, slots=True)
class Identity:
    """A caller whose token was right."""

    name: str
    role: str
    two_factor: bool
    permissions: frozenset[str] = ALL_PERMISSIONS
    key_id: str | None = None
    """Of the API key that signed the request; None: a token of the user's own."""

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
    """Checks tokens against one secret. Keeps the latest good ones, so that most requests pay no HMAC."""

    def __init__(self, secret: bytes, leeway_s: float = 0.0) -> None:
        """Check against ``secret``; clocks may differ by ``leeway_s``."""
        self._secret = secret
        self._leeway_s = leeway_s
        self._checked: OrderedDict[str, _Checked] = OrderedDict()

    def identify(self, authorization: Sequence[str]) -> Identity:
        """Name the caller from the values of the ``Authorization`` header.

        Raises ApiError UNAUTHORIZED when there is not exactly one good bearer token.
        """
        return self.identify_token(bearer_token(authorization))[0]

    def identify_token(self, token: str) -> tuple[Identity, float]:
        """Name the owner of a token, and tell until when it counts, in seconds since 1970.

        Raises ApiError UNAUTHORIZED.
        """
        if len(token) > TOKEN_CHARACTERS_MAX:
            _refuse("The token is too long.")
        checked = self._checked.get(token)
        if checked is None:
            checked = _check(token, self._secret)
            self._remember(token, checked)
        now_s = time.time()
        if now_s >= checked.expires_s + self._leeway_s:
            _refuse("The token has expired; get a new one.")
        if now_s < checked.not_before_s - self._leeway_s:
            _refuse("The token is not valid yet.")
        return checked.identity, checked.expires_s + self._leeway_s

    def _remember(self, token: str, checked: _Checked) -> None:
        self._checked[token] = checked
        if len(self._checked) > CACHED_TOKENS_MAX:
            self._checked.popitem(last=False)


def issue_token(secret: bytes, name: str, role: str, lifetime_s: float, *, two_factor: bool = False) -> str:
    """Make a token for ``name``. Raises ValueError for a name or role that could not sign in."""
    if not SUBJECT_PATTERN.match(name):
        raise ValueError("a user name is 1 to 64 characters of A-Z a-z 0-9 _ . : @ -")
    if role not in ROLES:
        raise ValueError(f"a role is one of {', '.join(ROLES)}")
    now_s = int(time.time())
    claims: dict[str, Any] = {"sub": name, "role": role, "iat": now_s, "exp": now_s + int(lifetime_s)}
    if two_factor:
        claims["amr"] = ["otp"]
    return jwt.encode(claims, secret, algorithm=ALGORITHMS[0])


def bearer_token(authorization: Sequence[str]) -> str:
    """Take the token from the values of the ``Authorization`` header. Raises ApiError UNAUTHORIZED."""
    if not authorization:
        _refuse("This call needs a token: Authorization: Bearer <token>.")
    if len(authorization) > 1:
        _refuse("There must be one Authorization header.")
    scheme, _, token = authorization[0].partition(" ")
    token = token.strip()
    if scheme.lower() != "bearer" or not token:
        _refuse("The Authorization header must read: Bearer <token>.")
    return token


def _check(token: str, secret: bytes) -> _Checked:
    if not _TOKEN_FORM.fullmatch(token):
        _refuse(_NOT_OURS)  # PyJWT forgives padding, which no token has
    try:
        claims = jwt.decode(
            token,
            secret,
            algorithms=list(ALGORITHMS),
            # The times are checked by ``identify`` at every use; here they only have to be there.
            options={
                "require": ["exp", "sub"],
                "verify_exp": False,
                "verify_nbf": False,
                "verify_iat": False,
                "verify_aud": False,
            },
        )
    except jwt.MissingRequiredClaimError as error:
        _refuse(f"The token has no {error.claim}.")
    except (jwt.InvalidTokenError, ValueError):
        # ValueError: PyJWT passes on what a decoder says about odd numbers and odd base64.
        _refuse(_NOT_OURS)
    return _read_claims(claims)


def _read_claims(claims: Mapping[str, Any]) -> _Checked:
    subject = claims["sub"]
    if not isinstance(subject, str) or not SUBJECT_PATTERN.match(subject):
        _refuse("The token's sub is not a user name.")
    role = claims.get("role", "user")
    if role not in ROLES:
        _refuse("The token's role is unknown.")
    methods = claims.get("amr", [])
    if not isinstance(methods, list):
        _refuse("The token's amr is not a list.")
    return _Checked(
        identity=Identity(name=subject, role=role, two_factor="otp" in methods),
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
