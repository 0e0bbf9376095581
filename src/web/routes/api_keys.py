"""API keys: make one, list those that count, revoke one. Only with a token of one's own: a key makes no keys."""

from __future__ import annotations

import time
from ipaddress import IPv6Network, ip_network
from typing import Final

import msgspec
from quart import Blueprint, Response, request

from tradeengine.core.times import format_ms
from tradeengine.storage import api_keys
from tradeengine.storage.api_keys import KeyIdTakenError, StoredKey, TooManyKeysError
from tradeengine.web import schemas_api_keys as schemas
from tradeengine.web.access import Access, caller
from tradeengine.web.api_keys import NS_PER_MS
from tradeengine.web.envelope import success
from tradeengine.web.errors import ApiError, invalid_field, overloaded
from tradeengine.web.front import Front, current_front, read_json
from tradeengine.web.key_vault import make_secret
from tradeengine.web.openapi import describe
from tradeengine.web.paging import decode_cursor, encode_cursor, parse_id
from tradeengine.web.signed_requests import read_public_key
from tradeengine.web.validation import read_query

blueprint = Blueprint("api_keys", __name__)
_TAG: Final = "api keys"
_ADDRESS_CHARACTERS_MAX: Final = 64
_IPV4_MAPPED: Final = ip_network("::ffff:0:0/96")
_ID_ATTEMPTS_MAX: Final = 20
_KEY_WEIGHT: Final = 10


@blueprint.post("/api-keys")
@describe(
    tags=_TAG,
    body=schemas.CreateApiKey,
    answers={201: schemas.NewApiKeyAnswer},
    access=Access.USER,
    weight=_KEY_WEIGHT,
)
async def create_api_key() -> Response:
    """Make a key for a program.

    The answer shows the secret, and nothing shows it again. Requests are signed with it as docs/api-keys.md says. A key
    acts for its maker, with the permissions that it was given; it never does what administrators may.
    """
    front = current_front()
    identity = caller()
    wanted = await read_json(schemas.CreateApiKey)
    _check_name(wanted.name)
    if not wanted.permissions:
        raise invalid_field("permissions", "permissions must name at least one of: read, trade.")
    addresses = _read_addresses(wanted.addresses)
    public_key = _read_public_key(wanted)
    account_id = await front.account_id(identity.name)
    secret = make_secret() if public_key is None else None
    for key_id in _ids(front):
        key = StoredKey(
            key_id=key_id,
            account_id=account_id,
            name=wanted.name,
            algorithm=wanted.algorithm,
            permissions=tuple(sorted(set(wanted.permissions))),
            addresses=addresses,
            two_factor=identity.two_factor,
            sealed_secret=None if secret is None else front.api_keys.vault.seal(secret, key_id, account_id),
            public_key=public_key,
        )
        try:
            return success(_show_new(await _add(front, key), secret), 201)
        except KeyIdTakenError:
            continue  # of this millisecond: another one was made in it
    raise overloaded()


@blueprint.get("/api-keys")
@describe(tags=_TAG, query=schemas.ApiKeysQuery, answers={200: schemas.ApiKeysAnswer}, access=Access.USER)
async def list_api_keys() -> Response:
    """List own keys that count, newest first."""
    front = current_front()
    query = read_query(request.args, schemas.ApiKeysQuery)
    account_id = await front.account_id(caller().name)
    before_id = decode_cursor(query.cursor) if query.cursor else None
    found = await front.database.run(api_keys.list_keys, account_id, before_id=before_id, limit=query.limit + 1)
    page = found[: query.limit]
    next_cursor = encode_cursor(page[-1].key_id) if len(found) > query.limit else None
    return success([_show(key) for key in page], next_cursor=next_cursor)


@blueprint.delete("/api-keys/<key_id>")
@describe(tags=_TAG, answers={200: schemas.ApiKeyAnswer}, access=Access.USER)
async def revoke_api_key(key_id: str) -> Response:
    """Revoke an own key. Once this is answered, nobody takes a request signed with it; its connections are closed."""
    front = current_front()
    account_id = await front.account_id(caller().name)
    number = parse_id(key_id, "NOT_FOUND")
    version = await front.database.run(api_keys.revoke_key, account_id, number)
    if version is None:
        raise ApiError("NOT_FOUND", "You have no such API key.", {"field": "id"})
    await front.in_force.wait(account_id, version)
    revoked = await front.database.run(api_keys.find_key, number)
    assert revoked is not None
    return success(_show(revoked))


async def _add(front: Front, key: StoredKey) -> StoredKey:
    keys_max = front.settings.keys.per_account_max
    try:
        return await front.database.run(api_keys.add_key, key, keys_max=keys_max)
    except TooManyKeysError:
        message = f"You have {keys_max} API keys, as many as there may be; revoke one first."
        raise ApiError("LIMIT_EXCEEDED", message, {"maximum": keys_max}) from None


def _show(key: StoredKey) -> schemas.ApiKey:
    assert key.created_at is not None
    return schemas.ApiKey(
        id=str(key.key_id),
        name=key.name,
        algorithm=key.algorithm,  # type: ignore[arg-type]  # the table takes no other
        permissions=list(key.permissions),  # type: ignore[arg-type]  # likewise
        addresses=list(key.addresses),
        two_factor=key.two_factor,
        created_at=format_ms(int(key.created_at.timestamp() * 1000)),
    )


def _show_new(key: StoredKey, secret: str | None) -> schemas.NewApiKey:
    return schemas.NewApiKey(**msgspec.structs.asdict(_show(key)), secret=secret)


def _ids(front: Front) -> list[int]:
    now_ms = time.time_ns() // NS_PER_MS
    return [front.api_keys.vault.make_id(now_ms + attempt) for attempt in range(_ID_ATTEMPTS_MAX)]


def _check_name(name: str) -> None:
    if not 1 <= len(name) <= schemas.NAME_CHARACTERS_MAX or not name.isprintable():
        maximum = schemas.NAME_CHARACTERS_MAX
        raise invalid_field("name", f"name must be 1 to {maximum} printable characters.", minimum=1, maximum=maximum)


def _read_addresses(texts: list[str]) -> tuple[str, ...]:
    if len(texts) > schemas.ADDRESSES_MAX:
        maximum = schemas.ADDRESSES_MAX
        raise invalid_field("addresses", f"addresses may hold {maximum} at most.", maximum=maximum)
    return tuple(dict.fromkeys(_read_network(text) for text in texts))


def _read_network(text: str) -> str:
    """Write an address or a network in the one way in which it is kept. Raises ApiError."""
    try:
        # A zone ("%eth0") means something on one machine only.
        network = ip_network(text[:_ADDRESS_CHARACTERS_MAX].replace("%", " "))
    except ValueError:
        message = "addresses must be IP addresses, or networks as 192.0.2.0/24 whose host bits are 0."
        raise invalid_field("addresses", message) from None
    if isinstance(network, IPv6Network) and network.subnet_of(_IPV4_MAPPED):  # type: ignore[arg-type]
        mapped = network.network_address.ipv4_mapped
        return str(ip_network(f"{mapped}/{network.prefixlen - 96}"))
    return str(network)


def _read_public_key(wanted: schemas.CreateApiKey) -> bytes | None:
    if (wanted.algorithm == "ed25519") != (wanted.public_key is not None):
        raise invalid_field("public_key", "public_key belongs to the algorithm ed25519, and only to that.")
    if wanted.public_key is None:
        return None
    try:
        return read_public_key(wanted.public_key)
    except ValueError:
        message = "public_key must be an Ed25519 public key: its 32 bytes in base64, or PEM."
        raise invalid_field("public_key", message) from None
