"""A network's weights before its training depend on the study's seed alone, wherever it is trained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from backbones import build
from nas.backend import training_rank, trial
from nas.backend.training_rank import RankSpec, TrainingJob, train_as_rank
from nas.distill import rungs
from nas.distill.rungs import TrainingContext
from nas.measure.service import MeasurementService
from nas.study.config import DistillConfig, SearchConfig
from nas.study.records import RungResult, TrialRecord, TrialState
from search_space import ArchSpec
from tests.nas.study.builders import record, rung, search_config

RECORD = replace(record(1, (), 1.0), state=TrialState.RUNNING)
CONFIG = search_config(seed=3, distill=DistillConfig(rung_steps=(2,)))


class Untrained:
    """A training that only keeps the network's weights as it gets them."""

    begun: list[dict[str, Tensor]]

    def __init__(self, arch_id: str, model: nn.Module, *facts: Any) -> None:
        self.begun.append(model.state_dict())

    def rung(self, index: int) -> RungResult:
        return rung(index, 0.5)

    def close(self) -> None:
        pass


def context(config: SearchConfig, folder: Path) -> TrainingContext:
    folders = dict.fromkeys(("lock_dir", "weights_dir", "pictures_dir", "checkpoint_dir"), folder)
    return TrainingContext(config=config, targets=None, **folders)  # type: ignore[arg-type]


def in_a_search(measured: TrialRecord, folder: Path) -> None:
    list(trial.run_trial(measured, trial.TrialContext(context(CONFIG, folder), MeasurementService(), folder)))


def in_a_search_s_rank(measured: TrialRecord, folder: Path) -> None:
    rungs.train_rank(measured, 0, context(CONFIG, folder))


def in_a_rank_of_train(measured: TrialRecord, folder: Path) -> None:
    spec = RankSpec(TrainingJob(measured, CONFIG, folder), 0, folder, folder, 1.0, 1, 0)
    list(train_as_rank(spec, print, should_stop=lambda: False))


@pytest.mark.parametrize("train", [in_a_search, in_a_search_s_rank, in_a_rank_of_train])
def test_the_seed_of_the_study_draws_the_weights(
    train: Callable[[TrialRecord, Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Untrained, "begun", [], raising=False)
    for module in (rungs, trial):
        monkeypatch.setattr(module, "Training", Untrained)
    monkeypatch.setattr(training_rank, "_context", lambda spec, should_stop: context(spec.job.config, tmp_path))
    torch.manual_seed(99)
    train(RECORD, tmp_path)
    (begun,) = Untrained.begun
    torch.manual_seed(CONFIG.seed)
    expected = build(ArchSpec.from_dict(RECORD.spec)).state_dict()
    torch.testing.assert_close(dict(begun), dict(expected), rtol=0, atol=0)
