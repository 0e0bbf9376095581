"""Faults that are planted, so that the simulation is seen to find what it is there to find.

Each takes one mechanism away that a promise rests on, and nothing else. ``planted(name)`` is in force within a block.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from tests.simulation.database import SimulatedSettler

from tradeengine.actors import matcher, matcher_recovery, risk, risk_restart, shadow
from tradeengine.actors.matcher import MatcherDuty
from tradeengine.actors.matcher_events import EventOutlet
from tradeengine.actors.publishing.follower import Follower
from tradeengine.actors.risk import RiskDuty
from tradeengine.actors.risk_restart import Taken
from tradeengine.actors.settlement import SettlementDuty
from tradeengine.storage import journal, journal_read
from tradeengine.storage.journal import Journal
from tradeengine.storage.journal_files import create_file, rename_durably
from tradeengine.storage.journal_format import SEAL_BYTES
from tradeengine.storage.journal_read import prune
from tradeengine.storage.snapshots import newest_snapshot

if TYPE_CHECKING:
    from collections.abc import Iterator

Patch = tuple[Any, str, Any]
NEVER: Final = 2**62


@contextmanager
def planted(name: str) -> Iterator[None]:
    """Plant a fault for a block."""
    patches = FAULTS[name]
    before = [(owner, attribute, getattr(owner, attribute)) for owner, attribute, _ in patches]
    for owner, attribute, value in patches:
        setattr(owner, attribute, value)
    try:
        yield
    finally:
        for owner, attribute, value in before:
            setattr(owner, attribute, value)


def _pass(module: Any, point: str) -> None:
    """Pass a crash point, as the simulation has put it into a module."""
    vars(module)["crash_point"](point)


def _commit_without_cursor(settler: SimulatedSettler, after: Any) -> None:
    """Believe that the cursors move."""


def _publish_first(duty: MatcherDuty, commands: Any) -> None:
    """Match and publish, then write."""
    for events in duty._matching.pieces(commands):
        duty._outlet.publish(events)
        _pass(matcher, "matcher.after_publish")
    if not duty._journal.has_room(len(commands)):
        duty._roll()
    duty._journal.append(commands)
    duty._journal.sync()


def _pass_first(duty: MatcherDuty) -> int:
    """Pass the commands in their ring, then work on copies of them."""
    batch = duty._commands.poll(duty._batch_max).copy()
    duty._commands.advance(len(batch))
    if len(batch):
        _pass(matcher, "matcher.after_cursor")
        duty._process(batch)
    return len(batch)


def _publish_answers_first(duty: RiskDuty, answers: Any, answered: int) -> None:
    """Publish answers, and only then the commands that they may be about."""
    if answered:
        answers.publish(duty._answers[:answered])
        _pass(risk, "risk.after_events")
    for shard, writer in enumerate(duty._rings.commands):
        if duty._outbox.counts[shard]:
            writer.publish(duty._forwards[shard][: duty._outbox.counts[shard]])
            _pass(risk, "risk.after_forward")
    duty._tables.write_changed()


def _copy_all(segment: Any, _end: Any, files: Any, segment_bytes: int = 0) -> int:
    """Copy a segment with whatever is behind its last whole group."""
    whole = segment.path.read_bytes()
    copy = segment.path.with_suffix(".journal.rewrite")
    fd = create_file(files, copy, [whole], max(segment_bytes, len(whole)))
    rename_durably(files, copy, segment.path)
    return fd


def _call_it_damaged(data: Any, offset: int, _shard: int, _sequence: int) -> str:
    """Take everything for damage that is behind the last whole group."""
    return "damaged" if data[offset:].any() else ""


def _keep_file(segment: Any, end: Any, files: Any, segment_bytes: int = 0) -> int:
    """Go on in the file as it is, after another sync."""
    fd = int(files.open(segment.path, os.O_RDWR))
    files.truncate(fd, end.position.word * 8)
    if segment_bytes:
        files.preallocate(fd, max(segment_bytes, end.position.word * 8 + SEAL_BYTES))
    files.datasync(fd)
    return fd


def _keep_settler(duty: SettlementDuty, _state: Any, _error: Exception) -> None:
    """Go on after an error as if nothing had happened, with the next connection at the cursors of this one."""
    settler = duty._settler
    if settler is not None:
        settler.connection._broken = False  # type: ignore[attr-defined]


def _pass_new_events(_risk: Any, reader: Any) -> int:
    """Begin at the heads of the rings, as if the database knew all."""
    answered = -1
    while len(events := reader.poll_copy()):
        answered = int(events["ring_sequence"][-1])
        reader.advance(len(events))
    return answered


def _drop_replayed(_outlet: EventOutlet, _events: Any) -> int:
    """Take it for granted that what is replayed was published."""
    return 0


def _newest_of_all(directory: Any, shard: int, _maximum: int, restore: Any) -> Any:
    """Find the newest snapshot, however far behind the database is."""
    return newest_snapshot(directory, shard, NEVER, restore)


def _prune_all(directory: Any, _settled: int, _snapshot: int, _retain_s: float, _now_ns: int) -> Any:
    """Remove every closed segment."""
    return prune(directory, NEVER, NEVER, 0.0, NEVER)


def _fold_again(follower: Follower, events: Any) -> None:
    """Add to books what they include already."""
    follower._known_through[follower._known_through != NEVER] = -1
    _fold_books(follower, events)


_fold_books = Follower._fold_books

FAULTS: Final[dict[str, tuple[Patch, ...]]] = {
    "the matcher does not sync": ((Journal, "sync", lambda _: None),),
    "the matcher publishes before it journals": ((MatcherDuty, "_process", _publish_first),),
    "the matcher passes its commands before it journals them": ((MatcherDuty, "_work", _pass_first),),
    "the matcher does not publish what it replays": ((EventOutlet, "republish", _drop_replayed),),
    "the matcher starts from a snapshot that is not settled": ((matcher_recovery, "newest_snapshot", _newest_of_all),),
    "a torn tail is taken for damage": ((journal_read, "tail_damage", _call_it_damaged),),
    "a torn tail is not cut": ((journal, "_copy", _copy_all),),
    "the last segment is not rewritten": ((journal, "_copy", _keep_file),),
    "the successor's name is not synced": ((journal, "sync_folder", lambda *_: None),),
    "settlement commits without its cursor": ((SimulatedSettler, "_advance", _commit_without_cursor),),
    "settlement does not read its cursors again": ((SettlementDuty, "_drop", _keep_settler),),
    "risk forgets what it had taken": ((Taken, "of", lambda *_: np.zeros(0, np.int64)),),
    "risk answers before it forwards": ((RiskDuty, "_publish", _publish_answers_first),),
    "risk does not take holds again": ((risk_restart, "retake_commands", lambda *_: None),),
    "risk passes over what is not settled": ((risk_restart, "fold_new_events", _pass_new_events),),
    "risk repeats numbers after the clock was set back": ((risk, "LAST_TIMESTAMP_NS", 15),),
    "the shadow removes segments that are needed": ((shadow, "prune", _prune_all),),
    "the publisher adds twice": ((Follower, "_fold_books", _fold_again),),
}
