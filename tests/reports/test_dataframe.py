import builtins
import json
import re
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from nas.analysis.evidence import gather_evidence
from nas.study.failures import Failure
from nas.study.records import StudyRecord, TrialRecord, TrialState
from reports.dataframe import (
    NAMED_COLUMNS,
    DataFrameError,
    save_csv,
    save_parquet,
    trial_frame,
)
from reports.summary import summarize
from search_space import ArchSpec
from tests.nas.analysis.builders import remeasured, retrained, small_study
from tests.nas.study.builders import measurement
from tests.reports import synthetic

ROOT = Path(__file__).parents[2]
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # beginnings that make a spreadsheet run the rest


@pytest.fixture(scope="module")
def study() -> StudyRecord:
    """Make a study with a text of every dangerous kind."""
    made = synthetic.study(60)
    texts = [f"{c}1+1|cmd" for c in FORMULA] + ['say "no", or\nnot', "-0.5 is no number"]
    bad = [replace(t, reason=text) for t, text in zip(made.trials, texts, strict=False)]
    failed = replace(made.trials[20], state=TrialState.FAILED, failure=Failure.NOT_FINITE, measurement=None, rungs=())
    trials = (*bad, *made.trials[len(bad) : 20], failed, *made.trials[21:])
    return replace(made, trials=trials)


def test_parquet_gives_back_every_number_of_the_records(study, tmp_path):
    back = pd.read_parquet(save_parquet(trial_frame(study, summarize(study)), tmp_path / "t.parquet")).set_index(
        "number"
    )
    assert list(back.index) == [t.number for t in study.trials]
    for t in study.trials:
        row = back.loc[t.number]
        assert ArchSpec.from_dict(json.loads(row["spec_json"])).arch_id == row["arch_id"] == t.arch_id
        assert (row["state"], row["tries"]) == (t.state.value, t.tries)
        assert same(row["baseline"], t.baseline)
        assert same(row["reason"], t.reason)
        assert same(row["failure"], t.failure)
        assert same(row["score"], t.score)
        m = t.measurement
        assert same(row["measurement/times_reference_low"], m and m.ratio_low)
        assert same(row["measurement/latency_ms"], m and m.latency_ms)
        assert same(row["measurement/resolution_px"], m and m.resolution)
        assert same(row["stage/stage1_s"], m and m.stages_s["stage1"])
        for rung in range(3):
            reached = t.rungs[rung] if len(t.rungs) > rung else None
            assert same(row[f"rung{rung}/score"], reached and reached.score)
            assert same(row[f"rung{rung}/steps"], reached and reached.steps)
        for head in ("summary", "spatial"):
            assert same(row[f"score/hed/{head}"], t.rungs[-1].teachers["hed"][head] if t.rungs else None)
        assert same(row["metric/knn"], t.rungs[-1].metrics.get("knn") if t.rungs else None)
    front = {s.trial.number for s in summarize(study).front}
    assert {n for n, on in back["on_front"].items() if on} == front


def same(shown, recorded) -> bool:
    return bool(pd.isna(shown)) if recorded is None else shown == recorded


def test_csv_gives_back_the_table_but_for_what_a_spreadsheet_would_run(study, tmp_path):
    frame = trial_frame(study, summarize(study))
    back = pd.read_csv(save_csv(frame, tmp_path / "t.csv"), dtype=dict(frame.dtypes))
    assert list(back.columns) == list(frame.columns)
    for name in frame.columns:
        if name != "reason":
            pd.testing.assert_series_equal(back[name], frame[name])
    changed = 0
    for ours, theirs in zip(frame["reason"].fillna(""), back["reason"].fillna(""), strict=True):
        assert not theirs.startswith(FORMULA)
        assert theirs.removeprefix("'") == ours
        changed += theirs != ours
    assert changed == len(FORMULA) + 1


def test_no_cell_of_the_file_begins_a_formula(study, tmp_path):
    text = save_csv(trial_frame(study, summarize(study)), tmp_path / "t.csv").read_text()
    assert not any(f'"{c}' in text for c in FORMULA)


@pytest.mark.parametrize("trials", [0, 1])
def test_columns_keep_their_types_where_nothing_is_known(trials):
    small = synthetic.study(trials, baselines=False, only=TrialState.RUNNING)
    frame, full = (trial_frame(s, summarize(s)) for s in (small, synthetic.study(5)))
    assert len(frame) == trials
    assert all(full.dtypes[name] == dtype for name, dtype in frame.dtypes.items())
    assert "measurement/latency_ms" in frame


def test_without_pyarrow_the_error_names_the_package_to_install(tmp_path, monkeypatch):
    def without(name, *args, **kwargs):
        if name.partition(".")[0] == "pyarrow":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    real = builtins.__import__
    frame = pd.DataFrame({"number": [1]})
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(
        DataFrameError, match=r"^--parquet: needs pyarrow: pip install -e '\.\[parquet\]' in the clone$"
    ):
        save_parquet(frame, tmp_path / "t.parquet")


def test_a_comparison_network_is_a_row_without_number_and_score(study: StudyRecord) -> None:
    measured = TrialRecord(
        -1, "timm:a", {}, TrialState.MEASURED, scale="timm:a", measurement=measurement(0.5), params=7
    )
    without = trial_frame(study, summarize(study))
    with_scale = replace(study, scale=(measured,))
    frame = trial_frame(with_scale, summarize(with_scale))
    assert frame[:-1].drop(columns="scale").equals(without.drop(columns="scale"))
    row = frame.iloc[-1]
    assert (row["name"], row["scale"], row["state"], row["params"]) == ("timm:a", "timm:a", "measured", 7)
    assert row["measurement/times_reference"] == 0.5
    assert pd.isna(row["number"])
    assert pd.isna(row["score"])
    assert not row["on_front"]


def test_the_table_names_the_source_of_a_timing_and_has_retrained_scores(tmp_path):
    again = remeasured({1: 3.9}, name="later")
    trainings = [*retrained(2, {1: 0.5, 2: 0.6}), *retrained(3, {1: 0.7})]
    evidence = gather_evidence(small := small_study(), trainings, [again])
    frame = trial_frame(evidence.study, summarize(small, evidence), evidence).set_index("number")
    assert frame["measurement/remeasurement"].dropna().to_dict() == {1: "later"}
    assert frame["measurement/times_reference"][1] == 3.9
    assert frame["retrained/score"].dropna().to_dict() == {2: pytest.approx(0.55), 3: pytest.approx(0.7)}
    assert set(frame["retrained/steps"].dropna()) == {90}
    assert json.loads(frame["retrained/scores_by_seed_json"][2]) == {"1": 0.5, "2": 0.6}
    assert "retrained/score" not in trial_frame(small, summarize(small))


def test_every_column_has_a_meaning_on_its_page() -> None:
    study = synthetic.predicted(synthetic.study(30))
    evidence = gather_evidence(study, (), ())
    frame = trial_frame(study, summarize(study, evidence), evidence)
    page = (ROOT / "docs/reference/columns.md").read_text()
    kinds = [re.compile(re.sub("TEACHER|HEAD|NAME", ".+", name).replace("rung0", r"rung\d")) for name in NAMED_COLUMNS]
    for name, dtype in frame.dtypes.items():
        assert f"| `{name}` | {dtype} |" in page or any(kind.fullmatch(name) for kind in kinds), name
