"""A session of a search: open the targets, create or resume the study, run its trials on workers, write the end.

A study is created, or extended, only after Ray has started, so that a command that is refused leaves no study behind.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from rich.console import Console

from nas.backend.worker_spec import WorkerSpec
from nas.cli import StageProgress, cache_root, cpu_count, lock_dir, one_line
from nas.command_log import announce
from nas.files import atomic_write
from nas.flags import linked_as_latest
from nas.local_workers import default_workers, limited_by_memory
from nas.measure.runtime_check import check_runtime
from nas.run_folder import CHECKPOINTS, PICTURES, SAMPLES, WEIGHTS
from nas.samplers import make_sampler
from nas.search.config_file import (
    FILE_NAME,
    RECORDED_KEYS,
    config_text,
    recorded_data,
    recorded_run,
    run_table,
)
from nas.search.live_report import LiveReport, LostModels, end_search
from nas.search.preconditions import check_image_count, check_limits, unseen_images
from nas.search.progress import SearchProgress, recovered
from nas.search.settings import SearchCommand, resume_command
from nas.storage.liveness import only_command
from nas.storage.location import holds_study
from nas.storage.store import Store, StoreError
from nas.study import compatibility
from nas.study.config import SearchConfig
from nas.study.loop import Listener, StudyLoop
from nas.study.objectives import objectives
from nas.study.records import FORMAT, Objective, StudyInfo, TeacherFacts
from nas.study.redaction import public_word
from search_space import NetworkSpec

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler

    from nas.cache import Targets

_CLAIM = ".search.lock"  # in the run folder, held by the process that begins the study
_LOG = logging.getLogger(__name__)
Announce = Callable[[str], None]


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
        StoreError: The study cannot be created, resumed or written, or another search is about to create it.
        SearchFailed: Too many trials failed in a row, or more models than were trained.
    """
    with claimed(command), linked_as_latest(command.run, holds_study):
        _search(command, console)
    return 0


def claimed(command: SearchCommand) -> AbstractContextManager[None]:
    """Keep the folder of a new study for this process; StoreError where another search has it.

    A study exists only after its teachers have run: without a claim, the second of two searches that start together
    would be refused after all that work.
    """
    refusal = (
        f"--run: another search is starting in {command.run}; choose another folder, or help it with "
        f"--resume {command.run} once it trains"
    )
    return nullcontext() if command.resume else only_command(command.run / _CLAIM, refusal)


def _search(command: SearchCommand, console: Console) -> None:
    began_s = time.monotonic()
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
            existing.retry_while_unavailable(existing.register_driver)  # refuses drivers of two machines on one file
            if command.extend:
                write_config(command)
                _extend(existing, command.extend)
            return existing

        deadline_s = math.inf if command.max_hours is None else began_s + 3600 * command.max_hours
        start_loop = partial(StudyLoop, deadline_s=deadline_s, until_converged=command.until_converged)
        resumed = None if existing is None else existing.info
        _run(command, targets, resumed, create_or_extend, start_loop, console, show, began_s)


def show_device(config: SearchConfig, show: Announce) -> None:
    """Show a line about the device that measures and trains.

    Args:
        config: The settings.
        show: Takes the line.
    """
    from nas.measure.environment import device_line, torch_device

    show(device_line(torch_device(config.device)))


def show_memory_limit(config: SearchConfig, show: Announce) -> None:
    """Show a line where this machine runs fewer trials at a time because of its memory.

    Args:
        config: The settings.
        show: Takes the line.
    """
    if line := limited_by_memory(config.device, config.distill.ranks):
        show(f"trials: {line}")


def recorded_info(command: SearchCommand) -> StudyInfo | None:
    """Return the description of the study to resume; None for a new one."""
    if not command.resume:
        return None
    with Store.open(command.run, database=command.storage, read_only=True) as store:
        return store.info


def open_targets(
    command: SearchCommand, console: Console, show: Announce, study: StudyInfo | None
) -> tuple[Targets, dict[str, TeacherFacts]]:
    """Return the teachers' outputs, computed where they are missing, and the facts about a new study's teachers.

    Args:
        command: The settings.
        console: Shows the progress.
        show: Receives lines for the user.
        study: Description of the study to resume, whose teachers and images are checked before anything is computed;
            None for a new one.

    Raises:
        CacheError: Teachers or images are not those of the study.
    """
    from nas.cache import open_study_targets
    from nas.distill.evaluation.tasks import left_out_of_classification
    from nas.distill.evaluation.zero_shot import embed_class_names
    from nas.distill.heads import narrow_heads
    from nas.teachers import enlarged_maps, specs

    config, teachers = command.config, specs(command.config.teachers, command.teacher_weights)
    config.distill.check_teachers([teacher.name for teacher in teachers])
    enlarged = enlarged_maps(teachers, config.grid, config.distill.img_size)
    narrow = narrow_heads({each.name: each.widths for each in teachers}, config)
    for warning in () if command.resume else filter(None, (enlarged, narrow)):
        announce(f"warning: {warning}", _LOG, console, logging.WARNING)
    progress = StageProgress(console)

    def check_counts(train: int, val: int) -> None:
        if too_few := check_image_count(config, train, val):
            announce(f"warning: --data {too_few}", _LOG, console, logging.WARNING)

    with progress.showing():
        targets = open_study_targets(
            config, cache_root(command.cache), study=study, weights=command.teacher_weights, progress=progress,
            announce=show, check_counts=check_counts,
        )  # fmt: skip
        check_image_count(config, len(targets.train) // config.views, len(targets.val))
        embed_class_names(targets, teachers, command.teacher_weights, say=show, progress=progress)
        if reason := left_out_of_classification(targets):
            show(reason)
        return targets, {} if command.resume else _teacher_facts(command, targets, progress)


def with_precision(
    command: SearchCommand, targets: Targets, show: Announce, network: NetworkSpec | None = None
) -> tuple[SearchCommand, dict[str, float]]:
    """Return the command with a training precision in place of "auto", and the ms of a step in each if timed.

    Args:
        command: The command.
        targets: Images and teacher targets to train on.
        show: Receives a line about the choice.
        network: The one network of a training, which gets all CPUs. None for a search, whose step times are taken with
            the reference preset of its space.
    """
    config = command.config
    if config.distill.precision != "auto":
        return command, {}
    from nas.distill.precision import choose_precision
    from nas.measure.environment import device_key

    threads = _train_threads(1 if network else command.workers or _workers_here(command))
    locks = lock_dir() / device_key(config.device)
    choice = choose_precision(network or config.spec(config.search_space.reference), targets, config, threads, locks)
    show(str(choice))
    distill = replace(config.distill, precision=choice.precision)
    return replace(command, config=replace(config, distill=distill)), choice.step_ms


def _teacher_facts(command: SearchCommand, targets: Targets, progress: StageProgress) -> dict[str, TeacherFacts]:
    from nas.distill.evaluation.reference_scores import teacher_facts
    from nas.teachers import specs

    teachers = specs(command.config.teachers, command.teacher_weights)
    return teacher_facts(targets, {spec.name: f"{spec.network}: {spec.preprocessing}" for spec in teachers}, progress)


def refuse_changes(info: StudyInfo, study_objectives: Sequence[Objective]) -> None:
    """Raise StoreError where a study began with other objectives."""
    if changed := compatibility.of_objectives(info, study_objectives):
        raise StoreError(f"the study began with other settings than those of --resume: {'; '.join(changed)}")


def describe_study(command: SearchCommand, targets: Targets, teacher_facts: dict[str, TeacherFacts]) -> StudyInfo:
    """Return the description of a new study."""
    from nas.distill.evaluation.reference_scores import chance
    from nas.measure.arms import Arm
    from nas.measure.environment import environment

    config = command.config
    return StudyInfo(
        name=command.run.resolve().name,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        command=command.text,
        config=config.to_dict(),
        environment=environment(config.device, Arm.parse(config.runtime)),
        objectives=objectives(config.objectives, config.distill.score),
        rung_steps=config.distill.rung_steps,
        limits=config.limits,
        teachers={name: teacher.fingerprint for name, teacher in targets.teachers.items()},
        data={"name": public_word(config.data), "fingerprint": targets.data_fingerprint},
        reference=config.reference,
        baselines=config.baselines,
        time_spent={"teachers": targets.build_seconds},
        teacher_facts=teacher_facts,
        chance=chance(targets),
        space={name: list(values) for name, values in config.search_space.choices().items()},
        format=FORMAT,
    )


def create_study(
    command: SearchCommand, info: StudyInfo, sampler: BaseSampler, files: Mapping[str, str] = MappingProxyType({})
) -> Store:
    """Write the file of the settings, then create the study: a kill between the two leaves no study without the file.

    Args:
        command: The settings.
        info: Description of the study.
        sampler: Sampler of the trials.
        files: Contents of other files that the study needs, by their names in the run folder.

    Raises:
        StoreError: There is a study already, or it cannot be created.
    """
    Store.check_free(command.run, command.storage)  # the file of another study stays
    command.run.mkdir(parents=True, exist_ok=True)
    write_config(command)
    for name, content in files.items():
        atomic_write(command.run / name, content)
    return Store.create(command.run, info, sampler, command.storage)


def write_config(command: SearchCommand) -> None:
    """Write the file that starts the search again; where it has one, an extension keeps what the search recorded."""
    now, settings = run_table(command), command.config.to_dict()
    if command.resume and (earlier := recorded_run(command.run)):
        now = earlier | {name: now[name] for name in RECORDED_KEYS if name in now}
    if command.resume and (data := recorded_data(command.run)) is not None:
        settings["data"] = data
    atomic_write(command.run / FILE_NAME, config_text(settings, now))


def _extend(store: Store, architectures: int) -> None:
    """Raise the budget of a study."""

    def with_larger_budget(info: StudyInfo) -> StudyInfo:
        return replace(info, config={**info.config, "budget": info.config["budget"] + architectures})

    store.update_info(with_larger_budget)


def _run(
    command: SearchCommand,
    targets: Targets,
    existing: StudyInfo | None,
    create_or_extend: Callable[[], Store],
    start_loop: Callable[[Store, Listener], StudyLoop],
    console: Console,
    show: Announce,
    began_s: float,
) -> None:
    """Run the study on the workers of a Ray cluster, then write the end, also of an interrupted session."""
    # Ray takes seconds to import, so it is imported when the input is known to be good.
    from nas.backend.ray_tune import open_cluster, run_study
    from nas.measure.memory import release_cached

    here = _workers_here(command)
    workers = command.workers or (None if command.address else here)
    # The nodes of a cluster come and go: there, the time spent is that of as many workers as this machine would have.
    counted_workers = workers or here
    device = None if existing is None else compatibility.recorded_device_kind(existing.environment)
    progress = SearchProgress(console)

    def end(loop: StudyLoop, ending: str | None) -> None:
        teacher_s, command_s = targets.build_seconds, time.monotonic() - began_s
        end_search(loop, counted_workers, teacher_s, command.run, ending, console, command_s)

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
                run_study(loop, cluster, trial_timeout_s=command.trial_timeout_s)
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
    end(loop, outcome)
    conclude(loop, resume_command(command), show)


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
        train_threads=_train_threads(workers_per_machine),
        # One CPU is left to the driver and the system: OpenMP waits for its slowest thread (LOG.md, 2026-11-24).
        measure_threads=max(1, cpu_count() - 1),
        gpus=1.0 if command.config.device.startswith("cuda") else 0.0,
    )


def _workers_here(command: SearchCommand) -> int:
    return default_workers(command.config.device, command.config.distill.ranks, command.address is not None)


def _train_threads(workers_per_machine: int) -> int:
    return max(1, cpu_count() // workers_per_machine)


def _make_folder(path: Path) -> str:
    """Make a folder and return its absolute path."""
    path.mkdir(parents=True, exist_ok=True)
    return str(path.resolve())
