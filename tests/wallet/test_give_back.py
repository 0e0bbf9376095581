"""Deposits that the wallet has reserved, risk refused, and the wallet will not take back: dead letters like others."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing

import pytest
from tests.wallet.courier_bench import CourierBench, quick_settings
from tests.wallet.faulty import Fault, FaultyWallet
from tests.wallet.service import Service

from tradeengine.core.differences import Differences
from tradeengine.storage.dead_letters import NoSuchLetterError, discard_letter, find_letter, list_letters, retry_letter
from tradeengine.storage.funding import Funding, FundingKind
from tradeengine.storage.outbox import Retry, read_outbox
from tradeengine.storage.reconcile_wallet import Reserve, compare_wallet
from tradeengine.storage.wallet_fundings import bury_funding


@pytest.fixture
def bench(make_database: Callable[[str], str], service: Service, proxy: FaultyWallet) -> Iterator[CourierBench]:
    """Put a courier between a new database and the proxy."""
    bench = CourierBench(make_database("tradeengine"), service, proxy.url, quick_settings())
    with closing(bench.connection):
        yield bench


async def make_letter(bench: CourierBench, proxy: FaultyWallet) -> Funding:
    """Have the wallet refuse to release what it reserved for a deposit that risk refused; a courier must be running."""
    proxy.plan("/releases", Fault.REFUSED)
    await bench.arrive("alice", "Q", "100")
    asked = bench.ask(FundingKind.DEPOSIT, "alice", "Q", "100")
    await bench.until(lambda: bench.look(asked).number > 0)
    bench.settle(asked, refused=True)
    await bench.until(lambda: len(list_letters(bench.connection, limit=1)) == 1)
    return bench.look(asked)


def differences(bench: CourierBench) -> int:
    """Count the differences that reconciliation finds at the wallet."""
    found = Differences()
    reserves = [Reserve(user, asset, amount) for (user, asset), amount in bench.reserved().items()]
    compare_wallet(bench.connection, reserves, bench.settings.exchange_user, found)
    return found.count


async def test_retried_it_is_given_back(bench: CourierBench, proxy: FaultyWallet) -> None:
    """Retried, the wallet is asked again for the release, and the money is the user's own; nothing is left waiting."""
    async with bench.running():
        letter = await make_letter(bench, proxy)
        assert [leg.amount_units for leg in find_letter(bench.connection, letter.id).legs] == [-10000, 10000]
        bench.agree()
        retry_letter(bench.connection, letter.id)
        await bench.until(lambda: bench.reserved() == bench.expected() == {})
    outbox = read_outbox(bench.connection)
    assert (outbox.pending, outbox.dead) == (0, 0)
    bench.agree()


async def test_discarded_it_stays_at_the_wallet_and_is_explained(bench: CourierBench, proxy: FaultyWallet) -> None:
    """Discarded, it is over: what the wallet keeps reserved is an adjustment, and it is discarded once."""
    async with bench.running():
        letter = await make_letter(bench, proxy)
        assert differences(bench) == 0
        discard_letter(bench.connection, letter.id, reason="the account is closed", by="root")
        for act in (retry_letter, find_letter):
            with pytest.raises(NoSuchLetterError):
                act(bench.connection, letter.id)
        with pytest.raises(NoSuchLetterError):
            discard_letter(bench.connection, letter.id, reason="again", by="root")
    assert bench.reserved() == bench.expected() != {}
    assert differences(bench) == 0
    bench.connection.execute("DELETE FROM wallet_adjustments")
    assert differences(bench) == 1


async def test_what_is_given_up_is_not_buried_again(bench: CourierBench, proxy: FaultyWallet) -> None:
    """A round that is written down twice, because its commit was not heard of, brings no discarded letter back."""
    async with bench.running():
        letter = await make_letter(bench, proxy)
    discard_letter(bench.connection, letter.id, reason="the account is closed", by="root")
    bury_funding(bench.connection, Retry(letter.id, 1, 0.0, "as before"))
    assert list_letters(bench.connection, limit=1) == []
