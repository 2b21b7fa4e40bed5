"""Measure candidates of a study again, and show the changes."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from statistics import mode
from typing import TYPE_CHECKING

from nas.analysis.evidence import timed_before
from nas.analysis.remeasuring import RemeasuringComparison, compare_remeasurement, remeasuring_json
from nas.analysis.retraining import RETRAINING_TIMINGS
from nas.analysis.tables import show_remeasuring
from nas.analysis.trial_choice import check_measured, trials_to_remeasure
from nas.cli import FAILED, INTERRUPTED
from nas.command_log import announce, log_to
from nas.numbers import plural
from nas.remeasure.arguments import RemeasureSettings
from nas.run_folder import samples_folder
from nas.stage_progress import StageProgress
from nas.storage.locks import only_command
from nas.storage.store import Store
from nas.study.objectives import check_plane
from nas.study.records import Remeasurement, StudyRecord, TrialRecord
from nas.terminal import stderr_console, stdout_console, write_line
from search_space import ArchSpec
from search_space.windows import padded_maps

if TYPE_CHECKING:
    from nas.remeasure.measuring import Remeasuring

_LOG = logging.getLogger(__name__)


def remeasure(settings: RemeasureSettings, command: str) -> int:
    """Measure the remaining candidates, then show the comparison; the study records `command`.

    Returns:
        The exit code: 1 if no candidate has a measurement.
    """
    code = 0
    with Store.open(settings.run, read_only=True) as store:
        study, remeasuring, newest = begin_remeasuring(store, settings, command)
    name = remeasuring.plan.name
    if remeasuring.remaining(newest[0]):
        code = _measure_rest(remeasuring, newest, settings, command)
    else:
        announce(f"nothing to measure: remeasurement {name!r} has all candidates; --overwrite measures again", _LOG)
    comparison = compare_remeasurement(study, newest[0])
    _show(study, newest[0], comparison, settings)
    if code == 0 and (reason := _why_none(remeasuring.plan.trials, comparison)) is not None:
        why = f"no candidate could be measured: {reason}"
        announce(f"failed: {why}; --overwrite tries again", _LOG, level=logging.ERROR)
        code = FAILED
    return code


def _why_none(trials: Sequence[TrialRecord], comparison: RemeasuringComparison) -> str | None:
    """Return the most frequent reason why none of the trials' candidates could be measured; None where one was."""
    candidates = {trial.number for trial in trials if not trial.baseline}
    reasons = [c.reason for c in comparison.candidates if c.trial.number in candidates]
    failures = [reason for reason in reasons if reason is not None]
    return mode(failures) if failures and len(failures) == len(reasons) else None


def _measure_rest(
    remeasuring: Remeasuring, newest: list[Remeasurement], settings: RemeasureSettings, command: str
) -> int:
    """Measure the remaining candidates; return the exit code."""
    try:
        with Store.open(settings.run) as store:
            measure(remeasuring, newest, store, settings, command)
        return 0
    except KeyboardInterrupt:
        left, total = len(remeasuring.remaining(newest[0])), len(remeasuring.plan.trials)
        if left == total:
            raise
        how = "run the same command again without --overwrite" if settings.overwrite else "run the same command again"
        are = "is" if left == 1 else "are"
        announce(f"interrupted; {left} of {plural(total, 'network')} {are} left; {how} to continue", _LOG)
        return INTERRUPTED


def begin_remeasuring(
    store: Store, settings: RemeasureSettings, command: str
) -> tuple[StudyRecord, Remeasuring, list[Remeasurement]]:
    """Return the study, what measures its candidates, and a list with the remeasurement to begin or continue.

    The study's timings are the newest ones that can be trusted and are older than this remeasurement. They decide which
    models are on the front, and the new timings are compared with them.

    Raises:
        SelectionError: The study has no complete candidate, or the settings name none.
        ValueError: The study cannot be measured so, or the remeasurement of that name has other settings.
    """
    log_to(settings.run, "remeasure", command)
    if settings.name == RETRAINING_TIMINGS:
        raise ValueError(
            f"--name: {settings.name!r} is reserved for the timings of backbone-nas retrain; choose another"
        )
    study, _, existing = store.read_all()
    check_measured(study.info)
    check_plane(study.info.objectives, "backbone-nas remeasure")
    trials_to_remeasure(study, settings.trials)  # refuses unknown ones, before what takes seconds is imported
    from nas.remeasure.measuring import Remeasuring, begin_remeasurement, plan_remeasuring

    plan = plan_remeasuring(study, settings, remeasurements=existing)
    newest = [begin_remeasurement(existing, plan, command, settings.overwrite)]
    before = timed_before(study, existing, plan.name, settings.overwrite)
    return before, Remeasuring(plan, samples_folder(settings.run, plan.name)), newest


def measure(
    remeasuring: Remeasuring, newest: list[Remeasurement], store: Store, settings: RemeasureSettings, command: str
) -> None:
    """Measure the remaining candidates; the newest state is in newest[0] and in the study after each of them.

    Raises:
        StoreError: Another command measures under this name, or the study cannot be written.
        ValueError: Another command has begun a remeasurement of this name with other settings, or the reference cannot
            be measured here.
    """
    name = remeasuring.plan.name
    another = f"another backbone-nas remeasure measures {name!r} in {str(settings.run)!r}"
    refusal = f"{another}; wait for it, or give a --name"
    with only_command(settings.run / f"remeasuring-{name}.lock", refusal):
        _measure(remeasuring, newest, store, settings, command)


def _measure(
    remeasuring: Remeasuring, newest: list[Remeasurement], store: Store, settings: RemeasureSettings, command: str
) -> None:
    from nas.measure.environment import device_line, torch_device
    from nas.remeasure.measuring import begin_remeasurement

    # Another command may have ended since the study was read: a record is saved as a whole, and would replace its.
    newest[0] = begin_remeasurement(store.remeasurements(), remeasuring.plan, command, settings.overwrite)
    progress = StageProgress(stderr_console())
    total = len(remeasuring.remaining(newest[0]))
    announce(device_line(torch_device(remeasuring.plan.setting.device)), _LOG)
    if line := _padding_line(remeasuring.plan.trials, remeasuring.plan.setting.resolution):
        announce(line, _LOG)
    with progress.showing():
        for again in remeasuring.run(newest[0]):
            store.save_remeasurement(again)
            newest[0] = again
            progress("networks measured", total - len(remeasuring.remaining(again)), total)


def _padding_line(trials: Sequence[TrialRecord], image_px: int) -> str:
    """Return a line about networks whose windows do not tile their maps at a size; "" where there are none."""
    specs = [spec for trial in trials if trial.spec and isinstance(spec := trial.network, ArchSpec)]
    padded = [max(found.values()) for spec in specs if (found := padded_maps(spec, image_px))]
    if not padded:
        return ""
    return (
        f"at {image_px} px the windows of {len(padded)} of {plural(len(trials), 'network')} do not tile their maps,"
        f" which are padded: attention there runs on up to {max(padded):.2g} times the tokens. A search at that size"
        " chooses windows that fit"
    )


def _show(
    study: StudyRecord, again: Remeasurement, comparison: RemeasuringComparison, settings: RemeasureSettings
) -> None:
    if settings.json:
        write_line(json.dumps(remeasuring_json(study, again, comparison), indent=2))
    else:
        show_remeasuring(study, again, comparison, stdout_console())
    if settings.plot:
        from nas.analysis.plots import plot_remeasuring  # matplotlib takes a second to import

        plot_remeasuring(study, again, comparison, settings.plot)
