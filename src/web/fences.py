"""Commands for all shards while some are fenced: done by the others, and told as what it is.

It refuses to know why a shard is fenced.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tradeengine.web.errors import ApiError

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet

    from tradeengine.core.symbols import SymbolSpec
    from tradeengine.web.front import Front


def parts_of_all(front: Front) -> tuple[int, frozenset[int]]:
    """Give how many shards will answer a command for all of them, at least one, and which will not."""
    fenced = front.watch.fences.shards()
    return max(front.shard_count - len(fenced), 1), fenced


def refuse_if_partly_done(front: Front, fenced: AbstractSet[int], **done: Any) -> None:
    """Say that a command for all shards was carried out but on those that are fenced. Raises ApiError NOT_READY.

    done: what was, for the details.
    """
    if fenced:
        raise ApiError(
            "NOT_READY",
            f"Done, but not for {', '.join(_symbols_of(front, fenced)) or 'symbols to come'}: nothing happens there "
            "until an operator has mended that part of the engine. Repeating this does no harm.",
            {"outcome": "partial", "shards": sorted(fenced), "pending": _symbols_of(front, fenced), **done},
        )


def refuse_if_fenced(front: Front, spec: SymbolSpec) -> None:
    """Show no book of a symbol that does not trade: what is left of it is not what comes back. Raises ApiError."""
    if spec.shard in front.watch.fences.shards():
        raise ApiError(
            "NOT_READY",
            f"{spec.name} does not trade until an operator has mended its part of the engine.",
            {"shards": [spec.shard], "symbol": spec.name},
        )


def _symbols_of(front: Front, shards: AbstractSet[int]) -> list[str]:
    return [spec.name for spec in front.pages.directory().symbols.values() if spec.shard in shards]
