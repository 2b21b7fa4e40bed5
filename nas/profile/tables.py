"""Print profiles of networks, their sweeps, compared runtimes and samples of a space as tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from nas.measure.counts.compare import format_macs
from nas.measure.verdicts import MIN_BLOCKS
from nas.numbers import plural
from nas.profile.profiles import NetworkSettings, PartRow, Point, Profile, Roofline, Sweep, WindowCost
from nas.profile.runtime_comparison import RuntimeRow, RuntimeSettings, RuntimesProfile
from nas.profile.space_sample import QUANTITIES, Shortlist, SpaceProfile, share_interval
from nas.study.limits import LIMITS
from nas.study.records import Measurement
from nas.study.timing_doubts import (
    CONTENDED,
    SCATTERED,
    TOO_FEW,
    interval_doubt,
    no_interval,
    ratio_interval,
    throughput_interval,
)

BAR = 12  # characters of the longest bar
BYTES_COLUMNS, BARS_COLUMNS, INTERVALS_COLUMNS = 90, 120, 110  # widths of a terminal with room for them
NAME, SHORT_NAME, RUNTIME_NAME = 28, 20, 15  # least columns of a name that needs them
ITSELF = "(the network itself)"  # operators that belong to no submodule
MIB = 2**20
PERCENTILES = ("p50", "p95", "p99")
_AA = "A/A (the first runtime against itself)"
_COOLER = "cool the GPU, or lock its clocks, as by nvidia-smi --lock-gpu-clocks"
# What a user can do about a verdict.
REMEDIES = {
    TOO_FEW: "measure longer, as with --measure-seconds 30, or a smaller batch",
    SCATTERED: "measure again on an idle machine, or longer, as with --measure-seconds 30",
    "wide": "a longer --measure-seconds or an idle machine narrows the intervals",
    CONTENDED: "measure again on an idle machine",
    "throttled": _COOLER,
    "clock changed": _COOLER,
    "launch-bound": "measure a larger batch, or with --runtime reduce-overhead (CUDA graphs)",
}

RuntimeColumn = tuple[str, Callable[[Measurement], str]]  # heading and cell; an empty cell is an unknown value


def show(
    profiles: Sequence[Profile], settings: NetworkSettings, console: Console, layers: bool, top: int | None
) -> None:
    """Print one profile in full or several as a comparison.

    Args:
        profiles: Profiles, complete or not.
        settings: Settings that they were made with.
        console: Console to print to.
        layers: Whether to print a table of all layers of each network.
        top: Number of the slowest layers of each network to print; None: no such table.
    """
    if len(profiles) == 1:
        p = profiles[0]
        console.print(headline(p), counters_table(p))
        if p.stages:
            console.print(parts_table("Stages", p.stages, _stages_caption(p, settings), console.width))
    else:
        console.print(comparison_table(profiles))
    for p in profiles:
        _show_layers(p, console, layers, top)
        for kind, sweep in p.sweeps.items():
            show_sweep(p, kind, sweep, settings, console)
    for number, p in enumerate(profiles):
        _show_ceilings(p, console, [earlier.roofline for earlier in profiles[:number]])
    _show_problems(profiles, console)
    console.print(_environment_line(profiles, settings), style="dim")


def headline(p: Profile) -> Table:
    """Tabulate the counts and the measurement of one network."""
    table = Table(title=f"{p.arch}, {p.resolution} px", box=box.SIMPLE_HEAD, show_header=False)
    table.add_row("parameters", f"{p.counts.params / 1e6:.2f} M")
    table.add_row("compute", f"{p.counts.macs / 1e9:.4g} GMACs (= {2 * p.counts.macs / 1e9:.4g} GFLOPs)")
    if p.output:
        side = -(-p.resolution // p.output.stride)
        tokens = f"{side}x{side} tokens of {p.output.width} channels, stride {p.output.stride}"
        table.add_row("output", f"{tokens}; summary of {p.output.summary_width} channels")
    for name, value in _measurement_rows(p.measurement) if p.measurement else ():
        table.add_row(name, Text(value))
    return table


def _measurement_rows(m: Measurement) -> Iterator[tuple[str, str]]:
    throughput = f"{m.throughput_img_s:.4g} img/s {_ends(m, throughput_interval(m))}"
    requested = f" ({m.requested_batch} requested)" if m.requested_batch not in (None, m.batch) else ""
    yield "throughput", f"{throughput}, batch {m.batch}{requested}"
    yield f"ratio to {m.reference}", f"{m.ratio:.3f} {_ends(m, ratio_interval(m))}, timed interleaved"
    yield "latency", f"{latencies(m)} ms, batch 1"
    memory = ", ".join(f"{mib:.1f} MiB {kind}" for kind, mib in memories(m).items())
    yield f"memory, batch {m.batch}", memory or "unknown"
    if m.energy_j is not None:
        yield "energy", f"{m.energy_j * 1e3:.3g} mJ per image, whole GPU"
    if m.launch_share is not None:
        yield "launch overhead", f"the CPU needs {m.launch_share:.0%} of the device time to launch the kernels"
    if m.output_error is not None:
        yield "output error", f"{m.output_error:.1e} relative to eager fp32"
    if m.compile_s:
        yield "build time", f"{m.compile_s:.1f} s (compiling or exporting)"
    yield "verdict", f"{m.verdict} ({plural(m.samples, 'sample')} in {m.seconds:.1f} s)"
    if m.verdict in REMEDIES:
        yield "what to do", REMEDIES[m.verdict]
    for note in m.notes:
        yield "note", note


def _ends(m: Measurement, ends: tuple[float, float] | None) -> str:
    """Format the interval of a value of a measurement, or say why it is not usable."""
    return interval(*ends) if ends else f"({no_interval(m)})"


def remedies(verdicts: Iterable[str]) -> list[str]:
    """Return a sentence for each different verdict that a user can do something about, without its full stop."""
    return [f"The verdict {each!r}: {REMEDIES[each]}" for each in dict.fromkeys(verdicts) if each in REMEDIES]


def _advice(verdicts: Iterable[str]) -> str:
    """Return the remedies as the end of a caption."""
    return "".join(f" {remedy}." for remedy in remedies(verdicts))


def latencies(m: Measurement) -> str:
    """Return the median latency and the measured percentiles in ms."""
    percentiles = ((95, m.latency_p95_ms), (99, m.latency_p99_ms))
    return ", ".join([f"{m.latency_ms:.2f}", *(f"p{q} {ms:.2f}" for q, ms in percentiles if ms is not None)])


def memories(m: Measurement) -> dict[str, float]:
    """Return the measured kinds of memory in MiB: of tensors, of the allocator, of the whole card."""
    kinds = {"allocated": m.peak_memory_mib, "reserved": m.reserved_memory_mib, "driver": m.driver_memory_mib}
    return {kind: mib for kind, mib in kinds.items() if mib is not None}


def interval(low: float, high: float) -> str:
    """Format a 95 % confidence interval of the median."""
    return f"[{low:.4g}, {high:.4g}]"


def comparison_table(profiles: Sequence[Profile]) -> Table:
    """Tabulate several networks, one row each."""
    sizes = {f"batch {p.batch}, {p.resolution} px" for p in profiles}
    references = {p.measurement.reference for p in profiles if p.measurement}
    caption = (
        f"ratio: throughput over that of {', '.join(references) or 'the reference'}, timed interleaved; ±: half of its"
        " 95 % interval; ms: latency at batch 1; MiB: allocated memory; 1 GMAC is 2 GFLOPs. Profile one --arch alone"
        " for its counters and stages."
    )
    verdicts = [p.measurement.verdict for p in profiles if p.measurement]
    caption += _advice(verdicts)
    table = Table(
        title=f"Profiles ({'; '.join(sorted(sizes))})", caption=caption, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0)
    )
    table.add_column("architecture", overflow="fold")
    for heading in ("params M", "GMACs", "img/s", "ratio", "±", "ms", "MiB"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    for p in profiles:
        size = f" ({p.batch} x {p.resolution} px)" if len(sizes) > 1 else ""
        role = " (reference)" if p.arch in references else ""
        counts = (p.arch + size + role, f"{p.counts.params / 1e6:.2f}", f"{p.counts.macs / 1e9:.3f}")
        untimed = ["", "", "", "", "", "failed" if p.failure else "not timed"]
        table.add_row(*counts, *(_comparison_cells(p.measurement) if p.measurement else untimed))
    return table


def _comparison_cells(m: Measurement) -> list[str]:
    return [
        f"{m.throughput_img_s:.4g}",
        f"{m.ratio:.3f}",
        _half_width(m.ratio, ratio_interval(m)) or "-",
        f"{m.latency_ms:.2f}",
        "-" if m.peak_memory_mib is None else f"{m.peak_memory_mib:.0f}",
        m.verdict,
    ]


def _show_problems(profiles: Sequence[Profile], console: Console) -> None:
    """Print warnings about the tables, and failed measurements."""
    for p in profiles:
        if p.stages_note:
            console.print(f"note: {p.stages_note}", style="yellow")
        if p.failure:
            console.print(f"{p.arch}: failed: {p.failure}", style="bold red")


def _environment_line(profiles: Sequence[Profile], settings: NetworkSettings) -> str:
    e = profiles[0].environment
    measured = next((p.measurement for p in profiles if p.measurement), None)
    arm = f"{measured.device}; {measured.arm}" if measured else f"{e['device_name']}; {settings.arm}"
    return f"{arm}; torch {e['torch']}, timm {e['timm']}, Python {e['python']}"


def counters_table(p: Profile) -> Table:
    """Tabulate all counters, and the operators that none of them counts."""
    table = Table(title="Counters", box=box.SIMPLE_HEAD)
    table.add_column("counter", no_wrap=True)
    table.add_column("GMACs", justify="right", no_wrap=True)
    table.add_column("what it counts")
    for c in p.counters:
        table.add_row(c.name, "-" if c.macs is None else f"{c.macs / 1e9:.4g}", c.reason)
    uncounted = ", ".join(f"{name} ({elements / 1e6:.2f} M)" for name, elements in p.counts.uncounted.items())
    left_out = f"operators that no counter counts, with the elements that they write: {uncounted}"
    table.add_row("not counted", "", left_out if uncounted else "nothing: every operator is counted")
    return table


def parts_table(title: str, parts: Sequence[PartRow], caption: str, width: int) -> Table:
    """Tabulate the work and the time of stages or layers, and their distance from the device's ceilings.

    Args:
        title: The table's title.
        parts: Rows of the table.
        caption: The table's caption.
        width: Columns of the terminal. A narrow one has no room for bytes and bars.
    """
    bars, wide = width >= BARS_COLUMNS, width >= BYTES_COLUMNS
    table = Table(title=title, caption=caption, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("", overflow="fold", min_width=min(NAME if wide else SHORT_NAME, max(len(r.name) for r in parts)))
    unit, scale = ("G", 1e9) if max(r.macs for r in parts) >= 1e8 else ("M", 1e6)
    bytes_headings = ("act.\nMiB", "moved\nMiB") if wide else ()
    for heading in ("params\nM", f"{unit}MACs", "act.\nM", *bytes_headings, "ms", "share"):
        table.add_column(heading, justify="right", no_wrap=True)
    if bars:
        table.add_column("", no_wrap=True)
    table.add_column("bound", no_wrap=True)
    table.add_column("best\nms", justify="right", no_wrap=True)
    table.add_column("used", justify="right", no_wrap=True)
    for r in parts:
        moved = (f"{r.activation_bytes / MIB:.2f}", f"{r.moved_bytes / MIB:.1f}") if wide else ()
        table.add_row(
            r.name or ITSELF,
            f"{r.params / 1e6:.3f}",
            f"{r.macs / scale:.3f}",
            f"{r.activations / 1e6:.3f}",
            *moved,
            f"{r.time_ms:.2f}",
            f"{r.share:.1%}",
            *(["█" * round(r.share * BAR)] if bars else []),
            r.bound,
            f"{r.attainable_ms:.2f}",
            _utilization(r),
        )
    return table


def _utilization(r: PartRow) -> Text:
    over = r.utilization > 1
    return Text(f"{r.utilization:.0%}{' !' if over else ''}", style="bold red" if over else "")


def _stages_caption(p: Profile, settings: NetworkSettings) -> str:
    eager = "" if settings.arm.runtime == "eager" else f", in eager mode instead of {settings.arm.runtime}"
    form = ", in the fused form" if settings.arm.form == "fused" else ""
    return (
        f"Together the stages take {p.stages_covered:.1%} of the time of a whole call (batch {p.batch}{eager})."
        f" Per image{form}: MACs; act., the elements that operators write. Per batch: moved, the inputs, weights and"
        " outputs; ms; best ms, the shortest time that the device's ceilings allow. used: best ms / ms."
    )


def _show_layers(p: Profile, console: Console, layers: bool, top: int | None) -> None:
    if not p.layers:
        return
    note = f"A row is a module without its submodules. The timing hooks changed the total by {p.layers_slowed:+.0%}."
    whole = sum(r.share for r in p.layers)
    if layers:
        caption = f"In the order of execution; together {whole:.1%} of the time. {note}"
        console.print(parts_table(f"{p.arch}: layers", p.layers, caption, console.width))
    if top:
        slowest = sorted(p.layers, key=lambda r: -r.time_ms)[:top]
        caption = f"Together {sum(r.share for r in slowest):.1%} of the time. {note}"
        console.print(parts_table(f"{p.arch}: the {len(slowest)} slowest layers", slowest, caption, console.width))


def _show_ceilings(p: Profile, console: Console, earlier: Sequence[Roofline | None]) -> None:
    """Print the ceilings unless they are those of an `earlier` roofline, and the rows that exceed them."""
    if p.roofline is None:
        return
    c = p.roofline.ceilings
    if not any(roofline and roofline.ceilings == c for roofline in earlier):
        rates = ", ".join(f"{rate:.0f} ({_bytes(size)})" for size, rate in c.gbytes_s)
        again = "; measured again, because a row exceeded them" if p.roofline.measured_again else ""
        compute = f"ceilings ({c.precision}, {plural(c.threads, 'thread')}): {c.gmacs_s:.1f} GMAC/s"
        bandwidth = f"memory bandwidth in GB/s by size of the data: {rates}"
        console.print(f"the device's measured {compute}; {bandwidth}{again}", style="dim")
    if p.roofline.over:
        names = ", ".join(name or ITSELF for name in p.roofline.over)
        console.print(
            f"error: {p.arch}: faster than the device's ceilings allow: {names}. Either the ceilings were measured too"
            " low, as on a busy machine (--new-ceilings measures them again), or fewer bytes are moved than were"
            " counted.",
            style="bold red",
        )


def _bytes(size: int) -> str:
    return f"{size >> 10} KiB" if size < MIB else f"{size >> 20} MiB"


def show_sweep(p: Profile, kind: str, sweep: Sweep, settings: NetworkSettings, console: Console) -> None:
    """Print a sweep's table, and the best batch size of a batch sweep."""
    console.print(sweep_table(p, kind, sweep, settings))
    if kind == "batch" and sweep.best:
        console.print(best_line(sweep))


def sweep_table(p: Profile, kind: str, sweep: Sweep, settings: NetworkSettings) -> Table:
    """Tabulate a sweep, one row for each size; the caption has the sizes that were not timed."""
    other = f"{p.resolution} px, {p.counts.macs / 1e9:.4g} GMACs" if kind == "batch" else f"batch {p.batch}"
    table = Table(title=f"{p.arch}: {kind} sweep, {other}", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    percentiles = [name for name in PERCENTILES if any(_percentile(point, name) is not None for point in sweep.points)]
    headings = ("batch",) if kind == "batch" else ("px", "GMACs")
    for heading in (*headings, "img/s", "95 %", "ms/call", *percentiles, "samples"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("verdict", min_width=len(CONTENDED))  # "too few samples" takes two lines
    misfits = any(point.windows for point in sweep.points)
    if misfits:
        table.add_column("windows that don't divide", overflow="fold")
    for point in sweep.points:
        table.add_row(
            *_size(point, kind),
            f"{point.throughput_img_s:.4g}{' †' if point.doubt else ''}",
            Text(_point_interval(point) or "-"),
            f"{point.time_ms:.2f}",
            *(_ms(_percentile(point, name)) for name in percentiles),
            str(point.samples),
            point.verdict,
            *(["\n".join(map(_misfit, point.windows))] if misfits else []),
        )
    table.caption = _sweep_caption(p, sweep, settings, misfits, bool(percentiles))
    return table


def _point_interval(point: Point) -> str:
    """Return the interval of a size's throughput; "" where none is usable."""
    low, high = point.throughput_low_img_s, point.throughput_high_img_s
    return "" if low is None or high is None else interval(low, high)


def best_line(sweep: Sweep) -> str:
    """Return a line with the best throughput and the batch sizes that tie with it."""
    best = sweep.best
    assert best is not None
    rate = " ".join(filter(None, (f"{best.throughput_img_s:.4g} img/s", _point_interval(best))))
    ties = ", ".join(str(point.batch) for point in sweep.ties)
    phrases = [f"best throughput: {rate} at batch {best.batch}"]
    if ties:
        phrases.append(f"its interval overlaps those of batch {ties}")
    if best.doubt and best.throughput_low_img_s is not None:
        phrases.append(f"doubtful, because {best.doubt}")
    if best.throughput_low_img_s is None:
        phrases.append(f"no interval is usable ({plural(best.samples, 'sample')}, {best.verdict})")
    return "; ".join(phrases)


def _timed_twice(p: Profile, sweep: Sweep, settings: NetworkSettings) -> list[str]:
    """Explain two different throughputs of one size: that of the sweep, and that against the reference."""
    m = p.measurement
    again = next(
        (point for point in sweep.points if m and (point.batch, point.resolution) == (m.batch, m.resolution)), None
    )
    if m is None or again is None:
        return []
    runtime = "" if settings.arm.runtime == "eager" else f" in {settings.arm.runtime}"
    return [
        f"Batch {m.batch} at {m.resolution} px has two timings from different moments: {again.throughput_img_s:.4g}"
        f" img/s interleaved with the other sizes, {m.throughput_img_s:.4g} img/s{runtime} interleaved with"
        f" {m.reference}. Compare sizes by this table, and networks by their ratio"
    ]


def _sweep_caption(p: Profile, sweep: Sweep, settings: NetworkSettings, misfits: bool, percentiles: bool) -> str:
    sentences = ["All sizes are timed interleaved" + ("" if settings.arm.runtime == "eager" else ", in eager mode")]
    sentences += _timed_twice(p, sweep, settings)
    if percentiles:
        sentences.append("p50 to p99: percentiles of the ms of a call, where enough calls were timed")
    if doubts := dict.fromkeys(point.doubt for point in sweep.points if point.doubt):
        sentences.append(f"†: doubtful, because {' or '.join(doubts)}")
    sentences += dict.fromkeys(_capitalized(note) for point in sweep.points for note in point.notes)
    sentences += remedies(point.verdict for point in sweep.points)
    if sweep.refused:
        sentences.append("Not timed: " + "; ".join(f"{size} ({reason})" for size, reason in sweep.refused.items()))
    if misfits:
        sentences.append(
            "Maps that their windows do not divide are enlarged; Backbone.change_resolution(px) chooses others"
        )
    return ". ".join(sentences) + "."


def _capitalized(note: str) -> str:
    return note[:1].upper() + note[1:]


def _size(point: Point, kind: str) -> tuple[str, ...]:
    if kind != "batch":
        return str(point.resolution), f"{point.macs / 1e9:.4g}"
    return (f"{point.batch}" + (f" ({point.requested} requested)" if point.requested != point.batch else ""),)


def _percentile(point: Point, name: str) -> float | None:
    value: float | None = getattr(point, f"{name}_ms")
    return value


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _misfit(w: WindowCost) -> str:
    tokens = f"{w.map_side} -> {w.resized_side}, +{w.extra_tokens:.0%} tokens"
    return f"stage {w.stage}: {tokens}, +{format_macs(w.extra_macs)}MACs"


def show_runtimes(profiles: Sequence[RuntimesProfile], settings: RuntimeSettings, console: Console) -> None:
    """Print the speed and the cost of the runtimes of each network, and notes."""
    for p in profiles:
        console.print(speed_table(p, console.width))
        console.print(noise_line(p), style="bold")
        if p.first:
            console.print(cost_table(p, console.width))
        for line in runtime_notes(p):
            console.print(line)
    measured = [row for p in profiles for row in p.rows if row.measurement]
    if len({row.arm.runtime for row in measured}) > 1:
        console.print("Do not mix the numbers of different runtimes in one Pareto front.", style="dim")
    e = profiles[0].environment
    versions = f"torch {e['torch']}, timm {e['timm']}, Python {e['python']}"
    defaults = f"what the name of a runtime leaves out is as in {settings.base}"
    console.print(f"{defaults}; {e['device_name']}; {versions}", style="dim")


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


def speed_table(p: RuntimesProfile, width: int) -> Table:
    """Tabulate throughput, its ratio to the first runtime's, and latency.

    Args:
        p: Profile of one network.
        width: Columns of the terminal. A narrow one has room for half the width of an interval only.
    """
    ends = width >= INTERVALS_COLUMNS
    rates: list[RuntimeColumn] = [
        ("img/s", lambda m: f"{m.throughput_img_s:.4g}"),
        ("95 %", lambda m: _spread(m.throughput_img_s, throughput_interval(m), ends)),
        (f"x {p.first.name if p.first else 'none'}", lambda m: f"{m.ratio:.3f}"),
        ("95 %", lambda m: _spread(m.ratio, ratio_interval(m), ends)),
    ]
    late = [MEDIAN_LATENCY, *(_filled_columns(p, TAIL_LATENCIES) if ends else ())]
    table = _runtime_table(f"{p.arch}: batch {p.batch}, {p.resolution} px, {p.macs / 1e9:.4g} GMACs", p)
    _add_columns(table, [*rates, ("", lambda m: ""), *late])
    table.add_column("verdict", no_wrap=True)
    verdicts = [row.measurement.verdict for row in p.rows if row.measurement]
    table.caption = (
        "Compare runtimes by the column x, the throughput relative to the first runtime: both are timed interleaved,"
        f" while img/s also depends on the machine's load at that time. ms: latency at batch 1.{_advice(verdicts)}"
    )
    for row, last in _sections(p.by_runtime):
        cells = [*_cells(row, rates), Text(_mark(p, row)), *_cells(row, late)]
        table.add_row(row.name, *cells, _verdict(row), end_section=last)
    return table


def cost_table(p: RuntimesProfile, width: int) -> Table:
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


def noise_line(p: RuntimesProfile) -> str:
    """Return a line with the noise floor and the A/A pair that it comes from."""
    m = p.first.measurement if p.first else None
    if m is None:
        return "no runtime could be measured"
    if p.noise is None:
        doubt = interval_doubt(m) or SCATTERED
        return f"{_AA}: x {m.ratio:.3f}, {no_interval(m)}; ties are unknown: {REMEDIES[doubt]}"
    few = (
        ""
        if m.samples >= 2 * MIN_BLOCKS
        else f" (only {plural(m.samples, 'sample')}: a longer --measure-seconds makes this certain)"
    )
    ends = interval(m.ratio_low, m.ratio_high)
    return f"{_AA}: x {m.ratio:.3f} {ends}: differences under {p.noise:.1%} are ties{few}"


def runtime_notes(p: RuntimesProfile) -> list[str]:
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
    return "" if ends is None else interval(*ends) if wide else f"±{_half_width(value, ends)}"


def _half_width(value: float, ends: tuple[float, float] | None) -> str:
    return "" if ends is None else f"{(ends[1] - ends[0]) / 2 / value:.1%}"


def show_space(profile: SpaceProfile, console: Console) -> None:
    """Print the ranges of a sample of a space, and the share within the limits."""
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
        console.print(_limits_table(profile))
    _show_timing(profile, console)
    if profile.shortlist:
        _show_shortlist(profile.shortlist, console)


def _show_shortlist(s: Shortlist, console: Console) -> None:
    """Print the specs that are worth timing next, without their predicted times."""
    console.print(f"error of the latency predictor that was fitted to the timed specs: {s.error}", style="dim")
    if not s.untimed:
        return
    limit = "" if s.limit_img_s is None else f" and likely to reach {s.limit_img_s:g} images/s"
    names = ", ".join(s.arch_ids) or "none"
    console.print(f"worth timing next, predicted to be the fastest of the {s.untimed} untimed specs{limit}: {names}")


def _show_timing(profile: SpaceProfile, console: Console) -> None:
    """Print how the sample was timed, and the specs that could not be measured."""
    r, timed = profile.request, [s.measurement for s in profile.specs if s.measurement]
    if timed:
        verdicts = Counter(m.verdict for m in timed)
        verdict = ", ".join(f"{count} {name}" for name, count in verdicts.most_common())
        how = f"batch {r.batch}; {timed[0].device}; {timed[0].arm}; verdicts: {verdict}"
        ratio = f"ratio: throughput over that of {r.reference}, timed interleaved"
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
