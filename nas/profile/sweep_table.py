"""A sweep as a table for people."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from nas.measure.counts.compare import amount
from nas.measure.statistics import FEW
from nas.profile.headline import interval
from nas.profile.records import Point, Profile, Settings, Sweep
from nas.profile.windows import WindowCost

PERCENTILES = ("p50", "p95", "p99")


def show_sweep(p: Profile, kind: str, sweep: Sweep, settings: Settings, console: Console) -> None:
    """The table, and of batch sizes which is best."""
    console.print(sweep_table(p, kind, sweep, settings))
    if kind == "batch" and sweep.best:
        console.print(best_line(sweep), highlight=False, markup=False)


def sweep_table(p: Profile, kind: str, sweep: Sweep, settings: Settings) -> Table:
    """One line a size, and what was refused."""
    other = f"{p.resolution} px, {p.counts.macs / 1e9:.4g} GMACs" if kind == "batch" else f"batch {p.batch}"
    table = Table(title=f"{p.arch}: {kind} sweep, {other}", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    known = [name for name in PERCENTILES if any(_percentile(point, name) is not None for point in sweep.points)]
    headings = ("batch",) if kind == "batch" else ("px", "GMACs")
    for heading in (*headings, "img/s", "95 %", "ms a call", *known, "samples"):
        table.add_column(heading, justify="right", no_wrap=True)
    misfits = any(point.windows for point in sweep.points)
    if misfits:
        table.add_column("windows that don't divide")
    for point in sweep.points:
        table.add_row(
            *_size(point, kind),
            f"{point.throughput_img_s:.4g}",
            Text(interval(point.throughput_low_img_s, point.throughput_high_img_s)),
            f"{point.time_ms:.2f}",
            *(_ms(_percentile(point, name)) for name in known),
            str(point.samples),
            *(["\n".join(map(_misfit, point.windows))] if misfits else []),
        )
    table.caption = _caption(sweep, settings, misfits, bool(known))
    return table


def best_line(sweep: Sweep) -> str:
    """The best throughput, and the batch sizes that cannot be told from it."""
    best = sweep.best
    assert best is not None
    rate = f"{best.throughput_img_s:.4g} img/s {interval(best.throughput_low_img_s, best.throughput_high_img_s)}"
    ties = ", ".join(str(point.batch) for point in sweep.ties)
    said = [f"best throughput: {rate} at batch {best.batch}"]
    if ties:
        said.append(f"its interval overlaps those of {ties}")
    if best.samples < FEW:
        said.append(f"from {best.samples} sample(s): more --seconds are needed to be sure")
    return "; ".join(said)


def _caption(sweep: Sweep, settings: Settings, misfits: bool, percentiles: bool) -> str:
    said = ["All timed by turns" + ("" if settings.arm.runtime == "eager" else ", eagerly")]
    if percentiles:
        said.append("p50 to p99: ms of single calls, where there are enough of them")
    said += [f"{size}: {reason}" for size, reason in sweep.refused.items()]
    if misfits:
        said.append("Windows that don't divide a map make it larger. Backbone.change_resolution(px) finds some that do")
    return "; ".join(said) + "."


def _size(point: Point, kind: str) -> tuple[str, ...]:
    if kind != "batch":
        return str(point.resolution), f"{point.macs / 1e9:.4g}"
    return (f"{point.batch}" + (f" (for {point.requested})" if point.requested != point.batch else ""),)


def _percentile(point: Point, name: str) -> float | None:
    value: float | None = getattr(point, f"{name}_ms")
    return value


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _misfit(w: WindowCost) -> str:
    return (
        f"stage {w.stage}: {w.map_side} -> {w.resized_side}, +{w.extra_tokens:.0%} tokens, +{amount(w.extra_macs)}MACs"
    )
