"""A storm: random orders of many accounts, by a local client's ring, so that it blows on while a front stands still.

The numbers of a storm are drawn from its seed. Orders rest, take, are cancelled and changed near one price per symbol,
so that books stay small and move at every command. What is refused stays refused: nobody here minds.
"""

from __future__ import annotations

import random
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

import numpy as np
from tests.e2e.users import ACCOUNTS_MAX, connect_database, deposit_all
from tests.engines import Engine

from tradeengine.core.records import (
    CommandKind,
    EventFlag,
    EventKind,
    OrderType,
    SelfTradePrevention,
    Side,
    TimeInForce,
    command_dtype,
)
from tradeengine.core.symbols import SymbolSpec
from tradeengine.ipc.client import LocalClient, open_client
from tradeengine.ipc.ring_reader import Lapped
from tradeengine.storage.directory import resolve_account

Records = np.ndarray[Any, np.dtype[np.void]]

OWNER: Final = "storm-0"
"""One of those whose orders they are."""
FUNDS: Final = {"USDT": "100000000", "SOL": "1000000", "LTC": "1000000", "XRP": "10000000"}
PRICES: Final = {"SOL/USDT": "150", "LTC/USDT": "80", "XRP/USDT": "0.5"}
BATCH_COUNT: Final = 8
PAUSE_S: Final = 0.004
"""Between batches: books that are shown have states in between, and clients have something to follow."""
OUTSTANDING_MAX: Final = 256
LIVE_MAX: Final = 100
WAIT_S: Final = 30.0
SPREAD_TICKS: Final = 30
IDLE_S: Final = 1.0
"""Commands without an answer for so long have lost it in a lap."""


class _Live(NamedTuple):
    order_id: int
    account_id: int


class Storm:
    """Places orders of ``account_ids``; commands go out while ``run`` runs.

    ``left``: how many more commands a symbol gets, by name; one that is not there gets any number.
    """

    def __init__(self, engine: Engine, client: LocalClient, account_ids: Sequence[int], seed: int) -> None:
        self.client = client
        self.count = 0
        """Commands sent."""
        self._engine = engine
        self._account_ids = account_ids
        self._random = random.Random(seed)
        self.left: dict[str, int] = {}
        self._live: defaultdict[int, deque[_Live]] = defaultdict(deque)
        """Orders that may still be open, by symbol id."""
        self._outstanding = 0

    def spec(self, symbol: str) -> SymbolSpec:
        """Find a symbol."""
        return self.client.directory().symbol_by_name[symbol]

    def run(self, count: int, *symbols: str) -> None:
        """Send so many commands for these symbols, in turn at random, and wait until all are answered."""
        end = self.count + count
        self.run_until(lambda: self.count >= end, *symbols)

    def run_until(self, enough: Callable[[], bool], *symbols: str) -> None:
        """Send commands until it is enough, and wait until all are answered."""
        specs = [self.spec(symbol) for symbol in symbols]
        deadline_s = time.monotonic() + WAIT_S
        while not enough():
            assert time.monotonic() < deadline_s, f"no end in sight; the engine said:\n{''.join(self._engine.errors)}"
            if self._outstanding < OUTSTANDING_MAX and self.client.free() >= BATCH_COUNT:
                self._send(specs)
            else:
                self._read()
        self._finish()

    def _send(self, specs: Sequence[SymbolSpec]) -> None:
        commands = np.concatenate([self._command(self._choose(specs)) for _ in range(BATCH_COUNT)])
        self.client.submit(commands)
        self.count += len(commands)
        self._outstanding += len(commands)
        time.sleep(PAUSE_S)

    def _finish(self) -> None:
        heard_s = time.monotonic()
        while self._outstanding > 0 and time.monotonic() - heard_s < IDLE_S:
            if self._read():
                heard_s = time.monotonic()
        self._outstanding = 0

    def _read(self) -> int:
        """Read answers; returns how many."""
        self.client.wait(0.02)
        try:
            found = self.client.poll()
        except Lapped:
            # What was lost is not missed; some more commands are on their way for a while.
            self._outstanding //= 2
            return 1
        ended = 0
        for events in found.values():
            ended += int(((events["flags"] & EventFlag.LAST_OF_COMMAND) != 0).sum())
            for event in events[events["kind"] == EventKind.ACCEPTED]:
                self._live[int(event["symbol_id"])].append(_Live(int(event["order_id"]), int(event["account_id"])))
        self._outstanding -= ended
        return ended

    def _choose(self, specs: Sequence[SymbolSpec]) -> SymbolSpec:
        spec = self._random.choice([spec for spec in specs if self.left.get(spec.name, 1) > 0])
        if spec.name in self.left:
            self.left[spec.name] -= 1
        return spec

    def _command(self, spec: SymbolSpec) -> Records:
        command = np.zeros(1, command_dtype)
        live = self._live[spec.symbol_id]
        command["symbol_id"] = spec.symbol_id
        if live and (len(live) > LIVE_MAX or self._random.random() < 0.2):
            self._change(command, live)
        else:
            self._place(command, spec)
        return command

    def _change(self, command: Records, live: deque[_Live]) -> None:
        """Cancel or change an order that may have ended meanwhile."""
        live.rotate(-self._random.randrange(len(live)) if len(live) <= LIVE_MAX else 0)
        order = live.popleft()
        command["order_id"], command["account_id"] = order
        command["kind"] = CommandKind.CANCEL
        if self._random.random() < 0.3:
            command["kind"] = CommandKind.AMEND
            command["quantity_lots"] = 10_000 * self._random.randint(1, 20)
            live.append(order)

    def _place(self, command: Records, spec: SymbolSpec) -> None:
        middle = spec.parse_price(PRICES[spec.name])
        command["kind"] = CommandKind.PLACE
        command["account_id"] = self._random.choice(self._account_ids)
        command["side"] = self._random.choice((Side.BUY, Side.SELL))
        command["order_type"] = OrderType.LIMIT
        command["time_in_force"] = TimeInForce.IOC if self._random.random() < 0.2 else TimeInForce.GTC
        command["self_trade_prevention"] = SelfTradePrevention.CANCEL_MAKER
        command["price_ticks"] = middle + self._random.randint(-SPREAD_TICKS, SPREAD_TICKS)
        command["quantity_lots"] = 10_000 * self._random.randint(1, 20)


@contextmanager
def blowing(storm: Storm, *symbols: str) -> Iterator[None]:
    """Let a storm blow for these symbols while the block runs."""
    over = threading.Event()
    wind = threading.Thread(target=storm.run_until, args=(over.is_set, *symbols))
    wind.start()
    try:
        yield
    finally:
        over.set()
        wind.join()


@contextmanager
def open_storm(engine: Engine, seed: int, *, accounts: int = 3) -> Iterator[Storm]:
    """Fund some accounts and give a storm of their orders."""
    names = [f"storm-{number}" for number in range(accounts)]
    for name in names:
        deposit_all(engine, name, FUNDS)
    with connect_database(engine) as connection:
        account_ids = [resolve_account(connection, name, accounts_max=ACCOUNTS_MAX) for name in names]
    with open_client(engine.data_dir) as wiring:
        yield Storm(engine, LocalClient(wiring), account_ids, seed)
