"""Race the candidates of a finished search, and name the model that holds."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from statistics import fmean

from nas.analysis.evidence import gather_evidence
from nas.backend.ray_tune import open_cluster
from nas.cache import open_study_targets
from nas.command_log import announce, log_to
from nas.local_workers import default_workers
from nas.measure.environment import device_line, torch_device
from nas.numbers import plural
from nas.race.arguments import RaceSettings
from nas.race.plan import NOTHING, RacePlan, plan_race
from nas.race.running import chance_words, run_race, with_images, worker_spec
from nas.search.config_file import recorded_sources
from nas.stage_progress import StageProgress
from nas.storage.liveness import only_command
from nas.storage.store import Store
from nas.study.records import RaceResult
from nas.terminal import stderr_console, write_line

_LOG = logging.getLogger(__name__)


def race(settings: RaceSettings, command: str) -> int:
    """Race, show the outcome and return the exit code.

    The log of the study has `command`.
    """
    with Store.open(settings.run) as store:
        log_to(settings.run, "race", command)
        plan = plan_race(gather_evidence(*store.read_all()), settings)
        if plan is None:
            announce(NOTHING, _LOG)
            return 0
        with only_command(settings.run / "race.lock", f"another race is under way in {str(settings.run)!r}"):
            result, plan = _race(store, plan, settings)
        words = result_words(store, plan, result)
        write_line(json.dumps(asdict(result) | {"words": words}, indent=2) if settings.json else words)
    return 0


def _race(store: Store, plan: RacePlan, settings: RaceSettings) -> tuple[RaceResult, RacePlan]:
    show = partial(announce, log=_LOG)
    progress = StageProgress(stderr_console())
    config, workers = plan.config, settings.workers
    show(plan_words(plan))
    show(device_line(torch_device(config.device)))
    root, files = recorded_sources(settings.run, settings.cache, settings.teacher_weights)
    with progress.showing():
        targets = open_study_targets(
            config, root, study=store.info, other_images=True, weights=files, progress=progress, announce=show
        )
        plan = with_images(plan, targets)
        here = workers or default_workers(config.device, config.distill.ranks, settings.address is not None)
        spec = worker_spec(plan, targets.path, plan.length.first_seed, here)
        workers = workers or (None if settings.address else here)
        show("starting the workers")
        store.notify = show
        with open_cluster(spec, workers, address=settings.address, announce=show) as cluster:
            result = run_race(
                store, plan, targets, cluster, root, workers_per_machine=here, show=show, progress=progress
            )
    return result, plan


def plan_words(plan: RacePlan) -> str:
    """Say what a race decides, and how."""
    runners, target = plural(len(plan.race.runners), "candidate"), plan.target_name
    length = f"{plan.length.steps:,} steps on up to {plan.length.images:,} images"
    if target is not None:
        return f"race: the fastest of {runners} faster than {target} that is as good after {length}"
    if plan.race.target_score is not None:
        return f"race: the fastest of {runners} that scores {plan.race.target_score:g} after {length}"
    return f"race: the best of {runners} within the limits after {length}"


def scores_of(store: Store, result: RaceResult) -> Mapping[int, list[float]]:
    """Return the finished trainings' scores by trial, those of the first seed first."""
    scores: dict[int, list[float]] = {}
    for training in sorted(store.race_trainings(), key=lambda t: t.seed):
        same = (training.steps, training.images) == (result.steps, result.images)
        if same and not math.isnan(training.record.final_score):
            scores.setdefault(training.number, []).append(training.record.final_score)
    return scores


def result_words(store: Store, plan: RacePlan, result: RaceResult) -> str:
    """Return the outcome in a sentence, with its evidence."""
    if not result.decided:
        return "the race is not decided; the same command continues it"
    scores, race = scores_of(store, result), plan.race
    speeds = {runner.number: runner.speed for runner in (*race.runners, *filter(None, [race.target]))}
    target = plan.target_name
    level = target or ("the best" if race.target_score is None else f"a score of {race.target_score:g}")
    if result.best is None:
        return f"no candidate is likely to be as good as {level} after {result.steps:,} steps; none was trained"
    seeds = plural(len(scores[result.best]), "training")
    words = f"{plan.name(result.best)}: score {fmean(scores[result.best]):.4f} after {result.steps:,} steps ({seeds})"
    if result.target is not None:
        words += f" against {fmean(scores[result.target]):.4f} of {target}"
        words += f", {speeds[result.best] / speeds[result.target]:.2f} times its throughput"
    words += f"; {chance_words(result.chance or 0.0, target)}"
    return words if result.winner is not None else f"no candidate passes; the nearest is {words}"
