"""Entries of the audit log for tests."""

from __future__ import annotations

import uuid

from tradeengine.storage.audit import Entry


def make_entry(**changes: object) -> Entry:
    """Make an entry of an action that went well."""
    fields: dict[str, object] = {
        "action_id": uuid.uuid4().hex,
        "time_us": 1_795_516_245_234_567,
        "actor": "root",
        "role": "admin",
        "credential": "token",
        "two_factor": True,
        "action": "suspend_user",
        "target": "alice",
        "details": {"reason": "why"},
        "before": {"suspended": False},
        "after": {"suspended": True},
        "reason": "why",
        "request_id": "abc",
        "address": "127.0.0.1",
        "outcome": "ok",
    }
    return Entry(**(fields | changes))  # type: ignore[arg-type]


def begun(entry: Entry) -> Entry:
    """Give an entry as it was when its action began."""
    return Entry(
        action_id=entry.action_id,
        time_us=entry.time_us,
        actor=entry.actor,
        role=entry.role,
        credential=entry.credential,
        two_factor=entry.two_factor,
        action=entry.action,
        target=entry.target,
    )
