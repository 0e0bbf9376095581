"""What can go wrong, in the API's words: a stable code, its HTTP status, and what to do about it.

Rule 1: every failure that a client sees is an ``ApiError``; anything else is a fault of ours and becomes ``INTERNAL``.
Rule 2: ``details`` names the field and the bound that it broke, so that a program can act without reading prose.
It refuses to know requests and responses.
"""

from __future__ import annotations

from typing import Any, Final

from tradeengine.core.records import Reason

STATUS_OF_CODE: Final[dict[str, int]] = {
    "INVALID_REQUEST": 400,
    "INVALID_COMBINATION": 400,
    "PRICE_NOT_ON_TICK": 400,
    "QUANTITY_NOT_ON_LOT": 400,
    "BELOW_MIN_NOTIONAL": 400,
    "NUMBER_OUT_OF_RANGE": 400,
    "UNAUTHORIZED": 401,
    "FORBIDDEN": 403,
    "TWO_FACTOR_REQUIRED": 403,
    "ACCOUNT_SUSPENDED": 403,
    "NOT_FOUND": 404,
    "SYMBOL_NOT_FOUND": 404,
    "ORDER_NOT_FOUND": 404,
    "METHOD_NOT_ALLOWED": 405,
    "REQUEST_TIMEOUT": 408,
    "ORDER_NOT_OPEN": 409,
    "QUANTITY_NOT_ABOVE_FILLED": 409,
    "CLIENT_ORDER_ID_REUSED": 409,
    "REFERENCE_REUSED": 409,
    "SYMBOL_EXISTS": 409,
    "ASSET_EXISTS": 409,
    "SYMBOL_HALTED": 409,
    "CANCEL_ONLY": 409,
    "BODY_TOO_LARGE": 413,
    "INSUFFICIENT_BALANCE": 422,
    "POST_ONLY_WOULD_MATCH": 422,
    "FOK_NOT_FILLED": 422,
    "LIMIT_EXCEEDED": 422,
    "PRICE_OUT_OF_COLLAR": 422,
    "RATE_LIMITED": 429,
    "HEADERS_TOO_LARGE": 431,
    "INTERNAL": 500,
    "NOT_IMPLEMENTED": 501,
    "ENGINE_OVERLOADED": 503,
    "SETTLEMENT_BACKLOG": 503,
    "DATABASE_UNAVAILABLE": 503,
    "SHUTTING_DOWN": 503,
    "RECONCILIATION_UNAVAILABLE": 503,
    "NOT_READY": 503,
    "AUDIT_UNAVAILABLE": 503,
    "OUTCOME_UNKNOWN": 504,
}

RETRY_AFTER_S: Final = 1
"""What every 503 asks for: the engine's backlogs are measured in seconds at most."""


class ApiError(Exception):
    """A failure to answer with. ``details`` must be JSON-able; ``headers`` go out as they are."""

    def __init__(
        self, code: str, message: str, details: dict[str, Any] | None = None, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.code = code
        self.status = STATUS_OF_CODE[code]
        self.message = message
        self.details = details or {}
        self.headers = dict(headers or {})
        if self.status == 503:
            self.headers.setdefault("Retry-After", str(RETRY_AFTER_S))


def invalid_field(field: str, message: str, code: str = "INVALID_REQUEST", **bounds: Any) -> ApiError:
    """Refuse one field; ``bounds`` joins ``field`` in the details."""
    return ApiError(code, message, {"field": field, **bounds})


def no_such_path(path: str) -> ApiError:
    """Answer for a path that is no route."""
    return ApiError("NOT_FOUND", f"There is nothing at {path}; see the documentation.", {"path": path})


_REASON_ERRORS: Final[dict[Reason, tuple[str, str]]] = {
    Reason.FOK_NOT_FILLED: (
        "FOK_NOT_FILLED",
        "The order could not be filled in full at once, so nothing was traded.",
    ),
    Reason.POST_ONLY_WOULD_MATCH: (
        "POST_ONLY_WOULD_MATCH",
        "The order would have matched at once; post it at a price that rests.",
    ),
    Reason.PRICE_OUT_OF_COLLAR: (
        "PRICE_OUT_OF_COLLAR",
        "The price is too far beyond the last trade price; see max_price_deviation in /api/v1/symbols.",
    ),
    Reason.SYMBOL_HALTED: ("SYMBOL_HALTED", "Trading in this symbol is halted; orders can only be cancelled."),
    Reason.CANCEL_ONLY: ("CANCEL_ONLY", "This symbol is in cancel-only mode; orders can only be cancelled."),
    Reason.BOOK_FULL: ("ENGINE_OVERLOADED", "The order book has no room for another order or price level."),
    Reason.INVALID_REQUEST: ("INVALID_REQUEST", "The engine refused the request as malformed."),
    Reason.INVALID_COMBINATION: ("INVALID_COMBINATION", "These order fields do not go together."),
    Reason.NUMBER_OUT_OF_RANGE: ("NUMBER_OUT_OF_RANGE", "A number is outside what the symbol allows."),
    Reason.BELOW_MIN_NOTIONAL: (
        "BELOW_MIN_NOTIONAL",
        "Price times quantity is below the symbol's minimum notional.",
    ),
    Reason.SYMBOL_NOT_FOUND: ("SYMBOL_NOT_FOUND", "There is no such symbol; see /api/v1/symbols."),
    Reason.ORDER_NOT_FOUND: ("ORDER_NOT_FOUND", "You have no such order."),
    Reason.QUANTITY_NOT_ABOVE_FILLED: (
        "QUANTITY_NOT_ABOVE_FILLED",
        "The new quantity must be above what is filled already; cancel the order to end it.",
    ),
    Reason.INSUFFICIENT_BALANCE: (
        "INSUFFICIENT_BALANCE",
        "The available balance does not cover this order and its fee.",
    ),
    Reason.CLIENT_ORDER_ID_REUSED: (
        "CLIENT_ORDER_ID_REUSED",
        "This client_order_id was used for an order with other content; choose a new one.",
    ),
    Reason.LIMIT_EXCEEDED: ("LIMIT_EXCEEDED", "A limit of your account would be exceeded."),
    Reason.ENGINE_OVERLOADED: (
        "ENGINE_OVERLOADED",
        "The engine has no room for this command now. Nothing was done; try again.",
    ),
    Reason.SETTLEMENT_BACKLOG: (
        "SETTLEMENT_BACKLOG",
        "Too much waits for settlement, so new orders are refused; cancels work. Try again.",
    ),
    Reason.DEADLINE_PASSED: (
        "ENGINE_OVERLOADED",
        "The command waited longer than its deadline and was dropped. Nothing was done; try again.",
    ),
    Reason.TWO_FACTOR_REQUIRED: (
        "TWO_FACTOR_REQUIRED",
        "An order of this size needs a token from a sign-in with a second factor.",
    ),
    Reason.ACCOUNT_SUSPENDED: ("ACCOUNT_SUSPENDED", "This account is suspended; orders can only be cancelled."),
    Reason.SHARD_FENCED: (
        "NOT_READY",
        "This symbol does not trade until an operator has mended its part of the engine. Nothing was done.",
    ),
}


def reason_error(reason: Reason, details: dict[str, Any] | None = None) -> ApiError:
    """Turn the engine's reason for a refusal into an answer."""
    code, message = _REASON_ERRORS.get(reason, ("INTERNAL", f"The engine refused the command: {reason.name}."))
    return ApiError(code, message, {"reason": reason.name, **(details or {})})


def overloaded() -> ApiError:
    """Nothing was sent: this front has no room for another waiting request, or its ring has none."""
    return reason_error(Reason.ENGINE_OVERLOADED)
