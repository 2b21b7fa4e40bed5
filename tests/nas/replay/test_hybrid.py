"""Replays of a table of hybrid backbones: members alone are sampled, and real rungs and timings are drawn."""

from __future__ import annotations

import gzip
import json
import math
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest

from nas.backend.simulated import Doing
from nas.measure.counts import totals
from nas.replay.__main__ import main
from nas.replay.arguments import ReplaySettings
from nas.replay.hybrid import (
    HybridTable,
    hybrid_config,
    load_hybrid,
    replay_search,
    run_hybrid,
    table_phases,
)
from nas.replay.hybrid_rows import TABLE, horizon_table, hybrid_table, read_rows
from nas.replay.members import MemberSpace
from nas.replay.published_study import ReplayJob
from nas.storage.store import read_study
from nas.study.records import REST, Expectation, TrialRecord, TrialState
from nas.study.timing_doubts import CONTENDED, TOO_FEW, timing_doubt
from nas.validation import ConfigError
from reports.dataframe import MEASUREMENT_COLUMNS, TRIAL_COLUMNS, trial_frame
from reports.summary import summarize
from search_space import SPACES, ArchSpec
from tests.nas.analysis.builders import small_study

MEMBERS = 40
LAPTOP = SPACES["laptop"]


def row(spec: ArchSpec, seed: int) -> dict[str, Any]:
    """Return a row whose score grows with the MACs, and whose throughput falls with them."""
    counts, rng = totals(spec, 64), random.Random(f"{spec.arch_id}/{seed}")
    score = math.log2(counts.macs) / 60 + rng.gauss(0, 0.01)
    ratio = 2e7 / counts.macs * 2 ** rng.gauss(0, 0.02)
    return {
        "source": "random", "arch_id": spec.arch_id, "seed": seed, "spec": spec.to_dict(), "state": "complete",
        "macs": counts.macs, "params": counts.params, "scores": [score - 0.3, score - 0.1, score],
        "ratio": [ratio, ratio / 1.01, ratio * 1.01], "img_s": 1000 * ratio, "latency_ms": 16 / ratio, "verdict": "ok",
        "seconds": [2.0, 4.0, 12.0],
    }  # fmt: skip


@pytest.fixture(scope="module")
def table_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    specs = [LAPTOP.sample(random.Random(seed)) for seed in range(MEMBERS)]
    rows = [row(spec, seed) for seed, few in enumerate((specs, specs[:10])) for spec in few]
    rows.append(row(LAPTOP.sample(random.Random(99)), 0) | {"state": "failed", "scores": []})
    path = tmp_path_factory.mktemp("table") / "hybrid_table.json.gz"
    path.write_bytes(gzip.compress(json.dumps(rows).encode()))
    return path


@pytest.fixture(scope="module")
def table(table_file: Path) -> HybridTable:
    return load_hybrid(str(table_file))


def space_of(table: HybridTable) -> MemberSpace:
    assert isinstance(table.space, MemberSpace)
    return table.space


def test_the_table_has_the_trained_architectures_with_all_their_trainings(table: HybridTable) -> None:
    assert table.trainings.shape == (MEMBERS, 2)
    assert np.isfinite(table.trainings).sum() == MEMBERS + 10
    both = table.trainings[:10]
    assert table.accuracy[:10] == pytest.approx(both.mean(axis=1))
    assert table.accuracy[10:] == pytest.approx(table.trainings[10:, 0])
    assert table.rung_steps == (30, 90, 270)


def test_every_way_to_an_architecture_leads_to_a_member(table: HybridTable) -> None:
    space, rng = space_of(table), random.Random(0)
    for _ in range(50):
        a, b = space.sample(rng), space.sample(rng)
        assert space.contains(a)
        assert space.decode(space.encode(a)) == a
        mutant = space.mutate(a, rng)
        assert space.contains(mutant)
        assert mutant != a
        assert space.contains(space.crossover(a, b, rng))
        assert space.contains(space.decode(LAPTOP.encode(LAPTOP.sample(rng))))
    assert space.count() == MEMBERS


def test_a_child_is_a_member_nearest_to_that_of_the_whole_space(table: HybridTable) -> None:
    space = space_of(table)

    def distances(child: ArchSpec, others: list[ArchSpec]) -> list[int]:
        row = np.array(space._row(child))
        return [int((row != np.array(space._row(other))).sum()) for other in others]

    for seed in range(40):
        parent, other = space.members[seed % MEMBERS], space.members[(7 * seed + 1) % MEMBERS]
        mutant = LAPTOP.mutate(parent, random.Random(seed))
        chosen = space.mutate(parent, random.Random(seed))
        nearest = min(distances(mutant, [spec for spec in space.members if spec != parent]))
        assert distances(mutant, [chosen]) == [nearest]
        child = LAPTOP.crossover(parent, other, random.Random(seed))
        chosen = space.crossover(parent, other, random.Random(seed))
        assert distances(child, [chosen]) == [min(distances(child, list(space.members)))]


@pytest.mark.parametrize("verdict", ["ok", "wide", TOO_FEW, CONTENDED])
def test_a_timing_of_the_table_has_the_doubts_of_its_verdict(table: HybridTable, verdict: str) -> None:
    spec = table.architectures[0]
    rows = [dict(table.evaluations[0][0], verdict=verdict, stages_ms={"stem": 2.0, REST: 1.0})]
    config = hybrid_config(table, "random", 0, 1)
    record = TrialRecord(0, spec.arch_id, spec.to_dict(), TrialState.RUNNING)
    first, *_ = table_phases(record, replace(table, evaluations=(tuple(rows), *table.evaluations[1:])), config)
    assert timing_doubt(first.record.measurement) == (verdict if verdict in (TOO_FEW, CONTENDED) else None)
    assert first.record.measurement.stages_s == {"stem": 0.002, REST: 0.001}


@pytest.mark.parametrize("name", ["known-cost", "evolution", "random", "nsga2", "tpe"])
def test_a_replay_evaluates_members_with_scores_of_the_table(name: str, table: HybridTable, tmp_path: Path) -> None:
    trials = replay_search(table, hybrid_config(table, name, 0, 20), tmp_path / name, workers=2)
    assert len({t.arch_id for t in trials}) == len(trials) == 20
    for trial in trials:
        of = table.evaluations[table.positions[trial.arch_id]]
        rungs = [rung.score for rung in trial.rungs]
        assert any(row["scores"][: len(rungs)] == rungs for row in of)
        if trial.measurement is not None:
            assert any(row["ratio"][0] == trial.measurement.ratio for row in of)
    assert {t.state for t in trials} == {TrialState.COMPLETE, TrialState.STOPPED}
    study = read_study(tmp_path / name)
    assert [o.name for o in study.info.objectives] == ["score", "throughput"]
    if name in ("nsga2", "tpe"):  # samplers of optuna, which learn the choices of the members
        kept = optuna.load_study(study_name=None, storage=f"sqlite:///{tmp_path / name}/study.db")
        params = {trial.number: trial.params for trial in kept.get_trials(deepcopy=False)}
        assert [params[t.number] for t in trials] == [LAPTOP.encode(ArchSpec.from_dict(t.spec)) for t in trials]


def test_the_same_seed_draws_the_same(table: HybridTable, table_file: Path, tmp_path: Path) -> None:
    settings = ReplaySettings(bench="hybrid", table_file=str(table_file), budget=15)
    jobs = [ReplayJob(settings, "evolution", seed, tmp_path / str(i)) for i, seed in enumerate((0, 0, 1))]
    first, again, other = (run_hybrid(job, table) for job in jobs)
    assert first.shares.tolist() == again.shares.tolist() != other.shares.tolist()
    assert 0 < first.shares[-1] <= 1
    assert np.all(np.diff(first.front_shares) >= -0.2)


def test_all_members_reach_the_whole_hypervolume(table: HybridTable, table_file: Path, tmp_path: Path) -> None:
    settings = ReplaySettings(bench="hybrid", table_file=str(table_file), budget=200)
    result = run_hybrid(ReplayJob(settings, "random", 0, tmp_path / "a"), table)
    assert len(result.shares) == MEMBERS
    assert result.shares[-1] > 0.9  # some of the front are early-stopped


@pytest.mark.slow
def test_the_command_prints_shares_and_the_training_spent(
    table_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["hybrid", "--table", str(table_file), "--budget", "12", "--seeds", "2", "--sampler", "known-cost,random"]
    assert main([*words, "--run", str(tmp_path / "run"), "--jobs", "1"]) == 0
    printed = capsys.readouterr().out
    assert "full trainings: known-cost" in printed
    result = json.loads((tmp_path / "run" / "replay.json").read_text())
    assert result["rungs"] == 3
    assert (tmp_path / "run" / "replay.png").exists()


def test_a_damaged_or_other_table_is_refused(table_file: Path, tmp_path: Path) -> None:
    whole, rows = table_file.read_bytes(), [row(LAPTOP.sample(random.Random(seed)), 0) for seed in range(3)]
    unscored = gzip.compress(json.dumps([*rows, rows[0] | {"seed": 1, "scores": []}]).encode())
    other = (gzip.compress(content) for content in (b"[1, 2]", b'[{"seed": 0}]', b'{"rows": 1}'))
    path = tmp_path / "damaged.json.gz"
    for damaged in (whole[:-400], whole[:200] + bytes(100) + whole[300:], unscored, *other):
        path.write_bytes(damaged)
        with pytest.raises(ConfigError, match="is not a table"):
            load_hybrid(str(path))
    path.write_bytes(gzip.compress(b"[]"))
    with pytest.raises(ConfigError, match="fewer than two"):
        load_hybrid(str(path))


def test_the_published_table_is_complete_and_small() -> None:
    assert TABLE.stat().st_size < 1_000_000
    frame = hybrid_table()
    assert len(frame) == len(read_rows())
    assert not frame.duplicated(["arch_id", "seed"]).any()
    assert set(frame["state"]) == {"complete"}
    assert frame["seed"].value_counts().to_dict() == {0: 600, 1: 100, 2: 30}
    assert frame["arch_id"].nunique() == 600
    assert (frame["measurement/times_reference_low"] < frame["measurement/times_reference_high"]).all()
    for spec_json, macs, params in frame.drop_duplicates("arch_id")[["spec_json", "macs", "params"]][:40].to_numpy():
        counts = totals(ArchSpec.from_dict(json.loads(spec_json)), 64)
        assert (counts.macs, counts.params) == (macs, params)
    table = load_hybrid()
    best = frame.loc[frame["score"].idxmax()]
    assert table.trainings[table.positions[best["arch_id"]], best["seed"]] == best["score"]


def test_the_published_trainings_of_2700_steps_are_those_of_the_data_sheet() -> None:
    frame = horizon_table()
    assert not frame.duplicated(["arch_id", "seed", "images"]).any()
    many, few = frame[frame["images"] == 30_000], frame[frame["images"] == 3_000]
    assert many["seed"].value_counts().to_dict() == {0: 150, 1: 50, 7: 10, 8: 5, 9: 5, 10: 5, 11: 5}
    assert few["seed"].unique().tolist() == [7]
    second = many[many["seed"] == 1]
    assert (second["source"] == "deep hybrid").value_counts().to_dict() == {False: 34, True: 16}
    both = many[many["seed"] == 0].merge(hybrid_table().query("seed == 0"), on="arch_id")
    assert len(both) == 120
    assert (frame["rung4/score"] == frame["score"]).all()
    assert (many["rung4/score"] > many["rung0/score"]).all()


def test_a_row_has_the_names_of_a_studys_data_frame() -> None:
    study = trial_frame(small := small_study(), summarize(small))
    known = [name for name in hybrid_table() if name not in ("seed", "source")]
    fixed = {*TRIAL_COLUMNS, *MEASUREMENT_COLUMNS}
    assert {name for name in known if name.startswith("measurement/") or "/" not in name} <= fixed
    assert {name for name in known if name.startswith("rung0/")} <= set(study)
    row, frame = read_rows()[0], hybrid_table().iloc[0]
    assert [frame[f"rung{rung}/score"] for rung in range(3)] == row["scores"]
    assert frame["score"] == row["scores"][-1]
    assert frame["measurement/times_reference"] == row["ratio"][0]
    assert frame["score/hed/spatial"] == row["teachers"][-1]["hed"][1]
    assert frame["metric/edge_ap"] == row["metrics"]["edge_ap"]
    assert frame["stage/stem_s"] == pytest.approx(row["stages_ms"]["stem"] / 1e3)


def test_a_trial_is_measured_first_or_after_its_first_rung(table: HybridTable) -> None:
    spec = table.architectures[0]
    config = hybrid_config(table, "known-cost", 0, 1)
    first = TrialRecord(0, spec.arch_id, spec.to_dict(), TrialState.RUNNING)
    late = replace(first, expected=Expectation(0.5, 0.1, 0.1, ratio=1.0))
    for record, rungs in ((first, 0), (late, 1)):
        phases = list(table_phases(record, table, config))
        (measuring,) = [i for i, phase in enumerate(phases) if phase.doing is Doing.MEASURING]
        assert measuring == rungs
        assert phases[measuring].record.measurement is not None
        assert [len(phase.record.rungs) for phase in phases if phase.doing is Doing.TRAINING] == [1, 2, 3]
        assert phases[-1].record.state is TrialState.COMPLETE
