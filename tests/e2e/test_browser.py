"""The page of ``docs/clients.md`` in a real browser: the book moves, and comes back whatever interrupts it."""

from __future__ import annotations

import json
import os
import re
import signal
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import trio
from tests.e2e.browser import Page, needs_chromium, open_page, running_browser
from tests.e2e.users import Json, User, user_for_a_test
from tests.engines import Engine, running_engine, wait_restarted

pytestmark = needs_chromium
DOCUMENT = Path(__file__).parents[2] / "docs" / "clients.md"
SYMBOL = "BTC/USDT"
LEVELS_SHOWN = 10
WAIT_S = 20.0
REFUSED = """new Promise(done => {
    const other = new WebSocket(url);
    other.onopen = () => other.send(JSON.stringify({ op: "subscribe", channels: ["trades:BTC/USDT"] }));
    other.onmessage = ({ data }) => JSON.parse(data).type === "error" && done();
})"""
"""Waits until somebody else is refused, who has asked later."""
TIME = "fetch(url.replace('ws:', 'http:').replace('/ws/stream', '/api/v1/time')).then(a => a.json(), () => null)"
"""What a call answers; null when the browser withholds it."""


class Website:
    """Serves one page on a loopback port, under two names: a configured origin, and one that is not."""

    def __init__(self) -> None:
        self.html = b""
        website = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("Content-Type", "text/html; charset=utf-8")
                self.send_header("Content-Length", str(len(website.html)))
                self.end_headers()
                self.wfile.write(website.html)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def origin(self, name: str = "127.0.0.1") -> str:
        """Give its origin, under a name for loopback."""
        return f"http://{name}:{self._server.server_port}"

    def close(self) -> None:
        """Serve no more."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture(scope="module")
def website() -> Iterator[Website]:
    """Serve pages."""
    serving = Website()
    yield serving
    serving.close()


@pytest.fixture(scope="module")
def visited(tmp_path_factory: pytest.TempPathFactory, website: Website) -> Iterator[Engine]:
    """Run an engine that lets the website's pages in, and have the website show its book."""
    settings = {"TRADEENGINE_HTTP_CORS_ORIGINS": website.origin()}
    with running_engine(tmp_path_factory.mktemp("visited"), environment=settings) as engine:
        (html,) = re.findall(r"```html\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
        assert "127.0.0.1:8000" in html
        website.html = html.replace("127.0.0.1:8000", engine.url.removeprefix("http://")).encode()
        yield engine


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Run a browser; gives where its DevTools are."""
    with running_browser(tmp_path_factory.mktemp("browser")) as devtools:
        yield devtools


@pytest.fixture
def trader(visited: Engine) -> Iterator[User]:
    """Give somebody who moves the book."""
    yield from user_for_a_test(visited, "trader", {"USDT": "10000000", "BTC": "100"})


async def test_book_in_a_browser_moves(browser: str, website: Website, trader: User) -> None:
    """The documented page shows the book as it is, to the last digit, and follows every order."""
    async with open_page(browser, website.origin()) as page:
        await shows_book(page, trader)
        first = place(trader, "buy", "49000.00")
        second = place(trader, "sell", "51000.00")
        await shows_book(page, trader, second)
        amended = trader.call("PATCH", f"/orders/{first['id']}", json={"quantity": "0.25"})["order"]
        await shows_book(page, trader, amended)
        cancelled = trader.call("DELETE", f"/orders/{first['id']}")["order"]
        await shows_book(page, trader, cancelled)


@pytest.mark.long
async def test_page_recovers(browser: str, website: Website, visited: Engine, trader: User) -> None:
    """After lost messages the documented page asks for a snapshot, after a lost connection for another connection."""
    async with open_page(browser, website.origin()) as page:
        await shows_book(page, trader, place(trader, "buy", "49000.00"))
        # As if messages had been lost: a level too many, and the next change does not follow.
        await page.evaluate("sides.buy.set('1.00', '1.00000'); sequence = 1")
        await shows_book(page, trader, place(trader, "buy", "49001.00"))
        pid = visited.actors()["front-0"]
        visited.kill_actor("front-0")
        wait_restarted(visited, "front-0", pid)
        await shows_book(page, trader, place(trader, "buy", "49002.00"))


@pytest.mark.long
async def test_page_that_is_refused_asks_again(browser: str, website: Website, visited: Engine, trader: User) -> None:
    """The documented page shows the book when streams cannot be served at first."""
    publisher = visited.actors()["publisher"]
    placed = place(trader, "buy", "49000.00")
    os.kill(publisher, signal.SIGSTOP)
    try:
        async with open_page(browser, website.origin()) as page:
            await page.evaluate(REFUSED)
            os.kill(publisher, signal.SIGCONT)
            await shows_book(page, trader, placed)
    finally:
        os.kill(publisher, signal.SIGCONT)


async def test_only_pages_of_configured_origins_are_let_in(browser: str, website: Website) -> None:
    """The documented page from another origin gets neither a stream nor an answer to a call; from its own it does."""
    opened = "new Promise(done => { const s = new WebSocket(url); s.onopen = s.onclose = (e) => done(e.type); })"
    async with open_page(browser, website.origin()) as page:
        assert await page.evaluate(opened) == "open"
        assert (await page.evaluate(TIME))["success"] is True
    async with open_page(browser, website.origin("localhost")) as page:
        assert await page.evaluate(opened) == "close"
        assert await page.evaluate(TIME) is None
        assert await page.evaluate("document.getElementById('book').textContent") == "connecting …"


async def test_page_gets_own_orders_by_a_token_in_the_stream(browser: str, website: Website, trader: User) -> None:
    """A page that has sent its token over the stream places an order there and is told of it."""
    token = trader.http.headers["Authorization"].removeprefix("Bearer ")
    request = {"op": "place", "symbol": SYMBOL, "side": "buy", "type": "limit", "quantity": "0.5", "price": "48000.00"}
    async with open_page(browser, website.origin()) as page:
        update = await page.evaluate(
            f"""new Promise((done, fail) => {{
                const own = new WebSocket(url), ask = (request) => own.send(JSON.stringify(request));
                own.onopen = () => {{
                    ask({{ op: "auth", access_token: {json.dumps(token)} }});
                    ask({{ op: "subscribe", channels: ["orders"] }});
                    ask({json.dumps(request)});
                }};
                own.onmessage = ({{ data }}) => {{
                    const message = JSON.parse(data);
                    if (message.type === "order_update") done(message);
                    if (message.type === "error") fail(message.message);
                }};
            }})"""
        )
    assert (update["event"], update["price"]) == ("accepted", "48000.00")
    assert trader.order(update["order_id"])["status"] == "open"


async def shows_book(page: Page, trader: User, order: Json | None = None) -> None:
    """Wait until the page shows what the engine does, and that an order's last event is in it."""
    since = order["sequence"] if order is not None else 0
    text = shown = ""
    with trio.move_on_after(WAIT_S):
        while True:
            book = trader.call("GET", f"/orderbook/{SYMBOL.replace('/', '-')}", params={"depth": LEVELS_SHOWN})
            asks, bids = ([f"{price:>12}{quantity:>16}" for price, quantity in book[side]] for side in ("asks", "bids"))
            text = "\n".join([*reversed(asks), "", *bids, "", f"sequence {book['sequence']}"])
            shown = await page.evaluate("document.getElementById('book').textContent")
            if shown == text and book["sequence"] >= since:
                return
            await trio.sleep(0.01)
    assert shown == text, f"an order of {since} is not shown"


def place(trader: User, side: str, price: str) -> Json:
    """Place a limit order; returns it."""
    placed: Json = trader.place(symbol=SYMBOL, side=side, quantity="0.5", price=price)["order"]
    return placed
