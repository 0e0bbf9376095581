"""From the outbox to a real wallet: everything arrives once, whatever that does, and dead letters are deserved."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing

import psycopg
import pytest
import trio
from tests.wallet.courier_bench import CourierBench, quick_settings
from tests.wallet.faulty import Fault, FaultyWallet
from tests.wallet.service import Service

from tradeengine.settings import Wallet as WalletSettings
from tradeengine.storage.dead_letters import (
    LetterKind,
    NoSuchLetterError,
    discard_letter,
    find_letter,
    list_letters,
    retry_letter,
)
from tradeengine.storage.funding import FundingKind, FundingStatus, pending_commands
from tradeengine.storage.outbox import DELIVERY_LOCK_KEY, WalletKindError, keep_kind, unconfirmed_credits
from tradeengine.storage.queries import settlement_statuses
from tradeengine.wallet.breaker import BreakerState

MakeDatabase = Callable[[str], str]


@pytest.fixture
def settings() -> WalletSettings:
    """Fail soon."""
    return quick_settings()


@pytest.fixture
def bench(
    make_database: MakeDatabase, service: Service, proxy: FaultyWallet, settings: WalletSettings
) -> Iterator[CourierBench]:
    """Put a courier between a new database and the proxy."""
    bench = CourierBench(make_database("tradeengine"), service, proxy.url, settings)
    with closing(bench.connection):
        yield bench


async def fund_both(bench: CourierBench) -> None:
    """Give alice quote and bob base, plenty of both."""
    async with bench.running():
        await bench.fund("alice", Q="100000")
        await bench.fund("bob", B="1000")


async def test_trades_arrive_with_all_legs(bench: CourierBench) -> None:
    """Each trade becomes one transfer of five legs: what the buyer pays is what seller and exchange get."""
    await fund_both(bench)
    for _ in range(30):
        bench.trade("alice", "bob")
    async with bench.running():
        await bench.drained()
    assert bench.reserved() == {
        (bench.name("alice"), bench.assets["Q"].name): "96985.00",
        (bench.name("alice"), bench.assets["B"].name): "30.00",
        (bench.name("bob"), bench.assets["B"].name): "970.00",
        (bench.name("bob"), bench.assets["Q"].name): "2985.00",
        (bench.name("fees"), bench.assets["Q"].name): "30.00",
    }
    assert bench.counter("transfers_delivered") == 30
    bench.agree()


async def test_trade_without_fees_has_four_legs(bench: CourierBench) -> None:
    """A leg of nothing is left out: wallets refuse amounts of 0."""
    await fund_both(bench)
    bench.trade("alice", "bob", fee="0")
    async with bench.running():
        await bench.drained()
    bench.agree()


async def test_outage_makes_no_dead_letter(bench: CourierBench, proxy: FaultyWallet) -> None:
    """While the wallet is down everything waits, however long; the breaker opens; on its return all is delivered."""
    await fund_both(bench)
    await proxy.down()
    ids = [bench.trade("alice", "bob") for _ in range(40)]
    async with bench.running():
        await bench.until(lambda: bench.counter("breaker_state") == BreakerState.OPEN)
        # Half open and open again, several times: far more failures than a transfer may have.
        await bench.until(lambda: len(bench.states) > 6)
        assert bench.transfers("pending") == ids
        assert settlement_statuses(bench.connection, ids) == dict.fromkeys(ids, "pending")
        assert "does not answer" in bench.told[-1]
        await proxy.up()
        await bench.drained()
        await bench.until(lambda: bench.counter("breaker_state") == BreakerState.CLOSED)
    assert bench.transfers("dead") == []
    assert settlement_statuses(bench.connection, ids) == {}
    assert BreakerState.HALF_OPEN in bench.states
    assert bench.told[-1] == ""
    bench.agree()


@pytest.mark.parametrize(
    "fault",
    [
        Fault.ERROR,
        Fault.ERROR_AFTER,
        Fault.BUSY,
        Fault.FORBIDDEN,
        Fault.MOVED,
        Fault.CUT,
        Fault.CUT_AFTER,
        Fault.SILENT,
        Fault.TWICE,
        Fault.HALF,
        Fault.GARBAGE,
        Fault.ENDLESS,
        Fault.BARE_REFUSAL,
    ],
)
async def test_one_misbehaviour_costs_a_repeat(bench: CourierBench, proxy: FaultyWallet, fault: Fault) -> None:
    """Whatever a wallet does to one request, done or not, the transfer is made once."""
    await fund_both(bench)
    proxy.plan("/transfers", fault)
    ids = [bench.trade("alice", "bob") for _ in range(3)]
    bench.settings = quick_settings(exchange_user=bench.settings.exchange_user, url=bench.url, backoff_ms_max=5)
    async with bench.running():
        if fault is Fault.BUSY:
            # It says when to come again, and that is a while.
            await bench.until(lambda: len(bench.transfers("pending")) == 1)
            bench.connection.execute("UPDATE wallet_transfers SET next_try_at = now() WHERE error IS NOT NULL")
        await bench.drained()
    assert bench.transfers("dead") == []
    assert all(bench.service.entry_count(str(id_)) == 1 for id_ in ids)
    bench.agree()


async def test_late_arrival_is_the_same_transfer(bench: CourierBench, proxy: FaultyWallet) -> None:
    """A request that arrives after its repeat was made changes nothing."""
    await fund_both(bench)
    proxy.plan("/transfers", Fault.LATE)
    transfer_id = bench.trade("alice", "bob")
    async with bench.running():
        await bench.drained()
        await proxy.release_late()
        await bench.until(lambda: proxy.requests.count(("/v1/transfers", str(transfer_id))) >= 2)
    assert bench.service.entry_count(str(transfer_id)) == 1
    bench.agree()


async def test_other_answer_is_a_dead_letter(bench: CourierBench, proxy: FaultyWallet) -> None:
    """An answer that is not about what was asked is for people to look at; a retry that is answered right ends it."""
    await fund_both(bench)
    proxy.plan("/transfers", Fault.OTHER_AMOUNT)
    transfer_id = bench.trade("alice", "bob")
    async with bench.running():
        await bench.until(lambda: bench.transfers("dead") == [transfer_id])
        assert settlement_statuses(bench.connection, [transfer_id]) == {transfer_id: "failed"}
        letter = find_letter(bench.connection, transfer_id)
        assert letter.error.startswith("ANSWER_CHANGED")
        assert len(letter.legs) == 5
        retry_letter(bench.connection, transfer_id)
        await bench.drained()
    assert bench.service.entry_count(str(transfer_id)) == 1
    bench.agree()


async def test_poisoned_transfer_dies_alone(bench: CourierBench, proxy: FaultyWallet) -> None:
    """A transfer at which the wallet fails three times, being well otherwise, is a dead letter; the others pass."""
    await fund_both(bench)
    ids = [bench.trade("alice", "bob") for _ in range(20)]

    async def poison(_path: str, id_: str) -> None:
        if id_ == str(ids[3]):
            proxy.plan("/transfers", Fault.ERROR)

    proxy.before = poison
    async with bench.running():
        await bench.drained()
        assert bench.transfers("dead") == [ids[3]]
        tries, error, _ = bench.row(ids[3])
        assert tries == 3
        assert error is not None
        assert "500" in error
        proxy.before = None
        retry_letter(bench.connection, ids[3])
        await bench.drained()
    assert bench.transfers("dead") == []
    bench.agree()


async def test_lonely_transfer_in_an_outage_stays(bench: CourierBench, proxy: FaultyWallet) -> None:
    """One transfer alone cannot open the breaker before its tries are over; the wallet's health decides then."""
    await fund_both(bench)
    await proxy.down()
    transfer_id = bench.trade("alice", "bob")
    async with bench.running():
        await bench.until(lambda: bench.counter("breaker_state") == BreakerState.OPEN)
        assert bench.transfers("pending") == [transfer_id]
        await proxy.up()
        await bench.drained()
    assert bench.transfers("dead") == []
    bench.agree()


async def test_short_of_money_waits_for_who_brings_it(bench: CourierBench, proxy: FaultyWallet) -> None:
    """A transfer that is refused for want of money waits while another one would bring it, then it is made."""
    async with bench.running():
        await bench.fund("alice", Q="100.50")
        await bench.fund("bob", B="1")
    first = bench.trade("alice", "bob")
    # Bob pays with what he gets for the first one: 99.50.
    second = bench.trade("bob", "carol", base="1", quote="99", fee="0.50")
    proxy_calls: list[str] = []

    async def first_fails_once(_path: str, id_: str) -> None:
        if id_ == str(first) and not proxy_calls:
            proxy.plan("/transfers", Fault.ERROR)
        proxy_calls.append(id_)

    proxy.before = first_fails_once
    async with bench.running():
        await bench.arrive("carol", "B", "1")
        carol = bench.ask(FundingKind.DEPOSIT, "carol", "B", "1")
        await bench.until(lambda: bench.look(carol).number > 0)
        bench.settle(bench.look(carol))
        await bench.drained()
    assert bench.transfers("dead") == []
    assert proxy_calls.count(str(second)) >= 1
    bench.agree()


async def test_chain_of_the_same_coin_is_delivered(bench: CourierBench) -> None:
    """One coin that passes through twenty hands arrives, though nobody has it before the one before them gave it."""
    async with bench.running():
        await bench.fund("u0", B="1")
        for number in range(1, 21):
            await bench.fund(f"u{number}", Q="100")
    for number in range(20):
        bench.trade(f"u{number + 1}", f"u{number}", base="1", quote="100", fee="0")
    async with bench.running():
        await bench.drained()
    assert bench.transfers("dead") == []
    assert bench.reserved()[bench.name("u20"), bench.assets["B"].name] == "1.00"
    bench.agree()


async def test_want_of_money_that_nobody_brings_is_a_dead_letter(bench: CourierBench) -> None:
    """When no transfer would bring the money the refusal is final; with money at the wallet a retry delivers."""
    async with bench.running():
        await bench.fund("bob", B="1")
    transfer_id = bench.trade("alice", "bob")
    async with bench.running():
        await bench.until(lambda: bench.transfers("dead") == [transfer_id])
        assert find_letter(bench.connection, transfer_id).error.startswith("INSUFFICIENT_BALANCE")
        await bench.fund("alice", Q="100.50")
        retry_letter(bench.connection, transfer_id)
        await bench.drained()
    bench.agree()


async def test_refusal_is_not_final_before_everything_is_settled(bench: CourierBench) -> None:
    """A credit that is published and not yet in the outbox counts: settlement may commit two shards in any order."""
    async with bench.running():
        await bench.fund("alice", Q="100.50")
        await bench.fund("bob", B="2")
    second = bench.trade("carol", "bob", base="1", quote="98", fee="0.50")
    bench.settled = False
    async with bench.running():
        await bench.until(lambda: bench.counter("refused") == 1)
        bench.trade("alice", "carol", base="1", quote="99", fee="0.50")
        carol = bench.ask(FundingKind.DEPOSIT, "carol", "B", "1")
        await bench.arrive("carol", "B", "1")
        await bench.until(lambda: bench.look(carol).number > 0)
        bench.settle(bench.look(carol))
        bench.settled = True
        await bench.drained()
    assert bench.transfers("dead") == []
    assert second not in bench.transfers("pending")
    bench.agree()


async def test_who_waits_for_a_dead_letter_waits_on(bench: CourierBench) -> None:
    """What a dead letter would bring is waited for; discarded, it brings nothing, and who waited dies too."""
    async with bench.running():
        await bench.fund("bob", B="1")
        await bench.fund("carol", B="1")
    first = bench.trade("alice", "bob")
    async with bench.running():
        await bench.until(lambda: bench.transfers("dead") == [first])
        second = bench.trade("bob", "carol", base="1", quote="99", fee="0.50")
        await bench.until(lambda: bench.counter("waits") >= 1)
        assert bench.transfers("pending") == [second]
        discard_letter(bench.connection, first, reason="paid by hand", by="root")
        bench.connection.execute("UPDATE wallet_transfers SET next_try_at = now()")
        await bench.until(lambda: bench.transfers("dead") == [second])
        discard_letter(bench.connection, second, reason="paid by hand", by="root")
    bench.agree()


@pytest.mark.parametrize("settings", [quick_settings(concurrency=1)])  # a wallet may make at once what arrives at once
async def test_circle_is_broken_by_a_dead_letter(bench: CourierBench) -> None:
    """Transfers that wait for each other do not wait for ever: the oldest is given up, and says why."""
    first = bench.trade("alice", "bob", base="1", quote="100", fee="0")
    bench.trade("bob", "alice", base="1", quote="100", fee="0")
    async with bench.running():
        await bench.until(lambda: bench.transfers("dead") == [first])
    assert "wait for this one" in find_letter(bench.connection, first).error


async def test_discarded_letter_is_explained(bench: CourierBench) -> None:
    """Discarding posts what wallet and ledger differ by, summing to zero per asset; nothing else changes."""
    async with bench.running():
        await bench.fund("bob", B="1")
        transfer_id = bench.trade("alice", "bob")
        await bench.until(lambda: bench.transfers("dead") == [transfer_id])
    ledger = bench.connection.execute("SELECT * FROM balances ORDER BY 1, 2").fetchall()
    discard_letter(bench.connection, transfer_id, reason="paid by hand", by="root")
    rows = bench.connection.execute("SELECT * FROM wallet_adjustments").fetchall()
    assert len(rows) == 5
    sums = bench.connection.execute("SELECT sum(amount_units) FROM wallet_adjustments GROUP BY asset_id").fetchall()
    assert [total for (total,) in sums] == [0, 0]
    assert bench.connection.execute("SELECT * FROM balances ORDER BY 1, 2").fetchall() == ledger
    for act in (retry_letter, find_letter):
        with pytest.raises(NoSuchLetterError):
            act(bench.connection, transfer_id)
    with pytest.raises(NoSuchLetterError):
        discard_letter(bench.connection, transfer_id, reason="again", by="root")
    bench.agree()


async def test_killed_between_wallet_and_outbox_repeats(bench: CourierBench) -> None:
    """A delivery that was not written down is repeated under its id, and the wallet makes it once."""
    await fund_both(bench)
    ids = [bench.trade("alice", "bob") for _ in range(10)]
    rows = bench.connection.execute("SELECT * FROM wallet_transfers").fetchall()
    async with bench.running():
        await bench.drained()
    with bench.connection.cursor() as cursor:
        cursor.executemany(f"INSERT INTO wallet_transfers VALUES ({', '.join(['%s'] * len(rows[0]))})", rows)
    async with bench.running():
        await bench.drained()
    assert all(bench.service.entry_count(str(id_)) == 1 for id_ in ids)
    bench.agree()


async def test_loss_of_the_database_loses_nothing(bench: CourierBench) -> None:
    """When PostgreSQL ends the connection, what became of requests is written down on the next one."""
    await fund_both(bench)
    for _ in range(50):
        bench.trade("alice", "bob")
    async with bench.running():
        await bench.until(lambda: bench.counter("transfers_delivered") > 5)
        bench.connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        await bench.drained()
    assert bench.counter("errors") >= 1
    bench.agree()


async def test_lock_holds_deliveries_back(bench: CourierBench) -> None:
    """Who takes the delivery lock alone finds nothing on its way, and nothing is sent before it is given back."""
    await fund_both(bench)
    async with bench.running():
        with psycopg.connect(bench.dsn, autocommit=True) as other:
            await trio.to_thread.run_sync(other.execute, "SELECT pg_advisory_lock(%s)", (DELIVERY_LOCK_KEY,))
            rounds = bench.page.snapshot().histograms["round_latency_us"].count
            transfer_id = bench.trade("alice", "bob")
            await bench.until(lambda: bench.page.snapshot().histograms["round_latency_us"].count > rounds + 3)
            assert bench.transfers("pending") == [transfer_id]
            bench.agree()
        await bench.drained()
    bench.agree()


@pytest.mark.parametrize("settings", [quick_settings(mode="legs")])
async def test_leg_by_leg_in_spite_of_everything(bench: CourierBench, proxy: FaultyWallet) -> None:
    """With single debits and credits, errors and cuts between legs end in whole transfers."""
    await fund_both(bench)
    proxy.plan("/debits", Fault.CUT_AFTER, Fault.ERROR, Fault.NONE, Fault.ERROR_AFTER)
    proxy.plan("/credits", Fault.NONE, Fault.CUT, Fault.GARBAGE)
    for _ in range(8):
        bench.trade("alice", "bob")
    async with bench.running():
        await bench.drained()
    assert bench.transfers("dead") == []
    assert bench.service.clearing(bench.assets["Q"].name) == "0"
    bench.agree()


@pytest.mark.parametrize("settings", [quick_settings(mode="legs")])
async def test_killed_between_debit_and_credit(bench: CourierBench, proxy: FaultyWallet) -> None:
    """A courier that dies between two legs, or the wallet with it, is followed by one that makes the others."""
    await fund_both(bench)
    transfer_id = bench.trade("alice", "bob")
    async with bench.running():
        reached = trio.Event()

        async def stand_still(path: str, _id: str) -> None:
            if path.endswith("/credits"):
                reached.set()
                await trio.sleep_forever()

        proxy.before = stand_still
        await reached.wait()
    assert bench.service.entry_count(f"{transfer_id}:") >= 1
    proxy.before = None
    async with bench.running():
        await bench.drained()
    bench.agree()


@pytest.mark.parametrize("settings", [quick_settings(mode="legs")])
async def test_half_made_and_refused_is_undone(bench: CourierBench, proxy: FaultyWallet) -> None:
    """A refusal after the first leg is undone though the undoing is cut off; the progress for that is kept."""
    async with bench.running():
        await bench.fund("alice", Q="1000")
    transfer_id = bench.trade("alice", "bob")
    proxy.plan("/credits", Fault.CUT)
    async with bench.running():
        await bench.until(lambda: bench.transfers("dead") == [transfer_id])
    assert bench.row(transfer_id)[2] != ""
    bench.agree()
    async with bench.running():
        await bench.fund("bob", B="1")
        retry_letter(bench.connection, transfer_id)
        await bench.drained()
    bench.agree()


async def test_deposit_comes_to_risk_only_when_reserved(bench: CourierBench, proxy: FaultyWallet) -> None:
    """A deposit has no number while the wallet is down; then they come without gaps, and a refused one has none."""
    await proxy.down()
    await bench.arrive("alice", "Q", "300")
    asked = [bench.ask(FundingKind.DEPOSIT, "alice", "Q", "100") for _ in range(3)]
    too_much = bench.ask(FundingKind.DEPOSIT, "alice", "Q", "1000000")
    assert len(pending_commands(bench.connection, 0, 10)) == 0
    async with bench.running():
        await bench.until(lambda: bench.counter("breaker_state") == BreakerState.OPEN)
        assert {bench.look(each).status for each in asked} == {FundingStatus.PENDING}
        await proxy.up()
        await bench.until(lambda: len(pending_commands(bench.connection, 0, 10)) == 3)
        await bench.until(lambda: bench.look(too_much).status is FundingStatus.REFUSED)
    assert pending_commands(bench.connection, 0, 10)["funding_number"].tolist() == [1, 2, 3]
    refused = bench.look(too_much)
    assert (refused.status_reason, refused.number) == ("INSUFFICIENT_BALANCE", 0)
    assert bench.ask(FundingKind.DEPOSIT, "alice", "Q", "1000000", too_much.reference) == refused
    bench.agree()


async def test_deposit_refused_by_risk_is_given_back(bench: CourierBench) -> None:
    """What the wallet has reserved and risk refuses is the user's again."""
    await bench.arrive("alice", "Q", "100")
    asked = bench.ask(FundingKind.DEPOSIT, "alice", "Q", "100")
    async with bench.running():
        await bench.until(lambda: bench.look(asked).number > 0)
        bench.settle(asked, refused=True)
        await bench.until(lambda: bench.reserved() == bench.expected() == {})
    bench.agree()


async def test_withdrawal_waits_for_the_accounts_trades(bench: CourierBench, proxy: FaultyWallet) -> None:
    """Proceeds that the wallet has not confirmed do not leave: the withdrawal is released after them, not before."""
    await fund_both(bench)
    transfer_id = bench.trade("alice", "bob")
    assert unconfirmed_credits(bench.connection, bench.account("bob"), bench.assets["Q"].asset_id) == 9950
    asked = bench.ask(FundingKind.WITHDRAWAL, "bob", "B", "500")
    bench.settle(asked)
    assert bench.look(asked).status is FundingStatus.PENDING
    order: list[str] = []

    async def hold_transfers(path: str, _id: str) -> None:
        order.append(path)
        if path.endswith("/transfers") and order.count(path) < 3:
            proxy.plan("/transfers", Fault.ERROR)

    proxy.before = hold_transfers
    async with bench.running():
        await bench.until(lambda: bench.look(asked).status is FundingStatus.SETTLED)
    assert order[-1] == "/v1/releases"
    assert order.count("/v1/releases") == 1
    assert transfer_id not in bench.transfers("pending")
    assert unconfirmed_credits(bench.connection, bench.account("bob"), bench.assets["Q"].asset_id) == 0
    bench.agree()


async def test_withdrawal_that_the_wallet_refuses_is_a_dead_letter(bench: CourierBench) -> None:
    """A withdrawal is pending for its user while it is a dead letter; discarded, the difference is explained."""
    await fund_both(bench)
    # Somebody takes money at the wallet, past the engine.
    asked = bench.ask(FundingKind.WITHDRAWAL, "bob", "B", "600")
    other = bench.ask(FundingKind.WITHDRAWAL, "bob", "B", "400")
    bench.settle(asked)
    bench.settle(other)
    with psycopg.connect(bench.service.dsn) as books:
        taken = ("500", bench.name("bob"), bench.assets["B"].name)
        books.execute(
            "UPDATE wallet.balances SET amount = amount - %s WHERE user_name = %s AND asset = %s AND part = 'reserved'",
            taken,
        )
    async with bench.running():
        await bench.until(lambda: len(list_letters(bench.connection, limit=10)) == 1)
        (letter,) = list_letters(bench.connection, limit=10)
        assert letter.kind is LetterKind.WITHDRAWAL
        dead, done = (asked, other) if letter.reference == asked.reference else (other, asked)
        await bench.until(lambda: bench.look(done).status is FundingStatus.SETTLED)
        assert bench.look(dead).status is FundingStatus.PENDING
        with psycopg.connect(bench.service.dsn) as books:
            books.execute(
                "UPDATE wallet.balances SET amount = amount + %s "
                "WHERE user_name = %s AND asset = %s AND part = 'reserved'",
                taken,
            )
        discard_letter(bench.connection, letter.id, reason="paid by hand", by="root")
    assert bench.look(dead).status is FundingStatus.SETTLED
    bench.agree()


async def test_money_stays_where_it_is_kept(bench: CourierBench) -> None:
    """A database with money does not change the keeper of it, and nobody shares a name with who gets the fees."""
    bench.ask(FundingKind.DEPOSIT, "alice", "Q", "100")
    with pytest.raises(WalletKindError, match="begin with a new database"):
        keep_kind(bench.connection, "ledger", "fees")
    keep_kind(bench.connection, "http", "fees")
    with pytest.raises(WalletKindError, match="exchange_user"):
        keep_kind(bench.connection, "http", bench.name("alice"))
