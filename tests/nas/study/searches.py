"""Searches whose workers report numbers of a made-up landscape, without training and measuring."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from optuna.samplers import BaseSampler, RandomSampler

from nas.measure.counts.totals import totals
from nas.samplers import make_sampler
from nas.storage.store import Store
from nas.study.config import SearchConfig
from nas.study.loop import StudyLoop
from nas.study.records import TrialRecord, TrialState
from search_space import SPACES, ArchSpec
from tests.nas.study.builders import OBJECTIVES, measurement, rung, study_info


class BrokenSampler(RandomSampler):
    """A sampler that fails at the first parameter."""

    def sample_independent(self, *arguments: object, **settings: object) -> object:
        raise ValueError("no idea")


def sampler_of(config: SearchConfig) -> BaseSampler:
    """Return the sampler of a config's search."""
    return make_sampler(config, SPACES[config.space], OBJECTIVES)


def new_store(folder: Path, config: SearchConfig, database: str | None = None) -> Store:
    """Create the study of a config."""
    return Store.create(folder, study_info(config), sampler_of(config), database)


def reopen(folder: Path) -> Store:
    """Open a study with the sampler of its config, as a resumed search does."""
    with Store.open(folder) as store:
        config = SearchConfig.from_dict(store.info.config)
    return Store.open(folder, sampler_of(config))


def started(loop: StudyLoop) -> TrialRecord:
    """Start the next trial, which must exist."""
    record = loop.next_trial()
    assert record is not None
    return record


def landscape(record: TrialRecord) -> tuple[float, float]:
    """Return score and throughput ratio; every stage has its own best block and size, so that random search is slow."""
    stages = record.spec["stages"]
    cost = sum(stage["width"] * stage["depth"] * 2.0**-i for i, stage in enumerate(stages))
    best = ("basic", "c2f", "mr_window", "window")
    matches = sum(stage["block"] == block for stage, block in zip(stages, best, strict=True))
    return 0.1 + matches / 5 + cost / 4000, 2e7 / totals(ArchSpec.from_dict(record.spec), 64).macs


def work(loop: StudyLoop, record: TrialRecord) -> None:
    """Run a trial as a worker does: report a measurement and every rung until the loop ends the trial."""
    if record.scale is not None:
        loop.report(replace(record, measurement=measurement(2.0), state=TrialState.MEASURED))
        return
    score, ratio = landscape(record)
    record = replace(record, params=1, macs=1)
    last = len(loop.info.rung_steps) - 1
    for index in range(last + 1):
        if index == record.measured_before_rung:
            record = replace(record, measurement=measurement(ratio))
            if not loop.report(record):
                return
        state = TrialState.COMPLETE if index == last else TrialState.RUNNING
        record = replace(record, rungs=(*record.rungs, rung(index, score * (index + 1) / 2)), state=state)
        if not loop.report(record):
            return


def drive(loop: StudyLoop, stop_after: int = 10**6, ahead: bool = False) -> None:
    """Run a search to its end, or for a number of trials; propose the next trial while one runs, or after it."""
    for _ in range(stop_after):
        if loop.finished:
            return
        record = loop.next_trial()
        if ahead:
            loop.propose_ahead()
        if record is not None:
            work(loop, record)
