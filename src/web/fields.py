"""The kinds of values that JSON fields have, each with what ``/openapi.json`` says of it.

Rule 1: decimals have no pattern that msgspec would check: they are checked where the symbol is known, so that the
answer can name tick, lot and bounds. What the schema says of them comes beside it.
It refuses to know which fields there are.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal, TypeAlias

from msgspec import Meta

from tradeengine.core.records import Reason

CLIENT_ORDER_ID_PATTERN: Final = r"^[A-Za-z0-9_.:-]{1,36}\Z"
_PLAIN: Final = "A plain decimal as a string: no exponent, no sign, at most 64 characters."
_DIGITS: Final = {"pattern": r"^[0-9]+(\.[0-9]+)?$", "maxLength": 64}

PriceText: TypeAlias = Annotated[str, Meta(description=_PLAIN, examples=["50000.00"], extra_json_schema=_DIGITS)]
QuantityText: TypeAlias = Annotated[str, Meta(description=_PLAIN, examples=["0.25000"], extra_json_schema=_DIGITS)]
AmountText: TypeAlias = Annotated[str, Meta(description=_PLAIN, examples=["25.00000000"], extra_json_schema=_DIGITS)]
"""Fees, balances, notionals: with the asset's places."""
FractionText: TypeAlias = Annotated[str, Meta(description=_PLAIN, examples=["0.001000"], extra_json_schema=_DIGITS)]
ChangeText: TypeAlias = Annotated[
    str,
    Meta(
        description="A plain decimal as a string, with a minus sign below zero.",
        examples=["-120.50"],
        extra_json_schema={"pattern": r"^-?[0-9]+(\.[0-9]+)?$", "maxLength": 64},
    ),
]
Time: TypeAlias = Annotated[
    str,
    Meta(
        description="RFC 3339, UTC.", examples=["2026-11-24T10:30:45.234Z"], extra_json_schema={"format": "date-time"}
    ),
]
Id: TypeAlias = Annotated[
    str,
    Meta(
        description="Digits; later ids are larger.",
        examples=["95482301847207936"],
        extra_json_schema={"pattern": "^[0-9]{1,19}$"},
    ),
]
SymbolName: TypeAlias = Annotated[str, Meta(description="Base and quote asset.", examples=["BTC/USDT"])]
SymbolInPath: TypeAlias = Annotated[
    str,
    Meta(description="The symbol: BTC-USDT, BTC%2FUSDT or BTC/USDT, in any letter case.", examples=["BTC-USDT"]),
]
ClientOrderId: TypeAlias = Annotated[
    str,
    Meta(
        description="1 to 36 of A-Z a-z 0-9 _ . : -",
        pattern=CLIENT_ORDER_ID_PATTERN,
        examples=["my-order-1"],
    ),
]

SideName: TypeAlias = Literal["buy", "sell"]
TypeName: TypeAlias = Literal["limit", "market", "stop", "stop_limit"]
TimeInForceName: TypeAlias = Literal["gtc", "ioc", "fok", "gtd"]
SelfTradePreventionName: TypeAlias = Literal["cancel_taker", "cancel_maker", "cancel_both"]
StatusName: TypeAlias = Literal["pending", "open", "partially_filled", "filled", "cancelled", "rejected"]

STATUS_REASONS: Final[dict[Reason, str]] = {
    Reason.USER: "its owner cancelled it",
    Reason.CANCELLED_ALL: "a mass cancel ended it",
    Reason.EXPIRED: "its `expires_at` has come",
    Reason.IOC_NOT_FILLED: "it was `ioc`, and nothing of it could be filled at once",
    Reason.IOC_REMAINDER: "it was `ioc`: a part was filled, and this ended the rest",
    Reason.COLLAR: "the next price was further from the best one at its arrival (a stop's: at its trigger) than "
    "`max_price_deviation` allows a market order to go",
    Reason.BUDGET: "what it held would not buy another lot at the next price; of an order by `quote_quantity`: not "
    "even one lot",
    Reason.CANCEL_ALL_AFTER: "the timer of cancel-all-after ran out",
    Reason.ADMINISTRATOR: "an administrator cancelled it",
    Reason.NO_LIQUIDITY: "the other side of the book was empty, or became so before it was filled",
    Reason.SELF_TRADE: "it would have traded with another order of its own account; see `self_trade_prevention`",
    Reason.FOK_NOT_FILLED: "it was `fok` and could not be filled in full at once, so nothing was traded",
    Reason.POST_ONLY_WOULD_MATCH: "it was `post_only` and would have traded at once",
    Reason.PRICE_OUT_OF_COLLAR: "its price was further through the last trade price than `max_price_deviation` allows, "
    "at its arrival or, of a stop_limit, at its trigger",
    Reason.SYMBOL_HALTED: "trading was halted when it reached the book",
    Reason.CANCEL_ONLY: "the symbol took only cancels when it reached the book",
    Reason.BOOK_FULL: "the book had no room for another order or price level",
}
"""Why an order ended without being filled, in full: all that ``status_reason`` can be."""

StatusReason: TypeAlias = Annotated[
    str,
    Meta(
        description="Why it ended. null: it has not, or it was filled.\n"
        + "\n".join(f"- `{reason.name}`: {why}." for reason, why in STATUS_REASONS.items()),
        examples=[Reason.USER.name],
        extra_json_schema={"enum": [reason.name for reason in STATUS_REASONS]},
    ),
]
