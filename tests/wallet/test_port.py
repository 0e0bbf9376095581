"""What the port promises, held by both ways of making transfers: whole, and leg by leg."""

from __future__ import annotations

import uuid

import pytest
import trio
from tests.wallet.faulty import Fault, FaultyWallet
from tests.wallet.service import Case, Service, balance_of, fund

from tradeengine.wallet.http import HttpWallet, open_http
from tradeengine.wallet.legs import LegsWallet
from tradeengine.wallet.port import (
    Direction,
    Holding,
    Leg,
    Progress,
    RefusalCode,
    Refused,
    Transfer,
    Unavailable,
    Wallet,
)

TRANSFER, LEGS = "transfers", "debits"

pytestmark = pytest.mark.parametrize("path", [TRANSFER, LEGS])


def made(path: str, wallet: HttpWallet) -> Wallet:
    """Give the wallet in the mode whose first request goes to ``path``."""
    return wallet if path == TRANSFER else LegsWallet(wallet)


async def test_trade_moves_five_amounts(path: str, wallet: HttpWallet, service: Service) -> None:
    """A transfer moves what its legs say, and the books stay other."""
    case = Case()
    await case.fund(wallet)
    assert await case.reserved(wallet) == case.before
    await made(path, wallet).transfer(case.trade, Progress())
    assert await case.reserved(wallet) == case.after
    assert service.clearing(case.quote) == service.clearing(case.base) == "0"
    service.check_books()


async def test_repeat_moves_nothing(path: str, wallet: HttpWallet, service: Service) -> None:
    """A transfer that is repeated with its id, also by a client that remembers nothing, is made once."""
    case = Case()
    await case.fund(wallet)
    await made(path, wallet).transfer(case.trade, Progress())
    async with open_http(service.url, service.secret, timeout_s=20.0, connections_max=1) as other:
        for client in (wallet, other, other):
            await made(path, client).transfer(case.trade, Progress())
    assert await case.reserved(wallet) == case.after


async def test_ten_repeats_at_once_move_once(path: str, wallet: HttpWallet) -> None:
    """The same transfer, sent ten times at once, is made once, and every sender is told that it is."""
    case = Case()
    await case.fund(wallet)
    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(made(path, wallet).transfer, case.trade, Progress())
    assert await case.reserved(wallet) == case.after


async def test_same_id_with_other_content_is_refused(path: str, wallet: HttpWallet) -> None:
    """An id that names another transfer is a conflict, and moves nothing."""
    case = Case()
    await case.fund(wallet)
    await made(path, wallet).transfer(case.trade, Progress())
    other = Transfer(
        case.id,
        (
            Leg(case.buyer, case.base, "0.5", Direction.DEBIT),
            Leg(case.seller, case.base, "0.5", Direction.CREDIT),
        ),
    )
    with pytest.raises(Refused) as refused:
        await made(path, wallet).transfer(other, Progress())
    assert refused.value.code is RefusalCode.CONFLICT
    assert await case.reserved(wallet) == case.after


async def test_refusal_leaves_everything(path: str, wallet: HttpWallet, service: Service) -> None:
    """When the seller has not got it, the buyer has paid nothing."""
    case = Case()
    await case.fund(wallet, seller=False)
    with pytest.raises(Refused) as refused:
        await made(path, wallet).transfer(case.trade, Progress())
    assert refused.value.code is RefusalCode.INSUFFICIENT
    assert await case.reserved(wallet) == {(case.buyer, case.quote): "60000"}
    assert service.clearing(case.quote) == "0"
    service.check_books()


async def test_refused_transfer_can_be_made_later(path: str, wallet: HttpWallet) -> None:
    """What was refused for want of money is made under the same id once the money is there."""
    case = Case()
    await case.fund(wallet, seller=False)
    progress = Progress()
    for _ in range(2):
        with pytest.raises(Refused):
            await made(path, wallet).transfer(case.trade, progress)
    await fund(wallet, case.seller, case.base, "3")
    await made(path, wallet).transfer(case.trade, progress)
    await made(path, wallet).transfer(case.trade, progress)
    assert await case.reserved(wallet) == case.after


async def test_one_user_on_both_sides(path: str, wallet: HttpWallet) -> None:
    """A user who trades with themselves pays the fees and nothing else."""
    case = Case()
    case.seller = case.buyer
    await case.fund(wallet)
    await made(path, wallet).transfer(case.trade, Progress())
    assert await case.reserved(wallet) == {
        (case.buyer, case.quote): "59925",
        (case.buyer, case.base): "3",
        (case.exchange, case.quote): "75",
    }


@pytest.mark.parametrize(
    "fault",
    [
        Fault.ERROR, Fault.ERROR_AFTER, Fault.BUSY, Fault.FORBIDDEN, Fault.MOVED, Fault.CUT, Fault.CUT_AFTER,
        Fault.ACCEPTED, Fault.HALF, Fault.GARBAGE, Fault.NESTED, Fault.BARE_REFUSAL, Fault.ENDLESS,
    ],
)  # fmt: skip
async def test_unknown_outcome_is_repeated_to_one_end(
    path: str, fault: Fault, wallet: HttpWallet, proxy: FaultyWallet, service: Service
) -> None:
    """Whatever keeps the answer away, done or not, it is Unavailable, and the repeat makes the transfer once."""
    case = Case()
    await case.fund(wallet)
    proxy.plan(path, fault)
    async with open_http(proxy.url, service.secret, timeout_s=20.0, connections_max=2) as faulty:
        with pytest.raises(Unavailable) as unknown:
            await made(path, faulty).transfer(case.trade, Progress())
        await made(path, faulty).transfer(case.trade, Progress())
    # What has no end is not read until time is up.
    assert ("larger than" in unknown.value.message) is (fault is Fault.ENDLESS)
    assert await case.reserved(wallet) == case.after
    service.check_books()


async def test_wallet_that_asks_for_time(path: str, proxy: FaultyWallet, service: Service) -> None:
    """What a busy wallet asks for is told to whoever repeats."""
    proxy.plan(path, Fault.BUSY)
    async with open_http(proxy.url, service.secret, timeout_s=20.0, connections_max=2) as faulty:
        with pytest.raises(Unavailable) as busy:
            await made(path, faulty).transfer(Case().trade, Progress())
    assert busy.value.retry_after_s == 7.0


async def test_silent_wallet_is_given_up(path: str, wallet: HttpWallet, proxy: FaultyWallet, service: Service) -> None:
    """A wallet that says nothing is given up after the time-out, and asked again."""
    case = Case()
    await case.fund(wallet)
    proxy.plan(path, Fault.SILENT)
    async with open_http(proxy.url, service.secret, timeout_s=0.2, connections_max=2) as hasty:
        with pytest.raises(Unavailable, match=r"0\.2 s"):
            await made(path, hasty).transfer(case.trade, Progress())
    await made(path, wallet).transfer(case.trade, Progress())
    assert await case.reserved(wallet) == case.after


async def test_late_request_moves_nothing_more(
    path: str, wallet: HttpWallet, proxy: FaultyWallet, service: Service
) -> None:
    """A request that was given up, and arrives after its repeat was made, changes nothing."""
    case = Case()
    await case.fund(wallet)
    proxy.plan(path, Fault.LATE)
    async with open_http(proxy.url, service.secret, timeout_s=0.2, connections_max=2) as hasty:
        with pytest.raises(Unavailable):
            await made(path, hasty).transfer(case.trade, Progress())
    await made(path, wallet).transfer(case.trade, Progress())
    await proxy.release_late()
    assert await case.reserved(wallet) == case.after
    assert service.entry_count(case.id) == (1 if path == TRANSFER else 5)


async def test_request_that_arrives_twice(path: str, wallet: HttpWallet, proxy: FaultyWallet, service: Service) -> None:
    """A request that arrives twice is made once."""
    case = Case()
    await case.fund(wallet)
    proxy.plan(path, Fault.TWICE, Fault.TWICE)
    async with open_http(proxy.url, service.secret, timeout_s=20.0, connections_max=2) as faulty:
        await made(path, faulty).transfer(case.trade, Progress())
    assert await case.reserved(wallet) == case.after


@pytest.mark.parametrize("fault", [Fault.OTHER_AMOUNT, Fault.OTHER_NUMBER, Fault.REFUSED_AFTER])
async def test_different_answer_the_second_time(
    path: str, fault: Fault, wallet: HttpWallet, proxy: FaultyWallet, service: Service
) -> None:
    """A wallet that answers the same request in another way than before is found out, and not believed."""
    case = Case()
    await case.fund(wallet)
    proxy.plan(path, Fault.NONE, *[Fault.NONE] * (path == LEGS), fault)
    async with open_http(proxy.url, service.secret, timeout_s=20.0, connections_max=2) as faulty:
        await made(path, faulty).transfer(case.trade, Progress())
        with pytest.raises(Refused) as refused:
            await made(path, faulty).transfer(case.trade, Progress())
    assert refused.value.code is RefusalCode.ANSWER_CHANGED
    assert await case.reserved(wallet) == case.after


async def test_answer_to_something_else_is_not_believed(
    path: str, wallet: HttpWallet, proxy: FaultyWallet, service: Service
) -> None:
    """An answer that repeats another amount than was asked for is no success, the first time too."""
    case = Case()
    await case.fund(wallet)
    proxy.plan(path, Fault.OTHER_AMOUNT)
    async with open_http(proxy.url, service.secret, timeout_s=20.0, connections_max=2) as faulty:
        with pytest.raises(Refused) as refused:
            await made(path, faulty).transfer(case.trade, Progress())
    assert refused.value.code is RefusalCode.ANSWER_CHANGED


async def test_wallet_that_is_away_and_returns(
    path: str, wallet: HttpWallet, proxy: FaultyWallet, service: Service
) -> None:
    """While nobody listens, every call is Unavailable; afterwards the same client goes on."""
    case = Case()
    await case.fund(wallet)
    async with open_http(proxy.url, service.secret, timeout_s=20.0, connections_max=2) as faulty:
        await faulty.health()
        await proxy.down()
        asked = made(path, faulty)
        with pytest.raises(Unavailable):
            await asked.transfer(case.trade, Progress())
        with pytest.raises(Unavailable):
            await asked.reserve(Holding("r", case.buyer, case.quote, "1"))
        with pytest.raises(Unavailable):
            await asked.balances()
        with pytest.raises(Unavailable):
            await asked.health()
        await proxy.up()
        await asked.health()
        await asked.transfer(case.trade, Progress())
    assert await case.reserved(wallet) == case.after


async def test_reserve_and_release(path: str, wallet: HttpWallet) -> None:
    """Money is reserved and released once per reference, and never more than there is."""
    case = Case()
    asked = made(path, wallet)
    await wallet.deposit(uuid.uuid4().hex, case.buyer, case.quote, "10.5")
    first = Holding(case.id, case.buyer, case.quote, "4.50")
    await asked.reserve(first)
    await asked.reserve(first)
    found = await balance_of(wallet, case.buyer, case.quote)
    assert (found.available, found.reserved) == ("6", "4.5")
    # A release may have the reference of a reservation: they are apart.
    await asked.release(Holding(case.id, case.buyer, case.quote, "1.5"))
    found = await balance_of(wallet, case.buyer, case.quote)
    assert (found.available, found.reserved) == ("7.5", "3")
    for attempt in (asked.reserve(Holding("more-a", case.buyer, case.quote, "7.500000001")),
                    asked.release(Holding("more-b", case.buyer, case.quote, "3.000000001"))):  # fmt: skip
        with pytest.raises(Refused) as refused:
            await attempt
        assert refused.value.code is RefusalCode.INSUFFICIENT
    with pytest.raises(Refused) as refused:
        await asked.reserve(Holding(case.id, case.buyer, case.quote, "4.51"))
    assert refused.value.code is RefusalCode.CONFLICT


async def test_balances_page_by_page(path: str, wallet: HttpWallet) -> None:
    """Pages follow each other without a gap or a repeat, whatever their size."""
    names = [f"page-{uuid.uuid4().hex[:8]}-{number}" for number in range(5)]
    for name in names:
        for asset in ("ONE", "TWO"):
            await wallet.deposit(f"{name}{asset}", name, asset, "1")
    expected = sorted((name, asset) for name in names for asset in ("ONE", "TWO"))
    asked = made(path, wallet)
    found = []
    cursor = None
    while True:
        page = await asked.balances(cursor=cursor, limit=3)
        found += [(balance.user, balance.asset) for balance in page.balances]
        assert len(page.balances) <= 3
        cursor = page.next_cursor
        if cursor is None:
            break
    assert [pair for pair in found if pair in set(expected)] == expected
    assert found == sorted(set(found))
    assert (await asked.balances(user=names[2])).balances == tuple(
        balance for balance in (await asked.balances(user=names[2], limit=2)).balances
    )
