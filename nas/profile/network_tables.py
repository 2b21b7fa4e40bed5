"""Print the profile of a network in full, or of several as a comparison: counts, speed, stages, layers, ceilings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from nas.measure.verdicts import MAX_LAUNCH_SHARE
from nas.numbers import plural
from nas.profile.arguments import ProfileSettings
from nas.profile.profiles import PartRow, Profile, Roofline
from nas.profile.sweep_tables import show_sweep
from nas.profile.timing_words import advice, half_width, interval, remedies, remedy
from nas.study.records import Measurement
from nas.study.timing_doubts import (
    WRONG_OUTPUT,
    compared_ratio_interval,
    no_interval,
    recorded_ratio_interval,
    throughput_interval,
)

BAR = 12  # characters of the longest bar
BYTES_COLUMNS, BARS_COLUMNS = 90, 120  # widths of a terminal with room for them
NAME, SHORT_NAME = 28, 20  # least columns of a name that needs them
ITSELF = "(the network itself)"  # operators that belong to no submodule
MIB = 2**20


def show_networks(profiles: Sequence[Profile], settings: ProfileSettings, console: Console) -> None:
    """Print one profile in full or several as a comparison.

    Args:
        profiles: Profiles, complete or not.
        settings: Settings that they were made with.
        console: Console to print to.
    """
    if len(profiles) == 1:
        p = profiles[0]
        console.print(headline(p, settings), _counters_table(p))
        if p.stages:
            console.print(parts_table("Stages", p.stages, _stages_caption(p, settings), console.width))
    else:
        console.print(comparison_table(profiles, settings))
    for p in profiles:
        _show_layers(p, settings, console)
        for kind, sweep in p.sweeps.items():
            show_sweep(p, kind, sweep, settings, console)
    for number, p in enumerate(profiles):
        _show_ceilings(p, console, [earlier.roofline for earlier in profiles[:number]])
    _show_problems(profiles, console)
    console.print(_environment_line(profiles, settings), style="dim")


def headline(p: Profile, settings: ProfileSettings) -> Table:
    """Tabulate the counts and the measurement of one network."""
    table = Table(title=f"{p.arch}, {p.resolution} px", box=box.SIMPLE_HEAD, show_header=False)
    table.add_row("parameters", f"{p.counts.params / 1e6:.2f} M")
    table.add_row("compute", f"{p.counts.macs / 1e9:.4g} GMACs (= {2 * p.counts.macs / 1e9:.4g} GFLOPs)")
    if p.output:
        side = -(-p.resolution // p.output.stride)
        tokens = f"{side}x{side} tokens of {p.output.width} channels, stride {p.output.stride}"
        table.add_row("output", f"{tokens}; summary of {p.output.summary_width} channels")
    for name, value in _measurement_rows(p.measurement, settings) if p.measurement else ():
        table.add_row(name, Text(value))
    return table


def _measurement_rows(m: Measurement, settings: ProfileSettings) -> Iterator[tuple[str, str]]:
    if m.verdict != WRONG_OUTPUT:  # the speed of another computation is none of the network's
        yield from _speed_rows(m)
    memory = ", ".join(f"{mib:.1f} MiB {kind}" for kind, mib in _memories(m).items())
    yield f"memory, batch {m.batch}", memory or "unknown"
    if m.energy_j is not None:
        yield "energy", f"{m.energy_j * 1e3:.3g} mJ per image, whole GPU"
    if m.launch_share is not None:
        yield "launch overhead", f"the CPU needs {m.launch_share:.0%} of the device time to launch the kernels"
    if m.output_error is not None:
        yield "output error", f"{m.output_error:.1e} relative to eager fp32"
    if m.compile_s:
        yield "build time", f"{m.compile_s:.1f} s (compiling or exporting)"
    yield "verdict", f"{m.verdict} ({plural(m.samples, 'sample')}; {m.seconds:.1f} s with preparation)"
    if words := remedy(m.verdict, settings.seconds, _graphs_may_help(settings)):
        yield "what to do", words
    for note in m.notes:
        yield "note", note


def _speed_rows(m: Measurement) -> Iterator[tuple[str, str]]:
    throughput = f"{m.throughput_img_s:.4g} img/s {_ends(m, throughput_interval(m))}"
    requested = f" ({m.requested_batch} requested)" if m.requested_batch not in (None, m.batch) else ""
    yield "throughput", f"{throughput}, batch {m.batch}{requested}"
    yield f"ratio to {m.reference}", f"{m.ratio:.3f} {_ends(m, recorded_ratio_interval(m))}, timed interleaved"
    yield "latency", f"{_latencies(m)} ms, batch 1"


def _graphs_may_help(settings: ProfileSettings) -> bool:
    """Return whether a runtime with CUDA graphs would be another than that of the settings."""
    return settings.arm.runtime != "reduce-overhead"


def _ends(m: Measurement, ends: tuple[float, float] | None) -> str:
    """Format the interval of a value of a measurement, or say why it is not usable."""
    return interval(*ends) if ends else f"({no_interval(m)})"


def _latencies(m: Measurement) -> str:
    """Return the median latency and the measured percentiles in ms."""
    percentiles = ((95, m.latency_p95_ms), (99, m.latency_p99_ms))
    return ", ".join([f"{m.latency_ms:.2f}", *(f"p{q} {ms:.2f}" for q, ms in percentiles if ms is not None)])


def _memories(m: Measurement) -> dict[str, float]:
    """Return the measured kinds of memory in MiB: of tensors, of the allocator, of the whole card."""
    kinds = {"allocated": m.peak_memory_mib, "reserved": m.reserved_memory_mib, "driver": m.driver_memory_mib}
    return {kind: mib for kind, mib in kinds.items() if mib is not None}


def comparison_table(profiles: Sequence[Profile], settings: ProfileSettings) -> Table:
    """Tabulate several networks, one row each."""
    sizes = {f"batch {p.batch}, {p.resolution} px" for p in profiles}
    references = {p.measurement.reference for p in profiles if p.measurement}
    caption = (
        f"ratio: throughput over that of {', '.join(references) or 'the reference'}, timed interleaved; ±: half of its"
        " 95 % interval, with the deviation between processes; ms: latency at batch 1; MiB: allocated memory; 1 GMAC is"
        " 2 GFLOPs. Profile one --arch alone for its counters and stages."
    )
    verdicts = [p.measurement.verdict for p in profiles if p.measurement]
    caption += advice(verdicts, settings.seconds, _graphs_may_help(settings))
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
    speeds = [
        f"{m.throughput_img_s:.4g}",
        f"{m.ratio:.3f}",
        half_width(m.ratio, compared_ratio_interval(m)) or "-",
        f"{m.latency_ms:.2f}",
    ]
    return [
        *(speeds if m.verdict != WRONG_OUTPUT else ["-"] * len(speeds)),
        "-" if m.peak_memory_mib is None else f"{m.peak_memory_mib:.0f}",
        m.verdict,
    ]


def _counters_table(p: Profile) -> Table:
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


def _stages_caption(p: Profile, settings: ProfileSettings) -> str:
    eager = "" if settings.arm.runtime == "eager" else f", in eager mode instead of {settings.arm.runtime}"
    form = ", in the fused form" if settings.arm.form == "fused" else ""
    return (
        f"Together the stages take {p.stages_covered:.1%} of the time of a whole call (batch {p.batch}{eager})."
        f" Per image{form}: MACs; act., the elements that operators write. Per batch: moved, the inputs, weights and"
        " outputs; ms; best ms, the shortest time that the device's ceilings allow. used: best ms / ms."
        f"{_doubts(p, settings)}"
    )


def _doubts(p: Profile, settings: ProfileSettings) -> str:
    """Return the end of a caption of parts: their verdict, and whether their times are those of their launches."""
    share = p.parts_launch_share
    if share is None or share <= MAX_LAUNCH_SHARE:
        return "".join(f" {words}." for words in remedies(filter(None, [p.parts_verdict]), settings.seconds))
    return (
        f" In eager mode the CPU needs {share:.0%} of the GPU's time to launch the kernels: times of parts are those of"
        " their launches, not of the computation. A larger batch shows the computation."
    )


def _show_layers(p: Profile, settings: ProfileSettings, console: Console) -> None:
    if not p.layers:
        return
    note = f"A row is a module without its submodules. The timing hooks changed the total by {p.layers_slowed:+.0%}."
    note += _doubts(p, settings)
    whole = sum(r.share for r in p.layers)
    if settings.layers:
        caption = f"In the order of execution; together {whole:.1%} of the time. {note}"
        console.print(parts_table(f"{p.arch}: layers", p.layers, caption, console.width))
    if settings.top:
        slowest = sorted(p.layers, key=lambda r: -r.time_ms)[: settings.top]
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
        if c.product_gmacs_s < c.gmacs_s:
            compute += f" of convolutions, {c.product_gmacs_s:.1f} GMAC/s of matrix products, which run without TF32"
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


def _show_problems(profiles: Sequence[Profile], console: Console) -> None:
    """Print warnings about the tables, and failed measurements."""
    for p in profiles:
        for note in filter(None, (p.stages_note, p.parts_note and f"{p.arch}: {p.parts_note}")):
            console.print(f"note: {note}", style="yellow")
        if p.failure:
            console.print(f"{p.arch}: failed: {p.failure}", style="bold red")


def _environment_line(profiles: Sequence[Profile], settings: ProfileSettings) -> str:
    e = profiles[0].environment
    measured = next((p.measurement for p in profiles if p.measurement), None)
    arm = f"{measured.device}; {measured.arm}" if measured else f"{e['device_name']}; {settings.arm}"
    return f"{arm}; torch {e['torch']}, timm {e['timm']}, Python {e['python']}"
