"""``docs/api-keys.md`` is right: its vectors for both sides, and its lines for a shell against a running engine."""

from __future__ import annotations

import json
import os
import re
import subprocess
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.users import make_user
from tests.engines import Engine

from tradeengine.client import ApiKey, Ed25519Key
from tradeengine.client.credentials import signed_text
from tradeengine.web.signed_requests import Ed25519Verifier, HmacVerifier, read_public_key

DOCUMENT = Path(__file__).parents[2] / "docs" / "api-keys.md"
TEXT = DOCUMENT.read_text(encoding="utf-8")
SECRET = re.search(r"The secret is `(.+?)`", TEXT)
PUBLIC_KEY = re.search(r"public half\s+`(.+?)`", TEXT)
VECTORS = re.findall(
    r"```\n([0-9]+\n[0-9]+\n[A-Z]+\n/\S+\n[0-9a-f]{64})\n```\n\n(?:of the body `(.+?)`:\n\n)?"
    r"- HMAC-SHA256: `(.+?)`\n- Ed25519: `(.+?)`",
    TEXT,
)


@pytest.mark.parametrize(("text", "body", "hmac", "ed25519"), VECTORS)
def test_vectors_are_right_on_both_sides(text: str, body: str, hmac: str, ed25519: str) -> None:
    """The client makes the signatures that the document shows, and the engine takes them for that text and no other."""
    assert SECRET is not None
    assert PUBLIC_KEY is not None
    timestamp, window, method, target, _ = text.split("\n")
    assert signed_text(int(timestamp), int(window), method, target, body.encode()).decode() == text
    for key, signature in (
        (ApiKey("7", SECRET[1], window_ms=int(window), clock_ms=lambda: int(timestamp)), hmac),
        (Ed25519Key("7", bytes(range(32)), window_ms=int(window), clock_ms=lambda: int(timestamp)), ed25519),
    ):
        if method == "AUTH":
            assert key.sign_in() == {
                "api_key": "7",
                "timestamp": int(timestamp),
                "window": int(window),
                "signature": signature,
            }
        else:
            headers = key.headers(method, target, body.encode())
            assert headers["X-API-Signature"] == signature
            assert (headers["X-API-Timestamp"], headers["X-API-Window"]) == (timestamp, window)
    for verifier, signature in (
        (HmacVerifier(SECRET[1]), hmac),
        (Ed25519Verifier(read_public_key(PUBLIC_KEY[1])), ed25519),
    ):
        assert verifier.verifies(text.encode(), signature)
        assert not verifier.verifies(text.encode() + b"\n", signature)


def test_there_are_vectors() -> None:
    """The document has vectors of a call with a body, of one with a query, and of a stream."""
    assert [vector[0].split("\n")[2] for vector in VECTORS] == ["POST", "GET", "AUTH"]


def test_time_stamps_of_a_key_only_grow() -> None:
    """Many signatures in one millisecond, or with a clock that goes back, have time stamps that all differ."""
    clock = iter([5, 5, 5, 3, 9, 9])
    key = ApiKey("7", "secret", clock_ms=lambda: next(clock))
    stamps = [int(key.headers("GET", "/")["X-API-Timestamp"]) for _ in range(6)]
    assert stamps == [5, 6, 7, 8, 9, 10]
    assert all(earlier < later for earlier, later in pairwise(stamps))


def test_shell_of_the_document_trades(engine: Engine, tmp_path: Path) -> None:
    """The lines for a shell make a key, and with it place, list and cancel an order; so they do with Ed25519."""
    user = make_user(engine, "sheldon", {"USDT": "1000000"})
    token = user.http.headers["Authorization"].removeprefix("Bearer ")
    make, call, pair = re.findall(r"```sh\n(.*?)```", TEXT.replace("http://127.0.0.1:8000", engine.url), re.DOTALL)
    made = json.loads(run(make, tmp_path, TOKEN=token))["data"]
    answers = run(call, tmp_path, KEY_ID=made["id"], SECRET=made["secret"]).splitlines()
    placed, listed, cancelled = (json.loads(line)["data"] for line in answers)
    assert [order["id"] for order in listed] == [placed["order"]["id"]]
    assert cancelled["cancelled"] == 1
    text = "1795000100000\n5000\nGET\n/"
    printed = run(f"{pair}\nsigned '{text}'", tmp_path)
    pem, _, signature = printed.rpartition("-----END PUBLIC KEY-----\n")
    assert Ed25519Verifier(read_public_key(pem + "-----END PUBLIC KEY-----")).verifies(text.encode(), signature)
    user.http.close()


def run(script: str, folder: Path, **environment: Any) -> str:
    """Run lines of the document in a folder; returns what they print."""
    result = subprocess.run(
        ["sh", "-ec", script],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout
