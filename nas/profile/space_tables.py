"""Print a sample of a space: the ranges of its costs, the share within the limits, and how it was timed."""

from __future__ import annotations

from collections import Counter

from rich import box
from rich.console import Console
from rich.table import Table

from nas.numbers import plural
from nas.profile.space_sample import QUANTITIES, SpaceProfile, share_interval
from nas.study.limits import LIMITS


def show_space(profile: SpaceProfile, console: Console) -> None:
    """Print the ranges of a sample of a space, and the share within the limits."""
    r = profile.request
    table = Table(
        title=f"Space {r.space_name}: {len(profile.specs)} specs, seed {r.seed}, {r.sample_px} px", box=box.SIMPLE_HEAD
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
        console.print(_limits_table(profile))
    _show_timing(profile, console)


def _limits_table(profile: SpaceProfile) -> Table:
    table = Table(title="Within the limits", box=box.SIMPLE_HEAD)
    table.add_column("limit", no_wrap=True)
    for heading in ("share", "95 % interval", "specs"):
        table.add_column(heading, justify="right")
    for name, (fit, count) in profile.fits().items():
        limit = "all limits" if name == "all" else f"{LIMITS[name].flag} {profile.request.limits[name]:g}"
        low, high = share_interval(fit, count)
        share = (f"{fit / count:.1%}", f"{low:.1%} to {high:.1%}") if count else ("-", "-")
        table.add_row(limit, *share, f"{fit} of {count}")
    return table


def _show_timing(profile: SpaceProfile, console: Console) -> None:
    """Print how the sample was timed, and the specs that could not be measured."""
    r, timed = profile.request, [s.measurement for s in profile.specs if s.measurement]
    if timed:
        verdicts = Counter(m.verdict for m in timed)
        verdict = ", ".join(f"{count} {name}" for name, count in verdicts.most_common())
        how = f"batch {r.batch_at(r.sample_px)}; {timed[0].device}; {timed[0].arm}; verdicts: {verdict}"
        ratio = f"ratio: throughput over that of {r.against}, timed interleaved"
        console.print(f"{ratio}; {how}", style="dim")
    if not profile.failed:
        return
    share = f"{len(profile.failed)} of {plural(len(profile.failed) + len(timed), 'spec')}"
    console.print(
        f"{share} could not be measured; they count as breaking every limit that needs a timing",
        style="bold red",
    )
    for why, count in Counter(s.failure for s in profile.failed).most_common():
        first = next(s.arch_id for s in profile.failed if s.failure == why)
        others = f" and {count - 1} more" if count > 1 else ""
        console.print(f"  {first}{others}: {why}")
