"""Choose the precision of a study's trainings: time steps of each on the study's device, and take the faster one.

Properties of the device do not tell: on a Xeon with AVX512-BF16 but without AMX, bf16 steps took 1.15 to 1.47 times
fp32's. So a few steps of both are timed in turn, as a trial trains: with its batch, sizes, teachers and threads.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import torch

from backbones import build_network
from nas.cache.targets import Targets
from nas.distill.device_lease import DeviceLease
from nas.distill.trainer import Distiller
from nas.measure.memory import out_of_memory, release_cached
from nas.study.config import MIN_BF16_GAIN, DistillConfig, SearchConfig, faster_precision
from search_space import NetworkSpec

_PRECISIONS = ("fp32", "bf16")
_WARM_UP, _LONG_MS = 2, 1000.0  # warm-up steps of each precision; one if a step takes longer than _LONG_MS
_TURN_S, _MAX_STEPS = 0.25, 5  # length of a turn of one precision in seconds, and the limit of its steps
_MAX_TURNS, _ENOUGH_S = 12, 3.0  # limits of the turns of each, and of the seconds of all turns
_CLEAR = 2.0  # if the steps of one take this many times those of the other, one turn of each suffices


@dataclass(frozen=True)
class PrecisionChoice:
    """The precision of a study's trainings, and the median ms of a training step in each that fits into memory."""

    precision: str
    step_ms: dict[str, float]

    def __str__(self) -> str:
        other = next(name for name in _PRECISIONS if name != self.precision)
        own = f"training precision: {self.precision} ({self.step_ms[self.precision]:,.1f} ms a step"
        if other not in self.step_ms:
            return f"{own}; memory is too small for {other})"
        return f"{own}, {other} {self.step_ms[other]:,.1f} ms; bf16 is chosen if it saves {MIN_BF16_GAIN:.0%} or more)"


def choose_precision(
    spec: NetworkSpec, targets: Targets, config: SearchConfig, threads: int, lock_dir: Path
) -> PrecisionChoice:
    """Return the faster precision for the training of a backbone; takes a few seconds.

    One that runs out of memory counts as infinitely slow. The state of PyTorch's random numbers and its number of
    threads stay as they are.

    Args:
        spec: The backbone.
        targets: Images and teacher targets to train on.
        config: Settings of the search.
        threads: Threads of a training worker.
        lock_dir: Folder of the device's locks.

    Raises:
        torch.OutOfMemoryError: Memory is too small for both.
    """
    recipe = _share_of_a_rank(config.distill)
    threads_before = torch.get_num_threads()
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.set_num_threads(max(1, threads // config.distill.ranks))
        try:
            step_ms = _step_times_ms(spec, targets, replace(config, distill=recipe), lock_dir)
        finally:
            torch.set_num_threads(threads_before)
    return PrecisionChoice(faster_precision(step_ms), step_ms)


def _share_of_a_rank(recipe: DistillConfig) -> DistillConfig:
    """Return the recipe of one of the processes that train an architecture together."""
    ranks = recipe.ranks
    groups = tuple(replace(group, batch_size=group.batch_size // ranks) for group in recipe.groups)
    return replace(recipe, ranks=1, batch_size=recipe.batch_size // ranks, groups=groups)


def _step_times_ms(spec: NetworkSpec, targets: Targets, config: SearchConfig, lock_dir: Path) -> dict[str, float]:
    """Return the median ms of a step in each precision that fits into memory; one at a time if both do not fit."""
    step_ms: dict[str, float] = {}
    for names in (_PRECISIONS, *((name,) for name in _PRECISIONS)):
        release_cached(config.device)
        try:
            step_ms |= _interleaved_ms(names, spec, targets, config, lock_dir)
        except (RuntimeError, MemoryError) as error:
            none_fits = names == _PRECISIONS[-1:] and not step_ms
            if none_fits or not out_of_memory(error):
                raise
        if names == _PRECISIONS and step_ms:
            break
    return step_ms


def _interleaved_ms(
    names: Sequence[str], spec: NetworkSpec, targets: Targets, config: SearchConfig, lock_dir: Path
) -> dict[str, float]:
    """Return the median ms of a step in each precision; turns alternate, so that a drift of the device hits all."""
    lease = DeviceLease(lock_dir)
    turns_ms: dict[str, list[float]] = {name: [] for name in names}
    with ExitStack() as stack:
        distillers = {
            name: stack.enter_context(closing(_distiller(spec, targets, config, name, lease))) for name in names
        }
        step_ms = max(_warm_up_ms(distiller, lease) for distiller in distillers.values())
        steps = min(_MAX_STEPS, max(1, int(1e3 * _TURN_S / step_ms)))
        began_s = lease.busy_s
        for turn in range(_MAX_TURNS):
            for name in sorted(distillers, reverse=bool(turn % 2)):
                turns_ms[name].append(_step_ms(distillers[name], lease, steps))
            times = [median(values) for values in turns_ms.values()]
            if lease.busy_s - began_s >= _ENOUGH_S or max(times) >= _CLEAR * min(times):
                break
    return {name: median(values) for name, values in turns_ms.items()}


def _distiller(
    spec: NetworkSpec, targets: Targets, config: SearchConfig, precision: str, lease: DeviceLease
) -> Distiller:
    recipe = replace(config.distill, precision=precision)
    torch.manual_seed(config.seed)
    return Distiller(build_network(spec), targets, recipe, seed=config.seed, device=config.device, lease=lease)


def _warm_up_ms(distiller: Distiller, lease: DeviceLease) -> float:
    """Return the ms of the last step of the warm-up."""
    step_ms = 0.0
    for _ in range(_WARM_UP):
        step_ms = _step_ms(distiller, lease, 1)
        if step_ms >= _LONG_MS:
            break
    return step_ms


def _step_ms(distiller: Distiller, lease: DeviceLease, steps: int) -> float:
    """Return the ms of a step; they end with a read of their losses, which waits for the device."""
    began_s = lease.busy_s
    distiller.train_until(distiller.step + steps)
    return 1e3 * (lease.busy_s - began_s) / steps
