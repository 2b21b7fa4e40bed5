"""Real trainings in processes of their own: their messages, their ends, the files that they leave."""

from __future__ import annotations

import json
import multiprocessing
import os
import platform
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from nas.backend.pool import TrainingPool, TrainingProgress, recipe_here
from nas.backend.training_rank import TrainingJob
from nas.machine import lock_dir
from nas.measure.allocator import MALLOC_SETTINGS
from nas.measure.device_lock import measuring
from nas.study.config import DistillConfig
from tests.nas.backend.breaking import WORDS, breaking
from tests.nas.backend.processes import blocked_signals, children, gone, trainings
from tests.nas.backend.real_targets import open_real_targets
from tests.nas.study.builders import record, search_config
from tests.waiting import until

CONFIG = search_config(
    train_images=64, val_images=32, teachers="hed", distill=DistillConfig(rung_steps=(2, 4), precision="fp32")
)
ENDLESS = replace(CONFIG, distill=replace(CONFIG.distill, rung_steps=(1_000_000,)))


@pytest.fixture(scope="module")
def targets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return open_real_targets(CONFIG, tmp_path_factory.mktemp("cache")).path


@pytest.fixture(autouse=True)
def own_locks_and_a_checkpoint_every_few_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("BACKBONE_NAS_CHECKPOINT_S", "0")


def test_a_job_sends_steps_and_rungs_and_keeps_its_checkpoint_until_its_result_is_kept(
    targets: Path, tmp_path: Path
) -> None:
    job = TrainingJob(record(1, (), 1.0), CONFIG, tmp_path / "job")
    job.checkpoint.parent.mkdir(parents=True)
    job.checkpoint.with_name(f"{job.checkpoint.name}.123-abcd.tmp").touch()  # of an earlier process that was killed
    *updates, last = _with_checkpoints(TrainingPool(targets, workers=1).run([job]))
    assert [update.ended for update, _ in updates] == [False] * len(updates)
    assert [update.steps for update, _ in updates] == sorted(update.steps for update, _ in updates)
    update, had_checkpoint = last
    assert (update.ended, update.reason, update.steps) == (True, None, 4)
    assert [rung.steps for rung in update.rungs] == [2, 4]
    assert had_checkpoint
    assert list(job.checkpoint.parent.iterdir()) == []
    assert len(list((tmp_path / "job" / "weights").glob("*.safetensors"))) == 2  # backbone and heads


def _with_checkpoints(updates: Iterator[TrainingProgress]) -> list[tuple[TrainingProgress, bool]]:
    """Pair each update with whether there was a checkpoint when it came."""
    return [(update, update.job.checkpoint.exists()) for update in updates]


def test_a_killed_training_has_a_reason_and_continues_from_its_checkpoint_until_the_iterator_is_closed(
    targets: Path, tmp_path: Path
) -> None:
    job = TrainingJob(record(1, (), 1.0), ENDLESS, tmp_path / "job")
    killed_at = 0
    for update in TrainingPool(targets, workers=1).run([job]):
        if not update.ended and job.checkpoint.exists() and not killed_at:
            killed_at = update.steps
            (pid,) = trainings(os.getpid())
            os.kill(pid, signal.SIGKILL)
    assert "SIGKILL" in update.reason
    assert update.steps >= killed_at > 0
    with closing(TrainingPool(targets, workers=1).run([job])) as updates:
        assert next(updates).steps >= killed_at
        (pid,) = trainings(os.getpid())
    assert gone(pid)


def test_a_closed_pool_lets_a_training_save_its_state(
    targets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BACKBONE_NAS_CHECKPOINT_S", "1000000")
    job = TrainingJob(record(1, (), 1.0), ENDLESS, tmp_path / "job")
    pool = TrainingPool(targets, workers=1)
    with closing(pool.run([job])) as updates:
        reached = next(updates).steps
        (pid,) = trainings(os.getpid())
        assert not job.checkpoint.exists()
    assert gone(pid)
    assert pool.saved
    saved = torch.load(job.checkpoint, weights_only=True)["content"]["distiller"]["step"]
    assert saved >= reached > 0
    with closing(TrainingPool(targets, workers=1).run([job])) as updates:
        assert next(updates).steps > saved


def test_a_training_leaves_what_a_terminal_sends_to_all_processes_to_the_pool(targets: Path, tmp_path: Path) -> None:
    """Ctrl-C and the end of the terminal: only the pool's request lets the training save its state."""
    with closing(TrainingPool(targets, workers=1).run([TrainingJob(record(1, (), 1.0), ENDLESS, tmp_path)])) as updates:
        next(updates)
        (pid,) = trainings(os.getpid())
        assert blocked_signals(pid) >= {signal.SIGINT, signal.SIGHUP}
        assert signal.SIGTERM not in blocked_signals(pid)


class InterruptingJob(TrainingJob):
    """A job in whose start Ctrl-C comes: when it is sent to a process of its own."""

    def __reduce__(self) -> tuple[type[TrainingJob], tuple[object, ...]]:
        os.kill(os.getpid(), signal.SIGINT)
        return TrainingJob, (self.trial, self.config, self.folder)


def test_an_interruption_of_the_start_leaves_no_process_behind(targets: Path, tmp_path: Path) -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            next(TrainingPool(targets, workers=1).run([InterruptingJob(record(1, (), 1.0), ENDLESS, tmp_path / "job")]))
        # A thread of the test runner may take the signal, which only the main thread blocks: the start then ends in the
        # middle, and the new process ends by itself.
        until(lambda: all(gone(pid) for pid in trainings(os.getpid())))
    finally:
        signal.signal(signal.SIGINT, before)
        for process in multiprocessing.active_children():
            process.kill()


def test_a_training_that_does_not_end_when_asked_to_is_killed_and_has_not_saved(
    targets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nas.backend.pool.STOPPING_S", 0.3)
    pool = TrainingPool(targets, workers=1)
    with closing(pool.run([TrainingJob(record(1, (), 1.0), ENDLESS, tmp_path / "job")])) as updates:
        until(lambda: next(updates).save_s > 0)
        (pid,) = trainings(os.getpid())
        os.kill(pid, signal.SIGSTOP)
    assert gone(pid)
    assert not pool.saved


def test_a_training_whose_process_is_asked_to_end_says_so(targets: Path, tmp_path: Path) -> None:
    job = TrainingJob(record(1, (), 1.0), ENDLESS, tmp_path / "job")
    updates = TrainingPool(targets, workers=1).run([job])
    next(updates)
    (pid,) = trainings(os.getpid())
    os.kill(pid, signal.SIGTERM)
    *_, last = updates
    assert last.ended
    assert last.reason.startswith("TrainingStopped: its process was asked to end; its state is saved")
    assert job.checkpoint.exists()


@pytest.mark.slow
def test_ranks_train_through_all_rungs_and_save_their_state_when_closed(targets: Path, tmp_path: Path) -> None:
    config = replace(CONFIG, distill=replace(CONFIG.distill, ranks=2, rung_steps=(5, 10)))
    *_, last = TrainingPool(targets, workers=1).run([TrainingJob(record(1, (), 1.0), config, tmp_path / "job")])
    assert [rung.steps for rung in last.rungs] == [5, 10]
    endless = replace(config, distill=replace(config.distill, rung_steps=(5, 1_000_000)))
    job = TrainingJob(record(1, (), 1.0), endless, tmp_path / "endless")
    with closing(TrainingPool(targets, workers=1).run([job])) as updates:
        reached = next(update.steps for update in updates if update.rungs and update.steps > 5)
        pids = trainings(os.getpid())
    assert len(pids) == 2
    assert all(gone(pid) for pid in pids)
    alone = replace(job, config=replace(endless, distill=replace(endless.distill, ranks=1)))
    with closing(TrainingPool(targets, workers=1).run([alone])) as updates:  # one process continues what two began
        assert next(updates).steps == 5, "the evaluation is not made again"
        assert next(update.steps for update in updates if update.steps > 5) > reached


@pytest.mark.slow
def test_a_rank_that_is_killed_ends_the_job(targets: Path, tmp_path: Path) -> None:
    config = replace(ENDLESS, distill=replace(ENDLESS.distill, ranks=2))
    job = TrainingJob(record(1, (), 1.0), config, tmp_path / "job")
    updates = TrainingPool(targets, workers=1).run([job])
    next(updates)
    pids = trainings(os.getpid())
    os.kill(max(pids), signal.SIGKILL)  # rank 1 was started last
    *_, last = updates
    assert len(pids) == 2
    assert last.ended
    assert last.reason == "the process was ended by SIGKILL"
    assert all(gone(pid) for pid in pids)


def test_the_reason_is_that_of_the_rank_that_broke_and_not_of_those_that_lost_it(
    targets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """gloo ends rank 0 with "Connection closed by peer"."""
    monkeypatch.setenv("BREAKING_ATTEMPTS", str(tmp_path / "attempts"))
    config = replace(CONFIG, distill=replace(CONFIG.distill, ranks=2))
    job = TrainingJob(breaking(record(1, (), 1.0)), config, tmp_path / "job")
    *_, last = TrainingPool(targets, workers=1).run([job])
    assert last.ended
    assert WORDS in last.reason


SCRIPT = """
import json, sys
from pathlib import Path
from nas.study.config import SearchConfig
from nas.measure.allocator import MALLOC_SETTINGS
from nas.backend.pool import TrainingPool
from nas.backend.training_rank import TrainingJob
from nas.study.records import TrialRecord

if __name__ == "__main__":
    trial, config = (json.loads(text) for text in sys.argv[3:])
    job = TrainingJob(TrialRecord.from_dict(trial), SearchConfig.from_dict(config), Path(sys.argv[2]))
    list(TrainingPool(Path(sys.argv[1]), workers=1).run([job]))
"""


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


def test_the_memory_that_this_process_keeps_on_gpus_is_free_before_a_training_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    released = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: released.append(True))
    assert list(TrainingPool(tmp_path, 1).run([])) == []
    assert released == []
    assert list(TrainingPool(tmp_path, 1, "0").run([])) == []
    assert released == [True]


@pytest.mark.skipif("glibc" not in platform.libc_ver(), reason="the settings are glibc's")
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


@pytest.mark.parametrize(
    ("cpus", "workers", "ranks", "threads"), [(8, 1, 1, 8), (9, 2, 1, 4), (12, 3, 2, 2), (1, 2, 1, 1)]
)
def test_the_trainings_at_a_time_share_the_cpus(
    cpus: int, workers: int, ranks: int, threads: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nas.backend.pool.cpu_count", lambda: cpus)
    config = replace(CONFIG, distill=replace(CONFIG.distill, ranks=ranks))
    specs = TrainingPool(tmp_path, workers)._specs(TrainingJob(record(1, (), 1.0), config, tmp_path), 0, tmp_path)
    assert [spec.threads for spec in specs] == [threads] * ranks
