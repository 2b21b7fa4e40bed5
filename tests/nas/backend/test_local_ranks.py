"""Real trainings in processes of their own: their messages, their ends, the files that they leave."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from nas.backend import local_ranks
from nas.backend.local_ranks import train_here
from nas.backend.training_rank import TrainingFailed, TrainingJob
from nas.backend.worker_spec import recipe_here
from nas.machine import lock_dir
from nas.measure.allocator import MALLOC_SETTINGS
from nas.measure.device_lock import measuring
from nas.study.config import DistillConfig
from nas.study.records import RungResult
from tests.nas.backend.breaking import WORDS, breaking
from tests.nas.backend.processes import blocked_signals, children, gone, trainings
from tests.nas.backend.real_targets import open_real_targets
from tests.nas.measure.networks import needs_small_pages
from tests.nas.study.builders import record, search_config
from tests.waiting import until

CONFIG = search_config(
    train_images=64, val_images=32, teachers="hed", distill=DistillConfig(rung_steps=(2, 4), precision="fp32")
)
ENDLESS = replace(CONFIG, distill=replace(CONFIG.distill, rung_steps=(1_000_000,)))
RANKS = replace(CONFIG, distill=replace(CONFIG.distill, ranks=2))


@pytest.fixture(scope="module")
def targets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return open_real_targets(CONFIG, tmp_path_factory.mktemp("cache")).path


@pytest.fixture(autouse=True)
def own_locks_and_a_checkpoint_every_few_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("BACKBONE_NAS_CHECKPOINT_S", "0")


class Enough(Exception):
    """Ends a training that was watched for long enough."""


class Watched:
    """A training in this process's ranks: what it told, and how it ended."""

    def __init__(self, job: TrainingJob, targets: Path, enough: Callable[[int], bool] = lambda steps: False) -> None:
        self.steps: list[int] = []
        self.rungs: list[RungResult] = []
        self.pids: list[int] = []
        self.saved = False
        self._enough = enough
        with suppress(Enough):
            self.rungs.extend(train_here(job, targets, self._on_steps, self._on_end))

    def _on_steps(self, steps: int) -> None:
        self.steps.append(steps)
        self.pids = trainings(os.getpid())
        if self._enough(steps):
            raise Enough

    def _on_end(self, saved: bool) -> None:
        self.saved = saved


def at_once(steps: int) -> bool:
    return True


@pytest.mark.slow
def test_a_job_tells_steps_and_rungs_and_keeps_its_checkpoint(targets: Path, tmp_path: Path) -> None:
    job = TrainingJob(record(1, (), 1.0), CONFIG, tmp_path / "job")
    job.checkpoint.parent.mkdir(parents=True)
    job.checkpoint.with_name(f"{job.checkpoint.name}.123-abcd.tmp").touch()  # of an earlier process that was killed
    watched = Watched(job, targets)
    assert watched.steps == sorted(watched.steps)
    assert [rung.steps for rung in watched.rungs] == [2, 4]
    assert not watched.saved, "it was not interrupted"
    assert list(job.checkpoint.parent.iterdir()) == [job.checkpoint]
    assert len(list((tmp_path / "job" / "weights").glob("*.safetensors"))) == 2  # backbone and heads


def test_a_killed_training_has_a_reason_and_continues_from_its_checkpoint(
    targets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = TrainingJob(record(1, (), 1.0), ENDLESS, tmp_path / "job")
    killed_at = 0

    def kill(steps: int) -> bool:
        nonlocal killed_at
        if job.checkpoint.exists() and not killed_at:
            killed_at = steps
            (pid,) = trainings(os.getpid())
            # Ctrl-C, the end of the terminal, SIGTERM: the command asks the training to save, and nothing else does.
            assert blocked_signals(pid) >= {signal.SIGINT, signal.SIGHUP, signal.SIGTERM}
            os.kill(pid, signal.SIGKILL)
        return False

    with pytest.raises(TrainingFailed, match="the process was ended by SIGKILL"):
        Watched(job, targets, kill)
    assert killed_at > 0
    monkeypatch.setenv("BACKBONE_NAS_CHECKPOINT_S", "1000000")
    again = Watched(job, targets, at_once)
    assert again.steps[0] >= killed_at
    assert len(again.pids) == 1
    assert gone(again.pids[0])
    assert again.saved, "it was interrupted"
    assert torch.load(job.checkpoint, weights_only=True)["content"]["distiller"]["step"] >= again.steps[-1]


class InterruptingJob(TrainingJob):
    """A job in whose start Ctrl-C comes: when it is sent to a process of its own."""

    def resolved(self) -> TrainingJob:
        return self

    def __reduce__(self) -> tuple[type[TrainingJob], tuple[object, ...]]:
        os.kill(os.getpid(), signal.SIGINT)
        return TrainingJob, (self.trial, self.config, self.folder)


def test_an_interruption_of_the_start_leaves_no_process_behind(targets: Path, tmp_path: Path) -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            Watched(InterruptingJob(record(1, (), 1.0), ENDLESS, tmp_path / "job"), targets, at_once)
        # A thread of the test runner may take the signal, which only the main thread blocks: the start then ends in the
        # middle, and the new process ends by itself.
        until(lambda: all(gone(pid) for pid in trainings(os.getpid())))
    finally:
        signal.signal(signal.SIGINT, before)
        for process in multiprocessing.active_children():
            process.kill()


@pytest.mark.slow
def test_a_training_that_does_not_end_when_asked_to_is_killed_and_has_not_saved(
    targets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_ranks, "stopping_s", lambda save_s, least_s: 0.3)

    def stop(steps: int) -> bool:
        (pid,) = trainings(os.getpid())
        os.kill(pid, signal.SIGSTOP)
        return True

    watched = Watched(TrainingJob(record(1, (), 1.0), ENDLESS, tmp_path / "job"), targets, stop)
    assert gone(watched.pids[0])
    assert not watched.saved


@pytest.mark.slow
def test_ranks_train_through_all_rungs_and_save_their_state_when_closed(targets: Path, tmp_path: Path) -> None:
    config = replace(RANKS, distill=replace(RANKS.distill, rung_steps=(5, 10)))
    assert [rung.steps for rung in Watched(TrainingJob(record(1, (), 1.0), config, tmp_path), targets).rungs] == [5, 10]
    endless = replace(config, distill=replace(config.distill, rung_steps=(5, 1_000_000)))
    job = TrainingJob(record(1, (), 1.0), endless, tmp_path / "endless")
    watched = Watched(job, targets, lambda steps: steps > 5)
    assert watched.saved
    assert len(watched.pids) == 2
    assert all(gone(pid) for pid in watched.pids)
    alone = replace(job, config=replace(endless, distill=replace(endless.distill, ranks=1)))
    again = Watched(alone, targets, lambda steps: steps > 5)  # one process continues what two began
    assert [rung.steps for rung in again.rungs] == [5]
    assert again.steps[-1] > watched.steps[-1]


@pytest.mark.slow
def test_a_rank_that_is_killed_ends_the_job(targets: Path, tmp_path: Path) -> None:
    endless = replace(RANKS, distill=replace(RANKS.distill, rung_steps=(1_000_000,)))
    killed: list[int] = []

    def kill(steps: int) -> bool:
        if not killed:
            killed.extend(trainings(os.getpid()))
            os.kill(max(killed), signal.SIGKILL)  # rank 1 was started last
        return False

    with pytest.raises(TrainingFailed, match=r"^the process was ended by SIGKILL$"):
        Watched(TrainingJob(record(1, (), 1.0), endless, tmp_path / "job"), targets, kill)
    assert len(killed) == 2
    assert all(gone(pid) for pid in killed)


@pytest.mark.slow
def test_the_reason_is_that_of_the_rank_that_broke_and_not_of_those_that_lost_it(
    targets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """gloo ends rank 0 with "Connection closed by peer"."""
    monkeypatch.setenv("BREAKING_ATTEMPTS", str(tmp_path / "attempts"))
    with pytest.raises(TrainingFailed, match=WORDS):
        Watched(TrainingJob(breaking(record(1, (), 1.0)), RANKS, tmp_path / "job"), targets)


SCRIPT = """
import json, sys
from pathlib import Path
from nas.study.config import SearchConfig
from nas.measure.allocator import MALLOC_SETTINGS
from nas.backend.local_ranks import train_here
from nas.backend.training_rank import TrainingJob
from nas.study.records import TrialRecord

if __name__ == "__main__":
    trial, config = (json.loads(text) for text in sys.argv[3:])
    job = TrainingJob(TrialRecord.from_dict(trial), SearchConfig.from_dict(config), Path(sys.argv[2]))
    list(train_here(job, Path(sys.argv[1]), lambda steps: None, lambda saved: None))
"""


@pytest.mark.slow
def test_a_training_ends_with_its_killed_command(targets: Path, tmp_path: Path) -> None:
    """The training waits for the device, so that no failing message ends it."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    words = [str(targets), str(tmp_path / "job"), json.dumps(record(1, (), 1.0).to_dict())]
    with measuring(lock_dir() / "cpu"):
        command = subprocess.Popen(
            [sys.executable, str(script), *words, json.dumps(ENDLESS.to_dict())],
            env={**os.environ, "TMPDIR": str(tmp_path)},
        )
        until(lambda: (tmp_path / "job" / "weights").exists() or command.poll() is not None)
        workers = children(command.pid)
        command.kill()
        command.wait()
        assert workers
        try:
            until(lambda: all(gone(pid) for pid in workers))
        finally:
            for pid in workers:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def test_a_study_s_ranks_stay_where_there_are_gpus_for_them_and_else_one_gpu_takes_the_batch_in_parts() -> None:
    recipe = DistillConfig(ranks=4, accumulate=2, batch_size=64)
    assert recipe_here(recipe, "0123") == recipe
    assert recipe_here(recipe, "012") == replace(recipe, ranks=1, accumulate=8)
    assert recipe_here(recipe, ()) == replace(recipe, ranks=1), "ranks of a CPU share its memory"
    assert recipe_here(replace(recipe, ranks=1), "0") == replace(recipe, ranks=1)


@needs_small_pages
def test_large_buffers_are_not_faulted_in_again_at_every_step() -> None:
    program = (
        "import resource\n"
        "def faults(): return resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "def step(): b'x' * 2**26\n"
        "step(); before = faults()\n"
        "for _ in range(5): step()\n"
        "print(faults() - before)"
    )
    plain = {name: value for name, value in os.environ.items() if name not in MALLOC_SETTINGS}
    counts = [
        int(subprocess.run([sys.executable, "-c", program], env=variables, check=True, capture_output=True).stdout)
        for variables in (plain, plain | MALLOC_SETTINGS)
    ]
    assert counts[0] > 1000 > counts[1]
