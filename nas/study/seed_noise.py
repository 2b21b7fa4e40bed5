"""What another seed changes in a score, for studies that have not measured it. Pure."""

from __future__ import annotations

from typing import NamedTuple


class SeedNoise(NamedTuple):
    """Standard deviation of a score between seeds, after 270 steps on the built-in images and teachers.

    Attributes:
        deviation: The standard deviation, pooled over the architectures.
        architectures: Number of architectures; each was trained with two seeds.
        space: Their search space.
    """

    deviation: float
    architectures: int
    space: str

    @property
    def source(self) -> str:
        """Return where it was measured, in words."""
        return f"{self.architectures} architectures of the space {self.space}, 270 steps"


DEFAULT = SeedNoise(0.0031, 100, "laptop")  # the published table (nas/replay/hybrid_table.json.gz)
_MICRO = SeedNoise(0.0075, 30, "micro")  # random ones (experiments/LOG.md, 2026-11-25)


def assumed_noise(space: str | None) -> SeedNoise:
    """Return the noise of a space by its name, or that of the default one where none was measured or none is named."""
    return _MICRO if space == _MICRO.space else DEFAULT
