"""What is on the machine: files, the control socket, processes and what they say, seen by whoever is there, too."""

from __future__ import annotations

import os
import socket
import stat
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
from tests.e2e.test_api_keys import make_key
from tests.e2e.users import Json, User
from tests.engines import Engine
from tests.web.token_maker import encode

from tradeengine.actors.data_dir import MASTER_NAME, read_secret
from tradeengine.core.records import command_dtype
from tradeengine.ipc.client import CONTROL_NAME, LocalClient, ask, open_client

ORDER: Final[Json] = {"symbol": "BTC/USDT", "side": "buy", "type": "limit", "quantity": "0.1", "price": "100"}


def test_nobody_else_may_read_or_write_what_the_engine_keeps(target: Engine) -> None:
    """Of the data directory others can see names at most: each file and folder in it is its owner's alone."""
    loose = []
    for path in target.data_dir.iterdir():
        mode = path.lstat().st_mode
        if mode & 0o077:
            loose.append((path.name, oct(stat.S_IMODE(mode))))
    assert loose == []
    assert not target.data_dir.stat().st_mode & 0o022


def test_control_socket_outlives_garbage_and_floods(target: Engine, victim: User) -> None:
    """Nonsense, oversized packets, hundreds of silent connections and connections that break cost nobody an order."""
    packets = [
        b"",
        b"\0" * 100,
        b"{",
        b"[" * 5000,
        b"{}",
        b'{"op":7}',
        b'{"op":"status","arguments":[]}',
        os.urandom(4000),
    ]
    packets += [b'{"op":"' + b"x" * 30_000 + b'"}', b'{"op":"attach"}', b'{"op":"observe"}', b'{"op":"__class__"}']
    with ExitStack() as lines:
        for number in range(300):
            line = lines.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
            line.settimeout(5)
            with suppress(OSError):
                line.connect(control_address(target))
                if number % 3:
                    line.send(packets[number % len(packets)])
            if number % 5 == 0:
                line.close()
        assert victim.place(**ORDER)["order"]["status"] == "open"
    assert victim.call("DELETE", "/orders")["total"] == 1
    assert {actor["state"] for actor in ask(target.data_dir, "status")["actors"]} == {"ready"}


def control_address(target: Engine) -> str:
    """Name the control socket so that the kernel takes it, however long the directory's name is."""
    return f"/proc/self/fd/{os.open(target.data_dir, os.O_PATH)}/{CONTROL_NAME}"


@pytest.mark.parametrize("seed", range(4))
def test_garbage_in_a_clients_ring_moves_nothing(target: Engine, victim: User, seed: int) -> None:
    """Commands of random bytes from a local program are refused one by one; nobody's orders or money change by them."""
    order = victim.place(**ORDER)["order"]
    before = victim.balances()
    numbers = np.random.default_rng(seed)
    with open_client(target.data_dir) as wiring:
        client = LocalClient(wiring)
        for _ in range(20):
            commands = np.frombuffer(numbers.bytes(command_dtype.itemsize * 50), dtype=command_dtype).copy()
            client.submit(commands)
            client.wait(0.2)
            client.poll()
    assert victim.order(order["id"])["status"] == "open"
    assert victim.balances() == before
    assert victim.call("DELETE", "/orders")["total"] == 1


@pytest.fixture
def secrets(target: Engine, victim: User) -> dict[str, str]:
    """Give what nobody may find anywhere, after it was used in every way, right and wrong."""
    token = victim.http.headers["Authorization"].removeprefix("Bearer ")
    _, key_secret = make_key(victim)
    for path in ("/balances", f"/orders?access_token={token}", f"/{token}"):
        victim.http.get(path)
    with target.client() as http:
        http.get("/balances", headers={"Authorization": f"Bearer {token[:-1]}"})
        http.get("/balances", headers={"Authorization": f"Basic {token}"})
        http.post("/orders", headers={"Authorization": f"Bearer {token}"}, json={"access_token": token})
    own = read_secret(target.data_dir)
    return {
        "secret": own,
        "secret in base64": encode(own.encode()),
        "signature of a token": token.rpartition(".")[2],
        "secret of a key": key_secret,
        "master of keys": read_secret(target.data_dir, MASTER_NAME),
    }


def test_secrets_are_in_nothing_that_is_said(target: Engine, secrets: dict[str, str]) -> None:
    """No secret is in logs, metrics, health, the audit log, process titles, or what the control socket answers."""
    with target.client("root", "super_admin") as http:
        said: dict[str, Any] = {
            "log": "".join(target.errors),
            "metrics": http.get(f"{target.url}/metrics").text,
            "health": http.get("/admin/health/detailed").text,
            "audit": http.get("/admin/audit").text,
            "status": repr(ask(target.data_dir, "status")),
        }
    for name, pid in target.actors().items():
        said[f"title of {name}"] = Path(f"/proc/{pid}/cmdline").read_bytes().decode()
    found = [(what, where) for where, text in said.items() for what, secret in secrets.items() if secret in text]
    assert found == []
