"""Examine this machine: read each part, judge it, and yield the findings one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nas.cli import one_line
from nas.doctor import findings, readings
from nas.doctor.findings import Finding
from nas.doctor.gpu_readings import GpuReading, read_gpu
from nas.doctor.readings import Unread
from nas.local_workers import workers_on
from nas.machine import cpu_count
from nas.measure.runtime_check import read_runtime
from nas.measure.runtime_spec import default_arm
from nas.measure.runtime_traits import RUNTIMES

LIMIT_S, HUB_LIMIT_S = 60.0, 10.0  # of a reading, which then counts as hanging

Isolate = Callable[..., Any]  # calls a function with arguments in a process of its own, within `limit_s`


@dataclass(frozen=True)
class Examination:
    """What is looked at, and in which processes.

    Attributes:
        run: Folder of runs.
        cache: Cache folder.
        isolate: Process that has PyTorch loaded.
        aside: Process for what takes long without PyTorch, meanwhile.
    """

    run: Path
    cache: Path
    isolate: Isolate
    aside: Isolate

    def findings(self) -> Iterator[Finding]:
        """Yield the findings, those that others depend on first."""
        yield findings.judge_packages(readings.read_packages())
        yield from self._of_folders()
        yield findings.judge_cpu(self._read(readings.read_cpu))
        gpu = self._read(read_gpu)
        yield findings.judge_gpu(gpu)
        on_gpu = isinstance(gpu, GpuReading) and gpu.usable
        if on_gpu:
            yield findings.judge_driver(gpu)
        memory = readings.read_memory()
        workers = len(gpu.gpus) if on_gpu else workers_on(cpu_count(), memory.usable)  # as a search starts
        yield findings.judge_memory(memory, workers)
        device = "cuda" if on_gpu else "cpu"
        yield findings.judge_precision(self._read(readings.read_precision, device), device)
        pool = ThreadPoolExecutor(1)
        try:
            ray = pool.submit(read_isolated, self.aside, LIMIT_S, readings.read_ray)  # now that the steps are timed
            yield from self._of_runtimes(device)
            yield findings.judge_teachers(self._read(readings.read_teachers))
            yield findings.judge_hub(read_isolated(self.isolate, HUB_LIMIT_S, readings.read_hub))
            yield findings.judge_ray(ray.result())
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _of_folders(self) -> Iterator[Finding]:
        run, cache = readings.read_folder(self.run), readings.read_folder(self.cache)
        yield findings.judge_folder(run, "run folder", "--run", findings.RUN_BYTES)
        yield findings.judge_folder(cache, "cache", "--cache", findings.CACHE_BYTES)
        shared = readings.SHARED_MEMORY
        yield findings.judge_shared_memory(readings.read_folder(shared) if shared.is_dir() else None)

    def _of_runtimes(self, device: str) -> Iterator[Finding]:
        default, on_gpu = default_arm(device), device == "cuda"
        seen = {""}  # the training step has run PyTorch's eager mode
        for runtime, traits in RUNTIMES.items():
            if traits.library in seen:
                continue
            seen.add(traits.library)
            if traits.cuda_only and not on_gpu:
                yield Finding(traits.library, findings.OK, "not used: it runs on NVIDIA GPUs only")
                continue
            precision = default.precision if runtime == default.runtime or not on_gpu else "fp16"
            reading = self._read(read_runtime, runtime, device, precision)
            yield findings.judge_runtime(reading, runtime, str(default))

    def _read(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return read_isolated(self.isolate, LIMIT_S, function, *arguments)


def read_isolated(isolate: Isolate, limit_s: float, function: Callable[..., Any], *arguments: Any) -> Any:
    """Return a reading that another process takes; `Unread` where it fails, crashes or hangs."""
    try:
        return isolate(function, *arguments, limit_s=limit_s)
    except Exception as error:
        return Unread(one_line(error)[: findings.MAX_REASON])
