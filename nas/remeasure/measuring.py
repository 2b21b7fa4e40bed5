"""Measure trials of a study again, each relative to the reference, and save each measurement at once.

`plan_remeasuring` decides the setting and the trials, `begin_remeasurement` whether an earlier run continues, and
`Remeasuring` measures.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import mode
from typing import Any

import torch

from nas.analysis.evidence import timed_before
from nas.analysis.trial_choice import complete, trials_to_remeasure
from nas.cli import one_line
from nas.measure import Arm, ArmError, Measured, Setting, torch_device
from nas.measure.device_lock import exclusive_device
from nas.measure.environment import check_compute_mode, environment
from nas.measure.measurement_error import MeasurementError
from nas.measure.memory import release_cached
from nas.measure.runtime_spec import FORMS, LAYOUTS, check_runs_here
from nas.measure.runtime_traits import PRECISIONS, RUNTIMES
from nas.measure.service import Arch, MeasurementService, save_samples
from nas.remeasure.arguments import RemeasureSettings
from nas.study.config import SearchConfig
from nas.study.records import Measurement, Remeasurement, StudyRecord, TrialRecord, TrialState

ORDER_SEED = 0
MAX_REASON_CHARACTERS = 300
# The parts of an environment that change timings: a run continues only if all of them are the same.
COMPARED_ENVIRONMENT = ("device_name", "cpu", "threads", "torch", "timm", "cuda", "cudnn", "driver")


@dataclass(frozen=True)
class RemeasuringPlan:
    """Trials and settings of a remeasurement.

    Attributes:
        name: Of the remeasurement.
        setting: How it measures.
        threads: CPU threads of the measuring process; None on a GPU.
        reference: Name of the study's reference.
        reference_arch: The reference itself: of a spec the one of the study, for a preset may have changed since.
        trials: Trials to measure, baselines included, and the comparison networks that the study has measured.
        environment: This machine's.
    """

    name: str
    setting: Setting
    threads: int | None
    reference: str
    reference_arch: Arch
    trials: tuple[TrialRecord, ...]
    environment: dict[str, Any]

    @property
    def identity(self) -> dict[str, Any]:
        """Return the setting as a `Remeasurement` records it."""
        s = self.setting
        plain = {"batch": s.batch, "resolution": s.resolution, "arm": str(s.arm), "seconds": s.budget_s}
        return plain | {"threads": self.threads, "reference": self.reference}


def plan_remeasuring(
    study: StudyRecord,
    settings: RemeasureSettings,
    trials: Sequence[TrialRecord] = (),
    remeasurements: Sequence[Remeasurement] = (),
) -> RemeasuringPlan:
    """Return the plan; settings that are None are those of most of the study's measurements.

    Args:
        study: As the search wrote it, with complete trials.
        settings: Of the user.
        trials: To measure in place of those that the settings name; the baselines are measured too.
        remeasurements: Existing ones. The front that the settings name is that of the newest timings that can be
            trusted, except those that this plan adds to.

    Raises:
        ValueError: this device or the study cannot be measured so.
    """
    config = SearchConfig.from_dict(study.info.config)
    measured = [t.measurement for t in trials or complete(study) if t.measurement]
    device = torch_device(settings.device)
    threads = _measuring_threads(device, settings.threads)
    setting = Setting(
        device=str(device),
        batch=settings.batch_size or mode(m.requested_batch or m.batch for m in measured),
        resolution=settings.img_size or mode(m.resolution for m in measured),
        arm=Arm.parse(settings.runtime, study_arm(measured)) if settings.runtime else study_arm(measured),
        budget_s=settings.measure_seconds,
    )
    check_runs_here(device.type, setting.arm.runtime, setting.arm.precision)
    here = environment(str(device), setting.arm)
    name = settings.name or _default_name(setting, here)
    if trials:
        trials = (*trials, *(t for t in complete(study) if t.baseline and t not in trials))
    else:
        trials = trials_to_remeasure(timed_before(study, remeasurements, name, settings.overwrite), settings.trials)
    reference = study.info.reference
    recorded = next((t.spec for t in study.trials if t.baseline == reference), None)
    with_scale = (*trials, *(t for t in study.scale if t.state is TrialState.MEASURED))
    return RemeasuringPlan(name, setting, threads, reference, recorded or config.arch(reference), with_scale, here)


def study_arm(measurements: Sequence[Measurement]) -> Arm:
    """Return the arm of most measurements, parsed from its text; parts that the text does not name are the defaults."""
    words = re.split(r"[\s,+]+", mode(m.arm for m in measurements).replace("_", "-"))
    vocabulary = (*RUNTIMES, *PRECISIONS, *LAYOUTS, *FORMS)
    return Arm.parse("+".join(dict.fromkeys(word for word in words if word in vocabulary)))


def begin_remeasurement(
    existing: Iterable[Remeasurement], plan: RemeasuringPlan, command: str, restart: bool
) -> Remeasurement:
    """Return the remeasurement to continue: the existing one of the plan's name, or a new one.

    With `restart`, the existing one is returned without the trials that the plan measures; it is as new as the command,
    but the measurements that it keeps have their own dates.

    Raises:
        ValueError: the existing one was measured with other settings.
    """
    new = Remeasurement(plan.name, _now(), command, plan.environment, plan.identity)
    old = next((r for r in existing if r.name == plan.name), None)
    if old is None:
        return new
    changed = setting_changes(old, plan)
    if changed and not restart:
        way_out = "choose another --name, or replace its measurements with --overwrite"
        raise ValueError(f"remeasurement {plan.name!r} has other settings ({'; '.join(changed)}); {way_out}")
    if not restart:
        return old
    numbers = {t.number for t in plan.trials}
    kept = {} if changed else {n: m for n, m in old.measurements.items() if n not in numbers}
    reasons = {} if changed else {n: r for n, r in old.unmeasured.items() if n not in numbers}
    return replace(new, measurements=kept, unmeasured=reasons, dates={n: old.measured_at(n) for n in kept})


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def setting_changes(old: Remeasurement, plan: RemeasuringPlan) -> list[str]:
    """Return the settings of a plan that differ from those of a remeasurement, each as "batch: 16 -> 1".

    The version of the runtime's library is compared where the remeasurement has it: older ones do not.
    """
    library = plan.setting.arm.traits.packages
    compared = (*COMPARED_ENVIRONMENT, *(library if any(k in old.environment for k in library) else ()))
    now = {k: plan.environment.get(k) for k in compared} | plan.identity
    before = {k: old.environment.get(k) for k in compared} | old.setting
    return [f"{k}: {before.get(k)} -> {now[k]}" for k in now if before.get(k) != now[k]]


def _measuring_threads(device: torch.device, requested: int | None) -> int | None:
    """Return the threads: by default all CPUs but one, as in searches.

    OpenMP waits for its slowest thread, and the system needs a CPU.
    """
    if device.type != "cpu":
        return requested
    threads = requested or max(1, int(environment("cpu")["cpus"]) - 1)
    torch.set_num_threads(threads)  # for `environment`; the measuring process sets its threads itself
    return threads


def _default_name(setting: Setting, here: dict[str, Any]) -> str:
    """Return a name such as cpu-b16-64px-eager+fp32+channels-last+fused."""
    device = "cpu" if setting.device == "cpu" else str(here["device_name"])
    kind = re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")
    return f"{kind}-b{setting.batch}-{setting.resolution}px-{setting.arm}"


class Remeasuring:
    """Measures the trials of a plan.

    Args:
        plan: trials and settings.
        samples_dir: folder for the raw samples.
        open_service: opens a measurement service with a number of threads; called again after each crash.
    """

    def __init__(
        self,
        plan: RemeasuringPlan,
        samples_dir: Path,
        open_service: Callable[[int | None], MeasurementService] | None = None,
    ) -> None:
        self.plan, self._samples_dir, self._open = plan, samples_dir, open_service or MeasurementService
        self._reference = next((t for t in plan.trials if t.name == plan.reference), None)

    def remaining(self, again: Remeasurement) -> list[TrialRecord]:
        """Return the trials still to be measured, in random order, so that drift favors no part of the front."""
        done = again.measurements.keys() | again.unmeasured.keys()
        remaining = [t for t in self.plan.trials if t.number not in done]
        random.Random(ORDER_SEED).shuffle(remaining)
        return remaining

    def run(self, again: Remeasurement) -> Iterator[Remeasurement]:
        """Yield the remeasurement after each trial, the reference first.

        Raises:
            DeviceError: the GPU takes one process, but a second one measures.
            ValueError: the reference cannot be measured here, so no trial can.
        """
        if not self.remaining(again):
            return
        check_compute_mode(self.plan.setting.device)
        self._service = self._open(self.plan.threads)
        try:
            if again.floor is None:
                again = self._measure_reference(again)
                yield again
            for trial in self.remaining(again):
                again = self._measure_trial(again, trial)
                yield again
        finally:
            self._service.close()

    def _measure_reference(self, again: Remeasurement) -> Remeasurement:
        trial, name = self._reference, self.plan.reference
        try:
            measured = self._measure(self.plan.reference_arch)
        except ArmError:
            raise
        except Exception as error:
            raise ValueError(
                f"the reference {name} cannot be measured here, so no candidate can: {_reason(error)}"
            ) from error
        self._save_samples(measured, trial.arch_id if trial else name)
        again = replace(again, floor=measured.record)
        return _with_measurement(again, trial.number, measured.record) if trial else again

    def _measure_trial(self, again: Remeasurement, trial: TrialRecord) -> Remeasurement:
        try:
            measured = self._measure(trial.spec or trial.arch_id)
        except Exception as error:  # of whatever kind: this candidate causes it, for the reference has run
            if isinstance(error, MeasurementError) and error.verdict == "crash":
                self._service.close()  # the process that has ended may be the service's
                self._service = self._open(self.plan.threads)
            return replace(again, unmeasured={**again.unmeasured, trial.number: _reason(error)})
        self._save_samples(measured, trial.arch_id)
        return _with_measurement(again, trial.number, measured.record)

    def _measure(self, arch: Arch) -> Measured:
        setting, reference = self.plan.setting, self.plan.reference
        release_cached(setting.device)  # of teachers that this process has run: another process measures
        with exclusive_device(setting.device):
            return self._service.measure(arch, self.plan.reference_arch, setting, name_of_reference=reference)

    def _save_samples(self, measured: Measured, name: str) -> None:
        save_samples(measured, self._samples_dir / f"{name.replace('/', '-')}.json")


def _with_measurement(again: Remeasurement, number: int, new: Measurement) -> Remeasurement:
    return replace(again, measurements={**again.measurements, number: new}, dates={**again.dates, number: _now()})


def _reason(error: Exception) -> str:
    text, verdict = one_line(error), error.verdict if isinstance(error, MeasurementError) else ""
    return (text if text.startswith(verdict) else f"{verdict}: {text}")[:MAX_REASON_CHARACTERS]
