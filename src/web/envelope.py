"""The envelope around every answer: ``success``, ``data`` or ``error``, and ``meta``.

It refuses to know what is inside.
"""

from __future__ import annotations

import re
import secrets
import time
from typing import Any, Final

import msgspec
from msgspec import UNSET, UnsetType
from quart import Response, g, request

from tradeengine.core.times import format_ms
from tradeengine.web.errors import ApiError
from tradeengine.web.schemas import AnswerMeta, Error, ErrorAnswer

JSON_TYPE: Final = "application/json"
REQUEST_ID_HEADER: Final = "X-Request-ID"
NS_PER_MS: Final = 10**6
_SANE_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9_.:-]{1,64}")
_encode: Final = msgspec.json.Encoder().encode


class _Answer(msgspec.Struct, frozen=True):
    success: bool
    data: Any
    meta: AnswerMeta


def success(data: Any, status: int = 200, *, next_cursor: str | UnsetType | None = UNSET) -> Response:
    """Answer with data: a struct of ``schemas``, or a list of them."""
    return _response(_encode(_Answer(True, data, _meta(next_cursor))), status, {})


def failure(error: ApiError) -> Response:
    """Answer with what went wrong; the request's meter counts it by the code."""
    g.error_code = error.code
    return _response(_failure_body(error, _meta(UNSET)), error.status, error.headers)


def bare_failure(error: ApiError, named: str = "") -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    """Answer with what went wrong where there is no request to answer in: status, headers and body.

    named: the caller's name for the request.
    """
    name = named if _SANE_REQUEST_ID.fullmatch(named) else secrets.token_hex(8)
    meta = AnswerMeta(request_id=name, timestamp=format_ms(time.time_ns() // NS_PER_MS))
    body = _failure_body(error, meta)
    headers = {
        "Content-Type": JSON_TYPE,
        "Content-Length": str(len(body)),
        REQUEST_ID_HEADER: meta.request_id,
        **error.headers,
    }
    return error.status, [(name.lower().encode(), value.encode()) for name, value in headers.items()], body


def request_id() -> str:
    """Name this request: the caller's name for it when that is sane, else one of our making."""
    known: str | None = g.get("request_id")
    if known is None:
        known = request.headers.get(REQUEST_ID_HEADER, "")
        if not _SANE_REQUEST_ID.fullmatch(known):
            known = secrets.token_hex(8)
        g.request_id = known
    return known


def _failure_body(error: ApiError, meta: AnswerMeta) -> bytes:
    told = Error(code=error.code, message=error.message, details=error.details)
    return _encode(ErrorAnswer(success=False, error=told, meta=meta))


def _response(body: bytes, status: int, headers: dict[str, str]) -> Response:
    response = Response(body, status, headers, content_type=JSON_TYPE)
    response.headers[REQUEST_ID_HEADER] = request_id()
    return response


def _meta(next_cursor: str | UnsetType | None) -> AnswerMeta:
    now_ms = time.time_ns() // NS_PER_MS
    return AnswerMeta(request_id=request_id(), timestamp=format_ms(now_ms), next_cursor=next_cursor)
