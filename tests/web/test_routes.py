"""Every route and who may call it. A route that is not in ``ROUTES`` fails here, whoever added it: say what it needs.

The table is the intention, written apart from the code, and each line of it is tried with every kind of credentials.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

import msgspec
import pytest
import trio
from tests.web.bench import SECRET, Bench, bearer, make_bench
from tests.web.served import serving
from tests.web.token_maker import ed_key, good_claims, sign

from tradeengine.web.access import Access, terms_of
from tradeengine.web.auth import ALL_PERMISSIONS, Authenticator, Identity
from tradeengine.web.streams.endpoint import PATHS

API: Final = "/api/v1"
ROUTES: Final[Mapping[str, Access]] = {
    "GET /": Access.PUBLIC,
    "GET /admin": Access.PUBLIC,
    "GET /admin/<name>": Access.PUBLIC,
    "GET /docs": Access.PUBLIC,
    "GET /health": Access.PUBLIC,
    "GET /metrics": Access.SCRAPE,
    "GET /openapi.json": Access.PUBLIC,
    "GET /ready": Access.PUBLIC,
    "GET /api/v1/admin/actors": Access.ADMIN,
    "GET /api/v1/admin/audit": Access.ADMIN,
    "GET /api/v1/admin/dead-letters": Access.ADMIN,
    "GET /api/v1/admin/dead-letters/<letter_id>": Access.ADMIN,
    "POST /api/v1/admin/dead-letters/<letter_id>/discard": Access.ADMIN,
    "POST /api/v1/admin/dead-letters/<letter_id>/retry": Access.ADMIN,
    "GET /api/v1/admin/deposits": Access.ADMIN,
    "POST /api/v1/admin/deposits": Access.ADMIN,
    "GET /api/v1/admin/deposits/<path:reference>": Access.ADMIN,
    "GET /api/v1/admin/health/detailed": Access.ADMIN,
    "GET /api/v1/admin/limits/symbol/<path:symbol>": Access.ADMIN,
    "POST /api/v1/admin/limits/symbol/<path:symbol>": Access.ADMIN,
    "GET /api/v1/admin/limits/user/<user>": Access.ADMIN,
    "POST /api/v1/admin/limits/user/<user>": Access.ADMIN,
    "GET /api/v1/admin/metrics": Access.ADMIN,
    "GET /api/v1/admin/orderbook/stats": Access.ADMIN,
    "GET /api/v1/admin/performance": Access.ADMIN,
    "POST /api/v1/admin/orders/cancel-all/<user>": Access.ADMIN,
    "POST /api/v1/admin/orders/cancel-symbol/<path:symbol>": Access.ADMIN,
    "GET /api/v1/admin/reconciliation": Access.ADMIN,
    "GET /api/v1/admin/symbols": Access.ADMIN,
    "POST /api/v1/admin/symbols": Access.SUPER_ADMIN,
    "POST /api/v1/admin/trading/cancel-only/<path:symbol>": Access.ADMIN,
    "POST /api/v1/admin/trading/halt-all": Access.ADMIN,
    "POST /api/v1/admin/trading/halt/<path:symbol>": Access.ADMIN,
    "POST /api/v1/admin/trading/resume-all": Access.ADMIN,
    "POST /api/v1/admin/trading/resume/<path:symbol>": Access.ADMIN,
    "GET /api/v1/admin/settlement/queue": Access.ADMIN,
    "GET /api/v1/admin/stats": Access.ADMIN,
    "POST /api/v1/admin/users/<user>/resume": Access.ADMIN,
    "POST /api/v1/admin/users/<user>/suspend": Access.ADMIN,
    "GET /api/v1/admin/websocket/connections": Access.ADMIN,
    "GET /api/v1/admin/withdrawals": Access.ADMIN,
    "POST /api/v1/admin/withdrawals": Access.ADMIN,
    "GET /api/v1/admin/withdrawals/<path:reference>": Access.ADMIN,
    "DELETE /api/v1/api-keys/<key_id>": Access.USER,
    "GET /api/v1/api-keys": Access.USER,
    "POST /api/v1/api-keys": Access.USER,
    "GET /api/v1/balances": Access.READ,
    "GET /api/v1/candles/<path:symbol>": Access.PUBLIC,
    "GET /api/v1/fees": Access.READ,
    "GET /api/v1/ledger": Access.READ,
    "GET /api/v1/historical/trades/<path:symbol>": Access.PUBLIC,
    "GET /api/v1/markets/<path:symbol>/ticker": Access.PUBLIC,
    "GET /api/v1/orderbook/<path:symbol>": Access.PUBLIC,
    "DELETE /api/v1/orders": Access.TRADE,
    "GET /api/v1/orders": Access.READ,
    "POST /api/v1/orders": Access.TRADE,
    "DELETE /api/v1/orders/<order_id>": Access.TRADE,
    "GET /api/v1/orders/<order_id>": Access.READ,
    "PATCH /api/v1/orders/<order_id>": Access.TRADE,
    "GET /api/v1/orders/by-client-id/<client_order_id>": Access.READ,
    "POST /api/v1/orders/batch": Access.TRADE,
    "POST /api/v1/orders/cancel-all-after": Access.TRADE,
    "POST /api/v1/orders/test": Access.TRADE,
    "GET /api/v1/snapshots/<path:symbol>": Access.PUBLIC,
    "GET /api/v1/statistics/24h/<path:symbol>": Access.PUBLIC,
    "GET /api/v1/symbols": Access.PUBLIC,
    "GET /api/v1/time": Access.PUBLIC,
    "GET /api/v1/trades": Access.PUBLIC,
    "GET /api/v1/trades/<trade_id>": Access.PUBLIC,
}
STREAMS: Final[Mapping[str, str]] = {
    "/ws/stream": "/ws/stream",
    "/ws/orders": "/ws/orders",
    "/ws/trades": "/ws/trades",
    "/ws/markets/<symbol>": "/ws/markets/BTC-USDT",
}
"""Paths of streams, with one that can be asked for. All may be opened by anyone: private channels ask who it is."""
VALUES: Final = {"symbol": "BTC-USDT", "order_id": str(1 << 40), "client_order_id": "abc"}
"""For the parts of a path; any other is 1."""
NOBODY: Final = 401
FORBIDDEN: Final = 403
EXPIRED: Final = sign(SECRET.encode(), good_claims(exp=int(time.time()) - 3600))
WRONG: Final[Mapping[str, str]] = {
    "nonsense": "Bearer nonsense",
    "no scheme": bearer()["Authorization"].removeprefix("Bearer "),
    "another scheme": "Basic YWxpY2U6c2VjcmV0",
    "empty": "Bearer ",
    "unsigned": "Bearer eyJhbGciOiJub25lIn0.eyJzdWIiOiJhbGljZSIsImV4cCI6OTk5OTk5OTk5OX0.",
    "of another secret": f"Bearer {sign(b'x' * 32, good_claims(role='super_admin'))}",
    "of another algorithm": f"Bearer {sign(ed_key(), good_claims(role='super_admin'))}",
    "expired": f"Bearer {EXPIRED}",
    "early": f"Bearer {sign(SECRET.encode(), good_claims(nbf=int(time.time()) + 3600))}",
    "of nobody": f"Bearer {sign(SECRET.encode(), good_claims(sub='*exchange*'))}",
}
LEAST: Final[Mapping[Access, Mapping[str, Identity]]] = {
    Access.READ: {"key that trades": Identity("alice", "user", True, frozenset({"trade"}), "1")},
    Access.TRADE: {"key that reads": Identity("alice", "user", True, frozenset({"read"}), "1")},
    Access.USER: {"key": Identity("alice", "user", True, ALL_PERMISSIONS, "1")},
    Access.ADMIN: {
        "user": Identity("alice", "user", True),
        "administrator's key": Identity("alice", "admin", True, ALL_PERMISSIONS, "1"),
    },
    Access.SUPER_ADMIN: {
        "user": Identity("alice", "user", True),
        "administrator": Identity("alice", "admin", True),
        "super administrator's key": Identity("alice", "super_admin", True, ALL_PERMISSIONS, "1"),
    },
}
"""Who comes nearest to what a route needs, and may not call it."""
ENOUGH: Final[Mapping[Access, Identity]] = {
    Access.READ: Identity("alice", "user", False, frozenset({"read"}), "1"),
    Access.TRADE: Identity("alice", "user", False, frozenset({"trade"}), "1"),
    Access.USER: Identity("alice", "user", False),
    Access.ADMIN: Identity("alice", "admin", False),
    Access.SUPER_ADMIN: Identity("alice", "super_admin", False),
}
"""Who has just what a route needs."""
CLOSED: Final = [route for route, needed in ROUTES.items() if needed in ENOUGH]
OPEN: Final = [route for route, needed in ROUTES.items() if needed is Access.PUBLIC]


@pytest.fixture(scope="module")
def front() -> Bench:
    """Give one front for all calls: none of them is carried out."""
    return make_bench()


async def call(bench: Bench, route: str, headers: Mapping[str, str]) -> tuple[int, str, str]:
    """Call a route; returns status, code of the error and the challenge."""
    method, _, rule = route.partition(" ")
    path = "/".join(_fill(part) for part in rule.split("/"))
    # A body that no call takes: whoever gets past the door is stopped by the first check behind it.
    json = {"no such field": 1} if method in {"POST", "PATCH", "PUT"} else None
    answer = await bench.client.open(path, method=method, headers=dict(headers), json=json)
    body = await answer.get_json() if answer.mimetype == "application/json" else {}
    return answer.status_code, body.get("error", {}).get("code", ""), answer.headers.get("WWW-Authenticate", "")


def _fill(part: str) -> str:
    return VALUES.get(part.strip("<>").rpartition(":")[2], "1") if part.startswith("<") else part


def test_every_route_is_in_the_table(front: Bench) -> None:
    """The table has every route of the application with every method, no others, and what the code asks for each."""
    found = {
        f"{method} {rule.rule}": terms.access
        for rule in front.app.url_map.iter_rules()
        for method in rule.methods or ()
        if method not in {"HEAD", "OPTIONS"} and (terms := terms_of(front.app.view_functions[rule.endpoint]))
    }
    added = sorted(found.keys() - ROUTES.keys())
    assert added == [], "say in ROUTES what these need"
    assert found == ROUTES
    assert {*PATHS, "/ws/markets/<symbol>"} == set(STREAMS)


@pytest.mark.parametrize("route", CLOSED)
async def test_closed_route_without_credentials(route: str, front: Bench) -> None:
    """Whoever names nobody gets no further than 401, with a challenge; a role in a header or a parameter is nobody."""
    tries: list[Mapping[str, str]] = [
        {},
        {"X-User": "alice", "X-Role": "super_admin", "X-Forwarded-User": "alice"},
        {"Cookie": f"token={bearer()['Authorization'][7:]}"},
        {"Proxy-Authorization": bearer()["Authorization"]},
        {"X-Api-Token": bearer()["Authorization"]},
    ]
    for headers in tries:
        status, code, challenge = await call(front, route, headers)
        assert (status, code) == (NOBODY, "UNAUTHORIZED")
        assert challenge.startswith("Bearer")


@pytest.mark.parametrize("route", [*CLOSED, *OPEN])
async def test_route_with_wrong_credentials(route: str, front: Bench) -> None:
    """Wrong, expired, early, foreign and malformed tokens are 401 everywhere, also where none is needed."""
    for kind, authorization in WRONG.items():
        assert await call(front, route, {"Authorization": authorization}) == (
            NOBODY,
            "UNAUTHORIZED",
            'Bearer error="invalid_token"',
        ), kind


@pytest.mark.parametrize("route", CLOSED)
async def test_route_with_too_little(route: str, front: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever is known but lacks the role or the permission is told so by 403, before anything of the call is read."""
    for kind, identity in LEAST[ROUTES[route]].items():
        monkeypatch.setattr(Authenticator, "identify", lambda *_, who=identity: who)
        assert (await call(front, route, bearer()))[:2] == (FORBIDDEN, "FORBIDDEN"), kind


@pytest.mark.parametrize("route", CLOSED)
async def test_route_with_just_enough(route: str, front: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever has just what a route needs gets in; and so does everyone above, where it is a matter of roles."""
    # Nobody answers what is sent: that is not what is asked here.
    monkeypatch.setattr("tradeengine.web.front.ANSWER_GRACE_S", 0)
    needed = ROUTES[route]
    enough = [ENOUGH[needed]]
    if needed in {Access.READ, Access.TRADE, Access.USER}:
        enough += [replace(ENOUGH[Access.USER], role=role) for role in ("user", "admin", "super_admin")]
    if needed is Access.ADMIN:
        enough.append(ENOUGH[Access.SUPER_ADMIN])
    for identity in enough:
        monkeypatch.setattr(Authenticator, "identify", lambda *_, who=identity: who)
        assert (await call(front, route, bearer()))[0] not in {NOBODY, FORBIDDEN}


@pytest.mark.parametrize("route", OPEN)
async def test_open_route_needs_nobody(route: str, front: Bench) -> None:
    """An open route is answered without credentials, and with good ones."""
    for headers in ({}, bearer(), bearer(role="admin")):
        assert (await call(front, route, headers))[0] not in {NOBODY, FORBIDDEN}


async def test_metrics_ask_for_their_own_token(monkeypatch: pytest.MonkeyPatch) -> None:
    """Metrics are open, or, with a scrape token configured, for that token and no user's, be it an administrator's."""
    bench = make_bench()
    assert (await call(bench, "GET /metrics", {}))[0] == 200
    http = msgspec.structs.replace(bench.front.settings.http, metrics_token="of the scraper")
    monkeypatch.setattr(bench.front, "settings", msgspec.structs.replace(bench.front.settings, http=http))
    for headers in ({}, bearer(), bearer(role="super_admin"), {"Authorization": "Bearer of the scraper "[:-2]}):
        assert (await call(bench, "GET /metrics", headers))[0] == NOBODY
    assert (await call(bench, "GET /metrics", {"Authorization": "Bearer of the scraper"}))[0] == 200


@pytest.mark.parametrize("path", STREAMS.values())
async def test_stream_with_wrong_credentials(path: str, bench: Bench) -> None:
    """A stream opens without a token and with a good one; with a wrong one the handshake is answered 401."""
    # Subscriptions wait for a publisher that is not there: the stop shall not.
    http = msgspec.structs.replace(bench.front.settings.http, stop_timeout_s=0.1)
    bench.front.settings = msgspec.structs.replace(bench.front.settings, http=http)
    async with bench.engine(lambda _: []), serving(bench) as (_, port):
        for authorization in (None, bearer()["Authorization"]):
            assert await handshake(port, path, authorization) == 101
        for kind, authorization in WRONG.items():
            assert await handshake(port, path, authorization.strip() or "Bearer") == NOBODY, kind


async def handshake(port: int, path: str, authorization: str | None) -> int:
    """Ask for a WebSocket; returns the status of the answer."""
    head = (
        f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    )
    head += f"Authorization: {authorization}\r\n" if authorization is not None else ""
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        await stream.send_all(f"{head}\r\n".encode())
        with trio.fail_after(10):
            return int(bytes(await stream.receive_some()).split(b" ", 2)[1])
