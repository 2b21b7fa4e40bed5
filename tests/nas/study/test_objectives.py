"""The objectives of a search: score alone, score and throughput, or more."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from nas.__main__ import main as nas_main
from nas.samplers import make_sampler
from nas.samplers.cost_model import SpaceCostModel
from nas.search.__main__ import main
from nas.search.arguments import parser
from nas.search.settings import new_config
from nas.storage.store import Store, read_study
from nas.study.config import DistillConfig
from nas.study.loop import StudyLoop
from nas.study.objectives import OBJECTIVES, ObjectiveSpec, objectives
from nas.study.pareto import coordinates, front, hypervolume
from nas.study.records import Objective, StudyInfo, TrialState
from nas.validation import ConfigError
from search_space import SPACES, ArchSpec
from tests.nas.study.builders import measurement, record, rung, search_config, study_info

THREE = ("score", "throughput", "params")
MICRO = SPACES["micro"]


def info(names: tuple[str, ...], **settings: object) -> StudyInfo:
    config = search_config(objectives=names, baselines=(), **settings)
    return replace(study_info(config), objectives=objectives(names, "spatial"))


def test_coordinates_are_in_doublings_and_more_is_better() -> None:
    trial = replace(record(0, (0.2, 0.4), 2.0), params=2**20, macs=2**25)
    sought = objectives(("throughput", "score", "latency", "memory", "params", "macs"), "spatial")
    assert coordinates(trial, sought, 1) == (1.0, 0.4, 0.0, -math.log2(10), -20.0, -25.0)
    assert coordinates(trial, sought, 0) == (1.0, 0.2, 0.0, -math.log2(10), -20.0, -25.0)
    assert coordinates(trial, sought, 2) is None
    assert trial.measurement is not None
    blind = replace(trial, measurement=replace(trial.measurement, peak_memory_mib=None))
    assert coordinates(blind, sought, 1) is None


@pytest.mark.parametrize("sampler", ["evolution", "nsga2"])
def test_a_study_of_three_objectives_has_their_front_and_their_hypervolume(tmp_path: Path, sampler: str) -> None:
    about = info(THREE, budget=24, sampler=sampler)
    config = search_config(objectives=THREE, budget=24, sampler=sampler)
    loop = StudyLoop(Store.create(tmp_path, about, make_sampler(config, MICRO, about.objectives)))
    while (trial := loop.next_trial()) is not None:
        draw = int(trial.arch_id[:8], 16)
        known = {"params": 10**5 + draw % 10**5, "macs": 1, "measurement": measurement(1.0 + draw % 7)}
        trial = replace(trial, rungs=(rung(0, draw % 11 / 11),), **known)  # type: ignore[arg-type]
        if loop.report(trial):
            loop.report(replace(trial, rungs=(*trial.rungs, rung(1, draw % 13 / 13)), state=TrialState.COMPLETE))
    done = [t for t in read_study(tmp_path).trials if t.state is TrialState.COMPLETE]
    rows = [(t.rungs[1].score, math.log2(t.measurement.ratio), -math.log2(t.params)) for t in done]  # type: ignore
    behind = [any(all(x >= y for x, y in zip(a, b, strict=True)) and a != b for a in rows) for b in rows]
    assert loop.front_summary() == (behind.count(False), pytest.approx(hypervolume(rows, (0, -3, -math.log2(1e9)))))
    assert sorted(front(rows)) == [i for i, over in enumerate(behind) if not over]
    assert 0 < sum(t.state is TrialState.STOPPED for t in loop.trials.values()) < 24


def test_score_alone_is_a_search_too(tmp_path: Path) -> None:
    about, config = info(("score",), budget=14), search_config(objectives=("score",), budget=14)
    config = replace(config, sampler="known-cost")
    loop = StudyLoop(Store.create(tmp_path, about, make_sampler(config, MICRO, about.objectives)))
    while (trial := loop.next_trial()) is not None:
        trial = replace(trial, params=1, macs=1, measurement=measurement(1.0), rungs=(rung(0, trial.number / 20),))
        if loop.report(trial):
            loop.report(replace(trial, rungs=(*trial.rungs, rung(1, trial.number / 20)), state=TrialState.COMPLETE))
    assert loop.front_summary() == (1, pytest.approx(13 / 20))


def test_a_trial_without_the_value_of_an_untrained_objective_is_infeasible(tmp_path: Path) -> None:
    about = info(("score", "memory"), budget=4)
    config = search_config(objectives=("score", "memory"), budget=4)
    loop = StudyLoop(Store.create(tmp_path, about, make_sampler(config, MICRO, about.objectives)))
    trial = loop.next_trial()
    assert trial is not None
    blind = replace(measurement(1.0), peak_memory_mib=None)
    assert not loop.report(replace(trial, params=1, macs=1, measurement=blind))
    kept = loop.trials[trial.number]
    assert kept.state is TrialState.INFEASIBLE
    assert "peak memory" in (kept.reason or "")


@pytest.mark.parametrize("cost", ["params", "macs"])
def test_known_cost_counts_what_can_be_counted(cost: str) -> None:
    trials = [record(number, (0.1,), 1.0) for number in range(3)]
    cost_model = SpaceCostModel(MICRO, search_config(), cost)
    from nas.measure.counts.totals import totals

    wanted = [-math.log2(getattr(totals(ArchSpec.from_dict(t.spec), 64), cost)) for t in trials]
    costs = cost_model.costs([MICRO.encode(ArchSpec.from_dict(t.spec)) for t in trials], [])
    assert list(costs) == pytest.approx(wanted, abs=0.04), "to 3 %, see derived_totals"


def test_three_objectives_go_to_a_sampler_that_takes_them() -> None:
    options = vars(parser().parse_args(["--objectives", "score, throughput,params"]))
    assert new_config(options).objectives == THREE
    assert new_config(options).sampler == "evolution"
    assert new_config(vars(parser().parse_args([]))).sampler == "known-cost"
    assert new_config(vars(parser().parse_args(["--objectives", "score,latency"]))).sampler == "evolution"


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (["--objectives", "throughput"], "error: --objectives: throughput: needs score"),
        (["--objectives", "score,score"], "error: --objectives: score,score: needs score, and each name only once"),
        (["--objectives", ",".join(THREE), "--sampler", "known-cost"], "known-cost supports score alone, or score"),
        (["--objectives", "score,latency", "--sampler", "known-cost"], "score and one of throughput, params, macs"),
    ],
)
def test_objectives_that_cannot_be_are_refused(flags: list[str], line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(flags) == 2
    assert line in capsys.readouterr().err


@pytest.fixture
def knn(monkeypatch: pytest.MonkeyPatch) -> ObjectiveSpec:
    """An objective of this process whose value a search computes at the last rung."""
    goal = ObjectiveSpec(
        Objective("knn", "", "", 0.0), lambda trial, rung: trial.rungs[rung].metrics.get("knn"), trained=True
    )
    monkeypatch.setitem(OBJECTIVES, "knn", goal)
    return goal


def test_an_objective_of_the_last_rung_needs_a_search_of_one_rung(
    knn: ObjectiveSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = {"objectives": ("score", "knn")}
    line = "--objectives: knn: has a value at the last rung only, so that lower rungs cannot compare candidates by it;"
    with pytest.raises(ConfigError, match=f"^{line} give one rung: --rung-steps 3$"):
        new_config({**named, "rung_steps": (1, 3)})
    assert new_config({**named, "rung_steps": (3,)}).objectives == named["objectives"]
    monkeypatch.setitem(OBJECTIVES, "knn", knn._replace(at_every_rung=True))
    assert new_config({**named, "rung_steps": (1, 3)}).objectives == named["objectives"]


def test_a_trial_that_stops_without_a_value_says_of_which_objective(tmp_path: Path, knn: ObjectiveSpec) -> None:
    names = ("score", "knn")
    recipe = DistillConfig(rung_steps=(1, 3))
    about, config = info(names, distill=recipe), search_config(objectives=names, distill=recipe)
    loop = StudyLoop(Store.create(tmp_path, about, make_sampler(config, MICRO, about.objectives)))
    trial = loop.next_trial()
    assert trial is not None
    assert not loop.report(replace(trial, params=1, macs=1, measurement=measurement(1.0), rungs=(rung(0, 0.5),)))
    assert loop.trials[trial.number].reason == "has no value of knn after 1 step"


@pytest.mark.parametrize("command", ["retrain", "remeasure"])
def test_commands_of_the_plane_refuse_other_fronts(
    tmp_path: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    about = info(("score", "params"))
    config = search_config(objectives=("score", "params"))
    Store.create(tmp_path, about, make_sampler(config, MICRO, about.objectives))
    assert nas_main([command, str(tmp_path)]) == 2
    assert "the study's objectives are score, params" in capsys.readouterr().err
