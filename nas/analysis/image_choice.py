"""Choose the number of held-out images that a score needs, from the images' shares of the scores of a few models. Pure.

All models are scored on the same images, so that only the differences between models matter, and not what an easy image
adds to all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nas.analysis.agreement import Array, tau_b

# Two draws of images have to agree better than two seeds of a training do: their tau is 0.82 on the built-in data.
MIN_IMAGE_TAU = 0.9
MIN_IMAGES = 32
_DRAWS = 200


@dataclass(frozen=True)
class ImageEvidence:
    """How well a number of held-out images ranks the models.

    Args:
        images: The number.
        tau_to_all: Kendall's tau between the scores on this number of images and on all; mean over random draws.
        tau_of_draws: Kendall's tau between the scores on two draws that share no image, mean over random draws; None
            for more than half of the images.
        noise: Standard deviation of a model's score over draws of images, without what all models have in common, in
            standard deviations of the score between models; None where all models have one score.
    """

    images: int
    tau_to_all: float | None
    tau_of_draws: float | None
    noise: float | None


def image_evidence(shares: Array) -> tuple[ImageEvidence, ...]:
    """Return the evidence on all images, half of them, a quarter, and so on.

    Args:
        shares: (M, N) shares of N images in the scores of M models, whose means are the scores.
    """
    models, images = shares.shape
    counts = [images]
    while counts[-1] // 2 >= MIN_IMAGES:
        counts.append(counts[-1] // 2)
    scores = shares.mean(1)
    to_all: dict[int, list[float]] = {count: [] for count in counts}
    of_draws: dict[int, list[float]] = {count: [] for count in counts}
    rng = np.random.default_rng(0)
    for _ in range(_DRAWS):
        drawn = shares[:, rng.permutation(images)]
        for count in counts:
            one = drawn[:, :count].mean(1)
            _add(to_all[count], one, scores)
            if 2 * count <= images:
                _add(of_draws[count], one, drawn[:, count : 2 * count].mean(1))
    differences = shares - shares.mean(0)
    deviation = float(np.sqrt(differences.var(1, ddof=1).mean() * models / max(1, models - 1)))
    spread = float(scores.std(ddof=1))
    return tuple(
        ImageEvidence(
            count,
            _mean(to_all[count]),
            _mean(of_draws[count]),
            deviation / count**0.5 / spread if spread else None,
        )
        for count in counts
    )


def _add(taus: list[float], one: Array, other: Array) -> None:
    if (tau := tau_b(np.stack([one, other], axis=1))) is not None:
        taus.append(tau)


def _mean(taus: Sequence[float]) -> float | None:
    return float(np.mean(taus)) if taus else None


def enough_images(evidence: Sequence[Sequence[ImageEvidence]]) -> int | None:
    """Return the smallest number of images of which two draws agree at every given rung; None where none does.

    A larger number has to agree too.

    Args:
        evidence: What `image_evidence` returned, of each rung.
    """
    enough = None
    for numbers in zip(*evidence, strict=True):  # from all images down
        if all(each.tau_of_draws is None for each in numbers):
            continue
        if not all(each.tau_of_draws is not None and each.tau_of_draws >= MIN_IMAGE_TAU for each in numbers):
            break
        enough = numbers[0].images
    return enough
