"""The benchmark of the driver's overhead times methods that it names as text."""

from __future__ import annotations

from optuna.samplers import BaseSampler

from experiments.benchmarks.overhead import LOOP_METHODS, SAMPLER_METHODS
from nas.study.loop import StudyLoop


def test_the_timed_methods_exist() -> None:
    assert [name for name in LOOP_METHODS if not callable(getattr(StudyLoop, name, None))] == []
    assert [name for name in SAMPLER_METHODS if not callable(getattr(BaseSampler, name, None))] == []
