"""Retrain the front of a study, and show each candidate's chance to be on it."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Collection, Sequence
from contextlib import redirect_stdout
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from nas.analysis.evidence import gather_evidence, timed_before
from nas.analysis.recommendation import recommend, recommended_words
from nas.analysis.retraining import (
    RETRAINING_TIMINGS,
    RetrainingSummary,
    nothing_retrained,
    retraining_json,
    summarize_retraining,
)
from nas.analysis.tables import show_retraining
from nas.analysis.trial_choice import (
    candidates_to_retrain,
    check_trained,
    complete,
    complete_candidates,
    front_candidates,
    front_numbers,
    promising_stopped,
)
from nas.backend.worker_spec import training_spec
from nas.cli import FAILED, INTERRUPTED, OperationFailed
from nas.command_log import announce, log_to
from nas.local_workers import limited_by_memory
from nas.measure.environment import code_digest, device_line, device_name, torch_device, versions
from nas.numbers import plural
from nas.retrain.arguments import PICTURE, RetrainSettings
from nas.retrain.retraining_plan import RetrainingPlan, plan_retraining
from nas.search.config_file import recorded_sources
from nas.stage_progress import StageProgress
from nas.storage.locks import only_command
from nas.storage.store import Store
from nas.study.objectives import check_plane
from nas.study.planned_trainings import PlannedTrainings
from nas.study.records import Remeasurement, Retraining, StudyRecord, TrialRecord
from nas.study.training_loop import Job
from nas.terminal import stderr_console, stdout_console, write_line

_LOG = logging.getLogger(__name__)


class RetrainingFailed(RuntimeError, OperationFailed):
    """A retraining that cannot go on; the message is one line with the reason."""


def retrain(settings: RetrainSettings, command: str) -> int:
    """Train and measure the rest of the plan, show the outcome and return the exit code: 1 if a training failed.

    The study records `command`.
    """
    with Store.open(settings.run) as store:
        return _retrain(store, settings, command)


def _retrain(store: Store, settings: RetrainSettings, command: str) -> int:
    study, plan = begin_retraining(store, settings, command)
    code = 0
    try:
        train_and_measure(store, study, plan, settings, command)
    except KeyboardInterrupt:
        left, total = len(plan.remaining(store.retrainings())), plan.total
        are = "is" if left == 1 else "are"
        left_over = f"{left} of {plural(total, 'training')} {are} left"
        announce(f"interrupted; {left_over}; run the same command again to continue", _LOG)
        code = INTERRUPTED
    _show(store, study, plan.steps, settings)
    if code == 0 and (failed := plan.remaining(store.retrainings())):
        named = ", ".join(f"trial {number} with seed {seed}" for number, seed in failed)
        announce(f"failed trainings: {named}; run the same command again to repeat them", _LOG, level=logging.ERROR)
        code = FAILED
    return code


def begin_retraining(store: Store, settings: RetrainSettings, command: str) -> tuple[StudyRecord, RetrainingPlan]:
    """Return the study and the plan of its retraining, after announcing the plan.

    Raises:
        SelectionError: No candidate was measured and trained to the last rung.
        ValueError: A setting does not fit the study.
    """
    log_to(settings.run, "retrain", command)
    study, retrainings, remeasurements = store.read_all()
    check_trained(study.info)
    check_plane(study.info.objectives, "backbone-nas retrain")
    groups = _trials_to_retrain(study, retrainings, remeasurements, settings)
    chosen = dict.fromkeys(trial.number for trials in groups.values() for trial in trials)
    by_number = {trial.number: trial for trial in study.trials}
    plan = plan_retraining(study, [by_number[number] for number in chosen], settings)
    counts = ", ".join(f"{group} {len(trials)}" for group, trials in groups.items())
    seeds = f"seed{'s' * (len(plan.seeds) > 1)} {', '.join(map(str, plan.seeds))}"
    if plan.baseline_seeds != plan.seeds:
        seeds += f", of baselines {', '.join(map(str, plan.baseline_seeds))}"
    announce(f"models to retrain: {counts}; each for {plan.steps} steps with {seeds}", _LOG)
    return study, plan


def _trials_to_retrain(
    study: StudyRecord,
    retrainings: Sequence[Retraining],
    remeasurements: Sequence[Remeasurement],
    settings: RetrainSettings,
) -> dict[str, Sequence[TrialRecord]]:
    """Return the trials by group; their front is that of the newest timings from before the retraining.

    The front of remeasurements from after it is retrained too. The retraining's own timings may recommend a model that
    was neither on that front nor a near miss. Retrained scores decide only if it is retrained too.
    """
    before = timed_before(study, remeasurements, RETRAINING_TIMINGS)
    found = recommend(gather_evidence(study, retrainings, remeasurements))
    recommended = [] if found is None else [found.by_search.trial]
    early_stopped = promising_stopped(before, settings.early_stopped)
    baselines = [t for t in complete(before) if t.baseline]
    others = [again for again in remeasurements if again.name != RETRAINING_TIMINGS]
    newest_study = timed_before(study, others, RETRAINING_TIMINGS)
    candidates = candidates_to_retrain(front_candidates(before), settings.near_misses)
    newest = complete_candidates(newest_study)
    newest_front = front_numbers(newest)
    known = {c.trial.number for c in candidates}
    groups: dict[str, Sequence[TrialRecord]] = {
        "front": [c.trial for c in candidates if c.on_front],
        "near misses": [c.trial for c in candidates if not c.on_front],
        "early-stopped": early_stopped,
        "baselines": baselines if settings.baselines else [],
    }
    if came := [trial for trial in newest if trial.number in newest_front - known]:
        groups["front of newer remeasurements"] = came
        known |= {trial.number for trial in came}
    return _with_recommended(groups, recommended, known)


def _with_recommended(
    groups: dict[str, Sequence[TrialRecord]], recommended: Sequence[TrialRecord], known: Collection[int]
) -> dict[str, Sequence[TrialRecord]]:
    """Add the recommended model where it is not known to be among the groups."""
    if new := [trial for trial in recommended if trial.number not in known]:
        groups["recommended by newer timings"] = new
    return groups


def train_and_measure(
    store: Store, study: StudyRecord, plan: RetrainingPlan, settings: RetrainSettings, command: str
) -> None:
    """Train and measure the rest of a plan; every training and measurement is in the study when it ends.

    Raises:
        StoreError: Another command retrains the study, or the study cannot be written.
    """
    refusal = f"another backbone-nas retrain is working on {str(settings.run)!r}"
    with only_command(settings.run / "retraining.lock", refusal):
        _work(store, study, plan, settings, command)


def _work(store: Store, study: StudyRecord, plan: RetrainingPlan, settings: RetrainSettings, command: str) -> None:
    from nas.cache import open_study_targets  # imports timm, which takes seconds: not for a refusal
    from nas.retrain.retiming import time_models

    progress = StageProgress(stderr_console())
    with progress.showing():
        targets = None
        if plan.remaining(store.retrainings()):  # first of all, so that missing teachers or images fail at once
            root, files = recorded_sources(settings.run, settings.cache, settings.teacher_weights)
            say = partial(announce, log=_LOG)
            targets = open_study_targets(
                plan.config, root, study=study.info, weights=files, progress=progress, announce=say
            ).path
        numbers = plan.numbers | {retraining.number for retraining in store.retrainings()}
        time_models(store, study, numbers, settings, plan.config.device, command, progress)
        if targets is not None:
            on_this_machine = settings.workers is None and settings.address is None
            if on_this_machine and (line := limited_by_memory(plan.config.device, plan.config.distill.ranks)):
                announce(f"trainings: {line}", _LOG)
            _train(store, plan, targets, settings, progress)


def _train(
    store: Store, plan: RetrainingPlan, targets: Path, settings: RetrainSettings, progress: StageProgress
) -> None:
    """Train and save each training when it ends.

    Raises:
        RetrainingFailed: Nothing can be trained here.
        RayError: Ray is gone.
    """
    from nas.backend.ray_tune import open_cluster, run_study  # imports Ray, which takes seconds

    jobs, show = plan.remaining(store.retrainings()), partial(announce, log=_LOG)
    show(device_line(torch_device(plan.config.device)))
    device = device_name(torch_device(plan.config.device))
    here = versions() | {"code": code_digest()}

    def keep(job: Job, record: TrialRecord) -> None:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        store.save_retraining(Retraining(*job, plan.steps, now, device, record.rungs, record.reason, here))
        if record.reason:
            announce(f"trial {job[0]}, seed {job[1]}: {record.reason}", _LOG, level=logging.WARNING)

    total = plan.steps * len(jobs)
    loop = PlannedTrainings(plan.trials, jobs, keep, lambda loop: progress("steps trained", loop.steps, total))
    specs = {
        seed: training_spec(replace(plan.config, seed=seed), plan.folder(seed), targets, plan.workers)
        for _, seed in jobs
    }
    first, workers = jobs[0][1], settings.workers if settings.address else plan.workers
    show("starting the workers")
    with (
        redirect_stdout(sys.stderr),  # Ray reports a lost worker on stdout, which has the result
        open_cluster(specs[first], workers, address=settings.address, announce=show) as cluster,
    ):
        specs = {seed: replace(spec, scratch=cluster.spec.scratch) for seed, spec in specs.items()}
        run_study(
            loop,
            cluster,
            spec_of=lambda record: specs[loop.job(record.number)[1]],
            advice="the same command continues",
        )
    if loop.gave_up:
        raise RetrainingFailed(f"the retraining cannot continue: {loop.gave_up}")


def retraining_summary(store: Store, study: StudyRecord, steps: int) -> RetrainingSummary | None:
    """Return the summary of a study's retrainings of `steps` steps; None where there are none."""
    again = store.remeasurements()
    return summarize_retraining(timed_before(study, again, RETRAINING_TIMINGS), store.retrainings(), again, steps)


def _show(store: Store, study: StudyRecord, steps: int, settings: RetrainSettings) -> None:
    summary = retraining_summary(store, study, steps)
    evidence = gather_evidence(study, store.retrainings(), store.remeasurements())
    recommendation = recommended_words(evidence)
    if evidence.retraining is not None and evidence.retraining.steps != steps:
        used = f"the retrainings of {evidence.retraining.steps:,} steps and not those of {steps:,}"
        recommendation += f"; this uses {used}, because at least as many models have them" if recommendation else ""
    if settings.json:
        plain = retraining_json(study, summary or nothing_retrained(study, steps)) | {"recommendation": recommendation}
        write_line(json.dumps(plain, indent=2))
    elif summary is not None:
        show_retraining(study, summary, stdout_console())
        write_line(recommendation)
    _draw(study, summary, Path(settings.plot or settings.run / PICTURE))


def _draw(study: StudyRecord, summary: RetrainingSummary | None, path: Path) -> None:
    if summary is None or not summary.complete:
        announce("no picture: no model has both a score of the retraining and a timing", _LOG)
        return
    from nas.analysis.plots import plot_retraining  # matplotlib takes a second to import

    plot_retraining(study, summary, path)
    announce(f"picture: {path}", _LOG)
