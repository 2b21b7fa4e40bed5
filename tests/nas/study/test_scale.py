"""Comparison networks of a search: first, once, and out of sight of everything that is searched."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from nas.analysis.trial_choice import complete, trials_to_remeasure
from nas.storage.store import read_study
from nas.study.failures import Failure
from nas.study.loop import StudyLoop
from nas.study.records import TrialRecord, TrialState
from search_space import preset
from tests.nas.study.builders import search_config
from tests.nas.study.searches import drive, new_store, reopen, started, work

NAMES = ("timm:resnet18", "like_resnet18")


def searched(folder: Path, **settings: object) -> StudyLoop:
    """Run a search to its end."""
    loop = StudyLoop(new_store(folder, search_config(budget=4, **settings)))
    drive(loop)
    return loop


def timeless(loop: StudyLoop) -> list[TrialRecord]:
    """Return the trials without their times."""
    return [replace(t, started_s=None, finished_s=None) for t in loop.trials.values()]


def test_a_search_is_the_same_with_and_without_comparison_networks(tmp_path: Path) -> None:
    without = searched(tmp_path / "without")
    loop = searched(tmp_path / "with", scale=NAMES)
    assert timeless(loop) == timeless(without)
    study = read_study(tmp_path / "with")
    assert study.trials == tuple(loop.trials.values())
    assert [(t.scale, t.state, t.number, t.counts) for t in study.scale] == [
        ("timm:resnet18", TrialState.MEASURED, -1, False),
        ("like_resnet18", TrialState.MEASURED, -2, False),
    ]
    assert [t.spec for t in study.scale] == [{}, preset("like_resnet18").to_dict()]
    assert not {t.number for t in (*complete(study), *trials_to_remeasure(study, "all"))} & {-1, -2}


def test_comparison_networks_come_first_and_a_resumed_search_measures_only_those_that_are_left(tmp_path: Path) -> None:
    loop = StudyLoop(new_store(tmp_path, search_config(budget=1, baselines=(), reference=NAMES[0], scale=NAMES)))
    first, second = started(loop), started(loop)
    assert [r.scale for r in (first, second)] == list(NAMES)
    assert started(loop).scale is None
    work(loop, first)
    resumed = StudyLoop(reopen(tmp_path))  # as after a kill: the second was not reported
    assert started(resumed).scale == second.scale
    assert resumed.scale[-1] == read_study(tmp_path).scale[0]
    work(resumed, second)
    drive(resumed)
    assert resumed.finished
    assert StudyLoop(reopen(tmp_path)).next_trial() is None


def test_a_network_whose_worker_dies_is_measured_again_and_one_that_fails_does_not_stop_the_search(
    tmp_path: Path,
) -> None:
    loop = StudyLoop(new_store(tmp_path, search_config(budget=2, baselines=(), reference=NAMES[0], scale=NAMES)))
    first = started(loop)
    loop.report_lost(first.number, Failure.LOST_WORKER, "the worker process died")
    again = started(loop)
    assert (again.scale, again.tries, again.reason) == (first.scale, 2, None), "the reason of the first run is over"
    failed = replace(again, state=TrialState.FAILED, failure=Failure.ERROR, reason="too small")
    assert not loop.report(failed)
    drive(loop)
    assert loop.evaluated == 2
    assert [(t.state, t.reason) for t in read_study(tmp_path).scale] == [
        (TrialState.FAILED, "too small"),
        (TrialState.MEASURED, None),
    ]


def test_a_baseline_from_a_file_is_a_trial_of_its_architecture(tmp_path: Path) -> None:
    spec = preset("eradio_t")  # outside the space
    config = search_config(budget=1, baselines=("mine-1",), specs={"mine-1": spec.to_dict()})
    loop = StudyLoop(new_store(tmp_path, config))
    record = started(loop)
    assert (record.baseline, record.spec, record.arch_id) == ("mine-1", spec.to_dict(), spec.arch_id)
