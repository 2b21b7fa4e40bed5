"""A study of real teachers with one model that was trained for a few steps, as in a search."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from backbones import build
from nas.distill.rungs import Training, TrainingContext
from nas.study.records import StudyRecord, TrialState
from tests.nas.analysis.builders import new_store, small_study
from tests.nas.backend.real_targets import open_real_targets, study_of
from tests.nas.export.builders import CONFIG, POINTS, SPEC, Made


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("export")
    run, cache, c = folder / "run", folder / "cache", CONFIG
    targets = open_real_targets(c, cache)
    folders = {f"{name}_dir": run / name for name in ("weights", "pictures")}
    for path in folders.values():
        path.mkdir(parents=True)
    context = TrainingContext(
        config=c,
        targets=targets,
        lock_dir=folder / "locks",
        checkpoint_dir=folder,
        **folders,
    )
    torch.manual_seed(0)
    training = Training(SPEC.arch_id, build(SPEC), context)
    rungs = tuple(training.rung(i) for i in range(2))
    training.close()
    trials = list(small_study(POINTS).trials)
    trials[1] = replace(trials[1], arch_id=SPEC.arch_id, spec=SPEC.to_dict(), rungs=rungs)  # type: ignore[arg-type]
    trials[2] = replace(trials[2], state=TrialState.STOPPED, rungs=trials[2].rungs[:1])
    study = StudyRecord(study_of(targets, c), tuple(trials))
    new_store(run, study)
    (run / "report.html").write_text("<p>a report</p>")
    return Made(run, cache, study)


@pytest.fixture(autouse=True)
def timed_shortly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nas.export.graph.TIMING_S", 0.2)
