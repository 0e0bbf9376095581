"""How ``tradeengine top`` looks: figures as tables that fit a terminal of any size, from 80 columns on.

Rule 1: who is slow stands in the second line in words, and its row is marked with a sign, not by colour alone.
Rule 2: what does not fit in height is left out from the end, and said so.
It refuses to know where figures come from, and keys.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from rich.console import Group
from rich.table import Table
from rich.text import Text

from tradeengine.cli.top_figures import LOAD_HIGH, LOAD_RAISED

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rich.console import RenderableType

    from tradeengine.cli.top_figures import ActorFigures, Figures, RingFigures, SymbolFigures

SORTS: Final[dict[str, Callable[[ActorFigures], Any]]] = {
    "load": lambda actor: (actor.is_well, -actor.load, -(actor.utilisation or 0.0), actor.name),
    "behind": lambda actor: (-actor.lag, -actor.load, actor.name),
    "rate": lambda actor: (-actor.records_in_per_second - actor.records_out_per_second, actor.name),
    "latency": lambda actor: (-(actor.p99_ms or 0.0), actor.name),
    "name": lambda actor: actor.name,
}
"""Orders of the actors, by name; the key s goes from one to the next."""
SLOW: Final = "◀"
_HEAD_LINES: Final = 3
_TABLE_LINES: Final = 2
"""Of each table: a blank line and its head."""
_LEAST_ROWS: Final = 3
_NAME_WIDTH_MIN: Final = 9
_NOTHING: Final = "–"
_THOUSAND: Final = 1000


def draw(figures: Figures, *, sort: str, height: int | None = None) -> RenderableType:
    """Draw everything. height: lines that there are; None: as many as it takes."""
    actors = sorted(figures.actors, key=SORTS[sort])
    rings = sorted(filter(_matters, figures.rings), key=lambda ring: (-ring.fill, -ring.written_per_second, ring.name))
    messages = [line for actor in actors if (line := _message(actor)) is not None]
    shares = _share_height(height, [len(actors), len(rings), len(figures.symbols)], len(messages))
    return Group(
        _head(figures, sort),
        _slowest(figures),
        *messages,
        _table(_ACTOR_COLUMNS, actors[: shares[0]], lambda actor: _actor_row(actor, figures.slowest)),
        *_left_out(len(actors) - shares[0], "actors"),
        _table(_RING_COLUMNS, rings[: shares[1]], _ring_row),
        *_left_out(len(rings) - shares[1], "rings"),
        _table(_SYMBOL_COLUMNS, figures.symbols[: shares[2]], _symbol_row),
        *_left_out(len(figures.symbols) - shares[2], "symbols"),
    )


def draw_waiting(what: str) -> RenderableType:
    """Draw that there is nothing to look at."""
    return Group(Text("tradeengine top", "bold"), Text(f"waiting: {what}", "yellow"), Text("q quits", "dim"))


def _head(figures: Figures, sort: str) -> Text:
    line = Text("tradeengine top", "bold")
    line.append(f"  up {_duration(figures.uptime_seconds)}, the last {figures.interval_seconds:.1f} s", "default")
    line.append(f"  by {sort}; s sorts, q quits", "dim")
    return _one_line(line)


def _slowest(figures: Figures) -> Text:
    actor = next((actor for actor in figures.actors if actor.name == figures.slowest), None)
    if actor is None:
        busiest = max(figures.actors, key=lambda actor: actor.load)
        return _one_line(Text(f"nobody is slow; busiest: {busiest.name}, {_percent(busiest.load)}", "green"))
    line = Text(f"{SLOW} slow: {actor.name}", "bold red")
    if actor.is_stuck and actor.state == "ready":
        line.append(" takes nothing")
    elif actor.is_silent:
        line.append(f" has been silent for {actor.heartbeat_age_seconds:.0f} s")
    elif not actor.is_well:
        line.append(f" is {actor.state}")
    elif actor.utilisation is not None:
        line.append(f" works {_percent(actor.utilisation)} of the time")
    if actor.lag:
        line.append(f", {_count(actor.lag)} records behind")
    if actor.p99_ms is not None:
        line.append(f", p99 {_milliseconds(actor.p99_ms)}")
    return _one_line(line)


def _message(actor: ActorFigures) -> Text | None:
    return _one_line(Text(f"  {actor.name}: {actor.message}", "red")) if actor.message else None


_ACTOR_COLUMNS: Final = (
    *("<actor", "<state", ">busy", ">in/s", ">out/s", ">behind", ">full", ">p50", ">p99", ">died", "<"),
)
_RING_COLUMNS: Final = ("<ring", "<written by", ">slots", ">rec/s", ">full", "<behind")
_SYMBOL_COLUMNS: Final = ("<symbol", ">shard", "<state", ">bid", ">ask", ">last", ">24 h", ">trades")


def _actor_row(actor: ActorFigures, slowest: str | None) -> tuple[str | Text, ...]:
    style = _style(actor.load)
    word = "silent" if actor.is_silent else actor.state
    state = Text(word, "green" if word == "ready" else "yellow" if actor.is_well else "bold red")
    return (
        Text(actor.name, "bold red" if actor.name == slowest else ""),
        state,
        Text(_NOTHING if actor.utilisation is None else _percent(actor.utilisation), style),
        _rate(actor.records_in_per_second),
        _rate(actor.records_out_per_second),
        Text(_count(actor.lag), "bold red" if actor.is_stuck else ""),
        Text(_percent(actor.fill), _style(actor.fill)),
        _milliseconds(actor.p50_ms),
        _milliseconds(actor.p99_ms),
        Text(str(actor.restarts), "yellow" if actor.restarts else ""),
        Text(SLOW, "bold red") if actor.name == slowest else "",
    )


def _ring_row(ring: RingFigures) -> tuple[str | Text, ...]:
    behind = ", ".join(f"{reader} {_count(lag)}" for reader, lag in ring.lags.items())
    return (
        ring.name,
        ring.writer,
        _count(ring.capacity),
        _rate(ring.written_per_second),
        Text(_percent(ring.fill), _style(ring.fill)),
        behind or _NOTHING,
    )


def _symbol_row(symbol: SymbolFigures) -> tuple[str | Text, ...]:
    return (
        symbol.symbol,
        str(symbol.shard),
        Text(symbol.status, "green" if symbol.status == "open" else "bold red"),
        symbol.best_bid or _NOTHING,
        symbol.best_ask or _NOTHING,
        symbol.last_price or _NOTHING,
        symbol.volume_24h,
        _count(symbol.trades_24h),
    )


def _matters(ring: RingFigures) -> bool:
    """Leave out rings of local clients that nobody is."""
    return not ring.name.startswith("ingress.client-") or bool(ring.written)


def _table(columns: Sequence[str], items: Sequence[Any], row: Callable[[Any], tuple[str | Text, ...]]) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold underline")
    for place, column in enumerate(columns):
        justify: Any = "right" if column[0] == ">" else "left"
        # The first names the row: it is shown whole, whatever else must give way.
        table.add_column(
            column[1:], justify=justify, no_wrap=True, overflow="ellipsis", min_width=9 if not place else None
        )
    for item in items:
        table.add_row(*row(item))
    return table


def _share_height(height: int | None, wanted: list[int], messages: int) -> list[int]:
    """Say how many rows of each table are shown: the first table first, but each a few."""
    if height is None:
        return wanted
    room = height - _HEAD_LINES - messages - len(wanted) * _TABLE_LINES
    shares = [min(rows, _LEAST_ROWS) for rows in wanted]
    for place, rows in enumerate(wanted):
        shares[place] += max(min(rows - shares[place], room - sum(shares)), 0)
    return shares


def _left_out(count: int, what: str) -> list[Text]:
    return [Text(f"… {count} more {what}", "dim")] if count > 0 else []


def _style(share: float) -> str:
    return "bold red" if share >= LOAD_HIGH else "yellow" if share >= LOAD_RAISED else ""


def _one_line(line: Text) -> Text:
    line.no_wrap, line.overflow = True, "ellipsis"
    return line


def _percent(share: float) -> str:
    return f"{share:.0%}" if share >= 0.01 or not share else "<1%"


def _rate(per_second: float) -> str:
    return _count(round(per_second)) if per_second >= 1 or not per_second else "<1"


def _count(number: int) -> str:
    """Write a number in at most five characters."""
    for factor, unit in ((_THOUSAND**3, "G"), (_THOUSAND**2, "M"), (_THOUSAND, "k")):
        if number >= factor * 10:
            return f"{number / factor:.0f}{unit}"
        if number >= factor:
            return f"{number / factor:.1f}{unit}"
    return str(number)


def _milliseconds(duration_ms: float | None) -> str:
    if duration_ms is None:
        return _NOTHING
    if duration_ms >= 10 * _THOUSAND:
        return f"{duration_ms / _THOUSAND:.0f} s"
    if duration_ms >= 10:
        return f"{duration_ms:.0f} ms"
    return f"{duration_ms:.1f} ms" if duration_ms >= 1 else f"{duration_ms * _THOUSAND:.0f} us"


def _duration(seconds: float) -> str:
    minutes, rest_s = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest_s:02}"
