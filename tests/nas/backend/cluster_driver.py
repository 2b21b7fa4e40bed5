"""Drive a small study on a cluster, in a process of its own: python -m tests.nas.backend.cluster_driver SETTINGS.

SETTINGS is JSON: "run", "targets", "address", "budget", "steps" of the rungs, and whether the results are "made_up".
Every start and end of a trial in a worker is a line of RUN/journal: architecture, try, Ray's node, process, event. The
driver adds a line "stored" for each finished trial.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray

from nas.backend.ray_tune import open_cluster, run_study
from nas.backend.worker import trial_phases
from nas.backend.worker_spec import WorkerSpec
from nas.cli import report_error
from nas.distill.rungs import Checkpoint
from nas.measure.environment import environment
from nas.samplers import make_sampler
from nas.storage.location import STUDY_FILE
from nas.storage.store import Store
from nas.study.compatibility import recorded_device_kind
from nas.study.config import DistillConfig
from nas.study.failures import Failure
from nas.study.loop import StudyLoop
from nas.study.records import TrialRecord, TrialState
from search_space import SPACES
from tests.nas.backend.journal import nodes_of
from tests.nas.study.builders import OBJECTIVES, measurement, rung, search_config, study_info
from tests.waiting import until

FOLDERS = ("samples_dir", "weights_dir", "pictures_dir", "checkpoint_dir")


def journal(run: Path, record: TrialRecord, event: str) -> None:
    """Append a line to the journal at once."""
    words = [record.arch_id, record.tries, ray.get_runtime_context().get_node_id(), os.getpid(), event]
    with (run / "journal").open("a") as file:
        file.write(" ".join(map(str, words)) + "\n")


def journaled_phases(record: TrialRecord, spec: WorkerSpec) -> Iterator[TrialRecord]:
    """Yield the real phases, with a journal.

    On a node with STAND_STILL, a worker stands still after its first checkpoint, which has 1000 s of training more.
    """

    def save_and_stand_still(checkpoint: Checkpoint, content: dict[str, Any]) -> None:
        save(checkpoint, {**content, "busy_s": content["busy_s"] + 1000.0})
        signal.pause()

    save = Checkpoint.save
    if "STAND_STILL" in os.environ:
        Checkpoint.save = save_and_stand_still  # type: ignore[method-assign]
    journal(Path(spec.samples_dir).parent, record, "begins")
    for reached in trial_phases(record, spec):
        if reached.state is not TrialState.RUNNING:
            journal(Path(spec.samples_dir).parent, record, reached.state)
        yield reached


def made_up_phases(record: TrialRecord, spec: WorkerSpec) -> Iterator[TrialRecord]:
    """Yield made-up records, after a second and without training.

    All fail on a node with the variable STALE_HANDLE. On one with AWAIT_NODES, a trial waits until trials have begun on
    that many nodes: the first worker of the other may start later than short trials end.
    """
    run = Path(spec.samples_dir).parent
    journal(run, record, "begins")
    if "STALE_HANDLE" in os.environ:
        yield replace(record, state=TrialState.FAILED, failure=Failure.ERROR, reason="OSError: Stale file handle")
        return
    awaited = int(os.environ.get("AWAIT_NODES", 0))
    until(lambda: len(nodes_of(run)) >= awaited)
    time.sleep(1)
    record = replace(record, measurement=measurement(1.0))
    yield record
    yield replace(record, rungs=(rung(0, 0.5),), state=TrialState.COMPLETE)


def drive(settings: dict[str, Any]) -> None:
    """Run a new or an existing study to its end."""
    run = Path(settings["run"])
    recipe = DistillConfig(
        img_size=64, batch_size=8, warmup_steps=2, precision="fp32", rung_steps=tuple(settings["steps"])
    )
    small = {"train_images": 24, "val_images": 8, "measure_seconds": 0.05, "baselines": (), "teachers": "xfeat"}
    config = search_config(budget=settings["budget"], distill=recipe, sampler="random", **small)
    sampler = make_sampler(search_config(sampler="random"), SPACES["micro"], OBJECTIVES)
    if (run / STUDY_FILE).exists():
        store = Store.open(run, sampler)
    else:
        store = Store.create(run, replace(study_info(config), environment=environment("cpu")), sampler)
    for name in FOLDERS:
        (run / name).mkdir(exist_ok=True)
    spec = WorkerSpec(
        config=json.dumps(config.to_dict()),
        targets_dir=settings["targets"],
        train_threads=1,
        measure_threads=1,
        checkpoint_s=0,
        **{name: str(run / name) for name in FOLDERS},
    )
    phases = made_up_phases if settings["made_up"] else journaled_phases

    def stored(loop: StudyLoop, record: TrialRecord) -> None:
        if record.state is not TrialState.RUNNING:
            journal(run, record, "stored")

    kind = recorded_device_kind(store.info.environment)
    with open_cluster(spec, None, address=settings["address"], study_device=kind) as cluster:
        run_study(StudyLoop(store, stored), cluster, phases=phases)


if __name__ == "__main__":
    try:
        drive(json.loads(sys.argv[1]))
    except ValueError as error:
        print(f"error: {error}")
        sys.exit(report_error(error))
