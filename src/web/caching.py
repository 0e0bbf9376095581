"""What may be kept by those who asked: answers about a past that is over.

Rule 1: an answer is marked when nothing that it depends on can still happen: its last moment is past, and so long that
every trade of it is published and (history is asked after the barrier) settled. Anything else is ``no-store``.
Rule 2: tags are made of the data, not of the question or a time. Imports and repairs can change the past: then the data
is other, so is its tag, and who asks again gets it. Hence ``max-age`` is modest: so long an old past may be shown.
Rule 3: tags are weak: ``meta`` differs in every answer.
It refuses to know what the data is.
"""

from __future__ import annotations

import hashlib
import time
from typing import Any, Final

import msgspec
from msgspec import UNSET, UnsetType
from quart import Response, request

from tradeengine.web.envelope import REQUEST_ID_HEADER, request_id, success

MAX_AGE_S: Final = 60
OVER_AFTER_MS: Final = 10_000
"""A command may wait this long between its time stamp and its events; nothing younger counts as over."""

_encode: Final = msgspec.json.Encoder().encode


def success_until(
    last_ms: int | None, data: Any, *, next_cursor: str | UnsetType | None = UNSET, personal: bool = False
) -> Response:
    """Answer with data that depends on nothing after ``last_ms`` (since 1970; None: on what is still to come).

    personal: the answer is for this caller alone, so that only the caller may keep it. When the caller has it already
    (``If-None-Match``) the answer is an empty 304.
    """
    if last_ms is None or last_ms > time.time_ns() // 1_000_000 - OVER_AFTER_MS:
        return success(data, next_cursor=next_cursor)
    body = _encode(data)
    tag = hashlib.blake2b(body + str(next_cursor).encode(), digest_size=16).hexdigest()
    if request.if_none_match.contains_weak(tag):
        response = Response(b"", 304)
        del response.headers["Content-Type"], response.headers["Content-Length"]
        response.headers[REQUEST_ID_HEADER] = request_id()
    else:
        response = success(msgspec.Raw(body), next_cursor=next_cursor)
    response.headers["ETag"] = f'W/"{tag}"'
    response.headers["Cache-Control"] = f"{'private' if personal else 'public'}, max-age={MAX_AGE_S}"
    return response


async def forbid_storing(response: Response) -> Response:
    """Say of every answer that says nothing itself that it is not to be kept."""
    response.headers.setdefault("Cache-Control", "no-store")
    return response
