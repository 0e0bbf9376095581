"""Traces: a log line for each command and event that passes an actor, by which one order is followed through all.

What joins the lines is what joins the actors: (ingress ring, ingress sequence), which every record carries. The front's
line has the request's id beside it; from there on it is these two numbers.

Rule 1: at other levels than debug an actor pays one comparison for a batch. At debug a line costs more than an order.
Rule 2: ids and sequences of 64 bits are strings: to a reader with floats (jq, a browser) neighbours would be the same.
It refuses to know what follows from a record.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final

import structlog

from tradeengine.core.records import CommandKind, EventKind, Reason, command_dtype

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_NUMBERS: Final = ("ingress_ring", "account_id", "symbol_id")

logger = structlog.get_logger()
_root = logging.getLogger()


def traces() -> bool:
    """Whether this process's level is debug."""
    return _root.isEnabledFor(logging.DEBUG)


def trace(what: str, records: NDArray[np.void], **more: object) -> None:
    """Say at level debug, for each of some commands or events, ``what`` happened to it, which it is, and ``more``."""
    if not traces():
        return
    kinds = CommandKind if records.dtype == command_dtype else EventKind
    for record in records:
        logger.debug(what, kind=_name(kinds, record["kind"]), **_identity(record), **more)


def _identity(record: np.void) -> dict[str, Any]:
    """Name a record; an order that has no id yet, or a reason that is none, says nothing."""
    identity: dict[str, Any] = {name: int(record[name]) for name in _NUMBERS}
    identity["ingress_sequence"] = str(record["ingress_sequence"])
    identity["order_id"] = str(record["order_id"]) if record["order_id"] else None
    if record.dtype != command_dtype:
        identity["sequence"] = int(record["sequence"])
        identity["reason"] = _name(Reason, record["reason"]) if record["reason"] else None
    return identity


def _name(names: Any, value: np.integer[Any]) -> str:
    """Name a number of an enumeration; a client's ring may hold any."""
    try:
        return str(names(int(value)).name.lower())
    except ValueError:
        return str(value)
