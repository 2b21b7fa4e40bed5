"""What one process of a training reads and locks, and the time that it gets to end."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from nas.backend.training_rank import RankSpec, TrainingJob, _context, stopping_s
from nas.cache import CacheError
from nas.study.config import DistillConfig
from tests.nas.backend.real_targets import open_real_targets
from tests.nas.study.builders import record, search_config

CONFIG = search_config(
    train_images=64, val_images=32, teachers="hed", distill=DistillConfig(rung_steps=(2,), precision="fp32")
)


@pytest.fixture(scope="module")
def targets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return open_real_targets(CONFIG, tmp_path_factory.mktemp("cache")).path


def test_a_training_gets_the_time_of_three_saves_to_end() -> None:
    assert [stopping_s(save_s, 30.0) for save_s in (0.0, 9.0, 600.0)] == [30.0, 30.0, 1800.0]


def test_a_rank_has_the_lock_of_its_own_gpu(targets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All ranks of a machine see all its GPUs, and "cuda" is the first one to everything that does not ask further."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid=f"uuid-{torch.device(device).index}")
    )
    config = replace(CONFIG, device="cuda")
    job = TrainingJob(record(1, (), 1.0), config, tmp_path / "job")
    spec = RankSpec(job, 1, targets, tmp_path / "locks", 30.0, 1, 1)
    assert _context(spec, lambda: False).lock_dir == tmp_path / "locks" / "uuid-1"


def test_a_rank_looks_at_no_array_of_the_cache_before_it_reads_it(targets: Path, tmp_path: Path) -> None:
    """Each would look at a hundred thousand files of a large cache, which the command has just done."""
    shutil.copytree(targets.parent, tmp_path / "copy")
    for images in (tmp_path / "copy").glob("images-*/*-images.npy"):
        images.unlink()
    job = TrainingJob(record(1, (), 1.0), CONFIG, tmp_path / "job")
    spec = RankSpec(job, 0, tmp_path / "copy" / targets.name, tmp_path / "locks", 30.0, 1, 0)
    context = _context(spec, lambda: False)
    with pytest.raises(CacheError, match="is missing"):
        context.targets.train.images[:1]
