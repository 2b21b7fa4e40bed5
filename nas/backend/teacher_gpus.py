"""Divide the GPUs that live teachers have to themselves among the processes of a training.

The teachers' devices are named for the command, which sees all GPUs: "cpu", "cuda" (the student's GPU) or "cuda:N". A
process that the command starts sees the GPUs of all students, as NCCL wants it, and after them its own share of the
teachers', so that these have other numbers there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from nas.numbers import plural

_NUMBERED = "cuda:"


class RankGpus(NamedTuple):
    """What a process of a training sees.

    Args:
        visible: Value of CUDA_VISIBLE_DEVICES; None leaves the variable as it is.
        teachers: Its teachers' devices, as the process names them.
    """

    visible: str | None
    teachers: tuple[str, ...]


def reserved(devices: Sequence[str]) -> tuple[int, ...]:
    """Return the numbers of the GPUs that teachers have to themselves, each once.

    Args:
        devices: Devices of all teachers.
    """
    return tuple(dict.fromkeys(int(name.removeprefix(_NUMBERED)) for name in devices if name.startswith(_NUMBERED)))


def share(devices: Sequence[str], rank: int, ranks: int) -> tuple[str, ...]:
    """Return the devices of one process's teachers; processes share a GPU where there are more of them.

    Args:
        devices: Devices of all teachers.
        rank: Number of the process among those of this machine.
        ranks: Number of these processes.
    """
    numbers = reserved(devices)
    first = rank * len(numbers) // ranks
    own = {f"{_NUMBERED}{number}" for number in numbers[first : max(first + 1, (rank + 1) * len(numbers) // ranks)]}
    return tuple(name for name in devices if name in own or not name.startswith(_NUMBERED))


def gpus_of_rank(gpus: Sequence[str], slot: int, rank: int, ranks: int, devices: Sequence[str]) -> RankGpus:
    """Return what a process of a pool sees, see `refusal`.

    Args:
        gpus: Names of the GPUs that the command sees, as CUDA_VISIBLE_DEVICES has them; empty for students on the CPU.
        slot: Number of the training among those at a time.
        rank: Number of the process among those of its training.
        ranks: Number of these processes.
        devices: Devices of all teachers.
    """
    own = share(devices, rank, ranks)
    if not gpus:
        return RankGpus(None, own)
    numbers, mine = reserved(devices), reserved(own)
    students = [gpu for number, gpu in enumerate(gpus) if number not in numbers]
    visible = [students[(slot * ranks + each) % len(students)] for each in range(ranks)]
    renamed = {f"{_NUMBERED}{number}": f"{_NUMBERED}{ranks + place}" for place, number in enumerate(mine)}
    return RankGpus(",".join([*visible, *(gpus[n] for n in mine)]), tuple(renamed.get(name, name) for name in own))


def refusal(devices: Sequence[str], ranks: int, gpus: int | None) -> str:
    """Return why the GPUs of the teachers do not work out; "" where they do.

    Args:
        devices: Devices of all teachers.
        ranks: Number of the processes on this machine.
        gpus: Number of the GPUs that the command sees; None for students on the CPU.
    """
    numbers = reserved(devices)
    if not numbers:
        return ""
    processes = f"{plural(ranks, 'process', 'processes')}"
    if gpus is not None:
        if max(numbers) >= gpus:
            return f"cuda:{max(numbers)}: the GPUs here are cuda:0 to cuda:{gpus - 1}"
        if gpus - len(numbers) < ranks:
            total, left = plural(gpus, "GPU"), gpus - len(numbers)
            return f"the teachers have {len(numbers)} of {total}, which leaves {left} for {processes}"
    if len(numbers) % ranks and ranks % len(numbers):
        advice = "name a multiple or a divisor of their number"
        return f"{plural(len(numbers), 'GPU')} of the teachers cannot be divided evenly among {processes}; {advice}"
    return ""
