"""How far a net's quality moves when nothing but the training seed changes. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from scipy.special import stdtrit

LEVEL = 0.95


@dataclass(frozen=True)
class Scatter:
    """Standard deviation of quality between seeds, the same for all nets, with its degrees of freedom."""

    sd: float
    degrees: int
    measured: bool = True  # in the study itself; else taken over from another

    def half_width(self, seeds: int) -> float:
        """Half the 95 % interval of a mean over so many seeds, Student's t."""
        return float(stdtrit(self.degrees, (1 + LEVEL) / 2)) * self.sd / math.sqrt(seeds)


# 30 random nets of "micro", two seeds each, 270 steps on built-in images and teachers (experiments/LOG.md, trust).
TYPICAL = Scatter(0.0075, 30, measured=False)


def pooled(nets: Iterable[Sequence[float]]) -> Scatter | None:
    """Of the qualities of each net, by seeds; None where no net has two.

    Pooled over nets: two or three seeds of one say next to nothing about their scatter, ten nets of three do.
    """
    several = [values for values in nets if len(values) > 1]
    degrees = sum(len(values) - 1 for values in several)
    if not degrees:
        return None
    means = [math.fsum(values) / len(values) for values in several]
    squares = (math.fsum((v - mean) ** 2 for v in values) for values, mean in zip(several, means, strict=True))
    return Scatter(math.sqrt(math.fsum(squares) / degrees), degrees)
