"""The roll of stream clients: who stands in the table, for how long, and in what order."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

import pytest

from tradeengine.core.tables import connection_dtype
from tradeengine.ipc.seqlock import SeqlockTable
from tradeengine.web.auth import Identity
from tradeengine.web.streams.roll import ROWS_PER_TURN, Roll, read_roll
from tradeengine.web.streams.session import Caller


@dataclass(eq=False)
class Client:
    """What the roll looks at of a session."""

    name: str = ""
    since_ns: int = 1_000_000
    waiting_bytes: int = 0
    sent_count: int = 0
    binary: bool = False
    address: str = "192.0.2.1"
    channels: dict[Any, str] = field(default_factory=dict)
    orders: Any = None
    wants_balances: bool = False

    @property
    def caller(self) -> Caller | None:
        """Who it is, if it has said so."""
        return Caller(Identity(self.name, "user", two_factor=False), 16, 0.0) if self.name else None


@pytest.fixture
def table() -> SeqlockTable:
    """Make a table for as many clients as two turns and a half take."""
    return SeqlockTable.create("connections.0", connection_dtype, ROWS_PER_TURN * 5 // 2)


def names(table: SeqlockTable, pid: int | None = None) -> list[str]:
    """Read who stands in the table."""
    return [bytes(row["user"]).decode() for _, row in read_roll([table], [os.getpid() if pid is None else pid])]


def test_clients_are_listed_newest_first(table: SeqlockTable) -> None:
    """Clients stand in the order of their coming, with what they have; who has gone is gone with the next look."""
    roll = Roll(table)
    alice = Client("alice", channels={1: "book:BTC/USDT", 2: "trades:BTC/USDT"}, orders=object(), waiting_bytes=5)
    bob = Client("bob", since_ns=2_000_000, sent_count=9, binary=True)
    roll.show({alice, bob})  # type: ignore[arg-type]
    assert names(table) == ["bob", "alice"]
    (_, first), (_, second) = read_roll([table], [os.getpid()])
    assert (int(first["message_count"]), int(first["binary"]), int(first["channel_count"])) == (9, 1, 0)
    assert bytes(second["channels"]).decode().split() == ["orders", "book:BTC/USDT", "trades:BTC/USDT"]
    assert (int(second["queued_bytes"]), int(second["channel_count"])) == (5, 3)
    roll.show({bob})  # type: ignore[arg-type]
    assert names(table) == ["bob"]


def test_many_clients_come_in_turns(table: SeqlockTable) -> None:
    """Of many clients each turn shows so many, new ones first, and after some turns all are up to date."""
    roll = Roll(table)
    clients = {Client(f"user-{number}") for number in range(ROWS_PER_TURN * 2)}
    roll.show(clients)  # type: ignore[arg-type]
    assert len(names(table)) == ROWS_PER_TURN
    roll.show(clients)  # type: ignore[arg-type]
    assert sorted(names(table)) == sorted(client.name for client in clients)
    for client in clients:
        client.sent_count = 3
    for _ in range(3):
        roll.show(clients)  # type: ignore[arg-type]
    assert {int(row["message_count"]) for _, row in read_roll([table], [os.getpid()])} == {3}


def test_more_clients_than_rows(table: SeqlockTable) -> None:
    """A client for whom there is no row waits for one, and nobody's is taken away."""
    roll = Roll(table)
    clients = [Client(f"user-{number}") for number in range(table.rows + 1)]
    for _ in range(4):
        roll.show(set(clients))  # type: ignore[arg-type]
    assert len(names(table)) == table.rows
    missing = next(client for client in clients if client.name not in names(table))
    for _ in range(2):
        roll.show({missing, *(client for client in clients[:9])})  # type: ignore[arg-type]
    assert missing.name in names(table)


def test_what_a_dead_front_left_is_not_listed(table: SeqlockTable) -> None:
    """Rows of a front's earlier process are left out at once, and cleared by the next one."""
    Roll(table).show({Client("alice")})  # type: ignore[arg-type]
    assert names(table, pid=1) == []
    Roll(table)
    assert names(table) == []


def test_names_of_channels_are_whole(table: SeqlockTable) -> None:
    """Of very many channels the first names are listed, none of them cut off, and their number."""
    client = Client("alice", channels={number: f"candles:15m:COIN{number}/USDT" for number in range(200)})
    Roll(table).show({client})  # type: ignore[arg-type]
    ((_, row),) = read_roll([table], [os.getpid()])
    shown = bytes(row["channels"]).decode().split(" ")
    assert shown == list(client.channels.values())[: len(shown)]
    assert int(row["channel_count"]) == 200
