"""Which GPUs each process of a training sees, and on which its teachers compute."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nas.backend.pool import TrainingPool
from nas.backend.teacher_gpus import RankGpus, gpus_of_rank, refusal
from nas.backend.training_rank import TrainingJob
from nas.distill.live import LiveTeachers
from nas.study.config import DistillConfig
from tests.nas.study.builders import record, search_config

EIGHT = tuple("01234567")


@pytest.mark.parametrize(
    ("devices", "ranks", "found"),
    [
        ((), 1, [RankGpus("0", ())]),
        ((), 2, [RankGpus("0,1", ())] * 2),
        (("cuda",), 2, [RankGpus("0,1", ("cuda",))] * 2),
        (("cuda:1", "cuda:2"), 1, [RankGpus("0,1,2", ("cuda:1", "cuda:2"))]),
        (("cuda:2", "cpu", "cuda:0", "cuda:2"), 1, [RankGpus("1,2,0", ("cuda:1", "cpu", "cuda:2", "cuda:1"))]),
        (("cuda:6", "cuda:7"), 2, [RankGpus("0,1,6", ("cuda:2",)), RankGpus("0,1,7", ("cuda:2",))]),
        (
            tuple(f"cuda:{number}" for number in (1, 3, 5, 7)),
            2,
            [RankGpus("0,2,1,3", ("cuda:2", "cuda:3")), RankGpus("0,2,5,7", ("cuda:2", "cuda:3"))],
        ),
        (
            ("cuda:0", "cuda:1"),
            4,
            [RankGpus("2,3,4,5,0", ("cuda:4",))] * 2 + [RankGpus("2,3,4,5,1", ("cuda:4",))] * 2,
        ),
    ],
)
def test_each_rank_sees_the_students_gpus_and_its_share_of_the_teachers(
    devices: tuple[str, ...], ranks: int, found: list[RankGpus]
) -> None:
    assert not refusal(devices, ranks, len(EIGHT))
    assert [gpus_of_rank(EIGHT, 0, rank, ranks, devices) for rank in range(ranks)] == found


def test_names_of_gpus_are_those_that_the_command_sees() -> None:
    gpus = ("GPU-aa", "GPU-bb", "MIG-cc")
    assert gpus_of_rank(gpus, 0, 0, 1, ("cuda:1",)) == RankGpus("GPU-aa,GPU-bb", ("cuda:1",))
    assert gpus_of_rank(gpus, 0, 0, 2, ("cuda:0",)) == RankGpus("GPU-bb,MIG-cc,GPU-aa", ("cuda:2",))


def test_jobs_at_a_time_have_gpus_of_their_own() -> None:
    assert [gpus_of_rank(EIGHT, slot, 0, 2, ()).visible for slot in (0, 1, 3)] == ["0,1", "2,3", "6,7"]


def test_a_student_on_the_cpu_leaves_the_variable_as_it_is() -> None:
    assert [gpus_of_rank((), 0, rank, 2, ("cuda:4", "cuda:5")) for rank in range(2)] == [
        RankGpus(None, ("cuda:4",)),
        RankGpus(None, ("cuda:5",)),
    ]


@pytest.mark.parametrize(
    ("devices", "ranks", "error"),
    [
        (("cuda:8",), 1, "cuda:8: the GPUs here are cuda:0 to cuda:7"),
        (("cuda:0",), 8, "the teachers have 1 of 8 GPUs, which leaves 7 for 8 processes"),
        (tuple(f"cuda:{i}" for i in range(8)), 1, "the teachers have 8 of 8 GPUs, which leaves 0 for 1 process"),
        (("cuda:0", "cuda:1", "cuda:2"), 2, "3 GPUs of the teachers cannot be divided evenly among 2 processes"),
        (("cuda:0", "cuda:1"), 3, "2 GPUs of the teachers cannot be divided evenly among 3 processes"),
        (("cpu", "cuda"), 8, ""),
    ],
)
def test_numbers_that_do_not_work_out_are_refused(devices: tuple[str, ...], ranks: int, error: str) -> None:
    assert refusal(devices, ranks, 8).startswith(error)
    assert bool(refusal(devices, ranks, 8)) == bool(error)


def test_the_pool_tells_each_rank(tmp_path: Path) -> None:
    config = search_config(device="cuda", distill=DistillConfig(ranks=2))
    live = LiveTeachers("builtin", 64, "hed", tmp_path, devices=("cuda:1", "cuda:3"))
    job = TrainingJob(record(1, (), 1.0), config, tmp_path, live=live)
    specs = TrainingPool(tmp_path, 1, EIGHT[:4])._specs(job, 0, tmp_path / "meeting")
    assert [(spec.rank, spec.local_rank, spec.gpus) for spec in specs] == [(0, 0, "0,2,1"), (1, 1, "0,2,3")]
    assert [spec.job.live.devices for spec in specs if spec.job.live is not None] == [("cuda:2",)] * 2
    assert job.live == live
    (alone,) = TrainingPool(tmp_path, 1)._specs(
        TrainingJob(record(1, (), 1.0), search_config(), Path(os.curdir)), 0, tmp_path
    )
    assert (alone.gpus, alone.job.live) == (None, None)
