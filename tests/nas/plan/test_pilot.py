"""The pilot as a user runs it: real trainings, interrupted and continued; and what it makes of recorded ones."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from nas.backend.local_ranks import train_here
from nas.backend.training_rank import TrainingJob
from nas.backend.worker_spec import WorkerSpec
from nas.plan import pilot_trainings
from nas.plan.__main__ import main
from nas.plan.arguments import PlanSettings, parse
from nas.plan.pilot import Pilot, PilotFailed, outcome, pilot_json, run_pilot
from nas.plan.pilot_trainings import (
    FILE_NAME,
    PilotRecord,
    pilot_folder,
    pilot_recipe,
    pilot_trials,
    recorded_settings,
)
from nas.stage_progress import StageProgress
from nas.study.config import SearchConfig
from nas.study.planned_trainings import PlannedTrainings
from nas.study.records import RungResult, TrialRecord, TrialState
from nas.terminal import stderr_console
from tests.exits import exit_of
from tests.nas.backend.processes import children, gone
from tests.nas.backend.real_targets import open_real_targets
from tests.nas.data.builders import png
from tests.nas.study import builders
from tests.waiting import PATIENCE_S, until

WORDS = ["--pilot", "--budget", "9", "--device", "cpu", "--distill", "precision=fp32", "--seed", "3"]
REAL = [*WORDS, "--pilot-models", "6", "--teachers", "hed", "--train-images", "64", "--val-images", "32"]
REAL += ["--rung-steps", "9", "--workers", "2"]


def settings_of(words: Sequence[str]) -> PlanSettings:
    settings = parse(list(words))
    assert settings.pilot
    return settings


def trained(settings: PlanSettings, noise: Sequence[float], lost: int = 0) -> list[TrialRecord]:
    """Models whose scores at each rung are those of the last with some noise; the first are lost."""
    rng = np.random.default_rng(0)
    trials = []
    for trial in pilot_trials(settings.config, settings.pilot_models):
        if trial.number < lost:
            trials.append(replace(trial, state=TrialState.FAILED, reason="no memory"))
            continue
        final = 0.3 + 0.02 * trial.number
        rungs = tuple(
            RungResult(i, steps, final + size * rng.standard_normal(), {}, {}, {}, 0.1 * steps)
            for i, (steps, size) in enumerate(zip(pilot_recipe(settings.config).rung_steps, noise, strict=True))
        )
        trials.append(replace(trial, state=TrialState.COMPLETE, rungs=rungs))
    return trials


def write_pilot(folder: Path, settings: PlanSettings, trials: Sequence[TrialRecord]) -> None:
    """Write what a pilot keeps."""
    folder.mkdir()
    record = PilotRecord(recorded_settings(settings.config), "fp32", "of no targets", tuple(trials))
    (folder / FILE_NAME).write_text(json.dumps(record.to_dict()))


def draw_from_few(patch: pytest.MonkeyPatch) -> None:
    """Choose a pilot's models from 64 architectures in place of 256, whose costs take seconds to count."""
    patch.setattr(pilot_trainings, "_POOL", 64)


@pytest.fixture(autouse=True)
def few(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if not request.node.get_closest_marker("slow"):  # these start the command in other processes, too
        draw_from_few(monkeypatch)


@pytest.fixture(scope="module")
def pilot(tmp_path_factory: pytest.TempPathFactory) -> Pilot:
    """What twelve recorded models tell, whose order is nearly that of the end from the third rung on."""
    folder = tmp_path_factory.mktemp("pilot") / "run"
    settings = settings_of([*WORDS, "--run", str(folder), "--val-images", "64"])
    with pytest.MonkeyPatch.context() as patch:
        draw_from_few(patch)
        write_pilot(folder, settings, trained(settings, noise=(1.0, 1.0, 0.01, 0.01, 0.0, 0.0)))
        return run_pilot(settings, "backbone-nas plan --pilot", StageProgress(stderr_console()))


def test_recorded_models_propose_rungs(pilot: Pilot) -> None:
    assert pilot.rungs == (17, 30, 52, 90, 156, 270)
    assert pilot.first is pilot.evidence[2]
    assert pilot.proposal == (52, 270)
    assert pilot.flags == "--rung-steps 52,270"
    assert [rung.ladder for rung in pilot.evidence] == [
        (17, 52, 270), (30, 90, 270), (52, 270), (90, 270), (156, 270),
    ]  # fmt: skip


def test_images_that_cannot_be_decoded_are_no_images_to_train_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The search refuses them too, after the cache tells how many there are."""
    (tmp_path / "images").mkdir()
    for i in range(120):
        (tmp_path / "images" / f"{i:03}.png").write_bytes(png(i) if i < 24 else b"no image")
    words = [*WORDS, "--data", f"imagefolder:{tmp_path}/images", "--teachers", "xfeat", "--rung-steps", "9"]
    words += ["--teacher-precision", "fp32"]  # in bf16, gray images have the same features
    words += ["--train-images", "80", "--val-images", "20", "--cache", str(tmp_path / "cache")]
    assert main([*words, "--pilot-models", "6", "--run", str(tmp_path / "run")]) == 2
    assert "images to train on; a training batch takes 32" in capsys.readouterr().err
    assert not (tmp_path / "run" / FILE_NAME).exists()


def test_no_order_before_the_end_proposes_to_train_all_to_the_end(tmp_path: Path) -> None:
    settings = settings_of([*WORDS, "--run", str(tmp_path / "run")])
    found = outcome(settings, trained(settings, noise=(1.0, 1.0, 1.0, 1.0, 1.0, 0.0), lost=2))
    assert found.first is None
    assert found.proposal == (270,)
    assert len(found.trainings) == 10
    assert any("2 of 12 models failed" in note and "no memory" in note for note in pilot_json(found)["notes"])
    assert "train every candidate to the end" in pilot_json(found)["proposal"]["reason"]


def test_an_order_that_a_later_rung_loses_is_no_order(tmp_path: Path) -> None:
    settings = settings_of([*WORDS, "--run", str(tmp_path / "run")])
    found = outcome(settings, trained(settings, noise=(1.0, 1.0, 0.01, 0.01, 1.0, 0.0)))
    assert [rung.steps for rung in found.evidence if rung.keeps_order] == [52, 90]
    assert found.first is None
    assert "no rung from which on every measured rung" in pilot_json(found)["proposal"]["reason"]


def test_too_few_trained_models_are_a_failure() -> None:
    settings = settings_of(WORDS)
    with pytest.raises(PilotFailed, match=r"only 5 of 12 models could be trained, 6 are needed; .*no memory"):
        outcome(settings, trained(settings, noise=(0.0,) * 6, lost=7))


def test_models_are_spread_over_the_cost_and_more_include_fewer() -> None:
    config = SearchConfig(seed=1)
    many = pilot_trials(config, 12)
    assert [trial.arch_id for trial in pilot_trials(config, 6)] == [trial.arch_id for trial in many[:6]]
    assert len({trial.arch_id for trial in many}) == 12
    costs = [trial.macs or 0 for trial in many]
    middle, lower, upper = costs[:3]
    assert lower < middle < upper
    assert sum(cost < middle for cost in costs) in (5, 6)  # as evenly as 12 can be
    assert sum(cost < lower for cost in costs) in (2, 3)
    assert [trial.arch_id for trial in pilot_trials(replace(config, seed=2), 6)] != [t.arch_id for t in many[:6]]
    limited = pilot_trials(replace(config, limits={"max_params": 1e6}), 6)
    assert all((trial.params or 0) <= 1e6 for trial in limited)


def test_one_folder_for_settings_that_train_alike() -> None:
    plain = pilot_folder(settings_of(WORDS))
    assert plain.name.startswith("pilot-laptop-")
    assert pilot_folder(settings_of([*WORDS, "--budget", "50", "--sampler", "random", "--pilot-models", "20"])) == plain
    assert pilot_folder(settings_of([*WORDS, "--rung-steps", "52,270"])) == plain  # the measured rungs are the same
    others = (["--val-images", "64"], ["--rung-steps", "300"], ["--seed", "4"], ["--distill", "learning_rate=1"])
    for other in (*others, ["--choices", "stage1.widths=8,16"]):
        assert pilot_folder(settings_of([*WORDS, *other])) != plain
    assert pilot_folder(settings_of([*WORDS, "--run", "there"])) == Path("there")


def test_a_pilot_of_other_settings_is_not_continued(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    settings = settings_of([*WORDS, "--run", str(run)])
    write_pilot(run, settings, trained(settings, noise=(0.0,) * 6))
    assert main([*WORDS, "--run", str(run), "--val-images", "99"]) == 2
    line = capsys.readouterr().err.strip()
    assert "val_images: 600 -> 99" in line
    assert "\n" not in line
    (run / FILE_NAME).write_text("{}")
    assert main([*WORDS, "--run", str(run)]) == 2
    assert "not the record of a pilot" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--run", "somewhere"], "--run: only with --pilot"),
        (["--pilot", "--pilot-models", "5"], "--pilot-models: 5: must be"),
        (["--pilot", "--gpus", "8"], "--gpus: does not go with --pilot"),
        (["--pilot", "--rung-steps", "1"], "--rung-steps: 1: a pilot needs"),
        (["--pilot", "--space", "full"], "would train on a laptop's budget"),
        (["--pilot", "--budget", "100000"], "--budget: 100000: a plan simulates 5,000"),
        (["--pilot", "--max-params", "1"], "far below"),
        (["--pilot", "--workers", "1000"], "--workers: 1000: must be at most"),
    ],
)
def test_bad_input_is_one_line(
    arguments: list[str],
    words: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert exit_of(main, arguments) == 2
    captured = capsys.readouterr()
    assert words in captured.err
    assert len(captured.err.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_assumes_a_device_is_a_pilot_of_this_machine(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(
        'device = "cpu"\ntrain_images = 64\n[distill]\nrung_steps = [4, 8]\n'
        '[plan]\nassume_tflops = 9\n[run]\nrun = "r"\n'
    )
    settings = settings_of(["--pilot", "--config", str(tmp_path / "mine.toml")])
    assert settings.config.train_images == 64
    assert settings.run is None  # of the search


WAITING = """# The command, which waits for Ctrl-C when a training is over.
import threading
from nas.plan import pilot_trainings
from nas.plan.__main__ import main

def write_and_wait(folder, record):
    write(folder, record)
    if any(trial.state == "complete" for trial in record.trials):
        threading.Event().wait()

write, pilot_trainings._write = pilot_trainings._write, write_and_wait
raise SystemExit(main())
"""


def start(words: Sequence[str], *program: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *(program or ("-m", "nas.plan")), *words],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "BACKBONE_NAS_CHECKPOINT_S": "0"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored where a shell runs the tests by "&"
    )  # fmt: skip


def complete(folder: Path) -> dict[str, TrialRecord]:
    record = PilotRecord.from_dict(json.loads((folder / FILE_NAME).read_text()))
    return {trial.arch_id: trial for trial in record.trials if trial.state is TrialState.COMPLETE}


@pytest.mark.machine
@pytest.mark.ray
@pytest.mark.slow
def test_interrupted_continued_and_enlarged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, cache = tmp_path / "run", tmp_path / "cache"
    words = [*REAL, "--run", str(run), "--cache", str(cache)]

    # Interrupted after at least one training was over.
    process = start(words, "-c", WAITING)
    until(lambda: ((run / FILE_NAME).exists() and complete(run)) or process.poll() is not None)
    workers = children(process.pid)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130, errors
    assert "the pilot's folder keeps what was trained; run the same command again to continue" in errors
    until(lambda: all(gone(pid) for pid in workers))
    kept = complete(run)
    assert kept

    # To the end, with one model more, as JSON.
    words += ["--pilot-models", "7"]
    process = start([*words, "--json"])
    out, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, errors
    assert "steps trained, of 7 models: 63/63" in errors
    plain = json.loads(out)
    trials = complete(run)
    assert len(trials) == 7
    assert {arch_id: trial for arch_id, trial in trials.items() if arch_id in kept} == kept  # never trained again
    assert plain["measured_rungs"] == [1, 2, 3, 5, 9]
    assert [model["scores"] for model in plain["models"]] == [
        [rung.score for rung in trials[model["arch_id"]].rungs] for model in plain["models"]
    ]
    assert plain["proposal"]["rung_steps"][-1] == 9

    # A search with a rung of its own sees the scores that the pilot measured.
    settings = settings_of(words)
    config = replace(settings.config, distill=replace(settings.config.distill, rung_steps=(5,)))
    (trial, *_) = trials.values()
    job = TrainingJob(replace(trial, rungs=(), state=TrialState.RUNNING), config, tmp_path / "alone")
    (reached,) = train_here(job, open_real_targets(config, cache).path, lambda steps: None, lambda saved: None)
    assert reached.score == pytest.approx(trial.rungs[3].score, abs=1e-5)  # on other numbers of threads

    # Finished trainings are only shown, without a cache.
    capsys.readouterr()
    assert main([*words, "--cache", str(tmp_path / "nowhere")]) == 0
    assert not (tmp_path / "nowhere").exists()
    assert "proposal: --rung-steps" in capsys.readouterr().out
    assert complete(run) == trials


@pytest.mark.parametrize(("gpus", "at_a_time", "ranks"), [("0123", 2, 2), ("0", 1, 1)])
def test_a_pilot_trains_with_the_search_s_ranks_where_there_are_gpus_for_them(
    gpus: str, at_a_time: int, ranks: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The seconds are those of one process, whatever the pilot trains with."""
    reached, opened = builders.rung(0, 0.5), []

    def open_cluster(spec: WorkerSpec, workers: int, announce: object) -> AbstractContextManager[None]:
        opened.append((spec, workers))
        return nullcontext()

    def run_study(loop: PlannedTrainings, cluster: None, advice: str) -> None:
        trial = loop.next_trial()
        assert trial is not None
        loop.report(replace(trial, rungs=(reached,), state=TrialState.COMPLETE))

    monkeypatch.setattr(pilot_trainings, "visible_gpus", lambda: tuple(gpus))
    monkeypatch.setattr("nas.backend.ray_tune.open_cluster", open_cluster)
    monkeypatch.setattr("nas.backend.ray_tune.run_study", run_study)
    settings = settings_of([*WORDS, "--distill", "ranks=2", "--workers", str(len(gpus))])
    settings = replace(settings, config=replace(settings.config, device="cuda"))
    record = PilotRecord(recorded_settings(settings.config), "fp32", "targets")
    targets: Any = SimpleNamespace(path=tmp_path)
    trials, progress = pilot_trials(settings.config, 1), StageProgress(stderr_console())
    record = pilot_trainings._train(tmp_path, settings, record, trials, targets, progress)
    ((spec, workers),) = opened
    recipe = SearchConfig.from_dict(json.loads(spec.config)).distill
    assert workers == at_a_time
    assert (spec.ranks, recipe.ranks, recipe.ranks * recipe.accumulate) == (ranks, ranks, 2)
    assert record.trials[0].rungs[0].seconds == ranks * reached.seconds
    assert recorded_settings(settings.config)["distill"]["ranks"] == 1, "earlier pilots continue"
