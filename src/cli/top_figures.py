"""What ``tradeengine top`` shows, as plain numbers: made of two looks at shared memory, one interval apart.

Rule 1: rates, utilisation and percentiles are of the interval; what was not measured is None.
Rule 2: who is slow is decided here, once: the actor with the highest *load*, which is its utilisation or how full the
fullest ring is that waits for it, whichever is more; who takes nothing though something waits has the highest. Before
all of them comes who does not run, by the supervisor's word or by its silence.
It refuses to know terminals.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import msgspec

from tradeengine.core.records import TradingState
from tradeengine.core.tables import SILENCE_MS_MAX, ActorState
from tradeengine.ipc.directory import read_directory
from tradeengine.ipc.overview import Overview
from tradeengine.ipc.seqlock import SeqlockBusy
from tradeengine.ipc.window import Interval, Look

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tradeengine.core.symbols import SymbolSpec
    from tradeengine.ipc.overview import ActorView
    from tradeengine.ipc.ring import RingStatistics
    from tradeengine.ipc.wiring import Wiring

LATENCY: Final = {
    "matcher": "command_latency_us",
    "settlement": "transaction_latency_us",
    "publisher": "publish_latency_us",
    "front": "request_latency_us",
    "wallet": "request_latency_us",
}
"""What tells how long an actor takes for its work, by role."""
LOAD_HIGH: Final = 0.8
LOAD_RAISED: Final = 0.5
_MS_PER_S: Final = 1000


class ActorFigures(msgspec.Struct, frozen=True, kw_only=True):
    """One actor in an interval."""

    name: str
    role: str
    pid: int
    state: str
    message: str
    restarts: int
    uptime_seconds: float
    heartbeat_age_seconds: float | None
    utilisation: float | None
    """Share of the time in which it worked."""
    records_in_per_second: float
    records_out_per_second: float
    lag: int
    """Records that wait for it, in all rings whose writers it holds back."""
    fill: float
    """How full the fullest of these rings is."""
    is_stuck: bool
    """Something waited for it all the time, and it took nothing."""
    load: float
    p50_ms: float | None
    p99_ms: float | None
    errors: int

    @property
    def is_well(self) -> bool:
        """Whether it does its duty, or will in a moment."""
        return self.state in {"ready", "starting"} and not self.is_silent

    @property
    def is_silent(self) -> bool:
        """Whether it should be at work and gives no sign of life. Nothing waits for a front or the publisher."""
        return self.state == "ready" and (self.heartbeat_age_seconds or 0.0) * _MS_PER_S > SILENCE_MS_MAX


class RingFigures(msgspec.Struct, frozen=True, kw_only=True):
    """One ring in an interval."""

    name: str
    writer: str
    capacity: int
    written: int
    written_per_second: float
    fill: float
    lags: dict[str, int]
    """Records that wait, by reader."""


class SymbolFigures(msgspec.Struct, frozen=True, kw_only=True):
    """One symbol in an interval. Prices are decimals; None: there is none."""

    symbol: str
    shard: int
    status: str
    best_bid: str | None
    best_ask: str | None
    last_price: str | None
    volume_24h: str
    trades_24h: int


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """Everything in one interval."""

    interval_seconds: float
    uptime_seconds: float
    actors: list[ActorFigures]
    rings: list[RingFigures]
    symbols: list[SymbolFigures]
    slowest: str | None
    """The actor with the highest load, where that is raised; None: nobody is slow."""


@dataclass(frozen=True)
class _Seen:
    """One look at everything."""

    look: Look
    actors: list[ActorView]
    rings: dict[str, RingStatistics]


class Observatory:
    """Looks at an engine again and again."""

    def __init__(self, wiring: Wiring) -> None:
        """Look for the first time. wiring: an observer's."""
        rings = {name: wiring.ring(name) for name in wiring.ring_names}
        self._wiring = wiring
        self._overview = Overview(wiring.table("actors"), wiring.metric_pages, rings, wiring.ring_writers)
        self._symbols: Mapping[int, SymbolSpec] = {}
        self._directory_version = -1
        self._seen = self._see()

    def figures(self) -> Figures:
        """Say what happened since the look before, which was some time ago. Raises SeqlockBusy."""
        before, now = self._seen, self._see()
        self._seen = now
        interval = Interval(before.look, now.look)
        earlier = {actor.name: actor for actor in before.actors}
        actors = [_actor_figures(actor, earlier.get(actor.name, actor), interval) for actor in now.actors]
        operator = next(actor for actor in now.actors if actor.role == "operator")
        return Figures(
            interval_seconds=round(interval.seconds, 3),
            uptime_seconds=round(operator.uptime_s, 3),
            actors=actors,
            rings=[self._ring_figures(ring, before.rings[name], interval) for name, ring in now.rings.items()],
            symbols=[self._symbol_figures(id_, spec) for id_, spec in sorted(self._symbols.items())],
            slowest=_slowest(actors),
        )

    def _see(self) -> _Seen:
        self._read_directory()
        return _Seen(
            look=Look.at(self._overview.pages, frozenset(LATENCY.values())),
            actors=self._overview.actors(),
            rings=self._overview.ring_statistics(),
        )

    def _read_directory(self) -> None:
        table = self._wiring.table("directory")
        version = table.version(0)
        if version != self._directory_version:
            try:
                self._symbols = read_directory(table).symbols
            except SeqlockBusy:
                return
            self._directory_version = version

    def _ring_figures(self, ring: RingStatistics, before: RingStatistics, interval: Interval) -> RingFigures:
        lags = {reader.name: reader.lag for reader in ring.readers if reader.gating}
        return RingFigures(
            name=ring.name,
            writer=self._overview.writers[ring.name],
            capacity=ring.capacity,
            written=ring.head - self._overview.first_sequences[ring.name],
            written_per_second=_rate(ring.head - before.head, interval),
            fill=round(max(lags.values(), default=0) / ring.capacity, 6),
            lags=lags,
        )

    def _symbol_figures(self, symbol_id: int, spec: SymbolSpec) -> SymbolFigures:
        touch = self._wiring.table("touch").read(symbol_id)
        ticker = self._wiring.table("tickers").read(symbol_id)
        return SymbolFigures(
            symbol=spec.name,
            shard=spec.shard,
            status=TradingState(int(touch["trading_state"])).name.lower() if touch["listed"] else "unlisted",
            best_bid=_price(spec, touch["best_bid_ticks"]),
            best_ask=_price(spec, touch["best_ask_ticks"]),
            last_price=_price(spec, touch["last_price_ticks"]),
            volume_24h=spec.format_quantity(int(ticker["volume_lots"])),
            trades_24h=int(ticker["trade_count"]),
        )


def _actor_figures(actor: ActorView, before: ActorView, interval: Interval) -> ActorFigures:
    waiting = [(ring.lag, ring.capacity) for ring in actor.rings if ring.lag is not None]
    fill = max((lag / capacity for lag, capacity in waiting), default=0.0)
    utilisation = None
    if actor.busy_us is not None and before.busy_us is not None:
        utilisation = round(min((actor.busy_us - before.busy_us) / 1e6 / interval.seconds, 1.0), 4)
    taken = actor.records_in - before.records_in
    lag = sum(lag for lag, _ in waiting)
    is_stuck = taken == 0 and lag > 0 and sum(ring.lag or 0 for ring in before.rings) > 0
    p50_ms, p99_ms = _latency(actor, interval)
    return ActorFigures(
        name=actor.name,
        role=actor.role,
        pid=actor.pid,
        state=ActorState(actor.state).name.lower(),
        message=actor.message,
        restarts=actor.restart_count,
        uptime_seconds=round(actor.uptime_s, 3),
        heartbeat_age_seconds=actor.heartbeat_age_s,
        utilisation=utilisation,
        records_in_per_second=_rate(taken, interval),
        records_out_per_second=_rate(actor.records_out - before.records_out, interval),
        lag=lag,
        fill=round(fill, 6),
        is_stuck=is_stuck,
        load=1.0 if is_stuck else round(max(utilisation or 0.0, fill), 6),
        p50_ms=p50_ms,
        p99_ms=p99_ms,
        errors=actor.error_count,
    )


def _latency(actor: ActorView, interval: Interval) -> tuple[float | None, float | None]:
    name = LATENCY.get(actor.role)
    if name is None or name not in interval.later.pages[actor.name].histograms:
        return None, None
    measured = interval.histogram_of(actor.name, name)
    if not measured.count:
        return None, None
    return measured.percentile(50) / _MS_PER_S, measured.percentile(99) / _MS_PER_S


def _slowest(actors: list[ActorFigures]) -> str | None:
    """Name who is slow: someone who does not do its duty before anyone who has much to do."""
    ill = [actor for actor in actors if not actor.is_well]
    if ill:
        return max(ill, key=lambda actor: actor.load).name
    busiest = max(actors, key=lambda actor: actor.load)
    return busiest.name if busiest.load >= LOAD_RAISED else None


def _rate(count: int, interval: Interval) -> float:
    return round(max(count, 0) / interval.seconds, 3)


def _price(spec: SymbolSpec, ticks: Any) -> str | None:
    return spec.format_price(int(ticks)) if ticks else None
