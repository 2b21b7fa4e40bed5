"""How many processes a training takes: --workers, or the GPUs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

from nas.backend.teacher_gpus import refusal
from nas.local_workers import visible_gpus
from nas.numbers import plural
from nas.study.config import SearchConfig
from nas.validation import ConfigError


def with_workers(
    config: SearchConfig, workers: int | None, teacher_devices: Sequence[str] = (), on_cluster: bool = False
) -> SearchConfig:
    """Return the settings with a number of processes that share each batch.

    Args:
        config: The settings.
        workers: The number; None for as many GPUs as divide the batch, without those of the teachers, and one process
            on a CPU.
        teacher_devices: Devices of live teachers.
        on_cluster: Whether the nodes of a Ray cluster run the processes.

    Raises:
        ConfigError: The number does not divide the batch, there are fewer GPUs, or the teachers' do not work out.
            Or torchrun has started this process.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ:
        raise ConfigError("--workers: train starts its processes itself; start it without torchrun, give --workers N")
    gpus = _gpu_count(config)
    if workers is not None:
        try:
            config = replace(config, distill=replace(config.distill, ranks=workers))
        except ConfigError as error:
            raise ConfigError(f"--workers: {workers}: {error}") from None
    else:
        for ranks in range(gpus or 1, 1, -1):
            if refusal(teacher_devices, ranks, gpus):
                continue
            with suppress(ConfigError):
                return replace(config, distill=replace(config.distill, ranks=ranks))
    if gpus is not None and (ranks := config.distill.ranks) > gpus and not on_cluster:
        processes = f"{plural(ranks, 'process', 'processes')} on this machine, which has {plural(gpus, 'GPU')}"
        raise ConfigError(f"--workers: {processes}: each needs a GPU of its own; give --workers {gpus}")
    if reason := refusal(teacher_devices, config.distill.ranks, gpus):
        raise ConfigError(f"--teacher-devices: {reason}")
    return config


def _gpu_count(config: SearchConfig) -> int | None:
    """Return the number of GPUs that this process sees; None where the students are on the CPU."""
    if config.device != "cuda":
        return None
    return len(visible_gpus())
