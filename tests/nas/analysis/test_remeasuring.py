"""Compare remeasurements of a small study with results by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from nas.analysis.plots import STAYED, plot_remeasuring
from nas.analysis.remeasuring import (
    RemeasuredCandidate,
    RemeasuringComparison,
    compare_remeasurement,
    conclusion,
    remeasuring_notes,
)
from nas.analysis.trial_choice import complete
from nas.study import pareto
from nas.study.records import Remeasurement
from tests.nas.analysis.builders import REFERENCE, remeasured, small_study
from tests.reports.synthetic import study as random_study


def changes(c: RemeasuringComparison) -> dict[int, str]:
    return {candidate.trial.number: candidate.change for candidate in c.candidates}


def numbers(rows: tuple[RemeasuredCandidate, ...]) -> list[int]:
    return [row.trial.number for row in rows]


def test_candidates_leave_tie_and_join() -> None:
    now = remeasured({0: 1.0, 1: 4.0, 2: 1.0, 3: 1.2, 4: 3.0, 5: 1.19})
    c = compare_remeasurement(small_study(), now)
    assert changes(c) == {
        0: "behind 2 → behind 4",
        1: "front",
        2: "front → left (behind 3)",
        3: "front",
        4: "behind 2 → front (new)",
        5: "ties with 2 → ties with 3",
    }
    assert (numbers(c.stayed), numbers(c.left), numbers(c.joined)) == ([1, 3], [2], [4])
    assert {r.trial.number: (r.rank_before, r.rank_now) for r in c.candidates} == {
        1: (1, 1), 2: (2, 5), 5: (3, 4), 4: (4, 2), 0: (5, 5), 3: (5, 3),
    }  # fmt: skip
    assert c.hypervolume_now == pytest.approx(0.2 * 5 + 0.15 * 4.585 + 0.25 * 3.263, abs=1e-3)  # log2(ratio / 0.125)


def test_behind_by_less_than_the_intervals_is_not_left() -> None:
    c = compare_remeasurement(small_study(), remeasured({0: 1.0, 1: 4.0, 2: 1.19, 3: 1.2, 4: 1.0, 5: 1.0}))
    assert changes(c)[2] == "front → ties with 3"
    assert (numbers(c.tied), numbers(c.left), numbers(c.joined)) == ([2], [], [])


def test_unmeasured_candidates_and_wrong_outputs_leave_the_comparison() -> None:
    now = remeasured({0: 1.0, 1: 4.0, 3: 1.0, 4: 1.5, 5: 1.99}, {2: "out of memory: even for one image"})
    wrong = replace(now.measurements[3], verdict="wrong output", output_error=0.5)
    c = compare_remeasurement(small_study(), replace(now, measurements={**now.measurements, 3: wrong}))
    assert (changes(c)[2], changes(c)[3]) == ("front → not measured", "front → not measured")
    assert [r.reason for r in c.lost] == [
        "out of memory: even for one image",
        "wrong output: differs from fp32 eager by 0.5",
    ]
    assert changes(c)[5] == "ties with 2 → front (new)"  # 2 was tried
    assert c.agreement.correlation.candidates == 4
    assert "verdicts: 1 wrong output" in remeasuring_notes(small_study(), replace(now, measurements={3: wrong}), c)


def test_a_smaller_batch_than_that_of_the_others_leaves_the_comparison() -> None:
    now = remeasured({0: 1.0, 1: 4.0, 2: 1.0, 3: 1.2, 4: 3.0, 5: 1.19})
    full = {n: replace(m, batch=128, requested_batch=128) for n, m in now.measurements.items()}
    smaller = {n: replace(m, batch=12, verdict="out of memory") for n, m in full.items()}
    c = compare_remeasurement(small_study(), replace(now, measurements={**full, 4: smaller[4]}))
    assert (changes(c)[4], numbers(c.joined)) == ("behind 2 → not measured", [])
    assert {r.trial.number: r.reason for r in c.candidates if r.reason} == {4: "memory: only 12 of 128 images fit"}
    # Where none fits at the requested batch, all are compared at the one that fits.
    assert changes(compare_remeasurement(small_study(), replace(now, measurements=smaller)))[4].endswith("front (new)")


def test_untried_candidates_make_no_other_new() -> None:
    c = compare_remeasurement(small_study(), remeasured({0: 1.0, 1: 4.0, 4: 1.5}))
    assert changes(c)[4] == "behind 2 → open: 2 not measured"
    assert (numbers(c.joined), c.not_tried, c.front_not_tried) == ([], 3, 2)
    assert "--trials all" in remeasuring_notes(small_study(), remeasured({0: 1.0}), c)[-1]


def test_baselines_are_not_part_of_the_front() -> None:
    now = remeasured({0: 9.0, 1: 4.0, 2: 2.0, 3: 1.0, 4: 1.5, 5: 1.99})
    c = compare_remeasurement(small_study(), now)
    assert changes(c)[0] == "behind 2 → undominated"
    assert numbers(c.stayed) == [1, 2, 3]
    assert c.agreement.clearly_swapped == 4
    notes = remeasuring_notes(small_study(), now, c)
    assert f"baselines no longer dominated: {REFERENCE}" in notes


def test_disturbed_measurements_decide_nothing() -> None:
    now = remeasured({0: 1.0, 1: 4.0, 2: 0.5, 3: 1.0})
    disturbed = {n: replace(m, verdict="contended") for n, m in now.measurements.items() if n}
    c = compare_remeasurement(small_study(), replace(now, measurements={0: now.measurements[0], **disturbed}))
    assert "--overwrite" in conclusion(c)


def test_the_front_is_that_of_pareto(tmp_path: Path) -> None:
    study = random_study(60)
    now = Remeasurement(
        "r",
        "",
        "",
        {},
        {"reference": "eradio_pico"},
        None,
        {t.number: t.measurement for t in complete(study) if t.measurement},
    )
    c = compare_remeasurement(study, now)
    searched = [t for t in complete(study) if not t.baseline]
    front = pareto.front([(t.final_score, t.measurement.ratio) for t in searched if t.measurement])
    assert sorted(numbers(c.stayed)) == sorted(searched[i].number for i in front)
    plot_remeasuring(study, now, c, tmp_path / "fronts.svg")
    assert STAYED.label in (tmp_path / "fronts.svg").read_text()
