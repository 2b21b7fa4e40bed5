"""Print the compared runtimes of networks: their speed with its ties, what they cost, and why some have no numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from nas.measure.interleave import MIN_BLOCKS
from nas.numbers import plural
from nas.profile.arguments import ProfileSettings
from nas.profile.runtime_comparison import RuntimeRow, RuntimesProfile
from nas.profile.timing_words import advice, half_width, interval, remedy
from nas.study.records import Measurement
from nas.study.timing_doubts import SCATTERED, compared_ratio_interval, interval_doubt, no_interval, throughput_interval

INTERVALS_COLUMNS = 110  # width of a terminal with room for both ends of an interval
RUNTIME_NAME = 15  # least columns of a name that needs them
_AA = "A/A (the first runtime against itself)"

RuntimeColumn = tuple[str, Callable[[Measurement], str]]  # heading and cell; an empty cell is an unknown value


def _decimals(value: float | None, form: str) -> str:
    """Format a value by `form`, or with fewer decimals where it is large; "" where it is unknown."""
    if value is None:
        return ""
    return format(value, form if value < 100 else ".1f" if value < 1000 else ".0f")


MEDIAN_LATENCY: RuntimeColumn = ("ms", lambda m: _decimals(m.latency_ms, ".2f"))
TAIL_LATENCIES: tuple[RuntimeColumn, ...] = (
    ("p95\nms", lambda m: _decimals(m.latency_p95_ms, ".2f")),
    ("p99\nms", lambda m: _decimals(m.latency_p99_ms, ".2f")),
)
COSTS: tuple[RuntimeColumn, ...] = (
    ("alloc.\nMiB", lambda m: _decimals(m.peak_memory_mib, ".1f")),
    ("reserved\nMiB", lambda m: _decimals(m.reserved_memory_mib, ".1f")),
    ("driver\nMiB", lambda m: _decimals(m.driver_memory_mib, ".1f")),
    ("mJ/\nimage", lambda m: "" if m.energy_j is None else f"{m.energy_j * 1e3:.3g}"),
    ("build\ns", lambda m: _decimals(m.compile_s or None, ".1f")),
    ("error", lambda m: "" if m.output_error is None else f"{m.output_error:.1e}"),
)


def show_runtimes(profiles: Sequence[RuntimesProfile], settings: ProfileSettings, console: Console) -> None:
    """Print the speed and the cost of the runtimes of each network, and notes."""
    for p in profiles:
        console.print(_speed_table(p, console.width, settings.seconds))
        console.print(_noise_line(p, settings.seconds), style="bold")
        if p.first:
            console.print(_cost_table(p, console.width))
        for line in _runtime_notes(p):
            console.print(line)
    measured = [row for p in profiles for row in p.rows if row.measurement]
    if len({row.arm.runtime for row in measured}) > 1:
        console.print("Do not mix the numbers of different runtimes in one Pareto front.", style="dim")
    e = profiles[0].environment
    versions = f"torch {e['torch']}, timm {e['timm']}, Python {e['python']}"
    defaults = f"what the name of a runtime leaves out is as in {settings.arm}"
    console.print(f"{defaults}; {e['device_name']}; {versions}", style="dim")


def _speed_table(p: RuntimesProfile, width: int, seconds: float) -> Table:
    """Tabulate throughput, its ratio to the first runtime's, and latency.

    Args:
        p: Profile of one network.
        width: Columns of the terminal. A narrow one has room for half the width of an interval only.
        seconds: Timing budget of each runtime.
    """
    ends = width >= INTERVALS_COLUMNS
    rates: list[RuntimeColumn] = [
        ("img/s", lambda m: f"{m.throughput_img_s:.4g}"),
        ("95 %", lambda m: _spread(m.throughput_img_s, throughput_interval(m), ends)),
        (f"x {p.first.name if p.first else 'none'}", lambda m: f"{m.ratio:.3f}"),
        ("95 %", lambda m: _spread(m.ratio, compared_ratio_interval(m), ends)),
    ]
    late = [MEDIAN_LATENCY, *(_filled_columns(p, TAIL_LATENCIES) if ends else ())]
    table = _runtime_table(f"{p.arch}: batch {p.batch}, {p.resolution} px, {p.macs / 1e9:.4g} GMACs", p)
    _add_columns(table, [*rates, ("", lambda m: ""), *late])
    table.add_column("verdict", no_wrap=True)
    verdicts = [row.measurement.verdict for row in p.rows if row.measurement]
    table.caption = (
        "Compare runtimes by the column x, the throughput relative to the first runtime: both are timed interleaved,"
        " while img/s also depends on the machine's load at that time. The interval of x includes the deviation between"
        f" processes. ms: latency at batch 1.{advice(verdicts, seconds)}"
    )
    for row, last in _sections(p.by_runtime):
        cells = [*_cells(row, rates), Text(_mark(p, row)), *_cells(row, late)]
        table.add_row(row.name, *cells, _verdict(row), end_section=last)
    return table


def _cost_table(p: RuntimesProfile, width: int) -> Table:
    """Tabulate the measured kinds of memory, energy, build time and error, and tail latencies on a narrow terminal."""
    columns = _filled_columns(p, COSTS if width >= INTERVALS_COLUMNS else (*TAIL_LATENCIES, *COSTS))
    table = _runtime_table("", p)
    _add_columns(table, columns)
    table.caption = (
        "alloc.: memory of tensors. build: compiling or exporting. error: relative error of the worst output against"
        " eager fp32."
    )
    for row, last in _sections([row for row in p.by_runtime if row.measurement]):
        table.add_row(row.name, *_cells(row, columns), end_section=last)
    return table


def _noise_line(p: RuntimesProfile, seconds: float) -> str:
    """Return a line with the noise floor and the A/A pair that it comes from."""
    m = p.first.measurement if p.first else None
    if m is None:
        return "no runtime could be measured"
    ends = compared_ratio_interval(m)
    if p.noise is None or ends is None:
        doubt = interval_doubt(m) or SCATTERED
        return f"{_AA}: x {m.ratio:.3f}, {no_interval(m)}; ties are unknown: {remedy(doubt, seconds)}"
    few = (
        ""
        if m.samples >= 2 * MIN_BLOCKS
        else f" (only {plural(m.samples, 'sample')}: a longer --measure-seconds makes this certain)"
    )
    ties = f"differences under {p.noise:.1%} are ties, deviation between processes included"
    return f"{_AA}: x {m.ratio:.3f} {interval(*ends)}: {ties}{few}"


def _runtime_notes(p: RuntimesProfile) -> list[str]:
    """Return the reasons why runtimes have no numbers, and the notes of those that have."""
    lines = []
    for row in p.by_runtime:
        if row.why_not:
            lines.append(f"{row.name}: {row.why_not}")
        elif row.measurement and row.measurement.notes:
            lines.append(f"{row.name}: {'; '.join(row.measurement.notes)}")
    return lines


def _runtime_table(title: str, p: RuntimesProfile) -> Table:
    table = Table(title=title, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    longest = max((len(row.name) for row in p.rows), default=0)
    table.add_column("runtime", overflow="fold", min_width=min(longest, RUNTIME_NAME))
    return table


def _add_columns(table: Table, columns: Sequence[RuntimeColumn]) -> None:
    for heading, _ in columns:
        table.add_column(heading, justify="right", no_wrap=True)


def _sections(rows: Sequence[RuntimeRow]) -> Iterator[tuple[RuntimeRow, bool]]:
    """Yield each row with whether it is the last of its runtime."""
    following = [*(row.arm.runtime for row in rows[1:]), None]
    for row, runtime in zip(rows, following, strict=True):
        yield row, row.arm.runtime != runtime


def _filled_columns(p: RuntimesProfile, columns: Sequence[RuntimeColumn]) -> list[RuntimeColumn]:
    """Return the columns that have a value in any row."""
    return [c for c in columns if any(row.measurement and c[1](row.measurement) for row in p.rows)]


def _cells(row: RuntimeRow, columns: Sequence[RuntimeColumn]) -> list[Text]:
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


def _spread(value: float, ends: tuple[float, float] | None, wide: bool) -> str:
    """Return the interval of a value, or half its width on a narrow terminal; "" where none is usable."""
    return "" if ends is None else interval(*ends) if wide else f"±{half_width(value, ends)}"
