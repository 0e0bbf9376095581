"""The calls about API keys. They need a token: a key makes no keys."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Literal, TypeAlias

from msgspec import Struct

from tradeengine.client.errors import ApiError
from tradeengine.client.fields import in_path
from tradeengine.client.pages import Pages
from tradeengine.client.repeating import repeat
from tradeengine.client.transport import Transport

Permission: TypeAlias = Literal["read", "trade"]


class ApiKeyInfo(Struct, frozen=True, kw_only=True):
    """A key. ``addresses``: from where it may be used; none: from anywhere."""

    id: str
    name: str
    algorithm: str
    permissions: list[str]
    addresses: list[str]
    two_factor: bool
    created_at: datetime


class NewApiKey(ApiKeyInfo, frozen=True, kw_only=True):
    """A key that was just made. ``secret`` is never shown again; None: of an Ed25519 key the caller has it."""

    secret: str | None = None

    def __repr__(self) -> str:
        return f"NewApiKey({self.id!r}, {self.name!r})"


class ApiKeyCalls:
    """A part of ``Client``."""

    _transport: Transport

    async def create_api_key(
        self,
        name: str,
        permissions: Sequence[Permission],
        *,
        addresses: Sequence[str] = (),
        public_key: str | None = None,
    ) -> NewApiKey:
        """Make a key. public_key: of an Ed25519 key, 32 bytes in base64 or PEM; without one the engine makes a secret.

        Not repeated when its outcome is unknown, because a second one may be made.
        """
        body = {
            "name": name,
            "permissions": list(permissions),
            "addresses": list(addresses),
            "algorithm": "hmac-sha256" if public_key is None else "ed25519",
        }
        if public_key is not None:
            body["public_key"] = public_key
        return await self._transport.call(NewApiKey, "POST", "/api-keys", body=body, is_repeatable=False)

    def api_keys(self, *, page_size: int = 500) -> Pages[ApiKeyInfo]:
        """List own keys that count, newest first."""
        return self._transport.pages(list[ApiKeyInfo], "/api-keys", {"limit": page_size})

    async def revoke_api_key(self, key_id: str) -> None:
        """Revoke an own key; from then on the engine takes nothing that is signed with it."""
        asked = 0

        async def ask() -> None:
            nonlocal asked
            asked += 1
            await self._transport.ask(ApiKeyInfo, "DELETE", f"/api-keys/{in_path(key_id)}")

        try:
            await repeat(ask, is_repeatable=True, timeout_s=self._transport.timeout_s)
        except ApiError as error:
            # The answer to an earlier attempt was lost: what was wanted is so.
            if asked == 1 or error.code != "NOT_FOUND":
                raise
