"""A sample of a space as tables for people."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.table import Table

from nas.profiling.space import QUANTITIES, SpaceProfile


def show_space(profile: SpaceProfile, console: Console) -> None:
    """Ranges, and what share of the sample is within the limits."""
    r = profile.request
    table = Table(
        title=f"Space {r.space}: {len(profile.specs)} specs, seed {r.seed}, {r.resolution} px", box=box.SIMPLE_HEAD
    )
    table.add_column("", no_wrap=True)
    for heading in ("specs", "min", "25 %", "median", "75 %", "max"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, row in profile.ranges().items():
        label, unit, divisor = QUANTITIES[name]
        values = [row[k] / divisor for k in ("min", "q25", "median", "q75", "max")]
        table.add_row(f"{label}, {unit}", f"{row['n']:.0f}", *(f"{v:.3g}" for v in values))
    console.print(table)
    if r.limits:
        console.print(_limits(profile))
    timed = [s.measurement for s in profile.specs if s.measurement]
    if timed:
        wide = sum(m.verdict != "ok" for m in timed)
        console.print(
            f"ratio: to {r.reference}, interleaved; batch {r.batch}; {timed[0].device}; {timed[0].arm};"
            f" {wide} of {len(timed)} intervals wider than 1 %",
            style="dim",
            highlight=False,
        )


def _limits(profile: SpaceProfile) -> Table:
    table = Table(title="Within the limits", box=box.SIMPLE_HEAD)
    table.add_column("limit", no_wrap=True)
    table.add_column("share", justify="right")
    table.add_column("specs", justify="right")
    for name, (fit, known) in profile.fits().items():
        limit = "all of them" if name == "all" else f"{name.replace('_', '-')} {profile.request.limits[name]:g}"
        table.add_row(limit, f"{fit / known:.1%}" if known else "-", f"{fit} of {known}")
    return table
