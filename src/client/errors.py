"""What can go wrong, as exceptions: one for every answer that says no, one for no answer, and two of the streams.

Rule 1: whatever this package raises on purpose is a ``ClientError``; wrong arguments
are ``TypeError`` or ``ValueError``.
"""

from __future__ import annotations

from typing import Any


class ClientError(Exception):
    """Whatever can go wrong between this program and the engine."""


class ApiError(ClientError):
    """The engine answered, and the answer is no.

    code: stable, see the list in the API's description; ``HTTP_502`` and the like when a proxy spoke instead.
    message: what to do about it. details: field and bound. status: the HTTP status; None on a stream.
    request_id: what to ask the operator about. retry_after_s: how long the engine asks to wait; None: it does not.
    """

    def __init__(
        self,
        code: str,
        message: str,
        details: dict[str, Any] | None = None,
        status: int | None = None,
        *,
        request_id: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.details = details or {}
        self.status = status
        self.request_id = request_id
        self.retry_after_s = retry_after_s


class NoAnswer(ClientError):  # noqa: N818 - reads as what happened
    """No answer came: refused, lost, or too late.

    is_sent: whether the request may have reached the engine, so that nobody knows what became of it.
    details: of an order, its ``client_order_id``: look it up, or place it again under the same id.
    """

    def __init__(self, message: str, *, is_sent: bool = True, details: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.is_sent = is_sent
        self.details = details or {}


class StreamClosed(ClientError):  # noqa: N818 - reads as what happened
    """The engine ended a stream in a way that connecting again would not mend. code: the WebSocket's."""

    def __init__(self, code: int | None, reason: str) -> None:
        super().__init__(f"the stream was closed for good: {code} {reason}".rstrip())
        self.code = code
        self.reason = reason


class Gap(ClientError):  # noqa: N818 - reads as what happened
    """An update does not go on where the book stands: something between is missing, and only a snapshot helps.

    sequence: where the book stands, None before its first snapshot. previous_sequence: what the update goes on from.
    """

    def __init__(self, symbol: str, sequence: int | None, previous_sequence: int) -> None:
        super().__init__(f"{symbol}: the book is at {sequence}, the update goes on from {previous_sequence}")
        self.symbol = symbol
        self.sequence = sequence
        self.previous_sequence = previous_sequence
