"""Real teachers' targets of a test's images, and the description of a study that uses them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from nas.cache import open_study_targets
from nas.cache.targets import Targets
from nas.study.config import SearchConfig
from nas.study.records import StudyInfo
from tests.nas.study.builders import study_info


def open_real_targets(config: SearchConfig, cache: Path) -> Targets:
    return open_study_targets(config, cache)


def study_of(targets: Targets, config: SearchConfig) -> StudyInfo:
    teachers = {name: teacher.fingerprint for name, teacher in targets.teachers.items()}
    data = {"name": config.data, "fingerprint": targets.data_fingerprint}
    return replace(study_info(config), teachers=teachers, data=data)
