"""Asking again: which failures pass, what may be repeated after them, and when to give up.

Rule 1: what the engine refused for now (overloaded, too many requests) was not done, so anything may be repeated.
Rule 2: what may have been done is repeated only if doing it twice is the same as once. Placing is: every order has a
client order id. Amending is not quite: a second one may cost the order its place in the queue.
Rule 3: everything ends by a deadline, and then the last failure is raised, not the deadline.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import stamina
import trio

from tradeengine.client.errors import ApiError, ClientError, NoAnswer

T = TypeVar("T")

NOTHING_DONE: Final = frozenset({"ENGINE_OVERLOADED", "SETTLEMENT_BACKLOG", "SHUTTING_DOWN", "RATE_LIMITED"})
"""Refusals for now, before anything was done."""
PERHAPS_DONE: Final = frozenset({"OUTCOME_UNKNOWN", "DATABASE_UNAVAILABLE", "HTTP_502", "HTTP_503", "HTTP_504"})
"""Failures that pass, but that may have come after the deed."""
WAIT_FIRST_S: Final = 0.05
WAIT_LONGEST_S: Final = 2.0
JITTER_S: Final = 0.1


async def repeat(ask: Callable[[], Awaitable[T]], *, is_repeatable: bool, timeout_s: float) -> T:
    """Ask until there is an answer that stays, or the deadline is reached.

    is_repeatable: whether asking twice does the same as asking once. timeout_s: for all attempts together.
    Raises the last failure; or, when it is not known what an attempt did, the failure that left that open.
    """
    last: ClientError | None = None
    open_question: ClientError | None = None
    is_asking = False
    with trio.move_on_after(timeout_s):
        async for attempt in stamina.retry_context(
            on=lambda error: again_after_s(error, is_repeatable=is_repeatable),
            attempts=None,
            timeout=None,  # the scope above ends it, also in the middle of an attempt
            wait_initial=WAIT_FIRST_S,
            wait_max=WAIT_LONGEST_S,
            wait_jitter=JITTER_S,
        ):
            with attempt:
                is_asking = True
                try:
                    return await ask()
                except ClientError as error:
                    is_asking = False
                    last = error
                    if is_perhaps_done(error):
                        open_question = error
                    raise
    if is_asking:
        raise NoAnswer(f"no answer within {timeout_s:g} s") from last
    assert last is not None
    raise open_question or last


def is_perhaps_done(error: ClientError) -> bool:
    """Say whether the engine may have done what was asked for all that."""
    if isinstance(error, NoAnswer):
        return error.is_sent
    return isinstance(error, ApiError) and error.code in PERHAPS_DONE


def again_after_s(error: Exception, *, is_repeatable: bool) -> float | bool:
    """Say whether to ask again after this failure: False, True (by the usual backoff), or after how many seconds."""
    if isinstance(error, NoAnswer):
        return is_repeatable or not error.is_sent
    if not isinstance(error, ApiError):
        return False
    if error.code in NOTHING_DONE or (is_repeatable and error.code in PERHAPS_DONE):
        if error.retry_after_s is None:
            return True
        return error.retry_after_s + random.uniform(0, JITTER_S)  # noqa: S311 - spreads load, keeps no secret
    return False
