"""Measure candidates of a study again, and show the changes."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from nas.analysis.evidence import timed_before
from nas.analysis.remeasuring import compare_remeasurement, remeasuring_json
from nas.analysis.retraining import REMEASUREMENT
from nas.analysis.run_files import samples_folder
from nas.analysis.selection import trials_to_remeasure
from nas.analysis.tables import show_remeasuring
from nas.cli import INTERRUPTED, StageProgress, stderr_console, stdout_console
from nas.command_log import announce, log_to
from nas.remeasure.arguments import RemeasureSettings
from nas.storage.store import Store
from nas.study.objectives import check_plane
from nas.study.records import Remeasurement, StudyRecord
from nas.terminal import write_line

if TYPE_CHECKING:
    from nas.remeasure.measuring import Remeasuring

_LOG = logging.getLogger(__name__)


def remeasure(settings: RemeasureSettings, command: str) -> int:
    """Measure the remaining candidates, then show the comparison; the study records `command`."""
    with Store.open(settings.run, read_only=True) as store:
        study, remeasuring, newest = begin_remeasuring(store, settings, command)
    code = _measure_rest(remeasuring, newest, settings) if remeasuring.remaining(newest[0]) else 0
    _show(study, newest[0], settings)
    return code


def _measure_rest(remeasuring: Remeasuring, newest: list[Remeasurement], settings: RemeasureSettings) -> int:
    """Measure the remaining candidates; return the exit code."""
    try:
        with Store.open(settings.run) as store:
            measure(remeasuring, newest, store)
        return 0
    except KeyboardInterrupt:
        left, total = len(remeasuring.remaining(newest[0])), len(remeasuring.plan.trials)
        if left == total:
            raise
        how = "the same command, without --overwrite," if settings.overwrite else "the same command"
        announce(f"interrupted; {left} of {total} candidates are left; {how} continues", _LOG)
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
    if settings.name == REMEASUREMENT:
        raise ValueError(
            f"--name: {settings.name!r} is reserved for the timings of backbone-nas retrain; choose another"
        )
    study, _, existing = store.read_all()
    check_plane(study.info.objectives, "backbone-nas remeasure")
    trials_to_remeasure(study, settings.trials)  # refuses unknown ones, before what takes seconds is imported
    from nas.remeasure.measuring import Remeasuring, begin_remeasurement, plan_remeasuring

    plan = plan_remeasuring(study, settings, remeasurements=existing)
    newest = [begin_remeasurement(existing, plan, command, settings.overwrite)]
    before = timed_before(study, existing, plan.name)
    return before, Remeasuring(plan, samples_folder(settings.run, plan.name)), newest


def measure(remeasuring: Remeasuring, newest: list[Remeasurement], store: Store) -> None:
    """Measure; the newest state is in newest[0] and in the study after each candidate."""
    from nas.measure.environment import device_line, torch_device

    progress = StageProgress(stderr_console())
    total = len(remeasuring.remaining(newest[0]))
    announce(device_line(torch_device(remeasuring.plan.setting.device)), _LOG)
    with progress.showing():
        for again in remeasuring.run(newest[0]):
            store.save_remeasurement(again)
            newest[0] = again
            progress("networks measured", total - len(remeasuring.remaining(again)), total)


def _show(study: StudyRecord, again: Remeasurement, settings: RemeasureSettings) -> None:
    comparison = compare_remeasurement(study, again)
    if settings.json:
        write_line(json.dumps(remeasuring_json(study, again, comparison), indent=2))
    else:
        show_remeasuring(study, again, comparison, stdout_console())
    if settings.plot:
        from nas.analysis.plots import plot_remeasuring  # matplotlib takes a second to import

        plot_remeasuring(study, again, comparison, Path(settings.plot))
