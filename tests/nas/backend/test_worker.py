"""A study on a real local Ray, in this process: workers that die, and trials of several ranks."""

from __future__ import annotations

import json
import os
import random
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from backbones import build
from nas.backend.ray_tune import open_cluster, run_study
from nas.backend.trial import TrialContext, run_trial
from nas.backend.worker import trial_phases
from nas.backend.worker_spec import WorkerSpec
from nas.cache import open_targets
from nas.cache.targets import Targets
from nas.distill.folded_heads import load_heads
from nas.distill.rungs import Checkpoint, TrainingContext
from nas.distill.trainer import Distiller
from nas.measure.service import MeasurementService
from nas.samplers import make_sampler
from nas.storage.store import Store
from nas.study.config import DistillConfig
from nas.study.failures import Failure
from nas.study.loop import StudyLoop
from nas.study.records import TrialRecord, TrialState
from nas.teachers import TeacherError
from search_space import SPACES, ArchSpec
from tests.nas.backend.sockets import is_loopback, listening_addresses
from tests.nas.study.builders import OBJECTIVES, measurement, search_config, study_info

pytestmark = [pytest.mark.machine, pytest.mark.ray]

RECIPE = DistillConfig(img_size=64, batch_size=8, warmup_steps=2, precision="fp32", rung_steps=(6, 12))
FOLDERS = ("lock_dir", "samples_dir", "weights_dir", "pictures_dir", "checkpoint_dir")


@pytest.fixture(scope="module")
def targets(tmp_path_factory: pytest.TempPathFactory) -> Targets:
    root = tmp_path_factory.mktemp("cache")
    try:
        return open_targets("builtin", "xfeat", root=root, train_images=24, val_images=8, image_px=64, grid=4, seed=0)
    except TeacherError as error:
        pytest.skip(f"no teacher weights: {error}")


def study_of_one(
    folder: Path,
    targets: Targets,
    recipe: DistillConfig,
    phases: Callable[[TrialRecord, WorkerSpec], Iterator[TrialRecord]] = trial_phases,
) -> TrialRecord:
    """Run a study of one trial in `folder`, with a checkpoint every few steps, and return the trial."""
    settings = {"train_images": 24, "val_images": 8, "measure_seconds": 0.05, "baselines": (), "teachers": "xfeat"}
    config = search_config(budget=1, distill=recipe, **settings)
    for name in FOLDERS:
        (folder / name).mkdir()
    spec = WorkerSpec(
        config=json.dumps(config.to_dict()),
        targets_dir=str(targets.path),
        **{name: str(folder / name) for name in FOLDERS},  # type: ignore[arg-type]
        train_threads=1,
        measure_threads=1,
        checkpoint_s=0,
    )
    store = Store.create(
        folder / "run", study_info(config), make_sampler(search_config(sampler="random"), SPACES["micro"], OBJECTIVES)
    )
    with open_cluster(spec, 1) as cluster:
        run_study(StudyLoop(store), cluster, phases=phases)
    (trial,) = store.trials()
    return trial


def losses_of_an_undisturbed_training(trial: TrialRecord, targets: Targets) -> list[dict[str, float]]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    run = Distiller(build(ArchSpec.from_dict(trial.spec)), targets, RECIPE, seed=0)
    losses = []
    for since, steps in zip((0, *RECIPE.rung_steps), RECIPE.rung_steps, strict=False):
        run.train_until(steps)
        losses.append(run.mean_losses(since))
    run.close()
    torch.set_num_threads(threads)
    return losses


def killed_after_its_checkpoint(record: TrialRecord, spec: WorkerSpec) -> Iterator[TrialRecord]:
    """Yield the real phases in a worker that is killed once; its checkpoint has 1000 s of training more."""
    save = Checkpoint.save

    def save_and_die(checkpoint: Checkpoint, content: dict[str, Any]) -> None:
        save(checkpoint, {**content, "busy_s": content["busy_s"] + 1000.0})
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.MonkeyPatch.context() as patch:
        if record.tries == 1:
            patch.setattr(Checkpoint, "save", save_and_die)
        yield from trial_phases(record, spec)


def test_a_killed_worker_is_started_again_and_continues_in_the_middle_of_the_rung(
    tmp_path: Path, targets: Targets
) -> None:
    trial = study_of_one(tmp_path, targets, RECIPE, killed_after_its_checkpoint)
    assert trial.state is TrialState.COMPLETE, trial.reason
    assert (trial.tries, trial.failure) == (2, Failure.LOST_WORKER)
    assert sum(rung.seconds for rung in trial.rungs) > 1000, "it started again"
    assert [rung.losses for rung in trial.rungs] == losses_of_an_undisturbed_training(trial, targets)
    assert not list((tmp_path / "checkpoint_dir").iterdir())
    heads = load_heads(tmp_path / "weights_dir" / f"{trial.arch_id}.heads.safetensors")
    assert {a.stride for a in heads.values()} == {build(ArchSpec.from_dict(trial.spec)).spatial_stride}


def test_a_loss_that_is_not_finite_is_a_failure_of_that_kind(tmp_path: Path, targets: Targets) -> None:
    wild = replace(RECIPE)
    object.__setattr__(wild, "learning_rate", 1e30)  # beyond the range that a search accepts
    spec = SPACES["micro"].sample(random.Random(0))
    asked = TrialRecord(0, spec.arch_id, spec.to_dict(), TrialState.RUNNING, measurement=measurement(1.0))
    folders = {name: tmp_path / name for name in FOLDERS}
    config = search_config(budget=1, distill=wild, train_images=24, val_images=8, teachers="xfeat")
    samples_dir = folders.pop("samples_dir")
    with MeasurementService(threads=1) as service:
        training = TrainingContext(config=config, targets=targets, **folders)
        *_, last = run_trial(asked, TrialContext(training, service, samples_dir))
    assert (last.state, last.failure) == (TrialState.FAILED, Failure.NOT_FINITE)
    assert "not finite" in (last.reason or "")


@pytest.mark.slow
def test_a_trial_of_two_ranks_ends_like_any_other_and_nothing_listens_to_the_network(
    tmp_path: Path, targets: Targets
) -> None:
    before, opened, over = listening_addresses(), set[str](), threading.Event()

    def watch() -> None:
        while not over.wait(0.05):
            opened.update(listening_addresses() - before)

    threading.Thread(target=watch, daemon=True).start()
    trial = study_of_one(tmp_path, targets, DistillConfig(**{**vars(RECIPE), "ranks": 2}))
    over.set()
    assert trial.state is TrialState.COMPLETE, trial.reason
    assert opened
    assert all(is_loopback(address) for address in opened)
    assert [rung.steps for rung in trial.rungs] == [6, 12]
    assert trial.measurement is not None
    assert (tmp_path / "weights_dir" / f"{trial.arch_id}.safetensors").is_file()
    assert not list((tmp_path / "checkpoint_dir").iterdir())
