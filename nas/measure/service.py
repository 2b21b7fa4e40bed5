"""Architectures measured by name or spec, each in a process of its own: what the search and the commands call."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch

from backbones import Backbone, build, resolve
from backbones.timm_models import TimmBackbone
from nas.config import SearchConfig
from nas.measure import Measured, Setting, measure_pair
from nas.measure.arms import COMPILING, Arm
from nas.measure.forkserver import Nursery
from search_space import ArchSpec

Arch = str | Mapping[str, Any]  # what `backbones.resolve` knows, or ArchSpec.to_dict()
LIMIT_S, LIMIT_PER_BUDGET, COMPILING_LIMIT_S = 120.0, 10.0, 1200.0


def setting_of(config: SearchConfig) -> Setting:
    """How a search measures."""
    return Setting(
        device=config.device,
        batch=config.measure_batch,
        resolution=config.distill.image_px,
        arm=Arm.parse(config.measure_arm),
        budget_s=config.measure_seconds,
        seed=config.seed,
    )


class Bench:
    """Measures one architecture beside another. Take `nas.measure.device_lock.measuring` around each call.

    threads: CPU threads of the measuring process; None: as many as PyTorch has in this one.
    """

    def __init__(self, threads: int | None = None) -> None:
        self._threads = threads or torch.get_num_threads()
        self._nursery: Nursery | None = None  # not before the first measurement: its imports take seconds of CPU

    def measure(
        self,
        candidate: Arch,
        reference: Arch,
        setting: Setting,
        *,
        name_of_reference: str,
        limit_s: float | None = None,
    ) -> Measured:
        """As `measure_pair`, with freshly initialised weights.

        Unmeasured also where the process crashes or takes over `limit_s` (default: generous, by budget and runtime).
        """
        if self._nursery is None or not self._nursery.alive:
            self._nursery = Nursery(["nas.measure.service"])
        return self._nursery.run(
            _measure,
            candidate,
            reference,
            setting,
            name_of_reference,
            self._threads,
            limit_s=limit_s or default_limit_s(setting),
        )

    def close(self) -> None:
        """Ends the process that starts measurements."""
        if self._nursery is not None:
            self._nursery.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def default_limit_s(setting: Setting) -> float:
    """Seconds after which a measurement is taken to hang."""
    arms = {setting.arm.runtime, (setting.reference_arm or setting.arm).runtime}
    return LIMIT_S + LIMIT_PER_BUDGET * setting.budget_s + (COMPILING_LIMIT_S if arms & set(COMPILING) else 0.0)


def network(arch: Arch) -> Backbone | TimmBackbone:
    """The network of a name, a spec's file or a spec; freshly initialised. SpecError where there is none."""
    return resolve(arch)[1] if isinstance(arch, str) else build(ArchSpec.from_dict(arch))


def save_samples(measured: Measured, path: Path) -> None:
    """Keeps what a measurement was computed from, as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(measured.samples, separators=(",", ":")))


def _measure(candidate: Arch, reference: Arch, setting: Setting, name_of_reference: str, threads: int) -> Measured:
    torch.set_num_threads(threads)
    torch.manual_seed(setting.seed)
    return measure_pair(network(candidate), network(reference), setting, name_of_reference=name_of_reference)
