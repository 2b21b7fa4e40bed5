"""What another seed changes in a score, for studies that have not measured it. Pure."""

from __future__ import annotations

from typing import NamedTuple

from nas.study.records import StudyInfo


class SeedNoise(NamedTuple):
    """Standard deviation of a score between seeds on the built-in images and teachers.

    Attributes:
        deviation: The standard deviation, pooled over the architectures.
        architectures: Number of architectures; each was trained with two seeds.
        space: Their search space.
        steps: Training steps after which they were scored.
    """

    deviation: float
    architectures: int
    space: str
    steps: int

    @property
    def source(self) -> str:
        """Return where it was measured, in words."""
        return f"{self.architectures} architectures of the space {self.space}, {self.steps} steps"


MEASURED = (
    SeedNoise(0.0097, 100, "laptop", 30),  # the published table (nas/replay/hybrid_table.json.gz)
    SeedNoise(0.0059, 100, "laptop", 90),
    SeedNoise(0.0031, 100, "laptop", 270),
    SeedNoise(0.0075, 30, "micro", 270),  # random ones (experiments/LOG.md, 2026-11-25); as much after 30 and 90 steps
)
_DEFAULT_SPACE = "laptop"


def assumed_noise(space: str | None, steps: int | None) -> SeedNoise:
    """Return the noise that was measured in a space after at most as many steps.

    Longer trainings scatter less, so that what is assumed of a training between two measured lengths is rather too
    much.

    Args:
        space: Name of the space; the default space stands for one in which no noise was measured, and for None.
        steps: Training steps; None for the longest ones that were measured. The shortest stand for fewer.
    """
    known = space if any(noise.space == space for noise in MEASURED) else _DEFAULT_SPACE
    of_space = sorted((noise for noise in MEASURED if noise.space == known), key=lambda noise: noise.steps)
    no_longer = [noise for noise in of_space if steps is None or noise.steps <= steps]
    return no_longer[-1] if no_longer else of_space[0]


def study_noise(info: StudyInfo) -> SeedNoise:
    """Return the noise to assume of a study's scores after its last rung."""
    return assumed_noise(info.config.get("space"), info.rung_steps[-1] if info.rung_steps else None)
