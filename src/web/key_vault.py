"""The vault: how secrets of API keys are kept, and ids of keys that cannot be guessed.

Everything is derived from one master secret, which lies beside the database and never in it: a copy of the database
alone signs nothing.

Rule 1: a secret is sealed by AES-GCM for its key and account: moved to another row it does not open.
Rule 2: an id carries a mark of the master's, so that ids that were never given out are refused without the database.
It refuses to know tables and requests.
"""

from __future__ import annotations

import hmac
import secrets
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

SECRET_BYTES: Final = 32
NONCE_BYTES: Final = 12
MARK_BITS: Final = 21
_MARK_MASK: Final = (1 << MARK_BITS) - 1
_MS_MAX: Final = (1 << (63 - MARK_BITS)) - 1  # in the year 2109


class SealedForAnotherError(Exception):
    """A sealed secret is not of this key, or not of this master."""


class KeyVault:
    """What is made of one master secret."""

    def __init__(self, master: str) -> None:
        self._cipher = AESGCM(_derive(master, b"secrets of api keys"))
        self._mark_key = _derive(master, b"ids of api keys")

    def make_id(self, now_ms: int) -> int:
        """Make the id of the millisecond: 63 bits, later ones are larger."""
        assert 0 < now_ms <= _MS_MAX
        return now_ms << MARK_BITS | self._mark(now_ms)

    def may_exist(self, key_id: int) -> bool:
        """Whether an id is one that ``make_id`` could have made; any other passes with a chance of one in 2**21."""
        return 0 < key_id < 1 << 63 and key_id & _MARK_MASK == self._mark(key_id >> MARK_BITS)

    def seal(self, secret: str, key_id: int, account_id: int) -> bytes:
        """Encrypt a key's secret for the database."""
        nonce = secrets.token_bytes(NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, secret.encode(), _owner(key_id, account_id))

    def unseal(self, sealed: bytes, key_id: int, account_id: int) -> str:
        """Decrypt a key's secret. Raises SealedForAnotherError."""
        try:
            opened = self._cipher.decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], _owner(key_id, account_id))
        except (InvalidTag, ValueError):
            raise SealedForAnotherError from None
        return opened.decode()

    def _mark(self, number: int) -> int:
        return int.from_bytes(hmac.digest(self._mark_key, number.to_bytes(8, "big"), "sha256")[:4], "big") & _MARK_MASK


def make_secret() -> str:
    """Make a secret of 256 bits that can be typed into a shell: 43 of ``A-Z a-z 0-9 _ -``, the first no ``-``."""
    while (secret := secrets.token_urlsafe(SECRET_BYTES)).startswith("-"):
        pass  # would be taken for an option
    return secret


def _derive(master: str, purpose: bytes) -> bytes:
    return HKDF(SHA256(), length=32, salt=None, info=b"tradeengine: " + purpose).derive(master.encode())


def _owner(key_id: int, account_id: int) -> bytes:
    return b"%d of %d" % (key_id, account_id)
