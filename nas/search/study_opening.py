"""Open a study, of a search or of a single training: its folder, its teachers' outputs, its description, its files."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import UTC, datetime
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from rich.console import Console

from nas.command_log import Announce, announce
from nas.files import atomic_write
from nas.local_workers import default_workers
from nas.machine import cache_root, cpu_count, lock_dir
from nas.redaction import public_word
from nas.search.config_file import (
    FILE_NAME,
    RECORDED_KEYS,
    config_text,
    recorded_run,
    run_table,
)
from nas.search.preconditions import check_image_count
from nas.search.settings import SearchCommand
from nas.stage_progress import StageProgress
from nas.storage.errors import StoreError
from nas.storage.locks import only_command
from nas.storage.store import Store
from nas.study import compatibility
from nas.study.config import SearchConfig
from nas.study.objectives import objectives
from nas.study.records import FORMAT, Objective, StudyInfo, TeacherFacts
from search_space import NetworkSpec

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler

    from nas.cache import Targets

_CLAIM = ".search.lock"  # in the run folder, held by the driver
_LOG = logging.getLogger(__name__)


def claimed(command: SearchCommand) -> AbstractContextManager[None]:
    """Keep the folder of a study for this process; StoreError where another command works in it."""
    flag = "--resume" if command.resume else "--run"
    refusal = f"{flag}: another command works in {command.run}; wait for its end, or interrupt it"
    return only_command(command.run / _CLAIM, refusal)


def show_device(config: SearchConfig, show: Announce) -> None:
    """Show a line about the device that measures and trains.

    Args:
        config: The settings.
        show: Takes the line.
    """
    from nas.measure.environment import device_line, torch_device

    show(device_line(torch_device(config.device)))


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

    threads = train_threads(1 if network else command.workers or workers_here(command))
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
    from nas.measure.environment import environment
    from nas.measure.runtime_spec import Arm

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
    write_config(command, info.config)
    for name, content in files.items():
        atomic_write(command.run / name, content)
    return Store.create(command.run, info, sampler, command.storage)


def extend_study(store: Store, command: SearchCommand) -> None:
    """Raise the budget, and rewrite the file of settings."""

    def with_larger_budget(info: StudyInfo) -> StudyInfo:
        config = {**info.config, "budget": info.config["budget"] + command.extend}
        write_config(command, config)
        return replace(info, config=config)

    store.update_info(with_larger_budget)


def write_config(command: SearchCommand, settings: Mapping[str, Any]) -> None:
    """Write the file that starts the search again; where it has one, an extension keeps what the search recorded."""
    now = run_table(command)
    if command.resume and (earlier := recorded_run(command.run)):
        now = earlier | {name: now[name] for name in RECORDED_KEYS if name in now}
    atomic_write(command.run / FILE_NAME, config_text(settings, now))


def workers_here(command: SearchCommand) -> int:
    """Return the number of trials that this machine runs at a time by default."""
    return default_workers(command.config.device, command.config.distill.ranks, command.address is not None)


def train_threads(workers_per_machine: int) -> int:
    """Return the CPU threads of each of a machine's trainings."""
    return max(1, cpu_count() // workers_per_machine)
