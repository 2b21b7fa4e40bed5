"""Trial times of a device that is not here, from counted operations and what share of its peak is assumed.

Seconds = 2 FLOP x MACs x images / (peak x MFU); a training step is three forward passes (the backward pass is two), or
four with gradient checkpointing. Heads, reading and launching are not counted: `mfu` has to stand for them.
Source of the formula: MFU as in PaLM (arXiv 2204.02311, appendix B), with counted in place of estimated FLOPs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nas.config import SearchConfig
from nas.distill.evaluation.probes import HELD_OUT_IMAGES, PROBE_IMAGES
from nas.measure.counts import totals
from nas.planning.probe import Probed
from search_space import ArchSpec


@dataclass(frozen=True)
class AssumedDevice:
    """Peak in TFLOP/s, the share of it that is reached, and seconds of one measurement."""

    tflops: float
    mfu: float
    measure_s: float

    @property
    def seconds_per_mac(self) -> float:
        return 2.0 / (self.tflops * 1e12 * self.mfu)


def counted(config: SearchConfig, named: Sequence[tuple[str, ArchSpec]], device: AssumedDevice) -> list[Probed]:
    """Times of every named architecture."""
    recipe = config.distill
    rates = [(group.rate, group.batch_size) for group in recipe.groups] or [(1.0, recipe.batch_size)]
    batch = sum(rate * size for rate, size in rates) / sum(rate for rate, _ in rates)
    passes = 4 if recipe.grad_checkpointing else 3
    probed = min(PROBE_IMAGES, config.train_images * config.views) + min(HELD_OUT_IMAGES, config.val_images)
    found = []
    for name, spec in named:
        macs, params = totals(spec, recipe.image_px)
        forward_s = macs * device.seconds_per_mac
        step_s, evaluate_s, last_s = (n * forward_s for n in (passes * batch, config.val_images, probed))
        found.append(Probed(name, macs, params, step_s, evaluate_s, last_s, device.measure_s))
    return found
