"""Measure architectures by name or spec, each in a process of its own."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch

from backbones import Network, resolve
from backbones import build_network as build_of_spec
from nas.files import atomic_write
from nas.measure import Measured, Setting, measure_pair
from nas.measure.device_lock import measuring
from nas.measure.environment import torch_device
from nas.measure.forkserver import ForkServer, unlimited
from search_space import network_spec

Arch = str | Mapping[str, Any]  # a name for `backbones.resolve`, or the plain data of a spec
LIMIT_S, LIMIT_PER_BUDGET_S, COMPILING_LIMIT_S = 120.0, 10.0, 1200.0


class MeasurementService:
    """Measure one architecture against another in a fresh process.

    Args:
        threads: CPU threads of the measuring process; None: PyTorch's number in this process.
    """

    def __init__(self, threads: int | None = None) -> None:
        self._threads = threads or torch.get_num_threads()
        self._server: ForkServer | None = None  # started at the first measurement: its imports take seconds of CPU

    def measure(
        self,
        candidate: Arch,
        reference: Arch,
        setting: Setting,
        *,
        name_of_reference: str,
        limit_s: float | None = None,
        lock_dir: Path | None = None,
    ) -> Measured:
        """Measure a pair as `measure_pair` does, with freshly initialized weights.

        On a CPU that has `lock_dir`, the networks are built, compiled and checked while others train on it.

        Args:
            candidate: Name or spec of the architecture that is measured.
            reference: Name or spec of the architecture that it is compared with.
            setting: How to measure.
            name_of_reference: The reference's name in the record.
            limit_s: Seconds after which the process counts as hanging, without those of waiting for the device; None:
                `default_limit_s`.
            lock_dir: Folder of the device's locks; None: the caller holds the device.

        Raises:
            MeasurementError: The measurement gives no number, or its process crashes or hangs.
        """
        if lock_dir is not None and torch_device(setting.device).type != "cpu":  # whose memory is needed, too
            with measuring(lock_dir):
                return self.measure(candidate, reference, setting, name_of_reference=name_of_reference, limit_s=limit_s)
        if self._server is None or not self._server.alive:
            self._server = ForkServer(["nas.measure.service"])
        return self._server.run(
            _measure,
            candidate,
            reference,
            setting,
            name_of_reference,
            self._threads,
            lock_dir,
            limit_s=limit_s or default_limit_s(setting),
        )

    def close(self) -> None:
        """End the process that starts measurements."""
        if self._server is not None:
            self._server.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def default_limit_s(setting: Setting) -> float:
    """Return the seconds after which a measurement counts as hanging."""
    slow = any(arm.traits.slow_to_prepare for arm in (setting.arm, setting.reference_arm or setting.arm))
    return LIMIT_S + LIMIT_PER_BUDGET_S * setting.budget_s + (COMPILING_LIMIT_S if slow else 0.0)


def build_network(arch: Arch) -> Network:
    """Build the network of a name, a spec's file or a spec, freshly initialized.

    Raises:
        SpecError: There is no such architecture.
    """
    return resolve(arch)[1] if isinstance(arch, str) else build_of_spec(network_spec(arch))


def save_samples(measured: Measured, path: Path) -> None:
    """Write the raw samples of a measurement as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, json.dumps(measured.samples, separators=(",", ":")))


def _measure(
    candidate: Arch, reference: Arch, setting: Setting, name_of_reference: str, threads: int, lock_dir: Path | None
) -> Measured:
    torch.set_num_threads(threads)
    torch.manual_seed(setting.seed)
    return measure_pair(
        build_network(candidate),
        build_network(reference),
        setting,
        name_of_reference=name_of_reference,
        alone=nullcontext if lock_dir is None else partial(_alone, lock_dir),
    )


@contextmanager
def _alone(lock_dir: Path) -> Iterator[None]:
    """Hold the device in the body; the wait for it does not count as a hang."""
    with ExitStack() as held:
        with unlimited():
            held.enter_context(measuring(lock_dir))
        yield
