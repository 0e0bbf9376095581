"""A local client: a program of the same user that joins a running engine by its control socket.

It gets what a front has: an ingress ring of its own, the rings with answers and tables read-only, a doorbell, and the
settings without secrets. Replays and benchmarks are local clients. What it needs in PostgreSQL (accounts,
symbols, money) it asks for there first, as everyone does.

Rule 1: who is connected has the ring. Closing the connection, or dying, gives it back; nothing is written afterwards.
Rule 2: the control socket is a packet socket: one packet asks, one answers; a handoff follows an accepted ``attach``.
It refuses to know what commands mean.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final

import msgspec
import numpy as np

from tradeengine.core.records import byte, event_dtype
from tradeengine.ipc.directory import DirectoryPage, read_directory
from tradeengine.ipc.handoff import MESSAGE_BYTES_MAX, close_descriptors, receive_handoff
from tradeengine.ipc.ring_reader import RingWatch
from tradeengine.ipc.wiring import Wiring

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tradeengine.ipc.ring_reader import Records

CONTROL_NAME: Final = "control.sock"
ATTACH: Final = "attach"
OBSERVE: Final = "observe"
CONNECT_TIMEOUT_S: Final = 10.0
_INGRESS_RING: Final = byte(event_dtype, "ingress_ring")


class ClientError(Exception):
    """No engine answers, or it refused; the message says why and what to do."""


class Request(msgspec.Struct):
    """What a client asks for."""

    op: str
    arguments: dict[str, Any] = {}


class Reply(msgspec.Struct):
    """The answer: ``error`` is empty when ``data`` is valid."""

    error: str = ""
    data: Any = None


@contextmanager
def open_client(data_dir: Path) -> Iterator[Wiring]:
    """Join the engine of a data directory; what is given is valid until the end of the block.

    ``stopping()`` turns true, and the doorbell rings, when the engine is gone. Raises ClientError.
    """
    with _connect(data_dir) as line:
        _ask(line, Request(ATTACH))
        handoff = receive_handoff(line)
        wiring = Wiring(handoff)
        line.settimeout(None)
        listener = threading.Thread(target=_stop_with_engine, args=(line, wiring), name="engine", daemon=True)
        listener.start()
        try:
            wiring.metrics.started()
            yield wiring
        finally:
            with suppress(OSError):
                line.shutdown(socket.SHUT_RDWR)
            # It rings our bell as its last act, so the descriptors go after it.
            listener.join()
            close_descriptors(handoff)


@contextmanager
def open_observer(data_dir: Path) -> Iterator[tuple[Wiring, socket.socket]]:
    """Look at the engine of a data directory without joining it: rings, tables and metric pages, all read-only.

    Gives them with a line that becomes readable when the engine is gone. Raises ClientError.
    """
    with _connect(data_dir) as line:
        _ask(line, Request(OBSERVE))
        try:
            handoff = receive_handoff(line)
        except (EOFError, OSError) as error:
            raise ClientError(f"the engine ended while it was asked: {error}") from None
        try:
            yield Wiring(handoff), line
        finally:
            close_descriptors(handoff)


def ask(data_dir: Path, op: str, **arguments: Any) -> Any:
    """Ask the supervisor something that it answers in one packet. Raises ClientError."""
    with _connect(data_dir) as line:
        return _ask(line, Request(op, arguments))


class LocalClient:
    """A client's ends: commands in, its own events out. Events count from now on."""

    def __init__(self, wiring: Wiring) -> None:
        self.wiring = wiring
        self.ingress_number = wiring.ingress_number
        self.writer = wiring.ring_writer(wiring.ingress_name)
        # Whoever had this ring before may still be answered: those answers are not ours.
        self._first_sequence = self.writer.head
        self.readers = {name: wiring.ring_reader(name) for name in wiring.answer_rings}
        for reader in self.readers.values():
            reader.seek(reader.head)
        self.watch = RingWatch(tuple(self.readers.values()))
        self._directory = DirectoryPage(0, {}, {})
        self._directory_version = 0

    def free(self) -> int:
        """Count the commands that ``submit`` would take now."""
        return self.writer.free()

    def submit(self, commands: Records) -> int:
        """Send commands; returns the sequence of the first, by which its events know it (``ingress_sequence``).

        Fills in who sends, sequences and, where it is 0, the time. Raises RingFull: then nothing was sent.
        """
        first = self.writer.head
        commands["ingress_ring"] = self.ingress_number
        commands["ingress_sequence"] = np.arange(first, first + len(commands))
        commands["timestamp_ns"][commands["timestamp_ns"] == 0] = time.time_ns()
        self.writer.publish(commands)
        return first

    def poll(self, limit: int = 4096) -> dict[str, Records]:
        """Give the events of own commands, by ring; others are passed over. Valid until the next poll.

        Raises Lapped when it came too late: answers may be among what is lost.
        """
        found = {}
        for name, reader in self.readers.items():
            events = reader.poll_matching(_INGRESS_RING, self.ingress_number, limit)
            events = events[events["ingress_sequence"] >= self._first_sequence]
            if len(events):
                found[name] = events
        return found

    def wait(self, timeout_s: float, spin_us: int = 0) -> bool:
        """Sleep until there are events, anyone's, or the engine is gone; returns whether there are events."""
        return self.wiring.doorbell.wait(timeout_s, self.watch, spin_us) and self.watch()

    def directory(self) -> DirectoryPage:
        """Give assets and symbols as they are now. Raises SeqlockBusy."""
        table = self.wiring.table("directory")
        # Before the page: a change in between is then read again, not missed.
        version = table.version(0)
        if version != self._directory_version:
            self._directory = read_directory(table)
            self._directory_version = version
        return self._directory


def control_address(data_dir: Path, directory_fd: int) -> str:
    """Address of the control socket, reached over an open directory: socket addresses end at 107 characters."""
    path = str(data_dir / CONTROL_NAME)
    return path if len(path) < 100 else f"/proc/self/fd/{directory_fd}/{CONTROL_NAME}"


@contextmanager
def _connect(data_dir: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as line:
        line.settimeout(CONNECT_TIMEOUT_S)
        try:
            directory_fd = os.open(data_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                line.connect(control_address(data_dir, directory_fd))
            finally:
                os.close(directory_fd)
        except (FileNotFoundError, ConnectionRefusedError):
            raise ClientError(
                f"no engine is running in {data_dir}: start one with `tradeengine up --data-dir {data_dir}`"
            ) from None
        except OSError as error:
            raise ClientError(f"the engine in {data_dir} cannot be reached: {error.strerror or error}") from None
        yield line


def _ask(line: socket.socket, request: Request) -> Any:
    try:
        line.send(msgspec.json.encode(request))
        packet = line.recv(MESSAGE_BYTES_MAX)
    except ConnectionError:
        packet = b""
    except OSError as error:
        raise ClientError(f"the engine did not answer {request.op!r}: {error.strerror or error}") from None
    if not packet:
        raise ClientError("the engine refused the connection: it runs as another user, or it is stopping")
    reply = msgspec.json.decode(packet, type=Reply)
    if reply.error:
        raise ClientError(reply.error)
    return reply.data


def _stop_with_engine(line: socket.socket, wiring: Wiring) -> None:
    """Wait for the end of the line; nothing ever arrives on it after the handoff."""
    with suppress(OSError):
        while line.recv(16):
            pass
    wiring.stop()
