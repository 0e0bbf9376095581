"""What requests and answers about API keys look like; the rules are those of ``schemas``."""

from __future__ import annotations

from typing import Annotated, Final, Literal, TypeAlias

from msgspec import Meta, Struct

from tradeengine.web.fields import Id, Time
from tradeengine.web.schemas import LIMIT_DEFAULT, LIMIT_MAX, answer_of

NAME_CHARACTERS_MAX: Final = 64
ADDRESSES_MAX: Final = 32

PermissionName: TypeAlias = Literal["read", "trade"]
AlgorithmName: TypeAlias = Literal["hmac-sha256", "ed25519"]

_NAME: Final = f"1 to {NAME_CHARACTERS_MAX} printable characters, for people."
_PERMISSIONS: Final = "read: look at what is the user's own. trade: place, change and cancel orders."
_ADDRESSES: Final = (
    "Addresses and networks (192.0.2.7, 2001:db8::/32) from where it may be used, at most "
    f"{ADDRESSES_MAX}; none: from anywhere."
)
_TWO_FACTOR: Final = (
    "Whether its maker had signed in with a second factor; if so, requests signed with it count so, too."
)


class CreateApiKey(Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """A key to make."""

    name: Annotated[str, Meta(description=_NAME, extra_json_schema={"minLength": 1, "maxLength": NAME_CHARACTERS_MAX})]
    permissions: Annotated[
        list[PermissionName], Meta(description=_PERMISSIONS, extra_json_schema={"minItems": 1, "uniqueItems": True})
    ]
    addresses: Annotated[list[str], Meta(description=_ADDRESSES, extra_json_schema={"maxItems": ADDRESSES_MAX})] = []
    algorithm: AlgorithmName = "hmac-sha256"
    public_key: Annotated[
        str | None, Meta(description="With ed25519, and only then: its 32 bytes in base64, or PEM.")
    ] = None


class ApiKey(Struct, frozen=True, kw_only=True):
    """A key that counts."""

    id: Annotated[Id, Meta(description="What X-API-Key says.")]
    name: str
    algorithm: AlgorithmName
    permissions: Annotated[list[PermissionName], Meta(description=_PERMISSIONS)]
    addresses: Annotated[list[str], Meta(description=_ADDRESSES)]
    two_factor: Annotated[bool, Meta(description=_TWO_FACTOR)]
    created_at: Time


class NewApiKey(ApiKey, frozen=True, kw_only=True):
    """A key that was just made."""

    secret: Annotated[
        str | None, Meta(description="What to sign with; it is never shown again. null: ed25519, the maker has it.")
    ]


NewApiKeyAnswer = answer_of("NewApiKeyAnswer", NewApiKey)
ApiKeyAnswer = answer_of("ApiKeyAnswer", ApiKey)
ApiKeysAnswer = answer_of("ApiKeysAnswer", list[ApiKey])


class ApiKeysQuery(Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """Which part of the list."""

    limit: Annotated[int, Meta(ge=1, le=LIMIT_MAX)] = LIMIT_DEFAULT
    cursor: Annotated[str | None, Meta(description="Opaque: meta.next_cursor of the answer before.")] = None
