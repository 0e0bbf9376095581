"""Cursors from which a client resumes: what was given comes back, and nothing else is one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tradeengine.core.messages import parse_resume_cursor, resume_cursor

NUMBERS = st.integers(0, 2**63 - 1)


@given(NUMBERS, st.lists(NUMBERS, min_size=1, max_size=64))
def test_cursor_says_what_went_into_it(timestamp_ms: int, positions: list[int]) -> None:
    """The time and the next event of every shard come back, whatever they are."""
    assert parse_resume_cursor(resume_cursor(timestamp_ms, positions)) == (timestamp_ms, tuple(positions))


@pytest.mark.parametrize(
    "text",
    ["", ".", "1", "1.", "1.g", "-1.2", "1.-2", f"{2**63:x}.1", f"1.{2**63:x}", "1.２", "1." + "0" * 2000, "1..2"],
)
def test_what_is_no_cursor_is_refused(text: str) -> None:
    """Text without a shard, with numbers that no event has, in other digits, or endless, raises the error it says."""
    with pytest.raises(ValueError, match=r"."):
        parse_resume_cursor(text)
