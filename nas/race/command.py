"""Race the candidates of a finished search, and name the model that holds."""

from __future__ import annotations

import json
import logging
import math
import sys
from contextlib import redirect_stdout
from dataclasses import asdict
from functools import partial

from nas.analysis.evidence import StudyEvidence, gather_evidence
from nas.analysis.recommendation import race_words, recommend
from nas.backend.ray_tune import open_cluster
from nas.cache import open_study_targets
from nas.command_log import announce, log_to
from nas.local_workers import default_workers
from nas.measure.environment import device_line, torch_device
from nas.numbers import plural
from nas.race.arguments import RaceSettings
from nas.race.plan import NOTHING, RacePlan, plan_race
from nas.race.running import RaceContext, race_loop, record_result, run_race, with_images, worker_spec
from nas.search.config_file import recorded_sources
from nas.search.live_report import write_report
from nas.stage_progress import StageProgress
from nas.storage.locks import only_command
from nas.storage.store import Store
from nas.study.records import RaceResult
from nas.terminal import stderr_console, write_line

_LOG = logging.getLogger(__name__)


def race(settings: RaceSettings, command: str) -> int:
    """Race, show the outcome and return the exit code; the log of the study has `command`."""
    result = race_study(settings, command)
    if result is None:
        announce(NOTHING, _LOG)
        return 0
    with Store.open(settings.run, read_only=True) as store:
        words = result_words(gather_evidence(*store.read_all()), result)
    write_line(json.dumps(asdict(result) | {"words": words}, indent=2) if settings.json else words)
    if not settings.json:
        write_report(settings.run, stderr_console())
    return 0


def race_study(settings: RaceSettings, command: str, deadline_s: float = math.inf) -> RaceResult | None:
    """Race and return how the race stands, which the study records; None where there is nothing to race for.

    Args:
        settings: Of the race.
        command: For the log of the study.
        deadline_s: Time of `time.monotonic` from which on no training is begun or passes a rung.

    Raises:
        SelectionError: The target is unknown, or no candidate was measured and trained to the last rung.
        RaceFailed: The target cannot be trained.
        StoreError: Another race is under way, or the study cannot be written.
    """
    with Store.open(settings.run) as store:
        log_to(settings.run, "race", command)
        plan = plan_race(gather_evidence(*store.read_all()), settings)
        if plan is None:
            return None
        with only_command(settings.run / "race.lock", f"another race is under way in {str(settings.run)!r}"):
            return run_here(store, plan, settings, deadline_s)


def run_here(store: Store, plan: RacePlan, settings: RaceSettings, deadline_s: float) -> RaceResult:
    """Race on workers of this machine or of the cluster that the settings name, and return how the race stands."""
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
        context = RaceContext(store, plan, targets, root, here, show, progress)
        loop = race_loop(context, deadline_s)
        if not loop.finished:
            spec = worker_spec(plan, targets.path, plan.length.first_seed, here)
            workers = workers or (None if settings.address else here)
            show("starting the workers")
            store.notify = show
            with (
                redirect_stdout(sys.stderr),  # Ray reports a lost worker on stdout, which has the result
                open_cluster(spec, workers, address=settings.address, announce=show) as cluster,
            ):
                run_race(context, loop, cluster)
    return record_result(store, plan, loop.outcome)


def plan_words(plan: RacePlan) -> str:
    """Say what a race decides, and how."""
    entrants, target = plural(len(plan.race.entrants), "candidate"), plan.to_beat
    length = f"{plan.length.steps:,} steps on up to {plan.length.images:,} images"
    if plan.later_steps is not None:
        length = f"{plan.later_steps:,} steps, as expected after {length}"
    if target is not None and plan.out_of_reach:
        target += f" (no faster candidate is likely to reach {' or '.join(plan.out_of_reach)})"
    if target is not None:
        return f"race: the fastest of {entrants} that is as good as {target} after {length}"
    if plan.race.target_score is not None:
        return f"race: the fastest of {entrants} that scores {plan.race.target_score:g} after {length}"
    return f"race: the best of {entrants} within the limits after {length}"


def result_words(evidence: StudyEvidence, result: RaceResult) -> str:
    """Return the outcome in a sentence, with its evidence."""
    if not result.decided:
        return "the race is not decided; the same command continues it"
    found = recommend(evidence)
    if found is None or found.race is None:
        return f"no candidate is likely to win after {result.decides_at:,} steps, so none was trained to the end"
    return f"{found.model.name} {race_words(found)}"
