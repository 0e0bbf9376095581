"""The circuit breaker's every state and step, without a clock."""

from __future__ import annotations

import random

import pytest
import trio
import trio.testing

from tradeengine.wallet.breaker import Breaker, BreakerState, Pass
from tradeengine.wallet.guarded import GuardedWallet
from tradeengine.wallet.port import (
    BalancePage,
    BreakerOpen,
    Holding,
    Progress,
    RefusalCode,
    Refused,
    Transfer,
    Unavailable,
)

OPEN_S = 10.0
SOME = Holding("r", "u", "USDT", "1")


def passed(breaker: Breaker, now_s: float) -> Pass:
    """Let a request pass that must pass."""
    granted = breaker.try_pass(now_s)
    assert granted is not None
    return granted


def opened(now_s: float = 0.0) -> Breaker:
    """Give a breaker that opened at a time."""
    breaker = Breaker(5, OPEN_S)
    for _ in range(5):
        breaker.failed(passed(breaker, now_s), now_s)
    return breaker


def test_closed_passes_all() -> None:
    """A closed breaker lets any number pass, and four failures in a row leave it closed."""
    breaker = Breaker(5, OPEN_S)
    for granted in [passed(breaker, 0.0) for _ in range(100)][:4]:
        breaker.failed(granted, 0.0)
    assert breaker.state(0.0) is BreakerState.CLOSED
    assert breaker.passable(0.0)


def test_success_begins_the_row_anew() -> None:
    """Only failures in a row count."""
    breaker = Breaker(5, OPEN_S)
    for _ in range(20):
        for _ in range(4):
            breaker.failed(passed(breaker, 0.0), 0.0)
        breaker.succeeded(passed(breaker, 0.0))
    assert breaker.state(0.0) is BreakerState.CLOSED


def test_fifth_failure_opens() -> None:
    """After five failures in a row nothing passes, until just before the time is over."""
    breaker = opened(100.0)
    for now_s in (100.0, 105.0, 109.999):
        assert breaker.state(now_s) is BreakerState.OPEN
        assert breaker.try_pass(now_s) is None
    assert breaker.wait_s(104.0) == 6.0


def test_half_open_lets_one_pass() -> None:
    """When the time is over one request passes, and no second one before its outcome."""
    breaker = opened()
    assert breaker.state(OPEN_S) is BreakerState.HALF_OPEN
    assert passed(breaker, OPEN_S).is_probe
    assert breaker.try_pass(OPEN_S) is None
    assert not breaker.passable(OPEN_S + 100)
    assert breaker.state(OPEN_S) is BreakerState.HALF_OPEN


def test_good_probe_closes() -> None:
    """A probe that is answered closes the breaker, and it takes five failures to open it again."""
    breaker = opened()
    breaker.succeeded(passed(breaker, OPEN_S))
    assert breaker.state(OPEN_S) is BreakerState.CLOSED
    for count in range(5):
        assert breaker.state(OPEN_S) is BreakerState.CLOSED, count
        breaker.failed(passed(breaker, OPEN_S), OPEN_S)
    assert breaker.state(OPEN_S) is BreakerState.OPEN


def test_bad_probe_opens_for_as_long_again() -> None:
    """A probe that fails opens the breaker at once, for the whole time."""
    breaker = opened()
    breaker.failed(passed(breaker, 12.0), 13.0)
    assert breaker.state(22.9) is BreakerState.OPEN
    assert breaker.state(23.0) is BreakerState.HALF_OPEN


def test_abandoned_probe_makes_room() -> None:
    """A probe whose sender went away is followed by another."""
    breaker = opened()
    breaker.abandoned(passed(breaker, OPEN_S))
    assert breaker.state(OPEN_S) is BreakerState.HALF_OPEN
    breaker.succeeded(passed(breaker, OPEN_S))
    assert breaker.state(OPEN_S) is BreakerState.CLOSED


def test_answers_of_before_do_not_count() -> None:
    """What was on its way when the breaker opened neither closes it, nor opens it anew once it is closed."""
    breaker = Breaker(5, OPEN_S)
    stale = [passed(breaker, 0.0) for _ in range(20)]
    for granted in stale[:5]:
        breaker.failed(granted, 0.0)
    breaker.succeeded(stale[5])
    assert breaker.state(0.0) is BreakerState.OPEN
    breaker.failed(stale[6], 9.0)
    assert breaker.state(OPEN_S) is BreakerState.HALF_OPEN
    breaker.succeeded(passed(breaker, OPEN_S))
    for granted in stale[7:15]:
        breaker.failed(granted, OPEN_S)
    assert breaker.state(OPEN_S) is BreakerState.CLOSED
    for granted in stale[15:]:
        # Nor do they end a row of failures.
        breaker.succeeded(granted)
        breaker.failed(passed(breaker, OPEN_S), OPEN_S)
    assert breaker.state(OPEN_S) is not BreakerState.CLOSED


def test_health_brings_half_open_early() -> None:
    """A wallet that says that it is well is tried at once, and a probe that is answered closes the breaker."""
    breaker = opened()
    breaker.saw_health(1.0)
    assert breaker.state(1.0) is BreakerState.HALF_OPEN
    breaker.succeeded(passed(breaker, 1.0))
    assert breaker.state(1.0) is BreakerState.CLOSED


def test_health_that_lied_is_not_believed_again_at_once() -> None:
    """A wallet that says that it is well and fails the probe is left alone for the time; afterwards it is believed."""
    breaker = opened()
    breaker.saw_health(1.0)
    breaker.failed(passed(breaker, 1.0), 1.0)
    breaker.saw_health(2.0)
    assert breaker.state(2.0) is BreakerState.OPEN
    breaker.failed(passed(breaker, 11.0), 11.0)
    breaker.saw_health(12.0)
    assert breaker.state(12.0) is BreakerState.HALF_OPEN


def test_health_means_nothing_while_closed() -> None:
    """Looks at the health of a wallet that is used change nothing."""
    breaker = Breaker(5, OPEN_S)
    breaker.saw_health(0.0)
    for _ in range(5):
        breaker.saw_health(5.0)
        breaker.failed(passed(breaker, 5.0), 5.0)
    assert breaker.state(5.0) is BreakerState.OPEN


@pytest.mark.parametrize("seed", range(20))
def test_any_course_keeps_the_rules(seed: int) -> None:
    """Whatever happens in whatever order: open lets nothing pass, half open one, and there is always a way back."""
    source = random.Random(seed)
    breaker = Breaker(source.randint(1, 6), OPEN_S)
    now_s = 0.0
    away: list[Pass] = []
    for _ in range(2000):
        now_s += source.choice((0.0, 0.1, 3.0))
        state = breaker.state(now_s)
        match source.randrange(5):
            case 0 | 1:
                granted = breaker.try_pass(now_s)
                if state is BreakerState.CLOSED:
                    assert granted is not None
                    assert not granted.is_probe
                if state is BreakerState.OPEN:
                    assert granted is None
                if granted is not None:
                    away.append(granted)
            case 2:
                breaker.saw_health(now_s)
            case _ if away:
                granted = away.pop(source.randrange(len(away)))
                source.choice(
                    (
                        lambda: breaker.succeeded(granted),  # noqa: B023 - called before the next round
                        lambda: breaker.failed(granted, now_s),  # noqa: B023 - as above
                        lambda: breaker.abandoned(granted),  # noqa: B023 - as above
                    )
                )()
    for granted in away:
        breaker.abandoned(granted)
    now_s += OPEN_S
    breaker.succeeded(passed(breaker, now_s))
    assert breaker.state(now_s) is BreakerState.CLOSED


class Scripted:
    """A wallet that does what the test says: ``fault`` is raised by every call while it is set."""

    def __init__(self) -> None:
        self.fault: Exception | None = None
        self.health_fault: Exception | None = None
        self.calls = 0
        self.looks = 0
        self.hold: trio.Event | None = None

    async def reserve(self, _: Holding) -> None:
        """Do as told."""
        self.calls += 1
        if self.hold is not None:
            await self.hold.wait()
        await trio.lowlevel.checkpoint()
        if self.fault is not None:
            raise self.fault

    async def release(self, _: Holding) -> None:
        """Do as told."""
        await self.reserve(SOME)

    async def transfer(self, *_: object) -> None:
        """Do as told."""
        await self.reserve(SOME)

    async def balances(self, *_: object) -> BalancePage:
        """Do as told, and know nobody."""
        await self.reserve(SOME)
        return BalancePage((), None)

    async def health(self) -> None:
        """Be as told."""
        self.looks += 1
        await trio.lowlevel.checkpoint()
        if self.health_fault is not None:
            raise self.health_fault


def guarded(wallet: Scripted) -> tuple[GuardedWallet, list[BreakerState]]:
    """Put a breaker before a wallet; the list grows with its states."""
    states: list[BreakerState] = []
    return GuardedWallet(wallet, Breaker(5, OPEN_S), states.append), states


async def fail_five_times(guard: GuardedWallet, wallet: Scripted) -> None:
    """Open the breaker."""
    wallet.fault = Unavailable("away")
    for _ in range(5):
        with pytest.raises(Unavailable):
            await guard.reserve(SOME)


async def test_open_breaker_sends_nothing(autojump_clock: trio.testing.MockClock) -> None:
    """While it is open calls fail at once, and the wallet hears nothing; after ten seconds it hears one."""
    wallet = Scripted()
    guard, states = guarded(wallet)
    await fail_five_times(guard, wallet)
    assert guard.state is BreakerState.OPEN
    for _ in range(10):
        with pytest.raises(BreakerOpen):
            await guard.transfer(Transfer("t", ()), Progress())
    assert wallet.calls == 5
    wallet.fault = None
    await guard.wait_passable()
    assert trio.current_time() == pytest.approx(OPEN_S, abs=0.1)
    await guard.release(SOME)
    await guard.balances()
    assert wallet.calls == 7
    assert states == [BreakerState.CLOSED, BreakerState.OPEN, BreakerState.HALF_OPEN, BreakerState.CLOSED]


async def test_refusals_do_not_open() -> None:
    """A wallet that refuses is there: a hundred refusals leave the breaker closed, and end a row of failures."""
    wallet = Scripted()
    guard, states = guarded(wallet)
    for _ in range(20):
        wallet.fault = Unavailable("away")
        for _ in range(4):
            with pytest.raises(Unavailable):
                await guard.reserve(SOME)
        wallet.fault = Refused(RefusalCode.INSUFFICIENT, "no")
        with pytest.raises(Refused):
            await guard.reserve(SOME)
    assert states == [BreakerState.CLOSED]


async def test_refused_probe_closes(autojump_clock: trio.testing.MockClock) -> None:
    """A probe that is refused has been answered."""
    wallet = Scripted()
    guard, _ = guarded(wallet)
    await fail_five_times(guard, wallet)
    await guard.wait_passable()
    wallet.fault = Refused(RefusalCode.CONFLICT, "no")
    with pytest.raises(Refused):
        await guard.reserve(SOME)
    assert guard.state is BreakerState.CLOSED


async def test_who_waits_while_the_probe_is_away(autojump_clock: trio.testing.MockClock) -> None:
    """Others wait for the probe's outcome without asking again and again, and pass when it is good."""
    wallet = Scripted()
    guard, _ = guarded(wallet)
    await fail_five_times(guard, wallet)
    await guard.wait_passable()
    wallet.fault = None
    wallet.hold = trio.Event()
    passed_count = 0

    async def wait_and_send() -> None:
        nonlocal passed_count
        await guard.wait_passable()
        await guard.reserve(SOME)
        passed_count += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(guard.reserve, SOME)
        await trio.testing.wait_all_tasks_blocked()
        for _ in range(3):
            nursery.start_soon(wait_and_send)
        await trio.testing.wait_all_tasks_blocked()
        assert wallet.calls == 6
        hold, wallet.hold = wallet.hold, None
        hold.set()
    assert passed_count == 3


async def test_cancelled_probe_is_followed_by_another(autojump_clock: trio.testing.MockClock) -> None:
    """A probe that is cancelled leaves the breaker half open, and wakes who waits."""
    wallet = Scripted()
    guard, states = guarded(wallet)
    await fail_five_times(guard, wallet)
    await guard.wait_passable()
    wallet.fault = None
    wallet.hold = trio.Event()

    async def cancel_when_another_waits() -> None:
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(guard.wait_passable)
        await trio.testing.wait_all_tasks_blocked()
        probe.cancel()

    with trio.fail_after(1000):
        async with trio.open_nursery() as nursery:
            with trio.CancelScope() as probe:
                nursery.start_soon(cancel_when_another_waits)
                await guard.reserve(SOME)
    wallet.hold = None
    await guard.wait_passable()
    await guard.reserve(SOME)
    assert states[-2:] == [BreakerState.HALF_OPEN, BreakerState.CLOSED]


async def test_health_is_looked_at_while_open(autojump_clock: trio.testing.MockClock) -> None:
    """Open, the wallet's health is asked once a second; when it is well, who waits passes within a second of that."""
    wallet = Scripted()
    guard, _ = guarded(wallet)
    wallet.health_fault = Unavailable("away")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(guard.keep_looking)
        await trio.testing.wait_all_tasks_blocked()
        assert wallet.looks == 0
        await fail_five_times(guard, wallet)
        await trio.sleep(4.5)
        assert wallet.looks == 4
        wallet.fault = wallet.health_fault = None
        begun_s = trio.current_time()
        await guard.wait_passable()
        assert trio.current_time() - begun_s <= 1.0
        await guard.reserve(SOME)
        looks = wallet.looks
        await trio.sleep(60)
        assert wallet.looks == looks
        # And the next time it is away.
        wallet.health_fault = Unavailable("away")
        await fail_five_times(guard, wallet)
        await trio.sleep(2.5)
        assert wallet.looks == looks + 2
        nursery.cancel_scope.cancel()
