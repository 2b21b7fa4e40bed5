"""How many trials or trainings this machine takes at a time, by its CPUs and its memory."""

from __future__ import annotations

import os

from nas.machine import cpu_count
from nas.numbers import format_bytes
from nas.validation import ConfigError
from search_space.memory import memory_bytes

# Resident bytes of a search on a CPU with the default settings. The driver takes 1.15 GB, the two processes of the one
# measurement under way most of the rest.
DRIVER_BYTES = 1.7e9
# A worker has 0.51 GB to itself after two steps of eradio_nano with batches of 32, and its fork server 0.28 GB.
WORKER_BYTES = 0.9e9
_MAX_WORKERS_PER_CPU = 8


def check_local_workers(workers: int | None) -> None:
    """Raise ConfigError for more workers than this machine can start: each is a process with its own PyTorch."""
    most = _MAX_WORKERS_PER_CPU * cpu_count()
    if workers is not None and workers > most:
        raise ConfigError(f"--workers: {workers}: must be at most {most} here, {_MAX_WORKERS_PER_CPU} for each CPU")


def search_bytes(workers: int) -> float:
    """Return the bytes of memory that a search with `workers` trials at a time takes at its peak."""
    return DRIVER_BYTES + workers * WORKER_BYTES


def workers_on(cpus: int, memory: float, ranks: int = 1) -> int:
    """Return how many trials a machine without GPUs takes at a time: one for each CPU that the memory suffices for.

    Args:
        cpus: CPUs of the machine.
        memory: Bytes of memory that its processes can have.
        ranks: Processes that train one architecture. A trial of more than one has a worker, too.
    """
    processes = 1 if ranks == 1 else 1 + ranks
    return max(1, min(cpus // ranks, int((memory - DRIVER_BYTES) / (processes * WORKER_BYTES))))


def default_workers(device: str, ranks: int, on_cluster: bool = False) -> int:
    """Return how many trials or trainings a command runs at a time where the user gives no number.

    Args:
        device: Device of the trials: each takes GPUs of its own, or CPUs and memory.
        ranks: Processes that train one architecture.
        on_cluster: Whether nodes of a cluster run the trials: the memory of this machine is not theirs.
    """
    if device.startswith("cuda"):
        import torch

        return max(1, torch.cuda.device_count() // ranks)
    return max(1, cpu_count() // ranks) if on_cluster else workers_on(cpu_count(), memory_bytes(), ranks)


def limited_by_memory(device: str, ranks: int) -> str:
    """Return a line that says that the memory limits `default_workers` on this machine; "" where it does not.

    Args:
        device: Device of the trials.
        ranks: Processes that train one architecture.
    """
    workers, by_cpus = default_workers(device, ranks), default_workers(device, ranks, on_cluster=True)
    if workers == by_cpus:
        return ""
    return (
        f"the memory, {format_bytes(memory_bytes())}, suffices for {workers} at a time; the CPUs would allow {by_cpus};"
        " --workers N sets another number"
    )


def visible_gpus() -> tuple[str, ...]:
    """Return the names of this process's GPUs, as CUDA_VISIBLE_DEVICES has them."""
    import torch

    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return tuple(visible.split(",")) if visible else tuple(str(i) for i in range(torch.cuda.device_count()))
