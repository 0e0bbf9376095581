"""What administrators decide about users: their limits, and whether they may do anything but cancel.

A change is answered when it is in force on every front (``in_force``): whoever heard the answer meets no old rule.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from typing import Any, TypeVar

import structlog
from msgspec import UNSET, structs
from quart import Blueprint, Response

from tradeengine.core.money import NumberError, NumberFault, parse_decimal
from tradeengine.core.times import format_ms
from tradeengine.storage import account_settings
from tradeengine.storage.account_settings import LIMIT_SCALE_MAX, AccountSettings
from tradeengine.web import schemas_admin as schemas
from tradeengine.web.access import Access, caller
from tradeengine.web.audit import audited
from tradeengine.web.auth import SUBJECT_PATTERN
from tradeengine.web.dry_run import is_dry_run
from tradeengine.web.envelope import success
from tradeengine.web.errors import ApiError, invalid_field
from tradeengine.web.front import Front, current_front, read_json
from tradeengine.web.openapi import describe
from tradeengine.web.reasons import checked_reason
from tradeengine.web.schemas_trading import DryRun

blueprint = Blueprint("admin_users", __name__)
_TAG = "administration"
View = TypeVar("View", schemas.UserLimits, schemas.Standing)
_AMOUNTS = ("max_order_size", "max_daily_volume", "requires_2fa_above")

_log = structlog.get_logger()


@blueprint.get("/limits/user/<user>")
@describe(tags=_TAG, answers={200: schemas.UserLimitsAnswer}, access=Access.ADMIN)
async def show_user_limits(user: str) -> Response:
    """Show a user's limits."""
    front = current_front()
    account_id = await known_account(front, user)
    settings = await front.database.run(account_settings.read_settings, account_id)
    return success(_limits_view(user, settings))


@blueprint.post("/limits/user/<user>")
@describe(
    tags=_TAG,
    body=schemas.ChangeUserLimits,
    query=DryRun,
    answers={200: schemas.UserLimitsAnswer},
    access=Access.ADMIN,
    weight=5,
)
async def change_user_limits(user: str) -> Response:
    """Change a user's limits; what is left out stays, null takes a limit away.

    They count from the answer on, on every front, for orders that come then and for amends; open orders stay. A user
    who has never been seen gets an empty account.
    """
    front = current_front()
    wanted = await read_json(schemas.ChangeUserLimits)
    changes = {name: value for name, value in structs.asdict(wanted).items() if value is not UNSET}
    if not changes:
        raise ApiError("INVALID_REQUEST", f"Give at least one of {', '.join(wanted.__struct_fields__)}.")
    changes |= {name: _amount(name, changes[name]) for name in _AMOUNTS if name in changes}
    return success(await _change(front, user, changes, _limits_view))


@blueprint.post("/users/<user>/suspend")
@describe(
    tags=_TAG,
    body=schemas.Suspend,
    query=DryRun,
    answers={200: schemas.StandingAnswer},
    access=Access.ADMIN,
    weight=5,
)
async def suspend_user(user: str) -> Response:
    """Suspend a user, whatever tokens and keys are out.

    From the answer on every front refuses everything of theirs but cancels, with ACCOUNT_SUSPENDED, and their stream
    connections are closed within a second or two. Open orders stay until somebody cancels them. A user who has never
    been seen gets an empty account, suspended: so somebody can be kept out who has not come yet.
    """
    if user == caller().name:
        raise invalid_field("user", "You cannot suspend yourself.")
    return await _set_standing(user, suspended=True)


@blueprint.post("/users/<user>/resume")
@describe(
    tags=_TAG,
    body=schemas.Suspend,
    query=DryRun,
    answers={200: schemas.StandingAnswer},
    access=Access.ADMIN,
    weight=5,
)
async def resume_user(user: str) -> Response:
    """Let a suspended user go on; at once, too."""
    return await _set_standing(user, suspended=False)


async def known_account(front: Front, user: str) -> int:
    """Account id of a user who has one. Raises ApiError NOT_FOUND."""
    account_id = await front.accounts.find(user) if SUBJECT_PATTERN.match(user) else None
    if account_id is None:
        raise ApiError("NOT_FOUND", "There is no user of this name.", {"field": "user"})
    return account_id


async def any_account(front: Front, user: str) -> int:
    """Account id of a user, made for one who has never been seen. Raises ApiError for what cannot be a name."""
    return await front.account_id(checked_name(user))


def checked_name(user: str) -> str:
    """Give what can be a user's name. Raises ApiError."""
    if not SUBJECT_PATTERN.match(user):
        raise invalid_field("user", "user must be 1 to 64 of A-Z a-z 0-9 _ . : @ -")
    return user


async def _set_standing(user: str, *, suspended: bool) -> Response:
    front = current_front()
    reason = checked_reason((await read_json(schemas.Suspend)).reason)
    changes = {"suspended": suspended, "suspended_reason": reason, "suspended_by": caller().name}
    return success(await _change(front, user, changes, _standing_view))


async def _change(
    front: Front, user: str, changes: dict[str, Any], view: Callable[[str, AccountSettings], View]
) -> View:
    """Write a change down, and return what the settings are when it is in force everywhere. Raises ApiError.

    In a dry run: return what they would be.
    """
    if is_dry_run():
        known = await front.accounts.find(checked_name(user))
        present = await front.database.run(account_settings.read_settings, known) if known else AccountSettings(0)
        return view(user, replace(present, **changes))
    account_id = await any_account(front, user)
    before, version = await front.database.run(account_settings.change_from, account_id, **changes)
    audited(before=view(user, before), after=view(user, replace(before, version=version, **changes)))
    _log.info("account changed", user=user, by=caller().name, version=version, **changes)
    await front.in_force.wait(account_id, version)
    after = view(user, await front.database.run(account_settings.read_settings, account_id))
    audited(after=after)
    return after


def _amount(field: str, text: str | None) -> Decimal | None:
    """Read an amount of no asset in particular, as exact as any asset can be. Raises ApiError."""
    if text is None:
        return None
    try:
        coefficient, scale = parse_decimal(text)
    except NumberError as error:
        raise invalid_field(field, f"{field} {error.message}.", error.fault.value) from None
    if scale > LIMIT_SCALE_MAX or coefficient > account_settings.LIMIT_MANTISSA_MAX:
        message = f"{field} must have at most {LIMIT_SCALE_MAX} decimal places and 18 digits in all."
        raise invalid_field(field, message, NumberFault.OUT_OF_RANGE.value)
    return Decimal(coefficient).scaleb(-scale)


def _standing_view(user: str, settings: AccountSettings) -> schemas.Standing:
    return schemas.Standing(
        user=user,
        suspended=settings.suspended,
        reason=settings.suspended_reason,
        changed_by=settings.suspended_by,
        updated_at=_time(settings.updated_at),
    )


def _limits_view(user: str, settings: AccountSettings) -> schemas.UserLimits:
    amounts = {name: _plain(getattr(settings, name)) for name in _AMOUNTS}
    return schemas.UserLimits(
        user=user,
        max_open_orders=settings.max_open_orders,
        suspended=settings.suspended,
        updated_at=_time(settings.updated_at),
        **amounts,
    )


def _plain(amount: Decimal | None) -> str | None:
    """Write an amount without an exponent and without zeros that say nothing."""
    if amount is None:
        return None
    text = f"{amount:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _time(moment: dt.datetime | None) -> str | None:
    return None if moment is None else format_ms(int(moment.timestamp() * 1000))
