"""The description of the streams: whole, proper, and about the messages that are sent and that the client reads."""

from __future__ import annotations

import typing
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from jsonschema import Draft7Validator

from tradeengine.client import messages as read
from tradeengine.client.codec import Codec
from tradeengine.core import messages as sent

PATH = Path(__file__).parents[2] / "docs" / "asyncapi.yaml"
READ = {str(kind.__struct_config__.tag): kind for kind in typing.get_args(read.Known)}
SENT = {
    str(kind.__struct_config__.tag): kind
    for kind in vars(sent).values()
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct) and kind is not msgspec.Struct
}


@cache
def document() -> dict[str, Any]:
    """Read the document."""
    found: dict[str, Any] = yaml.safe_load(PATH.read_text(encoding="utf-8"))
    return found


def resolve(reference: str) -> Any:
    """Find what a reference names."""
    found: Any = document()
    for name in reference.removeprefix("#/").split("/"):
        found = found[name]
    return found


def walk(node: Any) -> Iterator[dict[str, Any]]:
    """Walk through every object of the document."""
    if isinstance(node, dict):
        yield node
    for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from walk(child)


def payloads() -> dict[str, dict[str, Any]]:
    """Give each message's schema, by name."""
    return {name: message["payload"] for name, message in document()["components"]["messages"].items()}


def answers() -> dict[str, dict[str, Any]]:
    """Give the schemas of what the server sends, by the message's ``type``."""
    return {
        name: payload
        for name, payload in payloads().items()
        if "type" in payload["required"] and "op" not in payload["required"]
    }


def test_references_lead_somewhere() -> None:
    """Each reference names something that is there, and each message and schema is used."""
    references = {node["$ref"] for node in walk(document()) if "$ref" in node}
    for reference in references:
        assert resolve(reference) is not None
    named = {
        f"#/components/{kind}/{name}" for kind in ("messages", "schemas") for name in document()["components"][kind]
    }
    assert named <= references


@pytest.mark.parametrize("name", sorted(payloads()))
def test_schemas_are_proper_and_strict(name: str) -> None:
    """Each message has a proper schema that says what is required, names nothing twice, and fits its own examples."""
    payload = payloads()[name]
    Draft7Validator.check_schema(payload)
    assert payload["additionalProperties"] is False
    assert set(payload["required"]) <= set(payload["properties"])
    assert payload["properties"]["type" if name in answers() else "op"] == {"const": name}
    validator = Draft7Validator({**payload, "components": document()["components"]})
    for example in document()["components"]["messages"][name].get("examples", []):
        validator.validate(example["payload"])


@pytest.mark.parametrize("name", sorted(SENT))
def test_messages_of_the_publisher_are_described_in_full(name: str) -> None:
    """What the publisher says has exactly the fields that are described, and all of them are required."""
    fields = {field.encode_name for field in msgspec.structs.fields(SENT[name])} | {"type"}
    assert set(payloads()[name]["properties"]) == set(payloads()[name]["required"]) == fields


def test_client_knows_every_message() -> None:
    """The client knows each message that the server sends, and expects no field that is not described."""
    assert set(READ) == set(answers())
    for name, kind in READ.items():
        fields = {field.encode_name for field in msgspec.structs.fields(kind)}
        assert fields <= set(payloads()[name]["properties"]), name


def test_client_reads_every_example() -> None:
    """Each example of what the server sends is read as the message that it is an example of."""
    for name in answers():
        for example in document()["components"]["messages"][name].get("examples", []):
            for is_binary in (False, True):
                codec = Codec(is_binary=is_binary)
                (message,) = codec.read(codec.encode(example["payload"]))
                assert type(message) is READ[name]
