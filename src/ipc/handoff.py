"""The handoff: everything an actor or a local client is given, and how it travels.

The supervisor starts each actor as a program with one end of a socket pair, its *line*. Over it the actor gets its
name, the settings, and the descriptors of the rings, tables, doorbells and metric pages that it is joined to. Local
clients get the same over the control socket. In the other direction an actor tells how it is.

Rule 1: a line keeps packets apart (SOCK_SEQPACKET); what is told is one packet.
Rule 2: nothing heavy is imported here: the supervisor speaks before it has memory to hand over.
It refuses to know what the descriptors hold.
"""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Literal

import msgspec

from tradeengine.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Mapping

Layout = Literal["command", "event", "feed"]
Access = Literal["write", "gate", "follow"]

FDS_PER_MESSAGE_MAX: Final = 200  # the kernel takes at most 253
MESSAGE_BYTES_MAX: Final = 1 << 17
MESSAGE_LENGTH_MAX: Final = 2000
EXIT_ORPHANED: Final = 70
"""Exit status of an actor whose supervisor is gone."""


class RingTerms(msgspec.Struct, frozen=True):
    """How an actor is joined to a ring: its writer, a reader that gates, or one that follows and may be lapped.

    ``writer``: whose ring it is.
    """

    layout: Layout
    access: Access
    writer: str


class TableTerms(msgspec.Struct, frozen=True):
    """How an actor is joined to a table."""

    writable: bool


class Handoff(msgspec.Struct, frozen=True, kw_only=True):
    """Everything an actor is given.

    ``fds`` are descriptors by what they are: ``ring:NAME``, ``table:NAME``, ``board:NAME``, ``bell:NAME``,
    ``bells`` (the doorbell page), ``metrics:NAME``, ``listen``. ``doorbells`` are places in the doorbell page.
    """

    name: str
    role: str
    index: int
    settings: Settings
    ingress_rings: tuple[str, ...]
    rings: dict[str, RingTerms]
    tables: dict[str, TableTerms]
    doorbells: dict[str, int]
    fds: dict[str, int]


def tell(line: socket.socket, state: str, message: str = "", recovered: Mapping[str, int] | None = None) -> None:
    """Tell the supervisor an actor's state: ready, blocked or failed. One that is gone hears nothing.

    recovered: what a ready actor has found, by name: sequences and counts.
    """
    word = {"state": state, "message": message[:MESSAGE_LENGTH_MAX], "recovered": dict(recovered or {})}
    with suppress(OSError):
        line.send(msgspec.json.encode(word))


def send_handoff(line: socket.socket, handoff: Handoff) -> None:
    """Send a handoff with its descriptors over a connected Unix socket of type SOCK_SEQPACKET.

    The descriptors stay open here. Raises OSError when the other end is gone.
    """
    line.send(msgspec.json.encode(handoff))
    fds = list(handoff.fds.values())
    for start in range(0, len(fds), FDS_PER_MESSAGE_MAX):
        socket.send_fds(line, [b"fds"], fds[start : start + FDS_PER_MESSAGE_MAX])


def close_descriptors(handoff: Handoff) -> None:
    """Close the descriptors of a handoff that has been sent."""
    for fd in handoff.fds.values():
        os.close(fd)


def receive_handoff(line: socket.socket) -> Handoff:
    """Receive what ``send_handoff`` sent, with ``fds`` as this process counts them. Raises EOFError when none comes."""
    message = line.recv(MESSAGE_BYTES_MAX)
    if not message:
        raise EOFError("the supervisor closed the line before it handed anything over")
    handoff = msgspec.json.decode(message, type=Handoff)
    fds: list[int] = []
    while len(fds) < len(handoff.fds):
        _, received, _, _ = socket.recv_fds(line, 16, FDS_PER_MESSAGE_MAX)
        if not received:
            raise EOFError("the supervisor closed the line in the middle of a handoff")
        fds.extend(received)
    return msgspec.structs.replace(handoff, fds=dict(zip(handoff.fds, fds, strict=True)))
