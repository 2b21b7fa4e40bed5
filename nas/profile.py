"""What a backbone costs on this machine: parameters, MACs by three counters, throughput, latency, memory, per stage.

python -m nas.profile --arch eradio
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text
from torch import nn

from backbones import fuse, resolve
from nas.command import BAD_INPUT, OneLineParser, one_line
from nas.counters import Counter, Counts, count, side_by_side
from nas.measure import environment, measure_pair, torch_device
from nas.measure.pair import PRECISIONS
from nas.measure.stages import StageTimes, called_parts, stage_times
from nas.records import Measurement
from search_space import SPACES, ArchSpec

REFERENCE = "timm:resnet18"
SIZE_MULTIPLE_PX = 32
MICRO_PX, FULL_PX = 64, 224
STAGES_SHARE = 0.1  # of --seconds, for the per-stage run

EXAMPLES = """examples:
  python -m nas.profile --arch eradio                        the net of the paper, 224 px, this machine's best device
  python -m nas.profile --arch timm:resnet50 --batch 8       any network of timm
  python -m nas.profile --arch eradio_nano --arch eradio_pico --arch timm:mobilenetv3_small_050 --resolution 64
  python -m nas.profile --arch runs/NAME/winner.json --json > profile.json
"""


@dataclass(frozen=True)
class Stage:
    """One row of the per-stage table."""

    name: str
    params: int
    macs: int | None  # of one image
    time_ms: float  # of one batch
    share: float  # of the whole's time


@dataclass(frozen=True)
class Profile:
    """Everything measured and counted about one backbone."""

    arch: str
    arch_id: str | None  # None for a network that is not built from a spec
    counts: Counts
    counters: tuple[Counter, ...]
    measurement: Measurement
    stages: tuple[Stage, ...]
    stages_covered: float  # the stages' time over the whole's
    environment: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """The object that --json prints."""
        return {
            "arch": self.arch,
            "arch_id": self.arch_id,
            "params": self.counts.params,
            "macs": self.counts.macs,
            "counters": {c.name: {"macs": c.macs, "reason": c.reason} for c in self.counters},
            "uncounted": self.counts.uncounted,
            **self.measurement.to_dict(),
            "stages": [asdict(stage) for stage in self.stages],
            "stages_covered": self.stages_covered,
            "environment": self.environment,
        }


def profile(
    arch: str,
    *,
    device: str = "auto",
    batch: int | None = None,
    resolution: int | None = None,
    precision: str = "fp32",
    seconds: float = 30.0,
    reference: str = REFERENCE,
    progress: Callable[[str], None] = lambda what: None,
) -> Profile:
    """Count and measure `arch` (preset, timm:NAME or spec file). ValueError for what a person got wrong."""
    where = torch_device(device)
    progress(f"{arch}: building")
    name, model = resolve(arch)
    spec = getattr(model, "spec", None)
    resolution = resolution or default_resolution(spec)
    batch = batch or default_batch(where, resolution)
    progress(f"{name}: counting")
    counts = _count(name, model, resolution)
    counters = side_by_side(model, resolution, counts)
    progress(f"{name}: timing {batch} x {resolution} px beside {reference} for up to {seconds:g} s")
    fused = fuse(model)
    measurement = measure_pair(
        fused,
        fuse(resolve(reference)[1]),
        name_of_reference=reference,
        device=str(where),
        batch=batch,
        resolution=resolution,
        precision=precision,
        budget_s=seconds,
        seed=0,
    )
    progress(f"{name}: timing its stages")
    images = torch.randn(batch, 3, resolution, resolution).to(where, PRECISIONS[precision])
    images = images.contiguous(memory_format=torch.channels_last)
    fused = fused.to(where, PRECISIONS[precision])
    parts = called_parts(fused, fused.stage_modules(), images[:1])
    times = stage_times(fused, parts, images, STAGES_SHARE * seconds)
    arch_id = spec.arch_id if spec is not None else None
    stages = _stages(parts, {id(m): n for n, m in fused.named_modules()}, counts, times)
    return Profile(name, arch_id, counts, counters, measurement, stages, times.covered, environment(str(where)))


def default_resolution(spec: ArchSpec | None) -> int:
    """64 px for laptop-scale specs, else 224 px."""
    return MICRO_PX if spec is not None and SPACES["micro"].contains(spec) else FULL_PX


def default_batch(device: torch.device, resolution: int) -> int:
    """The search's own batch sizes; on a CPU less at full resolution, where 16 images may take ten seconds."""
    if device.type == "cuda":
        return 128
    return 16 if resolution <= 2 * MICRO_PX else 4


def _count(name: str, model: nn.Module, resolution: int) -> Counts:
    try:
        return count(model, resolution)
    except (RuntimeError, AssertionError) as error:  # timm's way to say that a network is bound to its size
        summary = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"resolution: {name} cannot take {resolution} px: {summary}") from None


def _stages(
    parts: list[tuple[str, nn.Module]], names: dict[int, str], counts: Counts, times: StageTimes
) -> tuple[Stage, ...]:
    return tuple(
        Stage(
            name=label,
            params=sum(p.numel() for p in module.parameters()),
            macs=counts.module_macs.get(names[id(module)]),
            time_ms=times.stages_s[label] * 1e3,
            share=times.stages_s[label] / times.whole_s,
        )
        for label, module in parts
    )


def main(argv: Sequence[str] | None = None) -> int:
    """The command; 0, or 2 after one line of error."""
    try:
        options = _options(argv)
        profiles = _profile_all(options)
    except (ValueError, RuntimeError, OverflowError, RecursionError) as error:  # RuntimeError: out of memory, mostly
        print(f"error: {one_line(error)[:500]}", file=sys.stderr)
        return BAD_INPUT
    if options.json:
        plain = [p.to_dict() for p in profiles]
        print(json.dumps(plain[0] if len(plain) == 1 else {"profiles": plain}, indent=2))
    else:
        _show(profiles, Console())
    return 0


def _profile_all(options: argparse.Namespace) -> list[Profile]:
    console = Console(stderr=True)
    settings = {k: getattr(options, k) for k in ("device", "batch", "resolution", "precision", "seconds", "reference")}
    if not console.is_terminal:
        return [profile(arch, **settings) for arch in options.arch]
    with console.status("") as status:
        return [profile(arch, progress=status.update, **settings) for arch in options.arch]


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = OneLineParser(
        prog="python -m nas.profile",
        description=(__doc__ or "").partition("\n")[0],
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--arch", action="append", required=True, help="preset, timm:NAME or a spec's .json file; may be repeated")
    add("--device", default="auto", help="auto (default), cpu, cuda or cuda:N")
    add("--batch", type=int, help="images a call (default: 128 on CUDA; on a CPU 16 up to 128 px, else 4)")
    add("--resolution", type=int, help="pixels, a multiple of 32 (default: 64 for laptop-scale nets, else 224)")
    add("--precision", choices=list(PRECISIONS), default="fp32", help="of weights and inputs (default: fp32)")
    add("--seconds", type=float, default=30.0, help="timing budget of each net (default: 30; certain ones take less)")
    add("--reference", default=REFERENCE, help=f"net timed beside each (default: {REFERENCE})")
    add("--threads", type=int, help="CPU threads (default: one a core)")
    add("--json", action="store_true", help="one JSON object on stdout instead of tables")
    options = parser.parse_args(argv)
    for name in ("batch", "resolution", "seconds", "threads"):
        value = getattr(options, name)
        if value is not None and not value > 0:
            raise ValueError(f"--{name}: {value} must be positive")
    if options.resolution is not None and options.resolution % SIZE_MULTIPLE_PX:
        raise ValueError(f"--resolution: {options.resolution} is not a multiple of {SIZE_MULTIPLE_PX}")
    if options.threads:
        torch.set_num_threads(options.threads)
    torch_device(options.device)  # before anything is built
    return options


def _show(profiles: list[Profile], console: Console) -> None:
    first = profiles[0]
    if len(profiles) == 1:
        console.print(_headline(first), _counters(first), _stage_table(first))
    else:
        console.print(_comparison(profiles))
    e, m = first.environment, first.measurement
    console.print(f"{m.device}; {m.arm}; torch {e['torch']}, timm {e['timm']}, Python {e['python']}", style="dim")


def _headline(p: Profile) -> Table:
    m = p.measurement
    wide = ": more --seconds or a quieter machine narrow the intervals" if m.verdict == "wide" else ""
    table = Table(title=f"{p.arch}, {m.resolution} px", box=box.SIMPLE_HEAD, show_header=False)
    rows = {
        "parameters": f"{p.counts.params / 1e6:.2f} M",
        "compute": f"{p.counts.macs / 1e9:.3f} GMACs (x2 = {2 * p.counts.macs / 1e9:.3f} GFLOPs)",
        "throughput": f"{m.throughput_img_s:.4g} img/s {_interval(m.throughput_low_img_s, m.throughput_high_img_s)}"
        f", batch {m.batch}",
        f"beside {m.reference}": f"x {m.ratio:.3f} {_interval(m.ratio_low, m.ratio_high)}, interleaved",
        "latency": f"{m.latency_ms:.2f} ms, batch 1",
        "peak memory": f"{m.peak_memory_mib:.1f} MiB, batch {m.batch}",
        "verdict": f"{m.verdict} ({m.samples} samples in {m.seconds:.1f} s){wide}",
    }
    for name, value in rows.items():
        table.add_row(name, Text(value))
    return table


def _interval(low: float, high: float) -> str:
    """A 95 % confidence interval of the median."""
    return f"[{low:.4g}, {high:.4g}]"


def _comparison(profiles: list[Profile]) -> Table:
    reference = profiles[0].measurement.reference
    sizes = {f"batch {p.measurement.batch}, {p.measurement.resolution} px" for p in profiles}
    caption = (
        f"ratio: to {reference}, interleaved; ±: half its 95 % interval; ms: latency at batch 1; GMACs x2 = GFLOPs."
        " Name one --arch for counters and stages."
    )
    table = Table(
        title=f"Profiles ({'; '.join(sorted(sizes))})", caption=caption, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0)
    )
    table.add_column("arch", overflow="fold")
    for heading in ("params M", "GMACs", "img/s", "ratio", "±", "ms", "MiB"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    for p in profiles:
        m = p.measurement
        size = f" ({m.batch} x {m.resolution} px)" if len(sizes) > 1 else ""
        table.add_row(
            p.arch + size,
            f"{p.counts.params / 1e6:.2f}",
            f"{p.counts.macs / 1e9:.3f}",
            f"{m.throughput_img_s:.4g}",
            f"{m.ratio:.3f}",
            f"{(m.ratio_high - m.ratio_low) / 2 / m.ratio:.1%}",
            f"{m.latency_ms:.2f}",
            f"{m.peak_memory_mib:.0f}",
            m.verdict,
        )
    return table


def _counters(p: Profile) -> Table:
    table = Table(title="Counters", box=box.SIMPLE_HEAD)
    table.add_column("counter")
    table.add_column("GMACs", justify="right")
    table.add_column("why it differs")
    for c in p.counters:
        table.add_row(c.name, "-" if c.macs is None else f"{c.macs / 1e9:.3f}", c.reason)
    table.add_row("not counted", "", ", ".join(p.counts.uncounted) or "nothing that computes")
    return table


def _stage_table(p: Profile) -> Table:
    caption = f"The stages explain {p.stages_covered:.1%} of the time of a whole call ({p.measurement.batch} images)."
    table = Table(title="Stages", caption=caption, box=box.SIMPLE_HEAD)
    table.add_column("stage")
    for heading in ("params M", "GMACs", "ms", "share"):
        table.add_column(heading, justify="right")
    table.add_column("")
    for s in p.stages:
        macs = "-" if s.macs is None else f"{s.macs / 1e9:.3f}"
        timing = (f"{s.time_ms:.2f}", f"{s.share:.1%}", _bar(s.share))
        table.add_row(s.name, f"{s.params / 1e6:.3f}", macs, *timing)
    return table


def _bar(share: float, width: int = 24) -> str:
    return "█" * round(share * width)


if __name__ == "__main__":
    raise SystemExit(main())
