"""Compute what a prediction scores that is the same for every image: one value for each channel and position.

    python -m experiments.distillation.constant_maps

The distillation score is 0 for a prediction that has one value for each channel. Teachers' features depend on the
position in the map too, as at the borders of an image, so that a student which knows the position alone scores more.
The prediction is the mean map of the held-out targets, for the built-in images, and for CIFAR-10 at 32 px where
../shared/data is. A report says what such a prediction scores in its study.

Hardware:  one core, seconds; minutes where the teachers' targets are not cached yet
Expected:  docs/explanation/distillation_score.md
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np

from experiments.distillation.teachers import DATA, cifar
from nas.cache import open_study_targets
from nas.cache.targets import Targets
from nas.distill.evaluation.explained_variance import constant_map_scores
from nas.machine import cache_root
from nas.study.config import SearchConfig


def main() -> None:
    """Print the scores."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    sets: dict[str, Callable[[], Targets]] = {
        "built-in images, 64 px": lambda: open_study_targets(SearchConfig(), cache_root(None))
    }
    if DATA.exists():
        sets["CIFAR-10, 32 px"] = lambda: cifar(Path(cache_root(None)))
    for name, opened in sets.items():
        scores = constant_map_scores(opened().val)
        cells = " | ".join(f"{teacher} {score:.2f}" for teacher, score in scores.items())
        print(f"{name}: {np.mean(list(scores.values())):.2f} ({cells})")


if __name__ == "__main__":
    main()
