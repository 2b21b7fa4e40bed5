"""The study, the model and the command line that tests of exports share."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest

from nas.cli import BAD_INPUT
from nas.export.__main__ import main
from nas.study.config import DistillConfig
from nas.study.records import StudyRecord
from search_space import ArchSpec, StageSpec
from tests.nas.analysis.builders import REFERENCE
from tests.nas.study.builders import search_config

POINTS = {0: (-9.0, 1.0), 1: (0.1, 4.0), 2: (0.3, 2.0), 3: (0.2, 1.5)}
CONFIG = search_config(
    reference=REFERENCE, baselines=(REFERENCE,), train_images=64, val_images=32, teachers="lite0,xfeat",
    distill=DistillConfig(rung_steps=(2, 4), precision="fp32"),
)  # fmt: skip
TIMM = ("--format", "timm")
SPEC = ArchSpec(  # hard to export: a window, a position bias, a neck, a pooled stage
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
    study: StudyRecord


def refusal(words: list[str], capsys: pytest.CaptureFixture[str], expected: int = BAD_INPUT) -> str:
    """Return the error line of a command that ends with the `expected` exit code."""
    try:
        code = main(words)
    except SystemExit as ended:
        code = int(str(ended.code))
    errors = capsys.readouterr().err
    assert code == expected, errors
    assert errors.startswith("error: ")
    assert errors.count("\n") == 1
    return errors
