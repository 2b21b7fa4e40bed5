"""A study of real teachers with one net that is trained, for a few steps, as a search trains it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from backbones import build
from nas.distill.run import Training, TrialContext
from nas.export.__main__ import main
from nas.measure.service import MeasurementService
from nas.study.config import DistillConfig
from nas.study.records import Study, TrialState
from search_space import ArchSpec, StageSpec
from tests.nas.analysis.builders import REFERENCE, new_store, small_study
from tests.nas.backend.real_targets import open_real_targets, study_of
from tests.nas.study.builders import search_config

POINTS = {0: (-9.0, 1.0), 1: (0.1, 4.0), 2: (0.3, 2.0), 3: (0.2, 1.5)}
CONFIG = search_config(
    reference=REFERENCE, baselines=(REFERENCE,), train_images=64, val_images=32, teachers="lite0,xfeat",
    distill=DistillConfig(rung_steps=(2, 4), precision="fp32"),
)  # fmt: skip
TIMM = ("--format", "timm")
SPEC = ArchSpec(  # with all that an export may stumble over: a window, a position bias, a neck, a pooled stage
    stages=(
        StageSpec("c2f", 1, 16, 0.5),
        StageSpec("pool", 1, 32, 1.0),
        StageSpec("window", 1, 64, 1.0, heads=2, pre_conv="depthwise", window=2, cpb_hidden=16),
        StageSpec("convnext", 1, 96, 1.0),
    ),
    stem_width=8,
    neck="stage3",
    neck_dim=48,
)


class Made(NamedTuple):
    """`run` is the study's folder; trial 1 has weights, 2 was stopped, 3's weights are gone."""

    run: Path
    cache: Path
    study: Study


def refusal(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that the command ends with."""
    try:
        code = main(words)
    except SystemExit as ended:
        code = int(str(ended.code))
    told = capsys.readouterr().err
    assert code == 2, told
    assert told.startswith("error: ")
    assert told.count("\n") == 1
    return told


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("export")
    run, cache, c = folder / "run", folder / "cache", CONFIG
    targets = open_real_targets(c, cache)
    places = {f"{name}_dir": run / name for name in ("weights", "pictures", "samples")}
    for place in places.values():
        place.mkdir(parents=True)
    bench = TrialContext(
        config=c,
        targets=targets,
        service=MeasurementService(),
        lock_dir=folder / "locks",
        checkpoint_dir=folder,
        **places,
    )
    torch.manual_seed(0)
    training = Training(SPEC.arch_id, build(SPEC), bench)
    rungs = tuple(training.rung(i) for i in range(2))
    training.close()
    trials = list(small_study(POINTS).trials)
    trials[1] = replace(trials[1], arch_id=SPEC.arch_id, spec=SPEC.to_dict(), rungs=rungs)  # type: ignore[arg-type]
    trials[2] = replace(trials[2], state=TrialState.STOPPED, rungs=trials[2].rungs[:1])
    study = Study(study_of(targets, c), tuple(trials))
    new_store(run, study)
    (run / "report.html").write_text("<p>a report</p>")
    return Made(run, cache, study)


@pytest.fixture(autouse=True)
def timed_shortly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nas.export.graph.TIMING_S", 0.2)
