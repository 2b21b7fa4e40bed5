"""The score on a model card, of made-up retrainings."""

from __future__ import annotations

from pathlib import Path

from nas.analysis.evidence import gather_evidence
from nas.analysis.run_files import trained_weights
from nas.export.card import BEST_OF_SEEDS, CardData, model_card
from nas.export.source import FormatReport, OutputShapes
from tests.nas.analysis.builders import remeasured_for_retraining, retrained, small_study

SCORES = {1: 0.70, 2: 0.73, 3: 0.71}  # of trial 3, by seed


def card(folder: Path, seeds: int) -> str:
    """Return the card of trial 3 after retraining with this number of seeds."""
    study = small_study()
    trial = study.trials[3]
    again = [r for n in (2, 3) for r in retrained(n, dict(list(SCORES.items())[:seeds]))]
    for seed in range(1, seeds + 1):
        file = folder / "retraining" / "90-steps" / f"seed-{seed}" / "weights" / f"{trial.arch_id}.safetensors"
        file.parent.mkdir(parents=True)
        file.touch()
    weights = trained_weights(folder, study, trial, again)
    assert weights is not None
    evidence = gather_evidence(study, again, [remeasured_for_retraining({2: 2.0, 3: 1.0})])
    data = CardData(evidence, trial, weights, (), "test", {})
    shapes = OutputShapes(64, 96, "the mean of the last stage's map", 48, 16, (4, 4), 16)
    return model_card(data, "timm", FormatReport(""), shapes, [], 64, "folder")


def test_weights_that_are_the_best_of_several_seeds_have_no_interval(tmp_path: Path) -> None:
    text = card(tmp_path, 3)
    assert f"| exported weights: retraining, seed 2, the best of 3 | 90 | 0.7300 | {BEST_OF_SEEDS} |" in text
    # pooled over two trials 0.0153, 4 degrees of freedom: 2.776 * 0.0153 / sqrt(3)
    assert "| mean of 3 seeds, retraining | 90 | 0.7133 | 0.6888 to 0.7378 |" in text


def test_weights_of_one_seed_are_the_only_ones(tmp_path: Path) -> None:
    text = card(tmp_path, 1)
    assert "| exported weights: retraining, seed 1 | 90 | 0.7000 | unknown: one seed only |" in text
