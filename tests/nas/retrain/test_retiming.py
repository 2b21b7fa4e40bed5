"""Time the models of a retraining with the real service: earlier timings are kept until others are complete."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from nas.analysis.retraining import RETRAINING_TIMINGS
from nas.remeasure.arguments import RemeasureSettings
from nas.remeasure.measuring import plan_remeasuring
from nas.retrain.arguments import RetrainSettings
from nas.retrain.retiming import time_models
from nas.run_folder import restarted_samples_folder, samples_folder
from nas.storage.store import Store
from nas.study.records import Remeasurement
from tests.nas.analysis.builders import new_store, remeasured_for_retraining, small_study
from tests.nas.study.builders import measurement

STUDY = small_study({0: (0.05, 1.0), 1: (0.1, 4.0), 2: (0.3, 2.0)})
SECONDS = 0.2
Stage = Callable[[str, int, int], None]


@pytest.fixture(autouse=True)
def own_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    new_store(tmp_path / "run", STUDY)
    return tmp_path / "run"


def nothing(stage: str, done: int, total: int) -> None:
    """Receive progress."""


def timed_here(run: Path, ratios: dict[int, float], unmeasured: dict[int, str] | None = None) -> Remeasurement:
    """Save and return made-up timings that have the setting and the environment of this machine."""
    settings = RemeasureSettings(run, device="cpu", measure_seconds=SECONDS, name=RETRAINING_TIMINGS)
    plan = plan_remeasuring(STUDY, settings, STUDY.trials)
    again = remeasured_for_retraining(ratios, unmeasured)
    again = replace(again, environment=plan.environment, setting=plan.identity)
    Store.open(run).save_remeasurement(again)
    return again


def retime(run: Path, numbers: set[int], seconds: float | None = None, progress: Stage = nothing) -> Remeasurement:
    settings = RetrainSettings(run, measure_seconds=seconds)
    store = Store.open(run)
    time_models(store, STUDY, frozenset(numbers), settings, "cpu", "test", progress)  # type: ignore[arg-type]
    (again,) = store.remeasurements()
    return again


@pytest.mark.slow
@pytest.mark.parametrize("unmeasured", [{}, {2: "crash"}])
def test_a_new_model_and_a_failed_one_are_timed_for_the_seconds_of_the_others(
    unmeasured: dict[int, str], run: Path
) -> None:
    before = timed_here(run, {0: 1.0, 1: 9.0}, unmeasured)
    again = retime(run, {1, 2})
    assert set(again.measurements) == {0, 1, 2}
    assert again.measurements[1] == before.measurements[1]
    assert (again.setting, again.unmeasured) == (before.setting, {})


def test_a_failure_elsewhere_is_no_reason_to_drop_timings(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = timed_here(run, {0: 1.0, 1: 9.0}, {2: "crash"})
    before = replace(before, environment={**before.environment, "device_name": "a GPU"})
    Store.open(run).save_remeasurement(before)
    assert retime(run, {1, 2}, seconds=2 * SECONDS) == before
    error = capsys.readouterr().err
    assert "1 model could not be timed, and not tried again" in error
    assert "device_name: a GPU -> " in error
    assert f"seconds: {SECONDS} -> {2 * SECONDS}" in error, "every difference is named"


def test_a_failure_is_not_tried_again_where_the_runtime_is_missing(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The outcome of a GPU's search is only shown on a laptop."""
    on_gpu = [replace(t, measurement=replace(measurement(1.0), arm="fp16, tensorrt")) for t in STUDY.trials]
    study = replace(STUDY, trials=tuple(on_gpu))
    before = remeasured_for_retraining({0: 1.0, 1: 9.0}, {2: "crash"})
    store = Store.open(run)
    store.save_remeasurement(before)
    for numbers in ({1, 2}, {0, 1, 2}):
        time_models(store, study, frozenset(numbers), RetrainSettings(run), "cpu", "test", nothing)  # type: ignore[arg-type]
    assert store.remeasurements() == (before,)
    assert "1 model could not be timed, and not tried again: " in capsys.readouterr().err
    with pytest.raises(ValueError, match="tensorrt"):
        time_models(store, study, frozenset({1, 3}), RetrainSettings(run), "cpu", "test", nothing)  # type: ignore[arg-type]


@pytest.mark.slow
def test_earlier_timings_stay_until_the_new_ones_are_complete(run: Path) -> None:
    """Interrupted after one network; the next command times the others only."""
    before = timed_here(run, {0: 1.0, 1: 9.0})
    earlier = samples_folder(run, RETRAINING_TIMINGS) / f"{STUDY.trials[1].arch_id}.json"
    earlier.parent.mkdir(parents=True)
    earlier.write_text("earlier")

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        retime(run, {1, 2}, 2 * SECONDS, interrupt)
    assert Store.open(run).remeasurements() == (before,)
    assert earlier.read_text() == "earlier"
    done: list[tuple[int, int]] = []
    again = retime(run, {1, 2}, 2 * SECONDS, lambda _, now, total: done.append((now, total)))
    assert done == [(1, 2), (2, 2)], "the reference was timed by the interrupted command"
    assert set(again.measurements) == {0, 1, 2}
    assert again.setting["seconds"] == 2 * SECONDS
    assert again.measurements[1] != before.measurements[1]
    assert earlier.read_text() != "earlier"
    assert not restarted_samples_folder(run, RETRAINING_TIMINGS).exists()
