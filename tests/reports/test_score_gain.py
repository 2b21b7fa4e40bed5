"""Intervals of a lead over the best baseline, in searches whose true scores are known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from nas.analysis.evidence import StudyEvidence, gather_evidence
from nas.analysis.noise import measured_scatter
from nas.analysis.recommendation import recommend
from tests.nas.analysis.builders import remeasured_for_retraining, retrained, small_study

CANDIDATES, SEEDS, SD, DRAWS = 20, 3, 0.0028, 2000


@pytest.fixture(scope="module")
def evidence() -> StudyEvidence:
    """Return a retrained study of a baseline and candidates of which each is faster than the one before."""
    points = {n: (0.65, 1.0 + n) for n in range(CANDIDATES + 1)}
    trainings = [r for n in points for r in retrained(n, dict.fromkeys(range(SEEDS), 0.65))]
    again = remeasured_for_retraining({n: ratio for n, (_, ratio) in points.items()})
    return gather_evidence(small_study(points), trainings, [again])


@pytest.mark.parametrize(
    ("below", "apart"),
    [
        (0.002, 0.001),
        *(pytest.param(*gap, marks=pytest.mark.slow) for gap in ((0.004, 0.0), (0.001, 0.0005), (-0.002, 0.0005))),
    ],
)
def test_intervals_of_a_lead_cover_the_true_one_although_a_lucky_candidate_was_chosen(
    evidence: StudyEvidence, below: float, apart: float
) -> None:
    """Candidates are truly this far below the baseline, the faster the farther; few pass, by luck."""
    rng, covered = np.random.default_rng(0), []
    truths = {n: 0.65 - below - apart * (n - 1) for n in range(1, CANDIDATES + 1)} | {0: 0.65}
    for _ in range(DRAWS):
        scores = {n: truth + SD * rng.standard_normal(SEEDS) for n, truth in truths.items()}
        drawn = tuple(replace(m, scores=tuple(scores[m.number].tolist())) for m in evidence.retrained)
        assert evidence.retraining is not None
        summary = replace(evidence.retraining, scatter=measured_scatter([s.tolist() for s in scores.values()]))
        found = recommend(replace(evidence, retrained=drawn, retraining=summary))
        if found is not None and found.fastest_as_good is not None:
            lead = found.fastest_as_good
            half = lead.half_width(found.scatter)
            assert half is not None
            true_lead = truths[lead.candidate.number] - truths[0]
            covered.append(abs(lead.score_gain - true_lead) <= half)
    assert len(covered) >= DRAWS / 10
    assert np.mean(covered) >= 0.95
