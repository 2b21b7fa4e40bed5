"""Where the time goes: seconds of each stage or module, in eager runs of their own, beside those of the whole."""

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


def called_modules(
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

    def run() -> dict[str, float]:
        marks.clear()
        start = _mark(images.device)
        encode(images)
        marks.append(("", start, _mark(images.device)))
        return _sums(marks)

    with torch.inference_mode(), _hooked(stages, images.device) as marks:
        means = _faster_half(run, lambda sums: sums[""], budget_s)
    return StageTimes(means.pop(""), means)


def seconds_by_stage(model: nn.Module, images: Tensor, budget_s: float) -> dict[str, float]:
    """Seconds of `model.encode(images)` by stage, in order, and "rest", what lies between them; a run before warms up.

    Of a network that doesn't name its stages (`stage_modules`), and where it can't be run so: {}.
    """
    named: Callable[[], list[tuple[str, nn.Module]]] | None = getattr(model, "stage_modules", None)
    if named is None:
        return {}
    try:
        found = stage_times(model, called_modules(model, named(), images), images, budget_s)
    except (RuntimeError, MemoryError):  # a compiled net may fit where it does not eagerly
        return {}
    return {**found.stages_s, "rest": max(0.0, found.whole_s - sum(found.stages_s.values()))}


def self_times(model: nn.Module, images: Tensor, budget_s: float) -> StageTimes:
    """Time every module of `model.encode(images)` without the modules inside it, 1 to 50 times as `budget_s` allows.

    By qualified name, "" being the network itself. They add up to the whole, hooks included: two a module, of a few
    microseconds each.
    """
    encode: Callable[[Tensor], Any] = getattr(model, "encode", model)

    def run() -> dict[str, float]:
        marks.clear()
        last = _mark(images.device)
        encode(images)
        marks.append(("", _mark(images.device)))
        spans = []
        for name, mark in marks:  # from one mark to the next, one module was the innermost
            spans.append((name, last, mark))
            last = mark
        return _sums(spans)

    with torch.inference_mode(), _nested(model, images.device) as marks:
        means = _faster_half(run, lambda sums: sum(sums.values()), budget_s)
    return StageTimes(sum(means.values()), means)


def _faster_half(
    run: Callable[[], dict[str, float]], whole: Callable[[dict[str, float]], float], budget_s: float
) -> dict[str, float]:
    """Means over the faster half of 1 to 50 runs."""
    runs: list[dict[str, float]] = []
    end = time.perf_counter() + budget_s
    while not runs or (len(runs) < 50 and time.perf_counter() < end):
        runs.append(run())
    faster = sorted(runs, key=whole)[: (len(runs) + 1) // 2]
    return {name: float(np.mean([run[name] for run in faster])) for name in faster[0]}


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


@contextmanager
def _nested(model: nn.Module, device: torch.device) -> Iterator[list[tuple[str, Any]]]:
    """Hooks that append (innermost module until now, mark) whenever a module begins or ends."""
    marks: list[tuple[str, Any]] = []
    running = [""]
    handles = []

    def before(name: str) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            marks.append((running[-1], _mark(device)))
            running.append(name)

        return hook

    def after(*_: Any) -> None:
        marks.append((running.pop(), _mark(device)))

    for name, module in model.named_modules():
        if not isinstance(module, nn.Identity):
            handles.append(module.register_forward_pre_hook(before(name)))
            handles.append(module.register_forward_hook(after))
    try:
        yield marks
    finally:
        for handle in handles:
            handle.remove()
