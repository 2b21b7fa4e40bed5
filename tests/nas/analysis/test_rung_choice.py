"""Rungs from made tables of scores, whose order is known, and from the project's own 30 models."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path

import pytest

from nas.analysis.rung_choice import (
    MIN_TAU,
    MIN_TAU_LOW,
    PilotTraining,
    first_rung,
    ladder_from,
    measured_rungs,
    rung_evidence,
    size_correlation,
)

TRUST = Path(__file__).parents[3] / "experiments/results/trust.json"
SAME = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12)
REVERSED = SAME[::-1]


def trainings(*columns: Sequence[float]) -> list[PilotTraining]:
    """Models with one column of scores a rung."""
    rows = zip(*columns, strict=True)
    return [PilotTraining(str(i), 100 - i, tuple(map(float, row)), (1.0,) * len(row)) for i, row in enumerate(rows)]


def test_measured_rungs_descend_by_the_factor_or_by_its_square_root() -> None:
    assert measured_rungs(100_000, 3, 400, ()) == (412, 1235, 3704, 11111, 33333, 100_000)
    assert measured_rungs(100_000, 3, 413, ())[0] > 413  # after the warm-up only
    assert measured_rungs(270, 3, 10, (30, 90, 270)) == (17, 30, 52, 90, 156, 270)
    assert measured_rungs(270, 3, 10, (100, 270)) == (17, 30, 52, 90, 100, 156, 270)
    assert measured_rungs(5, 2, 10, (5,)) == (1, 2, 4, 5)
    assert measured_rungs(2, 1000, 10, (2,)) == (1, 2)


def test_evidence_by_hand() -> None:
    models = trainings(REVERSED, SAME, SAME)
    first, second = rung_evidence(models, (10, 30, 90), factor=3)
    assert (first.steps, first.kendall.tau) == (10, pytest.approx(-1))
    assert (second.kendall.tau, second.kendall.low) == (pytest.approx(1),) * 2
    assert second.kendall.candidates == 12
    assert (first.ladder, second.ladder) == ((10, 30, 90), (30, 90))
    assert (first.seconds, second.seconds) == (1.0, 2.0)
    assert not first.keeps_order
    assert second.keeps_order
    assert size_correlation(models).tau == pytest.approx(-1)


def test_first_rung_is_the_earliest_from_which_on_all_keep_the_order() -> None:
    evidence = rung_evidence(trainings(SAME, REVERSED, SAME, SAME, SAME), (1, 2, 4, 8, 16), factor=2)
    assert first_rung(evidence) is evidence[2]  # the first one agrees, and the second one does not
    assert first_rung(evidence[:2]) is None


def test_a_large_tau_of_few_models_is_not_enough() -> None:
    """Two swaps among six models leave a tau of 0.6 or more, and an interval that reaches to nearly nothing."""
    (rung,) = rung_evidence(trainings((3, 1, 2, 4, 6, 5), (1, 2, 3, 4, 5, 6)), (10, 30), factor=3)
    tau, low = rung.kendall.tau, rung.kendall.low
    assert tau is not None
    assert low is not None
    assert tau >= MIN_TAU
    assert low < MIN_TAU_LOW
    assert not rung.keeps_order


def test_the_rule_accepts_the_default_rungs_of_the_recorded_models() -> None:
    """The thresholds are those of the rungs with which the default searches were run."""
    rows = [row for row in json.loads(TRUST.read_text()) if row["seed"] == 0 and row["stored"] == ["int8", 0.25]]
    scores = [
        [sum(heads["spatial"] for heads in rung["teachers"].values()) / 3 for rung in row["rungs"][:3]] for row in rows
    ]
    models = trainings(*zip(*scores, strict=True))
    evidence = rung_evidence(models, (30, 90, 270), factor=3)
    assert [round(rung.kendall.tau or 0, 2) for rung in evidence] == [0.66, 0.82]
    assert first_rung(evidence) is evidence[0]
    noise = random.Random(0)
    shuffled = trainings([noise.random() for _ in rows], *list(zip(*scores, strict=True))[1:])
    assert first_rung(rung_evidence(shuffled, (30, 90, 270), factor=3)).steps == 90  # type: ignore[union-attr]


RUNGS = (17, 30, 52, 90, 156, 270)


def test_ladders_rise_by_the_factor_and_end_at_the_last_rung() -> None:
    assert [ladder_from(first, RUNGS, 3) for first in RUNGS] == [
        (17, 52, 270), (30, 90, 270), (52, 270), (90, 270), (156, 270), (270,),
    ]  # fmt: skip
    by_two = (8, 16, 32, 64, 128, 256)
    assert ladder_from(8, by_two, 2) == by_two
    assert ladder_from(30, (17, 30, 52, 90, 100, 156, 270), 3) == (30, 90, 270)
