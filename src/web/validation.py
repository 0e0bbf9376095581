"""Requests against their schemas: raw values in, a struct out, or the field that is wrong and what is allowed.

msgspec checks; this file turns its sentences into the API's, and reads enumerations in any letter case.
It refuses to know what a valid request means.
"""

from __future__ import annotations

import re
import types
import typing
from dataclasses import dataclass
from functools import cache
from typing import Any, Final, Literal, TypeVar

import msgspec
from werkzeug.datastructures import MultiDict

from tradeengine.web.errors import ApiError, invalid_field
from tradeengine.web.jsonbody import printable

T = TypeVar("T", bound=msgspec.Struct)

_AT: Final = re.compile(r"(.*) - at `\$\.?(.*?)(\[.*)?`", re.DOTALL)
_UNKNOWN: Final = re.compile(r"Object contains unknown field `(.*)`", re.DOTALL)
_MISSING: Final = re.compile(r"Object missing required field `(.*)`")
_GOT: Final = re.compile(r"Expected `(.*)`, got `(.*)`")
_NUMBERS: Final = frozenset({"int", "float"})


def read_body(raw: dict[str, Any], kind: type[T]) -> T:
    """Check a decoded JSON body. Raises ApiError naming the field."""
    return _convert(raw, kind, strict=True)


def read_query(arguments: MultiDict[str, str], kind: type[T]) -> T:
    """Check query parameters, which are all text. Raises ApiError naming the parameter.

    An empty value is a wrong one: a client that left it empty did not mean that everything is meant.
    """
    shape = _shape_of(kind)
    raw: dict[str, Any] = {}
    for name in arguments:
        values = arguments.getlist(name)
        if "" in values and name in shape.names:
            raise invalid_field(name, f"The parameter {name} is empty; leave it out, or give it a value.")
        if name in shape.lists:
            raw[name] = values
        elif len(values) > 1:
            raise invalid_field(printable(name), f"The parameter {printable(name)} is given twice.")
        else:
            raw[name] = values[0]
    return _convert(raw, kind, strict=False)


@dataclass(frozen=True)
class _Shape:
    """What messages need to know of a struct: names, enumerations and their values, lists, bounds, patterns."""

    names: tuple[str, ...]
    choices: dict[str, tuple[str, ...]]
    lists: frozenset[str]
    bounds: dict[str, dict[str, int]]
    allowed: dict[str, str]
    """Of texts with a pattern: what it says, in words (``Meta.extra``)."""


def _convert(raw: dict[str, Any], kind: type[T], *, strict: bool) -> T:
    for name in _shape_of(kind).choices:
        value = raw.get(name)
        if isinstance(value, str):
            raw[name] = value.lower()
        elif isinstance(value, list):
            raw[name] = [part.lower() if isinstance(part, str) else part for part in value]
    try:
        return msgspec.convert(raw, kind, strict=strict)
    except msgspec.ValidationError as error:
        raise _explain(str(error), kind) from None


def _explain(message: str, kind: type[msgspec.Struct]) -> ApiError:
    """Turn ``Expected `str`, got `float` - at `$.price``` into a refusal that names the field."""
    shape = _shape_of(kind)
    unknown = _UNKNOWN.fullmatch(message)
    if unknown is not None:
        name = printable(unknown.group(1))
        known = ", ".join(shape.names) or "none"
        return invalid_field(name, f"{name} is unknown here; known are: {known}.")
    missing = _MISSING.fullmatch(message)
    if missing is not None:
        return invalid_field(missing.group(1), f"{missing.group(1)} is missing.")
    at = _AT.fullmatch(message)
    what, name = (at.group(1), at.group(2)) if at else (message, "body")
    if name in shape.choices:
        allowed = list(shape.choices[name])
        return invalid_field(name, f"{name} must be one of: {', '.join(allowed)}.", allowed=allowed)
    if name in shape.bounds:
        bounds = shape.bounds[name]
        sentence = f"{name} must be a whole number from {bounds['minimum']} to {bounds['maximum']}."
        return invalid_field(name, sentence, "NUMBER_OUT_OF_RANGE", **bounds)
    if "matching regex" in what and name in shape.allowed:
        return invalid_field(name, f"{name} must be {shape.allowed[name]}.")
    return invalid_field(name, f"{name} {_sentence(what)}.")


def _sentence(what: str) -> str:
    got = _GOT.fullmatch(what)
    if got is not None:
        wanted, given = got.group(1).removesuffix(" | null"), got.group(2)
        if wanted == "str" and given in _NUMBERS:
            return 'must be a string such as "0.25": JSON numbers are refused, because they lose digits'
        return f"must be of type {wanted}, not {given}"
    if "matching regex" in what:
        return "must be 1 to 36 of A-Z a-z 0-9 _ . : -"
    return f"is wrong: {what}"


@cache
def _shape_of(kind: type[msgspec.Struct]) -> _Shape:
    choices: dict[str, tuple[str, ...]] = {}
    lists: set[str] = set()
    bounds: dict[str, dict[str, int]] = {}
    allowed: dict[str, str] = {}
    for field in msgspec.structs.fields(kind):
        parts = list(_flatten(field.type))
        for part in parts:
            if typing.get_origin(part) is Literal:
                choices[field.encode_name] = typing.get_args(part)
            if typing.get_origin(part) is list:
                lists.add(field.encode_name)
            if isinstance(part, msgspec.Meta) and isinstance(part.ge, int) and isinstance(part.le, int):
                bounds[field.encode_name] = {"minimum": part.ge, "maximum": part.le}
            if isinstance(part, msgspec.Meta) and part.extra:
                allowed[field.encode_name] = part.extra["allowed"]
    return _Shape(kind.__struct_fields__, choices, frozenset(lists), bounds, allowed)


def _flatten(kind: Any) -> typing.Iterator[Any]:
    """Walk through annotations, unions and lists: every type and every Meta on the way."""
    yield kind
    origin = typing.get_origin(kind)
    if origin is typing.Annotated:
        yield from kind.__metadata__
        yield from _flatten(kind.__origin__)
    elif origin in {typing.Union, types.UnionType, list}:
        for argument in typing.get_args(kind):
            yield from _flatten(argument)
