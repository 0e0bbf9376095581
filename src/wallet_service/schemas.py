"""What requests to the wallet service look like.

Rule 1: amounts are plain decimals as text, above 0, with at most 18 places and 20 digits before the point.
Rule 2: what may be written in two ways (``1.5``, ``1.50``) is brought to one before anything is compared.
It refuses to know accounts and postings.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Annotated, Final, Literal

from msgspec import Meta, Struct

from tradeengine.core.money import NumberError, NumberFault, format_units, parse_decimal
from tradeengine.wallet.port import ID_LENGTH_MAX
from tradeengine.web.errors import ApiError, invalid_field

PLACES_MAX: Final = 18
WHOLE_DIGITS_MAX: Final = 20
LEGS_MAX: Final = 16

EntryId = Annotated[str, Meta(min_length=1, max_length=ID_LENGTH_MAX, pattern=r"^[ -~]+$")]
UserName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_.:@-]{1,64}$")]
AssetName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_.-]{1,32}$")]


class Leg(Struct, frozen=True, forbid_unknown_fields=True):
    """One side of a transfer."""

    user: UserName
    asset: AssetName
    amount: str
    direction: Literal["debit", "credit"]


class TransferRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """Legs that take effect together."""

    id: EntryId
    legs: Annotated[list[Leg], Meta(min_length=1, max_length=LEGS_MAX)]


class SingleRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """A change of one user's money: debit, credit, reservation, release, deposit."""

    id: EntryId
    user: UserName
    asset: AssetName
    amount: str


class BalancesQuery(Struct, frozen=True, forbid_unknown_fields=True):
    """Which balances to list."""

    user: UserName | None = None
    cursor: str | None = None
    limit: Annotated[int, Meta(ge=1, le=1000)] = 1000


def canonical_amount(text: str) -> str:
    """Bring an amount to its one spelling, without needless zeros. Raises ApiError."""
    try:
        coefficient, places = parse_decimal(text)
    except NumberError as error:
        raise invalid_field("amount", f"amount {error.message}.", error.fault.value) from None
    if coefficient == 0:
        raise _out_of_range("amount must be above 0.")
    if places > PLACES_MAX:
        raise _out_of_range(f"amount must have at most {PLACES_MAX} decimal places.")
    if len(str(coefficient)) - places > WHOLE_DIGITS_MAX:
        raise _out_of_range(f"amount must have at most {WHOLE_DIGITS_MAX} digits before the point.")
    return format_units(coefficient, places)


def check_balanced(legs: list[Leg]) -> None:
    """Refuse legs of which more is credited than debited, or less. Raises ApiError."""
    sums: dict[str, int] = defaultdict(int)
    for leg in legs:
        coefficient, places = parse_decimal(leg.amount)
        units = coefficient * 10 ** (PLACES_MAX - places)
        sums[leg.asset] += units if leg.direction == "credit" else -units
    for asset, units in sums.items():
        if units:
            over = format_units(units, PLACES_MAX)
            raise invalid_field("legs", f"credits less debits of {asset} are {over}; they must be 0.", asset=asset)


def _out_of_range(message: str) -> ApiError:
    return invalid_field("amount", message, NumberFault.OUT_OF_RANGE.value)
