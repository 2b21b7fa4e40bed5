"""Show profiles of networks, their sweeps and samples of a space as tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from nas.measure.counts.compare import format_macs
from nas.measure.statistics import MIN_BOOTSTRAP_SAMPLES
from nas.profile.profiles import NetworkSettings, PartRow, Point, Profile, Roofline, Sweep, WindowCost
from nas.profile.space_sample import QUANTITIES, Shortlist, SpaceProfile
from nas.study.limits import LIMITS
from nas.study.records import Measurement

BAR = 12
WITH_BYTES, WITH_BARS = 90, 120  # columns of a terminal that has room for them
NAME, SHORT_NAME = 28, 20  # columns that a name has at least, if it needs them
ITSELF = "(the network itself)"  # operators in no module but the whole
MIB = 2**20
PERCENTILES = ("p50", "p95", "p99")


def headline(p: Profile) -> Table:
    """Tabulate one network: what was counted and what was measured."""
    table = Table(title=f"{p.arch}, {p.resolution} px", box=box.SIMPLE_HEAD, show_header=False)
    table.add_row("parameters", f"{p.counts.params / 1e6:.2f} M")
    table.add_row("compute", f"{p.counts.macs / 1e9:.4g} GMACs (x2 = {2 * p.counts.macs / 1e9:.4g} GFLOPs)")
    for name, value in _measured(p.measurement) if p.measurement else ():
        table.add_row(name, Text(value))
    return table


def _measured(m: Measurement) -> Iterator[tuple[str, str]]:
    throughput = f"{m.throughput_img_s:.4g} img/s {interval(m.throughput_low_img_s, m.throughput_high_img_s)}"
    yield "throughput", f"{throughput}, batch {m.batch}{_for(m)}"
    yield f"beside {m.reference}", f"x {m.ratio:.3f} {interval(m.ratio_low, m.ratio_high)}, interleaved"
    yield "latency", f"{latencies(m)} ms, batch 1"
    yield (
        f"memory, batch {m.batch}",
        ", ".join(f"{mib:.1f} MiB {kind}" for kind, mib in memories(m).items()) or "unknown",
    )
    if m.energy_j is not None:
        yield "energy", f"{m.energy_j * 1e3:.3g} mJ an image, of the whole card"
    if m.launch_share is not None:
        yield "launching", f"{m.launch_share:.0%} of the time that the device computes"
    if m.output_error is not None:
        yield "output error", f"{m.output_error:.1e} against fp32 eager, relative"
    if m.compile_s:
        yield "made in", f"{m.compile_s:.1f} s (compiling or exporting)"
    yield "verdict", f"{m.verdict} ({m.samples} samples in {m.seconds:.1f} s){_advice(m)}"
    for note in m.notes:
        yield "note", note


def latencies(m: Measurement) -> str:
    """Format the median and the percentiles that are known, in ms."""
    known = ((95, m.latency_p95_ms), (99, m.latency_p99_ms))
    return ", ".join([f"{m.latency_ms:.2f}", *(f"p{q} {ms:.2f}" for q, ms in known if ms is not None)])


def memories(m: Measurement) -> dict[str, float]:
    """Return the kinds of memory that are known, in MiB: what tensors need, what was taken for it, all on the card."""
    kinds = {"allocated": m.peak_memory_mib, "reserved": m.reserved_memory_mib, "driver": m.driver_memory_mib}
    return {kind: mib for kind, mib in kinds.items() if mib is not None}


def interval(low: float, high: float) -> str:
    """Format a 95 % confidence interval of the median."""
    return f"[{low:.4g}, {high:.4g}]"


def _for(m: Measurement) -> str:
    return f" (for {m.requested_batch})" if m.requested_batch not in (None, m.batch) else ""


def _advice(m: Measurement) -> str:
    return ": more --seconds or a quieter machine narrow the intervals" if m.verdict == "wide" else ""


def comparison_table(profiles: Sequence[Profile]) -> Table:
    """Tabulate several networks, one line each."""
    sizes = {f"batch {p.batch}, {p.resolution} px" for p in profiles}
    references = {p.measurement.reference for p in profiles if p.measurement}
    caption = (
        f"ratio: to {', '.join(references) or 'none'}, interleaved; ±: half its 95 % interval; ms: latency at batch 1;"
        " MiB: allocated; GMACs x2 = GFLOPs. Name one --arch for counters, stages and what else is known."
    )
    table = Table(
        title=f"Profiles ({'; '.join(sorted(sizes))})", caption=caption, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0)
    )
    table.add_column("arch", overflow="fold")
    for heading in ("params M", "GMACs", "img/s", "ratio", "±", "ms", "MiB"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    for p in profiles:
        size = f" ({p.batch} x {p.resolution} px)" if len(sizes) > 1 else ""
        counted = (p.arch + size, f"{p.counts.params / 1e6:.2f}", f"{p.counts.macs / 1e9:.3f}")
        table.add_row(*counted, *(_compared(p.measurement) if p.measurement else ["", "", "", "", "", _untimed(p)]))
    return table


def _compared(m: Measurement) -> list[str]:
    return [
        f"{m.throughput_img_s:.4g}",
        f"{m.ratio:.3f}",
        f"{(m.ratio_high - m.ratio_low) / 2 / m.ratio:.1%}",
        f"{m.latency_ms:.2f}",
        "-" if m.peak_memory_mib is None else f"{m.peak_memory_mib:.0f}",
        m.verdict,
    ]


def _untimed(p: Profile) -> str:
    return "not measured" if p.failure else "not timed"


def show(
    profiles: Sequence[Profile], settings: NetworkSettings, console: Console, layers: bool, top: int | None
) -> None:
    """Show one profile in full, several as a comparison; with `layers` and `top` also those tables, for each."""
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
        _show_ceilings(p, console, known=[earlier.roofline for earlier in profiles[:number]])
    _show_troubles(profiles, console)
    console.print(_made_with(profiles, settings), style="dim", highlight=False, markup=False)


def _show_troubles(profiles: Sequence[Profile], console: Console) -> None:
    """Show what a reader must know before believing the tables."""
    for p in profiles:
        if p.stages_note:
            console.print(f"note: {p.stages_note}", style="yellow", highlight=False, markup=False)
        if p.failure:
            console.print(f"{p.arch}: not measured: {p.failure}", style="bold red", highlight=False, markup=False)


def _made_with(profiles: Sequence[Profile], settings: NetworkSettings) -> str:
    e = profiles[0].environment
    measured = next((p.measurement for p in profiles if p.measurement), None)
    arm = f"{measured.device}; {measured.arm}" if measured else f"{e['device_name']}; {settings.arm}"
    return f"{arm}; torch {e['torch']}, timm {e['timm']}, Python {e['python']}"


def counters_table(p: Profile) -> Table:
    """Tabulate all counters, and what none of them counts."""
    table = Table(title="Counters", box=box.SIMPLE_HEAD)
    table.add_column("counter", no_wrap=True)
    table.add_column("GMACs", justify="right", no_wrap=True)
    table.add_column("why it differs")
    for c in p.counters:
        table.add_row(c.name, "-" if c.macs is None else f"{c.macs / 1e9:.4g}", c.reason)
    uncounted = ", ".join(f"{name} ({elements / 1e6:.2f} M)" for name, elements in p.counts.uncounted.items())
    table.add_row("not counted", "", f"{uncounted}: elements produced" if uncounted else "nothing that computes")
    return table


def parts_table(title: str, parts: Sequence[PartRow], caption: str, width: int) -> Table:
    """Tabulate stages or layers: work, time, how near their bound they run. Narrow, it leaves out bytes."""
    bars, wide = width >= WITH_BARS, width >= WITH_BYTES
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
            _used(r),
        )
    return table


def _used(r: PartRow) -> Text:
    over = r.utilisation > 1
    return Text(f"{r.utilisation:.0%}{' !' if over else ''}", style="bold red" if over else "")


def _stages_caption(p: Profile, settings: NetworkSettings) -> str:
    eager = "" if settings.arm.runtime == "eager" else f", run eagerly, not {settings.arm.runtime}"
    form = ", fused" if settings.arm.form == "fused" else ""
    return (
        f"The stages explain {p.stages_covered:.1%} of the time of a whole call ({p.batch} images{eager}). GMACs and"
        f" act. (what operators write) are of one image as it runs{form}; moved (inputs, weights, outputs), ms and"
        " best ms (the device's ceilings allow no less) of the batch; used: best / measured."
    )


def _show_layers(p: Profile, console: Console, layers: bool, top: int | None) -> None:
    if not p.layers:
        return
    slowed = f"Each module's own operators, without those of modules in it; hooks made the run {p.layers_slowed:+.0%}."
    whole = sum(r.share for r in p.layers)
    if layers:
        caption = f"In the order they run; {whole:.1%} of the time. {slowed}"
        console.print(parts_table(f"{p.arch}: layers", p.layers, caption, console.width))
    if top:
        most = sorted(p.layers, key=lambda r: -r.time_ms)[:top]
        caption = f"{sum(r.share for r in most):.1%} of the time. {slowed}"
        console.print(parts_table(f"{p.arch}: the {len(most)} slowest layers", most, caption, console.width))


def _show_ceilings(p: Profile, console: Console, known: Sequence[Roofline | None]) -> None:
    """Show the ceilings where they are not `known` yet, and what lies over them."""
    if p.roofline is None:
        return
    c = p.roofline.ceilings
    if not any(earlier and earlier.ceilings == c for earlier in known):
        rates = ", ".join(f"{rate:.0f} ({_bytes(size)})" for size, rate in c.gbytes_s)
        again = "; measured again, for a part lay over them" if p.roofline.measured_again else ""
        computing = f"ceilings, {c.precision}, {c.threads} threads: {c.gmacs_s:.1f} GMAC/s"
        console.print(f"{computing}; GB/s by bytes touched: {rates}{again}", style="dim", highlight=False)
    if p.roofline.over:
        names = ", ".join(name or ITSELF for name in p.roofline.over)
        console.print(
            f"error: {p.arch}: over 100 % of what the device can, which cannot be: {names}. The ceilings are too low,"
            " as on a busy machine (--new-ceilings), or less is moved than was counted.",
            style="bold red",
            highlight=False,
        )


def _bytes(size: int) -> str:
    return f"{size >> 10} KiB" if size < MIB else f"{size >> 20} MiB"


def show_sweep(p: Profile, kind: str, sweep: Sweep, settings: NetworkSettings, console: Console) -> None:
    """Show a sweep's table, and of batch sizes which is best."""
    console.print(sweep_table(p, kind, sweep, settings))
    if kind == "batch" and sweep.best:
        console.print(best_line(sweep), highlight=False, markup=False)


def sweep_table(p: Profile, kind: str, sweep: Sweep, settings: NetworkSettings) -> Table:
    """Tabulate a sweep, one line a size, and what was refused."""
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
    """Tell the best throughput, and the batch sizes that cannot be told from it."""
    best = sweep.best
    assert best is not None
    rate = f"{best.throughput_img_s:.4g} img/s {interval(best.throughput_low_img_s, best.throughput_high_img_s)}"
    ties = ", ".join(str(point.batch) for point in sweep.ties)
    said = [f"best throughput: {rate} at batch {best.batch}"]
    if ties:
        said.append(f"its interval overlaps those of {ties}")
    if best.samples < MIN_BOOTSTRAP_SAMPLES:
        said.append(f"from {best.samples} sample(s): more --seconds are needed to be sure")
    return "; ".join(said)


def _caption(sweep: Sweep, settings: NetworkSettings, misfits: bool, percentiles: bool) -> str:
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
    tokens = f"{w.map_side} -> {w.resized_side}, +{w.extra_tokens:.0%} tokens"
    return f"stage {w.stage}: {tokens}, +{format_macs(w.extra_macs)}MACs"


def show_space(profile: SpaceProfile, console: Console) -> None:
    """Show a sample of a space: ranges, and what share is within the limits."""
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
    """Show what to time next; not how long it takes."""
    console.print(f"a latency predictor made of them: {found.error}", style="dim", highlight=False)
    if not found.untimed:
        return
    limit = "" if found.limit_img_s is None else f" and may reach {found.limit_img_s:g} images/s"
    names = ", ".join(found.arch_ids) or "none of them"
    console.print(f"of {found.untimed} specs not timed, these are most likely fast{limit}: {names}", highlight=False)


def _show_timing(profile: SpaceProfile, console: Console) -> None:
    """Show how the sample was timed, and what could not be."""
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
        limit = "all of them" if name == "all" else f"{LIMITS[name].flag} {profile.request.limits[name]:g}"
        table.add_row(limit, f"{fit / known:.1%}" if known else "-", f"{fit} of {known}")
    return table
