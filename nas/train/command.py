"""Train one architecture and measure it: a study of this one model, whose rungs are the training's evaluations.

The training runs in processes of its own, one per rank, which keep checkpoints (`nas.backend.training_rank`).
"""

from __future__ import annotations

import json
import logging
import shutil
import time
from contextlib import ExitStack, closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from nas.backend.training_rank import TrainingJob, remove_checkpoint
from nas.cli import command_line
from nas.command_log import Announce, announce
from nas.machine import cache_root, cpu_count, lock_dir
from nas.numbers import clock, plural
from nas.run_folder import SAMPLES, heads_file
from nas.samplers import make_sampler
from nas.search.live_report import store_time_spent, write_report
from nas.search.preconditions import check_batch
from nas.search.study_opening import (
    claimed,
    create_study,
    describe_study,
    open_targets,
    recorded_info,
    refuse_changes,
    show_device,
    with_precision,
)
from nas.stage_progress import StageProgress
from nas.storage.store import Store
from nas.study.config import SearchConfig
from nas.study.loop import StudyLoop
from nas.study.metrics import metric_label
from nas.study.objectives import objectives
from nas.study.records import RungResult, TrialRecord, TrialState
from nas.study.training_files import PLAN, START
from nas.train.one_architecture import OneArchitecture
from nas.train.training_settings import TrainCommand, TrainingPlan, check_teacher_devices, with_steps
from nas.validation import ConfigError
from search_space.windows import padding_line

if TYPE_CHECKING:
    from nas.cache import Targets
    from nas.distill.live import LiveTeachers
    from nas.search.settings import SearchCommand

_LOG = logging.getLogger(__name__)


class StateSaved(KeyboardInterrupt):
    """An interruption of a training that has saved its state."""


def train(command: TrainCommand, console: Console) -> int:
    """Train, or continue to train, and measure; return 0 when it is done.

    Args:
        command: The settings.
        console: Shows the progress.

    Raises:
        ConfigError: The images or the teachers do not fit the settings.
        StoreError: The study cannot be created, resumed or written.
        TrainingFailed: The training broke down; its last checkpoint is kept.
        StateSaved: As KeyboardInterrupt, where the training that it interrupted has saved its state.
    """
    check_teacher_devices(command)
    with claimed(command.session):
        _check_cluster(command.session)
        _train(_with_live_images(command, console), console)
    return 0


def _check_cluster(session: SearchCommand) -> None:
    """Raise ConfigError for more processes than the cluster has processors for, ClusterError without a cluster."""
    if session.address is None:
        return
    from nas.backend.ray_session import cluster_resources  # imports Ray, which takes seconds

    session.run.mkdir(parents=True, exist_ok=True)
    _, cpus, gpus = cluster_resources(session.address, session.run)
    kind, present = ("GPU", gpus) if session.config.device == "cuda" else ("CPU", cpus)
    if present < (ranks := session.config.distill.ranks):
        raise ConfigError(f"--workers: {ranks}: the Ray cluster at {session.address} has {present:.0f} {kind}s")


def _with_live_images(command: TrainCommand, console: Console) -> TrainCommand:
    """Return the command with the number of images that live teachers will see: at most those that there are.

    Raises:
        ConfigError: They are fewer than a batch, or than the number that was asked for; the default is no such number.
            Or the training began with others.
    """
    live, session = _live_teachers(command), command.session
    if live is None:
        return command
    config, progress = session.config, StageProgress(console)
    with progress.showing():
        found, available, images = live.count(progress)
    if found < live.images and (session.resume or live.images != SearchConfig().train_images):
        advice = "" if session.resume else f", or ask for what is there: --train-images {found}"
        counts = f"only {found:,} of {plural(live.images, 'image')} to train on"
        raise ConfigError(f"--data: {config.data}: {counts}; check the path and the shards{advice}")
    if command.plan.live_fingerprint not in (None, images):
        raise ConfigError(
            f"--data: {config.data}: these are not the images that the training began with: some were added, removed "
            "or changed; put them back"
        )
    check_batch(config, found)
    for note in copies_in_mosaics(config):
        announce(f"warning: live teachers: {note}", _LOG, console, logging.WARNING)
    cached = min(config.train_images, found)
    if not session.resume:
        more = f" of the {available:,} that there are (--train-images N for more)" if found < available else ""
        part = f"; {cached:,} of them are cached, to fit the teachers' statistics" if cached < found else ""
        announce(f"live teachers: {plural(found, 'image')} to train on{more}{part}", _LOG, console)
    config = replace(config, train_images=cached)
    plan = replace(command.plan, live_images=found, live_fingerprint=images)
    return replace(command, session=replace(session, config=config), plan=plan)


def copies_in_mosaics(config: SearchConfig) -> list[str]:
    """Return a line for each live teacher whose mosaic has more images than a process has in a step."""
    from nas.study.teacher_names import listed
    from nas.teachers.timm_networks import images_of_mosaic  # imports torch

    recipe = config.distill
    batches = dict.fromkeys(listed(config.teachers), recipe.batch_size)
    batches |= {name: group.batch_size for group in recipe.groups for name in group.teachers}
    return [
        f"a mosaic of {name} has {images_of_mosaic(name)} images, and a process has"
        f" {plural(batch // recipe.ranks, 'image')} a step: copies fill it; raise --batch-size, or lower --workers"
        for name, batch in batches.items()
        if batch // recipe.ranks < images_of_mosaic(name)
    ]


def _train(command: TrainCommand, console: Console) -> None:
    from nas.measure.environment import check_compute_mode  # imports torch

    began_s = time.monotonic()
    show = partial(announce, log=_LOG, console=console)
    show_device(command.session.config, show)
    if not command.session.resume:  # a training is measured before its first step
        check_compute_mode(command.session.config.device)
    with ExitStack() as stack:
        targets, loop = _begin(command, console, show, stack)
        ended = False
        try:
            record = loop.next_trial()
            if record is not None:
                _run(command, loop, record, targets, console, show)
            ended = True
        finally:
            store_time_spent(loop, 1, targets.build_seconds)
            if ended:
                _show_end(command, loop, clock(time.monotonic() - began_s), show)
            write_report(command.session.run, console)


def _begin(command: TrainCommand, console: Console, show: Announce, stack: ExitStack) -> tuple[Targets, StudyLoop]:
    """Open the targets and create the study, or open the one to continue."""
    session, plan = command.session, command.plan
    space = OneArchitecture(plan.name, plan.architecture)
    targets, facts = open_targets(session, console, show, recorded_info(session))
    study_objectives = objectives(session.config.objectives, session.config.distill.score)
    sampler = make_sampler(session.config, space, study_objectives)
    if session.resume:
        store = stack.enter_context(Store.open(session.run, sampler))
        refuse_changes(store.info, study_objectives)
    else:
        padded = padding_line(plan.architecture, session.config.distill.image_sizes)
        for line in filter(None, (padded, _fresh_heads(plan, session, targets))):
            show(line)
        session, precision_ms = with_precision(session, targets, show, plan.architecture)
        if plan.epochs is not None:
            steps = plan.epochs * _steps_of_an_epoch(session.config, plan, targets, show)
            session = replace(session, config=with_steps(session.config, plan, steps))
        info = describe_study(session, targets, facts)
        choices = {name: list(values) for name, values in space.choices().items()}
        info = replace(info, precision_ms=precision_ms, space=choices)
        plan = _keep_start(plan, session.run)
        files = {PLAN: json.dumps(plan.to_dict(), indent=1)}
        store = stack.enter_context(create_study(session, info, sampler, files))
    store.notify = show
    return targets, StudyLoop(store, space=space)


def _steps_of_an_epoch(config: SearchConfig, plan: TrainingPlan, targets: Targets, show: Announce) -> int:
    """Return the steps that see as many images as there are, and show them; views of one image are not counted."""
    images = len(targets.train) // config.views if plan.live_images is None else plan.live_images
    steps = max(1, images // config.distill.batch_size)
    views = "" if config.views == 1 else f"; {config.views} epochs go through all views of each"
    show(f"an epoch has {plural(steps, 'step')}: {plural(images, 'image')}{views}")
    return steps


def _fresh_heads(plan: TrainingPlan, session: SearchCommand, targets: Targets) -> str:
    """Return a line about teachers whose heads do not come with the weights of the start; "" where all do."""
    if plan.start is None:
        return ""
    from nas.distill.folded_heads import load_heads, without_heads  # imports torch

    adaptors = load_heads(heads_file(Path(plan.start)))
    fresh = without_heads(adaptors, targets.teachers, session.config.distill.head_width)
    names = f"fresh heads for {', '.join(fresh)}"
    return f"--warm: {names}, which the search's heads do not fit; the backbone's weights are kept" if fresh else ""


def _keep_start(plan: TrainingPlan, run: Path) -> TrainingPlan:
    """Copy the weights that a training begins with, and their heads, into its folder, so that it needs no other."""
    if plan.start is None:
        return plan
    source, own = Path(plan.start), run / START
    shutil.copyfile(source, own)
    shutil.copyfile(heads_file(source), heads_file(own))
    return replace(plan, start=START)


def _run(
    command: TrainCommand, loop: StudyLoop, record: TrialRecord, targets: Targets, console: Console, show: Announce
) -> None:
    """Measure and train the model, and report it to the study; a failure is not final, so that it can continue."""
    plan, ranks = command.plan, command.session.config.distill.ranks
    config = replace(loop.config, distill=replace(loop.config.distill, ranks=ranks))
    record = _counted_and_measured(record, config, command.session.run)
    loop.report(record)
    assert record.measurement is not None
    speed, ratio = f"{record.measurement.throughput_img_s:,.0f} img/s", f"{record.measurement.ratio:.2f}"
    show(f"measured: {speed}, {ratio} times the throughput of {config.reference}")
    job = TrainingJob(
        record,
        config,
        command.session.run,
        None if plan.start is None else command.session.run / plan.start,
        history=True,
        event_logs=plan.event_logs,
        kept_checkpoints=plan.kept_checkpoints,
        live=_live_teachers(command),
    )
    processes = "one process" if ranks == 1 else f"{ranks} processes"
    processes += "" if command.session.address is None else f" of the Ray cluster at {command.session.address}"
    steps = plural(job.steps, "step")
    show(f"training {command.plan.name}: {steps} of {config.distill.batch_size} images, {processes}")
    _train_and_report(job, loop, targets, command.session.address, console, show)


def _train_and_report(
    job: TrainingJob, loop: StudyLoop, targets: Targets, address: str | None, console: Console, show: Announce
) -> None:
    """Train, and report every evaluation to the study."""
    from nas.backend.local_ranks import train_here
    from nas.measure.memory import release_cached

    release_cached(job.config.device)  # of this process's teachers: the training needs it
    record, progress, saved = job.trial, StageProgress(console), False

    def on_steps(steps: int) -> None:
        progress("steps trained", steps, job.steps)

    def on_end(state_saved: bool) -> None:
        nonlocal saved
        saved = state_saved

    if address is None:
        training = train_here(job, targets.path, on_steps, on_end)
    else:
        from nas.backend.cluster_ranks import train_on_cluster  # imports Ray, which takes seconds

        training = train_on_cluster(job, targets.path, address, on_steps, show, on_end)
    try:
        with progress.showing(), closing(training) as rungs:
            for rung in rungs:
                last = len(record.rungs) + 1 == len(job.config.distill.rung_steps)
                record = replace(record, rungs=(*record.rungs, rung))
                show(_evaluation_line(rung))
                loop.report(replace(record, state=TrialState.COMPLETE if last else TrialState.RUNNING))
    except KeyboardInterrupt:
        if saved:
            raise StateSaved from None
        raise
    remove_checkpoint(job)


def _live_teachers(command: TrainCommand) -> LiveTeachers | None:
    """Return the teachers that run while the student trains, if any."""
    from nas.distill.live import LiveTeachers

    session, plan = command.session, command.plan
    if plan.live_images is None:
        return None
    return LiveTeachers(
        data=session.config.data,
        images=plan.live_images,
        teachers=session.config.teachers,
        root=cache_root(session.cache),
        weights=session.teacher_weights,
        devices=plan.teacher_devices,
        augment=plan.augment,
    )


def _counted_and_measured(record: TrialRecord, config: SearchConfig, run: Path) -> TrialRecord:
    """Return the record with its size and its timing, which an earlier session may have measured."""
    from nas.backend.trial import measure
    from nas.measure.counts import network_totals
    from nas.measure.environment import device_key
    from nas.measure.service import MeasurementService

    if record.measurement is not None:
        return record
    counted = network_totals(record.spec, config.distill.img_size)
    (samples := run / SAMPLES).mkdir(exist_ok=True)
    with MeasurementService(max(1, cpu_count() - 1)) as service:  # as many threads as in a search
        measurement = measure(record, config, service, lock_dir() / device_key(config.device), samples)
    return replace(record, params=counted.params, macs=counted.macs, measurement=measurement)


def _evaluation_line(rung: RungResult) -> str:
    metrics = "".join(f"; {metric_label(name)} {value:.3f}" for name, value in rung.metrics.items())
    return f"after {plural(rung.steps, 'step')}: score {rung.score:.3f}{metrics}"


def _show_end(command: TrainCommand, loop: StudyLoop, duration: str, show: Announce) -> None:
    """Show the outcome and the commands that follow."""
    (trial,) = loop.trials.values()
    run = str(command.session.run)
    outcome = f"{command.plan.name} scores {trial.final_score:.3f} after {plural(trial.rungs[-1].steps, 'step')}"
    show(f"done after {duration}: {outcome}")
    show("next:")
    show(f"  {command_line('export', [run, '--format', 'timm'])}    write the model to a folder")
    show(f"  {command_line('report', [run, '--open'])}    open the report")
