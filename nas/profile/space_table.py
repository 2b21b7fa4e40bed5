"""A sample of a space as tables for people."""

from __future__ import annotations

from collections import Counter

from rich import box
from rich.console import Console
from rich.table import Table

from nas.profile.shortlist import Shortlist
from nas.profile.space import QUANTITIES, SpaceProfile


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
    _show_timing(profile, console)
    if profile.shortlist:
        _show_shortlist(profile.shortlist, console)


def _show_shortlist(found: Shortlist, console: Console) -> None:
    """What to time next; not how long it takes."""
    console.print(f"a latency predictor made of them: {found.error}", style="dim", highlight=False)
    if not found.untimed:
        return
    limit = "" if found.limit_img_s is None else f" and may reach {found.limit_img_s:g} images/s"
    names = ", ".join(found.arch_ids) or "none of them"
    console.print(f"of {found.untimed} specs not timed, these are most likely fast{limit}: {names}", highlight=False)


def _show_timing(profile: SpaceProfile, console: Console) -> None:
    """How it was timed, and what could not be."""
    r, timed = profile.request, [s.measurement for s in profile.specs if s.measurement]
    if timed:
        verdicts = Counter(m.verdict for m in timed)
        verdict = ", ".join(f"{count} {name}" for name, count in verdicts.most_common())
        how = f"batch {r.batch}; {timed[0].device}; {timed[0].arm}; verdicts: {verdict}"
        console.print(f"ratio: to {r.reference}, interleaved; {how}", style="dim", highlight=False, markup=False)
    if not profile.failed:
        return
    share = f"{len(profile.failed)} of {len(profile.failed) + len(timed)} specs"
    console.print(f"{share} could not be measured; they keep no limit of timing", style="bold red", highlight=False)
    for why, count in Counter(s.failure for s in profile.failed).most_common():
        first = next(s.arch_id for s in profile.failed if s.failure == why)
        others = f" and {count - 1} more" if count > 1 else ""
        console.print(f"  {first}{others}: {why}", highlight=False, markup=False)


def _limits(profile: SpaceProfile) -> Table:
    table = Table(title="Within the limits", box=box.SIMPLE_HEAD)
    table.add_column("limit", no_wrap=True)
    table.add_column("share", justify="right")
    table.add_column("specs", justify="right")
    for name, (fit, known) in profile.fits().items():
        limit = "all of them" if name == "all" else f"{name.replace('_', '-')} {profile.request.limits[name]:g}"
        table.add_row(limit, f"{fit / known:.1%}" if known else "-", f"{fit} of {known}")
    return table
