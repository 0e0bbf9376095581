"""The topology: who is joined to whom, for any number of shards, fronts and clients."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing

import pytest

from tradeengine.actors.memory import Memory
from tradeengine.actors.topology import Topology, plan
from tradeengine.ipc.handoff import close_descriptors
from tradeengine.settings import Settings
from tradeengine.settings_files import load_settings


@pytest.fixture(scope="module")
def settings() -> Settings:
    """Two of everything, small."""
    return load_settings(
        overrides={
            "engine.shards": 2,
            "engine.fronts": 2,
            "limits.clients_max": 2,
            "limits.accounts_max": 64,
            "limits.symbols_max": 4,
            "rings.events_slots": 1024,
            "rings.commands_slots": 1024,
            "rings.reserve_slots": 16,
            "settlement.backlog_events_max": 512,
        },
        environ={},
    )


@pytest.fixture(scope="module")
def topology(settings: Settings) -> Topology:
    """Join it up."""
    return plan(settings)


@pytest.fixture(scope="module")
def memory(settings: Settings, topology: Topology) -> Iterator[Memory]:
    """Make its memory, with one ring that opens late."""
    with closing(Memory(topology, settings, {"events.1": 4711})) as memory:
        yield memory


def test_ingress_numbers_follow_the_fixed_order(topology: Topology) -> None:
    """First fronts, settlement, the operator and clients, last the fronts' rings for administrators: their numbers."""
    names = ("front-0", "front-1", "settlement", "operator", "client-0", "client-1")
    assert topology.ingress_rings == tuple(f"ingress.{name}" for name in (*names, "admin-0", "admin-1"))


def test_only_who_must_not_miss_anything_holds_a_writer_back(topology: Topology) -> None:
    """Risk and settlement gate events, matchers their commands, risk every ingress ring; nobody else gates anything."""
    for ring in topology.rings:
        kind, _, rest = ring.name.partition(".")
        expected = {
            "ingress": {"risk"},
            "commands": {f"matcher-{rest}"},
            "feed": set(),
            "refusals": set(),
            "events": {"settlement"} if rest == "risk" else {"risk", "settlement"},
        }[kind]
        assert set(ring.gating) == expected
        assert ring.writer not in {*ring.gating, *ring.lappable}


def test_handoff_opens_for_writing_only_what_an_actor_writes(memory: Memory, topology: Topology) -> None:
    """Descriptors of what an actor only follows or reads cannot be mapped for writing, however far they travel."""
    for actor in (*topology.actors, topology.operator, *topology.clients):
        handoff = memory.handoff(actor)
        for name, terms in handoff.rings.items():
            flags = os.O_RDWR if terms.access != "follow" else os.O_RDONLY
            assert _access_mode(handoff.fds[f"ring:{name}"]) == flags, (actor.name, name)
        for name, table_terms in handoff.tables.items():
            flags = os.O_RDWR if table_terms.writable else os.O_RDONLY
            assert _access_mode(handoff.fds[f"table:{name}"]) == flags, (actor.name, name)
        close_descriptors(handoff)


def test_only_fronts_get_the_secret() -> None:
    """What signs tokens, and what API keys are encrypted under, goes to the fronts and to nobody else."""
    secret = "s" * 40
    overrides = {"auth.secret": secret, "keys.master": secret, "limits.accounts_max": 64}
    with_secret = load_settings(overrides=overrides, environ={})
    with closing(Memory(plan(with_secret), with_secret, {})) as memory:
        for actor in (*memory.topology.actors, *memory.topology.clients):
            handoff = memory.handoff(actor)
            assert (handoff.settings.auth.secret == secret) == (actor.role == "front")
            assert (handoff.settings.keys.master == secret) == (actor.role == "front")
            close_descriptors(handoff)


def test_only_who_asks_the_wallet_gets_its_secret() -> None:
    """The wallet's secret goes to the actor that delivers and to the one that compares, and to nobody else."""
    secret = "w" * 40
    overrides = {"wallet.secret": secret, "wallet.kind": "http", "limits.accounts_max": 64}
    with_wallet = load_settings(overrides=overrides, environ={})
    assert "wallet" not in plan(load_settings(environ={})).doorbells
    with closing(Memory(plan(with_wallet), with_wallet, {})) as memory:
        for actor in (*memory.topology.actors, *memory.topology.clients):
            handoff = memory.handoff(actor)
            assert (handoff.settings.wallet.secret == secret) == (actor.role in {"wallet", "keeper"})
            close_descriptors(handoff)


def test_rings_open_where_they_are_told(memory: Memory) -> None:
    """A ring opens at its first sequence, for its writer and for all its readers."""
    statistics = {ring.name: ring for ring in memory.ring_statistics()}
    assert statistics["events.1"].head == 4711
    assert {reader.lag for reader in statistics["events.1"].readers} == {0}
    assert statistics["events.0"].head == 0


def test_default_engine_fits_a_laptop() -> None:
    """Rings and tables of an engine with default settings stay below one GiB."""
    settings = load_settings(environ={})
    with closing(Memory(plan(settings), settings, {})) as memory:
        assert memory.bytes_total() < 1 << 30


def _access_mode(fd: int) -> int:
    """Give how a descriptor was opened: memory files that are not writable were opened anew, read-only."""
    with open(f"/proc/self/fdinfo/{fd}", encoding="ascii") as file:  # noqa: PTH123 - no path, a kernel's view
        fields = dict(line.split(":", 1) for line in file)
    return int(fields["flags"], 8) & os.O_ACCMODE
