"""The signed form of a token: header, claims and signature, each read in one way only.

Rule 1: the header chooses a key by name and nothing else. Keys, addresses of keys and certificates that it carries are
never looked at, and what it calls critical (``crit``) we do not understand.
Rule 2: nothing of the claims is read before the signature is right.
It refuses to know what claims mean.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final

from tradeengine.web.token_keys import KeySet, TokenKey, decode_base64url, unique_names

TOKEN_CHARACTERS_MAX: Final = 4096
_FORM: Final = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
_TYPES: Final = frozenset({"jwt", "at+jwt", "application/at+jwt"})
"""What a token that is for us may call itself; others of the same issuer's, say for its own log-out, may not."""
_NEVER: Final = frozenset({"crit", "b64", "zip", "enc"})
"""Header fields that change how the rest is read."""


class BadTokenError(Exception):
    """A token that is not one of ours; the message says why, for the log, not for whoever sent it."""


def read_signed(token: str, keys: KeySet) -> tuple[dict[str, Any], TokenKey]:
    """Check a token's form and signature; returns its claims, and the key that they were signed with.

    Raises BadTokenError.
    """
    if len(token) > TOKEN_CHARACTERS_MAX:
        raise BadTokenError("it is too long")
    if not _FORM.fullmatch(token):
        raise BadTokenError("it is not three parts of base64url")
    head, claims, signature = token.split(".")
    key = _find_key(_read_object(head), keys)
    if not key.verifies(f"{head}.{claims}".encode(), _decode(signature)):
        raise BadTokenError("its signature is wrong")
    return _read_object(claims), key


def _find_key(header: dict[str, Any], keys: KeySet) -> TokenKey:
    if not _NEVER.isdisjoint(header):
        raise BadTokenError("its header asks for what we do not do")
    kind = header.get("typ", "JWT")
    if not isinstance(kind, str) or kind.lower() not in _TYPES:
        raise BadTokenError("it is a token for something else")
    algorithm, key_id = header.get("alg"), header.get("kid")
    if not isinstance(algorithm, str) or not isinstance(key_id, str | None) or ("kid" in header and key_id is None):
        raise BadTokenError("its alg or kid is no text")
    key = keys.find(algorithm, key_id)
    if key is None:
        raise BadTokenError("there is no such key for its algorithm")
    return key


def _read_object(part: str) -> dict[str, Any]:
    try:
        # As text: of bytes the library would also guess UTF-16 and UTF-32.
        read = json.loads(_decode(part).decode(), object_pairs_hook=unique_names, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        raise BadTokenError("a part of it is not JSON") from None
    if not isinstance(read, dict):
        raise BadTokenError("a part of it is no object")
    return read


def _decode(part: str) -> bytes:
    try:
        return decode_base64url(part)
    except ValueError:
        raise BadTokenError("a part of it is not base64url") from None


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")
