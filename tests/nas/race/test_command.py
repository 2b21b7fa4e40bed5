"""Run races as a user does: real teachers, images, trainings and workers of Ray, killed and continued."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from nas.analysis.evidence import gather_evidence
from nas.analysis.recommendation import recommend
from nas.analysis.trial_choice import SelectionError
from nas.race.__main__ import main
from nas.race.arguments import RaceSettings
from nas.race.plan import plan_race
from nas.race.target_cache import training_file
from nas.storage.store import Store
from nas.study.config import DistillConfig
from nas.study.records import StudyRecord
from tests.exits import exit_of
from tests.nas.analysis.builders import REFERENCE, new_store, small_study
from tests.nas.backend.processes import session
from tests.nas.backend.real_targets import open_real_targets, study_of
from tests.nas.study.builders import search_config
from tests.waiting import PATIENCE_S, until

POINTS = {0: (0.3, 1.0), 1: (0.1, 4.0), 2: (0.29, 2.0), 3: (0.31, 1.5)}  # a baseline, and three candidates
CONFIG = search_config(
    reference=REFERENCE, baselines=(REFERENCE,), train_images=64, val_images=32, teachers="hed", measure_batch_size=2,
    distill=DistillConfig(rung_steps=(2, 4), precision="fp32"),
)  # fmt: skip


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def study(cache: Path) -> StudyRecord:
    """Return synthetic numbers of real architectures, for real teachers and images."""
    info = study_of(open_real_targets(CONFIG, cache), CONFIG)
    return replace(small_study(POINTS), info=info)


def start(run: Path, cache: Path, words: list[str]) -> subprocess.Popen[str]:
    """Start a race, with a checkpoint every few steps."""
    command = [sys.executable, "-m", "nas.race", str(run), "--cache", str(cache), "--json", *words]
    environment = {**os.environ, "BACKBONE_NAS_CHECKPOINT_S": "0"}
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True
    )


def finish(run: Path, cache: Path, words: list[str]) -> dict[str, object]:
    process = start(run, cache, words)
    out, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, errors
    result: dict[str, object] = json.loads(out)
    return result


def until_checkpoints(process: subprocess.Popen[str], run: Path, number: int) -> None:
    """Wait until a race has written so many checkpoints."""
    seen: set[int] = set()

    def written() -> int:
        with suppress(FileNotFoundError):  # a training has ended meanwhile
            seen.update(path.stat().st_mtime_ns for path in run.rglob("*.pt"))
        return len(seen)

    enough = written() + number
    until(lambda: written() >= enough or process.poll() is not None)
    assert process.poll() is None, process.communicate()[1]


@pytest.mark.machine
@pytest.mark.ray
@pytest.mark.slow
def test_a_race_that_is_killed_again_and_again_ends_as_one_that_is_not(
    study: StudyRecord, cache: Path, tmp_path: Path
) -> None:
    words = ["--race-steps", "120", "--fresh-images", "256", "--workers", "1", "--target", "0.2"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    new_store(whole, study)
    new_store(killed, study)
    expected = finish(whole, cache, words)
    for checkpoints in (1, 2, 4):
        process = start(killed, cache, words)
        until_checkpoints(process, killed, checkpoints)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        until(lambda leader=process.pid: not session(leader))  # its workers would write more of them
    assert finish(killed, cache, words) == expected
    scores = [
        {(t.number, t.seed): [rung.score for rung in t.record.rungs] for t in Store.open(run).race_trainings()}
        for run in (whole, killed)
    ]
    assert scores[0] == scores[1], "bit for bit"
    assert len(scores[0]) >= 2


@pytest.mark.machine
@pytest.mark.ray
@pytest.mark.slow
def test_the_targets_training_is_kept_and_a_worker_is_lost(study: StudyRecord, cache: Path, tmp_path: Path) -> None:
    words = ["--race-steps", "200", "--fresh-images", "256", "--workers", "2"]
    for name in ("first", "second"):
        new_store(tmp_path / name, study)
    process = start(tmp_path / "first", cache, words)
    until_checkpoints(process, tmp_path / "first", 1)
    workers = ["pgrep", "--session", str(process.pid), "--full", "^ray::ArchTrainable"]
    (worker, *_) = subprocess.run(workers, capture_output=True, text=True, check=True).stdout.split()
    os.kill(int(worker), signal.SIGKILL)
    out, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, errors
    again = finish(tmp_path / "second", cache, words)
    assert json.loads(out) == again
    with Store.open(tmp_path / "first") as one, Store.open(tmp_path / "second") as two:
        tries = [training.record.tries for training in one.race_trainings()]
        assert max(tries) == 2
        (target,) = (training for training in two.race_trainings() if training.number == 0 and training.seed == 1)
        assert target.record.worker is None, "nobody trained it"
        found = recommend(gather_evidence(*two.read_all()))
    assert found is not None
    assert found.race is None or found.race.best == again["best"]


def test_a_race_is_planned_against_the_best_baseline(study: StudyRecord) -> None:
    plan = plan_race(gather_evidence(study), RaceSettings(Path("run")))
    assert plan is not None
    assert ([entrant.number for entrant in plan.race.faster_first], plan.to_beat) == ([1, 2, 3], REFERENCE)
    assert plan.config.distill.rung_steps == (4, 12, 40)
    assert (plan.config.train_images, plan.length.first_seed) == (445, 1), "32 images a step, 2.88 passes"
    by_score = plan_race(gather_evidence(study), RaceSettings(Path("run"), target="0.7"))
    assert by_score is not None
    assert (by_score.race.baselines, by_score.race.target_score) == ((), 0.7)
    limited = replace(study, info=replace(study.info, limits={"max_params": 1e7}))
    within = plan_race(gather_evidence(limited), RaceSettings(Path("run")))
    assert within is not None
    assert (within.race.baselines, within.race.target_score, len(within.race.entrants)) == ((), None, 3)


def test_a_baseline_that_no_candidate_may_reach_is_no_target_unless_it_is_named(study: StudyRecord) -> None:
    best = replace(study.trials[0], number=9, arch_id="f" * 12, baseline="resnet", rungs=study.trials[0].rungs)
    best = replace(best, rungs=(*best.rungs[:-1], replace(best.rungs[-1], score=0.9)))
    evidence = gather_evidence(replace(study, trials=(*study.trials, best)))
    plan = plan_race(evidence, RaceSettings(Path("run")))
    assert plan is not None
    assert (plan.to_beat, plan.out_of_reach) == (REFERENCE, ("resnet",))
    named = plan_race(evidence, RaceSettings(Path("run"), target="resnet"))
    assert named is not None
    assert (named.to_beat, named.out_of_reach, named.race.outcome({}).may_be_won) == ("resnet", (), False)


def test_without_a_baseline_limits_or_a_target_there_is_nothing_to_race_for(study: StudyRecord, tmp_path: Path) -> None:
    alone = replace(study, trials=tuple(trial for trial in study.trials if not trial.baseline))
    assert plan_race(gather_evidence(alone), RaceSettings(Path("run"))) is None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--target", "resnet"], f"--target: no baseline 'resnet'; name one of: {REFERENCE}, a trial's number, or a"),
        (["--race-steps", "4"], "--race-steps: 4: must be above 4, the steps of the search's last rung"),
        (
            ["--race-by", "depth"],
            "--race-by: 'depth': choose from glyph_retrieval, figure_iou, edge_ap, knn, probe, miou,",
        ),
        (["--race-by", "knn", "--target", "0.7"], "--race-by: needs a baseline or a trial as the target"),
    ],
)
def test_a_wrong_setting_is_one_line_and_changes_nothing(
    study: StudyRecord, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    with new_store(tmp_path / "run", study) as store:
        before = store.read_all()
    assert exit_of(main, [str(tmp_path / "run"), *words]) == 2
    out, err = capsys.readouterr()
    assert (message in err, err.count("\n"), out) == (True, 1, "")
    with Store.open(tmp_path / "run") as store:
        assert store.read_all() == before


def test_candidates_whose_timings_all_are_doubtful_are_not_raced(study: StudyRecord) -> None:
    doubtful = tuple(replace(t, measurement=replace(t.measurement, verdict="contended")) for t in study.trials)  # type: ignore[type-var]
    with pytest.raises(SelectionError, match="timing that can be trusted"):
        plan_race(gather_evidence(replace(study, trials=doubtful)), RaceSettings(Path("run")))


def test_a_targets_training_is_kept_by_its_seed(tmp_path: Path) -> None:
    files = {training_file(tmp_path, replace(CONFIG, seed=seed), "arch", "images", "cpu") for seed in (1, 2)}
    assert len(files) == 2


def test_other_objectives_are_refused(study: StudyRecord, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    info = replace(study.info, objectives=study.info.objectives[:1])
    new_store(tmp_path / "run", replace(study, info=info)).close()
    assert main([str(tmp_path / "run")]) == 2
    assert "it takes score and throughput" in capsys.readouterr().err
