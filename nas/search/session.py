"""A session of a search: open the study, or resume it, run its trials on workers, write the end.

A study is created, or extended, only after Ray has started, so that a command that is refused leaves no study behind.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from nas.analysis.trial_choice import SelectionError
from nas.backend.worker_spec import WorkerSpec
from nas.cli import one_line
from nas.command_log import Announce, announce
from nas.flags import linked_as_latest
from nas.local_workers import limited_by_memory
from nas.machine import cpu_count
from nas.measure.runtime_check import check_runtime
from nas.race.arguments import SEARCH_SHARE
from nas.run_folder import CHECKPOINTS, PICTURES, SAMPLES, WEIGHTS
from nas.samplers import make_sampler
from nas.search.live_report import LiveReport, LostModels, end_search, show_result, write_report
from nas.search.measure_batch import with_measure_batch
from nas.search.preconditions import check_limits, unseen_images
from nas.search.progress import SearchProgress, recovered
from nas.search.settings import SearchCommand, resume_command
from nas.search.study_opening import (
    claimed,
    create_study,
    describe_study,
    extend_study,
    open_targets,
    recorded_info,
    refuse_changes,
    show_device,
    train_threads,
    with_precision,
    workers_here,
)
from nas.stage_progress import StageProgress
from nas.storage.errors import StoreError
from nas.storage.location import holds_study
from nas.storage.locks import CommandUnderWay
from nas.storage.store import Store
from nas.study import compatibility
from nas.study.config import SearchConfig
from nas.study.loop import Listener, StudyLoop
from nas.study.objectives import objectives
from nas.study.records import StudyInfo, TrialState

if TYPE_CHECKING:
    from nas.cache import Targets

_LOG = logging.getLogger(__name__)


class SearchFailed(RuntimeError):
    """A search that gave up or lost most of its models; the message is one line with the reason."""


def search(command: SearchCommand, console: Console) -> int:
    """Start a search or resume one, and return 0 when it has ended.

    Args:
        command: The settings.
        console: Shows the progress.

    Raises:
        ConfigError: The images or the teachers do not fit the settings, or no architecture keeps the limits.
        DeviceError: This machine has GPUs of several kinds, and a new study would have no kind of its own.
        StoreError: The study cannot be created, resumed or written, or another command works in its folder.
        SearchFailed: Too many trials failed in a row, or more models than were trained.
    """
    began_s = time.monotonic()
    with claimed(command), linked_as_latest(command.run, holds_study):
        if _search(command, console, began_s):
            race_after(command, console, deadline_s(command, began_s))
    return 0


def deadline_s(command: SearchCommand, began_s: float, share: float = 1.0) -> float:
    """Return the time of `time.monotonic` until which a share of --max-hours lasts; infinity without a limit."""
    return math.inf if command.max_hours is None else began_s + 3600 * command.max_hours * share


def race_after(command: SearchCommand, console: Console, until_s: float) -> None:
    """Race the candidates of a search that has ended, and show the model that it names.

    Raises:
        RaceFailed: The target cannot be trained.
    """
    from nas.race.arguments import RaceSettings
    from nas.race.command import race_study
    from nas.race.plan import NOTHING

    settings = RaceSettings(
        command.run,
        race_steps=command.race_steps,
        fresh_images=command.fresh_images,
        target=command.target,
        race_by=command.race_by,
        workers=command.workers,
        address=command.address,
        cache=command.cache,
        teacher_weights=command.teacher_weights,
        data=command.config.data,
    )
    try:
        result = race_study(settings, command.text, until_s)
    except (CommandUnderWay, SelectionError) as error:  # another command races, or no timing is trusted
        announce(str(error), _LOG, console)
        return
    if result is None:
        announce(NOTHING, _LOG, console)
    elif not result.decided:
        announce(f"the race is not decided: {resume_command(command)}", _LOG, console)
    show_result(command.run, console)
    write_report(command.run, console)


def _search(command: SearchCommand, console: Console, began_s: float) -> bool:
    """Run the search and return whether a race is to follow."""
    show = partial(announce, log=_LOG, console=console)
    limits = check_limits(command.config) if command.config.limits and not command.resume else ""
    show_device(command.config, show)
    from nas.measure.environment import check_compute_mode, check_one_kind, code_digest  # imports torch

    if command.address is None:
        check_compute_mode(command.config.device)
    if not command.resume:  # on a cluster too: the driver's kind of device is that of the nodes that take trials
        check_one_kind(command.config.device)
    if command.workers is None and command.address is None:
        show_memory_limit(command.config, show)
    if limits:
        show(f"limits: {limits}")
    if not command.resume and (unseen := unseen_images(command.config)):
        announce(f"warning: {unseen}", _LOG, console, logging.WARNING)
    if command.address is None:  # the nodes of a cluster measure, which may have what this machine lacks
        with (progress := StageProgress(console)).showing():
            check_runtime(command.config, progress, command.resume)
    else:
        from nas.backend.ray_session import check_answers  # imports Ray

        check_answers(command.address)
    if not command.resume:
        command = with_measure_batch(command, show, console)
    targets, teacher_facts = open_targets(command, console, show, recorded_info(command))
    command, precision_ms = with_precision(command, targets, show)
    config = command.config
    study_objectives = objectives(config.objectives, config.distill.score)
    sampler = make_sampler(config, config.search_space, study_objectives)
    with ExitStack() as stores:
        existing = stores.enter_context(Store.open(command.run, sampler, command.storage)) if command.resume else None
        if existing is not None:
            refuse_changes(existing.info, study_objectives)
            if changed := compatibility.of_code(existing.info, code_digest()):
                announce(f"warning: {changed}", _LOG, console, logging.WARNING)

        def create_or_extend() -> Store:
            if existing is None:
                info = replace(describe_study(command, targets, teacher_facts), precision_ms=precision_ms)
                return stores.enter_context(create_study(command, info, sampler))
            if command.extend:
                extend_study(existing, command)
            return existing

        until_s = deadline_s(command, began_s, SEARCH_SHARE if command.races else 1.0)
        start_loop = partial(StudyLoop, deadline_s=until_s, until_converged=command.until_converged)
        resumed = None if existing is None else existing.info
        return _run(command, targets, resumed, create_or_extend, start_loop, console, show, began_s)


def show_memory_limit(config: SearchConfig, show: Announce) -> None:
    """Show a line where this machine runs fewer trials at a time because of its memory.

    Args:
        config: The settings.
        show: Takes the line.
    """
    if line := limited_by_memory(config.device, config.distill.ranks):
        show(f"trials: {line}")


def _run(
    command: SearchCommand,
    targets: Targets,
    existing: StudyInfo | None,
    create_or_extend: Callable[[], Store],
    start_loop: Callable[[Store, Listener], StudyLoop],
    console: Console,
    show: Announce,
    began_s: float,
) -> bool:
    """Run the study on the workers of a Ray cluster, then write the end, also of an interrupted session.

    Return whether a race is to follow: the search has ended, and has a candidate that was trained to the last rung.
    """
    # Ray takes seconds to import, so it is imported when the input is known to be good.
    from nas.backend.ray_tune import open_cluster, run_study
    from nas.measure.memory import release_cached

    here = workers_here(command)
    workers = command.workers or (None if command.address else here)
    # The nodes of a cluster come and go: there, the time spent is that of as many workers as this machine would have.
    counted_workers = workers or here
    device = None if existing is None else compatibility.recorded_device_kind(existing.environment)
    progress = SearchProgress(console)

    def end(loop: StudyLoop, ending: str | None, with_result: bool = True) -> None:
        teacher_s, command_s = targets.build_seconds, time.monotonic() - began_s
        end_search(loop, counted_workers, teacher_s, command.run, ending, console, command_s, with_result)

    store: Store | None = None
    loop: StudyLoop | None = None
    try:
        show("starting the workers")
        release_cached(command.config.device)  # of the teachers and of timing precisions
        spec = _worker_spec(command, targets, here if command.address else counted_workers)
        with open_cluster(spec, workers, address=command.address, study_device=device, announce=show) as cluster:
            store = create_or_extend()
            store.notify = show
            loop = start_loop(store, LiveReport(command.run, progress, show))
            if existing is not None:
                show(recovered(loop, Path(spec.checkpoint_dir)))
            with progress.showing(loop):
                run_study(loop, cluster, trial_timeout_s=command.trial_timeout)
    except StoreError:
        raise  # the end cannot be written into a study that cannot be written
    except BaseException:
        if store is not None and loop is not None:
            store.patient = False  # an interrupted command ends at once, also while the database is away
            try:
                end(loop, None)
            except StoreError as error:
                show(f"the end of this session could not be stored in the study: {one_line(error)}")
        raise
    words = {"gave up": loop.gave_up, "converged": loop.converged, "out of time": loop.out_of_time}
    outcome = loop.exhausted or next((word for word, reason in words.items() if reason), "done")
    complete = any(trial.state is TrialState.COMPLETE and not trial.baseline for trial in loop.trials.values())
    follows = command.races and complete and not (loop.gave_up or loop.out_of_time)
    end(loop, outcome, with_result=not follows)
    conclude(loop, resume_command(command), show)
    return follows


def conclude(loop: StudyLoop, resume: str, show: Announce) -> None:
    """Show the command that continues a search that is out of time, and which models failed.

    Raises:
        SearchFailed: The search gave up, or more models failed than were trained.
    """
    if loop.gave_up:
        raise SearchFailed(loop.gave_up)
    if loop.out_of_time:
        show(f"{loop.out_of_time}: {resume}")
    lost = LostModels.among(loop.trials.values())
    if lost.most:
        raise SearchFailed(f"{lost}; the study keeps the other models")
    if lost.reasons:
        show(str(lost))


def _worker_spec(command: SearchCommand, targets: Targets, workers_per_machine: int) -> WorkerSpec:
    return WorkerSpec(
        config=json.dumps(command.config.to_dict()),
        targets_dir=str(targets.path.resolve()),
        samples_dir=_make_folder(command.run / SAMPLES),
        weights_dir=_make_folder(command.run / WEIGHTS),
        pictures_dir=_make_folder(command.run / PICTURES),
        checkpoint_dir=_make_folder(command.run / CHECKPOINTS),
        train_threads=train_threads(workers_per_machine),
        # One CPU is left to the driver and the system: OpenMP waits for its slowest thread (LOG.md, 2026-11-24).
        measure_threads=max(1, cpu_count() - 1),
        gpus=1.0 if command.config.device.startswith("cuda") else 0.0,
    )


def _make_folder(path: Path) -> str:
    """Make a folder and return its absolute path."""
    path.mkdir(parents=True, exist_ok=True)
    return str(path.resolve())
