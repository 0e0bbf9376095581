"""A proxy before PostgreSQL that cuts a connection exactly at COMMIT: before the server hears of it, or after it did.

It listens on a port of this machine and passes bytes to the server's Unix socket. ``cut_next`` says what happens to the
next COMMITs that pass; both ends of that connection are closed then, as when a network or a pooler between them fails.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections import deque
from collections.abc import Iterator
from enum import Enum, auto
from typing import Final

from psycopg.conninfo import conninfo_to_dict, make_conninfo

_COMMIT: Final = b"COMMIT\0"
_PIECE_BYTES: Final = 1 << 16


class Cut(Enum):
    """Where the connection ends."""

    NONE = auto()
    """It does not: the COMMIT passes."""
    BEFORE = auto()
    """The server does not get the COMMIT, and rolls back."""
    AFTER = auto()
    """The server commits, and the answer is lost."""


class CuttingProxy:
    """Passes connections on. ``cuts``: how many were cut, by where."""

    def __init__(self, dsn: str) -> None:
        """Listen. dsn: of a server on a Unix socket."""
        given = conninfo_to_dict(dsn)
        self._upstream = f"{given['host']}/.s.PGSQL.{given['port']}"
        self._listener = socket.create_server(("127.0.0.1", 0))
        port = self._listener.getsockname()[1]
        self.dsn = make_conninfo(dsn, host="127.0.0.1", port=str(port), sslmode="disable", gssencmode="disable")
        self.cuts = dict.fromkeys(Cut, 0)
        self._plan: deque[Cut] = deque()
        self._planned = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._open: set[socket.socket] = set()
        self._start(self._accept)

    def cut_next(self, *cuts: Cut) -> None:
        """Say what happens to the next COMMITs, one each."""
        with self._planned:
            self._plan.extend(cuts)

    @property
    def planned(self) -> int:
        """How many COMMITs have yet to come of those planned."""
        return len(self._plan)

    def close(self) -> None:
        """Take no more connections, and end those that there are."""
        # What waits in accept is not woken by closing alone.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for end in list(self._open):
            _end(end)
        for thread in self._threads:
            thread.join(10)

    def _start(self, work: object, *arguments: object) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                server.connect(self._upstream)
            except OSError:
                client.close()
                server.close()
                continue
            self._open |= {client, server}
            line = _Line(self, client, server)
            self._start(line.to_server)
            self._start(line.to_client)

    def next_cut(self) -> Cut:
        """Take the plan for a COMMIT that passes now."""
        with self._planned:
            cut = self._plan.popleft() if self._plan else Cut.NONE
            self.cuts[cut] += 1
            return cut


class _Line:
    """One connection: what comes from either end goes to the other until one of them ends."""

    def __init__(self, proxy: CuttingProxy, client: socket.socket, server: socket.socket) -> None:
        self._proxy = proxy
        self._client = client
        self._server = server
        self._is_answer_lost = threading.Event()

    def to_server(self) -> None:
        """Pass on what the client says, up to a COMMIT that is not to arrive."""
        with contextlib.suppress(OSError):
            # A question is one packet, far smaller than a piece, and the client waits for its answer.
            while piece := self._client.recv(_PIECE_BYTES):
                if piece.endswith(_COMMIT):
                    cut = self._proxy.next_cut()
                    if cut is Cut.BEFORE:
                        break
                    if cut is Cut.AFTER:
                        self._is_answer_lost.set()
                self._server.sendall(piece)
        if not self._is_answer_lost.is_set():
            _end(self._server)
            _end(self._client)

    def to_client(self) -> None:
        """Pass on what the server says, up to the answer that is to be lost."""
        with contextlib.suppress(OSError):
            while piece := self._server.recv(_PIECE_BYTES):
                if self._is_answer_lost.is_set():
                    # The first that it says now is that it has committed.
                    break
                self._client.sendall(piece)
        _end(self._client)
        _end(self._server)


def _end(end: socket.socket) -> None:
    with contextlib.suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
    end.close()


@contextlib.contextmanager
def cutting_proxy(dsn: str) -> Iterator[CuttingProxy]:
    """Run a proxy before that server while the block runs."""
    proxy = CuttingProxy(dsn)
    try:
        yield proxy
    finally:
        proxy.close()
