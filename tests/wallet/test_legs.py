"""A transfer leg by leg: interrupted anywhere, by anyone, it ends whole or undone."""

from __future__ import annotations

import pytest
import trio
from tests.wallet.faulty import Fault, FaultyWallet, faulty_wallet
from tests.wallet.service import Case, Service, balance_of, free_port, fund, running_service

from tradeengine.wallet.http import HttpWallet, open_http
from tradeengine.wallet.legs import LegsWallet
from tradeengine.wallet.port import Holding, Progress, RefusalCode, Refused, Unavailable

LEG_COUNT = 5


class Stored:
    """Progress as an outbox keeps it: what was stored last is what a repeat finds, whoever makes it."""

    def __init__(self) -> None:
        self.note = ""
        self.history: list[str] = []
        self.fault: Exception | None = None

    @property
    def progress(self) -> Progress:
        """What a new try begins with."""
        return Progress(self.note, self._store)

    async def _store(self, note: str) -> None:
        await trio.lowlevel.checkpoint()
        if self.fault is not None:
            fault, self.fault = self.fault, None
            raise fault
        self.note = note
        self.history.append(note)


async def test_debits_come_first(wallet: HttpWallet, proxy: FaultyWallet, service: Service) -> None:
    """Nobody is credited before all debits are made."""
    case = Case()
    await case.fund(wallet)
    async with open_http(proxy.url, service.secret, timeout_s=20.0, connections_max=2) as client:
        await LegsWallet(client).transfer(case.trade, Progress())
    assert [path for path, _ in proxy.requests] == ["/v1/debits"] * 2 + ["/v1/credits"] * 3
    assert [id_ for _, id_ in proxy.requests] == [f"{case.id}:{number}" for number in (0, 2, 1, 3, 4)]


@pytest.mark.parametrize("fault", [Fault.CUT, Fault.CUT_AFTER])
@pytest.mark.parametrize("leg", range(LEG_COUNT))
async def test_cut_at_any_leg(
    leg: int, fault: Fault, wallet: HttpWallet, proxy: FaultyWallet, service: Service
) -> None:
    """Cut off at any leg, before or after it was done: the repeat makes the transfer whole."""
    case = Case()
    await case.fund(wallet)
    proxy.plan("", *[Fault.NONE] * leg, fault)
    stored = Stored()
    async with open_http(proxy.url, service.secret, timeout_s=20.0, connections_max=2) as client:
        with pytest.raises(Unavailable):
            await LegsWallet(client).transfer(case.trade, stored.progress)
        await LegsWallet(client).transfer(case.trade, stored.progress)
    assert await case.reserved(wallet) == case.after
    assert service.clearing(case.quote) == service.clearing(case.base) == "0"
    assert stored.history == []


@pytest.mark.parametrize("leg", range(LEG_COUNT))
async def test_caller_dies_at_any_leg(leg: int, wallet: HttpWallet, proxy: FaultyWallet, service: Service) -> None:
    """A caller that ends between two legs leaves a transfer that another caller makes whole."""
    case = Case()
    await case.fund(wallet)
    with trio.CancelScope() as life:

        async def die(_path: str, _id: str) -> None:
            if len(proxy.requests) == leg + 1:
                life.cancel()

        proxy.before = die
        async with open_http(proxy.url, service.secret, timeout_s=20.0, connections_max=2) as client:
            await LegsWallet(client).transfer(case.trade, Progress())
    assert life.cancelled_caught
    await LegsWallet(wallet).transfer(case.trade, Progress())
    assert await case.reserved(wallet) == case.after


async def test_wallet_killed_between_debit_and_credit(dsn: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A wallet killed when the debits are made and the credits are not: what is between is seen, and made whole."""
    case = Case()
    with running_service(dsn, tmp_path_factory.mktemp("killed")) as own:
        async with (
            faulty_wallet(own.port, free_port()) as proxy,
            open_http(own.url, own.secret, timeout_s=20.0, connections_max=2) as direct,
            open_http(proxy.url, own.secret, timeout_s=20.0, connections_max=2) as client,
        ):
            await case.fund(direct)

            async def kill(path: str, _id: str) -> None:
                if path == "/v1/credits" and own.process is not None:
                    own.kill()

            proxy.before = kill
            with pytest.raises(Unavailable):
                await LegsWallet(client).transfer(case.trade, Progress())
            proxy.before = None
            assert (own.clearing(case.quote), own.clearing(case.base)) == ("50025", "1")
            own.start()
            await LegsWallet(client).transfer(case.trade, Progress())
            assert await case.reserved(direct) == case.after
            assert (own.clearing(case.quote), own.clearing(case.base)) == ("0", "0")
            own.check_books()


async def test_refused_leg_is_compensated(wallet: HttpWallet, proxy: FaultyWallet, service: Service) -> None:
    """When the second debit is refused the first is undone; that it will be is stored before."""
    case = Case()
    await case.fund(wallet, seller=False)
    stored = Stored()
    notes_at_undo: list[str] = []

    async def look(_path: str, id_: str) -> None:
        if id_.endswith(":undo"):
            notes_at_undo.append(stored.note)

    proxy.before = look
    async with open_http(proxy.url, service.secret, timeout_s=20.0, connections_max=2) as client:
        with pytest.raises(Refused) as refused:
            await LegsWallet(client).transfer(case.trade, stored.progress)
    assert refused.value.code is RefusalCode.INSUFFICIENT
    assert len(notes_at_undo) == 1
    assert "undoing" in notes_at_undo[0]
    assert await case.reserved(wallet) == {(case.buyer, case.quote): "60000"}
    assert service.clearing(case.quote) == "0"


async def test_first_leg_that_is_refused_needs_no_note(wallet: HttpWallet) -> None:
    """When the very first leg is refused there is nothing to undo and nothing to remember."""
    case = Case()
    stored = Stored()
    with pytest.raises(Refused):
        await LegsWallet(wallet).transfer(case.trade, stored.progress)
    assert stored.history == []
    await case.fund(wallet)
    await LegsWallet(wallet).transfer(case.trade, stored.progress)
    assert await case.reserved(wallet) == case.after


@pytest.mark.parametrize("fault", [Fault.ERROR, Fault.CUT_AFTER, Fault.ERROR_AFTER])
async def test_crash_while_compensating(
    fault: Fault, wallet: HttpWallet, proxy: FaultyWallet, service: Service
) -> None:
    """Cut off while undoing, a repeat goes on undoing, even if the money that was missing has come meanwhile."""
    case = Case()
    await case.fund(wallet, seller=False)
    stored = Stored()
    proxy.plan("credits", fault)
    async with open_http(proxy.url, service.secret, timeout_s=20.0, connections_max=2) as client:
        with pytest.raises(Unavailable):
            await LegsWallet(client).transfer(case.trade, stored.progress)
        await fund(wallet, case.seller, case.base, "3")
        with pytest.raises(Refused) as refused:
            await LegsWallet(client).transfer(case.trade, stored.progress)
        assert refused.value.code is RefusalCode.INSUFFICIENT
        assert await case.reserved(wallet) == case.before
        # Undone whole, it is tried anew.
        await LegsWallet(client).transfer(case.trade, stored.progress)
        await LegsWallet(client).transfer(case.trade, stored.progress)
    assert await case.reserved(wallet) == case.after
    assert service.clearing(case.quote) == service.clearing(case.base) == "0"


async def test_note_that_cannot_be_stored(wallet: HttpWallet, service: Service) -> None:
    """When the caller cannot store that it will be undone, nothing is undone, and the repeat finds all as it was."""
    case = Case()
    await case.fund(wallet, seller=False)
    stored = Stored()
    stored.fault = OSError("disk full")
    with pytest.raises(OSError, match="disk full"):
        await LegsWallet(wallet).transfer(case.trade, stored.progress)
    assert service.clearing(case.quote) == "50025"
    await fund(wallet, case.seller, case.base, "3")
    await LegsWallet(wallet).transfer(case.trade, stored.progress)
    assert await case.reserved(wallet) == case.after


async def test_end_of_compensation_that_cannot_be_stored(wallet: HttpWallet) -> None:
    """When only the note that it is undone is lost, the repeat undoes nothing twice."""
    case = Case()
    await case.fund(wallet, seller=False)
    stored = Stored()

    async def store(note: str) -> None:
        if stored.history:
            raise OSError("disk full")
        stored.note = note
        stored.history.append(note)

    with pytest.raises(OSError, match="disk full"):
        await LegsWallet(wallet).transfer(case.trade, Progress("", store))
    for _ in range(2):
        with pytest.raises(Refused):
            await LegsWallet(wallet).transfer(case.trade, stored.progress)
        assert await case.reserved(wallet) == {(case.buyer, case.quote): "60000"}


async def test_many_attempts_leave_nothing_behind(wallet: HttpWallet, service: Service) -> None:
    """A transfer that is refused again and again is undone each time, and in the end made once."""
    case = Case()
    await case.fund(wallet, seller=False)
    stored = Stored()
    for _ in range(5):
        with pytest.raises(Refused):
            await LegsWallet(wallet).transfer(case.trade, stored.progress)
    assert await case.reserved(wallet) == {(case.buyer, case.quote): "60000"}
    await fund(wallet, case.seller, case.base, "3")
    await LegsWallet(wallet).transfer(case.trade, stored.progress)
    assert await case.reserved(wallet) == case.after
    service.check_books()


async def test_undoing_that_is_refused_is_stuck(wallet: HttpWallet, proxy: FaultyWallet, service: Service) -> None:
    """When what was credited is gone before it can be taken back, it is told as stuck; a repeat undoes it later."""
    case = Case()
    await case.fund(wallet)
    stored = Stored()

    async def spend(path: str, id_: str) -> None:
        # The wallet refuses the seller's credit, and the buyer's has left meanwhile.
        if path == "/v1/credits" and id_ == f"{case.id}:3":
            await wallet.release(Holding(case.id, case.buyer, case.base, "1"))

    proxy.before = spend
    proxy.plan("credits", Fault.NONE, Fault.REFUSED)
    async with open_http(proxy.url, service.secret, timeout_s=20.0, connections_max=2) as client:
        for _ in range(2):
            with pytest.raises(Refused) as refused:
                await LegsWallet(client).transfer(case.trade, stored.progress)
            assert refused.value.code is RefusalCode.STUCK
            proxy.before = None
        await wallet.reserve(Holding(case.id, case.buyer, case.base, "1"))
        with pytest.raises(Refused) as refused:
            await LegsWallet(client).transfer(case.trade, stored.progress)
    assert refused.value.code is RefusalCode.UNKNOWN_ACCOUNT
    assert await case.reserved(wallet) == case.before
    assert (await balance_of(wallet, case.buyer, case.base)).available == "0"
    assert service.clearing(case.quote) == service.clearing(case.base) == "0"
