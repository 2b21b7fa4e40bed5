"""The pages have the figures of the searches on images of CIFAR-10."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from math import hypot
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from experiments.cifar10_searches import ROWS, commands, fastest_as_good, pooled_front, report, search_cells, updated
from nas.analysis.noise import lead_half_widths, scatter_by_kind

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
SAVED = json.loads(ROWS.read_text())
MODELS = {model["number"]: model for model in SAVED["searches"][0]["models"]}
RETRAINED = {c["trial"]: c for c in SAVED["retrained"]["0"]["candidates"]}


def test_the_table_of_models_is_that_of_the_rows() -> None:
    lines = (DOCS / "results/index.md").read_text().splitlines()
    for number in (202, 172, 167, 152, 168, 201, 2, 198, 199, 13, 14):
        model, longer = MODELS[number], RETRAINED[number]
        sizes = f"{model['macs'] / 1e6:.1f} | {model['params'] / 1e6:.2f}"
        labels = f"{longer['metrics']['knn']:.3f} | {longer['metrics']['probe']:.3f}"
        cells = f"{sizes} | {model['score']:.3f} | {longer['score']:.3f} | {labels} | {longer['ratio']:.2f}x |"
        (line,) = [line for line in lines if line.endswith(cells)]
        assert line.startswith(f"| {model['baseline'] or f'trial {number}'} | ")
        for stage in model.get("spec", {}).get("stages", ()):
            assert "{block} {depth} x {width}".format(**stage) in line


def words(path: Path) -> str:
    return " ".join(path.read_text().split())


INDEX, FINDINGS, README = words(DOCS / "results/index.md"), words(DOCS / "findings.md"), words(ROOT / "README.md")


def listed(words: Sequence[str]) -> str:
    """Return words as a sentence lists them."""
    return f"{', '.join(words[:-1])} and {words[-1]}"


def test_what_the_pages_say_of_the_fronts_is_what_the_command_prints() -> None:
    cells = [search_cells(search) for search in SAVED["searches"]]
    assert len(cells) == 5
    for search, row in zip(SAVED["searches"], cells, strict=True):
        name, top = f"seed {search['seed']}", max(search["models"], key=lambda model: float(model["score"]))
        assert f"| {name} | {' | '.join(row)} |" in INDEX
        kind = "a hybrid" if top["attention"] else "convolutions alone"
        front, four, attention, speed, _, timed = row[6:]
        speed = f"{speed[:-1]} times"
        found = (name, front, four, attention, f"{kind}, {top['score']:.3f}", speed, timed)
        assert f"| {' | '.join(found)} |" in FINDINGS
    volumes, fronts, four = ([row[i] for row in cells] for i in (5, 6, 7))
    assert f"end with hypervolumes of {listed(volumes)}." in FINDINGS
    assert f"({min(volumes)} to {max(volumes)}) and different networks" in README
    counts = listed([f"{a} of {b}" for a, b in zip(four, fronts, strict=True)])
    assert f"{counts} models on the fronts have four stages" in README
    gains = listed([f"{search['expected_gain']:.1f}" for search in SAVED["searches"]])
    assert f"raise the hypervolume by {gains} times what noise alone would" in INDEX


def test_the_fronts_have_the_networks_that_the_page_describes() -> None:
    third, fourth = ([m for m in s["models"] if "spec" in m] for s in SAVED["searches"][2:4])
    assert sum(len(m["spec"]["stages"]) == 1 and m["spec"]["stem"].endswith("16") for m in third) == 11
    deep = [m for m in fourth if len(m["spec"]["stages"]) == 3]
    single = [m for m in fourth if len(m["spec"]["stages"]) == 1]
    assert (len(deep), len(single)) == (16, 9)
    assert min(m["score"] for m in deep) > max(m["score"] for m in single)
    assert {(m["spec"]["stem"], m["spec"]["stages"][-1]["block"], m["attention"]) for m in deep} == {
        ("patch", "mbconv", False)
    }
    assert [m["spec"]["stages"][0]["block"] for m in single if m["attention"]] == ["window", "window"]
    fifth = sorted((m for m in SAVED["searches"][4]["models"] if "spec" in m), key=lambda m: -m["score"])
    assert [len(m["spec"]["stages"]) for m in fifth] == [3] * 19 + [1] * 5
    assert [m["attention"] for m in fifth] == [True] * 6 + [False] * 18
    assert {m["spec"]["stages"][2]["block"] for m in fifth[:6]} == {"attention", "window"}
    assert {m["spec"]["stem"] for m in fifth[:19]} == {"patch"}
    assert {m["spec"]["stem"] for m in fifth[19:]} == {"patch16"}


def test_the_front_of_all_searches_has_models_of_each() -> None:
    pooled, volume = pooled_front(SAVED["searches"])
    seeds = [seed for seed, _ in pooled]
    counts = listed([f"{seeds.count(seed)} of seed {seed}" for seed in range(5)])
    assert f"has {len(pooled)} models, {counts}, and a hypervolume of {volume:.2f}." in INDEX
    assert f"That of the front of all five together is {volume:.2f}." in FINDINGS
    shares = [f"{100 * s['hypervolume']['200'] / volume:.0f}" for s in SAVED["searches"]]
    assert f"each search found {min(shares)} to {max(shares)} % of it" in INDEX


def test_what_the_pages_say_of_the_longer_training_is_what_the_command_prints(
    capsys: pytest.CaptureFixture[str],
) -> None:
    report(SAVED)
    printed = " ".join(capsys.readouterr().out.split())
    assert "tau of score and kNN on 58 models: 0.74" in printed
    assert "tau of score and linear probe on 58 models: 0.73" in printed
    assert (
        "On 58 models of seed 0 the tau of the score after 270 steps is 0.74 with kNN and 0.73 with the linear probe"
        in INDEX
    )
    assert "gain by longer training, median: 0.143 of baselines, 0.116 of candidates" in printed
    assert "gain 0.143 in the median by the longer training, the candidates 0.116" in INDEX
    searched, times = fastest_as_good(list(MODELS.values()), "eradio_nano")
    assert searched is not None
    assert (searched["number"], f"{times:.2f}") == (198, "4.88")
    longer = [c | {"ratio": [c["ratio"]]} for c in RETRAINED.values()]
    kept, times = fastest_as_good(longer, "eradio_nano")
    assert kept is not None
    assert (kept["trial"], f"{times:.2f}") == (201, "4.30")
    assert "4.88 times that of eradio_nano in the search (trial 198)" in INDEX
    lost, nano, leading = (f"{RETRAINED[number]['score']:.3f}" for number in (198, 2, 201))
    assert f"trial 198 is behind, with {lost} against {nano}, and trial 201 leads with {leading} at 4.30 times" in INDEX
    again = {c["trial"]: c["score"] for c in SAVED["retrained"]["1"]["candidates"]}
    stayed = f"{again[86]:.3f}"
    assert f"{again[2]:.3f}" == nano
    assert f"stays ahead, with {stayed} against {nano}, and trial 63" in INDEX
    assert f"has {again[63]:.3f} at 7.45 times the throughput" in INDEX
    assert f"with {again[136]:.3f} against {again[173]:.3f} and {again[135]:.3f}." in INDEX
    changes = [c["change"] for c in RETRAINED.values()]
    assert (changes.count("still on it"), changes.count("left it"), changes.count("joined it")) == (12, 8, 0)
    assert "Of seed 0's front of 20 models 12 stay on it, 8 leave" in INDEX
    taus = {c["between"]: c for c in SAVED["retrained"]["0"]["correlations"]}
    tau = taus["study at 270 steps, mean of 3 seeds at 2700 steps"]
    assert f"is {tau['tau']:.2f} ({tau['low']:.2f} to {tau['high']:.2f})" in INDEX
    seeds = [f"{c['tau']:.2f}" for name, c in taus.items() if name.startswith("seeds ")]
    assert f"between two seeds after 2,700 steps {min(seeds)} to {max(seeds)}." in INDEX


@pytest.mark.parametrize(("seed", "recommended"), [(0, 198), (1, 86), (3, 196), (4, 186)])
def test_the_claim_has_what_became_of_each_retrained_front(seed: int, recommended: int) -> None:
    searched = SAVED["searches"][seed]["models"]
    named, _ = fastest_as_good(searched, "eradio_nano")
    assert named is not None
    assert named["number"] == recommended
    retrained = SAVED["retrained"][str(seed)]
    models = [c | {"ratio": [c["ratio"]]} for c in retrained["candidates"] if c["score"] is not None]
    _, times = fastest_as_good(models, "eradio_nano")
    changes = [c["change"] for c in retrained["candidates"]]
    stay, leave = changes.count("still on it"), changes.count("left it")
    best = max(models, key=lambda c: float(c["score"]))
    hybrid = next(m["attention"] for m in searched if m["number"] == best["trial"])
    (score,) = (c["score"] for c in models if c["trial"] == recommended)
    cells = (
        f"seed {seed}", str(len(retrained["seeds"])), f"{stay} of {stay + leave}", f"{score:.3f}", f"{times:.1f} times",
        f"{'a hybrid' if hybrid else 'convolutions alone'}, {best['score']:.3f}",
    )  # fmt: skip
    assert f"| {' | '.join(cells)} |" in FINDINGS
    assert f" times (trial {recommended}) | {times:.1f} times (trial " in INDEX
    assert f"| {stay} of {stay + leave} |" in INDEX
    assert f"{stay} of the {stay + leave}" in README


def half_widths(rows: Mapping[int, Any], candidate: int, baseline: int) -> list[float]:
    """Return half the interval of a lead of one candidate, and of one chosen among all, over the best of baselines."""
    scatter = scatter_by_kind(([*c["scores"].values()], c["baseline"]) for c in rows.values())
    assert scatter is not None
    scores = [[*rows[n]["scores"].values()] for n in (candidate, baseline)]
    baselines = sum(c["baseline"] is not None for c in rows.values())
    among = ((1, 1), (len(rows) - baselines, baselines))
    return [hypot(*(lead_half_widths(scatter, *scores, *chosen) or (0.0,))) for chosen in among]


def test_the_page_has_each_seed_of_the_third_retrained_front() -> None:
    rows = {c["trial"]: c for c in SAVED["retrained"]["3"]["candidates"]}
    nano, first, second = ([rows[n]["scores"][seed] for seed in "456"] for n in (2, 196, 201))
    leads, behind = ([a - b for a, b in zip(of, nano, strict=True)] for of in (first, second))
    assert min(leads) > 0
    assert sum(lead < 0 for lead in behind) == 1
    assert f"still ahead, with {fmean(first):.3f} against {fmean(nano):.3f}, and by each seed alone" in INDEX
    assert f"has {fmean(second):.3f} at {rows[201]['ratio'] / rows[2]['ratio']:.2f} times the throughput" in INDEX
    spreads = {n: max(c["scores"].values()) - min(c["scores"].values()) for n, c in rows.items()}
    assert max(spreads, key=spreads.__getitem__) == 2
    candidates = sum(c["baseline"] is None for c in rows.values())
    halves = half_widths(rows, 196, 2)
    lead = (
        f"{fmean(leads):.3f} ± {halves[0]:.3f}, or ± {halves[1]:.3f} if one allows for the choice among {candidates}."
    )
    assert f"own three scores spread over {spreads[2]:.3f}, more than those of any candidate" in INDEX
    assert f"trial 196 leads by {lead}" in INDEX


def test_the_page_has_each_seed_of_the_fourth_retrained_front() -> None:
    rows = {c["trial"]: c for c in SAVED["retrained"]["4"]["candidates"]}
    (nano,) = (c for c in rows.values() if c["baseline"] == "eradio_nano")
    leads, behind = ([c["scores"][seed] - nano["scores"][seed] for seed in "567"] for c in (rows[186], rows[114]))
    assert min(leads) > 0
    assert sum(lead < 0 for lead in behind) == 1
    assert f"still ahead, with {rows[186]['score']:.3f} against {nano['score']:.3f}, and by each seed alone" in INDEX
    times = rows[114]["ratio"] / nano["ratio"]
    short = nano["score_of_study"] - rows[114]["score_of_study"]
    kept = f"has {rows[114]['score']:.3f} at {times:.2f} times the throughput; by one of the three seeds it is behind"
    assert f"Trial 114, which scored {short:.3f} less than eradio_nano in the search, {kept}" in INDEX
    spread = max(nano["scores"].values()) - min(nano["scores"].values())
    shared = {seed: score for seed, score in nano["scores"].items() if seed in "56"}
    assert max(shared.values()) - min(shared.values()) == spread, "the spread is that of seeds that seed 3 has, too"
    assert {c["scores"][seed] for c in SAVED["retrained"]["3"]["candidates"] for seed in shared} >= set(shared.values())
    halves = half_widths(rows, 186, nano["trial"])
    lead = f"trial 186 leads by {fmean(leads):.3f} ± {halves[0]:.3f}, or ± {halves[1]:.3f} if one allows for the choice"
    assert lead in INDEX
    attention = {m["number"]: m["attention"] for m in SAVED["searches"][4]["models"]}
    best = sorted((c for c in rows.values() if not c["baseline"]), key=lambda c: -c["score"])
    plain = next(c for c in best if not attention[c["trial"]])
    assert (best[0]["trial"], attention[164], plain["trial"]) == (164, True, 123)
    assert f"fronts, {best[0]['score']:.3f}, at {best[0]['ratio']:.2f} times eradio_pico's throughput" in INDEX
    assert f"trial 123, {plain['score']:.3f} at {plain['ratio']:.2f} times." in INDEX
    assert f"one has {plain['score']:.3f} at {plain['ratio'] / best[0]['ratio']:.2f} times the hybrid's" in FINDINGS
    before = sorted((m for m in SAVED["searches"][4]["models"] if "spec" in m), key=lambda m: -m["score"])
    assert [m["number"] for m in before[:4]] == [172, 169, 167, 164]


def test_a_hybrid_keeps_the_highest_score_and_convolutions_are_close() -> None:
    best = sorted((c for c in RETRAINED.values() if not c["baseline"]), key=lambda c: -c["score"])[:4]
    assert [c["trial"] for c in best] == [202, 172, 167, 152]
    assert [MODELS[c["trial"]]["attention"] for c in best] == [True, True, False, False]
    ahead, times = best[0]["score"] - best[2]["score"], best[2]["ratio"] / best[0]["ratio"]
    assert f"Trial 202 has {best[0]['score']:.3f}, {ahead:.3f} more than trial 167" in INDEX
    assert f"no attention and {times:.2f} times its throughput" in INDEX
    labels = (RETRAINED[number]["metrics"][name] for name in ("knn", "probe") for number in (201, 2))
    assert "with {:.3f} and {:.3f} in kNN and {:.3f} and {:.3f} in the linear probe".format(*labels) in INDEX
    gain, longer = (MODELS[202]["score"] - MODELS[2]["score"], RETRAINED[202]["score"] - RETRAINED[2]["score"])
    assert f"ahead of it by {gain:.3f} in the search and by {longer:.3f} after 2,700 steps" in INDEX
    probe = max(RETRAINED.values(), key=lambda c: float(c["metrics"]["probe"]))
    assert (probe["trial"], f"{probe['metrics']['probe']:.3f}") == (159, "0.600")


def test_the_commands_are_those_of_the_program(tmp_path: Path) -> None:
    search, *_, retrain, second, third, fourth = commands(tmp_path)
    assert search.startswith("backbone-nas search --data 'webdataset:")
    assert retrain == (f"backbone-nas retrain {tmp_path}/s0 --baselines --train-steps 2700 --seeds 3 --near-misses 4")
    assert second == (f"backbone-nas retrain {tmp_path}/s1 --baselines --train-steps 2700 --seeds 1 --near-misses 0")
    assert third == second.replace("/s1 ", "/s3 ").replace("--seeds 1", "--seeds 3")
    assert fourth == third.replace("/s3 ", "/s4 ")


def test_rows_of_searches_whose_folders_are_gone_stay(tmp_path: Path) -> None:
    assert updated(SAVED, tmp_path) == SAVED
