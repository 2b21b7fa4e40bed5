"""Differences in score between a candidate and the best baseline, as reports print them."""

from __future__ import annotations

from nas.analysis.evidence import ModelEvidence
from nas.analysis.recommendation import BaselineComparison
from nas.numbers import fixed

MAX_SCORE_DIGITS = 6  # after the point, of two scores that differ by very little


def told_apart(score: float, other: float) -> tuple[str, str]:
    """Format two scores with three digits, or with as many as it takes to see which one is higher."""
    digits = 3
    while score != other and digits < MAX_SCORE_DIGITS and fixed(score, digits) == fixed(other, digits):
        digits += 1
    return fixed(score, digits), fixed(other, digits)


def printed_gain(result: BaselineComparison) -> float:
    """Return the difference of the compared scores as printed."""
    return printed_difference(result.candidate, result.baseline)


def printed_difference(model: ModelEvidence, other: ModelEvidence) -> float:
    """Return the difference of two scores as printed, so that a reader who subtracts them finds the same."""
    return round(model.score, 3) - round(other.score, 3)
