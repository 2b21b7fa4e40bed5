"""Profiles of networks as tables for people."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from nas.profile.headline import comparison, headline
from nas.profile.records import Profile, Roofline, Row, Settings
from nas.profile.sweep_table import show_sweep

BAR = 12
WITH_BYTES, WITH_BARS = 90, 120  # columns of a terminal that has room for them
NAME, SHORT_NAME = 28, 20  # columns that a name has at least, if it needs them
ITSELF = "(the net itself)"  # operators in no module but the whole
MIB = 2**20


def show(profiles: Sequence[Profile], settings: Settings, console: Console, layers: bool, top: int | None) -> None:
    """One profile in full; several as a comparison. layers, top: also those tables, for each."""
    if len(profiles) == 1:
        p = profiles[0]
        console.print(headline(p), counters(p))
        if p.stages:
            console.print(parts_table("Stages", p.stages, _stages_caption(p, settings), console.width))
    else:
        console.print(comparison(profiles))
    for p in profiles:
        _show_layers(p, console, layers, top)
        for kind, sweep in p.sweeps.items():
            show_sweep(p, kind, sweep, settings, console)
    for number, p in enumerate(profiles):
        _show_ceilings(p, console, known=[earlier.roofline for earlier in profiles[:number]])
    _show_troubles(profiles, console)
    console.print(_made_with(profiles, settings), style="dim", highlight=False, markup=False)


def _show_troubles(profiles: Sequence[Profile], console: Console) -> None:
    """What a reader must know before believing the tables."""
    for p in profiles:
        if p.stages_note:
            console.print(f"note: {p.stages_note}", style="yellow", highlight=False, markup=False)
        if p.failure:
            console.print(f"{p.arch}: not measured: {p.failure}", style="bold red", highlight=False, markup=False)


def _made_with(profiles: Sequence[Profile], settings: Settings) -> str:
    e = profiles[0].environment
    measured = next((p.measurement for p in profiles if p.measurement), None)
    arm = f"{measured.device}; {measured.arm}" if measured else f"{e['device_name']}; {settings.arm}"
    return f"{arm}; torch {e['torch']}, timm {e['timm']}, Python {e['python']}"


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


def _stages_caption(p: Profile, settings: Settings) -> str:
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
