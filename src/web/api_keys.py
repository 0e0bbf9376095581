"""Who signed a request: API keys, looked up once per front and forgotten when one of the account's is revoked.

Rule 1: what a front remembers of a key counts only while the shared table ``accounts`` shows no newer version of the
account's keys. Whoever revokes a key waits for that table, so a key that was revoked is refused at once everywhere.
Rule 2: a signature counts once within its window, on all fronts together; only right ones are remembered.
Rule 3: a key never does more than it says, and never what an administrator may.
It refuses to know routes and connections.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import TYPE_CHECKING, Final

import structlog

from tradeengine.ipc.replay_guard import ReplayGuard, Verdict
from tradeengine.web.auth import Identity
from tradeengine.web.errors import ApiError
from tradeengine.web.key_vault import KeyVault, SealedForAnotherError
from tradeengine.web.signed_requests import (
    Ed25519Verifier,
    HmacVerifier,
    SignedRequest,
    Verifier,
    check_time,
    refuse_key,
)

if TYPE_CHECKING:
    from tradeengine.storage.api_keys import StoredKey

CACHED_KEYS_MAX: Final = 10_000
NS_PER_MS: Final = 10**6
_UNKNOWN: Final = "The API key is unknown or was revoked."

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class KnownKey:
    """A key as a front remembers it. ``verifier`` None: it does not count any more."""

    account_id: int
    keys_version: int
    identity: Identity
    verifier: Verifier | None
    networks: tuple[IPv4Network | IPv6Network, ...]

    def allows(self, address: str) -> bool:
        """Whether the key may be used from an address."""
        if not self.networks:
            return True
        try:
            parsed = ip_address(address)
        except ValueError:
            return False  # a peer without an address, as behind a Unix socket
        if isinstance(parsed, IPv6Address) and parsed.ipv4_mapped is not None:
            parsed = parsed.ipv4_mapped
        return any(parsed in network for network in self.networks)


class ApiKeys:
    """The API keys of one engine, as one front sees them."""

    def __init__(
        self,
        vault: KeyVault,
        guard: ReplayGuard,
        find: Callable[[int], Awaitable[StoredKey | None]],
        keys_version_of: Callable[[int], int],
    ) -> None:
        """Join the ends. find: looks a key up by id. keys_version_of: what the table shows of an account."""
        self.vault = vault
        self.guard = guard
        self._find = find
        self._keys_version_of = keys_version_of
        self._known: OrderedDict[int, KnownKey] = OrderedDict()

    async def identify(self, signed: SignedRequest, address: str) -> Identity:
        """Name who signed a request that came from ``address``. The request counts from now on as used.

        Raises ApiError UNAUTHORIZED, FORBIDDEN, ENGINE_OVERLOADED, DATABASE_UNAVAILABLE.
        """
        check_time(signed, time.time_ns() // NS_PER_MS)
        known = await self._key(signed.key_id)
        if known is None or known.verifier is None:
            refuse_key(_UNKNOWN)
        if not known.verifier.verifies(signed.content, signed.signature):
            refuse_key("The signature is wrong: see how requests are signed, and with which secret.")
        if not known.allows(address):
            raise ApiError("FORBIDDEN", "This API key may not be used from this address.", {"address": address})
        self._take(signed)
        return known.identity

    async def renew(self, identity: Identity) -> None:
        """Look somebody's key up again if what is remembered of it may be old. Raises ApiError DATABASE_UNAVAILABLE."""
        if identity.key_id is not None:
            await self._key(int(identity.key_id))

    def knows(self, identity: Identity) -> bool:
        """Whether somebody's key still counts, as far as it was looked up."""
        if identity.key_id is None:
            return True
        known = self._known.get(int(identity.key_id))
        return known is None or known.verifier is not None

    def _take(self, signed: SignedRequest) -> None:
        # The clock again: a look-up may have taken a while.
        now_ms = time.time_ns() // NS_PER_MS
        check_time(signed, now_ms)
        if signed.timestamp_ms < self.guard.began_ms:
            refuse_key("The request was signed before the engine started; sign it again.")
        verdict = self.guard.take(b"%d\n%s" % (signed.key_id, signed.content), signed.expires_ms, now_ms)
        if verdict is Verdict.USED:
            refuse_key("This signature was used already; sign each request with a time stamp of its own.")
        if verdict is Verdict.FULL:
            raise ApiError("ENGINE_OVERLOADED", "There are too many signed requests now. Nothing was done; try again.")

    async def _key(self, key_id: int) -> KnownKey | None:
        known = self._known.get(key_id)
        if known is not None and known.keys_version >= self._keys_version_of(known.account_id):
            self._known.move_to_end(key_id)
            return known
        if not self.vault.may_exist(key_id):
            return None
        stored = await self._find(key_id)
        if stored is None:
            self._known.pop(key_id, None)
            return None
        known = self._known[key_id] = self._open(stored)
        self._known.move_to_end(key_id)
        if len(self._known) > CACHED_KEYS_MAX:
            self._known.popitem(last=False)
        return known

    def _open(self, stored: StoredKey) -> KnownKey:
        return KnownKey(
            account_id=stored.account_id,
            keys_version=stored.keys_version,
            identity=Identity(
                name=stored.user,
                role="user",
                two_factor=stored.two_factor,
                permissions=frozenset(stored.permissions),
                key_id=str(stored.key_id),
            ),
            verifier=self._verifier(stored),
            networks=tuple(ip_network(network) for network in stored.addresses),
        )

    def _verifier(self, stored: StoredKey) -> Verifier | None:
        if stored.revoked_at is not None:
            return None
        if stored.public_key is not None:
            return Ed25519Verifier(stored.public_key)
        assert stored.sealed_secret is not None
        try:
            return HmacVerifier(self.vault.unseal(stored.sealed_secret, stored.key_id, stored.account_id))
        except SealedForAnotherError:
            _log.error("an API key's secret does not open: was keys.master changed?", key_id=stored.key_id)
            return None
