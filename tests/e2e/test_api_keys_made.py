"""API keys as they are made: what may be in them and what not, whose they are, and how many a user may have."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import pytest
from tests.e2e.test_api_keys import BALANCES, ask, make_key
from tests.e2e.users import NewUser, User
from tests.engines import Engine

KEYS_MAX = 20
"""The default of ``keys.per_account_max``."""
Json = dict[str, Any]


@pytest.fixture
def alice(new_user: NewUser) -> User:
    """Give a user without keys."""
    return new_user("alice")


def test_others_keys_do_not_exist(engine: Engine, alice: User, stranger: User) -> None:
    """Another user's key is not listed, and to revoke it is 404; so is what is no id. The key goes on."""
    key = make_key(alice)
    assert stranger.call("GET", "/api-keys") == []
    for name in (key[0], "1", "0", "x", "9" * 19, "9" * 20, "1' OR '1'='1"):
        assert stranger.call("DELETE", f"/api-keys/{name}", 404)["code"] == "NOT_FOUND"
    with httpx2.Client(base_url=engine.url, timeout=20, trust_env=False) as client:
        assert ask(client, key, "GET", BALANCES).status_code == 200


WRONG_KEYS: list[tuple[Json, str]] = [
    ({"name": ""}, "name"),
    ({"name": "x" * 65}, "name"),
    ({"name": "line\nfeed"}, "name"),
    ({"name": "zero\0"}, "name"),
    ({"name": "\u202eright to left"}, "name"),
    ({"name": 7}, "name"),
    ({"permissions": []}, "permissions"),
    ({"permissions": ["read", "admin"]}, "permissions"),
    ({"permissions": "read"}, "permissions"),
    ({"addresses": ["localhost"]}, "addresses"),
    ({"addresses": ["10.0.0.1/8"]}, "addresses"),
    ({"addresses": ["10.0.0.0/33"]}, "addresses"),
    ({"addresses": ["fe80::1%eth0"]}, "addresses"),
    ({"addresses": ["1.2.3.4'; DROP TABLE api_keys; --"]}, "addresses"),
    ({"addresses": ["1" * 5000]}, "addresses"),
    ({"addresses": ["10.0.0.1"] * 33}, "addresses"),
    ({"algorithm": "none"}, "algorithm"),
    ({"algorithm": "ed25519"}, "public_key"),
    ({"public_key": "AAAA"}, "public_key"),
    ({"algorithm": "ed25519", "public_key": "AAAA"}, "public_key"),
    (
        {"algorithm": "ed25519", "public_key": "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----"},
        "public_key",
    ),
    ({"algorithm": "ed25519", "public_key": "\u00fc" * 44}, "public_key"),
    ({"algorithm": "ed25519", "public_key": "-----BEGIN PUBLIC KEY-----" + "\u00fc"}, "public_key"),
    ({"algorithm": "ed25519", "public_key": "A" * 5000}, "public_key"),
    ({"two_factor": True}, "two_factor"),
    ({"role": "admin"}, "role"),
]


@pytest.mark.parametrize(("wrong", "field"), WRONG_KEYS)
def test_a_wrong_key_is_refused_by_field(alice: User, wrong: Json, field: str) -> None:
    """What a key may not have is refused with the name of the field, and no key is made."""
    error = alice.call("POST", "/api-keys", 400, json={"name": "bot", "permissions": ["read"], **wrong})
    assert error["details"]["field"] == field
    assert alice.call("GET", "/api-keys") == []


@pytest.mark.parametrize(
    "name", ["'; DROP TABLE api_keys; --", "<script>alert(1)</script>", "{{7*7}} %s $1", "日本 🔑", "x" * 64]
)
def test_a_name_is_only_text(alice: User, name: str) -> None:
    """Whatever is printable may be a name; it comes back as it was given and does nothing."""
    make_key(alice, name=name)
    assert [key["name"] for key in alice.call("GET", "/api-keys")] == [name]


def test_keys_of_a_user_are_bounded(alice: User) -> None:
    """A user may have so many keys and not one more, however many ask at once; a revoked one makes room. Pages work."""
    with ThreadPoolExecutor(8) as pool:
        statuses = list(pool.map(lambda _: try_to_make_key(alice), range(KEYS_MAX + 5)))
    assert sorted(statuses) == [201] * KEYS_MAX + [422] * 5
    listed = alice.call("GET", "/api-keys")
    assert len(listed) == KEYS_MAX
    assert [int(key["id"]) for key in listed] == sorted((int(key["id"]) for key in listed), reverse=True)
    first = alice.http.get("/api-keys?limit=5").json()
    rest = alice.http.get(f"/api-keys?cursor={first['meta']['next_cursor']}").json()
    assert first["data"] + rest["data"] == listed
    assert rest["meta"]["next_cursor"] is None
    alice.call("DELETE", f"/api-keys/{listed[3]['id']}")
    make_key(alice)
    assert try_to_make_key(alice) == 422


def try_to_make_key(user: User) -> int:
    """Try to make a key on another connection; returns the status."""
    with httpx2.Client(base_url=user.http.base_url, headers=user.http.headers, timeout=20, trust_env=False) as http:
        return http.post("/api-keys", json={"name": "one of many", "permissions": ["read"]}).status_code
