"""What clients wrote down: each intent before it was sent, each answer when it came, one JSON line each.

An intent is *ok* (the engine said so), *refused* (the engine said no, or was not there to be asked), or *unknown*: a
cut connection, a time-out, an answer that says so. What is unknown is asked again at the end, by the same request,
until the engine says which of the two it was. *rejected*: of an order, refused by the matcher, which keeps it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import trio
from tests.faults.harness.intents import FOREVER, Intent, Json, Kind


class Outcome(StrEnum):
    """What is known of an intent."""

    OK = "ok"
    REFUSED = "refused"
    REJECTED = "rejected"
    UNKNOWN = "unknown"


KEPT: Final = frozenset({Outcome.OK, Outcome.REJECTED})
"""Of an order: the engine has it."""
LATER: Final = frozenset(
    {
        *("ENGINE_OVERLOADED", "SETTLEMENT_BACKLOG", "DATABASE_UNAVAILABLE", "SHUTTING_DOWN", "NOT_READY"),
        *("RATE_LIMITED", "AUDIT_UNAVAILABLE"),
    }
)
"""Refusals of a moment: of what was asked before, and had no answer, they say nothing."""
_UNKNOWN_STATUS: Final = frozenset({202, 500, 504})


@dataclass(frozen=True)
class Answer:
    """One answer. ``data``: as the API gave it, or the error; ``status``: of HTTP, 0: there was none."""

    outcome: Outcome
    status: int = 0
    code: str = ""
    data: Any = None


def read_answer(status: int, body: Json) -> Answer:
    """Say what an answer means. Raises KeyError when it is not in the envelope."""
    if body["success"]:
        return Answer(Outcome.UNKNOWN if status in _UNKNOWN_STATUS else Outcome.OK, status, "", body["data"])
    return read_refusal(status, body["error"])


def read_refusal(status: int, error: Json) -> Answer:
    """Say what an error means. status: 0 when there is none, because it came in a batch or over a stream."""
    code, details = error["code"], error["details"] or {}
    if status in _UNKNOWN_STATUS or code in {"OUTCOME_UNKNOWN", "INTERNAL"}:
        return Answer(Outcome.UNKNOWN, status, code, error)
    is_kept = "order_id" in details and "client_order_id" in details
    return Answer(Outcome.REJECTED if is_kept else Outcome.REFUSED, status, code, error)


@dataclass
class Part:
    """One order of an intent, or the whole of one that places none, and what became of it.

    ``views``: all that was answered where it was said to be done, oldest first; the error where it was rejected.
    """

    order: Json | None
    outcome: Outcome = Outcome.UNKNOWN
    views: list[Any] = field(default_factory=list)
    was_unknown: bool = False
    """Whether it was once asked for without an answer."""

    def hear(self, answer: Answer) -> None:
        """Take an answer in: what was done stays so, and a moment's refusal does not undo what may have been done."""
        if answer.outcome in KEPT:
            self.views.append(answer.data)
            self.outcome = answer.outcome
        elif self.outcome not in KEPT:
            is_open = self.outcome is Outcome.UNKNOWN and self.was_unknown
            self.outcome = Outcome.UNKNOWN if is_open and answer.code in LATER else answer.outcome
            self.was_unknown |= self.outcome is Outcome.UNKNOWN


@dataclass
class Note:
    """An intent with the answers that it got."""

    intent: Intent
    answers: list[Answer] = field(default_factory=list)

    def parts(self) -> list[Part]:
        """Say what became of each order that it places; of another intent, of the whole."""
        if self.intent.kind is not Kind.BATCH:
            parts = [Part(self.intent.body if self.intent.kind is Kind.PLACE else None)]
            for answer in self.answers:
                parts[0].hear(answer)
            return parts
        parts = [Part(order) for order in self.intent.orders]
        for answer in self.answers:
            for place, part in enumerate(parts):
                part.hear(_of_batch(answer, place))
        return parts

    def answer_texts(self) -> list[str]:
        """Say what was answered, in a few words each."""
        return [f"{answer.outcome} {answer.status} {answer.code}" for answer in self.answers]

    @property
    def is_unknown(self) -> bool:
        """Whether it is not known how some of it ended."""
        return any(part.outcome is Outcome.UNKNOWN for part in self.parts())


def _of_batch(answer: Answer, place: int) -> Answer:
    if answer.outcome is not Outcome.OK:
        return answer
    item = answer.data[place]
    return Answer(Outcome.OK, data=item["data"]) if item["success"] else read_refusal(0, item["error"])


class Notebook:
    """All notes of a round, in memory and in a file, which is flushed line by line."""

    def __init__(self, path: Path) -> None:
        """Begin a new file."""
        self.notes: list[Note] = []
        self.codes: Counter[str] = Counter()
        self._grown = trio.Event()
        self._file = path.open("w", encoding="utf-8")

    def begin(self, intent: Intent) -> Note:
        """Write down what is wanted, before it is asked for."""
        note = Note(intent)
        self.notes.append(note)
        self._grown.set()
        self._grown = trio.Event()
        self._write({"intent": intent.name, "kind": intent.kind, "target": intent.target, "body": intent.body})
        return note

    def end(self, note: Note, answer: Answer) -> None:
        """Write down what was answered."""
        note.answers.append(answer)
        self.codes[answer.code or answer.outcome] += 1
        told = {"outcome": answer.outcome, "status": answer.status, "code": answer.code, "data": answer.data}
        self._write({"answer": note.intent.name, **told})

    async def grown(self) -> None:
        """Wait until more is wanted."""
        await self._grown.wait()

    def _write(self, line: Json) -> None:
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()

    def unknown(self) -> list[Note]:
        """Give those whose outcome is not known."""
        return [note for note in self.notes if note.is_unknown]

    def counts(self) -> Counter[str]:
        """Count intents, and how each of their orders ended."""
        found = Counter({"intents": len(self.notes)})
        for note in self.notes:
            found.update(part.outcome.value for part in note.parts())
        return found

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


@dataclass
class Told:
    """What a client was told of one order: its request, how that ended, and all that was shown of it since."""

    user: str
    request: Json
    outcome: Outcome
    order_id: str = ""
    views: list[Json] = field(default_factory=list)
    """The order, as answers showed it, oldest first."""
    trades: list[Json] = field(default_factory=list)
    amends: list[tuple[Json, Outcome]] = field(default_factory=list)


def told_orders(notes: Iterable[Note]) -> dict[str, Told]:
    """Put together, by client order id, what was told of each order."""
    found: dict[str, Told] = {}
    for note in notes:
        user, target = note.intent.user, note.intent.target
        for part in note.parts():
            if part.order is not None:
                told = found[part.order["client_order_id"]] = Told(user, part.order, part.outcome)
            elif target is not None:
                told = found[target]
                if note.intent.kind is Kind.AMEND:
                    # Refused only when asked again: the first time it may have been carried out.
                    is_doubtful = part.was_unknown and part.outcome is Outcome.REFUSED
                    told.amends.append((note.intent.body, Outcome.UNKNOWN if is_doubtful else part.outcome))
            else:
                continue
            _listen(told, part)
    return found


def _listen(told: Told, part: Part) -> None:
    for view in part.views:
        if part.outcome is Outcome.REJECTED:
            told.order_id = view["details"]["order_id"]
            continue
        told.order_id = told.order_id or view["order"]["id"]
        told.views.append(view["order"])
        told.trades += view["trades"]


def last_end(notes: Iterable[Note]) -> float:
    """Tell when the last order and timer end that were wanted and end by themselves, in seconds since 1970."""
    ends = [order["expires_at"] for note in notes for order in note.intent.orders if "expires_at" in order]
    for note in notes:
        if note.intent.kind is Kind.TIMER:
            ends += [view["triggers_at"] for part in note.parts() for view in part.views if view["triggers_at"]]
    return max((datetime.fromisoformat(end).timestamp() for end in ends if end != FOREVER), default=0.0)
