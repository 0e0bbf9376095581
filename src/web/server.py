"""The server: Hypercorn's protocols over connections that are counted, bounded, and closed when they idle.

It does what ``hypercorn.trio.serve`` does with one inherited socket, but differs in four things. Hypercorn starts a
task per request to watch for idleness; here one task looks at all connections. It takes any number of connections;
here those beyond a bound are closed at once. What it would send as nothing is not sent. And a fault in one connection
ends the server there; here it ends that connection.
It refuses to know the application.
"""

from __future__ import annotations

import fcntl
import math
import os
import socket
import sys
import termios
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, Final

import structlog
import trio
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData
from hypercorn.trio.lifespan import Lifespan
from hypercorn.trio.tcp_server import MAX_RECV, TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import AppWrapper, Framework
from hypercorn.utils import wrap_app

from tradeengine.web import admitting, app_tasks
from tradeengine.web.address import network_of
from tradeengine.web.admission import Admission
from tradeengine.web.admitting import Door, Trusted
from tradeengine.web.refusals import CONNECTION_STATE, EnvelopeProtocol
from tradeengine.web.websocket import LINGER_S

CONNECTIONS_MAX: Final = 8192
ROOM: Final = 256
"""For requests of each kind that are in work, unless told otherwise."""
CONNECTIONS_PER_ADDRESS_MAX: Final = CONNECTIONS_MAX // 2
"""So that no one address, or network of IPv6, can take them all; proxies that we trust may."""
HEAD_TIMEOUT_S: Final = 15.0
"""For the request line and the headers together, from their first byte."""
SEND_TIMEOUT_S: Final = 30.0
"""For one piece of an answer; streams have a shorter patience of their own."""
LINGER_BYTES_MAX: Final = 1 << 24
_SWEEP_INTERVAL_S: Final = 1.0
_GONE: Final = (trio.BrokenResourceError, trio.ClosedResourceError, trio.BusyResourceError)
"""Nothing more can be sent. Busy: the end of the connection is going out at this moment."""

_log = structlog.get_logger()


class Server:
    """One listening socket and its connections."""

    def __init__(
        self,
        app: Framework,
        config: Config,
        listener: socket.socket,
        trusted: Trusted | None = None,
        count: Callable[[str], None] = lambda _: None,
        admission: Admission | None = None,
    ) -> None:
        """Serve ``app`` on a socket that already listens; TLS when ``config`` names a certificate.

        trusted: proxies and origins; nobody unless told. count: told of each connection and malformed request, by the
        name of a front's counter. admission: says which requests are let in.
        """
        admitting.install()
        app_tasks.install()
        self._app: AppWrapper = wrap_app(app, config.wsgi_max_body_size, "asgi")
        self._config = config
        self._listener = listener
        self._context = WorkerContext(None)
        self._connections: set[_Connection] = set()
        self._trusted = trusted or Trusted()
        self._count_of_network: Counter[str] = Counter()
        self._tell = count
        self._admission = admission or Admission(ROOM)

    @property
    def connection_count(self) -> int:
        """Connections that are open now."""
        return len(self._connections)

    async def run(
        self, stop: Callable[[], Awaitable[object]], task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Serve until ``stop`` returns; then close what idles and let open requests finish within the grace time."""
        lifespan = Lifespan(self._app, self._config, {})
        async with trio.open_nursery() as nursery:
            await nursery.start(lifespan.handle_lifespan)
            await lifespan.wait_for_startup()
            async with trio.open_nursery() as connections:
                async with trio.open_nursery() as accepting:
                    accepting.start_soon(
                        partial(trio.serve_listeners, handler_nursery=connections),
                        self._serve_one,
                        [self._open_listener()],
                    )
                    accepting.start_soon(self._close_idle)
                    task_status.started()
                    await stop()
                    accepting.cancel_scope.cancel()
                await self._context.terminated.set()
                connections.cancel_scope.deadline = trio.current_time() + self._config.graceful_timeout
                for connection in tuple(self._connections):
                    connections.start_soon(connection.close_if_idle, math.inf)
            await lifespan.wait_for_shutdown()
            nursery.cancel_scope.cancel()

    def _open_listener(self) -> Any:
        listener = trio.SocketListener(trio.socket.from_stdlib_socket(self._listener))
        context = self._config.create_ssl_context()
        return listener if context is None else trio.SSLListener(listener, context, https_compatible=True)

    async def _serve_one(self, stream: Any) -> None:
        address = _peer_of(stream)
        network = network_of(address)
        present = self._count_of_network[network]
        if len(self._connections) >= CONNECTIONS_MAX or present >= CONNECTIONS_PER_ADDRESS_MAX:
            self._tell("connections_refused")
            await trio.aclose_forcefully(stream)
            return
        connection = _Connection(self._app, self._config, self._context, stream, self._tell)
        connection.door = Door(self._admission, address, self._trusted)
        self._connections.add(connection)
        self._tell("connections_opened")
        weight = 0 if address in self._trusted.proxies else 1
        self._count(network, weight)
        try:
            await connection.run()
        finally:
            self._connections.discard(connection)
            self._count(network, -weight)

    def _count(self, network: str, change: int) -> None:
        self._count_of_network[network] += change
        if not self._count_of_network[network]:
            del self._count_of_network[network]

    async def _close_idle(self) -> None:
        async with trio.open_nursery() as nursery:
            while True:
                await trio.sleep(_SWEEP_INTERVAL_S)
                now_s = trio.current_time()
                for connection in self._connections:
                    if connection.idle_clock.deadline_s <= now_s:
                        nursery.start_soon(connection.close_if_idle, now_s)


class _IdleClock:
    """Stands in for Hypercorn's idle task: notes when a connection that asks nothing shall be closed."""

    def __init__(self, keep_alive_s: float) -> None:
        self._keep_alive_s = keep_alive_s
        self.deadline_s = math.inf

        self.is_in_head = False

    async def restart(self, *_: object) -> None:
        self.deadline_s = trio.current_time() + self._keep_alive_s
        self.is_in_head = False

    async def stop(self) -> None:
        self.deadline_s = math.inf
        self.is_in_head = False

    def head_begins(self) -> None:
        # More of it moves nothing on: the time of its first byte stays the earliest.
        self.is_in_head = True
        self.deadline_s = min(self.deadline_s, trio.current_time() + HEAD_TIMEOUT_S)


class _Connection(TCPServer):
    """One connection. Applications find it in their scope's state: see ``websocket.Transport``."""

    door: Door
    """Where its requests ask for admission."""

    def __init__(
        self, app: AppWrapper, config: Config, context: WorkerContext, stream: Any, count: Callable[[str], None]
    ) -> None:
        super().__init__(app, config, context, {CONNECTION_STATE: self}, stream)
        self._tell = count
        self.idle_clock = _IdleClock(config.keep_alive_timeout)
        self._rest = b""
        self._has_read_all = trio.Event()
        # Over TLS bytes are not what goes out.
        self._socket: trio.socket.SocketType | None = getattr(stream, "socket", None)
        self.idle_task = self.idle_clock  # type: ignore[assignment]  # has the two methods that are called

    def write_now(self, data: bytes) -> bool:
        """Give the kernel what it takes without waiting, if nothing is going out; returns whether that was all."""
        self._rest += data
        if self._socket is None or self.send_lock.locked():
            return False
        try:
            sent = os.write(self._socket.fileno(), self._rest)
        except OSError:
            return False  # there is no room, or nobody: whoever waits until it is out will see
        self._rest = self._rest[sent:]
        return not self._rest

    def unread_bytes(self) -> int:
        """Say how much the client has sent that was not read yet, encrypted where it is; 0 when it is gone."""
        end = getattr(self.stream, "transport_stream", self.stream)
        count = bytearray(4)
        try:
            fcntl.ioctl(end.socket.fileno(), termios.FIONREAD, count)
        except (OSError, ValueError):  # closed by now: it has no descriptor
            return 0
        return int.from_bytes(count, sys.byteorder)

    def head_begins(self) -> None:
        """Give the rest of a request's head its time."""
        self.idle_clock.head_begins()

    def is_malformed(self) -> None:
        """Hear that a request was refused below the application."""
        self._tell("requests_malformed")

    async def linger(self) -> None:
        """Let a client that is still sending see its answer: a connection that closes with unread bytes is reset."""
        rest_bytes = LINGER_BYTES_MAX
        with trio.move_on_after(LINGER_S), suppress(*_GONE):
            if self._socket is not None:
                await self.stream.send_eof()
            while rest_bytes > 0 and (data := await self.stream.receive_some(MAX_RECV)):
                rest_bytes -= len(data)

    async def see_off(self) -> None:
        """Linger where the connection's reader is at work: it throws away what still comes, and this waits for it."""
        with trio.move_on_after(LINGER_S), suppress(*_GONE):
            if self._socket is not None:
                await self.stream.send_eof()
            await self._has_read_all.wait()

    async def _read_data(self) -> None:
        try:
            await super()._read_data()
        finally:
            self._has_read_all.set()

    async def run(self) -> None:
        """Serve the connection to its end; a fault is logged and ends it alone."""
        with _contained():
            await super().run()

    async def drain(self) -> None:
        """Wait until what ``write_now`` left is out."""
        await self._send(b"")

    async def abort(self) -> None:
        """Drop the connection: whoever is writing or reading finds it closed."""
        await trio.aclose_forcefully(self.stream)

    async def protocol_send(self, event: Event) -> None:
        if not isinstance(event, RawData):
            await super().protocol_send(event)
        elif event.data:
            await self._send(event.data)

    async def _send(self, data: bytes) -> None:
        """Send all of it, unless the client takes nothing for too long: it is dropped, so that nobody waits for ever.

        Who is told to end while an answer goes out lets it go out: half an answer is worse than a late end.
        """
        if self.write_now(data):
            return
        data = b""  # what is left of it is kept for now
        async with self.send_lock:
            # The rest of a frame goes first, or the next one would begin in its middle.
            data, self._rest = self._rest + data, b""
            try:
                with trio.move_on_after(SEND_TIMEOUT_S, shield=True) as patience:
                    await self.stream.send_all(data)
            except _GONE:
                gone = True
            else:
                gone = patience.cancelled_caught
        if gone:
            await self.abort()
            await self.protocol.handle(Closed())

    async def close_if_idle(self, now_s: float) -> None:
        """Close unless a request is being answered."""
        if self.idle_clock.deadline_s <= now_s and self.idle_clock.deadline_s < math.inf:
            self.idle_clock.deadline_s = math.inf
            with _contained():
                protocol = self.protocol.protocol
                if self.idle_clock.is_in_head and isinstance(protocol, EnvelopeProtocol):
                    await protocol.refuse_slow_head()
                await self._initiate_server_close()


def _peer_of(stream: Any) -> str:
    """Name who connected; whoever has gone again is nobody."""
    end = getattr(stream, "transport_stream", stream)
    try:
        return str(end.socket.getpeername()[0])
    except OSError:
        return ""


@contextmanager
def _contained() -> Iterator[None]:
    """Let no fault of one connection reach the others."""
    try:
        yield
    except Exception as error:
        _log.error("fault in a connection", exc_info=error)
