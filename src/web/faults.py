"""Everything that goes wrong in an application, turned into answers of the one shape.

It refuses to know what the application does.
"""

from __future__ import annotations

import structlog
from quart import Quart, Response, current_app, request
from werkzeug.exceptions import HTTPException

from tradeengine.web.connection import BODY_TIMEOUT_S
from tradeengine.web.envelope import failure, request_id
from tradeengine.web.errors import ApiError, no_such_path

_log = structlog.get_logger()


def attach(app: Quart) -> None:
    """Let an application answer refusals, what its server refuses, and its own mistakes in the envelope."""
    app.register_error_handler(ApiError, _answer_api_error)
    app.register_error_handler(HTTPException, _answer_http_error)
    app.register_error_handler(Exception, _answer_fault)


async def _answer_api_error(error: ApiError) -> Response:
    if error.status >= 500:
        _log.warning("request failed", code=error.code, path=request.path, request_id=request_id())
    return failure(error)


async def _answer_http_error(error: HTTPException) -> Response:
    return failure(_from_http(error))


async def _answer_fault(error: Exception) -> Response:
    """Answer for a mistake of ours: the log has the trace, the client the request id to quote."""
    _log.error("fault in a handler", path=request.path, request_id=request_id(), exc_info=error)
    return failure(ApiError("INTERNAL", "The server made a mistake; quote the request id when you report it."))


def _from_http(error: HTTPException) -> ApiError:
    match error.code:
        case 404:
            return no_such_path(request.path)
        case 405:
            allowed = sorted(getattr(error, "valid_methods", None) or ())
            headers = {"Allow": ", ".join(allowed)}
            return ApiError(
                "METHOD_NOT_ALLOWED", f"{request.path} does not take {request.method}.", {"allowed": allowed}, headers
            )
        case 408:
            return ApiError("REQUEST_TIMEOUT", "The body did not arrive in time.", {"seconds": BODY_TIMEOUT_S})
        case 413:
            maximum = current_app.config["MAX_CONTENT_LENGTH"]
            return ApiError(
                "BODY_TOO_LARGE", f"The body is larger than {maximum} bytes.", {"field": "body", "maximum": maximum}
            )
        case _:
            return ApiError("INVALID_REQUEST", str(error.description))
