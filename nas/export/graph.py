"""A model as one function of images, for formats that hold a graph; checks and times such a graph against PyTorch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from backbones import Backbone, fuse
from backbones.backbone import SIZE_MULTIPLE_PX
from nas.cli import lock_dir
from nas.distill.adaptor import module_name
from nas.export import ExportError
from nas.export.source import ExportSource
from nas.measure.device_lock import measuring
from nas.measure.environment import device_key, device_name
from nas.measure.interleave import compare
from nas.measure.timers import timer_for

TOLERANCE = 1e-4  # largest difference of an output, as a share of its largest value
BATCHES = (1, 2, 5)
TIMING_S = 1.5

Run = Callable[[Tensor], Sequence[Tensor]]
Case = tuple[int, int, int]  # batch, height, width


class DeployedModel(nn.Module):
    """Maps normalized images, (B, 3, H, W), to the tensors that `outputs` names."""

    def __init__(self, source: ExportSource, fused: bool) -> None:
        super().__init__()
        self.net = fuse(source.model) if fused else source.model
        self.heads = nn.ModuleDict({module_name(name): adaptor for name, adaptor in source.adaptors.items()})
        self.eval()

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        summary, spatial = self.net.encode(images)
        found = [summary, spatial]
        for adaptor in self.heads.values():
            of_teacher, mapped = adaptor(summary, spatial)
            found += [mapped] if of_teacher is None else [of_teacher, mapped]
        return tuple(found)


def outputs(source: ExportSource) -> list[str]:
    """Return the names of the tensors in their order: the model's, then the teachers' heads'."""
    names = ["summary", "spatial"]
    for teacher, adaptor in source.adaptors.items():
        heads = ("spatial",) if adaptor.summary is None else ("summary", "spatial")
        names += [f"{teacher}.{head}" for head in heads]
    return names


def size_step(net: Backbone) -> int:
    """Return the px of which sides must be multiples to fit all windows, so that no stage resizes its map."""
    return math.lcm(SIZE_MULTIPLE_PX, *(int(s.step) * r for s, r in zip(net.stages, net.strides, strict=True)))  # type: ignore[arg-type]


def cases(image_px: int, step: int | None) -> list[Case]:
    """Return batches and sizes to check; without a step, one size in some batches."""
    sizes = [(image_px, image_px)]
    if step is not None:
        sizes += [(image_px + step, image_px + step), (step, image_px + 2 * step)]
    return [(batch, *size) for size in sizes for batch in BATCHES]


def largest_error(run: Run, model: nn.Module, tried: Iterable[Case]) -> float:
    """Return the largest error of all outputs against `model`, as a share of the output's largest value.

    It is infinite where shapes differ or a value is not finite.
    """
    worst = 0.0
    for batch, height, width in tried:
        images = torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(batch))
        with torch.inference_mode():
            wanted, found = model(images), run(images)
            for w, f in zip(wanted, found, strict=True):
                if w.shape != f.shape or not bool(f.isfinite().all()):
                    return math.inf
                worst = max(worst, float((w - f).abs().max() / w.abs().max().clamp(min=1e-12)))
    return worst


def check_graph(what: str, run: Run, model: nn.Module, tried: Sequence[Case]) -> float:
    """Return `largest_error`; ExportError where it is over TOLERANCE."""
    error = largest_error(run, model, tried)
    if not error <= TOLERANCE:
        raise ExportError(f"{what} differs from PyTorch by {error:.2g} of the largest output; {TOLERANCE:g} is allowed")
    return error


@dataclass(frozen=True)
class GraphTimes:
    """Medians for one image, in ms, with 95 % intervals; `ratio` is PyTorch's over the other's, from pairs."""

    device: str
    own_ms: tuple[float, float, float]
    torch_ms: tuple[float, float, float]
    ratio: tuple[float, float, float]

    def line(self, name: str) -> str:
        """Return the times on a line for people."""
        (own, low, high), (theirs, least, most), (ratio, *_) = self.own_ms, self.torch_ms, self.ratio
        return (
            f"one image: {name} {own:.3g} ms ({low:.3g} to {high:.3g}), PyTorch eager, fused, {theirs:.3g} ms "
            f"({least:.3g} to {most:.3g}), {ratio:.2f}x; {self.device}"
        )


def time_graph(run: Run, source: ExportSource, images: Tensor) -> GraphTimes:
    """Time the graph beside the fused model in PyTorch, on this machine's CPU, one image, in random A B B A order."""
    device = torch.device("cpu")
    reference = DeployedModel(source, fused=True)
    reference.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks it
    with measuring(lock_dir() / device_key("cpu")), torch.inference_mode():
        found = compare(
            lambda: run(images), lambda: reference(images), timer_for(device), TIMING_S, np.random.default_rng(0), True
        )
    own, theirs, ratio = found.candidate, found.reference, found.ratio
    return GraphTimes(
        device_name(device),
        (1e3 * own.value, 1e3 * own.low, 1e3 * own.high),
        (1e3 * theirs.value, 1e3 * theirs.low, 1e3 * theirs.high),
        (ratio.value, ratio.low, ratio.high),
    )
