"""Follow a remeasurement from the plan to the record: where it continues, and reasons in place of numbers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest

from nas.analysis.remeasuring import compare_remeasurement, remeasuring_notes
from nas.measure import Arm, ArmError, DeviceError, Measured, MeasurementError, Setting
from nas.remeasure.arguments import RemeasureSettings
from nas.remeasure.measuring import (
    Remeasuring,
    RemeasuringPlan,
    begin_remeasurement,
    plan_remeasuring,
    setting_changes,
    study_arm,
)
from nas.storage.store import Store
from nas.study.records import Remeasurement, StudyRecord, TrialRecord, TrialState
from search_space import preset
from tests.nas.analysis.builders import REFERENCE, new_store, remeasured, small_study
from tests.nas.doctor import gpus
from tests.nas.study.builders import measurement


@pytest.fixture(autouse=True)
def own_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


class FakeService:
    """Measures every candidate, except those whose spec or name `raises` maps to an error."""

    def __init__(self, raises: dict[str, Exception]) -> None:
        self.raises, self.opened, self.measured = raises, 0, []  # type: ignore[var-annotated]

    def __call__(self, threads: int | None) -> FakeService:
        self.opened += 1
        return self

    def measure(self, candidate: Any, reference: Any, setting: Setting, *, name_of_reference: str) -> Measured:
        key = json.dumps(candidate, sort_keys=True)
        self.measured.append(key)
        if key in self.raises:
            raise self.raises[key]
        return Measured(measurement(1.0), {"candidate_s": [1.0]})

    def close(self) -> None:
        pass


def key_of(trial: TrialRecord) -> str:
    return json.dumps(trial.spec, sort_keys=True)


def plan_of(study: StudyRecord, **settings: Any) -> RemeasuringPlan:
    setting = Setting("cpu", **{"batch": 2, "resolution": 64, "budget_s": 0.1, **settings})
    spec, here = preset(REFERENCE).to_dict(), {"device_name": "here", "torch": "2"}
    return RemeasuringPlan("r", setting, 1, REFERENCE, spec, (*study.trials, *study.scale), here)


@pytest.mark.parametrize(
    ("text", "arm"),
    [
        ("fp32", Arm()),  # synthetic records
        ("fp32 channels_last fused eager", Arm()),
        ("fp32, channels-last, fused but for 3 BatchNorms, eager, 1 thread", Arm()),
        ("bf16, nchw, unfused, compiled", Arm("compiled", "bf16", "nchw", "unfused")),
    ],
)
def test_the_arm_of_a_study_is_read_from_its_records(text: str, arm: Arm) -> None:
    assert study_arm([replace(measurement(1.0), arm=text)]) == arm


def test_a_remeasurement_is_kept_in_the_study_as_text(tmp_path: Path) -> None:
    store = new_store(tmp_path, small_study())
    now = remeasured({0: 1.0, 1: 4.0}, {2: "hang: no result after 9 s"})
    plain = now.to_dict()
    for name in ("notes", "tries", "conditions", "energy_j"):
        del plain["measurements"]["1"][name]  # a record of an earlier version
    assert Remeasurement.from_dict(plain) == now
    store.save_remeasurement(replace(now, name="later", created="2026-01-02"))
    store.save_remeasurement(now)
    assert Store.open(tmp_path).remeasurements() == (now, replace(now, name="later", created="2026-01-02"))
    kept = optuna.load_study(study_name=None, storage=f"sqlite:///{tmp_path}/study.db").user_attrs
    assert set(kept) == {"info", "remeasurement:r", "remeasurement:later"}
    assert isinstance(kept["remeasurement:r"], str)  # a dict would be decoded and copied whenever `info` is read


def test_a_remeasurement_continues_only_as_it_began() -> None:
    plan = plan_of(small_study())
    old = replace(remeasured({0: 1.0, 9: 1.0}), environment=plan.environment, setting=plan.identity)
    assert begin_remeasurement([old], plan, "c", restart=False) is old
    with pytest.raises(ValueError, match=r"\(batch: 2 -> 3\).*--name"):
        begin_remeasurement([old], plan_of(small_study(), batch=3), "c", restart=False)
    with pytest.raises(ValueError, match=r"torch: 1 -> 2"):
        begin_remeasurement([replace(old, environment={**plan.environment, "torch": "1"})], plan, "c", restart=False)
    restarted = begin_remeasurement([old], plan, "c", restart=True)
    assert (list(restarted.measurements), restarted.floor) == ([9], None)  # the plan does not measure 9
    assert restarted.created > old.created
    assert restarted.dates == {9: old.created}
    assert begin_remeasurement([old], plan_of(small_study(), batch=3), "c", restart=True).measurements == {}


def test_a_remeasurement_continues_in_the_same_version_of_its_runtime_only() -> None:
    plan = plan_of(small_study(), arm=Arm("onnxruntime"))
    plan = replace(plan, environment={**plan.environment, "onnxruntime": "1.32", "tensorrt": "11"})

    def changes(**libraries: str) -> list[str]:
        before = {**plan_of(small_study()).environment, **libraries}
        return setting_changes(replace(remeasured({0: 1.0}), environment=before, setting=plan.identity), plan)

    assert changes(onnxruntime="1.20") == ["onnxruntime: 1.20 -> 1.32"]
    assert changes(onnxruntime="1.32", tensorrt="10") == []
    assert changes(**{"onnxruntime-gpu": "1.32"}) == ["onnxruntime: None -> 1.32", "onnxruntime-gpu: 1.32 -> None"]
    assert changes() == []  # an older version of this package has not recorded it


def test_unmeasurable_trials_have_reasons_and_the_rest_continues(tmp_path: Path) -> None:
    study = small_study()
    errors = (
        MeasurementError("crash", "the process was ended by SIGKILL"),
        MeasurementError("out of memory", "out of memory, even for one image"),
        ArmError("runtime: cannot run this"),
        KeyError("odd"),
    )
    service = FakeService({key_of(study.trials[n]): error for n, error in enumerate(errors, start=1)})
    again = begin_remeasurement([], plan_of(study), "c", restart=False)
    steps = list(Remeasuring(plan_of(study), tmp_path, service).run(again))  # type: ignore[arg-type]
    assert steps[-1].unmeasured == {
        1: "crash: the process was ended by SIGKILL",
        2: "out of memory, even for one image",
        3: "runtime: cannot run this",
        4: "'odd'",
    }
    assert set(steps[-1].measurements) == set(steps[-1].dates) == {0, 5}
    assert service.measured[0] == key_of(study.trials[0])  # the reference first
    assert len(steps) == len(service.measured) == 6
    assert service.opened == 2  # the crash may have ended the first service
    assert {p.stem for p in tmp_path.iterdir() if p.suffix} == {study.trials[n].arch_id for n in (0, 5)}


def test_trials_are_measured_in_a_random_order_that_is_the_same_when_the_command_continues(tmp_path: Path) -> None:
    plan = plan_of(small_study(dict.fromkeys(range(20), (0.1, 1.0))))
    remeasuring = Remeasuring(plan, tmp_path)
    order = [t.number for t in remeasuring.remaining(begin_remeasurement([], plan, "c", restart=False))]
    assert sorted(order) == list(range(20))
    assert order != sorted(order)
    assert order == [t.number for t in Remeasuring(plan, tmp_path).remaining(remeasured({}))]
    left = remeasuring.remaining(remeasured(dict.fromkeys(order[:5], 1.0), dict.fromkeys(order[5:10], "hang")))
    assert {t.number for t in left} == set(order[10:])


@pytest.mark.parametrize(
    "error", [ArmError("runtime: nothing was compiled"), MeasurementError("hang", "no result after 9 s")]
)
def test_without_the_reference_there_is_no_number(tmp_path: Path, error: Exception) -> None:
    study = small_study()
    service = FakeService({key_of(study.trials[0]): error})
    again = begin_remeasurement([], plan_of(study), "c", restart=False)
    with pytest.raises(ValueError, match=str(error)):
        list(Remeasuring(plan_of(study), tmp_path, service).run(again))  # type: ignore[arg-type]


def test_a_gpu_for_one_process_is_refused_before_anything_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Retraining measures by this too, before it trains."""
    study, service = small_study(), FakeService({})
    plan = plan_of(study)
    plan = replace(plan, setting=replace(plan.setting, device="cuda"))
    gpus.install_exclusive(monkeypatch)
    remeasuring = Remeasuring(plan, tmp_path, service)  # type: ignore[arg-type]
    again = begin_remeasurement([], plan, "c", restart=False)
    with pytest.raises(DeviceError, match="compute mode EXCLUSIVE_PROCESS"):
        next(remeasuring.run(again))
    assert service.opened == 0
    finished = replace(again, unmeasured=dict.fromkeys((trial.number for trial in plan.trials), "hang"))
    assert list(remeasuring.run(finished)) == []


def test_the_front_to_measure_is_that_of_the_newest_timings_of_before(tmp_path: Path) -> None:
    settings, quiet = RemeasureSettings(tmp_path, device="cpu", name="new"), remeasured({2: 1.4, 5: 1.99}, name="quiet")
    own = remeasured({1: 0.1, 5: 0.1}, name="new")  # of the same command, which was interrupted
    for again, numbers in ((), [0, 1, 2, 3]), ((quiet,), [0, 1, 2, 3, 5]), ((own,), [0, 1, 2, 3]):
        planned = plan_remeasuring(small_study(), settings, remeasurements=again).trials
        assert [t.number for t in planned] == numbers


def test_a_study_s_comparison_networks_are_measured_along(tmp_path: Path) -> None:
    name = "timm:resnet18"
    network = TrialRecord(-1, name, {}, TrialState.MEASURED, scale=name, measurement=measurement(0.5))
    study = replace(
        small_study(), scale=(network, replace(network, number=-2, state=TrialState.FAILED, measurement=None))
    )
    settings = RemeasureSettings(tmp_path, device="cpu", trials="3")
    assert [t.number for t in plan_remeasuring(study, settings).trials] == [0, 3, -1]
    service = FakeService({})
    again = begin_remeasurement([], plan_of(study), "c", restart=False)
    *_, again = Remeasuring(plan_of(study), tmp_path, service).run(again)  # type: ignore[arg-type]
    assert json.dumps(name) in service.measured
    assert again.measurements[-1] == measurement(1.0)
    comparison = compare_remeasurement(study, again)
    assert not [c for c in comparison.candidates if c.trial.number < 0]
    (note,) = [n for n in remeasuring_notes(study, again, comparison) if name in n]
    assert "0.500 before, 1.000 now" in note
