"""What the experiments compute, on rows whose answers are known."""

from __future__ import annotations

import json
import random
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from optuna.samplers import BaseSampler

from experiments import first_wave, hybrid_replays, lead_coverage
from experiments.benchmarks import block_cost
from experiments.benchmarks.overhead import LOOP_METHODS, SAMPLER_METHODS
from experiments.cifar10_searches import ROWS as SEARCHES
from experiments.cifar10_searches import updated
from experiments.distillation.network_study import gains
from experiments.distillation.parallel import load_rows, save_rows, train_missing
from experiments.distillation.studied_networks import NECK_STRIDE, STUDIES, BackboneWithNeck, build_studied
from experiments.distillation.teachers import Recipe, taught
from experiments.first_wave import simulated, table
from experiments.help_latencies import checksum, convert
from experiments.hybrid_findings import features, means_over_seeds, predicted, stopping
from experiments.hybrid_replays import first_above, replay
from experiments.hybrid_replays import report as report_of_replays
from experiments.hybrid_table import LAG, OF_A_FRONT, RANDOM, SECOND, SPACE, THIRD, entries, jobs
from experiments.hybrid_timings import report, time_all
from experiments.realized_front import realized
from nas.replay.hybrid_rows import read_rows
from nas.replay.nasbench201 import CELLS as PUBLISHED_CELLS
from nas.replay.published_table import column, read_csv
from nas.study.loop import StudyLoop
from search_space import SPACES
from tests.nas.distill.targets_builder import two_teachers


@pytest.mark.slow
def test_a_block_timed_again_replaces_its_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(block_cost, "RESULTS", tmp_path / "rows.json")
    words = ["--map", "4", "--width", "64", "--batch", "1", "--seconds", "0.2", "--save", "--blocks", "basic"]
    for blocks in (["c2f"], []):
        block_cost.main(words + blocks)
    rows = load_rows(tmp_path / "rows.json")
    assert [row["block"] for row in rows] == ["basic", "c2f"]
    for row in rows:
        assert row["training"][1] < row["training"][0] < row["training"][2]
        assert row["mmacs"] > 0
    # One convolution of 3 x 3 in each half of a basic block of 64 channels on 4 x 4 places, two blocks.
    assert rows[0]["mmacs"] == pytest.approx(2 * 2 * 9 * 64 * 64 * 16 / 1e6, abs=0.05)
    save_rows(tmp_path / "rows.json", [rows[0], {**rows[0], "map": 5}, rows[1]])
    capsys.readouterr()
    block_cost.main(["--report"])
    printed = capsys.readouterr().out
    assert printed.count("time per MAC") == 2 * 2  # two columns of two settings
    assert printed.count("map 4, ") == printed.count("map 5, ") == 1
    assert printed.index("| c2f |") < printed.index("map 5, ")


@pytest.mark.slow
def test_a_wave_of_many_workers_trains_little_more_than_two_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    few, share = simulated(64, 2, seed=0)
    many, share_of_many = simulated(64, 64, seed=0)
    assert few < many < 1.5 * few
    assert 0.9 < share <= 1.01
    assert 0.9 < share_of_many <= 1.01
    monkeypatch.setattr(first_wave, "SEARCHES", ((16, 2),))
    monkeypatch.setattr(first_wave, "SEEDS", 1)
    assert table()[-1].startswith("| 16 | 2 | ")


CELLS = list(PUBLISHED_CELLS.architectures)


@pytest.fixture
def published(tmp_path: Path) -> tuple[Path, dict[str, float]]:
    """A folder as HELP publishes it, in an order of its own, and the latency of each cell."""
    order = [cell.arch_id for cell in CELLS]
    random.Random(0).shuffle(order)
    index = {cell: at for at, cell in enumerate(order)}
    latencies = {cell: 1 + at / 1000 for cell, at in index.items()}
    (tmp_path / "latency").mkdir()
    torch.save(index, tmp_path / "str_arch2idx.pt")
    torch.save([latencies[cell] for cell in order], tmp_path / "latency/gpu_1.pt")
    torch.save(
        torch.tensor([2 * latencies[cell] for cell in order], dtype=torch.float64), tmp_path / "latency/gpu_2.pt"
    )
    return tmp_path, latencies


@pytest.mark.slow
def test_each_cell_has_its_latency_whether_the_file_is_a_list_or_a_tensor(
    published: tuple[Path, dict[str, float]],
) -> None:
    folder, latencies = published
    digests = convert(folder, ["gpu_1", "gpu_2"], folder / "gpu.csv")
    rows = read_csv("--latency", str(folder / "gpu.csv"), "FILE.csv:COLUMN")
    for factor, name in ((1, "gpu_1_ms"), (2, "gpu_2_ms")):
        values = column("--latency", "gpu.csv", rows, name, [cell.arch_id for cell in CELLS])
        assert values == pytest.approx([factor * latencies[cell.arch_id] for cell in CELLS])
    assert digests["gpu_1_ms"] == checksum(latencies) != digests["gpu_2_ms"]


COUNT = 60


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


@pytest.mark.slow
def test_a_front_needs_its_fast_models(rows: list[dict[str, Any]]) -> None:
    left = {(rung, share, rule): (cost, volume) for rung, share, rule, cost, volume in stopping(rows)}
    assert left[30, 1 / 2, "Pareto rank"][1] == pytest.approx(1, abs=1e-3)
    assert left[30, 1 / 2, "score"][1] < 0.9
    assert left[30, 1 / 2, "score"][0] == pytest.approx((30 + 270) / 2 / 270)
    assert left[90, 1 / 10, "Pareto rank"][0] == pytest.approx(0.9 * 90 / 270 + 0.1)


@pytest.mark.slow
def test_effects_of_choices_that_add_up_are_predicted_from_them_alone(rows: list[dict[str, Any]]) -> None:
    inputs = features(rows)
    choices = inputs["choices of the search space"]
    assert set(np.unique(choices)) == {0.0, 1.0}
    scores = choices[:, :20] @ np.linspace(-1, 1, 20)
    errors = {name: np.mean((predicted(of, scores) - scores) ** 2) / scores.var() for name, of in inputs.items()}
    assert errors["choices of the search space"] < 0.5
    assert errors["sizes: log MACs and log parameters, squares and product"] > 0.9


@pytest.mark.slow
def test_a_lead_among_repeated_architectures_needs_a_second_seed(rows: list[dict[str, Any]]) -> None:
    lucky, solid = (
        {**row, "scores": [0.0, 0.0, score], "ratio": [8.0]} for row, score in zip(rows[:2], (0.9, 0.5), strict=True)
    )
    means = means_over_seeds([lucky, solid, {**solid, "seed": 1, "scores": [0.0, 0.0, 0.7]}])
    assert [(row["seeds"], row["scores"]) for row in means] == [(1, [0.9]), (2, [pytest.approx(0.6)])]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shares", "count"), [([0.9, 0.95], 1), ([0.2, 0.9, 0.8, 0.91, 0.95], 4), ([0.9, 0.2], None), ([0.1, 0.95], 2)]
)
def test_a_level_is_reached_where_the_curve_stays_above_it(shares: list[float], count: int | None) -> None:
    assert first_above({"shares": shares}, 0.9) == count


@pytest.mark.slow
def test_a_search_has_its_curves_and_its_steps(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(hybrid_replays, "BUDGET", 12)
    monkeypatch.setattr(hybrid_replays, "SHOWN", (5, 12))
    rows = [replay(name, seed) for name in ("known-cost", "random") for seed in (0, 1)]
    for row in rows:
        assert len(row["shares"]) == len(row["steps"]) == len(row["seconds"]) == 12
        assert 0 < row["shares"][-1] <= 1
        assert row["seconds"] == sorted(row["seconds"])
        assert {b - a for a, b in zip(row["steps"], row["steps"][1:], strict=False)} <= {30, 90, 270}
    assert rows[0]["shares"] != rows[1]["shares"]
    report_of_replays(rows)
    assert "| known-cost | " in capsys.readouterr().out


@pytest.mark.slow
def test_architectures_are_distinct_and_of_the_space() -> None:
    listed = entries()
    assert len({entry.spec.arch_id for entry in listed}) == len(listed) >= 600
    assert all(SPACES[SPACE].contains(entry.spec) for entry in listed if entry.source != "baseline")
    counts = Counter(entry.source for entry in listed)
    assert counts["random"] <= RANDOM
    assert all(count <= OF_A_FRONT for source, count in counts.items() if source.startswith("front of"))
    assert len(counts) == 5


@pytest.mark.slow
def test_a_further_seed_follows_some_architectures_after_the_one_before() -> None:
    listed = jobs()
    place = {(spec.arch_id, seed): i for i, (_, spec, seed) in enumerate(listed)}
    assert all(place[arch, seed] - place[arch, seed - 1] >= LAG for arch, seed in place if seed)
    seeds = [seed for _, _, seed in listed]
    assert Counter(seeds)[1] == SECOND
    assert Counter(seeds)[2] == THIRD
    assert {spec.arch_id for _, spec, seed in jobs() if seed} <= {spec.arch_id for _, spec, seed in jobs() if not seed}


def first_rows(count: int) -> list[dict[str, Any]]:
    return [row for row in read_rows() if row["seed"] == 0][:count]


@pytest.mark.slow
def test_an_architecture_is_timed_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "timings.json.gz"
    for _ in range(2):
        time_all(out, "cpu", "eager", [entries()[0].spec])
    (row,) = load_rows(out)
    assert row["arch_id"] == entries()[0].spec.arch_id
    assert row["ratio"][1] < row["ratio"][0] < row["ratio"][2]
    assert row["img_s"] > 0
    assert capsys.readouterr().out.count("ETA") == 1


@pytest.mark.slow
def test_twice_the_throughput_is_another_ratio_and_the_same_front(capsys: pytest.CaptureFixture[str]) -> None:
    table = first_rows(50)
    report([{"arch_id": row["arch_id"], "ratio": [2 * row["ratio"][0]]} for row in table], table)
    printed = capsys.readouterr().out
    assert "| 2.00 | 2.00 | 2.00 | 1.000 |" in printed
    assert "| the table | this machine | 1.0000 |" in printed
    assert "| this machine | the table | 1.0000 |" in printed


def row(name: str, seed: int, score: float) -> dict[str, Any]:
    scores = [score - 0.2, score - 0.1, score]
    return {"arch": name, "seed": seed, "scores": scores, "metrics": {}, "macs": 106e6, "params": 3e6}


@pytest.mark.slow
def test_families_have_maps_of_the_targets_stride() -> None:
    """Otherwise a score says how large a network's map is, not how good the network."""
    study = STUDIES["backbones"]
    strides = {name: build_studied(network).spatial_stride for name, network in study.networks.items()}
    assert {strides[name] for name in study.families} == {NECK_STRIDE}
    assert {strides[name] for name in study.variants} == {2 * NECK_STRIDE}


@pytest.mark.slow
def test_a_neck_of_timms_networks_reads_the_last_two_maps_at_stride_16() -> None:
    torch.manual_seed(0)
    network, images = BackboneWithNeck("edgenext_xx_small").eval(), torch.randn(2, 3, 96, 96)
    features = network.encode(images)
    own = network.backbone.encode(images)
    assert features.spatial.shape == (2, network.spatial_dim, 6, 6)
    assert own.spatial.shape[2:] == (3, 3)
    torch.testing.assert_close(features.summary, own.summary)
    features.spatial.square().mean().backward()
    shallow, deep = (network.backbone.model.stages[i] for i in (2, 3))
    assert all(any(p.grad is not None and p.grad.any() for p in stage.parameters()) for stage in (shallow, deep))
    assert network.no_weight_decay() <= {name for name, _ in network.named_parameters()}


@pytest.mark.slow
def test_a_gain_is_over_the_width_that_is_as_fast() -> None:
    """Half an octave faster than the reference, half way to a narrower one that is an octave faster."""
    scores = {"E-RADIO": 0.70, "24 channels wide": 0.60, "40 channels wide": 0.75, "no neck": 0.68, "windows of 2": 0.5}
    speeds = {"E-RADIO": 1.0, "24 channels wide": 2.0, "40 channels wide": 0.5, "no neck": 2**0.5, "windows of 2": 4.0}
    rows = [row(name, seed, score + 0.01 * seed) for name, score in scores.items() for seed in (0, 1)]
    timings = [{"arch": name, "ratio": [ratio, ratio, ratio]} for name, ratio in speeds.items()]
    found = gains(STUDIES["ablation"], rows + timings)
    assert found.keys() == {"no neck", "windows of 2"}
    np.testing.assert_allclose(found["no neck"], [0.03, 0.03])
    np.testing.assert_allclose(found["windows of 2"], [0.0, 0.0], atol=1e-12)  # the outer line goes on
    assert gains(STUDIES["ablation"], rows) == {}


@pytest.mark.slow
def test_intervals_of_leads_hold_and_a_baseline_far_off_breaks_them() -> None:
    rng = np.random.default_rng(0)
    candidates, baselines = rng.normal(0.5, 0.002, (25, 3)), rng.normal(0.5, 0.002, (3, 3))
    assert lead_coverage.held(candidates, baselines) == (True, True)
    assert lead_coverage.held(candidates, baselines + np.array([[0.05], [0.0], [0.0]])) == (False, False)


def test_the_timed_methods_exist() -> None:
    assert [name for name in LOOP_METHODS if not callable(getattr(StudyLoop, name, None))] == []
    assert [name for name in SAMPLER_METHODS if not callable(getattr(BaseSampler, name, None))] == []


def job(number: int, folder: Path) -> dict[str, Any]:
    """Leave a mark; the third job fails."""
    (folder / str(number)).touch()
    if number == 2:
        raise RuntimeError("no memory")
    time.sleep(0.05)
    return {"source": "test", "arch_id": str(number), "seed": 0, "scores": [0.5]}


@pytest.mark.slow
def test_after_an_error_what_has_not_begun_never_does(tmp_path: Path) -> None:
    path, marks = tmp_path / "rows.json.gz", tmp_path / "marks"
    marks.mkdir()
    with pytest.raises(RuntimeError, match="no memory"):
        train_missing(job, [(number, marks) for number in range(100)], [], path, 1)
    assert [row["arch_id"] for row in load_rows(path)] == ["0", "1"]
    assert len(list(marks.iterdir())) < 20


def test_the_realized_front_is_worth_what_the_chosen_models_score() -> None:
    """Three models at 4, 2 and 1 times the reference; the reference point is three doublings below it, at score 0."""
    ratios = (2.0, 4.0, 1.0)
    assert realized((0.4, 0.2, 0.6), (0.4, 0.2, 0.6), ratios) == pytest.approx(0.2 + 0.4 + 3 * 0.6)
    # The slowest is thought to be worse than the next: its users take that one.
    assert realized((0.4, 0.2, 0.3), (0.4, 0.2, 0.6), ratios) == pytest.approx(0.2 + 4 * 0.4)


@pytest.mark.slow
def test_rows_of_searches_whose_folders_are_gone_stay(tmp_path: Path) -> None:
    saved = json.loads(SEARCHES.read_text())
    assert updated(saved, tmp_path) == saved


@pytest.mark.slow
def test_a_student_of_few_images_sees_the_first_ones_with_their_targets(tmp_path: Path) -> None:
    every = two_teachers(tmp_path)
    few = taught(every, Recipe(("colour",), images=10)).train
    assert list(few.spatial) == ["colour"]
    for part, whole in ((few.images, every.train.images), (few.summary["colour"], every.train.summary["colour"])):
        np.testing.assert_array_equal(part, whole[:10])
    assert len(few) == len(few.labels) == len(few.masks) == len(few.spatial["colour"]) == 10


@pytest.mark.slow
def test_mixed_targets_are_those_of_other_images_and_stay_together(tmp_path: Path) -> None:
    every = two_teachers(tmp_path)
    mixed = taught(every, Recipe(("colour", "mean"), mixed=True))
    np.testing.assert_array_equal(mixed.train.images, every.train.images)
    np.testing.assert_array_equal(mixed.val.spatial["mean"], every.val.spatial["mean"])
    rows = {row.tobytes(): i for i, row in enumerate(np.asarray(every.train.spatial["colour"]))}
    owners = np.array([rows[row.tobytes()] for row in mixed.train.spatial["colour"]])
    assert len(set(owners)) == len(rows)  # every target has an image; a few crops of the photographs are alike
    assert np.mean(owners == np.arange(len(owners))) < 0.1
    np.testing.assert_array_equal(mixed.train.summary["colour"], np.asarray(every.train.summary["colour"])[owners])
    np.testing.assert_array_equal(mixed.train.spatial["mean"], np.asarray(every.train.spatial["mean"])[owners])
