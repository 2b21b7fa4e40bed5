"""Time the retrained models, all of them in one setting, and never lose the timings of an earlier command."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

from nas.analysis.comparable import other_versions
from nas.analysis.retraining import RETRAINING_TIMINGS
from nas.cli import one_line
from nas.command_log import announce
from nas.files import atomic_write, parse_json
from nas.numbers import plural
from nas.remeasure.arguments import RemeasureSettings
from nas.remeasure.measuring import (
    Remeasuring,
    RemeasuringPlan,
    begin_remeasurement,
    plan_remeasuring,
    setting_changes,
)
from nas.retrain.arguments import MEASURE_SECONDS, RetrainSettings
from nas.run_folder import restarted_samples_folder, samples_folder
from nas.stage_progress import StageProgress
from nas.storage.store import Store
from nas.study.records import Remeasurement, StudyRecord

RECORD = "record.json"  # the unfinished remeasurement, in the folder of its samples
_LOG = logging.getLogger(__name__)


def time_models(
    store: Store,
    study: StudyRecord,
    numbers: frozenset[int],
    settings: RetrainSettings,
    device: str,
    command: str,
    progress: StageProgress,
) -> None:
    """Time all models relative to the reference, as backbone-nas remeasure does, and save the timings in the study.

    Models that could not be timed are tried again in the setting of the others. If a model was never tried, and that
    setting is not possible here (on another device, for example), all are timed again; the earlier timings stay in the
    study until the new ones are complete.

    Args:
        store: Of the study.
        study: As the search wrote it.
        numbers: Numbers of the models to time, also those of earlier commands.
        settings: Of the user.
        device: Device of the timings.
        command: Command line that the study records.
        progress: Receives the number of timed networks.

    Raises:
        ValueError: A model that was never tried cannot be timed here.
    """
    before = next((again for again in store.remeasurements() if again.name == RETRAINING_TIMINGS), None)
    missing = numbers - before.measurements.keys() if before else numbers
    if not missing:
        if settings.measure_seconds is not None:
            timed = f"{plural(len(numbers), 'model is', 'models are')} timed already"
            announce(f"--measure-seconds: no effect, {timed}; backbone-nas remeasure times again", _LOG)
        return
    earlier_seconds = before.setting.get("seconds") if before else None
    seconds = settings.measure_seconds or earlier_seconds or MEASURE_SECONDS
    requested = RemeasureSettings(settings.run, device=device, measure_seconds=seconds, name=RETRAINING_TIMINGS)
    only_failed = before is not None and missing <= before.unmeasured.keys()
    not_again = f"{plural(len(missing), 'model')} could not be timed, and not tried again"
    try:
        plan = plan_remeasuring(study, requested, [trial for trial in study.trials if trial.number in numbers])
    except ValueError as error:  # the study's runtime is not here
        if not only_failed:
            raise
        announce(f"{not_again}: {one_line(error)}", _LOG)
        return
    changed = "; ".join(setting_changes(before, plan)) if before else ""
    if before is None or not changed:
        newest = _without_failures(before, numbers) if before else begin_remeasurement([], plan, command, restart=False)
        _time(plan, newest, samples_folder(settings.run, RETRAINING_TIMINGS), store.save_remeasurement, progress)
    elif only_failed:
        announce(f"{not_again}, because the settings differ ({changed})", _LOG)
    else:
        announce(f"measuring all models again, because the settings differ ({changed})", _LOG)
        if others := other_versions(study.info, begin_remeasurement([], plan, command, restart=False)):
            unused = f"the versions are not those of the search ({'; '.join(others)}), so the timings do not decide"
            announce(f"{unused} what is recommended", _LOG, level=logging.WARNING)
        _time_all_again(store, plan, settings.run, command, progress)


def _without_failures(again: Remeasurement, numbers: Iterable[int]) -> Remeasurement:
    tried_again = set(numbers)
    return replace(again, unmeasured={n: why for n, why in again.unmeasured.items() if n not in tried_again})


def _time_all_again(store: Store, plan: RemeasuringPlan, run: Path, command: str, progress: StageProgress) -> None:
    """Time all models of a plan, and then replace the study's timings and samples; an interrupted command continues."""
    folder = restarted_samples_folder(run, RETRAINING_TIMINGS)
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = _unfinished(folder / RECORD)
    existing = [unfinished] if unfinished and not setting_changes(unfinished, plan) else []

    def save(again: Remeasurement) -> None:
        atomic_write(folder / RECORD, json.dumps(again.to_dict()))

    newest = _time(plan, begin_remeasurement(existing, plan, command, restart=False), folder, save, progress)
    store.save_remeasurement(newest)
    (folder / RECORD).unlink()
    final = samples_folder(run, RETRAINING_TIMINGS)
    final.mkdir(parents=True, exist_ok=True)
    for samples in folder.glob("*.json"):
        samples.replace(final / samples.name)
    shutil.rmtree(folder)


def _unfinished(file: Path) -> Remeasurement | None:
    """Return the remeasurement that an interrupted command has begun; None where there is none, or it is damaged."""
    try:
        return Remeasurement.from_dict(parse_json(file.read_bytes()))
    except (OSError, ValueError):
        return None


def _time(
    plan: RemeasuringPlan,
    newest: Remeasurement,
    samples: Path,
    save: Callable[[Remeasurement], None],
    progress: StageProgress,
) -> Remeasurement:
    """Time the rest of a plan, save the remeasurement after each network, and return it."""
    remeasuring = Remeasuring(plan, samples)
    total = len(remeasuring.remaining(newest))
    for again in remeasuring.run(newest):
        save(again)
        newest = again
        done = total - len(remeasuring.remaining(again))
        progress("networks measured (candidates, baselines, reference)", done, total)
    return newest
