"""The operator's page in a real browser: who may come in, what it shows, and what it does by the keyboard alone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from decimal import Decimal
from typing import Final

import httpx2
import pytest
import trio
from tests.e2e.browser import Page, needs_chromium, running_browser
from tests.e2e.operator_page import (
    FAINT,
    FOCUSED,
    KEPT,
    REQUEST,
    desk,
    go_by_tab,
    recorded,
    shows,
    sign_in,
    some_topology,
    token_of,
    visiting,
)
from tests.e2e.users import Json, User, user_for_a_test
from tests.engines import Engine, running_engine, wait_restarted

pytestmark = needs_chromium

HALTED: Final = "DOGE/USDT"
NARROW_PX: Final = 360
VIEWS: Final = ("pipeline", "symbols", "health", "money", "users", "audit")
LISTING: Final = {
    "symbol": "PAGE/USDT",
    "base_places": "4",
    "tick": "0.01",
    "lot": "0.1",
    "price_max": "1000",
    "quantity_min": "0.1",
    "quantity_max": "10000",
    "min_notional": "1",
    "maker_fee": "0.001",
    "taker_fee": "0.002",
}
HOSTILE: Final = '<img src=x onerror="window.harmed=1"><script>window.harmed=2</script>&amp;\'`'


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """Run an engine of two fronts and two shards, where tokens end in time and whoever is silent is left alone."""
    environment = {"TRADEENGINE_AUTH_LEEWAY_S": "0", "TRADEENGINE_SUPERVISOR_HEARTBEAT_TIMEOUT_S": "60"}
    with running_engine(tmp_path_factory.mktemp("watched"), ["--fronts", "2", "--shards", "2"], environment) as engine:
        yield engine


@pytest.fixture(scope="module")
def devtools(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Run a browser; gives where its DevTools are."""
    with running_browser(tmp_path_factory.mktemp("operator")) as address:
        yield address


@pytest.fixture(scope="module")
def trader(watched: Engine) -> Iterator[User]:
    """Give somebody who trades."""
    yield from user_for_a_test(watched, "trader", {"USDT": "100000", "DOGE": "100000"})


@pytest.fixture(scope="module")
def root(watched: Engine) -> Iterator[httpx2.Client]:
    """Give a client of a super administrator, to look at what the page has done."""
    with watched.client("root", "super_admin") as client:
        yield client


async def test_strangers_are_told_why_they_may_not_come_in(devtools: str, watched: Engine) -> None:
    """Nonsense, an ended token and a plain user's are refused in words, and the field is empty afterwards."""
    for token, told in (
        ("nonsense", "The engine does not take this token."),
        (token_of(watched, lifetime_s=-60), "has expired"),
        (token_of(watched, "ulla", "user"), "is ulla’s, with the role user. This page is for administrators."),
    ):
        async with visiting(devtools, watched, 401, 403) as page:
            await sign_in(page, token)
            await shows(page, "#sign-in-trouble", told)
            assert await page.evaluate("document.querySelector('input').value") == ""
            assert await page.evaluate("document.querySelector('.desk')") is None
            await sign_in(page, token_of(watched))
            await page.wait_until("document.querySelector('.desk')")


async def test_token_is_kept_in_memory_only(devtools: str, watched: Engine) -> None:
    """The token is in no storage, cookie, address or markup; signing out leaves nothing, and a reload asks again."""
    token = token_of(watched)
    async with visiting(devtools, watched) as page:
        await sign_in(page, f"Bearer {token}")
        await page.wait_until("document.querySelector('.desk')")
        assert token not in await page.evaluate(KEPT)
        assert (await page.ask("Network.getCookies"))["cookies"] == []
        assert await page.evaluate("indexedDB.databases().then(all => all.length)") == 0
        assert all(token not in event["request"]["url"] for name, event in page.told if name == REQUEST)
        await page.evaluate("[...document.querySelectorAll('button')].find(b => b.textContent === 'Sign out').click()")
        await page.wait_until("document.querySelector('form.sign-in-form')")
        assert "matcher" not in await page.evaluate("document.documentElement.outerHTML")
        await sign_in(page, token)
        await page.wait_until("document.querySelector('.desk')")
        await page.navigate(f"{watched.url}/admin")
        await page.wait_until("document.querySelector('form.sign-in-form')")
        assert token not in await page.evaluate(KEPT)


async def test_ended_token_signs_out(devtools: str, watched: Engine) -> None:
    """When a token ends the page goes back to the sign-in by itself and says why; nothing of the engine stays shown."""
    async with visiting(devtools, watched, 401) as page:
        for lifetime_s in (5, 15, 45):  # on a busy machine a token may end before its owner is in
            await sign_in(page, token_of(watched, lifetime_s=lifetime_s))
            await page.wait_until("document.querySelector('.desk') ?? document.querySelector('.trouble').textContent")
            if await page.evaluate("document.querySelector('.desk') !== null"):
                break
        await shows(page, "#sign-in-trouble", "Signed out.", "expired")
        assert "matcher" not in await page.evaluate("document.documentElement.outerHTML")


async def test_picture_has_every_actor_and_ring(
    devtools: str, watched: Engine, root: httpx2.Client, trader: User
) -> None:
    """Each actor has a card with its state, each ring a pipe, and orders are seen to pass through them."""
    actors = root.get("/admin/actors").json()["data"]
    rings = {ring["name"] for actor in actors for ring in actor["rings"] if ".client-" not in ring["name"]}
    async with desk(devtools, watched) as page:
        cards = await page.evaluate("[...document.querySelectorAll('.card')].map(card => card.dataset.actor)")
        assert sorted(cards) == sorted(actor["name"] for actor in actors)
        pipes = await page.evaluate("[...document.querySelectorAll('.pipe-name')].map(pipe => pipe.textContent)")
        assert set(pipes) == rings | {"ingress.client-…"}
        for actor in actors:
            await shows(page, f"[data-actor='{actor['name']}']", "ready")
        symbols = root.get("/admin/symbols").json()["data"]
        shard = next(symbol["shard"] for symbol in symbols if symbol["symbol"] == HALTED)
        moving = f"!/in 0\\/s/.test(document.querySelector('[data-actor=matcher-{shard}]').innerText)"
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trade_on, trader)
            await page.wait_until(f"{moving} && document.querySelector('.dots[data-moving]')")
            await shows(page, "[data-actor=settlement]", "p50", "p99", "busy")
            nursery.cancel_scope.cancel()


async def trade_on(trader: User) -> None:
    """Place orders and cancel them, some in a second."""

    def once() -> None:
        order = trader.place(symbol=HALTED, quantity="200", price="0.05")["order"]
        trader.call("DELETE", f"/orders/{order['id']}")

    while True:
        await trio.to_thread.run_sync(once)
        await trio.sleep(0.05)


@pytest.mark.long
async def test_actor_that_hangs_or_died_leaps_to_the_eye(devtools: str, watched: Engine) -> None:
    """A hanging actor is named above every view, and marked on its card in words; a killed one's restart is counted."""
    async with desk(devtools, watched) as page:
        with watched.standing_still("matcher-1"):
            await shows(page, ".attention", "matcher-1 is silent", "no heartbeat for")
            await shows(page, "[data-actor=matcher-1]", "silent", "no heartbeat for")
            assert await page.evaluate("document.querySelector('[data-actor=matcher-1]').dataset.tone") == "warn"
            assert "matcher-1 is silent" in await page.evaluate("document.getElementById('announcer').textContent")
            await page.evaluate("location.hash = 'audit'")
            await shows(page, ".attention", "matcher-1")
            await page.evaluate("location.hash = 'pipeline'")
        await page.wait_until("document.querySelector('.attention').hidden")
        pid = watched.actors()["matcher-0"]
        watched.kill_actor("matcher-0")
        await trio.to_thread.run_sync(wait_restarted, watched, "matcher-0", pid)
        await shows(page, "[data-actor=matcher-0]", "ready", "1 restart")


@pytest.mark.long
async def test_old_picture_is_marked_old(devtools: str, watched: Engine) -> None:
    """When no front answers the page says how old its picture is and greys it; when one does it is live again."""
    async with desk(devtools, watched) as page:
        await shows(page, ".age", "live")
        with watched.standing_still("front-0", "front-1"):
            await page.wait_until("document.querySelector('.desk[data-stale]')")
            await shows(page, ".age", "as of", "ago")
        await page.wait_until("!document.querySelector('.desk[data-stale]')")
        await shows(page, ".age", "live")


@pytest.mark.long
async def test_page_that_nobody_sees_asks_nothing(devtools: str, watched: Engine) -> None:
    """While the page is hidden it makes no call; shown again it asks at once."""
    counted = "calls = 0; ask = fetch; fetch = (...all) => { calls += 1; return ask(...all); }; "
    hide = "Object.defineProperty(document, 'hidden', {{ get: () => {}, configurable: true }}); "
    changed = "document.dispatchEvent(new Event('visibilitychange'))"
    async with desk(devtools, watched) as page:
        await page.evaluate(counted + "0")
        await page.wait_until("calls > 2")
        await page.evaluate(f"{hide.format('true')}{changed}; calls = 0")
        await trio.sleep(2.5)  # two rounds would begin in this time
        assert await page.evaluate("calls") == 0
        await page.evaluate(f"{hide.format('false')}{changed}")
        assert await page.evaluate("calls") > 0


async def test_halt_and_resume_by_keyboard_alone(
    devtools: str, watched: Engine, root: httpx2.Client, trader: User
) -> None:
    """By keys alone: find a symbol, halt it after a look at what would happen, and resume it. The matcher obeys."""
    async with desk(devtools, watched) as page:
        await go_by_tab(page, "Symbols")
        await page.press("Enter")
        await shows(page, ".view:not([hidden])", HALTED)
        await go_by_tab(page, "Filter")
        await page.write("doge")
        await page.wait_until("document.querySelectorAll('.view:not([hidden]) tbody tr').length === 1")
        await go_by_tab(page, f"Halt {HALTED}")
        await page.press("Enter")
        await shows(page, "dialog", f"Halt {HALTED}")
        await page.press("Enter")
        await shows(page, "dialog [role=alert]", "Reason is needed.")
        await page.write("a rumour")
        await page.press("Enter")
        await shows(page, "dialog .outcome", "This would happen", "Now open", "Then halted")
        order = trader.place(symbol=HALTED, quantity="200", price="0.05")["order"]
        await page.press("Enter")
        await shows(page, "dialog .outcome", "Done", "Before open", "Now halted", "Since sequence")
        refused = trader.place(409, symbol=HALTED, quantity="200", price="0.05")
        assert refused["code"] == "SYMBOL_HALTED"
        assert trader.call("DELETE", f"/orders/{order['id']}")["order"]["status"] == "cancelled"
        await page.press("Enter")
        await page.wait_until("!document.querySelector('dialog')")
        await shows(page, "tbody tr", HALTED, "halted", "a rumour")
        assert await page.evaluate(FOCUSED) == f"Halt {HALTED}"
        await go_by_tab(page, f"Resume {HALTED}")
        await page.press("Enter")
        await page.write("it was none")
        await page.press("Enter")
        await shows(page, "dialog .outcome", "Then open")
        await page.press("Enter")
        await shows(page, "dialog .outcome", "Now open")
        await page.press("Escape")
        await shows(page, "tbody tr", HALTED, "open")
    trader.call("DELETE", f"/orders/{trader.place(symbol=HALTED, quantity='200', price='0.05')['order']['id']}")
    reasons = ["it was none"] * 2 + ["a rumour"] * 2
    rows = await recorded(root, 4, lambda rows: [row["reason"] for row in rows] == reasons)
    assert ["dry_run" in (row["details"] or {}) for row in rows] == [False, True] * 2


async def test_escape_leaves_everything_as_it_is(devtools: str, watched: Engine, root: httpx2.Client) -> None:
    """A dialog that is left by Escape, also after the look at what would happen, has changed nothing."""
    async with desk(devtools, watched) as page:
        await page.evaluate("location.hash = 'symbols'")
        await go_by_tab(page, "Halt all")
        await page.press("Enter")
        await page.write("for a look")
        await page.press("Enter")
        await shows(page, "dialog .outcome", "Would become halted", HALTED)
        await page.write("; no, another reason")
        await page.press("Escape")
        await page.wait_until("!document.querySelector('dialog')")
        assert await page.evaluate(FOCUSED) == "Halt all"
    assert {symbol["status"] for symbol in root.get("/admin/symbols").json()["data"]} == {"open"}


async def test_what_is_changed_while_it_looks_is_looked_at_again(devtools: str, watched: Engine) -> None:
    """A reason that is changed while the look is under way is not done unseen: its answer is passed over."""
    held = """ask = fetch; fetch = (url, options) => url.includes("dry_run")
        ? new Promise(go => { release = go; }).then(() => ask(url, options)) : ask(url, options); 0"""
    async with desk(devtools, watched) as page:
        await page.evaluate("location.hash = 'symbols'")
        await go_by_tab(page, "Halt all")
        await page.press("Enter")
        await page.write("for a look")
        await page.evaluate(held)
        await page.press("Enter")
        await page.wait_until("document.querySelector('dialog form[aria-busy]')")
        await page.write("; no, another")
        await page.evaluate("release(); 0")
        await page.wait_until("!document.querySelector('dialog form[aria-busy]')")
        assert await page.evaluate("document.querySelector('dialog').dataset.step") == "compose"
        assert await page.evaluate("document.querySelector('dialog .outcome').hidden") is True
        await page.press("Escape")


async def test_what_people_wrote_is_text(devtools: str, watched: Engine, root: httpx2.Client) -> None:
    """Markup in reasons is shown letter for letter, in symbols, the audit log and dialogs, and runs nowhere."""
    path = f"/admin/trading/cancel-only/{HALTED.replace('/', '-')}"
    assert root.post(path, json={"reason": HOSTILE}).status_code == 200
    await recorded(root, 1, lambda rows: rows[0]["reason"] == HOSTILE)
    try:
        async with desk(devtools, watched) as page:
            await page.evaluate("location.hash = 'symbols'")
            await shows(page, ".view:not([hidden])", HOSTILE)
            await page.evaluate("location.hash = 'audit'")
            await shows(page, ".view:not([hidden]) tbody tr", HOSTILE)
            assert await page.evaluate("window.harmed") is None
            assert await page.evaluate("document.querySelectorAll('img[src=x], #root script').length") == 0
            # And were it tried: the browser makes no markup of text on this page, and says so.
            tried = "try { document.createElement('p').innerHTML = '<b>'; 'made' } catch (error) { error.name }"
            assert await page.evaluate(tried) == "TypeError"
            page.told = [told for told in page.told if "TrustedHTML" not in str(told)]
    finally:
        root.post(path.replace("cancel-only", "resume"), json={"reason": "over"})


async def test_audit_log_is_filtered_and_paged(devtools: str, watched: Engine, root: httpx2.Client) -> None:
    """The log shows fifty entries, then the older ones on request, and by a filter only those that fit."""
    for number in range(60):
        assert root.post("/admin/limits/user/audited", json={"max_open_orders": number}).status_code == 200
    await recorded(root, 60, lambda rows: {row["action"] for row in rows} == {"change_user_limits"})
    rows = "document.querySelectorAll('.view:not([hidden]) tbody tr').length"
    async with desk(devtools, watched) as page:
        await page.evaluate("location.hash = 'audit'")
        await page.wait_until(f"{rows} === 50")
        await page.evaluate("document.querySelector('.more button').click()")
        await page.wait_until(f"{rows} > 50")
        assert await page.evaluate("document.getElementById('audit-actions').options.length") > 0
        await go_by_tab(page, "Who")
        await page.write("nobody of this name")
        await page.press("Enter")
        await shows(page, ".view:not([hidden])", "Nothing like this was done.")


async def test_money_is_reconciled_from_the_page(devtools: str, watched: Engine) -> None:
    """A reconciliation asked for on the page tells its result and what was compared."""
    async with desk(devtools, watched) as page:
        await page.evaluate("location.hash = 'money'")
        await shows(page, ".view:not([hidden])", "events.0", "events.1", "events.risk")
        await go_by_tab(page, "Reconcile now")
        await page.press("Enter")
        await shows(page, "[role=status].headline", "No difference")
        await shows(page, ".view:not([hidden])", "postings", "balances")


async def test_differences_and_dead_letters_are_listed(devtools: str, watched: Engine) -> None:
    """What a reconciliation finds is told by kind, place and both sides; dead letters can be discarded with a reason.

    The answers are made up in the browser: here the ledger agrees with itself, and no wallet is outside.
    """
    difference = {
        **dict.fromkeys(("symbol", "order_id", "transaction_id", "field")),
        "kind": "balance_differs",
        "message": HOSTILE,
        "account": "alice",
        "asset": "USDT",
        "expected": "10.00",
        "found": "9.99",
    }
    found = {"id": "1", "finished_at": "2026-11-24T10:30:45.234Z", "checked": {"postings": 3}}
    letter: Json = {
        "id": "77",
        "kind": "transfer",
        "error": HOSTILE,
        "tries": 9,
        "created_at": "2026-11-24T10:30:45.234Z",
    }
    letter["legs"] = [{"user": "bob", "asset": "BTC", "amount": "-1"}]
    answers = {
        "/admin/reconciliation": {**found, "difference_count": 1, "differences": [difference]},
        "/admin/dead-letters": [letter],
        "/admin/dead-letters/77/discard": letter,
    }
    async with desk(devtools, watched) as page:
        await page.evaluate(
            f"""asked = []; answers = {json.dumps(answers)}; ask = fetch; fetch = (url, options) => {{
                const known = answers[url.split("?")[0].replace("/api/v1", "")];
                if (known === undefined) return ask(url, options);
                asked.push(options.method + " " + url + " " + options.body);
                const meta = {{ request_id: "r", timestamp: "", next_cursor: null }};
                return Promise.resolve(new Response(JSON.stringify({{ success: true, data: known, meta }})));
            }}; 0"""
        )
        await page.evaluate("location.hash = 'money'")
        await go_by_tab(page, "Reconcile now")
        await page.press("Enter")
        await shows(page, "[role=status].headline", "1 difference, as of 2026-11-24 10:30:45 UTC")
        await shows(page, ".view:not([hidden])", "balance differs", HOSTILE, "alice", "10.00", "9.99", "bob -1 BTC")
        await go_by_tab(page, "Discard dead letter 77")
        await page.press("Enter")
        await page.write("paid by hand")
        await page.press("Enter")
        await shows(page, "dialog .outcome", "This would happen", "Would be given up bob -1 BTC", "77")
        await page.press("Enter")
        await shows(page, "dialog .outcome", "Done", "77")
        sent = await page.evaluate("asked.filter(call => call.startsWith('POST'))")
        path, body = "POST /api/v1/admin/dead-letters/77/discard", '{"reason":"paid by hand"}'
        assert sent == [f"{path}?dry_run=true {body}", f"{path} {body}"]
        assert await page.evaluate("window.harmed") is None


async def test_user_is_suspended_and_resumed(devtools: str, watched: Engine, trader: User) -> None:
    """A user who is looked up can be suspended, which counts at once, and resumed; a look before changes nothing."""
    async with desk(devtools, watched, 404) as page:
        await page.evaluate("location.hash = 'users'")
        await page.wait_until("document.activeElement.id === 'user-name'")
        await page.write("nobody")
        await page.press("Enter")
        await shows(page, ".view:not([hidden]) [role=alert]", "There is no user “nobody”.")
        await page.evaluate("document.activeElement.select()")
        await page.write(trader.name)
        await page.press("Enter")
        await shows(page, ".user", trader.name, "active")
        for button, is_suspended in (("Suspend", True), ("Resume", False)):
            await go_by_tab(page, button)
            await page.press("Enter")
            await page.write("a story")
            await page.press("Enter")
            await shows(page, "dialog .outcome", f"Then {'suspended' if is_suspended else 'active'}")
            assert trader.http.get("/orders").status_code == (200 if is_suspended else 403)
            await page.press("Enter")
            await shows(page, "dialog .outcome", "Done", f"Suspended {'yes' if is_suspended else 'no'}")
            assert trader.http.get("/orders").status_code == (403 if is_suspended else 200)
            await page.press("Enter")
            await shows(page, ".user", "suspended" if is_suspended else "active")


async def test_limits_are_changed_after_a_look(devtools: str, watched: Engine, root: httpx2.Client) -> None:
    """The dialog says of each limit what it is and would be, and changes it when that is confirmed; not before."""
    path = "/admin/limits/user/bounded"
    assert root.post(path, json={"max_open_orders": 5}).status_code == 200
    async with desk(devtools, watched, 400) as page:
        await page.evaluate("location.hash = 'users'")
        await page.wait_until("document.activeElement.id === 'user-name'")
        await page.write("bounded")
        await page.press("Enter")
        await shows(page, ".user", "bounded", "active")
        await go_by_tab(page, "Change limits")
        await page.press("Enter")
        await page.write("a lot")
        await page.press("Enter")
        await page.wait_until("document.activeElement.matches('dialog [name=max_order_size][aria-invalid]')")
        await page.evaluate("document.activeElement.select()")
        await page.write("250.5")
        await page.press("Enter")
        await shows(page, "dialog .outcome", "Largest order no limit, then 250.5", "Open orders stays 5")
        assert root.get(path).json()["data"]["max_order_size"] is None
        await page.press("Enter")
        await shows(page, "dialog .outcome", "Done", "Largest order 250.5")
    limits = root.get(path).json()["data"]
    assert (limits["max_order_size"], limits["max_open_orders"]) == ("250.5", 5)


async def write_listing(page: Page, **terms: str) -> None:
    """Open the form as a super administrator would and fill its fields in their order, by keys alone."""
    await page.evaluate("location.hash = 'symbols'")
    await go_by_tab(page, "List a symbol")
    await page.press("Enter")
    names = await page.evaluate("[...document.querySelectorAll('dialog input')].map(input => input.name)")
    assert set(terms) <= set(names)
    for name in names:
        assert await page.evaluate("document.activeElement.name") == name
        await page.write(terms.get(name, ""))
        await page.press("Tab")
    await go_by_tab(page, "Show what would happen")


async def test_super_administrators_list_a_symbol(
    devtools: str, watched: Engine, root: httpx2.Client, trader: User
) -> None:
    """Only super administrators are offered to list a symbol; it is listed after a look, and then it is traded."""
    offered = "[...document.querySelectorAll('button')].some(button => button.textContent === 'List a symbol')"
    async with desk(devtools, watched) as page:
        assert await page.evaluate(offered) is False
    async with desk(devtools, watched, role="super_admin") as page:
        await write_listing(page, **LISTING)
        await page.press("Enter")
        await shows(page, "dialog .outcome", "This would happen", "It would be listed", "tick 0.01", "status open")
        assert root.get("/orderbook/PAGE-USDT").status_code == 404
        await page.press("Enter")
        await shows(page, "dialog .outcome", "Done", "It is listed", "PAGE/USDT")
        order = trader.place(symbol="PAGE/USDT", quantity="2", price="5")["order"]
        await page.press("Enter")
        await shows(page, ".view:not([hidden])", "PAGE/USDT")
    assert order["status"] == "open"
    shown = next(row for row in trader.call("GET", "/symbols") if row["symbol"] == "PAGE/USDT")
    for name, value in LISTING.items():
        assert Decimal(shown[name]) == Decimal(value) if name != "symbol" else shown[name] == value
    assert (shown["max_price_deviation"], shown["status"]) == (None, "open")
    trader.call("DELETE", f"/orders/{order['id']}")


async def test_what_cannot_be_listed_is_said_at_its_field(devtools: str, watched: Engine, root: httpx2.Client) -> None:
    """A bad tick is told at its field, which gets the focus; put right, the look goes on. On a narrow screen, too."""
    wrong = "document.getElementById(document.activeElement.getAttribute('aria-describedby').split(' ')[0]).innerText"
    wide = "document.querySelector('dialog').scrollWidth > document.querySelector('dialog').clientWidth"
    async with desk(devtools, watched, 400, role="super_admin") as page:
        await page.ask(
            "Emulation.setDeviceMetricsOverride", width=NARROW_PX, height=700, deviceScaleFactor=1, mobile=False
        )
        await write_listing(page, **LISTING | {"symbol": "BAD/USDT", "tick": "0", "lot": ""})
        await page.press("Enter")
        await shows(page, "dialog [role=alert]", "Lot is needed.")
        assert await page.evaluate(FOCUSED) == "Lot"
        await page.write("0.1")
        await page.press("Enter")
        await shows(page, "dialog [role=alert]", "NUMBER_OUT_OF_RANGE (tick)")
        assert await page.evaluate(FOCUSED) == "Tick"
        assert "tick must be" in await page.evaluate(wrong)
        assert await page.evaluate("[...document.querySelectorAll('dialog [aria-invalid]')].map(it => it.name)") == [
            "tick"
        ]
        assert await page.evaluate(wide) is False
        await page.evaluate("document.activeElement.select()")
        await page.write("0.01")
        assert await page.evaluate("document.querySelector('dialog [aria-invalid]')") is None
        await page.press("Enter")
        await shows(page, "dialog .outcome", "It would be listed", "BAD/USDT")
        assert await page.evaluate(wide) is False
        await page.press("Escape")
        await page.wait_until("!document.querySelector('dialog')")
    assert root.get("/orderbook/BAD-USDT").status_code == 404


async def test_every_view_fits_a_narrow_screen(devtools: str, watched: Engine) -> None:
    """At 360 pixels nothing is cut off sideways; every control has a name; with less motion nothing is animated."""
    unnamed = """[...document.querySelectorAll("button, input, select, a")].filter(it =>
        !(it.getAttribute("aria-label") ?? it.labels?.[0]?.textContent ?? it.textContent).trim()).length"""
    async with desk(devtools, watched, role="super_admin") as page:
        await page.ask(
            "Emulation.setDeviceMetricsOverride", width=NARROW_PX, height=700, deviceScaleFactor=1, mobile=False
        )
        for view in VIEWS:
            await page.evaluate(f"location.hash = '{view}'")
            await page.wait_until(f"document.querySelector('nav [aria-current]').hash === '#{view}'")
            await page.wait_until(f"document.documentElement.scrollWidth <= {NARROW_PX}")
            assert await page.evaluate(unnamed) == 0, view
        await page.evaluate("location.hash = 'pipeline'")
        await page.wait_until("document.getAnimations().length > 0")
        await page.ask("Emulation.setEmulatedMedia", features=[{"name": "prefers-reduced-motion", "value": "reduce"}])
        await page.wait_until("document.getAnimations().length === 0")


async def test_documentation_opens_beside_the_page(devtools: str, watched: Engine) -> None:
    """The page's link opens the API's documentation beside it; that one shows every call, and a call can be tried."""
    async with desk(devtools, watched) as page:
        link = "[...document.querySelectorAll('.bar a')].find(link => link.textContent === 'API')"
        assert await page.evaluate(f"{link}.target") == "_blank"
        url = await page.evaluate(f"{link}.href")
        await page.navigate(url)
        await page.wait_until("document.querySelectorAll('#operations details').length > 50")
        names = "[...document.querySelectorAll('#operations summary code')]"
        await page.evaluate(
            f"tried = {names}.find(name => name.textContent === '/health').closest('details').querySelector('form');"
            "tried.requestSubmit()"
        )
        await page.wait_until("tried.querySelector('pre').textContent.startsWith('200')")


async def test_text_has_contrast_in_light_and_dark(devtools: str, watched: Engine) -> None:
    """Every text on every view stands out from its ground by 4.5 to 1 at least, in both colour schemes."""
    async with desk(devtools, watched, role="super_admin") as page:
        for scheme in ("light", "dark"):
            await page.ask("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
            for view in VIEWS:
                await page.evaluate(f"location.hash = '{view}'")
                await page.wait_until(f"document.querySelector('nav [aria-current]').hash === '#{view}'")
                # Changes of colour are spread over a moment, at whose end they are what they are.
                await page.evaluate(
                    "document.getAnimations().filter(it => it.transitionProperty).forEach(it => it.finish())"
                )
                assert await page.evaluate(FAINT) == [], (scheme, view)


async def test_figures_are_worded_and_rated(devtools: str, watched: Engine) -> None:
    """Numbers are short and right, none is made up, and a rate is what two totals say of the engine's own time."""
    worded = """import('/admin/format.js').then(f => [
        f.count(9999), f.count(12345), f.count(1500000), f.count(null), f.rate(0), f.rate(0.01), f.rate(2.345),
        f.rate(1234), f.rate(null), f.percent(0.001), f.percent(0.5), f.milliseconds(0.0312), f.milliseconds(12.34),
        f.milliseconds(2500), f.milliseconds(null), f.duration(3.21), f.duration(90061), f.duration(3600),
        f.moment('2026-11-24T10:30:45.234Z'), f.moment(null)])"""
    rated = """import('/admin/rates.js').then(({ Rates }) => {
        const rates = new Rates(), told = [];
        for (const [at, total] of [[0, 10], [1000, 30], [1000, 30], [2000, 60], [3000, 5], [5000, 9]]) {
            rates.add(at, new Map([["a", total]]));
            told.push(rates.of("a"));
        }
        return [...told, rates.of("b")];
    })"""
    async with visiting(devtools, watched) as page:
        assert await page.evaluate(worded) == [
            *("9,999", "12.3k", "1.5M", "–", "0/s", "<0.1/s", "2.3/s", "1,234/s", "–/s"),
            *("<1 %", "50 %", "31.2 µs", "12.3 ms", "2.5 s", "–"),
            *("3.2 s", "1 d 1 h", "1 h", "2026-11-24 10:30:45", "–"),
        ]
        # What goes back has begun anew; the same moment twice says nothing.
        assert await page.evaluate(rated) == [None, 20, 20, 25, None, 2, None]


@pytest.mark.parametrize(("shards", "fronts", "wallet"), [(1, 1, "ledger"), (3, 2, "http"), (8, 4, "http")])
async def test_any_topology_is_placed(devtools: str, watched: Engine, shards: int, fronts: int, wallet: str) -> None:
    """Whatever shards, fronts and wallet there are, every actor and ring has exactly one place in the picture."""
    actors, rings = some_topology(shards, fronts, wallet)
    plan_it = f"import('/admin/topology.js').then(({{ planOf }}) => planOf({json.dumps(actors)}))"
    async with visiting(devtools, watched) as page:
        plan = await page.evaluate(f"{plan_it}.then(plan => ({{ ...plan, rings: [...plan.rings.keys()] }}))")
    assert [lane["matcher"]["name"] for lane in plan["lanes"]] == [f"matcher-{shard}" for shard in range(shards)]
    assert [front["name"] for front in plan["fronts"]] == [f"front-{number}" for number in range(fronts)]
    placed = [plan["risk"], plan["settlement"], plan["publisher"], *plan["fronts"], *plan["aside"]]
    placed += [lane["matcher"] for lane in plan["lanes"]]
    assert sorted(actor["name"] for actor in placed) == sorted(actor["name"] for actor in actors)
    drawn = [entry["ring"]["name"] for entry in plan["entries"]] + [plan["feed"]["name"]]
    drawn += [ring["name"] for ring in plan["answers"]]
    drawn += [ring["name"] for lane in plan["lanes"] for ring in (lane["commands"], lane["events"])]
    assert sorted(drawn) == sorted(rings) == sorted(plan["rings"])
