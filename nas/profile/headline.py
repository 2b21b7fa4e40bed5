"""What a person asks first: one network's numbers, or a line for each of several."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich import box
from rich.table import Table
from rich.text import Text

from nas.profile.records import Profile
from nas.records import Measurement


def headline(p: Profile) -> Table:
    """One network: what was counted and what was measured."""
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
    if m.made_s:
        yield "made in", f"{m.made_s:.1f} s (compiling or exporting)"
    yield "verdict", f"{m.verdict} ({m.samples} samples in {m.seconds:.1f} s){_advice(m)}"
    for note in m.notes:
        yield "note", note


def latencies(m: Measurement) -> str:
    """Median, and the percentiles that are known, in ms."""
    known = ((95, m.latency_p95_ms), (99, m.latency_p99_ms))
    return ", ".join([f"{m.latency_ms:.2f}", *(f"p{q} {ms:.2f}" for q, ms in known if ms is not None)])


def memories(m: Measurement) -> dict[str, float]:
    """The kinds of memory that are known, in MiB: what tensors need, what was taken for it, all on the card."""
    kinds = {"allocated": m.peak_memory_mib, "reserved": m.reserved_memory_mib, "driver": m.driver_memory_mib}
    return {kind: mib for kind, mib in kinds.items() if mib is not None}


def interval(low: float, high: float) -> str:
    """A 95 % confidence interval of the median."""
    return f"[{low:.4g}, {high:.4g}]"


def _for(m: Measurement) -> str:
    return f" (for {m.requested_batch})" if m.requested_batch not in (None, m.batch) else ""


def _advice(m: Measurement) -> str:
    return ": more --seconds or a quieter machine narrow the intervals" if m.verdict == "wide" else ""


def comparison(profiles: Sequence[Profile]) -> Table:
    """One line a network."""
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
