"""``tradeengine dead-letters …``: what a wallet service outside will not do, for the owner of the data directory."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any, Final

import psycopg

from tradeengine.cli.database import connect, one_line
from tradeengine.cli.errors import CommandError
from tradeengine.cli.recorded import recorded, unix_actor
from tradeengine.core.money import format_units
from tradeengine.core.times import format_ms
from tradeengine.settings import Settings
from tradeengine.storage.dead_letters import (
    REASON_LENGTH_MAX,
    DeadLetter,
    NoSuchLetterError,
    discard_letter,
    find_letter,
    list_letters,
    retry_letter,
)

PAGE: Final = 500
Connection = psycopg.Connection[Any]


def run_list(settings: Settings, *, as_json: bool) -> None:
    """Print all dead letters. Raises CommandError."""
    letters = _with_database(settings, _all_letters)
    if as_json:
        sys.stdout.write(json.dumps([_view(letter) for letter in letters]) + "\n")
        return
    for letter in letters:
        sys.stdout.write(f"{letter.id:<20} {letter.kind:<10} tries {letter.tries:<3} {letter.error}\n")
    sys.stdout.write(f"{len(letters)} dead letter{'' if len(letters) == 1 else 's'}\n")


def run_show(settings: Settings, letter_id: int) -> None:
    """Print one dead letter with its payload, as JSON. Raises CommandError."""
    letter = _with_database(settings, lambda connection: find_letter(connection, letter_id))
    sys.stdout.write(json.dumps(_view(letter), indent=2) + "\n")


def run_retry(settings: Settings, letter_id: int) -> None:
    """Let one be tried again. Raises CommandError."""
    with recorded(settings, "retry_dead_letter", str(letter_id)) as known:
        letter = _with_database(settings, lambda connection: retry_letter(connection, letter_id))
        known.before, known.after = _view(letter), {"state": "retried"}
    sys.stdout.write(f"retried    {letter.kind} {letter.id}: the wallet is asked again\n")


def run_discard(settings: Settings, letter_id: int, reason: str) -> None:
    """Give one up. Raises CommandError."""
    reason = reason.strip()
    if not 1 <= len(reason) <= REASON_LENGTH_MAX or not reason.isprintable():
        raise CommandError(f"--reason must be 1 to {REASON_LENGTH_MAX} printable characters")
    by = unix_actor()
    with recorded(settings, "discard_dead_letter", str(letter_id), reason=reason) as known:
        letter = _with_database(
            settings, lambda connection: discard_letter(connection, letter_id, reason=reason, by=by)
        )
        known.before, known.after = _view(letter), {"state": "discarded"}
    sys.stdout.write(f"discarded  {letter.kind} {letter.id}: ledger and fill stay, the difference is written down\n")


def _all_letters(connection: Connection) -> list[DeadLetter]:
    found: list[DeadLetter] = []
    page = list_letters(connection, limit=PAGE)
    while page:
        found += page
        page = list_letters(connection, limit=PAGE, before_id=page[-1].id)
    return found


def _with_database(settings: Settings, work: Callable[[Connection], Any]) -> Any:
    try:
        with connect(settings) as connection:
            return work(connection)
    except NoSuchLetterError as error:
        raise CommandError(str(error)) from None
    except psycopg.Error as error:
        raise CommandError(f"the database refuses: {one_line(error)}") from None


def _view(letter: DeadLetter) -> dict[str, Any]:
    return {
        "id": str(letter.id),
        "kind": letter.kind.value,
        "reference": letter.reference,
        "error": letter.error,
        "tries": letter.tries,
        "progress": letter.progress or None,
        "created_at": format_ms(int(letter.created_at.timestamp() * 1000)),
        "legs": [
            {"user": leg.user, "asset": leg.asset, "amount": format_units(leg.amount_units, leg.places)}
            for leg in letter.legs
        ],
    }
