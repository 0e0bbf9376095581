"""The control socket: where local programs of the same user join a running engine or ask it something.

A Unix socket in the data directory, mode 0600, and the kernel says who is at the other end (SO_PEERCRED): another user
is turned away before anything is read. A connection makes one request. ``attach`` is answered with a *place*: the
rings, tables and bell of a client in the topology, which are the connection's until it ends. ``observe`` is answered
with everything there is to look at, and with nothing to write: it takes no place. Other requests are answered by
handlers.

Rule 1: a place is given out again only when its connection has ended, so that nobody writes its ring any more, and
risk has taken all that was written.
Rule 2: one connection can hold up or break no other, nor the supervisor.
It refuses to know what clients do, and what handlers answer.
"""

from __future__ import annotations

import os
import socket
import struct
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import msgspec
import structlog
import trio

from tradeengine.actors.topology import OBSERVER
from tradeengine.ipc.client import ATTACH, CONTROL_NAME, OBSERVE, Reply, Request, control_address
from tradeengine.ipc.handoff import MESSAGE_BYTES_MAX, close_descriptors, send_handoff

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from tradeengine.actors.memory import Memory
    from tradeengine.actors.topology import Actor
    from tradeengine.ipc.handoff import Handoff

    Handler = Callable[[dict[str, Any]], Any]
    """Takes a request's arguments and gives what is answered, quickly. Raises RequestError."""

REQUEST_TIMEOUT_S: Final = 5.0
DRAIN_INTERVAL_S: Final = 0.02
ACCEPT_PAUSE_S: Final = 0.05
BACKLOG: Final = 64
OBSERVERS_MAX: Final = 16
_CREDENTIALS: Final = struct.Struct("3i")  # pid, uid, gid

logger = structlog.get_logger()


class RequestError(Exception):
    """A request cannot be answered; the message says why and what to do."""


async def serve_control(
    data_dir: Path,
    memory: Memory,
    places: Sequence[Actor],
    handlers: Mapping[str, Handler],
    taken: dict[str, int] | None = None,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until cancelled. places: the topology's clients that may be given out; handlers: by ``op``.

    taken: kept up to date with who has which place, as process ids by the place's name.
    Raises OSError when the socket cannot be made.
    """
    control = Control(memory, list(places), handlers, {} if taken is None else taken)
    with open_socket(data_dir) as listener:
        async with trio.open_nursery() as nursery:
            task_status.started()
            while True:
                await trio.lowlevel.wait_readable(listener)
                try:
                    line, _ = listener.accept()
                except OSError as error:
                    # It went away again, or we have no descriptor left: others may go and make room.
                    logger.warning("control connection not accepted", error=str(error))
                    await trio.sleep(ACCEPT_PAUSE_S)
                    continue
                nursery.start_soon(control.serve, line)


@contextmanager
def open_socket(data_dir: Path) -> Iterator[socket.socket]:
    """Make the listening socket; what a killed engine left there is replaced, which the directory's lock allows."""
    path = data_dir / CONTROL_NAME
    directory_fd = os.open(data_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        try:
            path.unlink(missing_ok=True)
            listener.bind(control_address(data_dir, directory_fd))
            path.chmod(0o600)
            listener.listen(BACKLOG)
            listener.setblocking(False)
            yield listener
        finally:
            path.unlink(missing_ok=True)
            os.close(directory_fd)


@dataclass
class Control:
    """Answers connections. ``free_places``: clients that nobody is, in the order in which they are given out.

    ``taken``: process ids of those who are one, by name, until the place is free again.
    """

    memory: Memory
    free_places: list[Actor]
    handlers: Mapping[str, Handler]
    taken: dict[str, int]
    observer_count: int = 0

    async def serve(self, line: socket.socket) -> None:
        """Answer one connection and close it."""
        with line:
            line.settimeout(REQUEST_TIMEOUT_S)
            if peer_uid(line) != os.getuid():
                logger.warning("control connection of another user refused", uid=peer_uid(line))
                return
            # The other end may be gone at any moment; that is how connections end.
            with suppress(OSError):
                request = await self._receive(line)
                if request is not None and request.op == ATTACH:
                    await self._attach(line)
                elif request is not None and request.op == OBSERVE:
                    await self._observe(line)
                elif request is not None:
                    self._reply(line, self._answer(request))

    async def _receive(self, line: socket.socket) -> Request | None:
        with trio.move_on_after(REQUEST_TIMEOUT_S):
            await trio.lowlevel.wait_readable(line)
            packet = line.recv(MESSAGE_BYTES_MAX)
            try:
                return msgspec.json.decode(packet, type=Request)
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
                self._reply(line, Reply(error=f"malformed request: {error}"))
        return None

    def _answer(self, request: Request) -> Reply:
        handler = self.handlers.get(request.op)
        if handler is None:
            known = ", ".join([ATTACH, OBSERVE, *self.handlers])
            return Reply(error=f"unknown request {request.op!r}: must be {known}")
        try:
            return Reply(data=handler(request.arguments))
        except RequestError as error:
            return Reply(error=str(error))

    async def _attach(self, line: socket.socket) -> None:
        if not self.free_places:
            self._reply(
                line, Reply(error="all places for local clients are taken: end one, or raise limits.clients_max")
            )
            return
        place = self.free_places.pop(0)
        self.taken[place.name] = peer_pid(line)
        try:
            await self._hand_over(line, place)
            await _end_of(line)
        finally:
            # Closed before waiting: a client that only shut down its side of the line sees ours.
            line.close()
            await self._until_drained(place)
            del self.taken[place.name]
            self.free_places.append(place)

    async def _observe(self, line: socket.socket) -> None:
        if self.observer_count >= OBSERVERS_MAX:
            self._reply(line, Reply(error=f"{OBSERVERS_MAX} programs look at this engine already: end one"))
            return
        self.observer_count += 1
        try:
            await self._send(line, OBSERVER, self.memory.observation())
            # It ends with the engine, which is how who looks hears of that.
            await _end_of(line)
        finally:
            self.observer_count -= 1

    async def _hand_over(self, line: socket.socket, place: Actor) -> None:
        await self._send(line, place.name, self.memory.handoff(place))
        logger.info("local client attached", name=place.name)

    async def _send(self, line: socket.socket, name: str, handoff: Handoff) -> None:
        try:
            self._reply(line, Reply(data=name))
            # In a thread: a client that does not read makes it wait, at most for the line's timeout.
            await trio.to_thread.run_sync(send_handoff, line, handoff)
        finally:
            close_descriptors(handoff)

    async def _until_drained(self, place: Actor) -> None:
        """Wait until risk has taken everything that this client wrote."""
        ring = self.memory.rings[f"ingress.{place.name}"]
        # A cursor is a word in memory that another process moves: there is no event to wait for.
        while any(reader.lag for reader in ring.statistics().readers if reader.gating):  # noqa: ASYNC110
            await trio.sleep(DRAIN_INTERVAL_S)

    @staticmethod
    def _reply(line: socket.socket, reply: Reply) -> None:
        line.send(msgspec.json.encode(reply))


def peer_pid(line: socket.socket) -> int:
    """Process id of who connected, by the kernel's word."""
    return _peer(line)[0]


def peer_uid(line: socket.socket) -> int:
    """User id of the process that connected, by the kernel's word."""
    return _peer(line)[1]


def _peer(line: socket.socket) -> tuple[int, int]:
    credentials = line.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, _ = _CREDENTIALS.unpack(credentials)
    return pid, uid


async def _end_of(line: socket.socket) -> None:
    """Wait until the other end closes; what it sends meanwhile is thrown away."""
    while True:
        await trio.lowlevel.wait_readable(line)
        if not line.recv(MESSAGE_BYTES_MAX):
            return
