"""The operator's page for tests: opened, signed in, asked what it shows, and steered by keys alone."""

from __future__ import annotations

import itertools
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

import httpx2
import trio
from tests.e2e.browser import Page, open_page
from tests.engines import Engine

from tradeengine.actors.data_dir import read_secret
from tradeengine.actors.topology import plan
from tradeengine.settings_files import load_settings
from tradeengine.web.auth import issue_token

REQUEST: Final = "Network.requestWillBeSent"
LAGS: Final = {"write": None, "gate": 1, "follow": None}
KEPT: Final = """JSON.stringify([
    Object.entries(localStorage), Object.entries(sessionStorage), document.cookie, location.href, history.state,
    name, document.documentElement.outerHTML, [...document.querySelectorAll("input")].map(input => input.value),
])"""
"""Wherever a page could keep something, but for its memory."""

FOCUSED: Final = """(() => {
    const it = document.activeElement;
    return (it.getAttribute("aria-label") ?? it.labels?.[0]?.textContent ?? it.textContent).trim();
})()"""
FAINT: Final = """(() => {
    const canvas = Object.assign(document.createElement("canvas"), { width: 1, height: 1 });
    const pen = canvas.getContext("2d", { willReadFrequently: true });
    const over = (ground, colour) => {
        pen.fillStyle = `rgb(${ground})`; pen.fillRect(0, 0, 1, 1);
        pen.fillStyle = colour; pen.fillRect(0, 0, 1, 1);
        return [...pen.getImageData(0, 0, 1, 1).data.slice(0, 3)];
    };
    const style = (node) => getComputedStyle(node);
    const ground = (node) => node ? over(ground(node.parentElement), style(node).backgroundColor) : [255, 255, 255];
    const light = (rgb) => {
        const [r, g, b] = rgb.map(c => c / 255).map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const isShown = (node) => node.checkVisibility() && !node.closest(".unseen, .skip, :disabled, [aria-disabled]");
    return [...document.querySelectorAll("#root *")].filter(isShown).filter(node =>
        [...node.childNodes].some(child => child.nodeType === 3 && child.data.trim())).map(node => {
            const behind = ground(node), before = over(behind, style(node).color);
            const [one, other] = [light(behind), light(before)].sort((a, b) => b - a);
            return [(one + 0.05) / (other + 0.05), `${node.className} ${node.textContent}`.slice(0, 60)];
        }).filter(([contrast]) => contrast < 4.5);
})()"""
"""Texts that stand out too little from what is behind them: the contrast of WCAG, and which."""

_numbers = itertools.count()


def token_of(engine: Engine, name: str = "olga", role: str = "admin", lifetime_s: float = 3600) -> str:
    """Make a token."""
    return issue_token(read_secret(engine.data_dir).encode(), name, role, lifetime_s)


@asynccontextmanager
async def visiting(devtools: str, engine: Engine, *refused: int) -> AsyncIterator[Page]:
    """Open the page, not signed in; in the end nothing has left the origin and nothing has gone wrong in the browser.

    refused: statuses that this story's calls are answered on purpose, which a browser writes to its console.
    """
    async with open_page(devtools, "about:blank") as page:
        await page.watch()
        await page.navigate(f"{engine.url}/admin")
        await page.wait_until("document.querySelector('form.sign-in-form')")
        yield page
        await page.evaluate("1")
    asked = [event["request"]["url"] for name, event in page.told if name == REQUEST]
    assert len(asked) > 10
    assert [url for url in asked if not url.startswith((f"{engine.url}/", "data:"))] == []
    assert [told for told in page.told if is_trouble(*told, refused)] == []


def is_trouble(name: str, event: Any, refused: tuple[int, ...]) -> bool:
    """Whether an event is one that no page of ours should cause."""
    if name == "Log.entryAdded":
        entry = event["entry"]
        if entry["source"] == "network" and any(f"status of {status} " in entry["text"] for status in refused):
            return False
        return entry["level"] in {"error", "warning"}
    return name == "Runtime.exceptionThrown" or (name == "Runtime.consoleAPICalled" and event["type"] != "log")


async def sign_in(page: Page, token: str) -> None:
    """Write a token into the field that has the focus, and send it."""
    await page.write(token)
    await page.press("Enter")


@asynccontextmanager
async def desk(devtools: str, engine: Engine, *refused: int, role: str = "admin") -> AsyncIterator[Page]:
    """Open the page signed in as an administrator of a name of its own."""
    async with visiting(devtools, engine, *refused) as page:
        await sign_in(page, token_of(engine, f"olga-{next(_numbers)}", role))
        await page.wait_until("document.querySelectorAll('.card[data-tone=ok]').length >= 9")
        yield page


async def shows(page: Page, selector: str, *parts: str) -> None:
    """Wait until an element is there and its text has all parts."""
    text = f"(document.querySelector({json.dumps(selector)})?.innerText ?? '').replace(/\\s+/g, ' ')"
    condition = " && ".join(f"{text}.includes({json.dumps(part)})" for part in parts)
    await page.wait_until(condition)


async def go_by_tab(page: Page, name: str) -> None:
    """Press Tab until something of this accessible name has the focus."""
    for _ in range(120):
        await page.press("Tab")
        if await page.evaluate(FOCUSED) == name:
            return
    raise AssertionError(f"{name} cannot be reached by Tab")


async def recorded(root: httpx2.Client, count: int, is_there: Callable[[list[Any]], bool]) -> list[Any]:
    """Wait until the newest rows of the audit log, so many, are those; rows join it in a moment."""
    with trio.fail_after(20):
        while True:
            rows: list[Any] = root.get("/admin/audit", params={"limit": count}).json()["data"]
            if len(rows) == count and is_there(rows):
                return rows
            await trio.sleep(0.05)


def some_topology(shards: int, fronts: int, wallet: str) -> tuple[list[dict[str, Any]], list[str]]:
    """Make an answer of /admin/actors out of the engine's own plan; gives also the names of all rings."""
    engine = {"ENGINE_SHARDS": str(shards), "ENGINE_FRONTS": str(fronts), "WALLET_KIND": wallet}
    topology = plan(load_settings(environ={f"TRADEENGINE_{name}": value for name, value in engine.items()}))
    actors = [
        {
            "name": actor.name,
            "role": actor.role,
            "state": "ready",
            "heartbeat_age_seconds": 0.1,
            "message": "",
            "rings": [
                {"name": ring.name, "access": access, "capacity": ring.slots, "head": 5, "lag": LAGS[access]}
                for ring in topology.rings
                if (access := ring.access_of(actor.name)) is not None
            ],
        }
        for actor in (*topology.actors, topology.operator)
    ]
    return actors, [ring.name for ring in topology.rings]
