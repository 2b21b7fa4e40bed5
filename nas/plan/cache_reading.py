"""What trainings read from the cache, how fast their threads have to copy it, and how long they wait for its disk.

A training reads the images of a step and their targets at random. All workers share the disk.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median

from nas.numbers import format_bytes, plural
from nas.plan.forecast import Basis, PlanFigure, weaker
from nas.plan.probe import ProbedCosts, mean_batch
from nas.plan.teacher_costs import bytes_of_an_image
from nas.study.config import SearchConfig


@dataclass(frozen=True)
class CacheReading:
    """What trainings read from the cache.

    Args:
        image_bytes: Bytes of an image and its targets.
        step_bytes: Bytes of a training step.
        bytes_s: Bytes that the cache's disk gives all workers together in a second; infinity: as many as they ask for.
    """

    image_bytes: float
    step_bytes: float
    bytes_s: float

    @classmethod
    def of(cls, config: SearchConfig, widths: Mapping[str, tuple[int, int]], gb_s: float | None) -> CacheReading:
        """Return the reading of a search whose teachers' outputs have these channels."""
        each = bytes_of_an_image(config, widths)
        return cls(each, each * mean_batch(config.distill), math.inf if gb_s is None else gb_s * 1e9)

    def step_s(self, workers: int) -> float:
        """Return the seconds in which the disk reads a step of each of `workers` trainings."""
        return workers * self.step_bytes / self.bytes_s


def reading_figures(
    config: SearchConfig, reading: CacheReading, probed: Sequence[ProbedCosts], workers: int, basis: Basis
) -> list[PlanFigure]:
    """Return what is read from the cache in a second if no training waits for it.

    They are the bytes of all workers together, and the images of each process that trains. Two threads of a process
    copy them with their targets; whether they can depends on the CPU.
    """
    recipe = config.distill
    whole = format_bytes(recipe.rung_steps[-1] * reading.step_bytes)
    each = format_bytes(reading.image_bytes)
    note = f"at random; {each} an image, {whole} a full training; from memory where the cache fits"
    rate = workers * reading.step_bytes * recipe.ranks / fmean(costs.step_s for costs in probed)
    images_s = [mean_batch(recipe) / costs.step_s for costs in probed]
    copied = (
        "the timed steps include the wait for them, from memory" if basis is Basis.MEASURED else "no wait is counted"
    )
    return [
        PlanFigure("read_bytes_s", "reading while all workers train", rate, "bytes/s", weaker(basis), note),
        PlanFigure(
            "read_images_s",
            "images that the CPU copies in a second for each process that trains",
            median(images_s),
            "",
            weaker(basis),
            f"median (range) of {len(probed)} architectures; {copied}",
            low=min(images_s),
            high=max(images_s),
        ),
    ]


def reading_notes(
    config: SearchConfig, reading: CacheReading, probed: Sequence[ProbedCosts], workers: int
) -> tuple[str, ...]:
    """Return a sentence about the trainings that wait for the disk; none where it is as fast as they are."""
    step_s = reading.step_s(workers)
    waiting = sum(costs.step_s / config.distill.ranks < step_s for costs in probed)
    if not waiting:
        return ()
    of_them = f"all {waiting}" if waiting == len(probed) else f"{waiting} of the {len(probed)}"
    return (
        f"The cache's disk is assumed to read {format_bytes(reading.bytes_s)} a second (--read-gb-per-second), which"
        f" all workers share. With {plural(workers, 'worker')} it reads a training step of each in {step_s:.3g} s;"
        f" {of_them} probed architectures compute a step in less, and wait for it. This counts all workers as training"
        " at all times. Those that measure or wait for a candidate leave more of the disk to the others, so that the"
        " search can be faster than planned.",
    )
