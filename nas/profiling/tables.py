"""Profiles of networks as tables for people."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from nas.counters.compare import amount
from nas.profiling.records import Profile, Roofline, Row, Sweep
from nas.profiling.windows import WindowCost
from nas.records import Measurement

BAR = 12
WITH_BYTES, WITH_BARS = 90, 120  # columns of a terminal that has room for them
NAME, SHORT_NAME = 28, 20  # columns that a name has at least, if it needs them
ITSELF = "(the net itself)"  # operators in no module but the whole
MIB = 2**20


def show(profiles: Sequence[Profile], console: Console, layers: bool, top: int | None) -> None:
    """One profile in full; several as a comparison. layers, top: also those tables, for each."""
    if len(profiles) == 1:
        p = profiles[0]
        console.print(*[t for t in (headline(p), counters(p)) if t])
        if p.stages:
            console.print(parts_table("Stages", p.stages, _stages_caption(p), console.width))
    else:
        console.print(comparison(profiles))
    for p in profiles:
        _show_layers(p, console, layers, top)
        for kind, sweep in p.sweeps.items():
            console.print(sweep_table(p, kind, sweep))
    for number, p in enumerate(profiles):
        _show_ceilings(p, console, known=[earlier.roofline for earlier in profiles[:number]])
    first = profiles[0]
    e, m = first.environment, first.measurement
    arm = f"{m.device}; {m.arm}" if m else e["device_name"]
    console.print(f"{arm}; torch {e['torch']}, timm {e['timm']}, Python {e['python']}", style="dim")


def headline(p: Profile) -> Table:
    """What a person asks first."""
    table = Table(title=f"{p.arch}, {p.resolution} px", box=box.SIMPLE_HEAD, show_header=False)
    table.add_row("parameters", f"{p.counts.params / 1e6:.2f} M")
    table.add_row("compute", f"{p.counts.macs / 1e9:.4g} GMACs (x2 = {2 * p.counts.macs / 1e9:.4g} GFLOPs)")
    for name, value in _measured(p.measurement).items() if p.measurement else ():
        table.add_row(name, Text(value))
    return table


def _measured(m: Measurement) -> dict[str, str]:
    wide = ": more --seconds or a quieter machine narrow the intervals" if m.verdict == "wide" else ""
    throughput = f"{m.throughput_img_s:.4g} img/s {_interval(m.throughput_low_img_s, m.throughput_high_img_s)}"
    return {
        "throughput": f"{throughput}, batch {m.batch}",
        f"beside {m.reference}": f"x {m.ratio:.3f} {_interval(m.ratio_low, m.ratio_high)}, interleaved",
        "latency": f"{m.latency_ms:.2f} ms, batch 1",
        "peak memory": f"{m.peak_memory_mib:.1f} MiB, batch {m.batch}",
        "verdict": f"{m.verdict} ({m.samples} samples in {m.seconds:.1f} s){wide}",
    }


def _interval(low: float, high: float) -> str:
    """A 95 % confidence interval of the median."""
    return f"[{low:.4g}, {high:.4g}]"


def comparison(profiles: Sequence[Profile]) -> Table:
    """One line a network."""
    sizes = {f"batch {p.batch}, {p.resolution} px" for p in profiles}
    references = {p.measurement.reference for p in profiles if p.measurement}
    caption = (
        f"ratio: to {', '.join(references)}, interleaved; ±: half its 95 % interval; ms: latency at batch 1;"
        " GMACs x2 = GFLOPs. Name one --arch for counters and stages."
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
        table.add_row(*counted, *(_compared(p.measurement) if p.measurement else ["", "", "", "", "", "not timed"]))
    return table


def _compared(m: Measurement) -> list[str]:
    return [
        f"{m.throughput_img_s:.4g}",
        f"{m.ratio:.3f}",
        f"{(m.ratio_high - m.ratio_low) / 2 / m.ratio:.1%}",
        f"{m.latency_ms:.2f}",
        f"{m.peak_memory_mib:.0f}",
        m.verdict,
    ]


def counters(p: Profile) -> Table:
    """All counters, and what none of them counts."""
    table = Table(title="Counters", box=box.SIMPLE_HEAD)
    table.add_column("counter", no_wrap=True)
    table.add_column("GMACs", justify="right", no_wrap=True)
    table.add_column("why it differs")
    for c in p.counters:
        table.add_row(c.name, "-" if c.macs is None else f"{c.macs / 1e9:.4g}", c.reason)
    uncounted = ", ".join(f"{name} ({elements / 1e6:.2f} M)" for name, elements in p.counts.uncounted.items())
    table.add_row("not counted", "", f"{uncounted}: elements produced" if uncounted else "nothing that computes")
    return table


def parts_table(title: str, parts: Sequence[Row], caption: str, width: int) -> Table:
    """Stages or layers: what they do, how long it takes, how near their bound they run. Narrow, it leaves out bytes."""
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


def _used(r: Row) -> Text:
    over = r.utilisation > 1
    return Text(f"{r.utilisation:.0%}{' !' if over else ''}", style="bold red" if over else "")


def _stages_caption(p: Profile) -> str:
    return (
        f"The stages explain {p.stages_covered:.1%} of the time of a whole call ({p.batch} images). GMACs and act."
        " (what operators write) are of one image as it runs, fused; moved (inputs, weights, outputs), ms and best ms"
        " (the device's ceilings allow no less) of the batch; used: best / measured."
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


def sweep_table(p: Profile, kind: str, sweep: Sweep) -> Table:
    """One line a size, and what was refused."""
    other = f"{p.resolution} px, {p.counts.macs / 1e9:.4g} GMACs" if kind == "batch" else f"batch {p.batch}"
    table = Table(title=f"{p.arch}: {kind} sweep, {other}", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    headings = ("batch",) if kind == "batch" else ("px", "GMACs")
    for heading in (*headings, "img/s", "95 %", "ms a call", "samples"):
        table.add_column(heading, justify="right", no_wrap=True)
    misfits = any(point.windows for point in sweep.points)
    if misfits:
        table.add_column("windows that don't divide")
    for point in sweep.points:
        requested = f" (for {point.requested})" if kind == "batch" and point.requested != point.batch else ""
        size = (f"{point.batch}{requested}",) if kind == "batch" else (f"{point.resolution}", f"{point.macs / 1e9:.4g}")
        table.add_row(
            *size,
            f"{point.throughput_img_s:.4g}",
            Text(_interval(point.throughput_low_img_s, point.throughput_high_img_s)),
            f"{point.time_ms:.2f}",
            str(point.samples),
            *(["\n".join(map(_misfit, point.windows))] if misfits else []),
        )
    notes = [f"{size}: {reason}" for size, reason in sweep.refused.items()]
    if misfits:
        notes.append(
            "Windows that don't divide a map make it larger. Backbone.change_resolution(px) finds some that do"
        )
    table.caption = "; ".join(notes) or "All timed by turns."
    return table


def _misfit(w: WindowCost) -> str:
    return (
        f"stage {w.stage}: {w.map_side} -> {w.resized_side}, +{w.extra_tokens:.0%} tokens, +{amount(w.extra_macs)}MACs"
    )


def _show_ceilings(p: Profile, console: Console, known: Sequence[Roofline | None]) -> None:
    """The ceilings where they are not `known` yet, and what lies over them."""
    if p.roofline is None:
        return
    c = p.roofline.ceilings
    if not any(earlier and earlier.ceilings == c for earlier in known):
        rates = ", ".join(f"{rate:.0f} ({_size(size)})" for size, rate in c.gbytes_s)
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


def _size(size: int) -> str:
    return f"{size >> 10} KiB" if size < MIB else f"{size >> 20} MiB"
