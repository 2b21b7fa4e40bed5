"""Show runtimes side by side as tables: how fast, and at what cost."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from nas.measure.verdicts import MIN_BLOCKS
from nas.profile.runtime_comparison import RuntimeRow, RuntimeSettings, RuntimesProfile
from nas.profile.tables import interval
from nas.study.records import Measurement

WITH_INTERVALS = 110  # columns of a terminal that has room for both ends of an interval
NAME = 15  # columns that a runtime's name has at least, if it needs them
Column = tuple[str, Callable[[Measurement], str]]  # heading, and what stands there; "" is unknown


def _known(value: float | None, form: str) -> str:
    """Format a value by `form`, with fewer decimals where they would say nothing."""
    if value is None:
        return ""
    return format(value, form if value < 100 else ".1f" if value < 1000 else ".0f")


MEDIAN: Column = ("ms", lambda m: _known(m.latency_ms, ".2f"))
LATE: tuple[Column, ...] = (
    ("p95\nms", lambda m: _known(m.latency_p95_ms, ".2f")),
    ("p99\nms", lambda m: _known(m.latency_p99_ms, ".2f")),
)
COSTS: tuple[Column, ...] = (
    ("alloc.\nMiB", lambda m: _known(m.peak_memory_mib, ".1f")),
    ("reserved\nMiB", lambda m: _known(m.reserved_memory_mib, ".1f")),
    ("driver\nMiB", lambda m: _known(m.driver_memory_mib, ".1f")),
    ("mJ an\nimage", lambda m: "" if m.energy_j is None else f"{m.energy_j * 1e3:.3g}"),
    ("made\ns", lambda m: _known(m.compile_s or None, ".1f")),
    ("error", lambda m: "" if m.output_error is None else f"{m.output_error:.1e}"),
)


def show_runtimes(profiles: Sequence[RuntimesProfile], settings: RuntimeSettings, console: Console) -> None:
    """Show for each network how fast its runtimes are, what they cost, and what else has to be said."""
    for p in profiles:
        console.print(speed_table(p, console.width))
        console.print(aa_line(p), style="bold", highlight=False, markup=False)
        if p.first:
            console.print(cost_table(p, console.width))
        for line in remarks(p):
            console.print(line, highlight=False, markup=False)
    measured = [row for p in profiles for row in p.rows if row.measurement]
    if len({row.arm.runtime for row in measured}) > 1:
        console.print("Numbers of different runtimes never share one Pareto front.", style="dim")
    e = profiles[0].environment
    versions = f"torch {e['torch']}, timm {e['timm']}, Python {e['python']}"
    left_open = f"what a runtime's name leaves open: {settings.base}"
    console.print(f"{left_open}; {e['device_name']}; {versions}", style="dim", highlight=False, markup=False)


def speed_table(p: RuntimesProfile, width: int) -> Table:
    """Tabulate throughput, its ratio to the first runtime's, latency. Narrow, an interval is half its width."""
    ends = width >= WITH_INTERVALS
    rates: list[Column] = [
        ("img/s", lambda m: f"{m.throughput_img_s:.4g}"),
        ("95 %", lambda m: _spread(m.throughput_img_s, m.throughput_low_img_s, m.throughput_high_img_s, ends)),
        (f"x {p.first.name if p.first else 'none'}", lambda m: f"{m.ratio:.3f}"),
        ("95 %", lambda m: _spread(m.ratio, m.ratio_low, m.ratio_high, ends)),
    ]
    late = [MEDIAN, *(_known_columns(p, LATE) if ends else ())]
    table = _table(f"{p.arch}: batch {p.batch}, {p.resolution} px, {p.macs / 1e9:.4g} GMACs", p)
    _add_columns(table, [*rates, ("", lambda m: ""), *late])
    table.add_column("verdict", no_wrap=True)
    table.caption = (
        "Compare runtimes by x, timed interleaved with the first: img/s is as the machine was just then."
        " ms: latency at batch 1."
    )
    for row, last in _sections(p.by_runtime):
        cells = [*_cells(row, rates), Text(_mark(p, row)), *_cells(row, late)]
        table.add_row(row.name, *cells, _verdict(row), end_section=last)
    return table


def cost_table(p: RuntimesProfile, width: int) -> Table:
    """Tabulate memory, energy, time to make and error as far as known; late calls where there was no room before."""
    columns = _known_columns(p, COSTS if width >= WITH_INTERVALS else (*LATE, *COSTS))
    table = _table("", p)
    _add_columns(table, columns)
    table.caption = (
        "alloc.: of tensors. made: compiling, exporting. error: of the worst output against fp32 eager, relative."
    )
    for row, last in _sections([row for row in p.by_runtime if row.measurement]):
        table.add_row(row.name, *_cells(row, columns), end_section=last)
    return table


def aa_line(p: RuntimesProfile) -> str:
    """Tell the noise floor, and how it is known."""
    m = p.first.measurement if p.first else None
    if m is None or p.noise is None:
        return "nothing could be measured"
    few = "" if m.samples >= 2 * MIN_BLOCKS else f"; only {m.samples} samples say so: more --seconds are needed"
    return f"A/A: x {m.ratio:.3f} {interval(m.ratio_low, m.ratio_high)}: differences under {p.noise:.1%} are ties{few}"


def remarks(p: RuntimesProfile) -> list[str]:
    """Tell why runtimes have no numbers, and what else is to be known beside the verdicts."""
    lines = []
    for row in p.by_runtime:
        if row.why_not:
            lines.append(f"{row.name}: {row.why_not}")
        elif row.measurement and row.measurement.notes:
            lines.append(f"{row.name}: {'; '.join(row.measurement.notes)}")
    return lines


def _table(title: str, p: RuntimesProfile) -> Table:
    table = Table(title=title, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    longest = max((len(row.name) for row in p.rows), default=0)
    table.add_column("runtime", overflow="fold", min_width=min(longest, NAME))
    return table


def _add_columns(table: Table, columns: Sequence[Column]) -> None:
    for heading, _ in columns:
        table.add_column(heading, justify="right", no_wrap=True)


def _sections(rows: Sequence[RuntimeRow]) -> Iterator[tuple[RuntimeRow, bool]]:
    """Yield each row, and whether it is the last of its runtime."""
    after = [*(row.arm.runtime for row in rows[1:]), None]
    for row, runtime in zip(rows, after, strict=True):
        yield row, row.arm.runtime != runtime


def _known_columns(p: RuntimesProfile, columns: Sequence[Column]) -> list[Column]:
    """Return the columns of which something is known."""
    return [c for c in columns if any(row.measurement and c[1](row.measurement) for row in p.rows)]


def _cells(row: RuntimeRow, columns: Sequence[Column]) -> list[Text]:
    m = row.measurement
    return [Text((of(m) if m else "") or "-") for _, of in columns]


def _mark(p: RuntimesProfile, row: RuntimeRow) -> str:
    if row == p.first:
        return "A/A"
    return "tie" if p.tie(row) else ""


def _verdict(row: RuntimeRow) -> str:
    if row.measurement:
        return row.measurement.verdict
    return "can't run" if row.impossible else "failed"


def _spread(value: float, low: float, high: float, ends: bool) -> str:
    return interval(low, high) if ends else f"±{(high - low) / 2 / value:.1%}"
