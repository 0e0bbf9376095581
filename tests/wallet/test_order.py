"""Transfers go in the order in which they happened where money is short: none waits in a circle, none is refused."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest
import trio
from tests.wallet.courier_bench import CourierBench, quick_settings
from tests.wallet.faulty import Fault, FaultyWallet
from tests.wallet.service import Service

from tradeengine.actors.wallet_desk import TransferJob
from tradeengine.actors.wallet_order import Key, Order
from tradeengine.core.money import format_units
from tradeengine.settings import Wallet as WalletSettings
from tradeengine.storage.dead_letters import retry_letter
from tradeengine.storage.funding import FundingKind
from tradeengine.storage.outbox import OutboxRow, expected_reserves, read_reserves
from tradeengine.wallet.port import Transfer

BASE, QUOTE = 0, 1
MODES = ("transfer", "legs")


@pytest.fixture
def settings() -> WalletSettings:
    """Fail soon, and blame nobody: what these tests make fail is chance."""
    return quick_settings(tries_max=1000)


@pytest.fixture
def bench(
    make_database: Callable[[str], str], service: Service, proxy: FaultyWallet, settings: WalletSettings
) -> Iterator[CourierBench]:
    """Put a courier between a new database and the proxy."""
    bench = CourierBench(make_database("tradeengine"), service, proxy.url, settings)
    with closing(bench.connection):
        yield bench


class World:
    """Accounts with a wallet that makes exactly what it is told, and the order that says what it may be told."""

    def __init__(self, seed: int, accounts: int) -> None:
        self.random = random.Random(seed)
        self.accounts = range(16, 16 + accounts)
        self.ledger: Counter[Key] = Counter({(id_, asset): 10 for id_ in self.accounts for asset in (BASE, QUOTE)})
        self.wallet = Counter(self.ledger)
        self.written = Counter(self.ledger)
        self.order = Order()
        self.sent: list[OutboxRow] = []
        self.done: list[OutboxRow] = []
        self.asleep: list[OutboxRow] = []
        self.reserved: list[Key] = []
        self.refusals = 0
        self.delivered = 0
        self._ids = itertools.count(1)

    def trade(self) -> OutboxRow:
        """Let two accounts trade with all that they have, or nearly."""
        while True:
            buyer, seller = self.random.sample(self.accounts, 2)
            quote, base = self.ledger[buyer, QUOTE], self.ledger[seller, BASE]
            if quote and base:
                break
        if self.random.random() < 0.3:
            quote, base = self.random.randint(1, quote), self.random.randint(1, base)
        id_ = next(self._ids)
        row = OutboxRow(id_, base, quote, 0, 0, buyer, seller, BASE, QUOTE, id_ // 2, 0, "", 0.0)
        apply(self.ledger, row)
        return row

    def answer(self) -> None:
        """Let the wallet make any of those that were sent, whichever comes first."""
        row = self.sent.pop(self.random.randrange(len(self.sent)))
        if any(move.amount_units < 0 for move in row.moves() if self.wallet[key_of(move)] + move.amount_units < 0):
            self.refusals += 1
        apply(self.wallet, row)
        if self.random.random() < 0.2:
            self.asleep.append(row)
            self.order.put_off(row.id)
        else:
            self.confirm(row)

    def confirm(self, row: OutboxRow) -> None:
        """Hear that a transfer is made."""
        assert self.order.delivered(row.id) == []
        self.done.append(row)
        self.delivered += 1

    def deposit(self) -> None:
        """Let the wallet reserve one more of something; it can be traded with when that is written down."""
        key = self.random.choice(list(self.ledger))
        self.wallet[key] += 1
        self.reserved.append(key)
        self.order.read_again(key)

    def do_round(self, new: list[OutboxRow]) -> None:
        """Write down what is done, say what is asked, read what is new; some of it happens meanwhile."""
        done, self.done = self.done, []
        reserved, self.reserved = self.reserved, []
        asked = self.order.ask(100)
        for row in done:
            apply(self.written, row)
        self.written.update(reserved)
        reserves = {key: self.written[key] for key in asked}
        while self.sent and self.random.random() < 0.5:
            self.answer()
        if self.random.random() < 0.1:
            self.deposit()
        self.ledger.update(reserved)
        self.order.written([row.id for row in done])
        self.order.learn(reserves)
        for row in new:
            self.order.add(TransferJob(row, Transfer(str(row.id), ())))

    def send(self) -> None:
        """Send all that may go."""
        while (job := self.order.next_ready()) is not None:
            self.sent.append(job.row)


def key_of(move: object) -> Key:
    """Give the account's asset of a move."""
    return move.account_id, move.asset_id  # type: ignore[attr-defined]


def apply(balances: Counter[Key], row: OutboxRow) -> None:
    """Make a transfer."""
    for move in row.moves():
        balances[key_of(move)] += move.amount_units


@pytest.mark.parametrize("seed", range(60))
def test_every_transfer_finds_its_money(seed: int) -> None:
    """Whatever is answered, lost, repeated and written down when: nothing is sent before its money is at the wallet."""
    world = World(seed, accounts=2 + seed % 6)
    trades = 400
    left = trades
    while world.delivered < trades:
        count = min(left, world.random.randint(0, 30))
        left -= count
        world.do_round([world.trade() for _ in range(count)])
        world.send()
        if world.asleep and world.random.random() < 0.5:
            # It is sent again, and was made already.
            row = world.asleep.pop()
            world.order.wake(TransferJob(row, Transfer(str(row.id), ())))
            while (job := world.order.next_ready()) is not None:
                if job.row is row:
                    world.confirm(row)
                else:
                    world.sent.append(job.row)
        for _ in range(world.random.randint(0, 10)):
            if world.sent:
                world.answer()
        is_idle = not (world.sent or world.asleep or world.done or world.order.wants_answers() or left)
        assert not is_idle or world.delivered == trades, f"{len(world.order)} transfers wait for each other"
        assert world.order.stuck() is None
    assert world.refusals == 0
    world.ledger.update(world.reserved)
    assert world.wallet == world.ledger
    assert len(world.order) == world.order.busy() == 0


def test_enough_for_all_goes_side_by_side() -> None:
    """Where an account has enough for everything, hundreds of its transfers may be on their way at once."""
    order = Order()
    for id_ in range(1, 301):
        row = OutboxRow(id_, 1, 100, 1, 1, 16, 17, BASE, QUOTE, id_, 0, "", 0.0)
        order.add(TransferJob(row, Transfer(str(id_), ())))
    assert order.next_ready() is None
    assert set(order.ask(10)) <= {(16, QUOTE), (17, BASE)}
    order.learn({(16, QUOTE): 300 * 101})
    order.ask(10)
    order.learn({(17, BASE): 300})
    ready = list(iter(order.next_ready, None))
    assert [job.row.id for job in ready] == list(range(1, 301))


async def test_circle_cannot_close(bench: CourierBench, proxy: FaultyWallet) -> None:
    """A pays B all it has, gets it back by way of C, and pays D: that waits for the first, whatever happens to it."""
    async with bench.running():
        await bench.fund("a", Q="10")
        for user in ("b", "c", "d"):
            await bench.fund(user, B="3")
        await bench.fund("a", B="3")
    first = bench.trade("a", "b", quote="10", fee="0")
    bench.trade("b", "c", quote="10", fee="0")
    bench.trade("c", "a", quote="10", fee="0")
    last = bench.trade("a", "d", quote="10", fee="0")
    seen: list[str] = []

    async def first_fails_twice(path: str, id_: str) -> None:
        if path.endswith("/transfers"):
            seen.append(id_)
            if id_ == str(first) and seen.count(id_) <= 2:
                proxy.plan("/transfers", Fault.ERROR)

    proxy.before = first_fails_twice
    async with bench.running():
        await bench.drained()
    assert bench.transfers("dead") == []
    assert bench.counter("refused") == 0
    assert seen.index(str(last)) > max(place for place, id_ in enumerate(seen) if id_ == str(first))
    assert bench.reserved()[bench.name("d"), bench.assets["Q"].name] == "10.00"
    bench.agree()


@pytest.mark.long
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("seed", range(3))
async def test_traders_with_little_in_an_outage(bench: CourierBench, proxy: FaultyWallet, seed: int, mode: str) -> None:
    """Hundreds of all-in trades of a few accounts while the wallet is away drain, through errors and a new courier."""
    chance = random.Random(seed)
    users = [f"u{number}" for number in range(4)]
    money = {(user, asset): 5000 for user in users for asset in "BQ"}
    async with bench.running():
        for user in users:
            await bench.fund(user, B="50", Q="50")
    await proxy.down()
    for _ in range(250 if mode == "transfer" else 80):
        pairs = [pair for pair in itertools.permutations(users, 2) if money[pair[0], "Q"] > 1 and money[pair[1], "B"]]
        buyer, seller = chance.choice(pairs)
        base, notional = money[seller, "B"], money[buyer, "Q"] - 1
        if chance.random() < 0.3:
            base, notional = chance.randint(1, base), chance.randint(1, notional)
        bench.trade(buyer, seller, format_units(base, 2), format_units(notional, 2), fee="0.01")
        for key, units in (
            ((buyer, "Q"), -notional - 1),
            ((seller, "B"), -base),
            ((buyer, "B"), base),
            ((seller, "Q"), notional - 1),
        ):
            money[key] += units
    bench.settings = quick_settings(
        tries_max=1000, mode=mode, url=bench.url, exchange_user=bench.settings.exchange_user, breaker_failures=50
    )
    for path in ("/transfers", "/debits", "/credits"):
        faults = (Fault.ERROR, Fault.ERROR_AFTER, Fault.CUT, Fault.CUT_AFTER, *(Fault.NONE,) * 16)
        proxy.plan(path, *chance.choices(faults, k=200))
    await proxy.up()
    async with bench.running():
        await bench.until(lambda: bench.counter("transfers_delivered") > 40)
    async with bench.running():
        await bench.drained()
    assert bench.transfers("dead") == []
    assert bench.counter("refused") == 0
    bench.agree()


async def test_later_trades_wait_until_earlier_ones_are_settled(bench: CourierBench) -> None:
    """Of two shards the later trade may be settled first: it is not sent before the earlier one is settled too."""
    async with bench.running():
        await bench.fund("a", Q="10")
        for user in ("a", "b", "c", "d"):
            await bench.fund(user, B="3")
    ids = [1, 2, 3, 4]
    bench.in_order = False
    last = bench.trade("a", "d", quote="10", fee="0", executed_ns=ids[3])
    async with bench.running():
        rounds = bench.page.snapshot().histograms["round_latency_us"].count
        await bench.until(lambda: bench.page.snapshot().histograms["round_latency_us"].count > rounds + 5)
        assert bench.transfers("pending") == [last]
        assert bench.counter("in_flight") == 0
        bench.trade("c", "a", quote="10", fee="0", executed_ns=ids[2])
        bench.trade("b", "c", quote="10", fee="0", executed_ns=ids[1])
        bench.trade("a", "b", quote="10", fee="0", executed_ns=ids[0])
        bench.in_order = True
        await bench.drained()
    assert bench.transfers("dead") == []
    assert bench.counter("refused") == 0
    bench.agree()


async def test_withdrawal_and_later_trades_share_no_money(bench: CourierBench, proxy: FaultyWallet) -> None:
    """While a withdrawal is on its way, what it takes is nobody else's: what comes later waits for its own money."""
    async with bench.running():
        await bench.fund("a", Q="10", B="3")
        await bench.fund("c", Q="10", B="3")
        await bench.fund("d", B="3")
    asked = bench.ask(FundingKind.WITHDRAWAL, "a", "Q", "10")
    bench.settle(asked)
    at_release, go_on = trio.Event(), trio.Event()
    order: list[str] = []

    async def hold_release(path: str, id_: str) -> None:
        if path.endswith("/releases"):
            at_release.set()
            await go_on.wait()
        elif path.endswith("/transfers"):
            order.append(id_)
            if id_ == str(first) and len(order) == 1:
                proxy.plan("/transfers", Fault.ERROR)

    proxy.before = hold_release
    async with bench.running():
        await at_release.wait()
        first = bench.trade("c", "a", quote="10", fee="0")
        second = bench.trade("a", "d", quote="10", fee="0")
        await bench.until(lambda: len(order) >= 2)
        go_on.set()
        await bench.drained()
        await bench.until(lambda: bench.look(asked).status == "settled")
    assert order == [str(first), str(first), str(second)]
    assert bench.counter("refused") == bench.counter("deaths") == 0
    bench.agree()


async def test_dead_letter_holds_up_only_who_needs_its_money(bench: CourierBench) -> None:
    """Behind a dead letter everybody else is served; retried, it goes at its place, and who waited gets the money."""
    async with bench.running():
        await bench.fund("a", Q="10")
        for user in ("b", "c", "d"):
            await bench.fund(user, B="3")
        await bench.fund("rich", Q="1000")
    first = bench.trade("a", "b", quote="10", fee="0")
    bench.connection.execute("UPDATE wallet_transfers SET state = 'dead'")
    async with bench.running():
        needy = bench.trade("b", "c", quote="10", fee="0")
        for _ in range(20):
            bench.trade("rich", "d", base="0.1", quote="10")
        await bench.until(lambda: bench.transfers("pending") == [needy])
        await bench.until(lambda: "waits for another" in str(bench.row(needy)[1]))
        retry_letter(bench.connection, first)
        await bench.drained()
    assert bench.transfers("dead") == []
    bench.agree()


async def test_reserves_of_an_account_are_as_of_all(bench: CourierBench, proxy: FaultyWallet) -> None:
    """What is read for one account equals what reconciliation works out for all, whatever is under way."""
    async with bench.running():
        await bench.fund("a", Q="100", B="5")
        await bench.fund("b", B="5")
    await proxy.down()
    for _ in range(3):
        bench.trade("a", "b", quote="10")
    dead = bench.trade("b", "a", quote="5")
    bench.connection.execute("UPDATE wallet_transfers SET state = 'dead' WHERE id = %s", (dead,))
    bench.settle(bench.ask(FundingKind.WITHDRAWAL, "a", "Q", "7"))
    deposit = bench.ask(FundingKind.DEPOSIT, "b", "Q", "3")
    bench.connection.execute("UPDATE funding SET wallet_state = 'done' WHERE id = %s", (deposit.id,))
    adjustment = (dead, bench.account("a"), bench.assets["B"].asset_id)
    bench.connection.execute(
        "INSERT INTO wallet_adjustments (dead_letter_id, account_id, asset_id, amount_units, adjusted_by, reason) "
        "VALUES (%s, %s, %s, 4, 'root', 'test')",
        adjustment,
    )
    asset_ids = [asset.asset_id for asset in bench.assets.values()]
    keys = [(bench.account(user), asset_id) for user in ("a", "b", "fees") for asset_id in asset_ids]
    expected = expected_reserves(bench.connection)
    assert len(expected) >= 4
    assert {key: units for key, units in read_reserves(bench.connection, keys).items() if units} == expected
