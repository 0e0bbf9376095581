"""The courier: takes transfers, deposits and withdrawals to the wallet, and decides what a failure means.

Transfers run side by side as far as their order allows (``wallet_order``), so each finds its money at the wallet.

Rule 1: no answer is no fault of the transfer while the breaker says that the wallet is away: an outage makes no dead
letter. It is one when the wallet fails at it again and again and is well otherwise.
Rule 2: a refusal for want of money means that the wallet has less than it was told, or that a dead letter was to bring
it. It is final only when nobody can bring the money: everything published is settled, no transfer that is not delivered
would credit who is short, and the wallet still refuses.
Rule 3: requests go out only while the shared lock is held. Who wants it alone gets it, with nothing on its way.
It refuses to know SQL and HTTP.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable
from typing import Final, Protocol

import psycopg
import trio

from tradeengine.actors.wallet_desk import HoldingJob, Job, News, Round, TransferJob
from tradeengine.actors.wallet_intake import Intake
from tradeengine.actors.wallet_metrics import WalletMetrics
from tradeengine.ipc.crashpoints import crash_point
from tradeengine.settings import Wallet as WalletSettings
from tradeengine.storage.outbox import Retry
from tradeengine.storage.wallet_fundings import HoldingKind
from tradeengine.wallet.breaker import BreakerState
from tradeengine.wallet.guarded import GuardedWallet
from tradeengine.wallet.port import BreakerOpen, Progress, RefusalCode, Refused, Unavailable

WINDOW_PER_CALL: Final = 16
"""Jobs read ahead for each request that may be on its way: a round takes as long as a few requests."""
CREDIT_PAUSE_S_MIN: Final = 0.5
CREDIT_PAUSE_S_MAX: Final = 30.0
"""What the wallet refused for want of money is tried again when someone is credited, and after a pause that doubles."""
ROUND_INTERVAL_S: Final = 0.004
"""Rounds begin at least so far apart: what was delivered meanwhile is one statement."""
IDLE_S: Final = 0.05
"""Without news the database is looked at so often: for deposits, retried dead letters, and what was put off."""
COUNTS_INTERVAL_S: Final = 0.5
COUNTS_SHARE: Final = 0.05
"""What waits is counted so often, and more seldom when counting would take a larger share of the time."""
BARRIER_PAUSE_S: Final = 0.005
PROBE_PAUSE_S: Final = 0.02
DATABASE_RETRY_S: Final = 0.5
AWAY: Final = "the wallet does not answer: transfers, deposits and withdrawals wait, trading goes on"
_DEPOSIT_REFUSED: Final = {RefusalCode.INSUFFICIENT: "INSUFFICIENT_BALANCE"}
_UNCERTAIN: Final = frozenset({RefusalCode.ANSWER_CHANGED, RefusalCode.STUCK})


class Rounds(Protocol):
    """What is asked of the desk, in a thread."""

    def work(self, done: Round) -> News:
        """Do a round. Raises psycopg.Error."""

    def keep_progress(self, transfer_id: int, progress: str) -> None:
        """Keep a transfer's progress. Raises psycopg.Error."""

    def close(self) -> None:
        """Close the connection."""


class Courier:
    """Everything between the desk and the wallet. Run ``deliver`` and ``keep_rounds`` side by side."""

    def __init__(
        self,
        wallet: GuardedWallet,
        desks: tuple[Rounds, Rounds],
        settings: WalletSettings,
        metrics: WalletMetrics,
        *,
        heads: Callable[[], list[int]],
        passed: Callable[[list[int]], bool],
        horizon: Callable[[], Callable[[], bool]],
        tell: Callable[[str], None],
    ) -> None:
        """Join the ends up.

        desks: one for rounds, one for what cannot wait for a round. heads, passed: where events end, and whether
        settlement has got there. horizon: gives what says whether every trade that happened before those which are
        settled now is settled too. tell: called with what is wrong, with "" when nothing is any more.
        """
        self._wallet = wallet
        self._desk, self._progress_desk = desks
        self._progress_turn = trio.Lock()
        self._settings = settings
        self._metrics = metrics
        self._heads = heads
        self._passed = passed
        self._tell = tell
        self._window = WINDOW_PER_CALL * settings.concurrency
        self._queue, self._jobs = trio.open_memory_channel[Job](math.inf)
        self._next = Round()
        self._wanted = trio.Event()
        self._gate = trio.Event()
        self._idle = trio.Event()
        self._lock_is_wanted = False
        self._count_at_s = 0.0
        self._in_flight = 0
        self._intake = Intake(self._window, heads=heads, passed=passed, horizon=horizon)
        self._order = self._intake.order
        self._suspects: list[int] = []
        self._told: dict[str, str] = {}

    def want_round(self) -> None:
        """Ask for a round soon: there is news."""
        self._wanted.set()

    def breaker_changed(self, state: BreakerState) -> None:
        """Hear of the breaker's state."""
        self._metrics.show_breaker(int(state))
        if state is BreakerState.OPEN:
            # The wallet is away as a whole: those that failed last were not at fault.
            self._next.forgiven += self._suspects
            self._suspects = []
            self._say("wallet", AWAY)
        elif state is BreakerState.CLOSED:
            self._say("wallet", "")

    async def deliver(self) -> None:
        """Take jobs to the wallet, for ever."""
        async with trio.open_nursery() as nursery:
            for _ in range(self._settings.concurrency):
                nursery.start_soon(self._take_jobs)

    async def keep_rounds(self) -> None:
        """Do rounds with the database, for ever."""
        while True:
            began_s = trio.current_time()
            self._wanted = trio.Event()
            try:
                await self._do_round()
            except psycopg.Error as error:
                self._desk.close()
                self._close_gate()
                self._metrics.count("errors")
                self._say("database", f"the database: {' '.join(str(error).split()) or type(error).__name__}")
                await trio.sleep(DATABASE_RETRY_S)
            else:
                self._say("database", "")
                if not self._next.writes():
                    with trio.move_on_after(ROUND_INTERVAL_S if self._intake.waits_for_settlement() else IDLE_S):
                        await self._wanted.wait()
            await trio.sleep(max(0.0, began_s + ROUND_INTERVAL_S - trio.current_time()))

    def _close_gate(self) -> None:
        """Let no request go out. A closed gate is kept: those who wait at it must hear when it opens."""
        if self._gate.is_set():
            self._gate = trio.Event()

    async def _do_round(self) -> None:
        """Write down what became of requests, and read new ones. Raises psycopg.Error."""
        began_s = trio.current_time()
        gives_lock_back, self._lock_is_wanted = self._lock_is_wanted, False
        if gives_lock_back:
            self._close_gate()
            while self._in_flight:
                self._idle = trio.Event()
                await self._idle.wait()
        done, self._next = self._next, Round()
        done.gives_lock_back = gives_lock_back
        self._intake.prepare(done)
        done.wants_counts = began_s > self._count_at_s
        try:
            news = await trio.to_thread.run_sync(self._desk.work, done)
        except BaseException:
            self._next = done.joined(self._next)
            self._order.asked_in_vain(done.asks)
            raise
        self._metrics.note_round(trio.current_time() - began_s)
        self._intake.forget(done)
        self._take(news, done)

    def _take(self, news: News, done: Round) -> None:
        """Take up what a round has read."""
        for job in news.waiting:
            self._wait_for_credit(job)
        for job in news.alone:
            job.alone = True
            self._queue.send_nowait(job)
        for ready in self._intake.take(news):
            self._queue.send_nowait(ready)
        self._send_ready()
        if news.outbox is not None:
            self._count_at_s = trio.current_time() + max(COUNTS_INTERVAL_S, news.counting_s / COUNTS_SHARE)
            self._metrics.show_outbox(news.outbox)
            if not news.outbox.dead:
                self._break_circle()
        if self._intake.wants_more(news, done):
            self.want_round()
        if news.is_locked:
            self._gate.set()
        self._lock_is_wanted = news.lock_is_wanted

    def _send_ready(self) -> None:
        """Put transfers that may go into the queue, a window of them."""
        while self._queue.statistics().current_buffer_used < self._window:
            job = self._order.next_ready()
            if job is None:
                return
            self._queue.send_nowait(job)

    async def _take_jobs(self) -> None:
        async for job in self._jobs.clone():
            while not await self._carry(job):
                pass

    async def _carry(self, job: Job) -> bool:
        """Ask the wallet once; returns whether something became of it, which the next round writes down."""
        await self._wallet.wait_passable()
        await self._gate.wait()
        if self._wallet.state is BreakerState.OPEN:
            return False
        self._in_flight += 1
        self._metrics.show_in_flight(self._in_flight)
        try:
            await self._ask(job)
        except BreakerOpen:
            # Half open, and another request is the probe.
            failure: Exception | None = None
        except (Unavailable, Refused, psycopg.Error) as error:
            failure = error
        else:
            self._note_done(job)
            return True
        finally:
            self._in_flight -= 1
            self._metrics.show_in_flight(self._in_flight)
            self._idle.set()
        if failure is None:
            await trio.sleep(PROBE_PAUSE_S)
            return False
        await self._note_failure(job, failure)
        self._send_ready()
        self.want_round()
        return True

    async def _ask(self, job: Job) -> None:
        """Send one request. Raises Unavailable, Refused; psycopg.Error when progress cannot be kept."""
        began_s = trio.current_time()
        if isinstance(job, TransferJob):

            async def store(note: str) -> None:
                async with self._progress_turn:
                    await trio.to_thread.run_sync(self._keep_progress, job.row.id, note)

            sending = self._wallet.transfer(job.transfer, Progress(job.row.progress, store))
        elif job.row.kind is HoldingKind.RESERVE:
            sending = self._wallet.reserve(job.holding)
        else:
            sending = self._wallet.release(job.holding)
        try:
            await sending
        except BreakerOpen:
            raise
        except (Unavailable, Refused):
            self._note_request(began_s)
            raise
        self._note_request(began_s)

    def _note_request(self, began_s: float) -> None:
        self._metrics.count("requests")
        self._metrics.note_request(trio.current_time() - began_s)

    def _keep_progress(self, transfer_id: int, note: str) -> None:
        try:
            self._progress_desk.keep_progress(transfer_id, note)
        except psycopg.Error:
            self._progress_desk.close()
            raise
        crash_point("wallet.after_progress")

    def _note_done(self, job: Job) -> None:
        crash_point("wallet.before_marking")
        self._note_answer()
        if isinstance(job, TransferJob):
            self._next.delivered.append(job.row.id)
            self._next.hastened += self._order.delivered(job.row.id)
            self._metrics.count("transfers_delivered")
            self._metrics.note_delivery(max(time.time() - job.row.created_s, 0.0))
        elif job.row.kind is HoldingKind.RESERVE:
            self._next.reserved.append(job.row.id)
            self._next.hastened += self._order.credited(job.row.account_id, job.row.asset_id)
            self._order.read_again((job.row.account_id, job.row.asset_id))
            self._metrics.count("deposits_reserved")
        elif job.row.kind is HoldingKind.RELEASE:
            self._next.released.append(job.row.id)
            self._order.end_release(job.row.id)
            self._metrics.count("withdrawals_released")
        else:
            self._next.given_back.append(job.row.id)
        self._send_ready()
        self.want_round()

    def _note_answer(self) -> None:
        """Note that the wallet is there."""
        self._suspects = []
        if self._wallet.state is BreakerState.CLOSED:
            self._say("wallet", "")

    async def _note_failure(self, job: Job, failure: Exception) -> None:
        if isinstance(failure, Refused):
            self._note_answer()
            self._metrics.count("refused")
            await self._note_refusal(job, failure)
        elif isinstance(failure, Unavailable):
            self._metrics.count("unavailable")
            await self._note_silence(job, failure)
        else:
            self._put_off(job, job.row.tries, self._backoff_s(0), f"the database: {failure}")

    async def _note_silence(self, job: Job, failure: Unavailable) -> None:
        """Count a try, unless the wallet is away as a whole."""
        tries = job.row.tries
        if self._wallet.state is BreakerState.CLOSED and await self._is_well():
            tries += 1
            if tries >= self._settings.tries_max:
                self._bury(job, tries, failure.message)
                return
            if isinstance(job, TransferJob):
                self._suspects.append(job.row.id)
        delay_s = max(self._backoff_s(tries - 1), failure.retry_after_s or 0.0)
        self._put_off(job, tries, delay_s, failure.message)

    async def _is_well(self) -> bool:
        """Ask the wallet itself before one transfer is blamed for its silence."""
        try:
            await self._wallet.health()
        except (Unavailable, Refused):
            self._say("wallet", AWAY)
            return False
        return True

    async def _note_refusal(self, job: Job, refusal: Refused) -> None:
        said = f"{refusal.code.value}: {refusal.message}"
        is_short = refusal.code is RefusalCode.INSUFFICIENT
        if isinstance(job, TransferJob) and is_short and not job.alone:
            await self._until_settled()
            self._next.short.append(job)
        elif isinstance(job, HoldingJob) and job.row.kind is HoldingKind.RESERVE and refusal.code not in _UNCERTAIN:
            reason = _DEPOSIT_REFUSED.get(refusal.code, "INVALID_REQUEST")
            self._next.deposits_refused.append((job.row.id, reason, said))
        else:
            self._bury(job, job.row.tries + 1, said)

    async def _until_settled(self) -> None:
        """Wait until what was published by now is settled: a credit that someone waits for is then in the outbox."""
        heads = self._heads()
        # Cursors are words in memory that another process moves: there is no event to wait for.
        while not self._passed(heads):  # noqa: ASYNC110
            await trio.sleep(BARRIER_PAUSE_S)

    def _wait_for_credit(self, job: TransferJob) -> None:
        self._metrics.count("waits")
        refusals, may_have_it_now = self._order.refused(job.row.id)
        delay_s = 0.0 if may_have_it_now else min(CREDIT_PAUSE_S_MIN * 2.0 ** min(refusals, 30), CREDIT_PAUSE_S_MAX)
        why = "the wallet has less than this takes: waits for another transfer's credit"
        self._next.transfers_put_off.append(Retry(job.row.id, job.row.tries, delay_s, why))

    def _break_circle(self) -> None:
        """Give up the first one when all wait for it: somebody took its money at the wallet, and people must know."""
        transfer_id = None if self._next.writes() else self._intake.stuck()
        if transfer_id is not None:
            self._order.buried(transfer_id)
            why = "the wallet has less than this takes, and all that would bring more wait for this one"
            self._next.transfers_dead.append(Retry(transfer_id, 1, 0.0, why))
            self._metrics.count("deaths")

    def _put_off(self, job: Job, tries: int, delay_s: float, error: str) -> None:
        retry = Retry(job.row.id, tries, delay_s, error)
        if isinstance(job, TransferJob):
            self._order.put_off(job.row.id)
            self._next.transfers_put_off.append(retry)
        else:
            self._next.fundings_put_off.append(retry)

    def _bury(self, job: Job, tries: int, error: str) -> None:
        letter = Retry(job.row.id, tries, 0.0, error)
        if isinstance(job, TransferJob):
            self._order.buried(job.row.id)
            self._next.transfers_dead.append(letter)
        else:
            self._order.end_release(job.row.id)
            self._next.fundings_dead.append(letter)
        self._metrics.count("deaths")

    def _backoff_s(self, failures: int) -> float:
        """Pause before the next try: doubled with each failure, up to its bound, and up to twice that by chance."""
        settings = self._settings
        base_ms = min(settings.backoff_ms_min * 2 ** min(max(failures, 0), 30), settings.backoff_ms_max)
        return float(base_ms) / 1000 * (1 + random.random())  # noqa: S311 - to spread, not to hide

    def _say(self, part: str, trouble: str) -> None:
        if self._told.get(part, "") == trouble:
            return
        self._told[part] = trouble
        self._tell("; ".join(filter(None, self._told.values())))
