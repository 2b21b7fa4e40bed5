"""Wrap a model as one function of images, for graph formats; check and time a graph against PyTorch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from backbones import Network, TimmBackbone
from nas.distill.adaptor import module_name
from nas.export import ExportFailed
from nas.export.source import ExportSource
from nas.machine import lock_dir
from nas.measure.conditions import watching
from nas.measure.device_lock import measuring
from nas.measure.environment import device_key, device_name
from nas.measure.interleave import compare
from nas.measure.output_check import check, expected_outputs
from nas.measure.pair import watch_for
from nas.measure.prepare import apply_arm
from nas.measure.runtime_spec import Arm, torch_dtype
from nas.measure.timers import timer_for
from nas.measure.verdicts import contended
from nas.study.timing_doubts import CONTENDED, DOUBTS
from search_space.arch import SIZE_MULTIPLE_PX

TOLERANCE = 1e-4  # of an output's largest difference, relative to its largest value
BATCHES = (1, 2, 5)
TIMING_S = 5.0

Run = Callable[[Tensor], Sequence[Tensor]]
Case = tuple[int, int, int]  # batch, height, width


class DeployedModel(nn.Module):
    """Maps normalized images, (B, 3, H, W), to the tensors that `outputs` names; in fp32, as the model is trained."""

    def __init__(self, source: ExportSource) -> None:
        super().__init__()
        self.backbone = source.model
        self.heads = nn.ModuleDict({module_name(name): adaptor for name, adaptor in source.adaptors.items()})
        self.eval()

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return summary and spatial features, then those of each teacher's heads."""
        summary, spatial = self.backbone.encode(images)
        tensors = [summary, spatial]
        for adaptor in self.heads.values():
            teacher_summary, teacher_spatial = adaptor(summary, spatial, images)
            tensors += [teacher_spatial] if teacher_summary is None else [teacher_summary, teacher_spatial]
        return tuple(tensors)


def deployed(source: ExportSource, arm: Arm) -> nn.Module:
    """Return the `DeployedModel` in the arm's precision, layout and form, converted as for measurements, on the CPU."""
    return apply_arm(DeployedModel(source), arm, torch.device("cpu"))


def outputs(source: ExportSource) -> list[str]:
    """Return the names of the output tensors in order: the model's, then those of the teachers' heads."""
    names = ["summary", "spatial"]
    for teacher, adaptor in source.adaptors.items():
        heads = ("spatial",) if adaptor.summary is None else ("summary", "spatial")
        names += [f"{teacher}.{head}" for head in heads]
    return names


def size_step(model: Network) -> int:
    """Return the step of image sides, in px, that fits all windows, so that no stage resizes its map.

    The windows of timm's networks are not known here: what a graph does at other sizes is tested.
    """
    if isinstance(model, TimmBackbone):
        return SIZE_MULTIPLE_PX
    steps = zip((int(stage.step) for stage in model.stages), model.strides, strict=True)  # type: ignore[arg-type]
    return math.lcm(SIZE_MULTIPLE_PX, *(step * stride for step, stride in steps if step > 1))


def cases(image_px: int, step: int | None) -> list[Case]:
    """Return batches and sizes to check; without a step, one size only."""
    sizes = [(image_px, image_px)]
    if step is not None:
        sizes += [(image_px + step, image_px + step), (step, image_px + 2 * step)]
    return [(batch, *size) for size in sizes for batch in BATCHES]


def largest_error(run: Run, model: nn.Module, tried: Iterable[Case]) -> float:
    """Return the largest error of any output, relative to the largest value of `model`'s output.

    It is infinite where shapes differ or a value is not finite.
    """
    worst = 0.0
    for batch, height, width in tried:
        images = _images(batch, height, width)
        with torch.inference_mode():
            expected, actual = model(images), run(images)
            for e, a in zip(expected, actual, strict=True):
                if e.shape != a.shape or not bool(a.isfinite().all()):
                    return math.inf
                worst = max(worst, float((e - a).abs().max() / e.abs().max().clamp(min=1e-12)))
    return worst


def check_graph(name: str, run: Run, model: nn.Module, tried: Sequence[Case]) -> float:
    """Return `largest_error`; ExportFailed where it is over TOLERANCE."""
    error = largest_error(run, model, tried)
    if not error <= TOLERANCE:
        raise ExportFailed(
            f"{name} differs from PyTorch by {error:.2g} of the largest output; {TOLERANCE:g} is allowed"
        )
    return error


def check_rounding(name: str, run: Run, source: ExportSource, precision: str, tried: Iterable[Case]) -> float:
    """Return the largest relative error of a graph of half precision against the model in fp32.

    Errors and their tolerance are those of a measurement's output check.

    Raises:
        ExportFailed: An error is larger than rounding explains, or a value is not finite.
    """
    model, worst = DeployedModel(source), 0.0
    for batch, height, width in tried:
        images = _images(batch, height, width)
        expected = expected_outputs(model, images, precision)
        found = check(run, images.to(torch_dtype(precision)), expected)
        if not found.correct:
            raise ExportFailed(
                f"{name} differs from fp32 PyTorch by {found.error:.2g} of the outputs' norm; {expected.tolerance:.2g} "
                "is allowed; choose another --precision"
            )
        worst = max(worst, found.error)
    return worst


def _images(batch: int, height: int, width: int) -> Tensor:
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(batch))


@dataclass(frozen=True)
class GraphTimes:
    """Medians for one image, in ms, with 95 % intervals; `ratio` is PyTorch's time over the graph's, from pairs.

    The `verdict` is one of `nas.measure.verdicts`.
    """

    device: str
    verdict: str
    samples: int
    graph_ms: tuple[float, float, float]
    torch_ms: tuple[float, float, float]
    ratio: tuple[float, float, float]

    @property
    def trusted(self) -> bool:
        """Return whether the numbers mean something."""
        return self.verdict not in DOUBTS

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON data, in which times that cannot be trusted are None."""
        times = {name: getattr(self, name) if self.trusted else None for name in ("graph_ms", "torch_ms", "ratio")}
        return asdict(self) | times

    def line(self, name: str) -> str:
        """Return the times on a line for people; without numbers where they would mislead."""
        if not self.trusted:
            why = f"the timing of one image was {self.verdict}" if self.verdict == CONTENDED else self.verdict
            return f"no speed-up is known: {why}; export again on an idle machine"
        graph, eager = (
            f"{value:.3g} ms ({low:.3g} to {high:.3g})" for value, low, high in (self.graph_ms, self.torch_ms)
        )
        ratio = f"{self.ratio[0]:.2f} times as fast"
        return f"latency of one image: {name} {graph}, fused PyTorch in eager mode {eager}: {ratio}; {self.device}"


def time_graph(run: Run, source: ExportSource, images: Tensor) -> GraphTimes:
    """Time the graph against the fused model in PyTorch: one image, this machine's CPU, random A B B A order."""
    device = torch.device("cpu")
    reference = deployed(source, Arm())
    with (
        measuring(lock_dir() / device_key("cpu")),
        torch.inference_mode(),
        watching(watch_for(device)) as end_watch,
    ):
        times = compare(
            lambda: run(images), lambda: reference(images), timer_for(device), TIMING_S, np.random.default_rng(0), True
        )
        conditions = end_watch()
    graph, eager, ratio = times.candidate, times.reference, times.ratio
    return GraphTimes(
        device_name(device),
        CONTENDED if contended(conditions) else times.verdict,
        times.candidate_s.size,
        (1e3 * graph.value, 1e3 * graph.low, 1e3 * graph.high),
        (1e3 * eager.value, 1e3 * eager.low, 1e3 * eager.high),
        (ratio.value, ratio.low, ratio.high),
    )
