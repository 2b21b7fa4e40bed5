"""Arms as tables for people: how fast, and at what cost."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from nas.profiling.arms import ArmRow, ArmSettings, ArmsProfile
from nas.profiling.headline import interval
from nas.records import Measurement

WITH_INTERVALS = 110  # columns of a terminal that has room for both ends of an interval
Column = tuple[str, Callable[[Measurement], str]]  # heading, and what stands there; "" is unknown


def show_arms(profiles: Sequence[ArmsProfile], settings: ArmSettings, console: Console) -> None:
    """For each network how fast its arms are, what they cost, and what else has to be said."""
    for p in profiles:
        console.print(speed_table(p, console.width))
        console.print(aa_line(p), style="bold", highlight=False, markup=False)
        if p.first:
            console.print(cost_table(p))
        for line in remarks(p):
            console.print(line, highlight=False, markup=False)
    measured = [row for p in profiles for row in p.rows if row.measurement]
    if len({row.arm.runtime for row in measured}) > 1:
        console.print("Numbers of different runtimes never share one Pareto front.", style="dim")
    e = profiles[0].environment
    versions = f"torch {e['torch']}, timm {e['timm']}, Python {e['python']}"
    left_open = f"what an arm's name leaves open: {settings.base}"
    console.print(f"{left_open}; {e['device_name']}; {versions}", style="dim", highlight=False, markup=False)


def speed_table(p: ArmsProfile, width: int) -> Table:
    """Throughput, its ratio to the first arm's, latency. Narrow, an interval is half its width."""
    ends = width >= WITH_INTERVALS
    first = p.first.name if p.first else "none"
    columns: list[Column] = [
        ("img/s", lambda m: f"{m.throughput_img_s:.4g}"),
        ("95 %", lambda m: _spread(m.throughput_img_s, m.throughput_low_img_s, m.throughput_high_img_s, ends)),
        (f"x {first}", lambda m: f"{m.ratio:.3f}"),
        ("95 %", lambda m: _spread(m.ratio, m.ratio_low, m.ratio_high, ends)),
    ]
    late: list[Column] = [
        ("ms", lambda m: f"{m.latency_ms:.2f}"),
        ("p95", lambda m: _known(m.latency_p95_ms, ".2f")),
        ("p99", lambda m: _known(m.latency_p99_ms, ".2f")),
    ]
    size = f"batch {p.batch}, {p.resolution} px, {p.macs / 1e9:.4g} GMACs"
    table = _table(f"{p.arch}: {size}", [*columns, ("", lambda m: ""), *_told(p, late)])
    table.add_column("verdict", no_wrap=True)
    table.caption = "x: the same net in two arms, interleaved. ms, p95, p99: latency, batch 1"
    for row, last in _sections(p.by_runtime):
        m = row.measurement
        cells = [_cell(m, of) for _, of in columns] + [_mark(p, row)] + [_cell(m, of) for _, of in _told(p, late)]
        table.add_row(row.name, *cells, _verdict(row), end_section=last)
    return table


def cost_table(p: ArmsProfile) -> Table:
    """Memory, energy, time to make, error: what is known of them."""
    columns = _told(
        p,
        [
            ("allocated MiB", lambda m: _known(m.peak_memory_mib, ".1f")),
            ("reserved MiB", lambda m: _known(m.reserved_memory_mib, ".1f")),
            ("driver MiB", lambda m: _known(m.driver_memory_mib, ".0f")),
            ("mJ/image", lambda m: _known(None if m.energy_j is None else m.energy_j * 1e3, ".3g")),
            ("made s", lambda m: _known(m.made_s or None, ".1f")),
            ("error", lambda m: _known(m.output_error, ".1e")),
        ],
    )
    table = _table("", columns)
    table.caption = "made: compiling, exporting. error: of the worst output against fp32 eager, relative."
    for row, last in _sections([row for row in p.by_runtime if row.measurement]):
        table.add_row(row.name, *(_cell(row.measurement, of) for _, of in columns), end_section=last)
    return table


def aa_line(p: ArmsProfile) -> str:
    """The noise floor, and how it is known."""
    m = p.first.measurement if p.first else None
    if m is None or p.noise is None:
        return "nothing could be measured"
    return f"A/A: x {m.ratio:.3f} {interval(m.ratio_low, m.ratio_high)}: differences under {p.noise:.1%} are ties"


def remarks(p: ArmsProfile) -> list[str]:
    """Why arms have no numbers, and what is to be known beside the verdicts."""
    said = []
    for row in p.by_runtime:
        if row.why_not:
            said.append(f"{row.name}: {row.why_not}")
        elif row.measurement and row.measurement.notes:
            said.append(f"{row.name}: {'; '.join(row.measurement.notes)}")
    return said


def _table(title: str, columns: Sequence[Column]) -> Table:
    table = Table(title=title, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("arm", overflow="fold")
    for heading, _ in columns:
        table.add_column(heading, justify="right", no_wrap=bool(heading))
    return table


def _sections(rows: Sequence[ArmRow]) -> Iterator[tuple[ArmRow, bool]]:
    """Each row, and whether it is the last of its runtime."""
    after = [*(row.arm.runtime for row in rows[1:]), None]
    for row, runtime in zip(rows, after, strict=True):
        yield row, row.arm.runtime != runtime


def _told(p: ArmsProfile, columns: Sequence[Column]) -> list[Column]:
    """Those of which something is known."""
    return [c for c in columns if any(row.measurement and c[1](row.measurement) for row in p.rows)]


def _cell(m: Measurement | None, of: Callable[[Measurement], str]) -> Text:
    return Text((of(m) if m else "") or "-")


def _mark(p: ArmsProfile, row: ArmRow) -> str:
    if row == p.first:
        return "A/A"
    return "tie" if p.tie(row) else ""


def _verdict(row: ArmRow) -> str:
    if row.measurement:
        return row.measurement.verdict
    return "can't run" if row.impossible else "failed"


def _spread(value: float, low: float, high: float, ends: bool) -> str:
    return interval(low, high) if ends else f"±{(high - low) / 2 / value:.1%}"


def _known(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)
