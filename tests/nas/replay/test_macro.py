"""NAS-Bench-Macro: its space, its table, the noise of its trainings, and samplers with the knowledge of known-cost."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nas.remeasure.__main__ import main as remeasure
from nas.replay import command
from nas.replay.__main__ import main
from nas.replay.arguments import ReplaySettings
from nas.replay.informed import FeatureSpaceSampler
from nas.replay.nasbenchmacro import BLOCKS, LAYERS, NETWORKS, MacroNetwork, load_macro
from nas.replay.published_study import (
    ReplayJob,
    hypervolume_shares,
    replay_config,
    replay_sampler,
    replay_study,
    run_job,
)
from nas.replay.published_table import PublishedTable
from nas.retrain.__main__ import main as retrain
from nas.samplers import control
from nas.select.__main__ import main as select
from nas.storage.store import read_study
from nas.validation import ConfigError
from search_space import SpecError
from tests.nas.data.builders import SHARED

PUBLISHED = SHARED / "nasbenchmacro" / "cifar10.csv"


def row(network: MacroNetwork, rng: random.Random) -> str:
    """Return a line of a table whose accuracy grows with the blocks, most with those of the last stage."""
    digits = [int(digit) for digit in network.digits]
    macs = 7e6 + sum(digit * 5e6 for digit in digits)
    accuracy = 85 + sum(digit * (1 + layer) for layer, digit in enumerate(digits)) / 10
    trainings = ",".join(f"{accuracy + rng.gauss(0, 0.2):.3f}" for _ in range(3))
    return f"{network.arch_id},{trainings},{round(macs / 50)},{round(macs)}"


@pytest.fixture(scope="module")
def table_csv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path, rng = tmp_path_factory.mktemp("macro") / "macro.csv", random.Random(0)
    rows = [row(network, rng) for network in NETWORKS.architectures]
    rng.shuffle(rows)
    path.write_text("arch,accuracy_0,accuracy_1,accuracy_2,params,macs\n" + "\n".join(rows))
    return path


@pytest.fixture(scope="module")
def table(table_csv: Path) -> PublishedTable:
    return load_macro(str(table_csv))


def test_networks_that_compute_the_same_are_one() -> None:
    assert MacroNetwork("00001022") == MacroNetwork("00010022") != MacroNetwork("00100022")
    assert MacroNetwork("01000000") != MacroNetwork("10000000"), "the first layer of a stage is no shortcut"
    assert len({n.arch_id for n in NETWORKS.architectures}) == NETWORKS.count() == 3969
    drawn = NETWORKS.sample(random.Random(0))
    assert NETWORKS.decode(NETWORKS.encode(drawn)) == drawn
    assert NETWORKS.parse(json.loads(json.dumps(drawn.to_dict()))) == drawn
    with pytest.raises(SpecError, match="layer1"):
        NETWORKS.decode(dict.fromkeys(LAYERS, "mbconv_k9"))
    rng = random.Random(1)
    assert all(NETWORKS.mutate(drawn, rng) != drawn for _ in range(100))


def test_sizes_are_expansions_and_depths() -> None:
    found = MacroNetwork("02100000").log_sizes()
    assert 2 ** np.array(found) == pytest.approx([1, 7, 4, 1, 1, 1, 1, 1, 2, 2, 1])


def test_an_evaluation_draws_one_training_and_shares_are_of_the_mean(table: PublishedTable, table_csv: Path) -> None:
    assert table.trainings.shape == (3969, 3)
    sampler = replay_sampler("random", table, 0, ())
    drawn = {}
    for seed in (0, 1):
        folder = table_csv.parent / str(seed)
        drawn[seed] = {
            t.arch_id: t.rungs[0].score
            for t in replay_study(table, replay_config(table, "random", seed, 30), sampler, folder)
        }
        for arch_id, score in drawn[seed].items():
            assert score in table.trainings[table.positions[arch_id]]
    assert drawn[0].keys() == drawn[1].keys()
    assert 5 < sum(drawn[0][name] != drawn[1][name] for name in drawn[0]) < 30


def test_shares_are_by_the_mean_accuracy(table: PublishedTable, table_csv: Path, tmp_path: Path) -> None:
    settings = ReplaySettings(bench="macro", table_file=str(table_csv), budget=25)
    result = run_job(ReplayJob(settings, "random", seed=0, run_dir=tmp_path / "a"))
    trials = sorted(read_study(tmp_path / "a").trials, key=lambda t: t.finished_s or 0.0)
    rows = [table.positions[t.arch_id] for t in trials if t.counts]
    whole = hypervolume_shares(table.accuracy, table.costs, table.reference, 1.0)[-1]
    expected = hypervolume_shares(table.accuracy[rows], table.costs[rows], table.reference, whole)
    assert result.shares == pytest.approx(expected)
    assert (result.front_shares <= result.shares + 1e-12).all()
    assert all(t.macs == round(1e6 * table.costs[i]) for t, i in zip(trials, rows, strict=True))


def test_the_front_of_a_search_is_by_what_it_saw() -> None:
    """The second looks better than it is and takes the place of the first."""
    shares = hypervolume_shares([90.0, 89.0], [1.0, 1.0], (85.0, 2.0), 1.0, drawn=[90.0, 91.0])
    assert list(shares) == [5.0, 4.0]


def test_known_cost_uses_sizes(table: PublishedTable, tmp_path: Path) -> None:
    found = {}
    for sources in (("parameters", "cost", "sizes"), ("parameters", "cost")):
        sampler = replay_sampler("known-cost", table, 0, sources)
        trials = replay_study(table, replay_config(table, "known-cost", 0, 14), sampler, tmp_path / str(len(sources)))
        assert len({t.arch_id for t in trials}) == len(trials) == 14
        found[len(sources)] = [t.arch_id for t in trials]
    assert found[2][:8] == found[3][:8], "the first eight are spread over the cost"
    assert found[2] != found[3]


@pytest.mark.parametrize("name", ["random", "nsga2", "tpe", "gp"])
def test_informed_samplers_repeat_nothing(table: PublishedTable, tmp_path: Path, name: str) -> None:
    budget = 13 if name == "gp" else 45
    sampler = replay_sampler(f"informed-{name}", table, 0, ("parameters", "cost", "sizes"))
    trials = replay_study(table, replay_config(table, name, 0, budget), sampler, tmp_path / "a")
    assert len({t.arch_id for t in trials}) == len(trials) == budget
    assert len(read_study(tmp_path / "a").trials) == budget, "no duplicate was proposed"


def test_informed_samplers_see_features_and_costs(table: PublishedTable, tmp_path: Path) -> None:
    sampler = FeatureSpaceSampler(control("nsga2", 0), table, ("cost",))
    trials = replay_study(table, replay_config(table, "informed-nsga2", 0, 45), sampler, tmp_path / "a")
    inner = [t for t in sampler._inner.trials if t.values is not None]
    assert len(inner) == 44, "all but the last, which is told when the next is asked"
    for trial, seen in zip(trials, inner, strict=False):
        at = table.positions[trial.arch_id]
        assert seen.values == [trial.rungs[-1].score, -table.costs[at]]
        logs = np.log(table.costs)
        assert seen.params["x0"] == pytest.approx((logs[at] - logs.min()) / (logs.max() - logs.min()))
    generations = {t.system_attrs.get("NSGAIISampler:generation") for t in inner}
    assert generations == {0, 1, 2}, "20 trials are a generation"


def test_an_interrupted_replay_of_several_samplers_begins_again(
    table_csv: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, searches = tmp_path / "run", command._run_all
    words = ["macro", "--table", str(table_csv), "--budget", "9", "--seeds", "1", "--jobs", "1", "--json"]
    words += ["--sampler", "informed-random,random", "--run", str(run)]

    def interrupted(*arguments: Any) -> Any:
        searches(*arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(command, "_run_all", interrupted)
        assert main(words) == 130
    assert "interrupted; no study was written; the same command begins again" in capsys.readouterr().err
    assert main(words) == 0
    result = json.loads(capsys.readouterr().out)
    assert list(result["samplers"]) == ["informed-random", "random"]
    assert result["knowledge"] == ["parameters", "cost", "sizes"]
    assert result["trainings"] == 3
    assert len(result["curves"]["random"][0]) == len(result["front_curves"]["random"][0]) == 9
    assert {path.name for path in run.iterdir()} >= {"study.db", "report.html", "replay.png", "replay.json"}
    assert read_study(run).info.name.startswith("run: ")
    assert main(words) == 2, "the study is kept"


def test_a_replay_s_study_is_selected_from_and_has_nothing_to_train_or_measure(
    table: PublishedTable, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its networks are no specs of ours, and their latencies are unknown."""
    sampler = replay_sampler("random", table, 0, ())
    trials = replay_study(table, replay_config(table, "random", 0, 5), sampler, tmp_path / "run")
    assert select([str(tmp_path / "run"), "--json"]) == 0
    best = json.loads(capsys.readouterr().out)["best"]
    assert best["outline"] == best["arch_id"] == max(trials, key=lambda t: t.final_score).arch_id
    assert select([str(tmp_path / "run"), "--max-latency-ms", "1"]) == 1
    assert "of every model, a limited quantity is unknown" in " ".join(capsys.readouterr().out.split())
    for work, nothing in ((retrain, "to train"), (remeasure, "to measure")):
        assert work([str(tmp_path / "run"), "--device", "cpu"]) == 2
        assert f"a replay's study has nothing {nothing}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["macro"], "--table: macro needs it"),
        (["macro", "--table", "none.csv"], "no such file"),
        (["macro", "--table", "CSV", "--knowledge", "structure"], "choose one of: parameters, cost, params, sizes"),
        (["macro", "--table", "CSV", "--dataset", "cifar100"], "macro has one data set only"),
        (
            ["macro", "--table", "CSV", "--sampler", "random,tpe,random", "--seeds", "2", "--budget", "3"],
            "'random' is named twice",
        ),
        (
            ["macro", "--table", "CSV", "--sampler", "informed-random", "--knowledge", "sizes"],
            "--knowledge: informed samplers need a feature (parameters, cost, params)",
        ),
        (
            ["nasbench201", "--sampler", "random,informed-tpe", "--knowledge", "parameters"],
            "--knowledge: informed samplers need a feature (cost, params, structure, proxies)",
        ),
        (["macro", "--table", "SHORT"], "has no positive number for 00000010"),
        (["macro", "--table", "NARROW"], "no column 'macs'"),
        (["macro", "--table", "FRACTIONS"], "--table: no accuracy is above 85 %; accuracies are in %"),
    ],
)
def test_bad_input_is_one_line(
    words: list[str], message: str, table_csv: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    head = "arch,accuracy_0,accuracy_1,accuracy_2,params"
    (tmp_path / "short.csv").write_text(f"{head},macs\n00000000,85,85,85,1,7\n")
    (tmp_path / "narrow.csv").write_text(
        f"{head}\n" + "\n".join(f"{n.arch_id},85,85,85,1" for n in NETWORKS.architectures)
    )
    fractions = "\n".join(f"{n.arch_id},0.9,0.91,0.92,1,{7 + i}" for i, n in enumerate(NETWORKS.architectures))
    (tmp_path / "fractions.csv").write_text(f"{head},macs\n{fractions}")
    paths = {
        "FRACTIONS": tmp_path / "fractions.csv",
        "CSV": table_csv,
        "SHORT": tmp_path / "short.csv",
        "NARROW": tmp_path / "narrow.csv",
    }
    assert main([str(paths.get(word, word)) for word in words] + ["--run", str(tmp_path / "run")]) == 2
    line = capsys.readouterr().err
    assert message in line
    assert line.count("\n") == 1


@pytest.mark.skipif(
    not PUBLISHED.exists(), reason="needs the published table of NAS-Bench-Macro, which is not included"
)
def test_the_published_table_has_one_row_a_network() -> None:
    table = load_macro(str(PUBLISHED))
    assert table.accuracy.max() == pytest.approx(93.13, abs=0.02)
    assert table.costs.max() == pytest.approx(105.66, abs=0.01)
    largest = table.positions[MacroNetwork.of((BLOCKS[2],) * 8).arch_id]
    assert table.costs.argmax() == largest


def test_a_table_without_a_file_is_refused() -> None:
    with pytest.raises(ConfigError, match="--table"):
        load_macro(None)
