"""``tradeengine top``: figures of a running engine, for scripts and live in a real terminal."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from tests.cli.terminal import ENTER_PICTURE, LEAVE_PICTURE, SHOW_CURSOR, Terminal, in_terminal
from tests.e2e.users import Json, make_user
from tests.engines import PROGRAM, Engine, run_command, running_engine

from tradeengine.cli.top import Top
from tradeengine.cli.top_figures import Figures, Observatory
from tradeengine.storage.embedded import running_embedded

SORTS = ("load", "behind", "rate", "latency", "name")


def command_of(engine: Engine, *arguments: str) -> list[str]:
    """Give the command that shows an engine, looking five times a second."""
    return [*PROGRAM, "top", "--data-dir", str(engine.data_dir), "--interval", "0.2", *arguments]


@contextmanager
def top(engine: Engine, *arguments: str, columns: int = 100, rows: int = 60) -> Iterator[Terminal]:
    """Run it in a terminal."""
    with in_terminal(command_of(engine, *arguments), columns, rows) as terminal:
        yield terminal


def shows(*words: str) -> Callable[[list[str]], bool]:
    """Say whether a picture has all these words."""
    return lambda lines: all(word in "\n".join(lines) for word in words)


def is_left_as_found(terminal: Terminal, before: list[object]) -> bool:
    """Say whether the terminal is set as it was, its picture is back, and the cursor can be seen."""
    after = terminal.output.rpartition(ENTER_PICTURE)[2]
    return terminal.attributes() == before and LEAVE_PICTURE in after and SHOW_CURSOR in after


def test_one_interval_as_json(engine: Engine) -> None:
    """--once --json prints one object: every process, ring and symbol, with rates of the interval, and ends with 0."""
    result = engine.command("top", "--once", "--json", "--interval", "0.3")
    assert (result.returncode, result.stderr) == (0, "")
    (line,) = result.stdout.splitlines()
    figures = json.loads(line)
    server = running_embedded(engine.data_dir)
    assert server is not None
    expected = {**engine.actors(), "operator": engine.process.pid, "database": server.pid}
    assert {actor["name"]: actor["pid"] for actor in figures["actors"]} == expected
    for actor in figures["actors"]:
        assert actor["utilisation"] is None or 0 <= actor["utilisation"] <= 1
    rings = {ring["name"]: ring for ring in figures["rings"]}
    assert (rings["events.0"]["writer"], set(rings["events.0"]["lags"])) == ("matcher-0", {"risk", "settlement"})
    with engine.client() as http:
        listed = {symbol["symbol"]: symbol["status"] for symbol in http.get("/symbols").json()["data"]}
    assert {symbol["symbol"]: symbol["status"] for symbol in figures["symbols"]} == listed
    assert figures["interval_seconds"] > 0.2


def test_tables_once(engine: Engine) -> None:
    """--once prints tables that name every actor; in 80 columns no line is longer, without any control codes."""
    result = run_command("top", "--once", "--interval", "0.3", "--data-dir", str(engine.data_dir), COLUMNS="80")
    assert (result.returncode, result.stderr) == (0, "")
    assert "\x1b" not in result.stdout
    lines = result.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    first_words = [line.split()[:1] for line in lines]
    for name in (*engine.actors(), "operator", "database", "BTC/USDT"):
        assert [name] in first_words


def test_neither_terminal_nor_engine(engine: Engine, tmp_path: Path) -> None:
    """Without a terminal it says which options need none; without an engine, how to start one."""
    result = engine.command("top")
    assert (result.returncode, result.stdout) == (1, "")
    assert "--once" in result.stderr
    for arguments in ((), ("--once", "--json")):
        with in_terminal([*PROGRAM, "top", "--data-dir", str(tmp_path), *arguments]) as terminal:
            assert terminal.end() == 1
        assert "no engine is running" in terminal.output
        assert ENTER_PICTURE not in terminal.output


def test_keys(engine: Engine) -> None:
    """It shows actors, rings and symbols live; s goes through the orders, back to the first, and q ends it with 0."""
    with top(engine) as terminal:
        before = terminal.attributes()
        terminal.picture(shows("by load", "matcher-0", "events.0", "BTC/USDT"))
        assert terminal.attributes() != before
        for sort in (*SORTS[1:], SORTS[0]):
            terminal.type("s")
            lines = terminal.picture(shows(f"by {sort};"))
        terminal.type("ssss")
        lines = terminal.picture(shows("by name;"))
        names = [line.split()[0] for line in actor_lines(lines)]
        assert names == sorted(names)
        assert {*names} >= {*engine.actors(), "operator", "database"}
        terminal.type("q")
        assert terminal.end() == 0
        assert is_left_as_found(terminal, before)


def actor_lines(lines: list[str]) -> list[str]:
    """Give the rows of the actors' table."""
    begin = next(place for place, line in enumerate(lines) if line.split()[:2] == ["actor", "state"])
    end = next(place for place, line in enumerate(lines) if line.split()[:2] == ["ring", "written"])
    return [line for line in lines[begin + 1 : end] if not line.startswith("…")]


@pytest.mark.parametrize(
    ("how", "status"),
    [
        (lambda terminal: terminal.type("\x03"), 130),
        (lambda terminal: terminal.process.send_signal(signal.SIGTERM), 128 + signal.SIGTERM),
        (lambda terminal: terminal.process.send_signal(signal.SIGHUP), 128 + signal.SIGHUP),
    ],
    ids=["ctrl-c", "sigterm", "sighup"],
)
def test_ends_leave_the_terminal_as_it_was(engine: Engine, how: Callable[[Terminal], Any], status: int) -> None:
    """However it is ended, the terminal is set as before, shows what it showed, and has its cursor."""
    with top(engine) as terminal:
        before = terminal.attributes()
        terminal.picture(shows("by load"))
        how(terminal)
        assert terminal.end() == status
        assert is_left_as_found(terminal, before)
        assert "Traceback" not in terminal.output


def test_signal_in_the_middle_of_a_look_ends_it(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where nobody hears an exception, as in a callback, the signal counts all the same; a second one ends at once."""
    shown = Top(engine.data_dir, 1.0, "name")

    def look(observatory: Observatory) -> Figures:
        with suppress(BaseException):
            signal.raise_signal(signal.SIGINT)
        return figures(observatory)

    figures = Observatory.figures
    monkeypatch.setattr(Observatory, "figures", look)
    with pytest.raises(SystemExit) as ended:
        shown.run()
    assert ended.value.code == 130
    with pytest.raises(SystemExit):
        shown._end(signal.SIGTERM, None)
    capsys.readouterr()


def test_resize(engine: Engine) -> None:
    """After a resize the next picture fits: as wide and high as the terminal, whose first lines stay what they are."""
    with top(engine, columns=132, rows=60) as terminal:
        terminal.picture(lambda lines: len(lines) == 60)
        for columns, rows in ((80, 24), (200, 50), (80, 12), (40, 10), (80, 24)):
            terminal.resize(columns, rows)

            def fits(lines: list[str], columns: int = columns, rows: int = rows) -> bool:
                return len(lines) == rows and {len(line) for line in lines} == {columns}

            lines = terminal.picture(fits)
            assert lines[0].startswith("tradeengine top")
            assert any(line.startswith("actor") for line in lines)
        # 24 lines are for the actors, some rings and some symbols, and what is left out is counted.
        assert any("more rings" in line for line in lines)
        assert any(line.startswith("BTC/USDT") for line in lines)
        terminal.type("q")
        assert terminal.end() == 0


def test_who_is_slow_is_marked(engine: Engine) -> None:
    """An actor that stands still while something waits for it is named in the second line and marked; then no more."""
    order: Json = {"symbol": "BTC/USDT", "side": "buy", "type": "limit", "quantity": "0.01", "price": "1000"}
    trader = make_user(engine, "trader", {"USDT": "1000"})
    with top(engine, columns=80) as terminal:
        trader.place(**order)
        terminal.picture(shows("nobody is slow"))
        with engine.standing_still("settlement"):
            for _ in range(2):
                trader.place(**order)
            lines = terminal.picture(shows("slow: settlement"))
        assert "takes nothing, 2 records behind" in lines[1]
        marked = [line.split()[0] for line in actor_lines(lines) if line.rstrip().endswith("◀")]
        assert marked == ["settlement"]
        terminal.picture(shows("nobody is slow"))
        terminal.type("q")
        assert terminal.end() == 0
    trader.call("DELETE", "/orders")
    trader.http.close()


@pytest.mark.long
def test_engine_that_ends_and_comes_back(data_dir: Path) -> None:
    """When the engine is killed or stops it says so and waits; the next engine is shown without any key.

    With --json it prints a line per interval, and ends with 1 and a word about why when the engine does.
    """
    with running_engine(data_dir) as engine, top(engine) as terminal:
        before = terminal.attributes()
        terminal.picture(shows("by load", "settlement"))
        os.kill(engine.process.pid, signal.SIGKILL)
        engine.wait()
        terminal.picture(shows("waiting:"))
        with running_engine(data_dir) as again:
            terminal.picture(shows("by load", "settlement"))
            with in_terminal(command_of(again, "--json")) as script:
                script.read_until(lambda output: output.count("\n") > 2)
                again.stop()
                assert script.end() == 1
        *lines, last = script.output.split("\r\n")[:-1]
        for line in lines:
            actors = {actor["name"]: actor["pid"] for actor in json.loads(line)["actors"]}
            assert actors["operator"] == again.process.pid
        assert last == f"tradeengine: the engine in {data_dir} has ended"
        terminal.picture(shows("waiting:", "no engine is running"))
        terminal.type("s")
        terminal.type("q")
        assert terminal.end() == 0
        assert is_left_as_found(terminal, before)


def test_terminal_without_a_keyboard(engine: Engine) -> None:
    """With its input closed or elsewhere it shows all the same, until it is told to end."""
    words = " ".join(command_of(engine))
    with in_terminal(["/bin/sh", "-c", f"exec {words} </dev/null"]) as terminal:
        terminal.picture(shows("by load"))
        terminal.process.send_signal(signal.SIGTERM)
        assert terminal.end() == 128 + signal.SIGTERM


def test_looking_costs_no_place(engine: Engine) -> None:
    """While it looks, every place for local clients is free, and many of it can look."""
    with top(engine) as first, top(engine) as second:
        for terminal in (first, second):
            terminal.picture(shows("by load"))
        status = json.loads(engine.command("status", "--json").stdout)
        assert status["clients"] == []
        for terminal in (first, second):
            terminal.type("q")
        assert [terminal.end() for terminal in (first, second)] == [0, 0]
