"""Run the command as a user does: real teachers and trainings, killed and continued."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from nas.measure.environment import code_digest, versions
from nas.retrain.__main__ import main
from nas.retrain.arguments import RetrainSettings
from nas.retrain.command import begin_retraining
from nas.retrain.retraining_plan import plan_retraining
from nas.search.config_file import FILE_NAME
from nas.storage.store import Store
from nas.study.config import DistillConfig
from nas.study.failures import Failure
from nas.study.planned_trainings import PlannedTrainings
from nas.study.records import Retraining, StudyRecord, TrialRecord, TrialState
from nas.study.training_loop import Job
from tests.exits import exit_of
from tests.nas.analysis.builders import (
    REFERENCE,
    failed,
    new_store,
    remeasured,
    remeasured_for_retraining,
    retrained,
    small_study,
)
from tests.nas.backend.processes import gone, session
from tests.nas.backend.real_targets import open_real_targets, study_of
from tests.nas.study.builders import record, rung, search_config
from tests.waiting import PATIENCE_S, until

POINTS = {0: (0.05, 1.0), 1: (0.1, 4.0), 2: (0.3, 2.0), 3: (0.2, 1.5)}  # the front is 1 and 2
CONFIG = search_config(
    reference=REFERENCE, baselines=(REFERENCE,), train_images=64, val_images=32, teachers="hed", measure_batch_size=2,
    distill=DistillConfig(rung_steps=(2, 4), precision="fp32"),
)  # fmt: skip
STEPS = 12
LENGTH = ["--train-steps", str(STEPS)]
WORDS = [*LENGTH, "--seeds", "2", "--near-misses", "0", "--workers", "2", "--measure-seconds", "0.2"]
STOPPED = len(POINTS)  # number of the trial that early stopping ended


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def study(cache: Path) -> StudyRecord:
    """Return synthetic numbers of real architectures, for real teachers and images."""
    made_up = small_study(POINTS)
    cut = replace(record(len(POINTS), (0.05,), 3.0), state=TrialState.STOPPED, reason="early-stopped")
    info = study_of(open_real_targets(CONFIG, cache), CONFIG)
    return replace(made_up, info=info, trials=(*made_up.trials, cut))


def command(run: Path, cache: Path, words: Sequence[str] = WORDS) -> list[str]:
    return [sys.executable, "-m", "nas.retrain", str(run), *words, "--cache", str(cache)]


def start(run: Path, cache: Path, words: Sequence[str] = WORDS) -> subprocess.Popen[str]:
    """Start the command, with a checkpoint every few steps."""
    environment = {**os.environ, "BACKBONE_NAS_CHECKPOINT_S": "0"}
    return subprocess.Popen(
        command(run, cache, words), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored where a shell runs the tests by "&"
    )  # fmt: skip


def read(run: Path) -> dict[tuple[int, int], Retraining]:
    return {(f.number, f.seed): f for f in Store.open(run).retrainings()}


@pytest.mark.machine
@pytest.mark.ray
@pytest.mark.slow
def test_killed_interrupted_and_continued(study: StudyRecord, cache: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    new_store(run, study)

    # Killed in the middle of a training, after at least one was over.
    words = [*WORDS, "--early-stopped", "1"]
    process = start(run, cache, words)
    checkpoints = run / "retraining" / "12-steps" / "seed-2" / "checkpoints"
    until(lambda: list(checkpoints.glob("*.pt")) or process.poll() is not None)
    workers = session(process.pid) - {process.pid}
    process.kill()
    _, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == -signal.SIGKILL, errors
    assert (
        "models to retrain: front 2, near misses 0, early-stopped 1, baselines 0; each for 12 steps with seeds 1, 2"
        in errors
    )
    assert workers
    until(lambda: all(gone(pid) for pid in workers))  # no worker outlives the command
    kept = read(run)
    assert kept
    (again,) = Store.open(run).remeasurements()
    assert set(again.measurements) == {0, 1, 2, STOPPED}
    (checkpoint, *_) = checkpoints.glob("*.pt")
    saved = torch.load(checkpoint, weights_only=True)
    saved["content"]["busy_s"] += 1000.0  # marks the continued training
    torch.save(saved, checkpoint)

    # Interrupted as soon as it trains again.
    process = start(run, cache, words)
    until(lambda: len(session(process.pid)) > 3 or process.poll() is not None)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130, errors
    assert "run the same command again to continue" in errors
    assert {key: final for key, final in read(run).items() if key in kept} == kept

    # To the end.
    result = subprocess.run(
        [*command(run, cache, words), "--json"], capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert result.returncode == 0, result.stderr
    retrainings = read(run)
    assert {key: final for key, final in retrainings.items() if key in kept} == kept  # never trained again
    assert set(retrainings) == {(number, seed) for number in (1, 2, STOPPED) for seed in (1, 2)}
    assert all([r.steps for r in f.rungs] == [2, 4, STEPS] and f.score is not None for f in retrainings.values())
    assert Store.open(run).remeasurements() == (again,)  # nor measured
    (cut_off,) = (f for f in retrainings.values() if sum(r.seconds for r in f.rungs) > 1000)
    assert (cut_off.seed, study.trials[cut_off.number].arch_id) == (2, checkpoint.stem)
    assert retrainings[1, 1].rungs != retrainings[1, 2].rungs
    assert not list(run.glob("retraining/*/checkpoints/*"))
    assert len(list(run.glob("retraining/12-steps/seed-*/weights/*.safetensors"))) == 2 * 6  # backbones and heads
    assert (run / "retraining.png").stat().st_size > 10_000

    output = json.loads(result.stdout)
    assert {c["trial"]: set(c["scores"]) for c in output["candidates"]} == {n: {"1", "2"} for n in (1, 2, STOPPED)}
    assert sum(c["chance"] for c in output["candidates"]) >= 1
    assert output["scatter"]["degrees"] == 3
    assert [(r["stopped_after"], r["steps"], r["candidates"]) for r in output["early_stopping"]] == [
        (10, 4, 1),
        (10, STEPS, 1),
    ]


def test_finished_retrainings_are_only_shown(
    study: StudyRecord, tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Finished retrainings need neither cache nor device."""
    run = tmp_path / "run"
    store = new_store(run, study)
    store.save_remeasurement(remeasured_for_retraining({n: ratio for n, (_, ratio) in POINTS.items()}))
    for number in (1, 2):
        for final in retrained(number, {1: 0.4 + number / 100, 2: 0.41 + number / 100}, steps=STEPS):
            store.save_retraining(final)
    monkeypatch.setattr("nas.cache.open_study_targets", None)
    assert main([str(run), *WORDS, "--cache", str(tmp_path / "nowhere"), "--plot", str(tmp_path / "p.svg")]) == 0
    out, errors = capsys.readouterr()
    assert "12 steps, seeds 1, 2" in out
    assert "--measure-seconds: no effect, 2 models are timed already; backbone-nas remeasure times again" in errors
    assert f"picture: {tmp_path / 'p.svg'}" in errors


def test_without_a_training_there_is_an_object_and_no_picture(
    study: StudyRecord, tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after Ctrl-C in the first of them."""

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    new_store(tmp_path / "run", study)
    monkeypatch.setattr("nas.cache.open_study_targets", interrupt)
    words = [str(tmp_path / "run"), *WORDS, "--cache", str(cache), "--plot", str(tmp_path / "p.svg")]
    assert main([*words, "--json"]) == 130
    out, errors = capsys.readouterr()
    output = json.loads(out)
    assert (output["steps"], output["candidates"], output["untrained"]) == (STEPS, [], [1, 2])
    assert output["recommendation"].startswith("recommended model: trial 1")
    assert "no picture: no model has both a score of the retraining and a timing" in errors
    assert not (tmp_path / "p.svg").exists()
    assert main(words) == 130
    assert capsys.readouterr().out == ""


def test_other_teachers_are_refused(
    study: StudyRecord, tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]
):
    other = replace(study, info=replace(study.info, teachers={"hed": "another"}))
    new_store(tmp_path / "run", other)
    assert main([str(tmp_path / "run"), *WORDS, "--cache", str(cache)]) == 2
    assert "hed: another -> " in capsys.readouterr().err


@pytest.mark.machine
@pytest.mark.ray
@pytest.mark.slow
def test_a_training_that_fails_is_kept_with_its_reason_and_tried_again(
    study: StudyRecord, tmp_path: Path, cache: Path
) -> None:
    run = tmp_path / "run"
    store = new_store(run, replace(study, trials=study.trials[:2]))
    store.save_remeasurement(remeasured_for_retraining({0: 1.0, 1: 4.0}))
    name = f"{study.trials[1].arch_id}.safetensors"
    blocked = run / "retraining" / "12-steps" / "seed-1" / "weights" / name
    (blocked / "a folder where the file should be").mkdir(parents=True)
    (run / FILE_NAME).write_text(f'[run]\ncache = "{cache}"')
    words = [sys.executable, "-m", "nas.retrain", str(run), *LENGTH, "--seeds", "1", "--workers", "1"]
    environment = os.environ | {"BACKBONE_NAS_CACHE": str(tmp_path / "user")}

    def retrain() -> subprocess.CompletedProcess[str]:
        return subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE_S, check=False, env=environment)

    result = retrain()
    assert result.returncode == 1, result.stderr
    assert not (tmp_path / "user").exists(), "the cache that the search recorded is read"
    assert "trial 1, seed 1: " in result.stderr
    assert result.stderr.splitlines()[-1].startswith("failed trainings: trial 1 with seed 1;")
    (final,) = store.retrainings()
    assert final.score is None
    assert name in (final.reason or "")
    shutil.rmtree(blocked)
    result = retrain()
    assert result.returncode == 0, result.stderr
    (final,) = store.retrainings()
    assert final.reason is None
    assert final.versions == versions() | {"code": code_digest()}
    assert [r.steps for r in final.rungs] == [2, 4, STEPS]


def test_the_command_fails_where_a_training_has_failed(
    study: StudyRecord, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    new_store(tmp_path / "run", study)

    def train_in_vain(store: Store, *_: object) -> None:
        for final in retrained(2, {1: 0.4}, steps=STEPS):
            store.save_retraining(final)
        store.save_retraining(failed(1, 1, "NaN", steps=STEPS))

    monkeypatch.setattr("nas.retrain.command.train_and_measure", train_in_vain)
    assert main([str(tmp_path / "run"), *LENGTH, "--seeds", "1", "--near-misses", "0"]) == 1
    assert "failed trainings: trial 1 with seed 1;" in capsys.readouterr().err


def test_the_studys_own_length_is_possible_and_seeds_are_new(study: StudyRecord) -> None:
    plan = plan_retraining(study, study.trials[1:3], RetrainSettings(Path("run"), seeds=3, train_steps=4, workers=5))
    assert plan.config.distill.rung_steps == (2, 4)
    assert plan.seeds == (1, 2, 3)
    assert CONFIG.seed not in plan.seeds
    assert plan.remaining([]) == [(n, seed) for seed in (1, 2, 3) for n in (1, 2)]
    done = [*retrained(1, {1: 0.5}, steps=4), failed(2, 1, "nan", steps=4), *retrained(2, {2: 0.5}, steps=90)]
    assert plan.remaining(done) == [(2, 1), (1, 2), (2, 2), (1, 3), (2, 3)]
    by_default = plan_retraining(study, study.trials[1:3], RetrainSettings(Path("run")))
    assert by_default.config.distill.rung_steps == (2, 4, 40), "as long as a race"


def test_a_training_is_kept_when_it_ends_and_tried_again_after_a_lost_worker(study: StudyRecord) -> None:
    kept: dict[Job, TrialRecord] = {}
    checkpoints: list[Collection[str]] = []
    loop = PlannedTrainings(study.trials[1:3], [(1, 7), (2, 7)], kept.__setitem__, lambda loop: None)
    loop.clean_up(checkpoints.append)
    assert checkpoints == [{trial.arch_id for trial in study.trials[1:3]}], "an earlier session's"
    first, second = loop.next_trial(), loop.next_trial()
    assert first
    assert second
    assert loop.next_trial() is None
    assert loop.report(replace(first, rungs=(rung(0, 0.1),)))
    loop.report_lost(first.number, Failure.LOST_WORKER, "killed")
    again = loop.next_trial()
    assert again
    assert (again.number, again.tries, again.rungs, kept) == (first.number, 2, (), {})
    done = replace(again, rungs=(rung(0, 0.1), rung(1, 0.2)), state=TrialState.COMPLETE)
    assert not loop.report(done)
    assert not loop.report(replace(second, state=TrialState.FAILED, failure=Failure.NOT_FINITE, reason="NaN"))
    assert loop.finished
    assert (kept[1, 7], kept[2, 7].reason) == (done, "NaN")


def test_baselines_may_have_more_seeds_than_candidates(study: StudyRecord) -> None:
    trials = [replace(study.trials[1], baseline="nano"), study.trials[2]]
    plan = plan_retraining(study, trials, RetrainSettings(Path("run"), seeds=2, baselines=True, baseline_seeds=4))
    assert plan.remaining([]) == [(1, 1), (2, 1), (1, 2), (2, 2), (1, 3), (1, 4)]
    assert plan.total == 6
    with pytest.raises(ValueError, match="baseline-seeds: 2: must be 3 or more"):
        RetrainSettings(Path("run"), baselines=True, baseline_seeds=2)
    with pytest.raises(ValueError, match="baseline-seeds: no baselines are retrained"):
        RetrainSettings(Path("run"), baseline_seeds=4)


@pytest.mark.parametrize(("gpus", "workers", "ranks"), [("01234567", 4, 2), ("012", 1, 2), ("0", 1, 1)])
def test_a_batch_that_the_search_shared_among_gpus_is_shared_again(
    study: StudyRecord, gpus: str, workers: int, ranks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nas.retrain.retraining_plan.visible_gpus", lambda: tuple(gpus))
    monkeypatch.setattr("nas.retrain.retraining_plan.torch_device", lambda name: torch.device("cuda"))
    distill = replace(CONFIG.distill, ranks=2, batch_size=64)
    searched = replace(study, info=replace(study.info, config=replace(CONFIG, distill=distill).to_dict()))
    plan = plan_retraining(searched, study.trials[1:2], RetrainSettings(Path("run")))
    assert (plan.workers, plan.config.distill.ranks) == (workers, ranks)
    assert plan.config.distill.accumulate * ranks == 2
    assert plan.config.distill.batch_size == 64


def test_seeds_after_the_largest_begin_again(study: StudyRecord) -> None:
    config = study.info.config | {"seed": 2**32 - 2}
    largest = replace(study, info=replace(study.info, config=config))
    plan = plan_retraining(largest, study.trials[1:2], RetrainSettings(Path("run"), seeds=3))
    assert plan.seeds == (2**32 - 1, 0, 1)
    assert [seed for _, seed in plan.remaining([])] == list(plan.seeds)


def plan_of(run: Path, capsys: pytest.CaptureFixture[str]) -> tuple[list[int], str]:
    """Return the numbers of the trials that the command retrains, and what it announces."""
    _, plan = begin_retraining(Store.open(run), RetrainSettings(run, near_misses=0), "test")
    return [trial.number for trial in plan.trials], capsys.readouterr().err


def test_the_front_of_the_newest_timings_is_retrained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A disturbed search was timed again; what the retraining itself measures changes the front no more."""
    store = new_store(tmp_path / "run", small_study(POINTS))
    assert plan_of(tmp_path / "run", capsys)[0] == [1, 2]
    store.save_remeasurement(remeasured({1: 1.0, 3: 2.5}, name="quiet"))
    assert plan_of(tmp_path / "run", capsys)[0] == [2, 3]
    store.save_remeasurement(remeasured_for_retraining({2: 2.6, 3: 2.5}))
    assert plan_of(tmp_path / "run", capsys)[0] == [2, 3]


def test_the_front_of_a_later_remeasurement_is_retrained_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It adds to the front from before the retraining, which stays the same."""
    store = new_store(tmp_path / "run", small_study(POINTS))
    store.save_remeasurement(remeasured_for_retraining({1: 4.0, 2: 2.0}))
    store.save_remeasurement(replace(remeasured({1: 1.0, 3: 2.5}, name="quiet"), created="2026-01-02"))
    numbers, announced = plan_of(tmp_path / "run", capsys)
    assert numbers == [1, 2, 3]
    assert "front 2" in announced
    assert "front of newer remeasurements 1" in announced


def test_the_model_that_newer_timings_recommend_is_retrained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = new_store(tmp_path / "run", small_study(POINTS))
    store.save_remeasurement(remeasured_for_retraining({1: 1.4, 2: 1.3}))  # 3 is the fastest of all now
    numbers, announced = plan_of(tmp_path / "run", capsys)
    assert numbers == [1, 2, 3]
    assert "recommended by newer timings 1" in announced


@pytest.mark.slow
@pytest.mark.parametrize("earlier", [{STOPPED: 3.0}, {}])
def test_what_is_measured_again_with_other_settings_includes_earlier_candidates(
    earlier: dict[int, float], study: StudyRecord, tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The study's timings are of another machine; STOPPED is of an earlier command, with --early-stopped.

    An interrupted command may not have timed it.
    """
    run = tmp_path / "run"
    store = new_store(run, replace(study, info=replace(study.info, environment={"torch": "2.0.0"})))
    store.save_remeasurement(remeasured_for_retraining({0: 1.0, 1: 4.0} | earlier))
    for number in (1, 2, STOPPED):
        for final in retrained(number, {1: 0.4, 2: 0.41}, steps=STEPS):
            store.save_retraining(final)
    assert main([str(run), *WORDS, "--cache", str(cache)]) == 0
    error = capsys.readouterr().err
    assert "measuring all models again" in error
    others = f"the versions are not those of the search (torch: 2.0.0 → {torch.__version__})"
    assert f"{others}, so the timings do not decide what is recommended" in error
    (again,) = store.remeasurements()
    assert set(again.measurements) == {0, 1, 2, STOPPED}
    assert again.measurements[STOPPED].ratio != 3.0


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["nowhere"], "no such run folder"),
        (["RUN", "--train-steps", "3"], "--train-steps: 3: must be 4 or more"),
        (["RUN", "--device", "cuda:1"], "--device: 'cuda:1': must be"),
        (["RUN", "--measure-seconds", "0"], "--measure-seconds: 0: must be"),
        (["RUN", "--plot", "nowhere/x.png"], "no such folder 'nowhere'"),
        (["RUN", "--teacher-weights", "hed"], "must be NAME=FILE"),
        (["EMPTY"], "no trial that was measured and trained to its last rung"),
    ],
)
def test_bad_input_is_one_line(
    words: list[str], error: str, study: StudyRecord, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new_store(tmp_path / "run", study)
    stopped = tuple(replace(t, state=TrialState.STOPPED) for t in study.trials)
    new_store(tmp_path / "empty", replace(study, trials=stopped))
    places = {"RUN": str(tmp_path / "run"), "EMPTY": str(tmp_path / "empty")}
    code = exit_of(main, [places.get(word, word) for word in words])
    output = capsys.readouterr().err
    assert code == 2
    assert output.startswith("error: ")
    assert error in output
    assert output.count("\n") == 1
