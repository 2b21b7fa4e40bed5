"""How many processes a training takes: those that torchrun has started, --workers, or the GPUs."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from nas.backend.teacher_gpus import refusal
from nas.numbers import plural
from nas.study.config import SearchConfig
from nas.validation import ConfigError


def launched_ranks() -> int | None:
    """Return how many processes torchrun has started; None without torchrun."""
    return int(os.environ["WORLD_SIZE"]) if {"RANK", "WORLD_SIZE", "LOCAL_RANK"} <= os.environ.keys() else None


def is_follower() -> bool:
    """Return whether torchrun has started this process as one that follows rank 0."""
    return launched_ranks() is not None and os.environ["RANK"] != "0"


def requested_workers(options: Mapping[str, Any]) -> int | None:
    """Return the number of processes that the user or torchrun asks for, if any."""
    launched = launched_ranks()
    if launched is not None and "workers" in options:
        raise ConfigError("--workers: torchrun has started the processes; remove the flag")
    return options.get("workers") if launched is None else launched


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
    """
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
    launched = launched_ranks() is not None
    here = int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if launched else config.distill.ranks
    if gpus is not None and here > gpus and not on_cluster:
        processes = f"{plural(here, 'process', 'processes')} on this machine, which has {plural(gpus, 'GPU')}"
        advice = "start fewer with torchrun" if launched else f"give --workers {gpus}"
        raise ConfigError(f"--workers: {processes}: each needs a GPU of its own; {advice}")
    if reason := refusal(teacher_devices, here, gpus, launched):
        raise ConfigError(f"--teacher-devices: {reason}")
    return config


def _gpu_count(config: SearchConfig) -> int | None:
    """Return the number of GPUs that this process sees; None where the students are on the CPU."""
    if config.device != "cuda":
        return None
    from nas.backend.pool import visible_gpus

    return len(visible_gpus())
