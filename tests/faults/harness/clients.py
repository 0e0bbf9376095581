"""The clients: each goes along its lane, sends one request after the other, and notes what came back.

A request that never left, because nobody listened, is sent again: the engine has not seen it. One that left and was
not answered is *unknown*; nothing more is done to an order of which something is unknown, until it is asked again.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import httpx2
import trio
from tests.faults.harness.intents import Intent, Kind, Lane, Way, dated, intents_of
from tests.faults.harness.notes import KEPT, Answer, Note, Notebook, Outcome, read_answer, read_refusal
from tests.web.raw_websocket import Closed, RawSocket, Refused, connect

from tradeengine.actors.data_dir import read_secret
from tradeengine.web.auth import issue_token

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.faults.harness.venue import Venue

PACE_S: Final = 0.04
"""Between an answer and the next request of a lane."""
RETRY_S: Final = 0.05
ANSWER_S_MAX: Final = 8.0
"""Longer than the engine takes to say that the outcome is unknown."""
RESOLVE_S_MAX: Final = 120.0
NEVER_SENT: Final = Answer(Outcome.REFUSED, code="NEVER_SENT")
NO_ANSWER: Final = Answer(Outcome.UNKNOWN, code="NO_ANSWER")
_POSTED_TO: Final = {Kind.PLACE: "/orders", Kind.BATCH: "/orders/batch", Kind.TIMER: "/orders/cancel-all-after"}

Send = Callable[[Intent, str], Awaitable[Answer | None]]
"""Sends an intent, with the id of the order that it is about; None: it never left."""


class Trader:
    """Goes along one lane."""

    def __init__(self, lane: Lane, seed: int, notebook: Notebook) -> None:
        self._lane = lane
        self._intents = intents_of(seed, lane)
        self._notebook = notebook
        self._ids: dict[str, str] = {}
        """Of orders that may be changed, by client order id."""

    async def run(self, send: Send, stop: trio.Event) -> None:
        """Go on until asked to stop."""
        for wanted in self._intents:
            if wanted.target is not None and wanted.target not in self._ids:
                continue
            if stop.is_set():
                return
            intent = dated(wanted, datetime.now(UTC))
            note = self._notebook.begin(intent)
            order_id = self._ids.get(intent.target or "", "")
            answer = await send(intent, order_id)
            while answer is None and not stop.is_set():
                await trio.sleep(RETRY_S)
                answer = await send(intent, order_id)
            self._notebook.end(note, answer or NEVER_SENT)
            self._learn(note)
            await trio.sleep(PACE_S)

    def _learn(self, note: Note) -> None:
        for part in note.parts():
            if part.order is not None and part.outcome is Outcome.OK:
                self._ids[part.order["client_order_id"]] = part.views[-1]["order"]["id"]
            elif part.outcome is Outcome.UNKNOWN and note.intent.target is not None:
                self._ids.pop(note.intent.target, None)


class HttpWay:
    """Requests over HTTP, on a connection that is kept as long as it holds."""

    def __init__(self, venue: Venue, user: str, role: str = "user") -> None:
        token = token_of(venue, user, role)
        self.http = httpx2.AsyncClient(
            base_url=f"{venue.url}/api/v1",
            headers={"Authorization": f"Bearer {token}"},
            timeout=ANSWER_S_MAX,
            trust_env=False,
        )

    async def send(self, intent: Intent, order_id: str) -> Answer | None:
        """Send an intent."""
        method, path, options = _request_of(intent, order_id)
        try:
            answer = await self.http.request(method, path, **options)
        except (httpx2.ConnectError, httpx2.ConnectTimeout):
            return None
        except httpx2.TransportError:
            return NO_ANSWER
        told = read_answer(answer.status_code, answer.json())
        is_funding = intent.kind in {Kind.DEPOSIT, Kind.WITHDRAWAL}
        if is_funding and told.status == 503:
            # It is written down before it is carried out, so it may be.
            return Answer(Outcome.UNKNOWN, told.status, told.code, told.data)
        return told


def _request_of(intent: Intent, order_id: str) -> tuple[str, str, dict[str, Any]]:
    match intent.kind:
        case Kind.AMEND:
            return "PATCH", f"/orders/{order_id}", {"json": intent.body}
        case Kind.CANCEL:
            return "DELETE", f"/orders/{order_id}", {}
        case Kind.CANCEL_ALL:
            return "DELETE", "/orders", {"params": intent.body}
        case Kind.DEPOSIT | Kind.WITHDRAWAL:
            return "POST", f"/admin/{intent.kind}s", {"json": intent.body}
    return "POST", _POSTED_TO[intent.kind], {"json": intent.body}


class StreamWay:
    """Requests over a stream, on a connection that is made again when it breaks."""

    def __init__(self, venue: Venue, user: str) -> None:
        self._url = venue.url
        self._token = token_of(venue, user)
        self._socket: RawSocket | None = None

    async def send(self, intent: Intent, order_id: str) -> Answer | None:
        """Send an intent."""
        if self._socket is None:
            try:
                self._socket = await connect(self._url, token=self._token)
            except (OSError, trio.BrokenResourceError, Refused, Closed, trio.TooSlowError):
                return None
        fields = intent.body | ({"order_id": order_id} if order_id else {})
        try:
            with trio.fail_after(ANSWER_S_MAX):
                message = await self._socket.answer(await self._socket.request(intent.kind, **fields))
        except (OSError, trio.BrokenResourceError, Closed, trio.TooSlowError):
            await self.close()
            return NO_ANSWER
        if message["type"] == "error":
            return read_refusal(0, message)
        return Answer(Outcome.OK, data=message["data"])

    async def close(self) -> None:
        """Leave the connection."""
        socket, self._socket = self._socket, None
        if socket is not None:
            await trio.aclose_forcefully(socket.stream)


def token_of(venue: Venue, user: str, role: str = "user") -> str:
    """Give a user's token, for longer than a round."""
    return issue_token(read_secret(venue.data_dir).encode(), user, role, 24 * 3600)


@asynccontextmanager
async def http_way(venue: Venue, user: str, role: str = "user") -> AsyncIterator[HttpWay]:
    """Have a way over HTTP while the block runs."""
    way = HttpWay(venue, user, role)
    try:
        yield way
    finally:
        with trio.CancelScope(shield=True):
            await way.http.aclose()


async def trade(venue: Venue, lane: Lane, notebook: Notebook, stop: trio.Event) -> None:
    """Go along a lane until asked to stop."""
    trader = Trader(lane, venue.plan.seed, notebook)
    if lane.way is Way.STREAM:
        way = StreamWay(venue, lane.user)
        try:
            await trader.run(way.send, stop)
        finally:
            await way.close()
        return
    name, role = ("root", "admin") if lane.way is Way.BANK else (lane.user, "user")
    async with http_way(venue, name, role) as http:
        await trader.run(http.send, stop)


async def resolve(venue: Venue, notebook: Notebook, lanes: tuple[Lane, ...]) -> None:
    """Ask again for everything that is unknown, by the same request, until it is known. Raises AssertionError."""
    by_name = {lane.name: lane for lane in lanes}
    for note in notebook.unknown():
        lane = by_name[note.intent.lane]
        user, role = ("root", "admin") if lane.way is Way.BANK else (lane.user, "user")
        order_id = _target_id(notebook, note)
        async with http_way(venue, user, role) as http:
            with trio.move_on_after(RESOLVE_S_MAX):
                while note.is_unknown:
                    answer = await http.send(note.intent, order_id)
                    if answer is not None:
                        notebook.end(note, answer)
                    if note.is_unknown:
                        await trio.sleep(RETRY_S)
        assert not note.is_unknown, f"no outcome of {note.intent}: {note.answer_texts()}"


def _target_id(notebook: Notebook, note: Note) -> str:
    if note.intent.target is None:
        return ""
    for other in notebook.notes:
        for part in other.parts():
            if part.order is not None and part.order["client_order_id"] == note.intent.target:
                assert part.outcome in KEPT
                order_id: str = part.views[-1]["order"]["id"]
                return order_id
    raise AssertionError(f"{note.intent} is about an order that nobody placed")
