"""Train random architectures to the last rung, score them on the way, and keep what they give: the work of a pilot.

They are trained as a search trains its candidates: with its images, teachers, seed and recipe, whose learning rate is
constant after the warm-up, so that a score at a rung is the one that a search with that rung would see.

The folder has `pilot.json`, a `PilotRecord`, and the files of the trainings. A finished training is recorded at once;
an unfinished one continues from its checkpoint.
"""

from __future__ import annotations

import hashlib
import json
import logging
import random
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from nas.analysis.rung_choice import measured_rungs
from nas.backend.training_rank import TrainingFailed
from nas.backend.worker_spec import recipe_here, training_spec
from nas.cache import Targets, open_study_targets
from nas.cli import one_line
from nas.command_log import announce, log_to
from nas.distill.precision import choose_precision
from nas.files import atomic_write, parse_json
from nas.local_workers import visible_gpus
from nas.machine import cache_root
from nas.measure.counts.totals import totals
from nas.measure.environment import device_line, torch_device
from nas.plan.arguments import PlanSettings
from nas.plan.probe import device_locks
from nas.redaction import public_word
from nas.samplers.known_cost.sampler import van_der_corput
from nas.search.preconditions import check_image_count, too_few_within_limits
from nas.search.study_opening import train_threads
from nas.stage_progress import StageProgress
from nas.storage.locks import only_command
from nas.study.config import DistillConfig, SearchConfig
from nas.study.limits import broken_limit
from nas.study.planned_trainings import PlannedTrainings
from nas.study.records import Record, TrialRecord, TrialState
from nas.study.training_loop import Job
from nas.teachers import enlarged_maps, specs
from nas.validation import ConfigError

FILE_NAME = "pilot.json"
_POOL = 256  # random architectures, among which the models are chosen by their cost
_MAX_DRAWS = 1024  # random architectures that are counted at most, to find _POOL within the limits
# The settings that a pilot's numbers depend on: one pilot serves searches that differ in the others.
_SETTINGS = (
    *("seed", "space", "teachers", "train_images", "val_images", "views", "target_dtype", "device", "limits"),
    *("teacher_precision", "distill"),
)
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class PilotRecord(Record):
    """What a pilot keeps."""

    settings: dict[str, Any]  # of `_SETTINGS`, with the measured rungs
    precision: str  # of all trainings, where the settings leave it to the search
    targets: str  # fingerprint of images and teachers
    trials: tuple[TrialRecord, ...] = ()  # that have ended; failed ones are trained again
    format: int = 1


def pilot_folder(settings: PlanSettings) -> Path:
    """Return the folder of a pilot: the given one, or one that the same settings always have."""
    if settings.run is not None:
        return Path(settings.run)
    content = json.dumps(recorded_settings(settings.config), sort_keys=True)
    digest = hashlib.sha256(content.encode()).hexdigest()[:8]
    return Path(f"runs/pilot-{settings.config.space}-{digest}")


def train_models(settings: PlanSettings, command: str, progress: StageProgress) -> tuple[TrialRecord, ...]:
    """Train the models that are not trained yet, and return all of them, complete or failed.

    Args:
        settings: The search and the pilot.
        command: Command line, for the log.
        progress: Shows the trained steps.

    Raises:
        ConfigError: The folder has a pilot of other settings or images, or it cannot be made.
        StoreError: Another command works there, or it cannot be written.
    """
    folder, config = pilot_folder(settings), settings.config
    trials = pilot_trials(config, settings.pilot_models)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--run: cannot write {str(folder)!r}: {error.strerror}") from None
    with only_command(folder / "pilot.lock", f"--run: another pilot is working in {str(folder)!r}"):
        log_to(folder, "pilot", command)
        record = _read(folder, config)
        done = {trial.arch_id for trial in record.trials if trial.state is TrialState.COMPLETE} if record else set()
        remaining = [trial for trial in trials if trial.arch_id not in done]
        if record is None or remaining:
            record, targets = _begin(folder, settings, record, progress)
            record = _train(folder, settings, record, remaining, targets, progress)
    ended = {trial.arch_id: trial for trial in record.trials}
    return tuple(replace(ended[trial.arch_id], number=trial.number) for trial in trials)


def recorded_settings(config: SearchConfig) -> dict[str, Any]:
    """Return the settings that a pilot's numbers depend on, without secrets.

    Args:
        config: Settings of the search.
    """
    plain = replace(config, distill=pilot_recipe(config)).to_dict()
    recorded = {name: plain[name] for name in _SETTINGS} | {"data": public_word(config.data)}
    return recorded | ({"choices": plain["choices"]} if config.choices else {})


def pilot_recipe(config: SearchConfig) -> DistillConfig:
    """Return the recipe of the trainings, whose rungs are the measured ones.

    It has one rank, as seconds have in the record: ranks share batches and their statistics, so that the training is
    the same. How many processes train a model on this machine is what `nas.backend.worker_spec.recipe_here` says.

    Args:
        config: Settings of the search.
    """
    recipe = config.distill
    own, last = recipe.rung_steps, recipe.rung_steps[-1]
    rungs = measured_rungs(last, config.reduction_factor, recipe.warmup_steps, own)
    return replace(recipe, rung_steps=rungs, ranks=1)


def pilot_trials(config: SearchConfig, number: int) -> tuple[TrialRecord, ...]:
    """Return random architectures within the limits on counted costs, spread over the cost of such architectures.

    Of `_POOL` random architectures in the order of their MACs, the first is from the middle, the next from the
    quarters, then from the eighths, and so on (the sequence of van der Corput): more models include those of fewer.

    Args:
        config: Settings of the search.
        number: Number of architectures.

    Raises:
        ConfigError: Too few random architectures are within the limits.
    """
    rng, space = random.Random(f"pilot/{config.seed}"), config.search_space
    drawn: dict[str, TrialRecord] = {}
    for _ in range(_MAX_DRAWS):
        spec = space.sample(rng)
        counts = totals(spec, config.distill.img_size)
        if not broken_limit(counts, config.limits):
            drawn[spec.arch_id] = TrialRecord(
                0, spec.arch_id, spec.to_dict(), TrialState.RUNNING, params=counts.params, macs=counts.macs
            )
        if len(drawn) == _POOL:
            break
    if len(drawn) < number:
        raise too_few_within_limits(config, len(drawn), _MAX_DRAWS, number, "--pilot-models")
    by_cost = sorted(drawn.values(), key=lambda trial: (trial.macs or 0, trial.arch_id))
    places = list(dict.fromkeys(int(van_der_corput(i) * len(by_cost)) for i in range(1, 2 * _POOL + 1)))
    return tuple(replace(by_cost[place], number=i) for i, place in enumerate(places[:number]))


def _read(folder: Path, config: SearchConfig) -> PilotRecord | None:
    """Return the record of a folder, None where there is none; ConfigError for one that this pilot cannot continue."""
    path = folder / FILE_NAME
    try:
        record = PilotRecord.from_dict(parse_json(path.read_bytes()))
        ours, theirs = map(_flat, (record.settings, recorded_settings(config)))
    except FileNotFoundError:
        return None
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"{path}: not the record of a pilot: {one_line(error)}") from None
    changed = [f"{name}: {ours.get(name)} -> {value}" for name, value in theirs.items() if ours.get(name) != value]
    if changed:
        raise ConfigError(f"--run: {folder} has a pilot of other settings: {'; '.join(changed)}; name another folder")
    return record


def _flat(settings: dict[str, Any]) -> dict[str, Any]:
    return {**settings, **settings["distill"], "distill": None}


def _begin(
    folder: Path, settings: PlanSettings, record: PilotRecord | None, progress: StageProgress
) -> tuple[PilotRecord, Targets]:
    """Open images and teachers, and choose the precision where no training has it; return the record with both."""
    config = settings.config
    announce(device_line(torch_device(config.device)), _LOG)
    if enlarged := enlarged_maps(specs(config.teachers, settings.weights), config.grid, config.distill.img_size):
        announce(f"warning: {enlarged}", _LOG, level=logging.WARNING)

    def check_counts(train: int, val: int) -> None:
        if too_few := check_image_count(config, train, val):
            announce(f"warning: --data {too_few}", _LOG, level=logging.WARNING)

    targets = open_study_targets(
        config, cache_root(settings.cache), weights=settings.weights, progress=progress,
        announce=partial(announce, log=_LOG), check_counts=check_counts,
    )  # fmt: skip
    check_image_count(config, len(targets.train) // config.views, len(targets.val))  # those that could be decoded
    config.distill.check_teachers(list(targets.teachers))
    if record is None:
        precision, recipe = config.distill.precision, _recipe_here(config)
        if precision == "auto":
            here, threads = replace(config, distill=recipe), train_threads(_at_a_time(settings, recipe))
            reference = config.spec(config.search_space.reference)
            choice = choose_precision(reference, targets, here, threads, device_locks(config.device))
            announce(str(choice), _LOG)
            precision = choice.precision
        record = PilotRecord(recorded_settings(config), precision, targets.fingerprint)
        _write(folder, record)
    if record.targets != targets.fingerprint:
        raise ConfigError(f"--run: {folder} has a pilot of other images or teachers; name another folder")
    return record, targets


def _write(folder: Path, record: PilotRecord) -> None:
    atomic_write(folder / FILE_NAME, json.dumps(record.to_dict()), sync=True)


def _gpus(config: SearchConfig) -> tuple[str, ...]:
    return visible_gpus() if config.device == "cuda" else ()


def _recipe_here(config: SearchConfig) -> DistillConfig:
    """Return the recipe of the trainings with the processes that one takes on this machine."""
    return recipe_here(replace(pilot_recipe(config), ranks=config.distill.ranks), _gpus(config))


def _at_a_time(settings: PlanSettings, recipe: DistillConfig) -> int:
    """Return how many trainings fit into the pilot's workers, which are processes."""
    return max(1, settings.workers // recipe.ranks)


def _train(
    folder: Path,
    settings: PlanSettings,
    record: PilotRecord,
    remaining: Sequence[TrialRecord],
    targets: Targets,
    progress: StageProgress,
) -> PilotRecord:
    """Train models, and record each as soon as it ends; return the record.

    Raises:
        TrainingFailed: Nothing can be trained here.
        RayError: Ray is gone.
    """
    from nas.backend.ray_tune import open_cluster, run_study  # imports Ray, which takes seconds

    recipe = replace(_recipe_here(settings.config), precision=record.precision)
    config, at_a_time = replace(settings.config, distill=recipe, limits={}), _at_a_time(settings, recipe)
    trials, last = {trial.number: trial for trial in remaining}, recipe.rung_steps[-1]

    def keep(job: Job, ended: TrialRecord) -> None:
        nonlocal record
        rungs = tuple(replace(rung, seconds=rung.seconds * recipe.ranks) for rung in ended.rungs)
        trial = replace(trials[job[0]], state=ended.state, rungs=rungs, reason=ended.reason)
        others = tuple(other for other in record.trials if other.arch_id != trial.arch_id)
        record = replace(record, trials=(*others, trial))
        _write(folder, record)
        if trial.reason:
            announce(f"model {trial.number} ({trial.arch_id}): {trial.reason}", _LOG, level=logging.WARNING)

    def show(loop: PlannedTrainings) -> None:
        before = last * (settings.pilot_models - len(remaining))
        stage = f"steps trained, of {settings.pilot_models} models"
        progress(stage, before + loop.steps, last * settings.pilot_models)

    loop = PlannedTrainings(remaining, [(number, config.seed) for number in trials], keep, show)
    show(loop)
    spec = training_spec(config, folder, targets.path, at_a_time)
    with (
        redirect_stdout(sys.stderr),  # Ray reports a lost worker on stdout, which has the result
        open_cluster(spec, at_a_time, announce=partial(announce, log=_LOG)) as cluster,
    ):
        run_study(loop, cluster, advice="the same command continues")
    if loop.gave_up:
        raise TrainingFailed(f"the pilot cannot continue: {loop.gave_up}")
    return record
