"""The pages have the figures of the searches on images of CIFAR-10."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from experiments.cifar10_searches import ROWS, commands, fastest_as_good, report, search_cells

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
SAVED = json.loads(ROWS.read_text())
MODELS = {model["number"]: model for model in SAVED["searches"][0]["models"]}
RETRAINED = {c["trial"]: c for c in SAVED["retrained"]["0"]["candidates"]}


def test_the_table_of_models_is_that_of_the_rows() -> None:
    lines = (DOCS / "results/index.md").read_text().splitlines()
    for number in (202, 172, 168, 201, 2, 198, 199, 13, 14):
        model, longer = MODELS[number], RETRAINED[number]
        sizes = f"{model['macs'] / 1e6:.1f} | {model['params'] / 1e6:.2f}"
        labels = f"{longer['metrics']['knn']:.3f} | {longer['metrics']['probe']:.3f}"
        cells = f"{sizes} | {model['score']:.3f} | {longer['score']:.3f} | {labels} | {longer['ratio']:.2f}x |"
        (line,) = [line for line in lines if line.endswith(cells)]
        assert line.startswith(f"| {model['baseline'] or f'trial {number}'} | ")
        for stage in model.get("spec", {}).get("stages", ()):
            assert "{block} {depth} x {width}".format(**stage) in line


def test_what_the_pages_say_of_front_and_speed_is_what_the_command_prints(capsys: pytest.CaptureFixture[str]) -> None:
    report(SAVED)
    printed = " ".join(capsys.readouterr().out.split())
    index = " ".join((DOCS / "results/index.md").read_text().split())
    findings = " ".join((DOCS / "findings.md").read_text().split())
    readme = " ".join((ROOT / "README.md").read_text().split())
    for search in SAVED["searches"]:
        assert f"| seed {search['seed']} | {' | '.join(search_cells(search))} |" in index
    first, second = (search_cells(search) for search in SAVED["searches"][:2])
    assert f"of {first[6]} and {second[6]} models, of which {first[7]} and {second[7]} have four stages" in findings
    assert f"{first[7]} of {first[6]} and {second[7]} of {second[6]} models on the fronts have four stages" in readme
    assert f"the fastest have {first[9][:-1]} and {second[9][:-1]} times its throughput" in findings
    assert all(max(s["models"], key=lambda model: model["score"])["attention"] for s in SAVED["searches"])
    assert "tau of score and kNN on 58 models: 0.74" in printed
    assert "tau of score and linear probe on 58 models: 0.73" in printed
    assert (
        "On 58 models of seed 0 the tau of the score after 270 steps is 0.74 with kNN and 0.73 with the linear probe"
        in index
    )
    assert "gain by longer training, median: 0.136 of baselines, 0.115 of candidates" in printed
    assert "gain 0.136 in the median by the longer training, the candidates 0.115" in index
    searched, times = fastest_as_good(list(MODELS.values()), "eradio_nano")
    assert searched is not None
    assert (searched["number"], f"{times:.2f}") == (198, "4.88")
    longer = [c | {"ratio": [c["ratio"]]} for c in RETRAINED.values()]
    kept, times = fastest_as_good(longer, "eradio_nano")
    assert kept is not None
    assert (kept["trial"], f"{times:.2f}") == (201, "4.30")
    assert "4.88 times that of eradio_nano in the search (trial 198)" in index
    assert "trial 201 leads with 0.769 against 0.747 at 4.30 times the throughput" in index
    lost, nano = RETRAINED[198]["score"], RETRAINED[2]["score"]
    assert f"that of a search of natural images with {lost:.3f} against {nano:.3f}" in readme
    changes = [c["change"] for c in RETRAINED.values()]
    assert (changes.count("still on it"), changes.count("left it"), changes.count("joined it")) == (13, 7, 0)
    tau = next(c for c in SAVED["retrained"]["0"]["correlations"] if c["between"].endswith("one seed at 2700 steps"))
    assert f"is {tau['tau']:.2f} ({tau['low']:.2f} to {tau['high']:.2f})" in index


def test_the_highest_scores_after_longer_training_are_those_of_hybrids() -> None:
    best = sorted((c for c in RETRAINED.values() if not c["baseline"]), key=lambda c: -c["score"])[:2]
    assert [f"{c['score']:.3f}" for c in best] == ["0.799", "0.796"]
    assert all(MODELS[c["trial"]]["attention"] for c in best)


def test_the_commands_are_those_of_the_program(tmp_path: Path) -> None:
    search, *_, retrain, second = commands(tmp_path)
    assert search.startswith("backbone-nas search --data 'webdataset:")
    assert retrain == (f"backbone-nas retrain {tmp_path}/s0 --baselines --train-steps 2700 --seeds 3 --runners-up 4")
    assert second == (f"backbone-nas retrain {tmp_path}/s1 --baselines --train-steps 2700 --seeds 1 --runners-up 0")
