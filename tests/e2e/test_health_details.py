"""What is wrong with an engine is shown where it is wrong, and only as long: one engine to which all of it is done."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Final

import httpx2
import pytest
from tests.e2e.users import Json
from tests.engines import Engine, database_away, running_engine, standing_still
from tests.wallet.service import free_port

from tradeengine.storage.embedded import running_embedded

PATIENCE_S: Final = 60.0
ANSWER_S_MAX: Final = 5.0
"""It comes within one second; on a machine that does much else at the same time, well within this."""
PORT: Final = free_port()


@pytest.fixture(scope="module")
def ward(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """Run an engine that these tests do harm to. Its wallet service is not there, unless a test brings it."""
    environment = {
        "TRADEENGINE_WALLET_KIND": "http",
        "TRADEENGINE_WALLET_URL": f"http://127.0.0.1:{PORT}",
        "TRADEENGINE_WALLET_BREAKER_OPEN_S": "0.2",
    }
    with running_engine(tmp_path_factory.mktemp("ward"), [], environment) as engine:
        yield engine


@pytest.fixture
def admin(ward: Engine) -> Iterator[httpx2.Client]:
    """Sign an administrator in, who waits for no answer for long."""
    with ward.client("root", "admin") as client:
        client.timeout = httpx2.Timeout(ANSWER_S_MAX)
        yield client


def look(admin: httpx2.Client) -> Json:
    """Look at all parts."""
    answer = admin.get("/admin/health/detailed")
    assert answer.status_code == 200
    health: Json = answer.json()["data"]
    return health


def until(admin: httpx2.Client, condition: Callable[[Json], bool]) -> Json:
    """Wait until the parts are so."""
    deadline_s = time.monotonic() + PATIENCE_S
    while not condition(health := look(admin)):
        assert time.monotonic() < deadline_s, health
        time.sleep(0.05)
    return health


def is_healthy(*names: str) -> Callable[[Json], bool]:
    """Say whether parts are healthy."""
    return lambda health: all(health["components"][name]["status"] == "healthy" for name in names)


def is_unhealthy(name: str, words: str = "") -> Callable[[Json], bool]:
    """Say whether a part is unhealthy, and why."""

    def condition(health: Json) -> bool:
        part = health["components"][name]
        return part["status"] == "unhealthy" and words in part["message"]

    return condition


def are_unhealthy(*names: str) -> Callable[[Json], bool]:
    """Say whether parts are unhealthy, whatever the reasons."""
    return lambda health: all(is_unhealthy(name)(health) for name in names)


def waits_for_the_database(health: Json) -> bool:
    """Whether settlement says that it does."""
    state: str = health["components"]["settlement"]["details"]["state"]
    return state.startswith("database_unavailable")


def family_of(pid: int) -> list[int]:
    """List a process and its children."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    return [pid, *map(int, children)]


def test_database_that_hangs(ward: Engine, admin: httpx2.Client) -> None:
    """While every process of PostgreSQL stands still the answer comes all the same, and says who does not."""
    until(admin, is_healthy("database", "settlement"))
    server = running_embedded(ward.data_dir)
    assert server is not None
    with standing_still(*family_of(server.pid)):
        for _ in range(3):
            health = look(admin)
            assert is_unhealthy("database", "did not answer within")(health)
            assert health["status"] == "degraded"
            assert is_healthy("matching_engine", "risk", "publisher", "http")(health)
            # So do the others that ask PostgreSQL nothing they cannot do without.
            for path in ("performance", "stats", "actors", "settlement/queue", "metrics"):
                assert admin.get(f"/admin/{path}").status_code == 200
    until(admin, is_healthy("database", "settlement"))


def test_database_that_is_gone(ward: Engine, admin: httpx2.Client) -> None:
    """Without a database it and settlement are unhealthy, the engine is degraded, and books lack their orders alone."""
    with database_away(ward):
        # Settlement's own word, and what the supervisor has heard of it, come one after the other.
        health = until(
            admin, lambda health: are_unhealthy("database", "settlement")(health) and waits_for_the_database(health)
        )
        assert health["status"] == "degraded"
        queue = admin.get("/admin/settlement/queue").json()["data"]
        assert (queue["state"], queue["errors"] > 0) == ("blocked", True)
        assert "database_unavailable" in queue["message"]
        books = admin.get("/admin/orderbook/stats").json()["data"]
        assert {book["orders"] for book in books} == {None}
        assert {book["status"] for book in books} == {"open"}
    until(admin, is_healthy("database", "settlement"))
    assert {book["orders"] for book in admin.get("/admin/orderbook/stats").json()["data"]} == {0}


def test_settlement_that_stands_still(ward: Engine, admin: httpx2.Client) -> None:
    """What settlement does not take is counted in its queue, its age grows, and its silence makes it unhealthy."""
    until(admin, is_healthy("settlement"))
    before = admin.get("/admin/settlement/queue").json()["data"]
    with ward.standing_still("settlement"):
        for _ in range(3):
            again = admin.post("/admin/trading/resume/BTC-USDT", json={"reason": "an event of the shard"})
            assert again.status_code == 200
        queue = admin.get("/admin/settlement/queue").json()["data"]
        by_shard = {shard["shard"]: shard for shard in queue["shards"]}
        assert (queue["queue_size"], by_shard[None]["backlog"], by_shard[0]["backlog"]) == (3, 0, 3)
        assert by_shard[0]["head"] - by_shard[0]["cursor"] == 3
        assert 0 < queue["queue_seconds"] == by_shard[0]["backlog_seconds"]
        until(admin, is_unhealthy("settlement", "settlement has been silent"))
    until(admin, is_healthy("settlement"))
    after = admin.get("/admin/settlement/queue").json()["data"]
    assert (after["queue_size"], after["queue_seconds"]) == (0, 0)
    assert cursor_of_shard(after) - cursor_of_shard(before) == 3


def cursor_of_shard(queue: Json) -> int:
    """Give how far the shard's events are settled."""
    return int(next(shard["cursor"] for shard in queue["shards"] if shard["shard"] == 0))


def test_actor_that_was_killed(ward: Engine, admin: httpx2.Client) -> None:
    """A killed actor is shown with its restart, and its part is healthy again."""
    restarts = admin.get("/admin/stats").json()["data"]["restarts"]
    ward.kill_actor("publisher")
    health = until(admin, lambda health: health["components"]["publisher"]["details"]["restarts"] > 0)
    assert health["components"]["publisher"]["details"]["restarts"] == 1
    until(admin, is_healthy("publisher", "websocket"))
    assert admin.get("/admin/stats").json()["data"]["restarts"] == restarts + 1


def test_wallet_service_comes_and_goes(admin: httpx2.Client) -> None:
    """A wallet service that is not there is unhealthy while trading is not; it is healthy as soon as it answers."""
    health = until(admin, is_unhealthy("wallet_service"))
    assert health["status"] == "degraded"
    assert is_healthy("matching_engine", "database")(health)
    with wallet_service():
        health = until(admin, is_healthy("wallet_service"))
        assert health["components"]["wallet_service"]["details"]["breaker"] == "closed"
        until(admin, lambda health: health["status"] == "healthy")
    until(admin, is_unhealthy("wallet_service"))


class Answers(BaseHTTPRequestHandler):
    """Answers its health, once for each connection; nobody has any money."""

    def do_GET(self) -> None:
        """Answer."""
        body = b'{"success": true, "data": [], "meta": {"next_cursor": null}}'
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def wallet_service() -> Iterator[None]:
    """Let a wallet service be there."""
    with ThreadingHTTPServer(("127.0.0.1", PORT), Answers) as server:
        server.daemon_threads = True
        serving = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        serving.start()
        try:
            yield
        finally:
            server.shutdown()
            serving.join()
