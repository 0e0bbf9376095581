"""What ``tradeengine top`` makes of two looks at an engine's memory, in which the test counts in the actors' place."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import numpy as np
import pytest
from rich.console import Console

from tradeengine.actors.memory import Memory
from tradeengine.actors.topology import plan
from tradeengine.cli.top_figures import ActorFigures, Figures, Observatory
from tradeengine.cli.top_screen import SORTS, draw
from tradeengine.core.records import command_dtype, event_dtype
from tradeengine.core.tables import ActorState, actor_dtype
from tradeengine.ipc.wiring import Wiring
from tradeengine.settings_files import load_settings

SLOTS = 1024


class Stage:
    """An engine's memory and who looks at it."""

    def __init__(self, memory: Memory) -> None:
        self.memory = memory
        for actor in memory.topology.actors:
            self.set_state(actor.name, ActorState.READY)
        self.observatory = Observatory(Wiring(memory.observation()))

    def set_state(self, name: str, state: ActorState, message: str = "", silent_ms: int = 0) -> None:
        """Write an actor's row as the supervisor does."""
        row = np.zeros(1, actor_dtype)
        row["heartbeat_age_ms"] = silent_ms
        row["name"], row["state"], row["pid"], row["message"] = name.encode(), state, 7, message.encode()
        place = [actor.name for actor in self.memory.topology.actors].index(name)
        self.memory.tables["actors"].write_rows((place,), row)

    def work(self, name: str, busy_us: int, latencies_us: tuple[int, ...] = ()) -> None:
        """Count an actor's work."""
        page = self.memory.metrics[name]
        page.add(page.counter("busy_us"), busy_us)
        if latencies_us:
            page.record(page.histogram("command_latency_us"), np.array(latencies_us, np.int64))

    def look(self) -> tuple[Figures, dict[str, ActorFigures]]:
        """Look once more; the actors also by name."""
        figures = self.observatory.figures()
        return figures, {actor.name: actor for actor in figures.actors}


@pytest.fixture
def stage() -> Iterator[Stage]:
    """Make the memory of a small engine of two shards."""
    overrides = {
        "engine.shards": 2,
        "limits.clients_max": 1,
        "limits.accounts_max": 64,
        "limits.symbols_max": 4,
        "rings.events_slots": SLOTS,
        "rings.commands_slots": SLOTS,
        "rings.reserve_slots": 16,
        "settlement.backlog_events_max": 512,
    }
    settings = load_settings(overrides=overrides, environ={})
    with closing(Memory(plan(settings), settings, {"events.0": 1 << 40})) as memory:
        yield Stage(memory)


def test_figures_are_of_the_interval(stage: Stage) -> None:
    """Utilisation, rates and percentiles are of what happened between two looks, and nothing of before."""
    events = stage.memory.rings["events.0"].writer()
    stage.work("matcher-0", 10**12, (10**6,) * 100)
    events.publish(np.zeros(500, event_dtype))
    stage.look()
    stage.work("matcher-0", 5, (1000, 1000, 3000))
    events.publish(np.zeros(30, event_dtype))
    stage.memory.rings["events.0"].reader("risk").advance(520)
    figures, actors = stage.look()
    matcher = actors["matcher-0"]
    assert matcher.utilisation is not None
    assert matcher.utilisation < 0.5
    taken_per_second = actors["risk"].records_in_per_second
    assert matcher.records_out_per_second / taken_per_second == pytest.approx(30 / 520, rel=0.001)
    assert matcher.p50_ms is not None
    assert matcher.p99_ms is not None
    assert 1 <= matcher.p50_ms <= 17 / 16
    assert 3 <= matcher.p99_ms <= 3 * 17 / 16
    assert (actors["risk"].lag, actors["settlement"].lag) == (10, 530)
    (ring,) = (ring for ring in figures.rings if ring.name == "events.0")
    assert (ring.writer, ring.written, ring.lags) == ("matcher-0", 530, {"risk": 10, "settlement": 530})
    assert ring.fill == pytest.approx(530 / SLOTS)
    _, actors = stage.look()
    assert (actors["matcher-0"].p50_ms, actors["matcher-0"].utilisation) == (None, 0)


def test_full_ring_tells_who_is_slow(stage: Stage) -> None:
    """Nobody is slow while rings are empty; whoever lets one fill by half is, though it takes something."""
    figures, _ = stage.look()
    assert figures.slowest is None
    ring = stage.memory.rings["commands.1"]
    ring.writer().publish(np.zeros(SLOTS * 3 // 4, command_dtype))
    reader = ring.reader("matcher-1")
    reader.advance(1)
    stage.look()
    reader.advance(1)
    figures, actors = stage.look()
    assert (figures.slowest, actors["matcher-1"].is_stuck) == ("matcher-1", False)
    assert actors["matcher-1"].load == pytest.approx(0.75, abs=0.01)


def test_who_takes_nothing_is_slow(stage: Stage) -> None:
    """A single record that nobody takes for a whole interval makes its reader the slowest; taken, nobody is."""
    ring = stage.memory.rings["events.risk"]
    ring.writer().publish(np.zeros(1, event_dtype))
    figures, _ = stage.look()
    assert figures.slowest is None  # it may just have come
    figures, actors = stage.look()
    assert (figures.slowest, actors["settlement"].is_stuck, actors["settlement"].load) == ("settlement", True, 1)
    ring.reader("settlement").advance(1)
    figures, _ = stage.look()
    assert figures.slowest is None


def test_who_does_not_run_comes_first(stage: Stage) -> None:
    """An actor that is blocked or dead is named before one that has much to do, with its message."""
    stage.memory.rings["commands.0"].writer().publish(np.zeros(SLOTS, command_dtype))
    stage.set_state("publisher", ActorState.RESTARTING, "SIGKILL")
    stage.look()
    figures, _ = stage.look()
    assert figures.slowest == "publisher"
    text = drawn(figures)
    assert "slow: publisher is restarting" in text.splitlines()[1]
    assert "publisher: SIGKILL" in text


def test_who_gives_no_sign_of_life_is_slow(stage: Stage) -> None:
    """An actor for which nothing waits is named when its heart stands still, though nobody has noticed yet."""
    stage.set_state("publisher", ActorState.READY, silent_ms=1000)
    figures, _ = stage.look()
    assert figures.slowest is None
    stage.set_state("publisher", ActorState.READY, silent_ms=4000)
    figures, _ = stage.look()
    assert figures.slowest == "publisher"
    lines = drawn(figures).splitlines()
    assert "slow: publisher has been silent for 4 s" in lines[1]
    assert next(line for line in lines if line.startswith("publisher")).split()[1] == "silent"


@pytest.mark.parametrize(("columns", "rows"), [(80, 24), (80, 10), (200, 60), (40, 5)])
def test_picture_fits(stage: Stage, columns: int, rows: int) -> None:
    """Whatever the size, no line is longer than the terminal is wide, and who is not well stands first."""
    for name in ("matcher-0", "settlement"):
        stage.set_state(name, ActorState.BLOCKED, "a message that is longer than any terminal is wide " * 4)
    figures, _ = stage.look()
    lines = drawn(figures, columns, rows).splitlines()
    assert max(map(len, lines)) <= columns
    assert lines[0].startswith("tradeengine top")
    if columns >= 80:
        head = next(place for place, line in enumerate(lines) if line.startswith("actor"))
        assert [line.split()[0] for line in lines[head + 1 : head + 3]] == ["matcher-0", "settlement"]


def test_orders_of_the_actors(stage: Stage) -> None:
    """Each order puts first who has most of it."""
    stage.work("matcher-1", 10**12, (9000,))
    stage.memory.rings["events.0"].writer().publish(np.zeros(7, event_dtype))
    figures, _ = stage.look()
    first = {sort: min(figures.actors, key=key).name for sort, key in SORTS.items()}
    assert first["load"] == first["latency"] == "matcher-1"
    assert first["behind"] in {"risk", "settlement"}
    assert (first["rate"], first["name"]) == ("matcher-0", "front-0")


def drawn(figures: Figures, columns: int = 80, rows: int | None = None) -> str:
    """Draw figures as text."""
    console = Console(width=columns, color_system=None, force_terminal=False)
    with console.capture() as capture:
        console.print(draw(figures, sort="load", height=rows))
    return capture.get()
