"""What ``tradeengine reconcile`` prints for people."""

from __future__ import annotations

import pytest

from tradeengine.cli.reconcile import line_of

FIELDS = ("account", "asset", "symbol", "order_id", "transaction_id", "field", "expected", "found")


@pytest.mark.parametrize(
    ("known", "line"),
    [
        (
            {"account": "alice", "asset": "BTC", "expected": "9.8", "found": "0"},
            "a_kind: account=alice asset=BTC expected=9.8 found=0 - Why.",
        ),
        ({"order_id": "7"}, "a_kind: order_id=7 - Why."),
        ({}, "a_kind: Why."),
    ],
)
def test_line_has_what_there_is_and_no_more(known: dict[str, str], line: str) -> None:
    """A difference is one line with what is known of it; where nothing is, with the reason alone."""
    assert line_of({**dict.fromkeys(FIELDS), "kind": "a_kind", "message": "Why.", **known}) == line
