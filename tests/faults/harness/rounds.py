"""One round: an engine, its clients and listeners, a plan's strikes, and then everything laid side by side."""

from __future__ import annotations

import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import trio
from tests.e2e.users import connect_database, sign_in
from tests.faults.harness.check import differences, ledger_differences
from tests.faults.harness.clients import resolve, trade
from tests.faults.harness.faults import FAULTS, Strike
from tests.faults.harness.intents import FUNDS
from tests.faults.harness.kinds import STORM_USERS
from tests.faults.harness.notes import Note, Notebook, last_end
from tests.faults.harness.plan import LANES, USERS, Plan
from tests.faults.harness.replay import replay_differences
from tests.faults.harness.venue import Findings, Venue, run
from tests.faults.harness.watchers import Watchers, check_balances, watching
from tests.faults.harness.world import World, read_world

QUIET_S: Final = 1.0
"""Of trading before the first strike, and after the last."""
INTENTS_MIN: Final = 200
"""A round that has not seen so many goes on for a while."""
ENOUGH_S_MAX: Final = 30.0
END_S: Final = 0.5
"""So long after its time something has ended."""
SETTLED_S_MAX: Final = 120.0


@dataclass
class Round:
    """What came of a round. ``wrong``: nothing, if all is well."""

    plan: Plan
    folder: Path
    findings: Findings = field(default_factory=Findings)
    notes: list[Note] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    codes: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def wrong(self) -> list[str]:
        """Everything that was found."""
        return self.findings.wrong


async def run_round(plan: Plan, folder: Path) -> Round:
    """Run a round in an empty folder; whatever goes wrong is in what is returned."""
    result = Round(plan, folder)
    venue = Venue(folder, plan, result.findings)
    began_s = time.monotonic()
    try:
        with Notebook(folder / "notes.jsonl") as notebook:
            try:
                await _live(venue, notebook)
            finally:
                result.notes = notebook.notes
                result.counts, result.codes = dict(notebook.counts()), dict(notebook.codes)
    except Exception:
        result.wrong.append(f"the round broke off: {traceback.format_exc()}")
    finally:
        with trio.CancelScope(shield=True):
            await run(venue.abandon)
    (folder / "engine.log").write_text("".join([*venue.said, *venue.last_words()]), encoding="utf-8")
    result.seconds = time.monotonic() - began_s
    return result


async def _live(venue: Venue, notebook: Notebook) -> None:
    await venue.start()
    for user in (*USERS, *STORM_USERS):
        await run(lambda user=user: venue.fund(user, FUNDS))  # type: ignore[misc]
    async with trio.open_nursery() as watches:
        venue.nursery = watches
        async with watching(venue) as watchers:
            await _trade_and_strike(venue, notebook)
            await venue.wait_well()
            await resolve(venue, notebook, LANES)
            await trio.sleep(max(0.0, last_end(notebook.notes) - time.time() + END_S))
            world = await run(lambda: _read_settled(venue))
            await _check(venue, notebook, watchers, world)
    await venue.stop()


async def _trade_and_strike(venue: Venue, notebook: Notebook) -> None:
    stop = trio.Event()
    async with trio.open_nursery() as nursery:
        for lane in LANES:
            nursery.start_soon(trade, venue, lane, notebook, stop)
        try:
            await trio.sleep(QUIET_S)
            try:
                for strike in venue.plan.strikes:
                    await _strike(venue, strike)
                await venue.wait_well()
            except AssertionError as error:
                # No more strikes, but what clients were told is looked at all the same.
                venue.findings.wrong.append(f"the engine does not get well: {error}")
            await trio.sleep(QUIET_S)
            with trio.move_on_after(ENOUGH_S_MAX):
                while len(notebook.notes) < INTENTS_MIN:
                    await notebook.grown()
        finally:
            stop.set()


async def _strike(venue: Venue, strike: Strike) -> None:
    await trio.sleep(strike.pause_s)
    await FAULTS[strike.fault].strike(venue, strike)
    if strike.waits:
        await venue.wait_well(background=False)


def _read_settled(venue: Venue) -> World:
    """Read the database once nothing is on its way any more: all that was published is settled, and does not grow."""
    deadline_s = time.monotonic() + SETTLED_S_MAX
    with connect_database(venue.engine) as connection:
        while True:
            lags = venue.lags()
            world = read_world(connection)
            if not any(lags.values()) and not any(venue.lags().values()):
                return world
            assert time.monotonic() < deadline_s, f"not drained: {lags}"
            time.sleep(0.05)


async def _check(venue: Venue, notebook: Notebook, watchers: Watchers, world: World) -> None:
    wrong = venue.findings.wrong
    wrong += differences(notebook.notes, world, USERS)
    with connect_database(venue.engine) as connection:
        wrong += ledger_differences(connection)
        if (outside := venue.outside) is not None:
            wrong += await run(lambda: list(outside.differences(connection)))
    wrong += await run(lambda: list(replay_differences(venue.settings, world)))
    for name in USERS:
        user = sign_in(venue.engine, name)
        wrong += await run(lambda user=user: check_balances(user, world))  # type: ignore[misc]
        user.http.close()
    for command in (["reconcile"], ["verify"], ["audit", "verify"]):
        looked = await run(lambda command=command: venue.command(*command))  # type: ignore[misc]
        if looked.returncode != 0:
            wrong.append(f"{' '.join(command)}: {looked.stdout}{looked.stderr}")
    await watchers.check(world)
