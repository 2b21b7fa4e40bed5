"""Where the time goes: seconds of each stage, in an eager run of its own, beside the seconds of the whole."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class StageTimes:
    """Seconds per call of `encode` and of the stages inside it; a stage that was never called is missing.

    Means over the faster half of the runs: unlike medians they add up, and what another process disturbed is left out.
    """

    whole_s: float
    stages_s: dict[str, float]

    @property
    def covered(self) -> float:
        """Share of the whole that the stages explain; far under 1 a part has no name, over 1 stages overlap."""
        return sum(self.stages_s.values()) / self.whole_s


def called_parts(
    model: nn.Module, stages: Sequence[tuple[str, nn.Module]], images: Tensor
) -> list[tuple[str, nn.Module]]:
    """The stages that a forward calls as modules; a container that is only iterated over gives its children instead.

    A stage that does nothing (Identity) or never runs is left out. timm iterates over its `blocks`, for example.
    """
    called: set[int] = set()
    watched = [m for m in model.modules() if not isinstance(m, nn.Identity)]
    handles = [m.register_forward_pre_hook(lambda module, _: called.add(id(module))) for m in watched]
    encode: Callable[[Tensor], Any] = getattr(model, "encode", model)
    try:
        with torch.inference_mode():
            encode(images)
    finally:
        for handle in handles:
            handle.remove()

    def expand(name: str, module: nn.Module) -> list[tuple[str, nn.Module]]:
        if id(module) in called:
            return [(name, module)]
        return [part for label, child in module.named_children() for part in expand(f"{name}.{label}", child)]

    return [part for name, module in stages for part in expand(name, module)]


def stage_times(
    model: nn.Module, stages: Sequence[tuple[str, nn.Module]], images: Tensor, budget_s: float
) -> StageTimes:
    """Time `model.encode(images)` and its `stages` by forward hooks, 1 to 50 times as `budget_s` allows."""
    encode: Callable[[Tensor], Any] = getattr(model, "encode", model)
    runs: list[dict[str, float]] = []
    end = time.perf_counter() + budget_s
    with torch.inference_mode(), _hooked(stages, images.device) as marks:
        while not runs or (len(runs) < 50 and time.perf_counter() < end):
            marks.clear()
            start = _mark(images.device)
            encode(images)
            marks.append(("", start, _mark(images.device)))
            runs.append(_sums(marks))
    faster = sorted(runs, key=lambda run: run[""])[: (len(runs) + 1) // 2]
    means = {name: float(np.mean([run[name] for run in faster])) for name in faster[0]}
    return StageTimes(means.pop(""), means)


def _mark(device: torch.device) -> Any:
    """A point in time: seconds on a CPU, an event in the queue of a card."""
    if device.type != "cuda":
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    event.record(torch.cuda.current_stream(device))
    return event


def _sums(marks: list[tuple[str, Any, Any]]) -> dict[str, float]:
    """Seconds by name; a module that ran twice is summed."""
    on_card = isinstance(marks[0][1], torch.cuda.Event)
    if on_card:
        torch.cuda.synchronize()
    sums: dict[str, float] = {}
    for name, start, end in marks:
        seconds = start.elapsed_time(end) / 1e3 if on_card else end - start
        sums[name] = sums.get(name, 0.0) + seconds
    return sums


@contextmanager
def _hooked(stages: Sequence[tuple[str, nn.Module]], device: torch.device) -> Iterator[list[tuple[str, Any, Any]]]:
    """Hooks that append (name, start, end) for every call of a stage."""
    marks: list[tuple[str, Any, Any]] = []
    started: dict[str, Any] = {}

    def before(name: str) -> Callable[..., None]:
        return lambda *_: started.__setitem__(name, _mark(device))

    def after(name: str) -> Callable[..., None]:
        return lambda *_: marks.append((name, started[name], _mark(device)))

    handles = [m.register_forward_pre_hook(before(name)) for name, m in stages]
    handles += [m.register_forward_hook(after(name)) for name, m in stages]
    try:
        yield marks
    finally:
        for handle in handles:
            handle.remove()
