"""Time each stage or module of a network, in eager runs of their own, along with the whole."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nas.measure.conditions import thread_wait
from nas.measure.runtimes.contract import encoder
from nas.study.records import REST

Mark = Callable[[], Any]


@dataclass(frozen=True)
class StageTimes:
    """Seconds per call of `encode` and of the stages inside it; a stage that was never called is missing.

    They are means over the faster half of the runs: unlike medians, means add up, and disturbed runs are left out.
    """

    whole_s: float
    stages_s: dict[str, float]

    @property
    def covered(self) -> float:
        """The stages' share of the whole: far below 1, something runs outside them; above 1, they overlap."""
        return sum(self.stages_s.values()) / self.whole_s


def called_modules(
    model: nn.Module, stages: Sequence[tuple[str, nn.Module]], images: Tensor
) -> list[tuple[str, nn.Module]]:
    """Return the stages that a forward calls as modules, and the called children of those that it only iterates over.

    timm iterates over its `blocks`, for example. A stage that does nothing (Identity) or never runs is left out.
    """
    called: set[int] = set()
    modules = [m for m in model.modules() if not isinstance(m, nn.Identity)]
    handles = [m.register_forward_pre_hook(lambda module, _: called.add(id(module))) for m in modules]
    encode = encoder(model)
    try:
        with torch.inference_mode():
            encode(images)
    finally:
        for handle in handles:
            handle.remove()

    def expand(name: str, module: nn.Module) -> list[tuple[str, nn.Module]]:
        if id(module) in called:
            return [(name, module)]
        return [pair for label, child in module.named_children() for pair in expand(f"{name}.{label}", child)]

    return [pair for name, module in stages for pair in expand(name, module)]


def stage_times(
    model: nn.Module, stages: Sequence[tuple[str, nn.Module]], images: Tensor, budget_s: float
) -> StageTimes:
    """Time `model.encode(images)` and its `stages` by forward hooks, 1 to 50 times as `budget_s` allows."""
    encode = encoder(model)

    def run() -> dict[str, float]:
        _lead_in(encode, images)
        marks.clear()
        start = mark()
        encode(images)
        marks.append(("", start, mark()))
        return _sums(marks)

    with torch.inference_mode(), _marker(images.device) as mark, _hooked(stages, mark) as marks:
        means = _faster_half(run, lambda sums: sums[""], budget_s)
    return StageTimes(means.pop(""), means)


def seconds_by_stage(model: nn.Module, images: Tensor, budget_s: float) -> dict[str, float]:
    """Return the seconds of `model.encode(images)` by stage, in order, with the `REST` between them.

    It is empty for a network without `stage_modules`, and where memory is too small to run the network eagerly.
    """
    stage_modules: Callable[[], list[tuple[str, nn.Module]]] | None = getattr(model, "stage_modules", None)
    if stage_modules is None:
        return {}
    try:
        times = stage_times(
            model, called_modules(model, stage_modules(), images), images, budget_s
        )  # the first warms up
    except (RuntimeError, MemoryError):  # a compiled model may fit into memory where an eager one does not
        return {}
    return {**times.stages_s, REST: max(0.0, times.whole_s - sum(times.stages_s.values()))}


def self_times(model: nn.Module, images: Tensor, budget_s: float) -> StageTimes:
    """Time every module of `model.encode(images)` without the modules inside it, 1 to 50 times as `budget_s` allows.

    Times are keyed by qualified name, "" for the network itself. They add up to the whole, which includes two hooks
    per module of a few microseconds each.
    """
    encode = encoder(model)

    def run() -> dict[str, float]:
        _lead_in(encode, images)
        marks.clear()
        last = mark()
        encode(images)
        marks.append(("", mark()))
        spans = []
        for name, at in marks:  # between two marks, one module is the innermost
            spans.append((name, last, at))
            last = at
        return _sums(spans)

    with torch.inference_mode(), _marker(images.device) as mark, _nested(model, mark) as marks:
        means = _faster_half(run, lambda sums: sum(sums.values()), budget_s)
    return StageTimes(sum(means.values()), means)


def _lead_in(encode: Callable[[Tensor], Any], images: Tensor) -> None:
    """Queue a call on a GPU that is not timed: on an empty queue, the first stages would wait for the host."""
    if images.device.type == "cuda":
        encode(images)


def _faster_half(
    run: Callable[[], dict[str, float]], whole: Callable[[dict[str, float]], float], budget_s: float
) -> dict[str, float]:
    """Return the means over the faster half of 1 to 50 runs."""
    runs: list[dict[str, float]] = []
    end = time.perf_counter() + budget_s
    while not runs or (len(runs) < 50 and time.perf_counter() < end):
        runs.append(run())
    faster = sorted(runs, key=whole)[: (len(runs) + 1) // 2]
    return {name: float(np.mean([run[name] for run in faster])) for name in faster[0]}


@contextmanager
def _marker(device: torch.device) -> Iterator[Mark]:
    """Yield a function that returns a point in time: seconds on a CPU, an event in the queue of a GPU.

    On a CPU the seconds are those of `timers.HostTimer`: without the time in which this thread waited for a core.
    """

    def event() -> Any:
        recorded = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        recorded.record(torch.cuda.current_stream(device))
        return recorded

    if device.type == "cuda":
        yield event
        return
    with thread_wait() as waited_s:

        def seconds() -> float:
            before_s = waited_s()
            while True:
                now_s, after_s = time.perf_counter(), waited_s()
                if after_s == before_s:  # else the core was lost between the two readings
                    return now_s - after_s
                before_s = after_s

        yield seconds


def _sums(marks: list[tuple[str, Any, Any]]) -> dict[str, float]:
    """Return seconds by name, summed over the calls of a module."""
    on_gpu = isinstance(marks[0][1], torch.cuda.Event)
    if on_gpu:
        marks[-1][2].synchronize()  # the last event of the queue, on whichever card
    sums: dict[str, float] = {}
    for name, start, end in marks:
        seconds = start.elapsed_time(end) / 1e3 if on_gpu else end - start
        sums[name] = sums.get(name, 0.0) + seconds
    return sums


@contextmanager
def _hooked(stages: Sequence[tuple[str, nn.Module]], mark: Mark) -> Iterator[list[tuple[str, Any, Any]]]:
    """Install hooks that append (name, start, end) for every call of a stage to the yielded list."""
    marks: list[tuple[str, Any, Any]] = []
    started: dict[str, Any] = {}

    def before(name: str) -> Callable[..., None]:
        return lambda *_: started.__setitem__(name, mark())

    def after(name: str) -> Callable[..., None]:
        return lambda *_: marks.append((name, started[name], mark()))

    handles = [m.register_forward_pre_hook(before(name)) for name, m in stages]
    handles += [m.register_forward_hook(after(name)) for name, m in stages]
    try:
        yield marks
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _nested(model: nn.Module, mark: Mark) -> Iterator[list[tuple[str, Any]]]:
    """Install hooks that append (innermost module so far, mark) to the yielded list when a module begins or ends."""
    marks: list[tuple[str, Any]] = []
    running = [""]
    handles = []

    def before(name: str) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            marks.append((running[-1], mark()))
            running.append(name)

        return hook

    def after(*_: Any) -> None:
        marks.append((running.pop(), mark()))

    for name, module in model.named_modules():
        if not isinstance(module, nn.Identity):
            handles.append(module.register_forward_pre_hook(before(name)))
            handles.append(module.register_forward_hook(after))
    try:
        yield marks
    finally:
        for handle in handles:
            handle.remove()
