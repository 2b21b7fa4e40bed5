"""Continue a training before the export: from the saved weights, once, and after an interruption."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from backbones import build, load
from nas.analysis.run_files import trained_weights
from nas.cli import FAILED, StageProgress, stderr_console
from nas.export import continue_training
from nas.export.__main__ import main
from nas.search.config_file import FILE_NAME
from nas.study.config import DistillConfig
from tests.nas.export.builders import CONFIG, SPEC, Made
from tests.waiting import PATIENCE_S, until

WEIGHTS = f"{SPEC.arch_id}.safetensors"


def copy_of(made: Made, folder: Path) -> Path:
    run = folder / "run"
    shutil.copytree(made.run, run, ignore=shutil.ignore_patterns("exports", "continued"))
    return run


def words(run: Path, made: Made, steps: int, *more: str) -> list[str]:
    return [str(run), "--format", "timm", "--extra-steps", str(steps), "--cache", str(made.cache), *more]


def vector(path: Path) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in load(path, SPEC).parameters()])


def test_a_training_continues_from_the_weights_and_runs_once(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = copy_of(made, tmp_path)
    (run / FILE_NAME).write_text(f'[run]\ncache = "{made.cache}"')
    monkeypatch.setenv("BACKBONE_NAS_CACHE", str(tmp_path / "user"))
    assert main(words(run, made, 3)[:-2]) == 0
    assert not (tmp_path / "user").exists(), "the cache that the search recorded is read"
    out, errors = capsys.readouterr()
    assert "trial 1: 3 steps from the search's last rung (4 steps), 1 process\n" in errors
    assert "steps trained: " in errors
    assert "distilled 3 more steps" in out
    exported = run / "exports" / f"{SPEC.arch_id}-timm"
    about = json.loads((exported / "export.json").read_text())
    before, after = about["before"], about["weights"]["result"]
    assert before == made.study.trials[1].rungs[-1].to_dict()
    assert after["steps"] == 4 + 3
    assert set(after["teachers"]) == {"lite0", "xfeat"}
    card = (exported / "README.md").read_text()
    assert f"| exported weights: distilled 3 more steps | 7 | {after['score']:.4f} |" in card
    assert f"| before: the search's last rung | 4 | {before['score']:.4f} |" in card

    start, end = vector(run / "weights" / WEIGHTS), vector(exported / "model.safetensors")
    torch.manual_seed(CONFIG.seed + continue_training.SEED_OFFSET)
    fresh = torch.cat([p.detach().flatten() for p in build(SPEC).parameters()])
    assert 0 < (end - start).norm() < 0.5 * (end - fresh).norm()
    assert not list(run.glob("continued/*/seed-*/checkpoints/*"))

    monkeypatch.setattr(continue_training, "TrainingPool", None)  # a second training would fail
    monkeypatch.setattr("nas.cache.open_recorded_targets", None)
    assert main(words(run, made, 3)) == 0
    assert vector(exported / "model.safetensors").equal(end)


def test_ranks_are_as_many_as_divide_the_batch() -> None:
    def ranks(batch: int, most: int) -> int:
        config = replace(CONFIG, distill=DistillConfig(batch_size=batch, rung_steps=(2,)))
        return continue_training.with_ranks(config, most).distill.ranks

    assert [ranks(*case) for case in ((32, 1), (32, 2), (32, 3), (32, 8), (6, 8), (2, 8))] == [1, 2, 2, 8, 3, 1]


def plan(made: Made, run: Path, steps: int) -> continue_training.ContinuedTraining:
    trial = made.study.trials[1]
    weights = trained_weights(run, made.study, trial, ())
    return continue_training.plan_continued(run, made.study, trial, weights, steps, "cpu")


def test_the_origin_names_the_start(made: Made, tmp_path: Path) -> None:
    for start, words in ((True, "distilled 5 more steps"), (False, "distilled 5 steps")):
        planned = plan(made, made.run, 5)
        job = replace(planned.job, folder=tmp_path / words)
        planned = replace(planned, job=job, start=planned.start if start else None)
        planned.weights.parent.mkdir(parents=True)
        planned.weights.touch()
        planned.result_file.write_text(json.dumps(made.study.trials[1].rungs[-1].to_dict()))
        found = planned.result()
        assert found is not None
        assert found.origin == words


def targets(made: Made) -> Path:
    (found,) = made.cache.glob("set-*.json")
    return found


@pytest.mark.slow
def test_a_failed_training_is_one_line(made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run = copy_of(made, tmp_path)
    (run / "weights" / f"{SPEC.arch_id}.heads.safetensors").unlink()
    assert main(words(run, made, 3)) == FAILED
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: --extra-steps: HeadsError: ")
    assert not (run / "exports").exists()


@pytest.mark.slow
def test_two_processes_train_together(made: Made, tmp_path: Path) -> None:
    alone = plan(made, copy_of(made, tmp_path), 4)
    progress = StageProgress(stderr_console())
    one = continue_training.continue_training(alone, targets(made), progress)
    job = alone.job
    two_ranks = continue_training.with_ranks(job.config, 2)
    both = replace(alone, job=replace(job, config=two_ranks, folder=tmp_path / "two"))
    assert both.ranks == 2
    two = continue_training.continue_training(both, targets(made), progress)
    assert two.result.score == pytest.approx(one.result.score, abs=0.05)
    assert one.weights != two.weights


@pytest.mark.slow
def test_ctrl_c_and_continue(made: Made, tmp_path: Path) -> None:
    run = copy_of(made, tmp_path)
    command = [sys.executable, "-m", "nas.export", *words(run, made, 60)]
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env={**os.environ, "BACKBONE_NAS_CHECKPOINT_S": "0"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    until(lambda: list(run.glob("continued/*/seed-*/checkpoints/*.pt")) or process.poll() is not None)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, errors.splitlines()[-1]) == (130, "interrupted; the same command continues")
    (checkpoint,) = run.glob("continued/*/seed-*/checkpoints/*.pt")
    saved = torch.load(checkpoint, weights_only=True)
    assert saved["content"]["distiller"]["step"] > 0
    saved["content"]["busy_s"] += 1000.0  # marks the continued training
    torch.save(saved, checkpoint)
    assert not (run / "exports").exists()
    assert subprocess.run(command, check=False, timeout=PATIENCE_S).returncode == 0
    about = json.loads((run / "exports" / f"{SPEC.arch_id}-timm" / "export.json").read_text())
    assert about["weights"]["result"]["seconds"] > 1000
    assert about["weights"]["result"]["steps"] == 64
