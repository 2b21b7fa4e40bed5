"""Replays on published accuracies, with synthetic latencies."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from nas.remeasure.__main__ import main as remeasure
from nas.replay import command
from nas.replay.__main__ import main
from nas.replay.nasbench201 import CELLS, EDGES, Cell, load_nasbench201
from nas.replay.published_study import (
    hypervolume_shares,
    quantiles,
    replay_config,
    replay_sampler,
    replay_study,
    total_hypervolume,
)
from nas.replay.published_table import PublishedTable
from nas.retrain.__main__ import main as retrain
from nas.select.__main__ import main as select
from nas.storage.store import read_study
from nas.study.pareto import hypervolume
from nas.validation import ConfigError
from search_space import SpecError
from tests.waiting import until

COSTS = {"none": 0.0, "skip_connect": 0.5, "nor_conv_1x1": 2.0, "nor_conv_3x3": 5.0, "avg_pool_3x3": 1.5}


def cell(*operations: str) -> Cell:
    return Cell(tuple(operations))


@pytest.fixture(scope="module")
def latency_csv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("latency") / "lat:ency.csv"
    rows = [f"{c.arch_id},{4 + sum(COSTS[o] for o in c.operations):.3f}" for c in CELLS.architectures]
    random.Random(0).shuffle(rows)
    path.write_text("arch,gpu_ms\n" + "\n".join(rows))
    return path


@pytest.fixture(scope="module")
def table(latency_csv: Path) -> PublishedTable:
    return load_nasbench201("cifar10", f"{latency_csv}:gpu_ms")


def test_cells_go_through_params_and_plain_data() -> None:
    assert len({c.arch_id for c in CELLS.architectures}) == CELLS.count() == 15625
    drawn = CELLS.sample(random.Random(0))
    assert CELLS.decode(CELLS.encode(drawn)) == drawn
    assert CELLS.parse(json.loads(json.dumps(drawn.to_dict()))) == drawn
    assert drawn.arch_id.count("|") == 9
    with pytest.raises(SpecError, match="edge0_1"):
        CELLS.decode(dict.fromkeys(EDGES, "conv_7x7"))


def test_a_mutation_changes_one_or_two_edges() -> None:
    rng = random.Random(0)
    parent = CELLS.sample(rng)
    changed = Counter(
        sum(a != b for a, b in zip(parent.operations, CELLS.mutate(parent, rng).operations, strict=True))
        for _ in range(200)
    )
    assert set(changed) == {1, 2}


def test_structure_counts_edges_on_paths_to_the_output() -> None:
    skip, conv, pool = "skip_connect", "nor_conv_3x3", "avg_pool_3x3"
    # 0->1->3 is alive with two convolutions, 0->3 a skip; 0->2 is alive on no path, for 2->3 is none.
    found = cell(conv, conv, pool, skip, conv, "none").structure()
    assert found == (1.0, 0.0, 2.0, 0.0, 2.0, 2.0, 0.0, 1.0, 2.0, 0.0)
    assert cell(*["none"] * 6).structure() == (0.0,) * 10
    assert cell(conv, "none", pool, "none", "none", conv).structure()[3] == 1.0  # the pool between, on 0->1->2->3


def test_accuracies_are_those_of_the_cells(table: PublishedTable) -> None:
    """Of the published table: the best cell, and that a cell without any path is chance."""
    best = table.architectures[int(np.argmax(table.accuracy))]
    assert table.accuracy.max() == pytest.approx(91.61, abs=0.01)
    assert best.operations.count("nor_conv_3x3") >= 3
    dead = table.architectures.index(cell(*["none"] * 6))
    assert table.accuracy[dead] < 15


def test_share_is_hypervolume_by_evaluations() -> None:
    accuracy, latency, reference = [86.0, 84.0, 90.0, 88.0, -np.inf], [10.0, 1.0, 20.0, 30.0, 2.0], (85.0, 40.0)
    found = hypervolume_shares(accuracy, latency, reference, total=2.0)
    expected = [
        hypervolume([(a, -ms) for a, ms in zip(accuracy[:n], latency[:n], strict=True) if np.isfinite(a)], (85, -40))
        for n in range(1, 6)
    ]
    assert found == pytest.approx(np.array(expected) / 2.0)
    assert total_hypervolume(accuracy[:4], latency[:4], reference) == pytest.approx(expected[3])


def test_the_front_of_a_search_is_by_what_it_saw() -> None:
    """The second looks better than it is and takes the place of the first."""
    shares = hypervolume_shares([90.0, 89.0], [1.0, 1.0], (85.0, 2.0), 1.0, drawn=[90.0, 91.0])
    assert list(shares) == [5.0, 4.0]


def test_quantiles_are_over_seeds() -> None:
    result = quantiles([np.array([0.0, 0.5]), np.array([0.2, 0.7]), np.array([1.0, 0.9, 1.0])])
    assert result == {"evaluations": [1, 2], "median": [0.2, 0.7], "p5": [0.02, 0.52], "p95": [0.92, 0.88]}


def test_known_cost_beats_random_and_repeats_nothing(table: PublishedTable, tmp_path: Path) -> None:
    found = {}
    for name in ("known-cost", "random"):
        sampler = replay_sampler(name, table, 0, ("cost", "structure", "sizes"))
        ended = replay_study(table, replay_config(table, name, 0, 40), sampler, tmp_path / name, workers=4)
        assert len({t.arch_id for t in ended}) == len(ended) == 40
        points = [(t.rungs[-1].score, -t.measurement.latency_ms) for t in ended if t.measurement]
        accuracy, slowest = table.reference
        found[name] = hypervolume(points, (accuracy, -slowest))
    assert found["known-cost"] > 1.1 * found["random"]


def test_clock_is_the_published_training_time(table: PublishedTable, tmp_path: Path) -> None:
    sampler = replay_sampler("random", table, 0, ())
    ended = replay_study(table, replay_config(table, "random", 0, 6), sampler, tmp_path / "a")
    seconds = {c.arch_id: s for c, s in zip(table.architectures, table.train_s, strict=True)}
    assert ended[-1].finished_s == pytest.approx(sum(seconds[t.arch_id] for t in ended))


def test_features_are_standardized(table: PublishedTable) -> None:
    rows = table.features(("cost", "params", "structure"))
    assert rows.shape == (15625, 12)
    assert rows.std(axis=0) == pytest.approx(np.ones(12))


def test_command_leaves_a_report_and_prints_one_object(
    latency_csv: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interrupted, it begins again. Its searches are run here by a thread."""
    run = tmp_path / "run"
    arguments = ["nasbench201", "--latency", f"{latency_csv}:gpu_ms", "--dataset", "cifar100"]
    arguments += ["--sampler", "evolution,random", "--budget", "6", "--seeds", "1", "--json", "--run", str(run)]
    monkeypatch.setattr(command, "ProcessPoolExecutor", lambda *_, **__: ThreadPoolExecutor(1))

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(command, "_run_all", interrupted)
        assert main(arguments) == 130
    capsys.readouterr()
    assert main(arguments) == 0
    result = json.loads(capsys.readouterr().out)
    assert set(result["samplers"]) == {"evolution", "random"}
    assert {name: len(curves) for name, curves in result["curves"].items()} == dict.fromkeys(
        result["samplers"], result["seeds"]
    )
    for curve in result["samplers"].values():
        assert set(curve) == {"evaluations", "median", "p5", "p95"}
        assert curve["evaluations"] == list(range(1, 7))
        assert all(low <= middle <= high for low, middle, high in zip(curve["p5"], curve["median"], curve["p95"]))  # noqa: B905
    assert {path.name for path in run.iterdir()} >= {"study.db", "report.html", "replay.png", "replay.json"}
    assert read_study(run).info.command.startswith("backbone-nas replay nasbench201 --latency ")
    assert main(arguments) == 2
    assert "already holds a study" in capsys.readouterr().err


def test_a_replay_s_study_is_selected_from_and_has_nothing_to_train_or_measure(
    table: PublishedTable, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its cells are no specs of ours."""
    sampler = replay_sampler("random", table, 0, ())
    trials = replay_study(table, replay_config(table, "random", 0, 5), sampler, tmp_path / "run")
    assert select([str(tmp_path / "run"), "--json"]) == 0
    best = json.loads(capsys.readouterr().out)["best"]
    assert best["outline"] == best["arch_id"] == max(trials, key=lambda t: t.final_score).arch_id
    for work, nothing in ((retrain, "to train"), (remeasure, "to measure")):
        assert work([str(tmp_path / "run"), "--device", "cpu"]) == 2
        assert f"a replay's study has nothing {nothing}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nasbench301", "--latency", "CSV:gpu_ms"], "BENCH: 'nasbench301': must be 'nasbench201' or 'hybrid'"),
        (["nasbench201", "--latency", "CSV:gpu_ms", "--sampler", "luck"], "'luck'"),
        (["hybrid", "--sampler", "random,tpe,random"], "'random' is named twice"),
        (["hybrid", "--jobs", "0"], "--jobs"),
        (["hybrid", "--table", "none.json.gz"], "no such file"),
        (["hybrid", "--knowledge", "structure"], "--knowledge: hybrid has no use for it"),
        (["nasbench201"], "--latency"),
        (["nasbench201", "--latency", "missing.csv:a"], "no such file"),
        (["nasbench201", "--latency", "gpu.csv"], "--latency: 'gpu.csv': must be FILE.csv:COLUMN"),
        (["nasbench201", "--latency", "CSV:other"], "no column 'other'"),
        (["nasbench201", "--latency", "CSV:gpu_ms", "--dataset", "mnist"], "'mnist'"),
        (["nasbench201", "--latency", "CSV:gpu_ms", "--knowledge", "luck"], "'luck'"),
        (["nasbench201", "--latency", "CSV:gpu_ms", "--storage", "URL"], "unrecognized arguments: --storage URL"),
    ],
)
def test_bad_input_is_one_line(
    arguments: list[str], message: str, latency_csv: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code: object = main([a.replace("CSV", str(latency_csv)) for a in arguments])
    except SystemExit as ended:  # errors of the parser
        code = ended.code
    assert code == 2
    line = capsys.readouterr().err
    assert message in line
    assert line.count("\n") == 1


def test_a_failure_is_one_line_and_code_1(
    latency_csv: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("no\nmemory")

    monkeypatch.setattr("nas.replay.command.load_nasbench201", fail)
    assert main(["nasbench201", "--latency", f"{latency_csv}:gpu_ms", "--run", str(tmp_path / "run")]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert line.startswith("error: ")


def test_a_table_that_lacks_a_cell_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "short.csv"
    path.write_text(f"arch,ms\n{next(iter(CELLS.architectures)).arch_id},3\n")
    with pytest.raises(ConfigError, match="no positive number for"):
        load_nasbench201("cifar10", f"{path}:ms")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("word", "started"),
    [*product([signal.SIGKILL, signal.SIGTERM], [2]), *product([signal.SIGINT], [1, 2, 3])],
)
def test_a_replay_that_a_signal_ends_leaves_no_process_behind(
    word: signal.Signals, started: int, latency_csv: Path, tmp_path: Path
) -> None:
    """Nor does it wait for its searches, each of which would take hours, nor where it is still starting them."""
    arguments = ["nasbench201", "--latency", f"{latency_csv}:gpu_ms", "--run", str(tmp_path / "run")]
    arguments += ["--budget", "15000", "--seeds", "2", "--sampler", "known-cost"]
    with subprocess.Popen(
        [sys.executable, "-m", "nas.replay", *arguments],
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as command:
        while len(children := _children(command.pid)) < started:  # the resource tracker, then the workers
            assert command.poll() is None
            time.sleep(0.001)
        command.send_signal(word)
    assert command.returncode == (-word if word is signal.SIGKILL else 130)
    until(lambda: not any(Path(f"/proc/{child}").exists() for child in children))


def _children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []
