"""The reference wallet service by itself: its answers, its books, and its ends."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import uuid
from collections.abc import Iterator
from typing import Any

import httpx2
import psycopg
import pytest
import trio
from tests.wallet.service import PROGRAM, Case, Service, balance_of, free_port, fund, running_service

from tradeengine.storage.embedded import running_embedded, stop_embedded
from tradeengine.wallet.http import HttpWallet, open_http
from tradeengine.wallet.port import Direction, Holding, Leg, Progress, RefusalCode, Refused, Transfer, Unavailable


@pytest.fixture
def http(service: Service) -> Iterator[httpx2.Client]:
    """Ask the service without a client of ours."""
    headers = {"Authorization": f"Bearer {service.secret}"}
    with httpx2.Client(base_url=service.url, headers=headers, timeout=20) as client:
        yield client


def single(**changes: object) -> dict[str, object]:
    """Give a good body for a call with one user."""
    return {"id": uuid.uuid4().hex, "user": "someone", "asset": "USDT", "amount": "1.5"} | changes


def legs(*of: tuple[str, str, str, str]) -> dict[str, object]:
    """Give a body for a transfer."""
    fields = ("user", "asset", "amount", "direction")
    return {"id": uuid.uuid4().hex, "legs": [dict(zip(fields, leg, strict=True)) for leg in of]}


def error_of(response: httpx2.Response) -> tuple[int, str]:
    """Give status and code of a refusal, which comes in the envelope."""
    answer = response.json()
    assert answer["success"] is False
    assert answer["error"]["message"]
    assert answer["meta"]["request_id"]
    return response.status_code, answer["error"]["code"]


def test_first_and_repeated_answer(http: httpx2.Client) -> None:
    """The first request is answered 201, its repeat 200 with the same data, also in another spelling of the amount."""
    first = http.post("/v1/deposits", json=(body := single()))
    again = http.post("/v1/deposits", json=body | {"amount": "01.500"})
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json()["data"] == again.json()["data"]
    data = first.json()["data"]
    assert (data["kind"], data["amount"], data["id"]) == ("deposit", "1.5", body["id"])


def test_ids_are_apart_per_kind(http: httpx2.Client) -> None:
    """The same id may name a deposit, a reservation and a release."""
    body = single()
    assert [http.post(f"/v1/{kind}", json=body).status_code for kind in ("deposits", "reservations", "releases")] == [
        201
    ] * 3


@pytest.mark.parametrize("changes", [{"amount": "1.6"}, {"asset": "BTC"}, {"user": "another"}])
def test_same_id_other_content(http: httpx2.Client, changes: dict[str, object]) -> None:
    """An id with another content is a conflict."""
    body = single()
    assert http.post("/v1/deposits", json=body).status_code == 201
    assert error_of(http.post("/v1/deposits", json=body | changes)) == (409, "REFERENCE_REUSED")


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"amount": 1.5}, "INVALID_REQUEST"),
        ({"amount": "1e3"}, "INVALID_REQUEST"),
        ({"amount": "abc"}, "INVALID_REQUEST"),
        ({"amount": "-1"}, "NUMBER_OUT_OF_RANGE"),
        ({"amount": "0.00"}, "NUMBER_OUT_OF_RANGE"),
        ({"amount": "0.0000000000000000001"}, "NUMBER_OUT_OF_RANGE"),
        ({"amount": "100000000000000000000"}, "NUMBER_OUT_OF_RANGE"),
        ({"id": ""}, "INVALID_REQUEST"),
        ({"id": "x" * 201}, "INVALID_REQUEST"),
        ({"id": "a\nb"}, "INVALID_REQUEST"),
        ({"user": ""}, "INVALID_REQUEST"),
        ({"user": "'; DROP TABLE wallet.entries; --"}, "INVALID_REQUEST"),
        ({"asset": "<script>"}, "INVALID_REQUEST"),
        ({"more": "1"}, "INVALID_REQUEST"),
        ({"user": None}, "INVALID_REQUEST"),
    ],
)
@pytest.mark.parametrize("path", ["deposits", "debits"])
def test_wrong_fields_are_refused(http: httpx2.Client, path: str, changes: dict[str, object], code: str) -> None:
    """What is no amount, id or name is refused by name, and nothing is done."""
    response = http.post(f"/v1/{path}", json=single() | changes)
    assert error_of(response) == (400, code)
    assert response.json()["error"]["details"]["field"] == next(iter(changes))


@pytest.mark.parametrize("amount", ["0.000000000000000001", "99999999999999999999.999999999999999999"])
def test_amounts_at_the_bounds(http: httpx2.Client, amount: str) -> None:
    """The smallest and the largest amount are kept exactly."""
    user = uuid.uuid4().hex
    assert http.post("/v1/deposits", json=single(user=user, asset="X", amount=amount)).status_code == 201
    found = http.get("/v1/balances", params={"user": user}).json()["data"]
    assert found == [{"user": user, "asset": "X", "available": amount, "reserved": "0"}]


def test_sums_beyond_any_amount_are_refused(http: httpx2.Client) -> None:
    """A balance that would grow beyond what the books hold is refused and changes nothing."""
    user = uuid.uuid4().hex
    most = "99999999999999999999.999999999999999999"
    asked = [http.post("/v1/deposits", json=single(user=user, asset=user, amount=most)) for _ in range(2)]
    assert asked[0].status_code == 201
    assert error_of(asked[1]) == (400, "NUMBER_OUT_OF_RANGE")
    assert http.get("/v1/balances", params={"user": user}).json()["data"][0]["available"] == most


@pytest.mark.parametrize(
    "body",
    [
        legs(("a", "X", "1", "debit")),
        legs(("a", "X", "1", "debit"), ("b", "X", "1.000000000000000001", "credit")),
        legs(("a", "X", "1", "debit"), ("b", "Y", "1", "credit")),
        legs(("a", "X", "1", "sideways"), ("b", "X", "1", "credit")),
        legs(),
        legs(*[("a", "X", "1", "debit"), ("b", "X", "1", "credit")] * 9),
        {"id": "1"},
        {"id": "1", "legs": "all"},
        {"id": "1", "legs": [["a", "X", "1", "debit"]]},
    ],
)
def test_transfers_that_do_not_balance(http: httpx2.Client, body: dict[str, object]) -> None:
    """A transfer that credits more than it debits, or less, or has no legs, or too many, is refused."""
    assert error_of(http.post("/v1/transfers", json=body)) == (400, "INVALID_REQUEST")


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"null", b'{"id":"1","id":"2"}', b"\xff\xfe", b"[" * 10_000, b'{"amount":NaN}']
)
def test_bodies_that_are_none(http: httpx2.Client, body: bytes) -> None:
    """What is no JSON object is refused, and the service goes on."""
    assert error_of(http.post("/v1/transfers", content=body)) == (400, "INVALID_REQUEST")


def test_large_bodies_are_refused(http: httpx2.Client) -> None:
    """A body beyond 64 KiB is refused."""
    assert error_of(http.post("/v1/transfers", content=b" " * 70_000)) == (413, "BODY_TOO_LARGE")


@pytest.mark.parametrize("header", [None, "Bearer", "Bearer wrong", "Basic {}", "bearer {}", "Bearer {}x", "{}"])
def test_every_call_needs_the_secret(service: Service, header: str | None) -> None:
    """Without the secret, or with almost the secret, every call but health is answered 401."""
    right = header == "bearer {}"
    headers = {} if header is None else {"Authorization": header.format(service.secret)}
    with httpx2.Client(base_url=service.url, headers=headers, timeout=20) as client:
        for method, path in _CALLS:
            status = client.request(method, path, json=single() if method == "POST" else None).status_code
            assert (status != 401) is right, path
        assert client.get("/health").status_code == 200


_CALLS = [
    *[("POST", f"/v1/{path}") for path in ("transfers", "debits", "credits", "reservations", "releases", "deposits")],
    ("GET", "/v1/transfers/1"),
    ("GET", "/v1/balances"),
    ("GET", "/nowhere"),
]


def test_idempotency_header_must_agree(http: httpx2.Client) -> None:
    """The header is the body's id, percent-encoded where it must be; another one is refused."""
    body = single(id="50% more")
    assert error_of(http.post("/v1/deposits", json=body, headers={"Idempotency-Key": "x"})) == (400, "INVALID_REQUEST")
    assert http.post("/v1/deposits", json=body, headers={"Idempotency-Key": "50%25%20more"}).status_code == 201


async def test_references_of_any_characters(wallet: HttpWallet) -> None:
    """References with spaces, percent signs and slashes are ids like others."""
    user = uuid.uuid4().hex
    await wallet.deposit(f"a%20 /{user}?#é"[:-1], user, "X", "1")
    await wallet.reserve(Holding(f" 100% {user} ", user, "X", "1"))
    with pytest.raises(Refused) as refused:
        await wallet.reserve(Holding(f"é{user}", user, "X", "1"))
    assert refused.value.code is RefusalCode.INVALID


def test_transfers_can_be_looked_up(http: httpx2.Client) -> None:
    """A transfer is shown as it was answered; an unknown one is 404."""
    user = uuid.uuid4().hex
    deposit = single(user=user, asset="X", amount="5")
    for path in ("deposits", "reservations"):
        assert http.post(f"/v1/{path}", json=deposit).status_code == 201
    body = legs((user, "X", "2.50", "debit"), ("heir", "X", "2.5", "credit"))
    made = http.post("/v1/transfers", json=body)
    assert made.status_code == 201, made.text
    found = http.get(f"/v1/transfers/{body['id']}")
    assert found.json()["data"] == made.json()["data"]
    assert error_of(http.get(f"/v1/transfers/{uuid.uuid4()}")) == (404, "NOT_FOUND")


@pytest.mark.parametrize(
    "query", ["cursor=%ff", "cursor=!", "cursor=YQ==%00", "limit=0", "limit=1001", "user=%00", "x=1"]
)
def test_wrong_queries_are_refused(http: httpx2.Client, query: str) -> None:
    """Cursors that were never given, limits out of bounds and unknown parameters are refused."""
    assert http.get(f"/v1/balances?{query}").status_code == 400


def test_unknown_paths_and_methods(http: httpx2.Client) -> None:
    """Everything else is answered in the envelope too."""
    assert error_of(http.get("/v1/nothing")) == (404, "NOT_FOUND")
    assert error_of(http.delete("/v1/transfers")) == (405, "METHOD_NOT_ALLOWED")


async def test_two_at_once_for_the_last_unit(wallet: HttpWallet, service: Service) -> None:
    """Of many who want the last money at once, as many get it as there is."""
    user, target = uuid.uuid4().hex, uuid.uuid4().hex
    await fund(wallet, user, "X", "3")
    outcomes: list[RefusalCode | None] = []

    async def take() -> None:
        one = Transfer(
            uuid.uuid4().hex, (Leg(user, "X", "1", Direction.DEBIT), Leg(target, "X", "1", Direction.CREDIT))
        )
        try:
            await wallet.transfer(one, Progress())
        except Refused as refusal:
            outcomes.append(refusal.code)
        else:
            outcomes.append(None)

    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(take)
    assert (outcomes.count(None), outcomes.count(RefusalCode.INSUFFICIENT)) == (3, 17)
    assert (await balance_of(wallet, target, "X")).reserved == "3"
    assert (await balance_of(wallet, user, "X")).reserved == "0"
    service.check_books()


@pytest.mark.parametrize("seed", [1, 2])
async def test_books_equal_a_plain_model(seed: int, wallet: HttpWallet, service: Service) -> None:
    """After hundreds of random requests, many of them repeats, balances are what plain arithmetic says."""
    source = random.Random(seed)
    users = [f"m{uuid.uuid4().hex[:8]}" for _ in range(4)]
    asset = f"A{uuid.uuid4().hex[:8]}"
    available, reserved = dict.fromkeys(users, 0), dict.fromkeys(users, 0)
    done: list[tuple[Any, ...]] = []
    for number in range(300):
        if done and source.random() < 0.2:
            call, *given = source.choice(done)
            await call(*given)
            continue
        user, other = source.sample(users, 2)
        amount, id_ = source.randint(1, 60), f"{asset}-{number}"
        leg = Leg(user, asset, str(amount), Direction.DEBIT)
        request: tuple[Any, ...]
        match source.randrange(4):
            case 0:
                request, fits = (wallet.deposit, id_, user, asset, str(amount)), True
                available[user] += amount
            case 1:
                request, fits = (wallet.reserve, Holding(id_, user, asset, str(amount))), available[user] >= amount
                available[user] -= amount * fits
                reserved[user] += amount * fits
            case 2:
                request, fits = (wallet.release, Holding(id_, user, asset, str(amount))), reserved[user] >= amount
                available[user] += amount * fits
                reserved[user] -= amount * fits
            case _:
                credit = Leg(other, asset, str(amount), Direction.CREDIT)
                request = (wallet.transfer, Transfer(id_, (credit, leg)), Progress())
                fits = reserved[user] >= amount
                reserved[user] -= amount * fits
                reserved[other] += amount * fits
        call, *given = request
        if fits:
            await call(*given)
            done.append(request)
        else:
            with pytest.raises(Refused):
                await call(*given)
    for user in users:
        found = await balance_of(wallet, user, asset)
        assert (found.available, found.reserved) == (str(available[user]), str(reserved[user])), f"seed {seed}"
    service.check_books()


@pytest.mark.long
async def test_killed_service_loses_nothing_that_it_answered(
    dsn: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """What was answered before a kill is there after it; what was not is made by the repeat; nothing is made twice."""
    with running_service(dsn, tmp_path_factory.mktemp("killed")) as own:
        async with open_http(own.url, own.secret, timeout_s=20.0, connections_max=10) as client:
            user, target = "payer", "payee"
            await fund(client, user, "X", "1000")
            pending = [
                Transfer(f"t{number}", (Leg(user, "X", "1", Direction.DEBIT), Leg(target, "X", "1", Direction.CREDIT)))
                for number in range(200)
            ]
            answered: list[str] = []

            async def send(transfers: list[Transfer]) -> None:
                while transfers:
                    transfer = transfers.pop()
                    try:
                        await client.transfer(transfer, Progress())
                    except Unavailable:
                        return
                    answered.append(transfer.id)
                    if len(answered) == 60:
                        own.kill()

            waiting = list(pending)
            async with trio.open_nursery() as nursery:
                for _ in range(10):
                    nursery.start_soon(send, waiting)
            assert 60 <= len(answered) < 200
            own.start()
            assert int((await balance_of(client, target, "X")).reserved) >= len(answered)
            for transfer in pending:
                await client.transfer(transfer, Progress())
            assert (await balance_of(client, target, "X")).reserved == "200"
            assert (await balance_of(client, user, "X")).reserved == "800"
            own.check_books()


async def test_database_that_breaks_off(dsn: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A lost connection to the database is opened anew, and what was asked is made once."""
    with running_service(dsn, tmp_path_factory.mktemp("broken")) as own:
        async with open_http(own.url, own.secret, timeout_s=20.0, connections_max=2) as client:
            case = Case()
            await case.fund(client)
            with psycopg.connect(dsn, autocommit=True) as connection:
                connection.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE datname = current_database() AND pid <> pg_backend_pid()"
                )
            await client.transfer(case.trade, Progress())
            assert await case.reserved(client) == case.after


def test_stops_when_asked(dsn: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    """SIGTERM ends it in order, and a second one on the same folder is refused while it runs."""
    with running_service(dsn, tmp_path_factory.mktemp("stopped")) as own:
        second = subprocess.run(
            [*PROGRAM, "--data-dir", str(own.data_dir), "--port", "0", "--dsn", dsn],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert second.returncode == 1
        assert "in use" in second.stderr
        assert own.stop() == 0


@pytest.mark.long
def test_runs_without_a_database_of_ones_own(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Without --dsn it brings its own database, and finds its books there when it is started again after a kill."""
    own = Service(tmp_path_factory.mktemp("alone"), "")
    arguments = [*PROGRAM, "--data-dir", str(own.data_dir), "--port", str(own.port)]
    try:
        for round_number in range(2):
            process = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)
            assert process.stdout is not None
            assert process.stdout.readline().startswith("ready ")
            with httpx2.Client(base_url=own.url, headers={"Authorization": f"Bearer {own.secret}"}) as client:
                body = single(id="the same", user="alone")
                assert client.post("/v1/deposits", json=body).status_code == (201 if round_number == 0 else 200)
                assert client.get("/v1/balances").json()["data"][0]["available"] == "1.5"
            process.send_signal(signal.SIGKILL if round_number == 0 else signal.SIGINT)
            assert process.wait(60) == (-signal.SIGKILL if round_number == 0 else 0)
            process.stdout.close()
        assert running_embedded(own.data_dir / "wallet") is None
    finally:
        if running_embedded(own.data_dir / "wallet") is not None:
            stop_embedded(own.data_dir / "wallet")


def test_port_that_is_taken(dsn: str, service: Service, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A port that is in use, and a database that is not there, are told in one line."""
    for port, database, said in (
        (service.port, dsn, "cannot be listened on"),
        (free_port(), "host=/nonexistent dbname=x", "cannot be used"),
        (free_port(), "not a dsn", "is not allowed"),
    ):
        folder = tmp_path_factory.mktemp("refused")
        arguments = [*PROGRAM, "--data-dir", str(folder), "--port", str(port), "--dsn", database]
        ended = subprocess.run(
            arguments, capture_output=True, text=True, timeout=60, check=False, env=os.environ | {"LC_ALL": "C"}
        )
        assert ended.returncode == 1
        assert said in ended.stderr
        assert len(ended.stderr.splitlines()) == 1
