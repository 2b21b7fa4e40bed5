"""What the table of hybrid backbones shows, on rows whose answers are known."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments.hybrid_findings import (
    deviation,
    features,
    means_over_seeds,
    pairs_of_seeds,
    predicted,
    report,
    stopping,
)
from nas.replay.hybrid_rows import read_rows
from nas.study.seed_noise import MEASURED, assumed_noise
from search_space import SPACES

COUNT = 60
DOCS = Path(__file__).parents[2] / "docs"
RESULTS = Path(__file__).parents[2] / "experiments" / "results"


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    """Return evaluations in which fast models score low, and every rung has the order of the last one."""
    rng, found = random.Random(0), []
    for number in range(COUNT):
        spec, speed = SPACES["laptop"].sample(rng), 2 ** rng.uniform(-1, 4)
        last = 0.6 - 0.05 * np.log2(speed) - 0.1 * (number % 2)  # every other one is dominated
        found.append({
            "arch_id": spec.arch_id, "seed": 0, "state": "complete", "spec": spec.to_dict(), "macs": 1000 + number,
            "params": 2000 - number, "scores": [last / 4, last / 2, last], "ratio": [speed, speed, speed],
        })  # fmt: skip
    return found


def test_a_front_needs_its_fast_models(rows: list[dict[str, Any]]) -> None:
    left = {(rung, share, rule): (cost, volume) for rung, share, rule, cost, volume in stopping(rows)}
    assert left[30, 1 / 2, "Pareto rank"][1] == pytest.approx(1, abs=1e-3)
    assert left[30, 1 / 2, "score"][1] < 0.9
    assert left[30, 1 / 2, "score"][0] == pytest.approx((30 + 270) / 2 / 270)
    assert left[90, 1 / 10, "Pareto rank"][0] == pytest.approx(0.9 * 90 / 270 + 0.1)


def test_effects_of_choices_that_add_up_are_predicted_from_them_alone(rows: list[dict[str, Any]]) -> None:
    inputs = features(rows)
    choices = inputs["choices of the search space"]
    assert set(np.unique(choices)) == {0.0, 1.0}
    scores = choices[:, :20] @ np.linspace(-1, 1, 20)
    errors = {name: np.mean((predicted(of, scores) - scores) ** 2) / scores.var() for name, of in inputs.items()}
    assert errors["choices of the search space"] < 0.5
    assert errors["sizes: log MACs and log parameters, squares and product"] > 0.9


def test_two_evaluations_of_one_architecture_are_a_pair(rows: list[dict[str, Any]]) -> None:
    again = [{**row, "seed": 1, "state": state} for row, state in zip(rows, ("complete", "failed"), strict=False)]
    assert [(a["arch_id"], b["seed"]) for a, b in pairs_of_seeds([*rows, *again])] == [(rows[0]["arch_id"], 1)]
    assert deviation([(0.0, 2.0), (5.0, 3.0)]) == pytest.approx(2**0.5)


def test_the_report_of_the_published_rows_has_every_table(capsys: pytest.CaptureFixture[str]) -> None:
    report(read_rows())
    printed = capsys.readouterr().out
    assert all(
        f"| {words} |" in printed for words in ("best tenth by the last score", "Pareto rank", "choices and sizes")
    )
    assert "deviation of one log2" in printed


def test_the_page_has_the_numbers_of_the_report(capsys: pytest.CaptureFixture[str]) -> None:
    report(read_rows())
    printed, page = capsys.readouterr().out.splitlines(), (DOCS / "results/hybrid_table.md").read_text()
    taus = [line for line in printed if line.count(" to ") == 2]
    seeds = [line for line in printed if re.fullmatch(r"\| \d+ \| 0\.\d\d \| 0\.\d{4} \|", line)]
    assert len(taus) == 10 + 6, "groups of architectures, and metrics"
    assert len(seeds) == 3
    assert [line for line in (*taus, *seeds) if line not in page] == []
    (one,) = (float(line.split()[-1]) for line in printed if line.startswith("deviation of one log2"))
    assert f"{100 * (2**one - 1):.1f} % ({one:.3f} in log2 of the ratio)" in page
    assert f"two timings on one machine differ by {100 * (2 ** (one * 2**0.5) - 1):.1f} %" in page
    kept = dict(re.findall(r"\| 30 \| 1 / 10 \| ([\w ]+) \| 0\.20 \| (\S+) \|", "\n".join(printed)))
    words = (
        f"one in ten after 30 steps keeps {100 * float(kept['Pareto rank']):.1f} % of the hypervolume. "
        f"By score alone it keeps {100 * float(kept['score']):.0f} %"
    )
    findings = " ".join((DOCS / "findings.md").read_text().split())
    assert words in findings
    ahead = [line.strip("| ").split(" | ") for line in printed if re.match(r"\| eradio_\w+ \| \d\.\d \|", line)]
    assert len(ahead) == 3
    assert all(f"| {' | '.join(line)} |" in findings for line in ahead)
    repeated = [line[4] for line in ahead]
    assert f"and {min(repeated)} to {max(repeated)} times by means of two seeds or more" in findings
    assert f"({repeated[2]} times among those with two seeds)" in (DOCS.parent / "README.md").read_text()
    (front,) = re.findall(r"front: (\d+) models", "\n".join(printed))
    assert f"The front has {front} models." in findings
    all_models, best, random_ones = taus[:3]
    for line in (all_models, best, random_ones):
        assert line.split(" | ")[2] in findings
    of_metrics = {line.strip("| ").split(" | ")[0]: line.strip("| ").split(" | ")[1:] for line in taus[10:]}
    assert all(f"| {' | '.join(cells)} | " in findings for cells in of_metrics.values())


def test_the_pages_say_how_well_two_seeds_agree_in_the_best_tenth(capsys: pytest.CaptureFixture[str]) -> None:
    report(read_rows())
    printed = capsys.readouterr().out
    (found,) = re.findall(r"two seeds of (\d+) architectures of the best tenth: tau (.*)", printed)
    count, tau = found
    page, findings, readme = (
        " ".join(path.read_text().split())
        for path in (DOCS / "results/hybrid_table.md", DOCS / "findings.md", DOCS.parent / "README.md")
    )
    assert f"of which {count} have two seeds, the tau is {tau}." in page
    of_metrics = printed.partition(f"| metric | two seeds of these {count} |")[2].strip().splitlines()[1:7]
    assert [line for line in of_metrics if line not in (DOCS / "results/hybrid_table.md").read_text()] == []
    for line in of_metrics:
        assert f" | {line.strip('| ').split(' | ')[1]} |" in findings
    assert f"in the best tenth with {tau[:-1]}; {count} pairs)" in findings
    assert f"Two seeds at 270 steps agree with 0.95, in the best tenth with {tau[:4]} |" in readme


def test_a_lead_among_repeated_architectures_needs_a_second_seed(rows: list[dict[str, Any]]) -> None:
    lucky, solid = (
        {**row, "scores": [0.0, 0.0, score], "ratio": [8.0]} for row, score in zip(rows[:2], (0.9, 0.5), strict=True)
    )
    means = means_over_seeds([lucky, solid, {**solid, "seed": 1, "scores": [0.0, 0.0, 0.7]}])
    assert [(row["seeds"], row["scores"]) for row in means] == [(1, [0.9]), (2, [pytest.approx(0.6)])]


def test_the_assumed_noise_of_seeds_is_that_of_the_table() -> None:
    pairs = pairs_of_seeds(read_rows())
    of_table = [noise for noise in MEASURED if noise.space == "laptop"]
    assert [noise.steps for noise in of_table] == [30, 90, 270]
    for rung, noise in enumerate(of_table):
        scores = [(a["scores"][rung], b["scores"][rung]) for a, b in pairs]
        assert len(scores) == noise.architectures
        assert deviation(scores) == pytest.approx(noise.deviation, abs=5e-5)


@pytest.mark.parametrize("steps", [30, 90, 270])
def test_the_assumed_noise_of_micro_is_about_that_after_any_of_its_rungs(steps: int) -> None:
    scores: dict[int, list[float]] = {}
    for row in json.loads((RESULTS / "trust.json").read_text()):
        if row["stored"][0] != "fp32":
            (rung,) = (rung for rung in row["rungs"] if rung["steps"] == steps)
            heads = [teacher["spatial"] for teacher in rung["teachers"].values()]
            scores.setdefault(row["arch"], []).append(float(np.mean(heads)))
    noise = assumed_noise("micro", steps)
    assert len(scores) == noise.architectures
    assert deviation([(one, other) for one, other in scores.values()]) == pytest.approx(noise.deviation, abs=5e-4)
