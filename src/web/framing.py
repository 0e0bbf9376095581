"""Where a request ends: only what every reader of HTTP/1.1 frames in the same way is taken.

A proxy and this server that disagree about the end of a request would let one client speak in the name of the next. h11
forgives what old readers forgave: a line that ends without a carriage return, a header that goes on in the next line, a
length beside chunks. Here these are refused, in heads, in chunk lines and in trailers, before anything is done.
It refuses to know what a right request asks.
"""

from __future__ import annotations

import re
from typing import Final

import h11
from h11._receivebuffer import ReceiveBuffer

CHUNK_LINE_BYTES_MAX: Final = 256
"""The size of a chunk and its extensions, which mean nothing here."""
SMALL_CHUNKS_MAX: Final = 1024
"""Chunks of less than 256 bytes in one body: each costs as much as a large one."""
_SMALL_DIGITS: Final = 2
_END: Final = b"\r\n\r\n"
_AMBIGUOUS: Final = re.compile(rb"(?<!\r)\n|\r(?=[^\n])|\r\n[ \t]")
"""A line end that is none to some readers, and a header that goes on in the next line."""
_CONTROL: Final = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_VERSIONS: Final = frozenset({b"1.0", b"1.1"})


def strict_connection(head_bytes_max: int) -> h11.Connection:
    """Make a server's end of a connection that reads nothing ambiguous.

    head_bytes_max: for the request line and the headers together, and for trailers.
    """
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=head_bytes_max)
    connection._receive_buffer = StrictBuffer(head_bytes_max)
    return connection


class StrictBuffer(ReceiveBuffer):
    """What came and was not read yet. Stands in for h11's own, which asks it for lines."""

    def __init__(self, head_bytes_max: int) -> None:
        super().__init__()
        self._head_bytes_max = head_bytes_max
        self._small_chunk_count = 0

    def maybe_extract_lines(self) -> list[bytearray] | None:
        """Take a head or trailers, once they are whole. Raises h11.RemoteProtocolError."""
        self._small_chunk_count = 0
        if self._data.startswith(b"\r\n"):
            self._extract(2)
            return []
        end = self._data.find(_END, self._multiple_lines_search)
        stop = len(self._data) if end < 0 else end + 2
        if stop > self._head_bytes_max:
            raise h11.RemoteProtocolError("too many bytes before the empty line", error_status_hint=431)
        # What was looked at before is not looked at again; a pattern may begin in it.
        if _AMBIGUOUS.search(self._data, max(0, self._multiple_lines_search - 1), stop):
            raise h11.RemoteProtocolError("a line ends in a way that can be read in two")
        if end < 0:
            self._multiple_lines_search = max(0, len(self._data) - len(_END) + 1)
            return None
        return self._extract(end + len(_END))[: -len(_END)].split(b"\r\n")

    def maybe_extract_next_line(self) -> bytearray | None:
        """Take the line before a chunk, once it is whole. Raises h11.RemoteProtocolError."""
        line = super().maybe_extract_next_line()
        if (len(self) if line is None else len(line)) > CHUNK_LINE_BYTES_MAX:
            raise h11.RemoteProtocolError("the line before a chunk is too long")
        if line is not None and _CONTROL.search(line, 0, len(line) - 2):
            raise h11.RemoteProtocolError("the line before a chunk holds control characters")
        if line is not None and len(line.partition(b";")[0].rstrip().lstrip(b"0")) <= _SMALL_DIGITS:
            self._small_chunk_count += 1
            if self._small_chunk_count > SMALL_CHUNKS_MAX:
                raise h11.RemoteProtocolError("the body comes in too many small chunks")
        return line


def ambiguity(request: h11.Request) -> str:
    """Say what in a request others may read in another way; empty: nothing."""
    headers = dict(request.headers)  # names are in lower case
    length, chunked = headers.get(b"content-length"), b"transfer-encoding" in headers
    if not request.target.startswith(b"/") and request.target != b"*":
        return "a target that is no path"
    if request.http_version not in _VERSIONS:
        return "a version other than HTTP/1.0 and HTTP/1.1"
    if length is not None and chunked:
        return "both Content-Length and Transfer-Encoding"
    if chunked and request.http_version == b"1.0":
        return "Transfer-Encoding in HTTP/1.0, which does not know it"
    if headers.get(b"upgrade", b"").lower() == b"websocket" and (chunked or length not in {None, b"0"}):
        return "an upgrade with a body"
    return ""
