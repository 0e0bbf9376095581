"""Dry runs: whether a destructive call shall only say what it would do."""

from __future__ import annotations

from quart import request

from tradeengine.web.schemas_trading import DryRun
from tradeengine.web.validation import read_query


def is_dry_run() -> bool:
    """Say whether the present call asks for a dry run. Raises ApiError."""
    return read_query(request.args, DryRun).dry_run
