"""Divide the GPUs that live teachers have to themselves among the processes of a training.

The teachers' devices are named for the command, which sees all GPUs: "cpu", "cuda" (the student's GPU) or "cuda:N". The
processes that the command starts see the GPUs of all students, as NCCL wants it, and after them those of the teachers,
so that these have other numbers there.
"""

from __future__ import annotations

from collections.abc import Sequence

from nas.numbers import plural

_NUMBERED = "cuda:"


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


def gpus_of_ranks(
    gpus: Sequence[str], ranks: int, devices: Sequence[str], on_gpu: bool
) -> tuple[str, tuple[tuple[str, ...], ...]]:
    """Return the value of CUDA_VISIBLE_DEVICES of all processes, and the devices of each one's teachers there.

    Args:
        gpus: Names of the GPUs that the command sees, as CUDA_VISIBLE_DEVICES has them.
        ranks: Number of the processes.
        devices: Devices of all teachers, see `refusal`.
        on_gpu: Whether each process has a GPU for its student.
    """
    numbers = reserved(devices)
    students = [number for number in range(len(gpus)) if number not in numbers]
    order = [*students[:ranks], *numbers] if on_gpu else range(len(gpus))
    names = {f"{_NUMBERED}{number}": f"{_NUMBERED}{place}" for place, number in enumerate(order)}
    teachers = (share(devices, rank, ranks) for rank in range(ranks))
    return ",".join(gpus[number] for number in order), tuple(
        tuple(names.get(name, name) for name in own) for own in teachers
    )


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
