"""How risk and settlement start, each joined to an engine's whole memory, with everybody else away."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import psycopg
import pytest
from tests.storage.events import funding_events
from tests.web.bench import SMALL

from tradeengine.actors import risk, settlement
from tradeengine.actors.memory import Memory
from tradeengine.actors.risk_rings import RiskRings
from tradeengine.actors.topology import plan
from tradeengine.core.records import EventKind, account_command_dtype, event_dtype
from tradeengine.core.symbols import SymbolSpec
from tradeengine.ipc.handoff import MESSAGE_BYTES_MAX, close_descriptors
from tradeengine.ipc.wiring import Wiring
from tradeengine.settings_files import load_settings
from tradeengine.storage.account_settings import change
from tradeengine.storage.directory import resolve_account
from tradeengine.storage.funding import FundingKind, request_funding
from tradeengine.storage.recovery import load_risk_recovery

WAIT_S = 30.0


class Actor:
    """An actor's wiring, and the supervisor's end of its line."""

    def __init__(self, name: str, dsn: str, data_dir: Path, **changes: Any) -> None:
        """Make an engine's memory, small, in which the other actors have not begun."""
        settings = load_settings(
            overrides={
                "database.dsn": dsn,
                "engine.data_dir": str(data_dir),
                "limits.orders_max": 256,
                **SMALL,
                **changes,
            },
            environ={},
        )
        self.memory = Memory(plan(settings), settings, {})
        self.line, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.line.settimeout(WAIT_S)
        self._handoff = self.memory.handoff(self.memory.topology.actor(name))
        self.wiring = Wiring(self._handoff, theirs)
        self._theirs = theirs

    def told(self) -> dict[str, Any]:
        """Hear the next word that the actor tells the supervisor."""
        return msgspec.json.decode(self.line.recv(MESSAGE_BYTES_MAX), type=dict[str, Any])

    def told_no_more(self) -> bool:
        """Whether everything that the actor told was heard."""
        self._theirs.shutdown(socket.SHUT_WR)
        return self.line.recv(MESSAGE_BYTES_MAX) == b""

    def close(self) -> None:
        """Give everything back."""
        self.line.close()
        self._theirs.close()
        close_descriptors(self._handoff)


@contextmanager
def beside(task: Callable[[], None]) -> Iterator[None]:
    """Do something in a thread beside the actor, which has ours."""
    thread = threading.Thread(target=task, daemon=True)
    thread.start()
    yield
    thread.join(WAIT_S)
    assert not thread.is_alive()


def test_risk_without_a_database_waits_and_ends_when_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Risk tells why it waits, once however often it tries; asked to end it ends, without ever having begun."""
    with closing(Actor("risk", "host=127.0.0.1 port=1", tmp_path)) as actor:
        load = load_risk_recovery
        tries = []

        def count(*arguments: Any, **options: Any) -> Any:
            tries.append(actor.wiring.stopping())
            if len(tries) == 3:
                actor.wiring.stop()
            return load(*arguments, **options)

        monkeypatch.setattr(risk, "load_risk_recovery", count)
        monkeypatch.setattr(risk, "_DATABASE_PAUSE_S", 0.001)
        with pytest.raises(SystemExit):
            risk.main(actor.wiring)
        word = actor.told()
        assert (word["state"], word["message"].partition(":")[0]) == ("blocked", "the database cannot be read")
        assert actor.told_no_more()
        assert actor.wiring.metrics.snapshot().state == "recovering: the database cannot be read"
        assert tries == [False] * 3


def test_risk_that_waits_for_matchers_ends_when_asked(
    tmp_path: Path, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Risk waits for a matcher that has not replayed its journal; asked to end meanwhile it does."""
    with closing(Actor("risk", dsn, tmp_path)) as actor:
        look = risk._matchers_ready
        looks: list[bool] = []

        def count(wiring: Wiring, rings: RiskRings) -> bool:
            assert len(looks) < 3, "it waits on"
            if len(looks) == 2:
                wiring.stop()
            looks.append(look(wiring, rings))
            return looks[-1]

        monkeypatch.setattr(risk, "_matchers_ready", count)
        risk.main(actor.wiring)
        assert looks == [False, False, True]


@pytest.mark.parametrize(("is_torn", "fed"), [(True, [1, 2, 3]), (False, [3])], ids=["torn", "whole"])
def test_settings_that_risk_may_not_have_are_fed(
    tmp_path: Path, connection: psycopg.Connection, dsn: str, is_torn: bool, fed: list[int]
) -> None:
    """Settlement feeds what is newer than risk's row says; all, when risk died while it wrote the row."""
    for name in ("alice", "bob", "carol"):
        change(connection, resolve_account(connection, name, accounts_max=64), suspended=True)
    with closing(Actor("settlement", dsn, tmp_path)) as actor, ExitStack() as torn:
        accounts = actor.memory.tables["accounts"]
        accounts.write(0, (2, 0, 0))
        if is_torn:
            torn.enter_context(accounts.writing(0))
        taken = actor.memory.rings["ingress.settlement"].reader("risk")

        def wait_and_stop() -> None:
            actor.memory.bells["risk"].wait(WAIT_S, lambda: taken.available() >= len(fed))
            actor.wiring.stop()

        with beside(wait_and_stop):
            settlement.main(actor.wiring)
        assert taken.poll_copy().view(account_command_dtype)["version"].tolist() == fed
        assert actor.told()["state"] == "ready"


def test_settlement_wakes_who_tells_the_wallet(
    tmp_path: Path, connection: psycopg.Connection, dsn: str, symbol: SymbolSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a wallet outside a deposit that is settled wakes the actor that tells it; what moves no money does not."""
    account_id = resolve_account(connection, "alice", accounts_max=64)
    asked = request_funding(
        connection, FundingKind.DEPOSIT, reference="r", account_id=account_id, asset_id=0, amount_units=100
    )
    answers = np.concatenate(
        [np.zeros(1, event_dtype), *funding_events(1, (asked.number, account_id, 0, 100, True)).values()]
    )
    answers["kind"][0] = EventKind.ACCOUNT_SET
    with closing(
        Actor("settlement", dsn, tmp_path, **{"wallet.kind": "http", "settlement.batch_events_max": 1})
    ) as actor:
        actor.memory.rings["events.risk"].writer().publish(answers)
        ring = actor.memory.rings["events.risk"]
        settled = []

        def wake(name: str) -> None:
            settled.append((name, ring.statistics().readers[0].cursor))
            actor.wiring.stop()

        monkeypatch.setattr(actor.wiring, "wake", wake)
        settlement.main(actor.wiring)
        assert settled == [("wallet", 2)]
    assert connection.execute("SELECT status FROM funding").fetchall() == [("settled",)]


def test_settlement_without_a_database_says_so_and_stays(tmp_path: Path) -> None:
    """Settlement that cannot reach its database tells the supervisor why, and ends when it is asked to."""
    with closing(Actor("settlement", "host=127.0.0.1 port=1", tmp_path)) as actor:
        words: list[dict[str, Any]] = []

        def hear_and_stop() -> None:
            words.append(actor.told())
            actor.wiring.stop()

        with beside(hear_and_stop):
            settlement.main(actor.wiring)
        (word,) = words
        assert (word["state"], word["message"].partition(":")[0]) == ("blocked", "database_unavailable")
        assert actor.told_no_more()
