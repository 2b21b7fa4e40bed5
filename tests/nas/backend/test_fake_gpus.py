"""Which GPUs trials and their ranks get: a real Ray on this machine that counts four GPUs, of which there are none."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch.distributed as dist

from nas.backend import worker
from nas.backend.ray_tune import open_cluster, run_study
from nas.backend.worker_spec import WorkerSpec
from nas.files import atomic_path
from nas.samplers import make_sampler
from nas.storage.store import Store
from nas.study.config import DistillConfig
from nas.study.loop import StudyLoop
from nas.study.records import RungResult, TrialRecord, TrialState
from search_space import SPACES
from tests.nas.study.builders import OBJECTIVES, measurement, rung, search_config, study_info
from tests.waiting import until

pytestmark = [pytest.mark.machine, pytest.mark.ray, pytest.mark.slow]

GPUS = 4
Seen = dict[int, Any]  # by the number of the trial


def note(spec: WorkerSpec, stage: str, number: int, seen: object) -> None:
    """Write down what a trial sees, and wait until all trials have come to this stage."""
    folder = Path(spec.samples_dir)
    with atomic_path(folder / f"{stage}.{number}.json") as unfinished:
        unfinished.write_text(json.dumps(seen))
    until(lambda: len([*folder.glob(f"{stage}.*.json")]) == GPUS // spec.ranks)


def visible_gpus() -> list[str]:
    return os.environ["CUDA_VISIBLE_DEVICES"].split(",")


def phases(record: TrialRecord, spec: WorkerSpec) -> Iterator[TrialRecord]:
    """Measure and train a trial as the product does, but for the work itself."""
    record, result = replace(record, measurement=measurement(1.0)), rung(0, 0.5)
    if record.number < json.loads(spec.config)["budget"]:  # else it stands in for one that failed
        note(spec, "measured", record.number, visible_gpus())
        yield record
        if spec.ranks > 1:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(worker, "_train_rank", rank)
                result = worker.train_in_ranks(spec, record, 0)
    yield replace(record, rungs=(result,), state=TrialState.COMPLETE)


def rank(own: worker._RankOfTrial, send: Callable[[Any], None], should_stop: Callable[[], bool]) -> None:
    """Be the product's rank, on a machine without CUDA, that notes its GPU in place of training there."""
    chosen: list[int] = []

    def train(record: TrialRecord, rung_number: int, context: object) -> RungResult | None:
        seen, gang = (visible_gpus(), chosen[0]), [None] * dist.get_world_size()
        dist.all_gather_object(gang, seen)
        if dist.get_rank() == 0:
            note(own.spec, "trained", record.number, gang)
        dist.barrier()
        return rung(rung_number, 0.5) if dist.get_rank() == 0 else None

    train_rank = worker._train_rank
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("torch.cuda.set_device", chosen.append)
        context = SimpleNamespace(training=SimpleNamespace(config=SimpleNamespace(device="cpu")))
        patch.setattr(worker, "trial_context", lambda spec: context)
        patch.setattr("nas.distill.rungs.train_rank", train)
        train_rank(own, send, should_stop)


def study(folder: Path, ranks: int) -> tuple[Seen, Seen]:
    """Run as many trials as fit at a time, and return what each saw.

    That is the GPUs of the process that measures; and by rank those that it sees, with the number of the one it takes.
    """
    trials = GPUS // ranks
    names = ("targets_dir", "samples_dir", "weights_dir", "pictures_dir", "checkpoint_dir")
    for name in names:
        (folder / name).mkdir()
    config = search_config(
        budget=trials, baselines=(), sampler="random", distill=DistillConfig(rung_steps=(10,), ranks=ranks)
    )
    spec = WorkerSpec(
        json.dumps(config.to_dict()),
        *(str(folder / name) for name in names),
        train_threads=1,
        measure_threads=1,
        gpus=1.0,
    )
    store = Store.create(folder / "run", study_info(config), make_sampler(config, SPACES["micro"], OBJECTIVES))
    with open_cluster(spec, trials) as cluster:
        run_study(StudyLoop(store), cluster, phases=phases)
    assert [trial.reason for trial in store.trials()] == [None] * trials
    seen: dict[str, Seen] = {"measured": {}, "trained": {}}
    for path in (folder / "samples_dir").iterdir():
        stage, number, _ = path.name.split(".")
        seen[stage][int(number)] = json.loads(path.read_text())
    return seen["measured"], seen["trained"]


@pytest.fixture(scope="module", autouse=True)
def _four_gpus() -> Iterator[None]:
    """Let the driver's PyTorch see four GPUs, which Ray counts: by NVML, which some containers lack, it finds none."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("torch.cuda.device_count", lambda: GPUS)
        yield


def test_trials_of_one_rank_have_a_gpu_each(tmp_path: Path) -> None:
    measured, _ = study(tmp_path, ranks=1)
    assert sorted(measured.values()) == [["0"], ["1"], ["2"], ["3"]]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Seen, dict[int, list[str]]]:
    """Return the GPU on which each trial measures, and those on which its two ranks train."""
    measured, trained = study(tmp_path_factory.mktemp("pairs"), ranks=2)
    own = {number: [visible[device] for visible, device in gang] for number, gang in trained.items()}
    return {number: visible[0] for number, visible in measured.items()}, own


def test_each_rank_of_trials_at_the_same_time_has_a_gpu_of_its_own(pairs: tuple[Seen, dict[int, list[str]]]) -> None:
    _, trained = pairs
    assert sorted(gpu for gang in trained.values() for gpu in gang) == ["0", "1", "2", "3"]


def test_a_trial_measures_on_the_gpu_of_its_first_rank(pairs: tuple[Seen, dict[int, list[str]]]) -> None:
    measured, trained = pairs
    assert measured == {number: gang[0] for number, gang in trained.items()}
