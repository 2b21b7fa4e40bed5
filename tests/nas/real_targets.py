"""Real teachers' targets of a test's images, and a study that was taught by them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from nas.cache import open_targets
from nas.cache.targets import Targets
from nas.config import SearchConfig
from nas.records import StudyInfo
from tests.nas.study_builders import study_info


def opened(config: SearchConfig, cache: Path) -> Targets:
    return open_targets(
        config.data, config.teachers, root=cache, train_images=config.train_images, val_images=config.val_images,
        image_px=config.distill.image_px, grid=config.grid, seed=0,
    )  # fmt: skip


def taught_by(targets: Targets, config: SearchConfig) -> StudyInfo:
    teachers = {name: teacher.fingerprint for name, teacher in targets.teachers.items()}
    data = {"name": config.data, "fingerprint": targets.data_fingerprint}
    return replace(study_info(config), teachers=teachers, data=data)
