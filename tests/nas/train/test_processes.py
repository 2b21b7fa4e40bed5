"""How many processes a training takes, and which numbers are refused."""

from __future__ import annotations

import pytest

from nas.study.config import DistillConfig, SearchConfig
from nas.train.processes import with_workers
from nas.validation import ConfigError


def test_workers_share_the_batch() -> None:
    config = SearchConfig(device="cpu")
    assert with_workers(config, None).distill.ranks == 1
    assert with_workers(config, 4).distill.ranks == 4
    with pytest.raises(ConfigError, match="--workers: 3: "):
        with_workers(config, 3)


@pytest.mark.parametrize(
    ("devices", "batch", "ranks"),
    [
        ((), 32, 8),
        (("cuda:1", "cuda:2"), 48, 6),
        (("cuda:1", "cuda:2"), 32, 4),
        (("cuda:0", "cuda:1", "cuda:2"), 32, 1),
    ],
)
def test_processes_are_chosen_beyond_the_gpus_of_the_teachers(
    devices: tuple[str, ...], batch: int, ranks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nas.train.processes.visible_gpus", lambda: tuple("01234567"))
    config = SearchConfig(device="cuda", distill=DistillConfig(batch_size=batch))
    assert with_workers(config, None, devices).distill.ranks == ranks
    assert with_workers(config, 1, devices).distill.ranks == 1


def test_more_processes_than_gpus_are_refused_except_on_a_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    config = SearchConfig(device="cuda")
    monkeypatch.setattr("nas.train.processes.visible_gpus", lambda: ("0", "1"))
    assert with_workers(config, 2).distill.ranks == 2
    with pytest.raises(ConfigError, match=r"--workers: 4 processes on this machine, which has 2 GPUs: .* --workers 2"):
        with_workers(config, 4)
    assert with_workers(config, 4, on_cluster=True).distill.ranks == 4
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    with pytest.raises(ConfigError, match="--workers: train starts its processes itself; start it without torchrun"):
        with_workers(config, 2)


def test_gpus_of_teachers_that_do_not_work_out_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    config = SearchConfig(device="cuda")
    monkeypatch.setattr("nas.train.processes.visible_gpus", lambda: ("0",))
    with pytest.raises(ConfigError, match="--teacher-devices: the teachers have 1 of 1 GPU, which leaves 0 for 1 pro"):
        with_workers(config, None, ("cuda:0",))
    monkeypatch.setattr("nas.train.processes.visible_gpus", lambda: tuple("01234567"))
    with pytest.raises(
        ConfigError, match="--teacher-devices: 3 GPUs of the teachers cannot be divided evenly among 2 pro"
    ):
        with_workers(config, 2, ("cuda:1", "cuda:2", "cuda:3"))
