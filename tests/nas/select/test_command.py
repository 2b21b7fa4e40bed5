"""The command through its own entry point, and in a process of its own for what it imports."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from nas.api import load_study
from nas.select.__main__ import main
from nas.storage.store import Store
from search_space import ArchSpec
from tests.nas.analysis.builders import new_store, remeasured, remeasured_for_retraining, retrained, small_study


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Front 1, 2, 3; throughput is 1000 times the ratio; latency is 1 ms for all."""
    new_store(tmp_path / "run", small_study())
    return tmp_path / "run"


def answer_json(run: Path, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, dict]:
    code = main([str(run), *words, "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_the_answer_has_spec_and_weights(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = small_study()
    trial = study.trials[2]
    weights = run / "weights" / f"{trial.arch_id}.safetensors"
    weights.parent.mkdir()
    weights.touch()
    samples = run / "samples" / f"{trial.arch_id}.json"
    samples.parent.mkdir()
    samples.write_text(json.dumps({"latencies_s": [0.00095 + n * 1e-6 for n in range(100)]}))
    code, answer = answer_json(run, capsys, "--min-throughput", "1500", "--max-latency-ms", "1.005")
    assert code == 0
    assert answer["basis"] == "last rung"
    best = answer["best"]
    assert (best["trial"], best["arch_id"], best["baseline"]) == (2, trial.arch_id, None)
    assert ArchSpec.from_dict(best["spec"]).arch_id == trial.arch_id
    assert best["weights"] == [str(weights)]
    assert best["limits"]["min_throughput_img_s"] == {
        "bound": 1500, "value": 2000, "low": 1980, "high": 2020,
        "chance": pytest.approx(1.0, abs=1e-5), "excess": 1.0,
    }  # fmt: skip
    assert 0.5 < best["chance_to_keep"] < 1  # 1.005 ms is within the latency's interval

    assert main([str(run), "--min-throughput", "1500", "--max-latency-ms", "1.005"]) == 0
    out = capsys.readouterr().out
    assert f"trial 2, {trial.arch_id}" in out
    assert f"weights: {weights}" in out


def test_a_latency_without_samples_has_no_chance(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(run), "--max-latency-ms", "2"]) == 0
    assert "unknown" in capsys.readouterr().out
    (run / "samples").mkdir()
    (run / "samples" / f"{small_study().trials[3].arch_id}.json").write_text("[broken")
    assert main([str(run), "--max-latency-ms", "2"]) == 0


def test_nothing_fits_is_exit_code_1_with_the_nearest(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, answer = answer_json(run, capsys, "--min-throughput", "5000", "--max-latency-ms", "1")
    assert code == 1
    assert answer["best"] is None
    assert (answer["compared"], answer["compared_baselines"]) == (5, 1)
    assert answer["nearest"]["trial"] == 1
    assert answer["nearest"]["limits"]["min_throughput_img_s"]["excess"] == pytest.approx(1.25)
    assert answer["alone"]["min_throughput_img_s"] is None
    assert answer["alone"]["max_latency_ms"]["trial"] == 3
    assert main([str(run), "--min-throughput", "5000"]) == 1
    assert "25.0 %" in capsys.readouterr().out


def test_retrainings_answer(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = Store.open(run)
    store.save_remeasurement(remeasured_for_retraining({2: 2.0, 3: 1.0}))
    for final in (*retrained(2, {1: 0.8, 2: 0.81}), *retrained(3, {1: 0.7, 2: 0.71})):
        store.save_retraining(final)
    arch_id = small_study().trials[2].arch_id
    weights = [
        run / "retraining" / "90-steps" / f"seed-{seed}" / "weights" / f"{arch_id}.safetensors" for seed in (1, 2)
    ]
    for path in weights:
        path.parent.mkdir(parents=True)
        path.touch()
    code, answer = answer_json(run, capsys)
    assert (code, answer["basis"], answer["best"]["trial"], answer["best"]["seeds"]) == (0, "retraining", 2, 2)
    assert answer["best"]["weights"] == [str(path) for path in weights]


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["nowhere"], "no such run folder"),
        (["RUN", "--max-params", "0"], "--max-params: 0: must be greater than 0"),
        (["RUN", "--min-throughput", "nan"], "--min-throughput: nan"),
        (["RUN", "--max-weight", "3"], "--max-weight"),
    ],
)
def test_bad_input_is_one_line(words: list[str], error: str, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    places = {"RUN": str(run)}
    try:
        code = main([places.get(word, word) for word in words])
    except SystemExit as ended:
        code = int(str(ended.code))
    error_line = capsys.readouterr().err
    assert code == 2
    assert error_line.startswith("error: ")
    assert error in error_line
    assert error_line.count("\n") == 1


def test_a_study_without_a_complete_candidate_answers_no(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = small_study()
    trials = tuple(trial for trial in study.trials if trial.baseline)
    new_store(run.parent / "early", replace(study, trials=trials))
    assert main([str(run.parent / "early")]) == 1
    out, error = capsys.readouterr()
    assert out == ""
    assert error.count("\n") == 1
    assert "measured and trained to its last rung" in error


def test_the_timings_of_a_remeasurement_alone_decide_where_it_is_named(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Store.open(run) as store:
        store.save_remeasurement(remeasured({0: 1.0, 2: 6.0, 3: 0.5}, name="t4"))
    code, answer = answer_json(run, capsys, "--min-throughput", "1500", "--remeasurement", "t4")
    assert (code, answer["best"]["trial"], answer["best"]["remeasurement"]) == (0, 2, "t4")
    assert (answer["compared"], answer["compared_baselines"]) == (2, 1)
    assert load_study(run).select(min_throughput_img_s=1500, remeasurement="t4").trial.number == 2
    assert main([str(run), "--remeasurement", "a10"]) == 2
    assert "no remeasurement 'a10' in this study, which has t4" in capsys.readouterr().err
    with Store.open(run) as store:
        store.save_remeasurement(remeasured({0: 1.0}, name="baseline"))
    assert main([str(run), "--remeasurement", "baseline"]) != 0
    assert "timed no candidate trained to the last rung" in capsys.readouterr().err


def test_the_interval_of_the_best_score_allows_for_the_choice(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Store.open(run) as store:
        for number in range(6):
            for retraining in retrained(number, {1: 0.5 + number / 100, 2: 0.51 + number / 100}):
                store.save_retraining(retraining)
    _, answer = answer_json(run, capsys)
    best, other = answer["best"], answer["runners_up"][0]
    assert answer["fitting"] == 6
    assert best["half_width"] > 1.3 * other["half_width"]
    main([str(run)])
    (shown,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith(" score")]
    assert f"{best['score'] - best['half_width']:.4f} to {best['score'] + best['half_width']:.4f}" in shown
