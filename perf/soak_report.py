"""What the soak saw, as a table, as figures and as a picture."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from perf.figures import percentile
from perf.soak_picture import Panel, draw_panels
from perf.soak_programs import Programs
from perf.soak_samples import Process, Sample
from perf.soak_verdict import add_up, growth

MINUTE_S: Final = 60.0
LATENCIES: Final = ("POST", "GET", "DELETE", "PATCH", "stream", "local")
_MIB: Final = 2**20


@dataclass
class Soak:
    """What was seen. Times are of the monotonic clock; ``warm_s``: the end of the warm-up."""

    started_s: float
    warm_s: float = 0.0
    samples: list[Sample] = field(default_factory=list)
    interrupted: bool = False

    @property
    def judged(self) -> list[Sample]:
        """Samples after the warm-up."""
        return [sample for sample in self.samples if sample.at_s >= self.warm_s]

    def minutes(self, at_s: float) -> float:
        """Minutes since the start."""
        return (at_s - self.started_s) / MINUTE_S


def describe(soak: Soak, programs: Programs) -> dict[str, Any]:
    """Give the figures, and print a table of them."""
    samples = soak.judged or soak.samples
    times_s = [sample.at_s for sample in samples]
    actors = {}
    heads = ("own MiB", "rise", "all MiB", "rise", "threads", "files", "tasks", "cores")
    print(f"{'':12} {' '.join(f'{head:>8}' for head in heads)}")
    for name, series in processes(samples).items():
        own = growth(times_s[-len(series) :], [process.own_kib for process in series])
        resident = growth(times_s[-len(series) :], [process.resident_kib for process in series])
        last, share = series[-1], (series[-1].processor_s - series[0].processor_s) / max(times_s[-1] - times_s[0], 1)
        actors[name] = {
            "own_mib": round(own.mean / 1024, 1),
            "own_rise_share": round(own.share, 4),
            "resident_mib": round(resident.mean / 1024, 1),
            "resident_rise_share": round(resident.share, 4),
            "threads": last.threads,
            "descriptors": last.descriptors,
            "tasks": last.tasks,
            "cores": round(share, 3),
        }
        shown = actors[name]
        print(
            f"{name:12} {shown['own_mib']:8.1f} {own.share:8.2%} {shown['resident_mib']:8.1f} {resident.share:8.2%}"
            f" {last.threads:8} {last.descriptors:8} {last.tasks:8} {share:8.2f}"
        )
    latencies = {what: programs.minutes(what, soak.warm_s or soak.started_s) for what in (*LATENCIES, "control")}
    figures: dict[str, Any] = {
        "minutes": round((times_s[-1] - times_s[0]) / MINUTE_S, 1) if soak.judged else 0.0,
        "interrupted": soak.interrupted,
        "counts": dict(sorted(programs.counts().items())),
        "actors": actors,
        "disk_mib": {name: round(size / _MIB, 1) for name, size in samples[-1].disk.items()},
        "database_mib": round(samples[-1].database_bytes / _MIB, 1),
        "latency_ms": {},
    }
    for what, minutes in latencies.items():
        whole = add_up(minutes)
        by_minute = [percentile(minute, 99) for minute in minutes]
        figures["latency_ms"][what] = {
            "count": whole.total(),
            "p50": percentile(whole, 50),
            "p99": percentile(whole, 99),
            "p99_by_minute": by_minute,
        }
        print(f"{what:12} {whole.total():9,} p50 {percentile(whole, 50):5.0f} ms, p99 {percentile(whole, 99):5.0f} ms")
    return figures


def processes(samples: list[Sample]) -> dict[str, list[Process]]:
    """Give each actor's looks in order."""
    found: dict[str, list[Process]] = {}
    for sample in samples:
        for name, process in sample.processes.items():
            found.setdefault(name, []).append(process)
    return found


def tell(soak: Soak, sample: Sample, programs: Programs) -> None:
    """Print a line: how it goes."""
    own_mib = sum(process.own_kib for process in sample.processes.values()) / 1024
    counts, database_mib, journal_mib = programs.counts(), sample.database_bytes / _MIB, sample.disk["journal"] / _MIB
    print(
        f"{soak.minutes(sample.at_s):6.1f} min  own memory {own_mib:7.1f} MiB, database {database_mib:7.1f}, journal"
        f" {journal_mib:6.1f}; {counts['orders']:,} orders over HTTP, {counts['commands']:,} commands over the ring,"
        f" {counts['stream']:,} messages; unexpected {counts['unexpected']}",
        flush=True,
    )


def picture(path: Path, soak: Soak, programs: Programs) -> None:
    """Draw memory and latencies over time."""
    times = [soak.minutes(sample.at_s) for sample in soak.samples]
    series = processes(soak.samples)
    memory = {
        name: list(zip(times[-len(looks) :], [look.own_kib / 1024 for look in looks], strict=True))
        for name, looks in series.items()
    }
    latencies = {}
    for what in (*LATENCIES, "control"):
        minutes = programs.minutes(what, soak.started_s)
        latencies[what] = [(number + 1.0, percentile(minute, 99)) for number, minute in enumerate(minutes)]
    base = soak.samples[0]
    sizes = {
        "database": [(at, sample.database_bytes / _MIB) for at, sample in zip(times, soak.samples, strict=True)],
        "journal": [(at, sample.disk["journal"] / _MIB) for at, sample in zip(times, soak.samples, strict=True)],
    }
    working = {
        name: [
            (at, (look.processor_s - before.processor_s) / max(sample.at_s - earlier.at_s, 0.1))
            for at, before, look, earlier, sample in zip(
                times[1:], looks, looks[1:], soak.samples, soak.samples[1:], strict=False
            )
        ]
        for name, looks in series.items()
        if name in base.processes and len(looks) == len(soak.samples)
    }
    panels = [
        Panel("own memory, MiB", memory),
        Panel("p99 of each minute, ms", latencies),
        Panel("processor, cores", working),
        Panel("disk, MiB", sizes),
    ]
    draw_panels(path, f"A soak of {soak.minutes(soak.samples[-1].at_s):.0f} minutes", panels, soak.minutes(soak.warm_s))
