"""API keys on two fronts: what is signed counts once and as it was signed, and a key does what it says."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any

import httpx2
import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from tests.e2e.users import User, connect_database, make_user
from tests.engines import Engine, running_engine
from tests.web.api_key_maker import now_ms, signed_headers

from tradeengine.actors.data_dir import MASTER_NAME, read_secret
from tradeengine.web.auth import issue_token

FUNDS = {"USDT": "1000000", "BTC": "10"}
ORDER = {"symbol": "BTC/USDT", "side": "buy", "type": "limit", "quantity": "0.01", "price": "20000"}
ORDERS = "/api/v1/orders"
BALANCES = "/api/v1/balances"
CONNECTIONS_MAX = 64
ENVIRONMENT = {
    "TRADEENGINE_HTTP_TRUSTED_PROXIES": "127.0.0.1",
    "TRADEENGINE_LOG_LEVEL": "debug",
    "TRADEENGINE_LOG_ACCESS": "true",
}
Json = dict[str, Any]
Secret = str | Ed25519PrivateKey


@pytest.fixture(scope="module")
def venue(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """Run an engine with two fronts behind a proxy that writes everything down."""
    with running_engine(tmp_path_factory.mktemp("keys"), ["--fronts", "2"], ENVIRONMENT) as running:
        yield running


@pytest.fixture
def alice(venue: Engine) -> Iterator[User]:
    """Give a rich user with a token."""
    user = make_user(venue, "alice", FUNDS)
    yield user
    user.http.close()


@pytest.fixture
def bob(venue: Engine) -> Iterator[User]:
    """Give a user with a token and no money."""
    user = make_user(venue, "bob")
    yield user
    user.http.close()


@pytest.fixture(scope="module")
def fronts(venue: Engine) -> Iterator[list[httpx2.Client]]:
    """Connect to each of the two fronts."""
    with connected_fronts(venue) as clients:
        yield clients


@contextmanager
def connected_fronts(venue: Engine) -> Iterator[list[httpx2.Client]]:
    """Connect to each of the two fronts: which one takes a connection is the kernel's choice, so until both did."""
    found: dict[int, httpx2.Client] = {}
    with ExitStack() as stack:
        for _ in range(CONNECTIONS_MAX):
            client = stack.enter_context(httpx2.Client(base_url=venue.url, timeout=20, trust_env=False))
            found.setdefault(front_of(client), client)
            if len(found) == 2:
                break
        assert len(found) == 2, "all connections are to one front"
        yield list(found.values())


def front_of(client: httpx2.Client) -> int:
    """Find out which front a connection is to: the one that counts what is asked on it, and nobody else asks."""
    before, after = requests_of_fronts(client), requests_of_fronts(client)
    (front,) = (number for number in before if after[number] > before[number])
    return front


def requests_of_fronts(client: httpx2.Client) -> dict[int, float]:
    """Read how many requests each front has answered."""
    lines = client.get("/metrics").text.splitlines()
    rows = [line.rpartition(" ") for line in lines if line.startswith("tradeengine_front_requests_total{")]
    return {number: sum(float(v) for name, _, v in rows if f'"front-{number}"' in name) for number in (0, 1)}


def make_key(user: User, **wanted: Any) -> tuple[str, Any]:
    """Make a key; returns its id and its secret."""
    made = user.call("POST", "/api-keys", 201, json={"name": "bot", "permissions": ["read", "trade"], **wanted})
    return made["id"], made["secret"]


def ask(
    client: httpx2.Client, key: tuple[str, Secret], method: str, target: str, body: Json | None = None, **how: Any
) -> httpx2.Response:
    """Send a signed request. how: what to sign otherwise, see ``signed_headers``."""
    content = b"" if body is None else msgspec.json.encode(body)
    return client.request(method, target, content=content, headers=signed_headers(*key, method, target, content, **how))


def code_of(answer: httpx2.Response) -> str:
    """Give the code of a refusal; of a success its status."""
    body = answer.json()
    return str(answer.status_code) if body["success"] else str(body["error"]["code"])


def test_a_key_trades_on_every_front(alice: User, fronts: list[httpx2.Client]) -> None:
    """A program with a key places, looks at and cancels its user's orders, on whichever front."""
    key = make_key(alice)
    for client in fronts:
        placed = ask(client, key, "POST", ORDERS, ORDER)
        assert placed.status_code == 201, placed.text
        order_id = placed.json()["data"]["order"]["id"]
        assert ask(client, key, "GET", f"{ORDERS}?symbol=BTC%2FUSDT&limit=5").json()["data"][0]["id"] == order_id
        assert ask(client, key, "DELETE", f"{ORDERS}/{order_id}").status_code == 200
        assert alice.order(order_id)["status"] == "cancelled"


def test_a_signature_counts_once_on_all_fronts(alice: User, fronts: list[httpx2.Client]) -> None:
    """What was sent to one front is refused by it the second time, and by the other one; nothing is placed twice."""
    key = make_key(alice)
    body = msgspec.json.encode(ORDER)
    for first in fronts:
        headers = signed_headers(*key, "POST", ORDERS, body)
        assert first.post(ORDERS, content=body, headers=headers).status_code == 201
        for client in (first, *fronts):
            again = client.post(ORDERS, content=body, headers=headers)
            assert (again.status_code, code_of(again)) == (401, "UNAUTHORIZED")
            upper = headers | {"X-API-Signature": headers["X-API-Signature"].upper()}
            assert client.post(ORDERS, content=body, headers=upper).status_code == 401
    assert len(alice.call("GET", "/orders")) == len(fronts)


def test_one_signature_sent_many_times_at_once_counts_once(venue: Engine, alice: User) -> None:
    """Of the same request on many connections at the same time one at most is carried out."""
    key = make_key(alice)
    body = msgspec.json.encode(ORDER)
    for _ in range(5):
        headers = signed_headers(*key, "POST", ORDERS, body)

        def send(_: int, headers: dict[str, str] = headers) -> int:
            with httpx2.Client(base_url=venue.url, timeout=20, trust_env=False) as client:
                return client.post(ORDERS, content=body, headers=headers).status_code

        with ThreadPoolExecutor(8) as pool:
            statuses = sorted(pool.map(send, range(8)))
        assert statuses[0] in {201, 401}
        assert statuses[1:] == [401] * 7
    assert len(alice.call("GET", "/orders")) <= 5


def test_nothing_of_what_is_signed_can_be_changed(alice: User, fronts: list[httpx2.Client]) -> None:
    """Another body, path, query, method, time stamp or window than was signed is refused, and nothing is done."""
    key = make_key(alice)
    client = fronts[0]
    body = msgspec.json.encode(ORDER)
    dearer = msgspec.json.encode(ORDER | {"price": "20001"})
    good = signed_headers(*key, "POST", ORDERS, body)
    tries = [
        client.post(ORDERS, content=dearer, headers=good),
        client.post(ORDERS, content=body + b" ", headers=good),
        client.post(ORDERS, content=b"", headers=good),
        client.delete(f"{ORDERS}?symbol=BTC-USDT", headers=signed_headers(*key, "DELETE", ORDERS)),
        client.post(f"{ORDERS}/test", content=body, headers=good),
        client.request("DELETE", ORDERS, content=body, headers=good),
        client.post(ORDERS, content=body, headers=good | {"X-API-Timestamp": str(int(good["X-API-Timestamp"]) + 1)}),
        client.post(ORDERS, content=body, headers=good | {"X-API-Window": "60000"}),
        client.get(f"{ORDERS}?limit=2", headers=signed_headers(*key, "GET", f"{ORDERS}?limit=1")),
        client.get(f"{ORDERS}?limit=1&side=buy", headers=signed_headers(*key, "GET", f"{ORDERS}?side=buy&limit=1")),
        client.get("/api/v1/%62alances", headers=signed_headers(*key, "GET", BALANCES)),
    ]
    assert [code_of(answer) for answer in tries] == ["UNAUTHORIZED"] * len(tries)
    assert alice.call("GET", "/orders") == []
    # None of them used the signature up.
    assert client.post(ORDERS, content=body, headers=good).status_code == 201


def test_clocks_may_differ_by_as_much_as_is_said(alice: User, fronts: list[httpx2.Client]) -> None:
    """A request that is too old or from the future is refused, with the engine's time; windows have a greatest size."""
    key = make_key(alice)
    for client in fronts:
        answers = {
            offset_ms: ask(client, key, "GET", BALANCES, timestamp=now_ms() + offset_ms)
            for offset_ms in (-60_000, -6000, 0, 500, 10_000, 3_600_000)
        }
        refused = {offset_ms for offset_ms, answer in answers.items() if answer.status_code == 401}
        assert refused == {-60_000, -6000, 10_000, 3_600_000}
        told = answers[10_000].json()["error"]["details"]
        assert abs(told["server_time_ms"] - now_ms()) < 60_000
        assert ask(client, key, "GET", BALANCES, window=60_000).status_code == 200
        assert ask(client, key, "GET", BALANCES, window=60_001).status_code == 401


def test_wrong_keys_are_refused(alice: User, bob: User, fronts: list[httpx2.Client]) -> None:
    """An unknown id, another key's secret, an empty or a cut signature: 401, and no order."""
    own, others = make_key(alice), make_key(bob)
    unknown = str(int(own[0]) ^ 1)
    body = msgspec.json.encode(ORDER)
    good = signed_headers(*own, "POST", ORDERS, body)
    wrong = [
        signed_headers(own[0], others[1], "POST", ORDERS, body),
        signed_headers(others[0], own[1], "POST", ORDERS, body),
        signed_headers(unknown, own[1], "POST", ORDERS, body),
        signed_headers("1", own[1], "POST", ORDERS, body),
        good | {"X-API-Signature": ""},
        good | {"X-API-Signature": good["X-API-Signature"][:-2]},
        good | {"X-API-Signature": "0" * 64},
    ]
    wrong += [{name: value for name, value in good.items() if name != missing} for missing in good]
    for headers in wrong:
        answer = fronts[0].post(ORDERS, content=body, headers=headers)
        assert (answer.status_code, code_of(answer)) == (401, "UNAUTHORIZED"), headers
        assert "WWW-Authenticate" in answer.headers
    raw = [(name.encode(), value.encode()) for name, value in good.items() if name != "X-API-Signature"]
    answer = fronts[0].post(ORDERS, content=body, headers=[*raw, (b"X-API-Signature", "é".encode())])
    assert answer.status_code == 401
    assert alice.call("GET", "/orders") == []


def test_revoked_key_is_refused_at_once_on_every_front(alice: User, fronts: list[httpx2.Client]) -> None:
    """When the call that revokes a key is answered no front takes it any more; the user's other key goes on."""
    doomed, other = make_key(alice), make_key(alice)
    for _ in range(5):
        for client in fronts:
            assert ask(client, doomed, "GET", BALANCES).status_code == 200
            assert ask(client, other, "GET", BALANCES).status_code == 200
        assert alice.call("DELETE", f"/api-keys/{doomed[0]}")["id"] == doomed[0]
        for client in fronts:
            assert ask(client, doomed, "POST", ORDERS, ORDER).status_code == 401
            assert ask(client, other, "GET", BALANCES).status_code == 200
        assert alice.call("DELETE", f"/api-keys/{doomed[0]}", 404)["code"] == "NOT_FOUND"
        assert [key["id"] for key in alice.call("GET", "/api-keys")] == [other[0]]
        doomed = make_key(alice)
    assert alice.call("GET", "/orders") == []


def test_a_key_does_only_what_it_may(alice: User, fronts: list[httpx2.Client]) -> None:
    """A key for reading places nothing, one for trading reads nothing; neither makes, lists or revokes keys."""
    reader, trader = make_key(alice, permissions=["read"]), make_key(alice, permissions=["Trade"])
    client = fronts[0]
    order_id = ask(client, trader, "POST", ORDERS, ORDER).json()["data"]["order"]["id"]
    assert ask(client, reader, "GET", f"{ORDERS}/{order_id}").status_code == 200
    refused = [
        ask(client, reader, "POST", ORDERS, ORDER),
        ask(client, reader, "POST", f"{ORDERS}/test", ORDER),
        ask(client, reader, "PATCH", f"{ORDERS}/{order_id}", {"quantity": "0.005"}),
        ask(client, reader, "DELETE", f"{ORDERS}/{order_id}"),
        ask(client, reader, "DELETE", ORDERS),
        ask(client, trader, "GET", f"{ORDERS}/{order_id}"),
        ask(client, trader, "GET", BALANCES),
        ask(client, trader, "GET", "/api/v1/trades?scope=mine"),
    ]
    for key in (reader, trader):
        refused += [
            ask(client, key, "POST", "/api/v1/api-keys", {"name": "x", "permissions": ["read"]}),
            ask(client, key, "GET", "/api/v1/api-keys"),
            ask(client, key, "DELETE", f"/api/v1/api-keys/{key[0]}"),
        ]
    assert [(answer.status_code, code_of(answer)) for answer in refused] == [(403, "FORBIDDEN")] * len(refused)
    assert alice.order(order_id)["status"] == "open"
    assert ask(client, reader, "GET", "/api/v1/trades?symbol=BTC-USDT").status_code == 200


def test_a_key_may_be_bound_to_addresses(alice: User, fronts: list[httpx2.Client]) -> None:
    """A key with addresses is taken from these and no other, as the trusted proxy tells them."""
    key = make_key(alice, addresses=["198.51.100.7", "203.0.113.0/24", "2001:db8::/32", "::ffff:192.0.2.0/120"])
    allowed = (
        "198.51.100.7",
        "203.0.113.255",
        "2001:db8::1",
        "::ffff:198.51.100.7",
        "192.0.2.77",
        "9.9.9.9, 203.0.113.1",
    )
    refused = ("198.51.100.8", "203.0.114.0", "2001:db9::1", "192.0.3.1", "203.0.113.1, 9.9.9.9", "", "unknown")
    for client in fronts:
        for address, status in (*((a, 200) for a in allowed), *((a, 403) for a in refused)):
            headers = signed_headers(*key, "GET", BALANCES) | {"X-Forwarded-For": address}
            assert client.get(BALANCES, headers=headers).status_code == status, address
    shown = alice.call("GET", "/api-keys")[0]["addresses"]
    assert shown == ["198.51.100.7/32", "203.0.113.0/24", "2001:db8::/32", "192.0.2.0/24"]


def test_ed25519_keys_sign(alice: User, bob: User, fronts: list[httpx2.Client]) -> None:
    """A public key, raw or as PEM, makes a key without a secret; its private half signs, and no other."""
    private = Ed25519PrivateKey.generate()
    public = private.public_key()
    pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    raw = subprocess.run(["base64"], input=public.public_bytes_raw(), capture_output=True, check=True).stdout.decode()
    for text in (pem, raw):
        key_id, secret = make_key(alice, algorithm="ed25519", public_key=text)
        assert secret is None
        for client in fronts:
            assert ask(client, (key_id, private), "POST", ORDERS, ORDER).status_code == 201
            headers = signed_headers(key_id, private, "GET", BALANCES)
            assert client.get(BALANCES, headers=headers).status_code == 200
            assert client.get(BALANCES, headers=headers).status_code == 401
            assert ask(client, (key_id, Ed25519PrivateKey.generate()), "GET", BALANCES).status_code == 401
            # Whoever knows the public half, or takes the key for one of the other kind, signs nothing by it.
            assert ask(client, (key_id, raw.strip()), "GET", BALANCES).status_code == 401
    # The same public key under another user's name acts for that user.
    key_id, _ = make_key(bob, algorithm="ed25519", public_key=pem)
    assert ask(fronts[0], (key_id, private), "POST", ORDERS, ORDER).status_code == 422


def test_a_secret_is_shown_once_and_kept_nowhere_in_clear(
    venue: Engine, alice: User, fronts: list[httpx2.Client]
) -> None:
    """A secret is in the answer that makes its key: not in lists, the log, the database, or any file."""
    key_id, secret = make_key(alice, name="secretive")
    assert ask(fronts[0], (key_id, secret), "GET", BALANCES).status_code == 200
    assert ask(fronts[0], (key_id, secret + "x"), "GET", BALANCES).status_code == 401
    revoked = alice.call("DELETE", f"/api-keys/{key_id}")
    assert "secret" not in revoked
    assert all("secret" not in key for key in alice.call("GET", "/api-keys"))
    with connect_database(venue) as connection:
        row = connection.execute("SELECT sealed_secret FROM api_keys WHERE id = %s", (int(key_id),)).fetchone()
        tables = connection.execute(
            "SELECT count(*) FROM api_keys WHERE position(%s::bytea in sealed_secret) > 0", (secret.encode(),)
        ).fetchone()
    assert row is not None
    assert secret.encode() not in bytes(row[0])
    assert tables == (0,)
    assert any(key_id in line or "api-keys" in line for line in venue.errors), "the log says nothing of keys at all"
    assert not any(secret in line for line in venue.errors)
    master = venue.data_dir / MASTER_NAME
    assert master.stat().st_mode & 0o777 == 0o600
    for file in venue.data_dir.rglob("*"):
        if file.is_file() and not file.is_symlink() and file.stat().st_size < 1 << 22:
            content = file.read_bytes()
            assert secret.encode() not in content, file
            assert file == master or read_secret(venue.data_dir, MASTER_NAME).encode() not in content, file


def test_a_key_has_its_makers_second_factor(venue: Engine, alice: User) -> None:
    """A key made under a token with a second factor says so; one made without it does not."""
    token = issue_token(read_secret(venue.data_dir).encode(), alice.name, "user", 60, two_factor=True)
    headers = {"Authorization": f"Bearer {token}"}
    body = {"name": "strong", "permissions": ["trade"]}
    assert alice.call("POST", "/api-keys", 201, json=body, headers=headers)["two_factor"] is True
    assert alice.call("POST", "/api-keys", 201, json=body | {"name": "weak"})["two_factor"] is False
    shown = {key["name"]: key["two_factor"] for key in alice.call("GET", "/api-keys")}
    assert shown == {"strong": True, "weak": False}


def test_a_second_factor_opens_what_needs_one(venue: Engine, alice: User, fronts: list[httpx2.Client]) -> None:
    """Above the limit only a key made under a second factor trades, one by one, in a batch, and by amending."""
    token = issue_token(read_secret(venue.data_dir).encode(), alice.name, "user", 60, two_factor=True)
    body = {"name": "strong", "permissions": ["trade"]}
    made = alice.call("POST", "/api-keys", 201, json=body, headers={"Authorization": f"Bearer {token}"})
    strong, weak = (made["id"], made["secret"]), make_key(alice)
    with venue.client("root-of-limits", "admin") as admin:
        limits = {"requires_2fa_above": "500"}
        answer = admin.post(f"/admin/limits/user/{alice.name}", json=limits)
        assert answer.status_code == 200, answer.text
    small, large = ORDER, ORDER | {"quantity": "0.05"}
    for client in fronts:
        refused = ask(client, weak, "POST", ORDERS, large)
        assert (refused.status_code, code_of(refused)) == (403, "TWO_FACTOR_REQUIRED")
        items = ask(client, weak, "POST", f"{ORDERS}/batch", {"orders": [small, large]}).json()["data"]
        assert [item["success"] for item in items] == [True, False]
        order_id = items[0]["data"]["order"]["id"]
        assert ask(client, weak, "PATCH", f"{ORDERS}/{order_id}", {"quantity": "0.05"}).status_code == 403
        assert ask(client, strong, "PATCH", f"{ORDERS}/{order_id}", {"quantity": "0.05"}).status_code == 200
        assert ask(client, strong, "POST", ORDERS, large).status_code == 201
        items = ask(client, strong, "POST", f"{ORDERS}/batch", {"orders": [large]}).json()["data"]
        assert [item["success"] for item in items] == [True]


def test_an_administrators_key_is_no_administrator(venue: Engine, fronts: list[httpx2.Client]) -> None:
    """A key that an administrator made is an ordinary user's."""
    with venue.client("root-of-keys", "super_admin") as http:
        admin = User("root-of-keys", http)
        key = make_key(admin)
        paths = http.get(f"{venue.url}/openapi.json").json()["paths"]
    for path in paths:
        if path.startswith("/api/v1/admin/"):
            for method in paths[path]:
                target = path.replace("{", "").replace("}", "")
                assert ask(fronts[0], key, method.upper(), target, {}).status_code == 403, (method, path)
    assert ask(fronts[0], key, "GET", BALANCES).status_code == 200


def test_a_suspended_users_key_only_cancels(venue: Engine, alice: User, fronts: list[httpx2.Client]) -> None:
    """While its user is suspended a key cancels and does nothing else, on every front; afterwards it goes on."""
    key = make_key(alice)
    order_id = ask(fronts[0], key, "POST", ORDERS, ORDER).json()["data"]["order"]["id"]
    with venue.client("root-of-users", "admin") as admin:
        assert admin.post(f"/admin/users/{alice.name}/suspend", json={"reason": "test"}).status_code == 200
        for client in fronts:
            for method, target, body in (("GET", BALANCES, None), ("POST", ORDERS, ORDER)):
                refused = ask(client, key, method, target, body)
                assert (refused.status_code, code_of(refused)) == (403, "ACCOUNT_SUSPENDED")
        assert ask(fronts[1], key, "DELETE", f"{ORDERS}/{order_id}").status_code == 200
        assert admin.post(f"/admin/users/{alice.name}/resume", json={"reason": "test"}).status_code == 200
    for client in fronts:
        assert ask(client, key, "GET", BALANCES).status_code == 200


def test_two_ways_to_say_who_asks_are_refused(alice: User, fronts: list[httpx2.Client]) -> None:
    """A token beside a key, or a header of a key twice, is refused, also where none is needed."""
    key = make_key(alice)
    token = {"Authorization": alice.http.headers["Authorization"]}
    client = fronts[0]
    assert client.get(BALANCES, headers=signed_headers(*key, "GET", BALANCES) | token).status_code == 401
    twice = [*signed_headers(*key, "GET", BALANCES).items(), ("X-API-Key", key[0])]
    assert client.get(BALANCES, headers=twice).status_code == 401
    public = "/api/v1/trades?symbol=BTC-USDT"
    assert client.get(public, headers={"X-API-Key": key[0]}).status_code == 401
    assert ask(client, key, "GET", public).status_code == 200


@pytest.mark.long
def test_keys_outlive_a_restart_and_old_signatures_do_not(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """After a restart a key signs as before, and what was signed before it is refused, although its window is open."""
    folder = tmp_path_factory.mktemp("restarted")
    with running_engine(folder) as engine:
        user = make_user(engine, "carol", FUNDS)
        key = make_key(user)
        body = msgspec.json.encode(ORDER)
        captured = signed_headers(*key, "POST", ORDERS, body, window=60_000)
        with httpx2.Client(base_url=engine.url, timeout=20, trust_env=False) as client:
            assert client.post(ORDERS, content=body, headers=captured).status_code == 201
        user.http.close()
        engine.stop()
    with running_engine(folder) as engine, httpx2.Client(base_url=engine.url, timeout=20, trust_env=False) as client:
        refused = client.post(ORDERS, content=body, headers=captured)
        assert (refused.status_code, code_of(refused)) == (401, "UNAUTHORIZED")
        assert ask(client, key, "GET", ORDERS).json()["data"][0]["status"] == "open"


def test_signed_body_may_be_large_but_not_too_large(alice: User, fronts: list[httpx2.Client]) -> None:
    """A signed body beyond the bound is 413 like any other, and a body in pieces is signed as a whole."""
    key = make_key(alice)
    body = msgspec.json.encode(ORDER)
    headers = signed_headers(*key, "POST", ORDERS, body)
    pieces = (body[start : start + 7] for start in range(0, len(body), 7))
    assert fronts[0].post(ORDERS, content=pieces, headers=headers).status_code == 201
    huge = b" " * (1 << 21)
    assert fronts[0].post(ORDERS, content=huge, headers=signed_headers(*key, "POST", ORDERS, huge)).status_code == 413
