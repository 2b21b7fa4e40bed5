"""Which GPUs each process of a training sees, and on which its teachers compute."""

from __future__ import annotations

import pytest

from nas.backend.teacher_gpus import gpus_of_ranks, refusal

EIGHT = tuple("01234567")


@pytest.mark.parametrize(
    ("devices", "ranks", "visible", "teachers"),
    [
        ((), 2, "0,1", [()] * 2),
        (("cuda",), 2, "0,1", [("cuda",)] * 2),
        (("cuda:2", "cpu", "cuda:0", "cuda:2"), 1, "1,2,0", [("cuda:1", "cpu", "cuda:2", "cuda:1")]),
        (
            tuple(f"cuda:{number}" for number in (1, 3, 5, 7)),
            2,
            "0,2,1,3,5,7",
            [("cuda:2", "cuda:3"), ("cuda:4", "cuda:5")],
        ),
        (("cuda:0", "cuda:1"), 4, "2,3,4,5,0,1", [("cuda:4",)] * 2 + [("cuda:5",)] * 2),
    ],
)
def test_ranks_see_the_students_gpus_and_then_the_teachers(
    devices: tuple[str, ...], ranks: int, visible: str, teachers: list[tuple[str, ...]]
) -> None:
    assert not refusal(devices, ranks, len(EIGHT))
    assert gpus_of_ranks(EIGHT, ranks, devices, on_gpu=True) == (visible, tuple(teachers))


def test_names_of_gpus_are_those_that_the_command_sees() -> None:
    gpus = ("GPU-aa", "GPU-bb", "MIG-cc")
    assert gpus_of_ranks(gpus, 1, ("cuda:1",), on_gpu=True) == ("GPU-aa,GPU-bb", (("cuda:1",),))
    assert gpus_of_ranks(gpus, 2, ("cuda:0",), on_gpu=True) == ("GPU-bb,MIG-cc,GPU-aa", (("cuda:2",),) * 2)


def test_students_on_the_cpu_leave_the_teachers_gpus_their_names() -> None:
    devices = ("cuda:4", "cuda:5")
    assert gpus_of_ranks(EIGHT, 2, devices, on_gpu=False) == (",".join(EIGHT), (("cuda:4",), ("cuda:5",)))


@pytest.mark.parametrize(
    ("devices", "ranks", "error"),
    [
        (("cuda:8",), 1, "cuda:8: the GPUs here are cuda:0 to cuda:7"),
        (("cuda:0",), 8, "the teachers have 1 of 8 GPUs, which leaves 7 for 8 processes"),
        (("cuda:0", "cuda:1"), 3, "2 GPUs of the teachers cannot be divided evenly among 3 processes"),
        (("cpu", "cuda"), 8, ""),
    ],
)
def test_numbers_that_do_not_work_out_are_refused(devices: tuple[str, ...], ranks: int, error: str) -> None:
    assert refusal(devices, ranks, 8).startswith(error)
    assert bool(refusal(devices, ranks, 8)) == bool(error)
