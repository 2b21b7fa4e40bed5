"""Published tables and headlines follow from the committed rows."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.special import stdtrit

from experiments.chaos.__main__ import RESULTS as CHAOS
from experiments.chaos.__main__ import read, table
from experiments.distillation.parallel import load_rows
from experiments.horizon_table import MANY, NAMED_SEED, ROWS
from experiments.realized_front import realized
from nas.study.pareto import front

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "experiments/results"
DOCS = ROOT / "docs"
CURVES = json.loads((RESULTS / "replay_curves.json").read_text())


@pytest.mark.parametrize("pair", CURVES, ids=lambda pair: f"{pair['dataset']}-{pair['latency']}")
def test_medians_and_percentiles_are_those_of_the_curves(pair: dict[str, object]) -> None:
    published = json.loads((RESULTS / "replay.json").read_text()).values()
    keys = ("dataset", "latency", "seeds", "workers", "knowledge")
    (table,) = [t for t in published if t["rungs"] == 1 and all(t[key] == pair[key] for key in keys)]
    for sampler, summary in table["samplers"].items():
        shares = np.array(pair["curves"][sampler])[:, np.array(summary["evaluations"]) - 1]
        for name, q in (("p5", 5), ("median", 50), ("p95", 95)):
            assert np.percentile(shares, q, axis=0) == pytest.approx(summary[name], abs=2e-5)


def test_headline_of_the_replay_page_is_that_of_the_curves() -> None:
    page = (DOCS / "results/replay.md").read_text()
    (pair,) = [pair for pair in CURVES if (pair["dataset"], pair["latency"]) == ("cifar10", "titan_rtx_256_ms")]
    shares = np.array(pair["curves"]["known-cost"])[:, 199]
    assert f"**{np.median(shares):.3f} / {np.percentile(shares, 5):.3f}**" in page


def test_headline_of_the_held_out_pair_is_that_of_the_curves() -> None:
    page = (DOCS / "results/replay.md").read_text()
    (pair,) = [pair for pair in CURVES if pair["dataset"] == "cifar100"]
    for sampler, name in (("known-cost", "**known-cost**"), ("tpe", "TPE"), ("nsga2", "NSGA-II"), ("random", "random")):
        shares = np.array(pair["curves"][sampler])[:, 199]
        (line,) = [line for line in page.splitlines() if line.startswith(f"| {name} | ") and line.count("|") == 4]
        cells = [cell.strip(" *") for cell in line.split("|")[2:4]]
        assert cells == [f"{np.median(shares):.3f}", f"{shares.min():.3f}"]


@pytest.mark.parametrize("losses", ["AM-RADIO", "summary cosine"])
def test_students_of_all_teachers_are_compared_as_the_rows_say(losses: str) -> None:
    files = [RESULTS / f"teachers_{name}.json" for name in ("c6e0841", "rivals")]
    metrics = {(row["recipe"], row["seed"]): row["metrics"] for file in files for row in json.loads(file.read_text())}
    for metric in ("probe", "knn", "miou"):
        pairs = [(metrics[f"all, {losses}", seed], metrics[f"lite0 alone, {losses}", seed]) for seed in range(3)]
        apart = [all_three[metric] - alone[metric] for all_three, alone in pairs]
        half = stdtrit(2, 0.975) * np.std(apart, ddof=1) / 3**0.5
        points = f"{100 * np.mean(apart):.1f} ± {100 * half:.1f}"
        assert points in (DOCS / "results/index.md").read_text()
        assert points.removeprefix("-") in (DOCS / "findings.md").read_text()
        assert metric != "probe" or f"by {points.removeprefix('-')}" in (ROOT / "README.md").read_text()
        difference = f"{np.mean(apart):.3f} ± {half:.3f}"
        assert difference in (DOCS / "explanation/distillation_score.md").read_text()


def test_equal_networks_are_counted_as_the_rows_say() -> None:
    rows = json.loads((RESULTS / "timing.json").read_text())["rows"]
    page = (DOCS / "explanation/throughput.md").read_text()
    for kind, title in (("floor", "{} of 30 | {} of 30"), ("drift", "{} | {}")):
        excluded, different = [], []
        for busy in (0, 2):
            of = [row for row in rows if (row["busy"], row["kind"]) == (busy, kind)]
            of = [row for row in of if not row["ratio_low"] <= 1 <= row["ratio_high"]]
            excluded.append(len(of))
            different.append(sum(abs(row["ratio"] - 1) > 0.01 for row in of))
        assert f"| 95 % interval excludes equality | {title.format(*excluded)} |" in page
        assert f"off by more than 1 %: called different | {title.format(*different)} |" in page


def test_shares_of_random_searchs_training_are_those_of_the_rows() -> None:
    index = (DOCS / "results/index.md").read_text()
    saved = json.loads((RESULTS / "logged.json").read_text())["training_saved"]
    targets = {target["seed"]: target for target in saved["targets"]}
    shares = [found["steps"] / targets[found["target_seed"]]["steps"] for found in saved["searches"]]
    shares += [
        found["steps"] / targets[found["target_seed"]]["reached_after"]["steps"]
        for found in saved["searches"]
        if len(found["rung_steps"]) > 1
    ]
    target, found = json.loads((RESULTS / "random_with_rungs.json").read_text())
    shares += [found["share_of_steps"], found["steps"] / target["steps"]]
    # 3.3 % is written "3.3 and 6.0 %"
    assert [s for s in shares if not re.search(rf"\b{100 * s:.1f} (%|and \d\.\d %)", index)] == []


def test_comparison_of_samplers_is_that_of_the_rows() -> None:
    rows = json.loads((RESULTS / "builtin_study_a.json").read_text())
    of = {(row["method"], row["seed"]): row for row in rows}
    shares: dict[str, list[str]] = {"laptop-random": [], "laptop-evolution": []}
    for rival, percents in shares.items():
        for seed in (0, 1, 2):
            ours, theirs = of["laptop", seed], of[rival, seed]
            passed = next(i for i, volume in enumerate(ours["hypervolume"]) if volume >= theirs["hypervolume"][-1])
            percents.append(f"{100 * ours['steps'][passed] / theirs['steps'][-1]:.0f}")
    index = " ".join((DOCS / "results/index.md").read_text().split())
    readme = " ".join((ROOT / "README.md").read_text().split())
    for percents in shares.values():
        assert "({}, {} and {} %".format(*percents) in index
        assert "with {}, {} and {} %".format(*sorted(percents, key=int)) in readme
    for method, name in (
        ("laptop", "default (`known-cost`)"),
        ("laptop-evolution", "evolution"),
        ("laptop-random", "random"),
    ):
        curves = np.array([of[method, seed]["hypervolume"] for seed in (0, 1, 2)])[
            :, np.array((15, 30, 60, 100, 150, 200)) - 1
        ]
        cells = (f"{np.median(c):.2f} ({c.min():.2f} to {c.max():.2f})" for c in curves.T)
        assert f"| {name} | {' | '.join(cells)} |" in index


def retrained(name: str, trial: int) -> tuple[dict[str, float], dict[str, float], dict[str, float], int]:
    """Return the best baseline, a trial, the fastest that scores as high, and the number that stayed on the front."""
    rows = json.loads((RESULTS / name).read_text())["candidates"]
    baseline = max((row for row in rows if row["baseline"]), key=lambda row: row["score"])
    assert baseline["baseline"] == "eradio_nano"
    named = next(row for row in rows if row["trial"] == trial)
    fast = max(
        (row for row in rows if not row["baseline"] and row["score"] >= baseline["score"]), key=lambda row: row["ratio"]
    )
    return baseline, named, fast, sum(row["change"] == "still on it" for row in rows)


def test_headline_after_retraining_is_that_of_the_rows() -> None:
    baseline, named, fast, kept = retrained("retrained_sample.json", 19)
    times = fast["ratio"] / baseline["ratio"]
    readme = " ".join((ROOT / "README.md").read_text().split())
    assert f"eradio_nano now scores {baseline['score']:.3f}, and trial 19 scores {named['score']:.3f}" in readme
    many = {r["source"]: r["scores"][-1] for r in load_rows(ROWS) if r["seed"] == NAMED_SEED and r["images"] == MANY}
    nano, trial_19 = many["eradio_nano"], many["sample 19"]
    assert f"eradio_nano scores {nano:.3f} after as many steps and trial 19 {trial_19:.3f}" in readme
    assert f"trial 9 scores {many['sample 9']:.3f} at 2.8 times" in readme
    index = " ".join((DOCS / "results/index.md").read_text().split())
    assert f"| 6.80 times (trial 19) | {times:.1f} times (trial {fast['trial']}) | {kept} of 29 |" in index
    findings = " ".join((DOCS / "findings.md").read_text().split())
    assert f"6.8 and {times:.1f} |" in findings
    assert f"Its {times:.1f} times are those of a model with a lead of" in findings


def test_each_seed_alone_keeps_as_many_models_and_chooses_the_same_one() -> None:
    rows = json.loads((RESULTS / "retrained_sample.json").read_text())
    candidates = [row for row in rows["candidates"] if not row["baseline"]]
    kept, chosen = set(), set()
    for seed in map(str, rows["seeds"]):
        kept.add(len(front([(row["scores"][seed], row["ratio"]) for row in candidates])))
        least = max(row["scores"][seed] for row in rows["candidates"] if row["baseline"])
        chosen.add(max((row["ratio"], row["trial"]) for row in candidates if row["scores"][seed] >= least)[1])
    assert (kept, chosen) == ({21, 22}, {23})
    index = " ".join((DOCS / "results/index.md").read_text().split())
    assert "By each seed alone 21 or 22 of the 29 models stay, and trial 23 is the fastest" in index


def test_one_seed_on_two_machines_has_equal_scores_and_other_ratios_as_the_page_says() -> None:
    names = "retrained_sample_c.json", "retrained_sample.json"
    before, now = (
        {c["arch_id"]: c for c in json.loads((RESULTS / name).read_text())["candidates"] if not c["baseline"]}
        for name in names
    )
    both = before.keys() & now.keys()
    lower = [1 - now[arch]["ratio_of_study"] / before[arch]["ratio_of_study"] for arch in both]
    assert len(both) == 7
    assert max(abs(now[arch]["score_of_study"] - before[arch]["score_of_study"]) for arch in both) < 5e-5
    index = " ".join((DOCS / "results/index.md").read_text().split())
    assert f"are {100 * min(lower):.0f} to {100 * max(lower):.0f} % lower here" in index


def test_hybrids_lead_the_sample_report_by_score_as_the_pages_say() -> None:
    """Those with windowed attention, by number: rows have no architectures."""
    hybrids = {102, 104, 107, 114, 121, 126, 135, 183, 188, 201}
    rows = [c for c in json.loads((RESULTS / "retrained_sample.json").read_text())["candidates"] if not c["baseline"]]
    ours = [c for c in rows if c["trial"] in hybrids]
    best = max((c for c in rows if c["trial"] not in hybrids), key=lambda c: c["score"])
    assert len(ours) == 10
    for score in ("score", "score_of_study"):
        assert min(c[score] for c in ours) > max(c[score] for c in rows if c["trial"] not in hybrids)
    low, high = (f(c["score"] for c in ours) for f in (min, max))
    slow, fast = (f(c["ratio"] for c in ours) for f in (min, max))
    words = f"{low:.3f} to {high:.3f}, at {slow:.2f} to {fast:.2f} times eradio_pico's throughput"
    index = " ".join((DOCS / "results/index.md").read_text().split())
    assert words in index
    assert f"has {best['score']:.3f} at {best['ratio']:.2f} times" in index
    assert words.replace(", at", " at") in " ".join((DOCS / "findings.md").read_text().split())


def test_the_first_sample_after_retraining_is_that_of_the_rows() -> None:
    baseline, named, fast, kept = retrained("known_cost_retrained.json", 92)
    index = (DOCS / "results/index.md").read_text()
    assert f"eradio_nano {baseline['score']:.3f}, trial 92 {named['score']:.3f}" in index
    assert f"is trial {fast['trial']}, {fast['score']:.3f} at {fast['ratio'] / baseline['ratio']:.1f} times" in index
    assert f"{kept} of the front's 20 stay" in index


def test_the_retrained_study_is_described_as_its_rows_say() -> None:
    rows = json.loads((RESULTS / "retrained_study.json").read_text())
    gains = {c["trial"]: c["score"] - np.mean(list(c["at_last_rung"].values())) for c in rows["candidates"]}
    presets = [gains[c["trial"]] for c in rows["candidates"] if c["baseline"]]
    found = [gains[c["trial"]] for c in rows["candidates"] if not c["baseline"] and c["stopped_after"] is None]
    index = (DOCS / "results/index.md").read_text()
    assert f"the presets gain {min(presets):.3f} to {max(presets):.3f} by the longer training" in index
    assert f"the {len(found)} candidates {np.median(found):.3f} in the median" in index
    page = (DOCS / "explanation/early_stopping.md").read_text()
    for regret in rows["early_stopping"]:
        assert f"{len(regret['joined'])} of {regret['candidates']}" in page
        assert f"{100 * regret['gain']:.1f} %" in page
        if regret["steps"] == rows["last_rung"]:
            assert f"({100 * min(regret['by_seed']):.1f} to {100 * max(regret['by_seed']):.1f} %" in page


def test_the_realized_front_is_worth_what_the_chosen_models_score() -> None:
    """Three models at 4, 2 and 1 times the reference; the reference point is three doublings below it, at score 0."""
    ratios = (2.0, 4.0, 1.0)
    assert realized((0.4, 0.2, 0.6), (0.4, 0.2, 0.6), ratios) == pytest.approx(0.2 + 0.4 + 3 * 0.6)
    # The slowest is thought to be worse than the next: its users take that one.
    assert realized((0.4, 0.2, 0.3), (0.4, 0.2, 0.6), ratios) == pytest.approx(0.2 + 4 * 0.4)


def test_kills_are_those_of_the_log() -> None:
    page = (DOCS / "explanation/reliability.md").read_text()
    for study in json.loads((RESULTS / "logged.json").read_text())["kills"]["studies"]:
        kills = sum(study["killed"].values())
        assert re.search(rf"^\|.* \| {kills}( of 30 strikes)? \| {study['evaluated']} \|", page, re.MULTILINE)


def test_the_table_of_the_chaos_campaign_is_that_of_its_rows() -> None:
    rows = read(CHAOS)
    page = (DOCS / "results/chaos.md").read_text()
    assert "\n".join(table(rows)) in page
    faults = sum(row["faults"] for row in rows)
    for name in ("results/chaos.md", "results/index.md", "../README.md"):
        assert f"{faults:,} faults" in (DOCS / name).read_text(), name


def test_report_of_the_students_prints_every_published_file(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from experiments.distillation import teachers

    monkeypatch.setattr(sys, "argv", ["teachers", "--report"])
    teachers.main()
    printed = capsys.readouterr().out
    assert all(path.name in printed for path in teachers.PUBLISHED)
    assert "* all, summary cosine, lite0 x2 | -0.013 +- 0.014 | -0.004 +- 0.033" in printed
    assert "'all, summary cosine' is 'all three, default recipe'" in printed
    assert "AM-RADIO | -0.014 +- 0.023 | -0.010 +- 0.011 | -0.012 +- 0.053" in printed


def numbers(cell: str) -> list[float]:
    """Return the mean and the half-width of a cell; nothing of an empty one."""
    return [float(part) for part in cell.split(" ± ") if part]


def test_gains_of_a_loss_are_those_that_the_command_prints_with_their_intervals(
    capsys: pytest.CaptureFixture[str],
) -> None:
    from experiments.distillation import search_recipe

    search_recipe.report(load_rows(search_recipe.RESULTS))
    rows = [[cell.strip() for cell in line.split("|")] for line in capsys.readouterr().out.splitlines()]
    gains = {row[1]: [numbers(cell) for cell in row[4:8]] for row in rows if row[2] == "0"}
    page = [[cell.strip() for cell in line.split("|")] for line in (DOCS / "results/index.md").read_text().splitlines()]
    titles = {
        "0.002 cosine": "**cosine, 0.002**",
        "0.004 clipped": "MSE, 0.004, clipped",
        "0.004 cosine": "cosine, 0.004",
        "0.004 cosine clipped": "cosine, 0.004, clipped",
    }
    for recipe, title in titles.items():
        (row,) = [row for row in page if row[1:2] == [title] and "±" in row[2]]
        for published, printed in zip(row[2:6], gains[recipe], strict=True):
            assert numbers(published) == pytest.approx(printed, abs=5.5e-4)
    findings = " ".join((DOCS / "findings.md").read_text().split())
    for recipe in ("0.002 cosine", "0.002 light"):
        assert "raises the score by {:.3f} ± {:.3f}".format(*gains[recipe][2]) in findings


def test_every_file_of_rows_is_described() -> None:
    described = (RESULTS / "README.md").read_text()
    assert [path.name for path in RESULTS.glob("*.json") if f"`{path.name}`" not in described] == []
