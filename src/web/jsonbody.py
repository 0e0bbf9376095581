"""Reading JSON that strangers send: one way to say a thing, and a clear sentence for everything else.

Rule 1: what two readers could understand differently is refused: a key twice, NaN, bytes that are not UTF-8.
Rule 2: the reader's own limits (nesting, fields, digits, bytes) come out as a refusal, never as a fault.
It refuses to know which fields a body should have.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final, NoReturn

from tradeengine.web.errors import ApiError, invalid_field

NESTING_MAX: Final = 32
PARTS_MAX: Final = 1024
"""Lists and objects in one body: several times what a batch has. Each costs time, and all requests share one loop."""
NAME_CHARACTERS_MAX: Final = 64
FIELDS_MAX: Final = 64
"""Of one object: several times what any body of ours has."""
_BRACKET: Final = re.compile(r"[\[\]{}]")


def read_object(body: bytes) -> dict[str, Any]:
    """Decode a request body that must be one JSON object.

    Raises ApiError INVALID_REQUEST with what is wrong and, where there is one, the position in the body.
    """
    value = read_value(body)
    if not isinstance(value, dict):
        raise ApiError("INVALID_REQUEST", "The body must be a JSON object.", {"field": "body"})
    return value


def read_value(body: bytes) -> Any:
    """Decode a request body. Raises ApiError INVALID_REQUEST as ``read_object`` does."""
    if not body.strip():
        raise ApiError("INVALID_REQUEST", "The body is empty; send a JSON object.", {"field": "body"})
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _malformed(f"The body is not UTF-8: byte {error.start}.", position=error.start) from None
    _check_nesting(text)
    try:
        return json.loads(text, object_pairs_hook=_object, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        raise _malformed(f"The body is not JSON: {error.msg}.", position=error.pos) from None
    except ValueError:
        # Python refuses to read integers of thousands of digits.
        raise _malformed("The body holds a number with too many digits.") from None


def printable(name: str) -> str:
    """Make a name from outside fit for an answer: short, and without lone surrogates, which UTF-8 cannot hold."""
    shown = name.encode("utf-8", "backslashreplace").decode()
    return shown if len(shown) <= NAME_CHARACTERS_MAX else shown[: NAME_CHARACTERS_MAX - 1] + "…"


def _check_nesting(text: str) -> None:
    """Count brackets without regard to strings: a body of ours needs two, so a false alarm takes malice."""
    bracket_count = sum(map(text.count, "[]{}"))
    if bracket_count <= NESTING_MAX:
        return
    if bracket_count > 2 * PARTS_MAX:
        raise _malformed(f"The body holds more than {PARTS_MAX} lists and objects.", maximum=PARTS_MAX)
    depth = 0
    for bracket in _BRACKET.finditer(text):
        depth += 1 if bracket[0] in "[{" else -1
        if depth > NESTING_MAX:
            raise _malformed(f"The body is nested deeper than {NESTING_MAX} levels.", maximum=NESTING_MAX)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(pairs) > FIELDS_MAX:
        raise _malformed(f"The body holds an object of more than {FIELDS_MAX} fields.", maximum=FIELDS_MAX)
    for name, value_of_name in pairs:
        for text in (name, value_of_name):
            if isinstance(text, str) and not text.isascii():
                _check_characters(text)
    value: dict[str, Any] = {}
    for name, value_of_name in pairs:
        if name in value:
            raise invalid_field(printable(name), f"The field {printable(name)} is given twice.")
        value[name] = value_of_name
    return value


def _check_characters(text: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise _malformed("The body holds half of a surrogate pair, which is no character.") from None


def _refuse_constant(constant: str) -> NoReturn:
    raise _malformed(f"{constant} is not JSON.")


def _malformed(message: str, **details: Any) -> ApiError:
    return ApiError("INVALID_REQUEST", message, {"field": "body", **details})
