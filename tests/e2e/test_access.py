"""Who gets in: an engine whose tokens come from an issuer with keys of its own, and whose orders are whose."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import trio
from tests.e2e.users import Json, User, make_user
from tests.e2e.watched import token_of
from tests.engines import Engine, run_command, running_engine
from tests.web.raw_websocket import Refused, connected
from tests.web.token_maker import (
    Signer,
    ed_key,
    good_claims,
    jwk,
    private_pem,
    public_pem,
    rsa_key,
    sign,
    write_keys,
)

from tradeengine.actors.data_dir import read_secret

TERMS = {"iss": "https://id.example", "aud": "trade"}
FRONTS = 2
TRIES = 20
"""Connections that are opened anew, so that both fronts are met."""


@pytest.fixture(scope="module")
def keys_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the issuer's JWKS file."""
    return write_first_keys(tmp_path_factory.mktemp("issuer") / "keys.json")


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory, keys_file: Path) -> Iterator[Engine]:
    """Run an engine with two fronts that takes the issuer's tokens and no others."""
    environment = {
        "TRADEENGINE_AUTH_ALGORITHMS": "RS256,EdDSA",
        "TRADEENGINE_AUTH_KEYS_FILE": str(keys_file),
        "TRADEENGINE_AUTH_ISSUER": TERMS["iss"],
        "TRADEENGINE_AUTH_AUDIENCE": TERMS["aud"],
    }
    with running_engine(tmp_path_factory.mktemp("guarded"), ["--fronts", str(FRONTS)], environment) as running:
        yield running


def write_first_keys(path: Path) -> Path:
    """Write the keys that the issuer begins with."""
    return write_keys(path, jwk("rsa", rsa_key(), use="sig"), jwk("ed", ed_key(), alg="EdDSA"))


def issue(key: Signer, key_id: str, **claims: Any) -> str:
    """Sign a token as the issuer does."""
    return sign(key, good_claims(**TERMS | claims), kid=key_id)


def ask(engine: Engine, token: str, method: str = "GET", path: str = "/balances") -> int:
    """Make a call on a connection of its own; returns the status."""
    headers = {"Authorization": f"Bearer {token}", "Connection": "close"}
    return httpx2.request(method, f"{engine.url}/api/v1{path}", headers=headers, timeout=20).status_code


def statuses(engine: Engine, token: str) -> set[int]:
    """Meet all fronts with a token; returns how they answered."""
    return {ask(engine, token) for _ in range(TRIES)}


async def is_let_in(engine: Engine, token: str) -> bool:
    """Whether a stream opens to a token."""
    try:
        async with connected(engine.url, token=token):
            return True
    except Refused as refusal:
        return (refusal.status, refusal.code) != (401, "UNAUTHORIZED")


def wait_for_new_keys(engine: Engine, change_count: int) -> None:
    """Wait until every front has said that it took over a change."""
    deadline_s = time.monotonic() + 30
    while sum("the keys of tokens are new" in line for line in engine.errors) < FRONTS * change_count:
        assert time.monotonic() < deadline_s, engine.errors
        time.sleep(0.05)


async def test_issuers_tokens_are_taken_and_no_others(guarded: Engine) -> None:
    """Over HTTP and streams alike: the issuer's tokens sign in, and what others, or nobody, signed does not."""
    for good in (issue(rsa_key(), "rsa"), issue(ed_key(), "ed"), sign(ed_key(), good_claims(**TERMS))):
        assert statuses(guarded, good) == {200}
        assert await is_let_in(guarded, good)
    own = read_secret(guarded.data_dir).encode()
    forged = {
        "with the engine's own secret": sign(own, good_claims(**TERMS)),
        "with the engine's own secret by name": sign(own, good_claims(**TERMS), kid="default"),
        "with a public key": sign(public_pem(rsa_key()), good_claims(**TERMS), kid="rsa"),
        "unsigned": issue(ed_key(), "ed").rpartition(".")[0] + ".",
        "by nobody": sign(ed_key("attacker"), good_claims(**TERMS), kid="ed"),
        "by a key of its own": sign(ed_key("attacker"), good_claims(**TERMS), jwk=jwk("ed", ed_key("attacker"))),
        "under another's name": issue(ed_key(), "rsa"),
        "by a path": issue(ed_key(), "../../../dev/null"),
        "by SQL": issue(ed_key(), "' OR 1=1 --"),
        "of another issuer": issue(ed_key(), "ed", iss="https://evil.example"),
        "for others": issue(ed_key(), "ed", aud=["web", "mail"]),
        "expired": issue(ed_key(), "ed", exp=int(time.time()) - 60),
        "early": issue(ed_key(), "ed", nbf=int(time.time()) + 60),
        "of no role": issue(ed_key(), "ed", role="root"),
        "of nobody": issue(ed_key(), "ed", sub="*exchange*"),
        "too long": issue(ed_key(), "ed", note="x" * 4096),
    }
    for kind, token in forged.items():
        assert ask(guarded, token) == 401, kind
        assert not await is_let_in(guarded, token), kind


def test_engine_prints_no_token_that_counts_nothing(guarded: Engine) -> None:
    """Where the engine's own secret signs nobody in, the start shows no token, and says ready all the same."""
    assert not [line for line in guarded.lines if line.startswith(("token", "try"))]


def test_command_line_signs_with_the_issuers_key(guarded: Engine, keys_file: Path, tmp_path: Path) -> None:
    """``token`` with a private key of the issuer's gives a token that every front takes."""
    key = tmp_path / "ed.pem"
    key.write_bytes(private_pem(ed_key()))
    environment = {
        "TRADEENGINE_AUTH_ALGORITHMS": "RS256,EdDSA",
        "TRADEENGINE_AUTH_KEYS_FILE": str(keys_file),
        "TRADEENGINE_AUTH_ISSUER": TERMS["iss"],
        "TRADEENGINE_AUTH_AUDIENCE": TERMS["aud"],
    }
    arguments = ("token", "cli-user", "--key", str(key), "--kid", "ed", "--data-dir", str(guarded.data_dir))
    result = run_command(*arguments, **environment)
    assert (result.returncode, result.stderr) == (0, "")
    assert statuses(guarded, result.stdout.strip()) == {200}


@pytest.mark.long
async def test_keys_are_rotated_without_a_restart(guarded: Engine, keys_file: Path) -> None:
    """A new key counts on every front, an old one does not any more, and ends the streams that it had opened: 4001."""
    old, new = issue(ed_key(), "ed"), issue(ed_key("next"), "next")
    kept = issue(rsa_key(), "rsa")
    assert (statuses(guarded, old), statuses(guarded, new)) == ({200}, {401})
    try:
        async with connected(guarded.url, token=old) as ending, connected(guarded.url, token=kept) as going_on:
            write_keys(keys_file, jwk("rsa", rsa_key()), jwk("next", ed_key("next")))
            await trio.to_thread.run_sync(wait_for_new_keys, guarded, 1)
            assert (statuses(guarded, old), statuses(guarded, new)) == ({401}, {200})
            assert await ending.close_code() == 4001
            assert await going_on.ask("ping")
    finally:
        write_first_keys(keys_file)
        await trio.to_thread.run_sync(wait_for_new_keys, guarded, 2)
    assert (statuses(guarded, old), statuses(guarded, new)) == ({200}, {401})


@pytest.mark.parametrize(
    ("content", "arguments", "said"),
    [
        (None, (), "cannot be read"),
        ('{"keys": []}', (), "must hold a key for EdDSA"),
        ("good", ("--demo",), "it needs HS256 in auth.algorithms"),
    ],
)
def test_start_with_a_bad_file_is_refused(
    content: str | None, arguments: tuple[str, ...], said: str, tmp_path: Path
) -> None:
    """An engine does not start with keys that it cannot read, nor with demo traders that nobody would let in."""
    file = tmp_path / "keys.json"
    if content == "good":
        write_keys(file, jwk("ed", ed_key()))
    elif content is not None:
        file.write_text(content)
    environment = {"TRADEENGINE_AUTH_ALGORITHMS": "EdDSA", "TRADEENGINE_AUTH_KEYS_FILE": str(file)}
    result = run_command("up", "--port", "0", "--data-dir", str(tmp_path / "data"), *arguments, **environment)
    assert (result.returncode, result.stdout) == (1, "")
    assert said in result.stderr
    assert result.stderr.count("\n") == 1


ORDER: Json = {"symbol": "LTC/USDT", "side": "buy", "type": "limit", "quantity": "1", "price": "80"}


@pytest.fixture
def owner(engine: Engine) -> Iterator[User]:
    """Give a user with an order."""
    user = make_user(engine, "owner", {"USDT": "1000", "LTC": "10"})
    yield user
    user.call("DELETE", "/orders")
    user.http.close()


@pytest.fixture
def other(engine: Engine) -> Iterator[User]:
    """Give another user, who asks for what is not theirs."""
    user = make_user(engine, "other", {"USDT": "1000", "LTC": "10"})
    yield user
    user.http.close()


def test_orders_of_others_do_not_exist(engine: Engine, owner: User, other: User) -> None:
    """Whoever asks for another's order, or acts on it, gets the very answer of an order that there never was."""
    order = owner.place(**ORDER, client_order_id="mine")["order"]
    calls: list[tuple[str, str, dict[str, Any]]] = [
        ("GET", "/orders/{id}", {}),
        ("DELETE", "/orders/{id}", {}),
        ("PATCH", "/orders/{id}", {"json": {"quantity": "0.5"}}),
    ]
    administrator = User("root", engine.client("root", "super_admin"))
    for who in (other, administrator):
        for method, path, options in calls:
            errors = [
                who.call(method, path.format(id=order_id), 404, **options)
                for order_id in (order["id"], str(int(order["id"]) ^ 1))
            ]
            assert errors[0]["code"] == errors[1]["code"] == "ORDER_NOT_FOUND"
            assert errors[0]["message"] == errors[1]["message"]
        assert who.call("GET", "/orders/by-client-id/mine", 404)["code"] == "ORDER_NOT_FOUND"
        assert who.call("GET", "/orders") == []
        assert who.call("DELETE", "/orders") == {"cancelled": 0, "total": 0, "orders": []}
        assert who.call("GET", "/trades?scope=mine") == []
    administrator.http.close()
    assert owner.order(order["id"])["status"] == "open"
    assert owner.order(order["id"])["quantity"] == order["quantity"]


async def test_orders_of_others_do_not_exist_in_streams(engine: Engine, owner: User, other: User) -> None:
    """On a stream, too, another's order can neither be amended nor cancelled, nor does a new token show it."""
    order = owner.place(**ORDER)["order"]
    async with connected(engine.url, token=token_of(other)) as socket:
        for op, fields in (("cancel", {}), ("amend", {"quantity": "0.5"})):
            refusal = await socket.refusal(op, order_id=order["id"], **fields)
            assert refusal["code"] == "ORDER_NOT_FOUND"
        refusal = await socket.refusal("auth", access_token=token_of(owner))
        assert refusal["details"] == {"field": "access_token"}
        assert (await socket.refusal("cancel", order_id=order["id"]))["code"] == "ORDER_NOT_FOUND"
    assert owner.order(order["id"])["status"] == "open"


def test_trade_names_its_orders_to_its_parties_only(engine: Engine, owner: User, other: User) -> None:
    """A trade's order ids are shown to its two parties, each its own, and to administrators; to nobody else."""
    owner.place(**ORDER)
    trade = other.place(**(ORDER | {"side": "sell"}))["trades"][0]
    with engine.client("third") as third, engine.client() as anyone:
        for client in (third, anyone):
            shown = client.get(f"/trades/{trade['id']}").json()["data"]
            assert not [name for name in shown if "order_id" in name and shown[name] is not None]
        assert third.get("/trades", params={"scope": "mine"}).json()["data"] == []
        assert anyone.get("/trades", params={"scope": "mine"}).status_code == 401
