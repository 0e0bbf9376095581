"""A headless Chromium for tests: a page is opened, and asked by DevTools what it shows.

It has a new profile, no sandbox (tests may run as root) and nothing in the background. Whoever has no Chromium skips.
"""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import httpx2
import msgspec
import pytest
import trio
from websockets.trio.client import ClientConnection, connect

START_S: Final = 30.0
ANSWER_S: Final = 20.0
ARGUMENTS: Final = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-extensions",
    "--disable-sync",
    "--no-first-run",
    "--no-proxy-server",
    "--remote-debugging-port=0",
)
KEYS: Final = {"Tab": (9, ""), "Enter": (13, "\r"), "Escape": (27, "")}
"""Keys by name: the code of each, and the text that it writes."""

needs_chromium: Final = pytest.mark.skipif(
    shutil.which("chromium") is None, reason="chromium is not installed: apt-get install chromium"
)


class Page:
    """One page of a browser."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._numbers = itertools.count(1)
        self.told: list[tuple[str, Any]] = []
        """What DevTools told unasked, since the page is watched: names of events, and what they say."""

    async def watch(self) -> None:
        """Have DevTools tell of requests, of what is written to the console, and of what goes wrong."""
        for domain in ("Network", "Runtime", "Log"):
            await self.ask(f"{domain}.enable")

    async def navigate(self, url: str) -> None:
        """Go to a page; returns when it is loaded."""
        await self.ask("Page.enable")
        await self.ask("Page.navigate", url=url)
        # The document before it may still be the one that answers, or go in the middle of an answer: so not asked.
        with trio.move_on_after(ANSWER_S):
            while (await self._read()).get("method") != "Page.loadEventFired":
                pass
            return
        raise AssertionError(f"{url} is not loaded")

    async def press(self, *keys: str) -> None:
        """Press keys one after the other, by what a keyboard calls them: ``Tab``, ``Enter``, ``Escape``."""
        for key in keys:
            code, text = KEYS[key]
            what = {"key": key, "code": key, "windowsVirtualKeyCode": code}
            await self.ask("Input.dispatchKeyEvent", type="keyDown", text=text, **what)
            await self.ask("Input.dispatchKeyEvent", type="keyUp", **what)

    async def write(self, text: str) -> None:
        """Write into whatever has the focus."""
        await self.ask("Input.insertText", text=text)

    async def evaluate(self, expression: str) -> Any:
        """Give the value of an expression in the page, awaited if it is a promise.

        Raises AssertionError when it fails, or takes too long.
        """
        parameters = {"expression": expression, "awaitPromise": True, "returnByValue": True}
        answer = await self.ask("Runtime.evaluate", **parameters)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    async def wait_until(self, condition: str) -> None:
        """Return once an expression is true. Raises AssertionError when that takes too long."""
        # The page looks by itself, so that nothing is asked again and again.
        await self.evaluate(
            f"new Promise(done => {{ const look = () => ({condition}) ? done() : setTimeout(look, 10); look(); }})"
        )

    async def ask(self, method: str, **parameters: Any) -> Any:
        """Ask DevTools; returns the result. Raises AssertionError for an error, or when there is none in time."""
        number = next(self._numbers)
        await self._socket.send(msgspec.json.encode({"id": number, "method": method, "params": parameters}), text=True)
        with trio.move_on_after(ANSWER_S):
            while True:
                answer = await self._read()
                if answer.get("id") == number:
                    assert "error" not in answer, answer
                    return answer["result"]
        raise AssertionError(f"no answer to {method} {parameters}")

    async def _read(self) -> Any:
        message = msgspec.json.decode(await self._socket.recv())
        if "method" in message:
            self.told.append((message["method"], message["params"]))
        return message


@asynccontextmanager
async def open_page(devtools: str, url: str) -> AsyncIterator[Page]:
    """Open a page in a tab of its own; it has been loaded, and its scripts have run, when the block begins."""
    async with httpx2.AsyncClient(base_url=f"http://{devtools}", timeout=ANSWER_S, trust_env=False) as http:
        tab = (await http.put("/json/new?about:blank")).json()
        async with connect(tab["webSocketDebuggerUrl"], compression=None, max_size=2**24, ping_interval=None) as socket:
            page = Page(socket)
            await page.navigate(url)
            yield page
        await http.get(f"/json/close/{tab['id']}")


@contextmanager
def running_browser(folder: Path) -> Iterator[str]:
    """Run a browser while the block runs; gives the address of its DevTools. folder: for its profile and its log."""
    profile = folder / "profile"
    with (folder / "chromium.log").open("wb") as log:
        process = subprocess.Popen(
            ["chromium", *ARGUMENTS, f"--user-data-dir={profile}", "about:blank"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        yield f"127.0.0.1:{_port(process, folder)}"
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _port(process: subprocess.Popen[bytes], folder: Path) -> int:
    """Wait for the file in which the browser says where its DevTools are."""
    deadline_s = time.monotonic() + START_S
    while process.poll() is None and time.monotonic() < deadline_s:
        with suppress(FileNotFoundError, IndexError, ValueError):
            return int((folder / "profile" / "DevToolsActivePort").read_text(encoding="ascii").splitlines()[0])
        time.sleep(0.02)
    raise AssertionError((folder / "chromium.log").read_text(encoding="utf-8", errors="replace"))
