"""API keys in one front, with a clock of the test's own: edges of time, what is remembered, how secrets are kept."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st
from tests.web.api_key_maker import (
    KEY_ID,
    KEY_SECRET,
    VAULT,
    ed25519_signature,
    hmac_signature,
    make_stored_key,
    signed_headers,
)
from tests.web.bench import ACCOUNT_ID, Bench, bearer

from tradeengine.ipc.replay_guard import GROUP_WORDS, ReplayGuard, board_bytes
from tradeengine.ipc.segment import Segment
from tradeengine.storage.api_keys import StoredKey
from tradeengine.web import api_keys
from tradeengine.web.api_keys import ApiKeys
from tradeengine.web.errors import ApiError
from tradeengine.web.key_vault import MARK_BITS, KeyVault, SealedForAnotherError, make_secret
from tradeengine.web.signed_requests import (
    Ed25519Verifier,
    HmacVerifier,
    SignedRequest,
    read_public_key,
    read_signed_request,
)

NOW_MS = 1_795_000_100_000
BEGAN_MS = NOW_MS - 100_000
TARGET = "/api/v1/balances"
ADDRESS = "192.0.2.1"


@dataclass
class World:
    """A front's keys; the clock, the stored keys and what the table shows are the test's."""

    stored: dict[int, StoredKey] = field(default_factory=lambda: {KEY_ID: make_stored_key()})
    now_ms: int = NOW_MS
    keys_version: int = 0
    looked_up: int = 0
    while_looking: Callable[[], None] = lambda: None
    keys: ApiKeys = field(init=False)

    def __post_init__(self) -> None:
        self.board = Segment.create("signatures", board_bytes(GROUP_WORDS))
        guard = ReplayGuard(self.board, BEGAN_MS)
        self.keys = ApiKeys(VAULT, guard, self.find, lambda _account_id: self.keys_version)

    async def find(self, key_id: int) -> StoredKey | None:
        """Look a key up."""
        self.looked_up += 1
        found = self.stored.get(key_id)
        self.while_looking()
        return found

    async def ask(self, timestamp: int, window: int | None = None, **changes: Any) -> str:
        """Sign a request and have it identified; returns the user's name, or the code of the refusal."""
        headers = signed_headers(KEY_ID, KEY_SECRET, "GET", TARGET, timestamp=timestamp, window=window)
        try:
            signed = read_signed_request(values_of(headers), "GET", TARGET.encode(), b"", 60_000)
            return (await self.keys.identify(replace(signed, **changes), ADDRESS)).name
        except ApiError as error:
            return error.code


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    """Give keys whose clock stands still."""
    made = World()
    monkeypatch.setattr("tradeengine.web.api_keys.time.time_ns", lambda: made.now_ms * 10**6)
    return made


def values_of(headers: dict[str, str]) -> Callable[[str], list[str]]:
    """Give headers as a request does."""
    return lambda name: [headers[name]] if name in headers else []


@pytest.mark.parametrize(
    ("age_ms", "window", "result"),
    [
        (0, None, "alice"),
        (5000, None, "alice"),
        (5001, None, "UNAUTHORIZED"),
        (-1000, None, "alice"),
        (-1001, None, "UNAUTHORIZED"),
        (1, 1, "alice"),
        (2, 1, "UNAUTHORIZED"),
        (60_000, 60_000, "alice"),
        (60_001, 60_000, "UNAUTHORIZED"),
        (0, 60_001, "UNAUTHORIZED"),
        (0, 0, "UNAUTHORIZED"),
        (NOW_MS, 60_000, "UNAUTHORIZED"),
    ],
)
async def test_time_counts_to_the_millisecond(world: World, age_ms: int, window: int | None, result: str) -> None:
    """A request counts from a second before its time stamp to the last millisecond of its window, and never beyond."""
    assert await world.ask(NOW_MS - age_ms, window) == result


async def test_a_signature_is_known_as_long_as_it_would_count(world: World) -> None:
    """In the first and in the last millisecond of its window a signature that was used is refused."""
    assert await world.ask(NOW_MS + 1000, 60_000) == "alice"
    for now_ms in (NOW_MS, NOW_MS + 30_000, NOW_MS + 61_000, NOW_MS + 61_001):
        world.now_ms = now_ms
        assert await world.ask(NOW_MS + 1000, 60_000) == "UNAUTHORIZED"


async def test_what_was_signed_before_the_start_is_refused(world: World) -> None:
    """A time stamp before the engine's start is refused even where its window is open; one after it counts."""
    world.now_ms = BEGAN_MS + 1000
    assert await world.ask(BEGAN_MS - 1) == "UNAUTHORIZED"
    assert await world.ask(BEGAN_MS) == "alice"


async def test_signatures_that_cannot_be_remembered_are_not_taken(world: World) -> None:
    """When the memory for signatures is full a request is refused for now; nothing that was used counts again."""
    for number in range(GROUP_WORDS):
        assert await world.ask(NOW_MS - number) == "alice"
    assert await world.ask(NOW_MS - GROUP_WORDS) == "ENGINE_OVERLOADED"
    assert await world.ask(NOW_MS) == "UNAUTHORIZED"
    world.now_ms += 7000
    assert await world.ask(world.now_ms) == "alice"


async def test_a_wrong_signature_uses_nothing_up(world: World) -> None:
    """After a wrong signature of the same text the right one counts; refused ones take no memory."""
    for signature in ("0" * 64, "", "x" * 64, hmac_signature("another", b"")):
        assert await world.ask(NOW_MS, signature=signature) == "UNAUTHORIZED"
    assert await world.ask(NOW_MS, key_id=VAULT.make_id(NOW_MS)) == "UNAUTHORIZED"
    assert await world.ask(NOW_MS) == "alice"


async def test_a_key_is_looked_up_once_until_one_is_revoked(world: World) -> None:
    """A key is asked of the database once, and again when the table shows that keys of its account were revoked."""
    for number in range(3):
        assert await world.ask(NOW_MS - number) == "alice"
    assert world.looked_up == 1
    world.keys_version = 1
    world.stored[KEY_ID] = make_stored_key(keys_version=1)
    for number in range(3, 6):
        assert await world.ask(NOW_MS - number) == "alice"
    assert world.looked_up == 2
    world.keys_version = 2
    world.stored[KEY_ID] = make_stored_key(keys_version=2, revoked_at=world.stored[KEY_ID].created_at)
    for number in range(6, 9):
        assert await world.ask(NOW_MS - number) == "UNAUTHORIZED"
    assert world.looked_up == 3


async def test_a_key_that_is_revoked_while_it_is_looked_up_is_looked_up_again(world: World) -> None:
    """What was read before a revocation, and is remembered after it, does not count."""

    def revoke() -> None:
        world.keys_version = 1
        world.stored[KEY_ID] = make_stored_key(keys_version=1, revoked_at=world.stored[KEY_ID].created_at)

    world.while_looking = revoke
    await world.ask(NOW_MS)  # was on its way when the key was revoked: either is right
    assert await world.ask(NOW_MS - 1) == "UNAUTHORIZED"


async def test_ids_that_were_never_given_out_ask_no_database(world: World) -> None:
    """Guessed ids are refused without a look-up, however many come."""
    for key_id in (*range(1, 500), *range(KEY_ID + 1, KEY_ID + 500), 2**63 - 1):
        assert await world.ask(NOW_MS, key_id=key_id) == "UNAUTHORIZED"
    assert world.looked_up == 0


async def test_remembered_keys_are_bounded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many keys are used, only so many are remembered, the latest."""
    monkeypatch.setattr(api_keys, "CACHED_KEYS_MAX", 3)
    ids = [VAULT.make_id(NOW_MS + number) for number in range(5)]
    for key_id in ids:
        world.stored[key_id] = make_stored_key(key_id)
        signed = _signed(key_id, NOW_MS)
        assert (await world.keys.identify(signed, ADDRESS)).key_id == str(key_id)
    assert list(world.keys._known) == ids[2:]


async def test_a_secret_that_does_not_open_signs_nothing(world: World) -> None:
    """A sealed secret from another row, or under another master, makes a key that is refused, and no fault."""
    other_id = VAULT.make_id(NOW_MS)
    for sealed in (
        VAULT.seal(KEY_SECRET, other_id, ACCOUNT_ID),
        VAULT.seal(KEY_SECRET, KEY_ID, ACCOUNT_ID + 1),
        KeyVault("another master of more than enough characters").seal(KEY_SECRET, KEY_ID, ACCOUNT_ID),
        b"",
    ):
        world.stored[KEY_ID] = make_stored_key(sealed_secret=sealed, keys_version=world.keys_version)
        assert await world.ask(NOW_MS) == "UNAUTHORIZED"
        world.keys_version += 1


def _signed(key_id: int, timestamp: int) -> SignedRequest:
    headers = signed_headers(key_id, KEY_SECRET, "GET", TARGET, timestamp=timestamp)
    return read_signed_request(values_of(headers), "GET", TARGET.encode(), b"", 60_000)


def test_sealed_secrets_differ_and_open_for_their_key_only() -> None:
    """The same secret is sealed differently each time, opens for its key only, and a flipped bit is noticed."""
    sealed = VAULT.seal(KEY_SECRET, KEY_ID, ACCOUNT_ID)
    assert sealed != VAULT.seal(KEY_SECRET, KEY_ID, ACCOUNT_ID)
    assert KEY_SECRET.encode() not in sealed
    assert VAULT.unseal(sealed, KEY_ID, ACCOUNT_ID) == KEY_SECRET
    for position in range(len(sealed)):
        flipped = sealed[:position] + bytes([sealed[position] ^ 1]) + sealed[position + 1 :]
        with pytest.raises(SealedForAnotherError):
            VAULT.unseal(flipped, KEY_ID, ACCOUNT_ID)


def test_ids_grow_with_time_and_bear_a_mark() -> None:
    """Later ids are larger, each is known as one of ours, and hardly any other number is."""
    ids = [VAULT.make_id(NOW_MS + number) for number in range(1000)]
    assert ids == sorted(set(ids))
    assert all(VAULT.may_exist(key_id) for key_id in ids)
    guessed = sum(VAULT.may_exist((NOW_MS << MARK_BITS) + number) for number in range(10_000))
    assert guessed <= 1
    assert not VAULT.may_exist(0)
    assert not VAULT.may_exist(-ids[0])
    assert not VAULT.may_exist(ids[0] + (1 << 64))


def test_secrets_can_be_typed() -> None:
    """A secret is 43 characters of those that a shell leaves alone, no two the same."""
    secrets = {make_secret() for _ in range(300)}
    assert len(secrets) == 300
    assert all(len(secret) == 43 and secret.isascii() and secret[0] != "-" for secret in secrets)


@pytest.mark.parametrize(
    "changes",
    [
        {"X-API-Timestamp": "+1795000100000"},
        {"X-API-Timestamp": " 1795000100000"},
        {"X-API-Timestamp": "01795000100000"},
        {"X-API-Timestamp": "1795000100000.0"},
        {"X-API-Timestamp": "1_795_000_100_000"},
        {"X-API-Timestamp": "١٧٩٥٠٠٠١٠٠٠٠٠"},
        {"X-API-Timestamp": "9" * 400},
        {"X-API-Window": "-1"},
        {"X-API-Window": "5e3"},
        {"X-API-Window": ""},
        {"X-API-Key": "0"},
        {"X-API-Key": "x"},
        {"X-API-Key": "9" * 20},
        {"X-API-Key": "1' OR '1'='1"},
    ],
)
def test_headers_have_one_form(changes: dict[str, str]) -> None:
    """Numbers that could be read in two ways, or are none, are refused before anything is looked up."""
    headers = signed_headers(KEY_ID, KEY_SECRET, "GET", TARGET, timestamp=NOW_MS, window=5000) | changes
    with pytest.raises(ApiError) as refused:
        read_signed_request(values_of(headers), "GET", TARGET.encode(), b"", 60_000)
    assert refused.value.code == "UNAUTHORIZED"


@given(st.binary(), st.binary(), st.text(max_size=200))
def test_only_the_right_signature_verifies(content: bytes, other: bytes, text: str) -> None:
    """A signature is right for what was signed, wrong for anything else, and any other text is wrong and no fault."""
    private = Ed25519PrivateKey.generate()
    for verifier, signature in (
        (HmacVerifier(KEY_SECRET), hmac_signature(KEY_SECRET, content)),
        (Ed25519Verifier(private.public_key().public_bytes_raw()), ed25519_signature(private, content)),
    ):
        assert verifier.verifies(content, signature)
        assert verifier.verifies(other, signature) is (other == content)
        assert not verifier.verifies(content, text)
        assert not verifier.verifies(content, signature + "=")
        assert not verifier.verifies(content, signature + "\n")


def test_public_keys_are_read_raw_and_as_pem() -> None:
    """A public key is the same, raw or as PEM; a key of another kind, or a private one, is refused."""
    private = Ed25519PrivateKey.generate()
    raw = private.public_key().public_bytes_raw()
    pem = private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    assert read_public_key(base64.b64encode(raw).decode()) == raw == read_public_key(f"\n{pem}\n")
    other = Ed448PrivateKey.generate().public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    for wrong in (other.decode(), raw.hex(), base64.b64encode(raw[:-1]).decode(), "", pem[:-30], pem.upper()):
        with pytest.raises(ValueError):  # noqa: PT011 - whichever: the call that reads it says its own sentence
            read_public_key(wrong)


async def test_a_key_is_made_and_signs(bench: Bench) -> None:
    """The call that makes a key shows the secret that signs, which nobody else is shown, nor a cache."""
    body = json.dumps({"name": "bot", "permissions": ["read"]})
    answer = await bench.client.post("/api/v1/api-keys", data=body, headers=bearer())
    made = (await answer.get_json())["data"]
    assert answer.status_code == 201
    assert answer.headers["Cache-Control"] == "no-store"
    assert made["secret"] not in repr(bench.database.keys[int(made["id"])])
    headers = signed_headers(made["id"], made["secret"], "GET", TARGET)
    assert (await bench.client.get(TARGET, headers=headers)).status_code == 200
    assert (await bench.client.get(TARGET, headers=headers)).status_code == 401
    assert bench.database.asked == ["add_key", "find_key"]
