"""What the log tells of an order on its way through all processes, of requests, and never of secrets."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from tests.e2e.users import make_user
from tests.engines import Engine, running_engine

from tradeengine.actors.data_dir import read_secret

ORDER = {"symbol": "BTC/USDT", "side": "buy", "type": "limit", "quantity": "0.5", "price": "40000.00"}
DEBUG = {"TRADEENGINE_LOG_FORMAT": "json", "TRADEENGINE_LOG_LEVEL": "debug", "TRADEENGINE_LOG_ACCESS": "true"}
METRICS_TOKEN = "scrape-token-that-nobody-may-read"
TIMEOUT_S = 20


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Told]:
    """Let an engine that tells everything take an order, refusals, keys and nonsense, and stop it."""
    environment = DEBUG | {"TRADEENGINE_HTTP_METRICS_TOKEN": METRICS_TOKEN}
    with running_engine(tmp_path_factory.mktemp("told"), (), environment) as engine:
        yield Told(engine)


class Told:
    """An engine's lines, after it did what is asked about."""

    def __init__(self, engine: Engine) -> None:
        user = make_user(engine, "ann", {"USDT": "100000"})
        self.token = str(user.http.headers["Authorization"]).split()[1]
        self.secrets = [METRICS_TOKEN, self.token, read_secret(engine.data_dir)]
        self.order = _placed(user.http, ORDER, "first-request")
        _placed(user.http, {**ORDER, "side": "sell"}, "second-request")
        made = user.http.post("/api-keys", json={"name": "bot", "permissions": ["read"]})
        assert made.status_code == 201, made.text
        self.secrets.append(made.json()["data"]["secret"])
        user.http.get("/balances", headers={"Authorization": f"Bearer {self.token}x"})
        self.secrets.append(f"{self.token}x")
        httpx2.get(f"{engine.url}/metrics", headers={"Authorization": f"Bearer {METRICS_TOKEN}"}).raise_for_status()
        httpx2.get(f"{engine.url}/nowhere/{'x' * 40}?token=in-the-query")
        self.secrets.append("in-the-query")
        user.http.close()
        assert engine.stop() == 0
        self.lines: list[dict[str, Any]] = [json.loads(line) for line in engine.errors if line.startswith("{")]
        self.text = "".join(engine.errors)

    def having(self, **fields: object) -> list[dict[str, Any]]:
        """Lines that have all these fields with these values."""
        return [line for line in self.lines if fields.items() <= line.items()]


def _placed(http: httpx2.Client, order: dict[str, str], request_id: str) -> dict[str, Any]:
    answer = http.post("/orders", json=order, headers={"X-Request-ID": request_id})
    placed: dict[str, Any] = answer.json()
    return placed


def test_order_is_followed_through_all_processes(told: Told) -> None:
    """From a request's id one gets to its ring and sequence, and with these to what every actor did with it.

    They are found again by a reader that knows no integers of 64 bits, as the order's id is. Risk and
    matcher say what they did before they hand it on; the front, and the matcher to settlement, only afterwards.
    """
    (sent,) = told.having(event="sent by front", request_id="first-request")
    pair = {name: sent[name] for name in ("ingress_ring", "ingress_sequence")}
    way = [(line["actor"], line["event"], line["kind"]) for line in told.having(**pair)]
    assert sorted(way) == [
        ("front-0", "sent by front", "place"),
        ("matcher-0", "journaled", "place"),
        ("matcher-0", "matched", "accepted"),
        ("risk", "taken by risk", "place"),
        ("settlement", "settled", "accepted"),
    ]
    assert [actor for actor, _, _ in way if actor in {"risk", "matcher-0"}] == ["risk", "matcher-0", "matcher-0"]
    assert way.index(("matcher-0", "journaled", "place")) < way.index(("matcher-0", "matched", "accepted"))
    assert isinstance(sent["ingress_sequence"], str)
    order_id = told.order["data"]["order"]["id"]
    assert {line["order_id"] for line in told.having(event="matched", **pair)} == {order_id}


def test_refusal_of_risk_is_told_with_its_reason(told: Told) -> None:
    """What risk refuses never comes to a matcher; the line says why."""
    (sent,) = told.having(event="sent by front", request_id="second-request")
    pair = {name: sent[name] for name in ("ingress_ring", "ingress_sequence")}
    (answered,) = told.having(event="answered by risk", **pair)
    assert (answered["kind"], answered["reason"]) == ("refused", "insufficient_balance")
    assert not told.having(actor="matcher-0", **pair)


def test_access_log_has_a_line_for_each_request(told: Told) -> None:
    """A request's line says what was asked, by whom, from where, what was answered, how large, and how long it took."""
    (line,) = told.having(event="request", request_id="first-request")
    assert (line["method"], line["route"], line["status"]) == ("POST", "/api/v1/orders", 201)
    assert line["user"].startswith("ann")
    assert line["client"] == "127.0.0.1"
    assert line["bytes"] > 0
    assert line["latency_us"] > 0
    (lost,) = told.having(event="request", status=404)
    assert "route" not in lost


def test_secrets_are_in_no_line(told: Told) -> None:
    """No token, right or wrong, no secret of an engine or a key, and nothing of a query is in any line."""
    assert [secret for secret in told.secrets if secret in told.text] == []


@pytest.mark.long
def test_audit_line_says_when_its_action_began(tmp_path: Path) -> None:
    """The lines of the latest actions come again after a restart, with the time at which each began."""
    lines = []
    for reason in ("first", None):
        with running_engine(tmp_path / "data", (), {"TRADEENGINE_LOG_FORMAT": "json"}) as engine:
            with engine.client("root", role="admin") as root:
                if reason:
                    root.post("/admin/trading/halt/BTC-USDT", json={"reason": reason}).raise_for_status()
                (row,) = root.get("/admin/audit", params={"action": "halt_symbol"}).json()["data"]
                root.post("/admin/users/nobody/suspend", json={"reason": "behind all others"}).raise_for_status()
            engine.stop()
            told = [json.loads(line) for line in engine.errors if line.startswith("{")]
        lines.append([line for line in told if line["event"] == "audit" and line["action"] == "halt_symbol"])
    assert [[line["began"] for line in lines_of_start] for lines_of_start in lines] == [[row["time"]], [row["time"]]]


@pytest.mark.long
def test_one_role_may_tell_more_than_the_others(tmp_path: Path) -> None:
    """A role named in log.debug tells of every event, while the others keep to their level."""
    environment = {"TRADEENGINE_LOG_FORMAT": "json", "TRADEENGINE_LOG_DEBUG": "matcher"}
    with running_engine(tmp_path / "data", (), environment) as engine:
        engine.deposit("ann", "USDT", "100000")
        with engine.client("ann") as client:
            assert client.post("/orders", json=ORDER).status_code == 201
        engine.stop()
        lines = [json.loads(line) for line in engine.errors if line.startswith("{")]
    assert {line["actor"] for line in lines if line["level"] == "debug"} == {"matcher-0"}
