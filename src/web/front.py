"""The front: what handlers work with. Who asks, what exists, how to send a command, where history and pages are.

It refuses to know routes and JSON shapes.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar, cast

import msgspec
import trio
from quart import current_app, request

from tradeengine.core.ids import shard_of
from tradeengine.core.symbols import SymbolSpec
from tradeengine.ipc.directory import DirectoryPage, read_directory
from tradeengine.ipc.metrics import MetricPage
from tradeengine.ipc.overview import Overview
from tradeengine.ipc.seqlock import SeqlockBusy, SeqlockTable
from tradeengine.ipc.window import STEP_S, Window
from tradeengine.settings import Settings
from tradeengine.web.address import client_address
from tradeengine.web.api_keys import ApiKeys
from tradeengine.web.audit_trail import AuditTrail
from tradeengine.web.auth import Authenticator, Identity
from tradeengine.web.connection import FrontRequest
from tradeengine.web.database import Database
from tradeengine.web.errors import ApiError, overloaded
from tradeengine.web.gateway import Gateway, NoRoom, OutcomeUnknown, Records, Waiting
from tradeengine.web.health import Health
from tradeengine.web.history import Accounts, History
from tradeengine.web.in_force import InForce
from tradeengine.web.inbox import Inbox
from tradeengine.web.jsonbody import printable, read_object, read_value
from tradeengine.web.probes import Probes
from tradeengine.web.request_limits import RequestLimits
from tradeengine.web.signed_requests import KEY_HEADER, read_signed_request, sent_target
from tradeengine.web.streams import standing
from tradeengine.web.streams.tasks import Tasks
from tradeengine.web.tries import Tries
from tradeengine.web.validation import read_body

if TYPE_CHECKING:
    from tradeengine.web.app import FrontApp
    from tradeengine.web.streams.hub import Hub
    from tradeengine.web.watch import Watch

T = TypeVar("T", bound=msgspec.Struct)

ANSWER_GRACE_S = 1.0
"""Risk drops a command at its deadline and says so; the front waits a little longer to hear it."""


@dataclass(kw_only=True)
class Front:
    """One front process."""

    settings: Settings
    authenticator: Authenticator
    api_keys: ApiKeys
    database: Database
    inbox: Inbox
    gateway: Gateway
    admin_gateway: Gateway
    """A way of its own for what administrators ask for, so that no flood of orders holds it up."""
    accounts: Accounts
    in_force: InForce
    history: History
    pages: Pages
    hub: Hub
    request_limits: RequestLimits
    watch: Watch
    overview: Overview
    window: Window
    health: Health
    probes: Probes
    audit: AuditTrail
    rolls: Sequence[SeqlockTable]
    """Which stream clients there are, by front."""
    metrics: MetricPage
    shard_count: int
    tries: Tries = field(default_factory=Tries)
    started_s: float = field(default_factory=time.monotonic)

    async def run(self) -> None:
        """Read what comes and look after streams, until cancelled."""
        async with trio.open_nursery() as nursery:
            self.hub.nursery = Tasks(nursery)
            nursery.start_soon(self.inbox.run, (self.gateway, self.admin_gateway), self.hub)
            nursery.start_soon(self.hub.look_after)
            nursery.start_soon(self.hub.private.watch_balances)
            nursery.start_soon(self.authenticator.follow_keys)
            nursery.start_soon(standing.follow, self)
            nursery.start_soon(self.probes.run)
            nursery.start_soon(self.audit.run)
            nursery.start_soon(self._keep_window)

    async def _keep_window(self) -> None:
        while True:
            await trio.sleep(STEP_S)
            self.window.keep()

    @property
    def command_timeout_ms(self) -> int:
        """How long a command may wait for risk."""
        return self.settings.http.command_timeout_ms

    async def identify(self) -> Identity:
        """Name the caller of the present request, by token or by API key. Raises ApiError."""
        if KEY_HEADER not in request.headers:
            return self.authenticator.identify(request.headers.getlist("Authorization"))
        signed = read_signed_request(
            request.headers.getlist,
            request.method,
            sent_target(request.scope),
            cast(FrontRequest, request).whole_body(),
            self.settings.keys.window_ms_max,
        )
        return await self.api_keys.identify(signed, self.client_address())

    def client_address(self) -> str:
        """Name where the present request comes from, as far as proxies are trusted."""
        forwarded_for = ",".join(request.headers.getlist("X-Forwarded-For"))
        return client_address(request.remote_addr or "", forwarded_for, self.settings.http.trusted_proxies)

    async def account_id(self, name: str) -> int:
        """Account id of a caller's name, made when it is new. Raises ApiError."""
        return await self.accounts.id_of(name)

    async def ask(self, command: Records, *, parts: int = 1, **details: str) -> Records:
        """Send a command and return its events, at least one.

        details: what a caller needs to ask again. Raises ApiError ENGINE_OVERLOADED, OUTCOME_UNKNOWN.
        """
        self.refuse_when_stopping()
        try:
            return await self.gateway.ask(command, self.command_timeout_ms / 1000 + ANSWER_GRACE_S, parts)
        except NoRoom:
            raise overloaded() from None
        except OutcomeUnknown:
            raise self.outcome_unknown(details) from None

    async def ask_as_administrator(self, command: Records, parts: int, timeout_s: float | None = None) -> Waiting:
        """Send a command of an administrator; how it ended, ``lost`` too, is for the caller to say.

        Raises ApiError ENGINE_OVERLOADED.
        """
        self.refuse_when_stopping()
        usual_s = self.command_timeout_ms / 1000 + ANSWER_GRACE_S
        try:
            return await self.admin_gateway.ask_whole(command, timeout_s or usual_s, parts)
        except NoRoom:
            raise overloaded() from None

    async def ask_each(self, commands: Sequence[Records]) -> list[Waiting | None]:
        """Send commands for one shard each at once; None: there was no room for it, and it was not sent."""
        return await self.gateway.ask_each(commands, self.command_timeout_ms / 1000 + ANSWER_GRACE_S)

    def outcome_unknown(self, details: dict[str, str]) -> ApiError:
        """Tell that nobody knows what became of a command. details: what a caller needs to ask again."""
        advice = "Repeat the same request: what is done already is not done twice."
        if "client_order_id" in details:
            advice = "Repeat the same request with this client_order_id: nothing is done twice."
        elif "order_id" in details:
            advice = "Look at the order to see whether it was done before you repeat the request."
        message = f"The command was sent but its outcome did not come back in time. {advice}"
        return ApiError("OUTCOME_UNKNOWN", message, dict(details))

    def refuse_when_stopping(self) -> None:
        """Take no more commands when the server stops. Raises ApiError."""
        if self.hub.stopping:
            raise ApiError("SHUTTING_DOWN", "The server is stopping; nothing was done. Try again in a moment.")

    def symbol(self, name: str) -> SymbolSpec:
        """Find a symbol by the name that a client wrote: BTC/USDT, or BTC-USDT. Raises ApiError SYMBOL_NOT_FOUND."""
        spec = self.pages.directory().symbol_by_name.get(name.upper().replace("-", "/", 1))
        if spec is None:
            shown = printable(name)
            raise ApiError(
                "SYMBOL_NOT_FOUND",
                f"There is no symbol {shown}; see /api/v1/symbols.",
                {"field": "symbol", "symbol": shown},
            )
        return spec

    def symbol_by_id(self, symbol_id: int) -> SymbolSpec:
        """Find a symbol by its id; the engine names only those that it has."""
        return self.pages.directory().symbols[symbol_id]


@dataclass(kw_only=True)
class Pages:
    """The shared tables that a front reads."""

    balances: SeqlockTable
    touch: SeqlockTable
    trading_states: SeqlockTable
    depth: SeqlockTable
    tickers: SeqlockTable
    actors: SeqlockTable
    directory_table: SeqlockTable
    _directory: DirectoryPage | None = None
    _directory_version: int = -1

    def directory(self) -> DirectoryPage:
        """Give the directory as it is now; it is decoded once per change."""
        version = self.directory_table.version(0)
        if self._directory is None or (version != self._directory_version and not version & 1):
            self._directory = read_directory(self.directory_table)
            self._directory_version = version
        return self._directory

    def shard_of(self, command: Records) -> int:
        """Name the shard that a command (shape (1,)) is for: its order's, else its symbol's; -1: no single one's."""
        order_id = int(command["order_id"][0])
        if order_id:
            return shard_of(order_id)
        spec = self.directory().symbols.get(int(command["symbol_id"][0]))
        return -1 if spec is None else spec.shard


def read_page(table: SeqlockTable, row: int) -> Any:
    """Copy one row of a shared table. Raises ApiError ENGINE_OVERLOADED when its writer is in the way or gone."""
    try:
        return table.read(row)
    except SeqlockBusy:
        raise overloaded() from None


def current_front() -> Front:
    """Give the front that serves the present request."""
    return cast("FrontApp", current_app).front


async def read_json_value() -> Any:
    """Decode the body of the present request, whatever it holds. Raises ApiError."""
    return read_value(cast(FrontRequest, request).whole_body())


async def read_json(kind: type[T]) -> T:
    """Read and check the body of the present request. Raises ApiError."""
    return read_body(read_object(cast(FrontRequest, request).whole_body()), kind)
