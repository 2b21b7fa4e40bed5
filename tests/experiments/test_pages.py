"""Published tables and headlines follow from the committed rows: every line that a command prints is on its page."""

from __future__ import annotations

import contextlib
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.image import imread
from scipy.special import stdtrit

from experiments import first_wave, full_space, seed_intervals, timing_repeats
from experiments.benchmarks import block_cost, live_teachers
from experiments.chaos.__main__ import RESULTS as CHAOS
from experiments.chaos.__main__ import read, table
from experiments.cifar10_searches import ROWS as SEARCHES
from experiments.cifar10_searches import fastest_as_good, search_cells
from experiments.distillation import network_study, search_recipe, teachers, training_length
from experiments.distillation.parallel import load_rows
from experiments.hybrid_findings import agreement, deviation, pairs_of_seeds
from experiments.hybrid_findings import report as report_of_the_table
from experiments.hybrid_replays import ROWS as REPLAYS
from experiments.hybrid_replays import SAMPLERS as REPLAYED
from experiments.hybrid_replays import report as report_of_replays
from experiments.hybrid_timings import report as report_of_timings
from experiments.pictures import DOCS, PICTURES
from experiments.predicted_throughput import table_row
from experiments.score_lead import retrained_searches
from experiments.score_lead import tables as tables_of_leads
from nas.analysis.noise import BELIEVED_DEGREES
from nas.replay.hybrid_rows import read_rows
from nas.study.pareto import front
from nas.study.seed_noise import MEASURED, assumed_noise
from nas.study.timing_doubts import LATENCY_RUN_DEVIATION, RUN_DEVIATION, THROUGHPUT_RUN_DEVIATION

PAGES = Path(__file__).parents[2] / "docs"
RESULTS = Path(__file__).parents[2] / "experiments/results"
CURVES = json.loads((RESULTS / "replay_curves.json").read_text())
FULL = load_rows(full_space.ROWS)
SAVED = json.loads(SEARCHES.read_text())
INDEX, HYBRIDS = "results/index.md", "results/hybrid_table.md"


def text(page: str) -> str:
    return (PAGES / page).read_text()


def words(page: str) -> str:
    return " ".join(text(page).split())


def printed(report: Callable[..., object], *given: Any) -> list[str]:
    """Return the lines that a report prints."""
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown):
        report(*given)
    return shown.getvalue().splitlines()


def study_lines(name: str) -> list[str]:
    return printed(network_study.report, name, load_rows(network_study.RESULTS / f"{name}_study.json"))


def own_student_lines() -> list[str]:
    rows = [row for path in teachers.PUBLISHED for row in json.loads(path.read_text())]
    return printed(teachers.own_teacher_table, rows)


def replay_lines() -> list[str]:
    lines = printed(report_of_replays, load_rows(REPLAYS))
    return [line for line in lines if line.startswith(tuple(f"| {name} |" for name in REPLAYED))]


def taus_of_the_hybrid_table() -> list[str]:
    lines = printed(report_of_the_table, read_rows())
    seeds = [line for line in lines if re.fullmatch(r"\| \d+ \| 0\.\d\d \| 0\.\d{4} \|", line)]
    return [line for line in lines if line.count(" to ") == 2] + seeds


def leads_in_onnx_runtime() -> list[str]:
    rows = load_rows(RESULTS / "hybrid_timings_onnx.json.gz")
    return [line for line in printed(report_of_timings, rows, read_rows()) if line.startswith("| eradio_")]


PRINTED: dict[str, tuple[Callable[[], list[str]], int, str]] = {  # how many lines at least, and their page
    "second timings": (timing_repeats.table, 3, "explanation/throughput.md"),
    "absolute timings": (timing_repeats.absolute_table, 3, "explanation/throughput.md"),
    "intervals of scores": (seed_intervals.tables, 5, INDEX),
    "leads": (lambda: tables_of_leads(retrained_searches()), 3, INDEX),
    "live teachers": (lambda: printed(live_teachers.report, load_rows(live_teachers.RESULTS)), 3, INDEX),
    "ablation": (lambda: study_lines("ablation"), 10, INDEX),
    "backbones": (lambda: study_lines("backbones"), 20, INDEX),
    "own students": (own_student_lines, 2 + 3 * 3, "explanation/distillation_score.md"),
    "replays": (replay_lines, 3 * len(REPLAYED) - 1, HYBRIDS),
    "taus of the hybrid table": (taus_of_the_hybrid_table, 10 + 6 + 3, HYBRIDS),
    "leads in ONNX Runtime": (leads_in_onnx_runtime, 3, HYBRIDS),
    "predictions": (
        lambda: [table_row(name, 20) for name in ("eager (A, slower)", "eager (A, faster)", "ONNX Runtime")],
        3,
        "explanation/sampler.md",
    ),
    "chaos": (lambda: list(table(read(CHAOS))), 5, "results/chaos.md"),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [*PRINTED, pytest.param("first wave", marks=pytest.mark.exhaustive)],
)
def test_the_page_has_every_line_of_the_command(name: str) -> None:
    lines_of, least, page = PRINTED.get(name) or (first_wave.table, 3, "explanation/early_stopping.md")
    lines = [line for line in lines_of() if line.strip()]
    assert len(lines) >= least
    shown = text(page).splitlines()
    assert [line for line in lines if line not in shown] == []


def test_every_file_of_rows_is_described() -> None:
    described = (RESULTS / "README.md").read_text()
    assert [path.name for path in RESULTS.glob("*.json") if f"`{path.name}`" not in described] == []


@pytest.mark.slow
def test_assumed_deviations_are_those_of_the_tables() -> None:
    between = sorted(float(line.split("|")[5].removesuffix(" % ")) for line in timing_repeats.table()[2:])
    middle = between[(len(between) - 1) // 2], between[len(between) // 2]
    assert middle[0] - 0.1 <= 100 * RUN_DEVIATION <= middle[1] + 0.1
    absolute = [float(line.split("|")[3].removesuffix(" % ")) / 100 for line in timing_repeats.absolute_table()[3:]]
    assert absolute == pytest.approx([THROUGHPUT_RUN_DEVIATION, LATENCY_RUN_DEVIATION], abs=0.003)
    degrees = [float(line.split("|")[7]) for line in seed_intervals.tables() if line.startswith("| `")]
    assert min(degrees) <= BELIEVED_DEGREES < max(degrees)


@pytest.mark.slow
@pytest.mark.parametrize("steps", [30, 90, 270])
def test_the_assumed_noise_of_seeds_is_that_of_the_rows(steps: int) -> None:
    pairs = pairs_of_seeds(read_rows())
    (laptop,) = [noise for noise in MEASURED if (noise.space, noise.steps) == ("laptop", steps)]
    rung = (30, 90, 270).index(steps)
    scores_of_pairs = [(a["scores"][rung], b["scores"][rung]) for a, b in pairs]
    assert len(scores_of_pairs) == laptop.architectures
    assert deviation(scores_of_pairs) == pytest.approx(laptop.deviation, abs=5e-5)
    scores: dict[int, list[float]] = {}
    for row in json.loads((RESULTS / "trust.json").read_text()):
        if row["stored"][0] != "fp32":
            (at,) = (rung for rung in row["rungs"] if rung["steps"] == steps)
            scores.setdefault(row["arch"], []).append(
                float(np.mean([teacher["spatial"] for teacher in at["teachers"].values()]))
            )
    micro = assumed_noise("micro", steps)
    assert len(scores) == micro.architectures
    assert deviation([(one, other) for one, other in scores.values()]) == pytest.approx(micro.deviation, abs=5e-4)


@pytest.mark.slow
def test_the_page_has_the_costs_of_blocks() -> None:
    settings = [(side, mode) for side in (14, 7) for mode in ("eager", "compiled")]
    rows = {(row["map"], row["mode"], row["block"]): row for row in load_rows(block_cost.RESULTS)}
    blocks = dict.fromkeys(block for _, _, block in rows)
    assert set(blocks) == set(block_cost.stages(64, 7))
    assert len(rows) == len(settings) * len(blocks)
    for block in blocks:
        costs = [rows[*setting, block][kind][0] for setting in settings for kind in block_cost.KINDS]
        assert f"| {block} | " + " | ".join(f"{cost:.2f}" for cost in costs) + " |" in text(INDEX)


# The searches on images of CIFAR-10, and of `full`


@pytest.mark.slow
def test_the_tables_of_the_searches_of_cifar10_are_those_of_the_rows() -> None:
    models = {model["number"]: model for model in SAVED["searches"][0]["models"]}
    longer_trained = {c["trial"]: c for c in SAVED["retrained"]["0"]["candidates"]}
    for number in (202, 172, 167, 152, 168, 201, 2, 198, 199, 13, 14):
        model, longer = models[number], longer_trained[number]
        sizes = f"{model['macs'] / 1e6:.1f} | {model['params'] / 1e6:.2f}"
        labels = f"{longer['metrics']['knn']:.3f} | {longer['metrics']['probe']:.3f}"
        cells = f"{sizes} | {model['score']:.3f} | {longer['score']:.3f} | {labels} | {longer['ratio']:.2f}x |"
        (line,) = [line for line in text(INDEX).splitlines() if line.endswith(cells)]
        assert line.startswith(f"| {model['baseline'] or f'trial {number}'} | ")
    for search in SAVED["searches"]:
        assert f"| seed {search['seed']} | {' | '.join(search_cells(search))} |" in words(INDEX)


@pytest.mark.slow
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
    assert f"| {' | '.join(cells)} |" in words("findings.md")
    assert f" times (trial {recommended}) | {times:.1f} times (trial " in words(INDEX)


@pytest.mark.slow
@pytest.mark.parametrize("fitted", [False, True])
def test_the_table_of_models_of_full_is_that_of_the_rows(fitted: bool) -> None:
    rows = full_space.complete(FULL, full_space.FITTED) if fitted else full_space.complete(FULL)
    done = {row["baseline"] or f"trial {row['number']}": row for row in rows}
    first = ("trial 32", "eradio_nano", "trial 35", "trial 34", "trial 25", "eradio_pico", "trial 15")
    for name in ("trial 39", "trial 36", "eradio_nano", "eradio_pico", "trial 28") if fitted else first:
        row = done[name]
        ratio = "{:.2f}x ({:.2f} to {:.2f})".format(*row["ratio"])
        sizes = f"{row['macs'] / 1e6:.0f} | {row['params'] / 1e6:.2f}"
        cells = f"| {sizes} | {row['scores'][-1]:.3f} | {ratio} |"
        (line,) = [line for line in text(INDEX).splitlines() if line.endswith(cells)]
        assert line.startswith(f"| {name} | ")


@pytest.mark.slow
def test_the_taus_and_the_speeds_of_full_are_those_of_the_rows() -> None:
    taus = agreement(np.array([row["scores"] for row in FULL if row["of"] == "pilot"]))
    cells = " | ".join("{:.2f} ({:.2f} to {:.2f})".format(*tau) for tau in taus)
    assert f"| tau | {cells} |" in text(INDEX)
    lines = "\n".join(printed(full_space.report, FULL))
    for part, speeds in (
        (lines.partition(full_space.FITTED)[0], ["1.07", "1.09", "3.40"]),
        (lines.partition(full_space.FITTED)[2], ["1.21", "1.27", "0.97"]),
    ):
        found = dict(re.findall(r"as high as (eradio_\w+)[\w-]*: (\S+) times as fast;?", part))
        assert [found[name] for name in ("eradio_windows_of_4", "eradio_nano", "eradio_pico")] == speeds
        assert all(f"{speed} times" in words(INDEX) for speed in speeds[:2])


# Replays, teachers and longer trainings


@pytest.mark.slow
@pytest.mark.parametrize("pair", CURVES, ids=lambda pair: f"{pair['dataset']}-{pair['latency']}")
def test_medians_and_percentiles_are_those_of_the_curves(pair: dict[str, Any]) -> None:
    published = json.loads((RESULTS / "replay.json").read_text()).values()
    keys = ("dataset", "latency", "seeds", "workers", "knowledge")
    (summaries,) = [t for t in published if t["rungs"] == 1 and all(t[key] == pair[key] for key in keys)]
    for sampler, summary in summaries["samplers"].items():
        shares = np.array(pair["curves"][sampler])[:, np.array(summary["evaluations"]) - 1]
        for name, q in (("p5", 5), ("median", 50), ("p95", 95)):
            assert np.percentile(shares, q, axis=0) == pytest.approx(summary[name], abs=2e-5)
    shares = np.array(pair["curves"]["known-cost"])[:, 199]
    if (pair["dataset"], pair["latency"]) == ("cifar10", "titan_rtx_256_ms"):
        assert f"**{np.median(shares):.3f} / {np.percentile(shares, 5):.3f}**" in text("results/replay.md")


@pytest.mark.slow
@pytest.mark.parametrize("losses", ["AM-RADIO", "summary cosine"])
def test_students_of_all_teachers_are_compared_as_the_rows_say(losses: str) -> None:
    files = [RESULTS / f"teachers_{name}.json" for name in ("c6e0841", "rivals")]
    metrics = {(row["recipe"], row["seed"]): row["metrics"] for file in files for row in json.loads(file.read_text())}
    for metric in ("probe", "knn", "miou"):
        pairs = [(metrics[f"all, {losses}", seed], metrics[f"lite0 alone, {losses}", seed]) for seed in range(3)]
        apart = [all_three[metric] - alone[metric] for all_three, alone in pairs]
        half = stdtrit(2, 0.975) * np.std(apart, ddof=1) / 3**0.5
        points = f"{100 * np.mean(apart):.1f} ± {100 * half:.1f}"
        assert points in text(INDEX)
        assert points.removeprefix("-") in text("findings.md")
        assert f"{np.mean(apart):.3f} ± {half:.3f}" in text("explanation/distillation_score.md")


FEWER = {  # rows of the page's table
    "untrained": "untrained",
    "10,000 images, each with the targets of another": "all, targets of other images",
    **{f"{count} images": f"all, summary cosine, {count} images" for count in ("100", "300", "1,000", "3,000")},
    "10,000 images": "all, summary cosine",
}


@pytest.mark.slow
@pytest.mark.parametrize("title", FEWER)
def test_the_page_has_the_students_of_fewer_images(title: str) -> None:
    files = [RESULTS / f"teachers_{name}.json" for name in ("floors", "c6e0841")]
    rows = [row for file in files for row in json.loads(file.read_text()) if row["recipe"] == FEWER[title]]
    assert sorted(row["seed"] for row in rows) == [0, 1, 2]
    names = ("probe", "knn", "miou", "retrieval/lite0", "retrieval/hed", "retrieval/xfeat")
    metrics = [[row["metrics"][name] for row in rows] for name in names]
    scores = [np.mean([head["spatial"] for head in row["explained"].values()]) for row in rows]
    cells = [f"{np.mean(of):.3f} ± {np.std(of, ddof=1):.3f}" for of in (scores, *metrics)]
    assert f"| {title} | {' | '.join(cells)} |" in text("explanation/distillation_score.md")


TRAINED_LONGER = {
    "ViT, conv stem, 128 wide": "vit_conv_128",
    "ViT, patches of 16 px, 128 wide": "vit_128",
    "ViT, patches of 16 px, 256 wide": "vit_256",
    "windowed ViT, patches of 4 px, 64 wide": "windowed_vit_64",
    "eradio_nano": "eradio_nano",
    "trial 202": "winner_of_laptop_cosine",
    "best score of a search of `laptop`": "best_of_laptop",
}


@pytest.mark.slow
@pytest.mark.parametrize("title", TRAINED_LONGER)
def test_scores_and_labels_of_a_network_are_those_of_the_rows(title: str) -> None:
    arch = TRAINED_LONGER[title]
    every = [row for row in load_rows(training_length.RESULTS) if row.get("steps") in (None, 2700)]
    rows = [row for row in every if row.get("recipe") == "search-cosine" and row["arch"] == arch]
    (ratio,) = (row["ratio"][0] for row in every if "ratio" in row and row["arch"] == arch)
    assert sorted(row["seed"] for row in rows) == [0, 1]
    values = np.array([row["scores"][2:] + [row["metrics"][name] for name in ("knn", "probe", "miou")] for row in rows])
    mean = values.mean(axis=0)
    cells = [f"{m:.3f} ± {s:.3f}" for m, s in zip(mean, np.abs(values - mean).max(axis=0), strict=True)]
    start = f"| {title} | {rows[0]['macs'] / 1e6:.1f} | {rows[0]['params'] / 1e6:.2f} | {ratio:.2f}x | "
    assert start + " | ".join(cells) + " |" in text(INDEX)


@pytest.mark.slow
def test_comparison_of_samplers_is_that_of_the_rows() -> None:
    rows = json.loads((RESULTS / "builtin_study_a.json").read_text())
    of = {(row["method"], row["seed"]): row for row in rows}
    names = {"laptop": "default (`known-cost`)", "laptop-evolution": "evolution", "laptop-random": "random"}
    for method, name in names.items():
        curves = np.array([of[method, seed]["hypervolume"] for seed in (0, 1, 2)])
        curves = curves[:, np.array((15, 30, 60, 100, 150, 200)) - 1]
        cells = (f"{np.median(c):.2f} ({c.min():.2f} to {c.max():.2f})" for c in curves.T)
        assert f"| {name} | {' | '.join(cells)} |" in words(INDEX)


@pytest.mark.slow
def test_headlines_after_retraining_are_those_of_the_rows() -> None:
    rows = json.loads((RESULTS / "retrained_sample.json").read_text())
    baseline = max((row for row in rows["candidates"] if row["baseline"]), key=lambda row: row["score"])
    candidates = [row for row in rows["candidates"] if not row["baseline"]]
    fast = max((row for row in candidates if row["score"] >= baseline["score"]), key=lambda row: row["ratio"])
    kept, times = sum(row["change"] == "still on it" for row in rows["candidates"]), fast["ratio"] / baseline["ratio"]
    line = f"| 6.80 times (trial 19) | {times:.1f} times (trial {fast['trial']}) | {kept} of 29 |"
    assert line in words(INDEX)
    by_seed = [{(row["scores"][seed], row["ratio"]) for row in candidates} for seed in map(str, rows["seeds"])]
    assert {len(front(list(points))) for points in by_seed} == {21, 22}


@pytest.mark.slow
def test_gains_of_a_loss_are_those_that_the_command_prints_with_their_intervals() -> None:
    lines = printed(search_recipe.report, load_rows(search_recipe.RESULTS))
    rows = [[cell.strip() for cell in line.split("|")] for line in lines]
    gains = {row[1]: row[4:8] for row in rows if len(row) > 7 and row[2] == "0"}
    page = [[cell.strip() for cell in line.split("|")] for line in text(INDEX).splitlines()]
    titles = {"0.002 cosine": "**cosine, 0.002**", "0.004 clipped": "MSE, 0.004, clipped"}
    titles |= {"0.004 cosine": "cosine, 0.004", "0.004 cosine clipped": "cosine, 0.004, clipped"}

    def numbers(cell: str) -> list[float]:
        return [float(part) for part in cell.split(" ± ") if part]

    for recipe, title in titles.items():
        (row,) = [row for row in page if row[1:2] == [title] and "±" in row[2]]
        for published, found in zip(row[2:6], gains[recipe], strict=True):
            assert numbers(published) == pytest.approx(numbers(found), abs=5.5e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_is_that_of_the_published_rows(name: str, tmp_path: Path) -> None:
    PICTURES[name](tmp_path / name)
    drawn, committed = imread(tmp_path / name)[..., :3], imread(DOCS / name)[..., :3]
    assert drawn.shape == committed.shape
    # Other versions of matplotlib move a line by a fraction of a pixel; other rows move many.
    assert np.mean(np.abs(drawn - committed) > 0.5) < 0.01
    pages = [DOCS.parent / "README.md", *DOCS.glob("*.md"), *DOCS.glob("*/*.md")]
    assert any(f"{name})" in page.read_text() for page in pages), "no page shows it"
