"""From records to a summary: who is on the front, how likely, and whether the order held."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from nas.analysis.noise import TYPICAL_SCATTER
from nas.analysis.plots import plot_retraining
from nas.analysis.retraining import (
    WRONG_OUTPUT,
    RetrainingSummary,
    rank_correlations,
    retraining_json,
    retraining_notes,
    summarize_retraining,
)
from nas.analysis.tables import show_retraining
from nas.storage.store import Store
from nas.study.records import Retraining, Study
from tests.nas.analysis.builders import failed, new_store, remeasured_for_retraining, retrained, small_study
from tests.nas.study.builders import measurement

# After longer training net 5 is better than 2 for sure; 1 and 3 stay as they were.
SCORE_LABELS = {1: (0.30, 0.31, 0.32), 2: (0.50, 0.51, 0.52), 3: (0.70, 0.71, 0.72), 5: (0.60, 0.61, 0.62)}
RATIOS = {0: 1.0, 1: 4.0, 2: 2.0, 3: 1.0, 5: 2.1}


def retrainings() -> list[Retraining]:
    return [
        f for n, values in SCORE_LABELS.items() for f in retrained(n, dict(enumerate(values, 1)), at_30=0.2 + n / 100)
    ]


def found(study: Study | None = None, again: list[Retraining] | None = None) -> RetrainingSummary:
    again = retrainings() if again is None else again
    told = summarize_retraining(study or small_study(), again, [remeasured_for_retraining(RATIOS)])
    assert told is not None
    return told


def test_who_fell_off_and_who_joined() -> None:
    s = found()
    assert [row.trial.number for row in s.candidates] == [1, 5, 2, 3]  # fastest first
    fates = {row.trial.number: row.fate for row in s.candidates}
    assert fates == {1: "stayed", 2: "fell off", 3: "stayed", 5: "joined"}
    chances = {row.trial.number: row.chance for row in s.candidates}
    assert chances[1] == chances[3] == chances[5] == 1
    assert chances[2] == pytest.approx(0.0, abs=0.01)
    assert (s.seeds, s.steps) == ((1, 2, 3), 90)
    assert s.scatter.sd == pytest.approx(0.01)
    assert s.scatter.degrees == 8
    assert s.scatter_at_last_rung is not None
    assert s.scatter_at_last_rung.sd == pytest.approx(0, abs=1e-12)
    (first, *_) = retraining_notes(small_study(), s)
    assert first == "front: of 3 before 1 fell off (2); 1 joined (5)"


def test_the_order_of_the_last_rung_is_held_against_the_means_each_seed_and_the_seeds_among_themselves() -> None:
    told = {label: c.tau for label, c in rank_correlations(found(), 30).items()}
    # The study has 1 < 5 (0.38) < 2 (0.4) < 3, the retrainings 1 < 2 < 5 < 3: one pair of six is swapped.
    study = "study at 30 steps, "
    assert told[study + "mean of 3 seeds at 90 steps"] == pytest.approx(4 / 6)
    assert told[study + "seed 2 at 90 steps"] == pytest.approx(4 / 6)
    # With new seeds at 30 steps 1 < 2 < 3 < 5: against the study 5 is above 2 and 3, against the end above 3.
    assert told[study + "mean of the seeds at 30"] == pytest.approx(2 / 6)
    assert told["mean of the seeds at 30, at 90 steps"] == pytest.approx(4 / 6)
    assert told["seeds 1 and 3 at 90 steps"] == 1
    assert len(told) == 3 + 3 + 3


def test_two_nets_have_no_rank_correlation() -> None:
    again = [f for f in retrainings() if f.number in (1, 2)]
    assert {c.tau for c in rank_correlations(found(again=again), 30).values()} == {None}


def test_only_trainings_of_one_length_stand_beside_each_other() -> None:
    again = [*retrainings(), *retrained(1, {1: 0.4}, steps=900)]
    assert found(again=again).steps == 90  # of which there are most
    longest = summarize_retraining(small_study(), again, [remeasured_for_retraining(RATIOS)], 900)
    assert longest is not None
    assert [(row.trial.number, row.mean) for row in longest.candidates] == [(1, 0.4)]
    assert longest.scatter == TYPICAL_SCATTER  # nobody has two seeds
    longer = [replace(f, steps=900) for f in retrainings()]
    assert found(again=[*retrainings(), *longer]).steps == 900  # as many, and longer
    assert summarize_retraining(small_study(), retrainings(), [remeasured_for_retraining(RATIOS)], 30) is None
    assert summarize_retraining(small_study(), [], [remeasured_for_retraining(RATIOS)]) is None


def test_a_failure_leaves_the_other_seeds_and_a_net_without_a_number_no_chance() -> None:
    again = [f for f in retrainings() if (f.number, f.seed) != (3, 2) and f.number != 2]
    again += [failed(3, 2, "nan"), *(failed(2, seed, "out of memory") for seed in (1, 2, 3))]
    s = summarize_retraining(
        small_study(), again, [remeasured_for_retraining({n: r for n, r in RATIOS.items() if n != 1}, {1: "crash"})]
    )
    assert s is not None
    rows = {row.trial.number: row for row in s.candidates}
    assert rows[3].scores == {1: 0.70, 3: 0.72}
    assert (rows[3].chance, rows[3].reason) == (1, "seed 2: nan")
    assert (rows[2].mean, rows[2].chance, rows[2].fate) == (None, None, "seed 1: out of memory")
    assert (rows[1].chance, rows[1].fate) == (None, "crash")
    assert {row.trial.number for row in s.complete} == {3, 5}
    assert "2 without a number (1, 2)" in retraining_notes(small_study(), s)[0]


def test_without_a_measurement_of_their_own_or_with_a_wrong_one_candidates_have_no_place() -> None:
    s = summarize_retraining(small_study(), retrainings(), [])
    assert s is not None
    assert not s.complete
    wrong = replace(
        remeasured_for_retraining(RATIOS), measurements={1: replace(measurement(4.0), verdict=WRONG_OUTPUT)}
    )
    s = summarize_retraining(small_study(), retrainings(), [wrong])
    assert s is not None
    assert {row.trial.number: row.reason for row in s.candidates}[1] == WRONG_OUTPUT


def test_a_baseline_is_shown_and_takes_no_place_on_the_front() -> None:
    s = found(again=[*retrainings(), *retrained(0, {1: 0.9, 2: 0.9})])
    rows = {row.trial.number: row for row in s.candidates}
    assert (rows[0].chance, rows[0].on_front, rows[0].fate) == (None, False, "baseline")
    assert rows[3].chance == 1  # slower and worse than the baseline


def test_the_store_keeps_retrainings_and_reads_them_back(tmp_path: Path) -> None:
    store = new_store(tmp_path / "run", small_study())
    given = [*retrainings(), failed(4, 1, "out of memory")]
    for final in reversed(given):
        store.save_retraining(final)
    assert list(Store.open(tmp_path / "run").retrainings()) == sorted(given, key=lambda f: (f.number, f.seed))
    (again,) = retrained(4, {1: 0.7})
    store.save_retraining(again)  # in the place of the failure
    assert [f for f in store.retrainings() if f.number == 4] == [again]


@given(st.lists(st.floats(0, 1), max_size=3), st.none() | st.text(max_size=9))
def test_a_retraining_is_json_and_back(scores: list[float], reason: str | None) -> None:
    final = replace(retrained(7, {3: 0.5})[0], reason=reason)
    assert Retraining.from_dict(json.loads(json.dumps(final.to_dict()))) == final
    assert final.score == (0.5 if reason is None else None)


def test_table_and_json_tell_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    study, s = small_study(), found()
    show_retraining(study, s, Console(width=130))
    out = capsys.readouterr().out
    assert "fell off" in out
    assert "0.5100 ± 0.0133" in out  # 2.306 * 0.01 / sqrt(3)
    told = json.loads(json.dumps(retraining_json(study, s)))
    (two,) = (net for net in told["candidates"] if net["trial"] == 2)
    assert two["scores"] == {"1": 0.50, "2": 0.51, "3": 0.52}
    assert two["half_width"] == pytest.approx(0.0133, abs=1e-4)
    assert two["on_front"] == {"before": True, "now": False}
    for note in told["notes"]:
        assert note[:60] in out


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_the_picture_names_every_net(suffix: str, tmp_path: Path) -> None:
    again = [*retrainings(), *retrained(0, {1: 0.65, 2: 0.66})]
    plot_retraining(small_study(), found(again=again), tmp_path / f"retraining.{suffix}")
    if suffix == "svg":
        text = (tmp_path / "retraining.svg").read_text()
        assert all(f">{n}</text>" in text for n in SCORE_LABELS)
        assert "eradio_femto" in text
        assert "fell off" in text
    else:
        assert (tmp_path / "retraining.png").stat().st_size > 10_000
