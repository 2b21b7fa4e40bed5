"""Find where --until-converged would end recorded searches under today's sampler and rule.

Command:   python -m experiments.stopping RUN ...
Hardware:  a minute or two a search of 200
Expected:  see experiments/LOG.md

Each proposal is made again from the trials that had ended when it was made. The recorded search keeps its course: what
the sampler would have proposed in place of a candidate is not evaluated. A search of another sampler than known-cost
has no expectations.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from experiments.finished_points import finished_points
from nas.samplers import SearchSampler, make_sampler
from nas.storage.store import read_study, trial_records
from nas.study.config import SearchConfig
from nas.study.convergence import gain_ratios, is_below_noise
from nas.study.pareto import hypervolume, reference_point
from nas.study.records import StudyRecord, TrialRecord
from search_space import SPACES


def proposed_again(run: Path) -> tuple[StudyRecord, dict[int, TrialRecord]]:
    """Return a study, and its trials by number with what today's sampler expects of each proposal."""
    recorded = read_study(run)
    config = SearchConfig.from_dict(recorded.info.config)
    sampler = make_sampler(config, SPACES[config.space], recorded.info.objectives)
    assert isinstance(sampler, SearchSampler)
    study = optuna.load_study(study_name=None, storage=f"sqlite:///{run}/study.db")
    trials = study.get_trials(deepcopy=False)
    records = {record.number: record for record in trial_records(trials)}
    again = {}
    for number, record in sorted(records.items()):
        expected = None
        if record.expected is not None and record.started_s is not None:
            known = [_as_seen(t, records.get(t.number), record.started_s) for t in trials if t.number < number]
            expected = _expected(sampler, study, known, number)
        again[number] = replace(record, expected=expected)
    return recorded, again


def _as_seen(trial: FrozenTrial, record: TrialRecord | None, now_s: float) -> FrozenTrial:
    """Return a trial as it was at a time: one that had not ended has no record yet."""
    if record is not None and record.finished_s is not None and record.finished_s <= now_s:
        return trial
    running = copy.copy(trial)
    running.state, running.user_attrs = TrialState.RUNNING, {}
    return running


def _expected(sampler: SearchSampler, study: optuna.Study, known: list[FrozenTrial], number: int) -> Any:
    seen: Any = SimpleNamespace(get_trials=lambda deepcopy: known, directions=study.directions)
    trial: Any = SimpleNamespace(number=number)
    sampler.sample_relative(seen, trial, sampler.infer_relative_search_space(seen, trial))
    return sampler.expected(number)


def main(words: Sequence[str] | None = None) -> int:
    """Print where each search would end."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run folder of a search by known-cost")
    print("| search | evaluated | s | share of the final hypervolume | latest ratio |\n|---|--:|--:|--:|--:|")
    for run in parser.parse_args(words).runs:
        study, trials = proposed_again(run)
        ratios = gain_ratios(trials)
        first = next((r.proposal for r in ratios if is_below_noise(r.ratio)), None)
        if first is None:
            print(f"| {run.name} | never | | | {ratios[-1].ratio:.2f} |" if ratios else f"| {run.name} | | | | |")
            continue
        end_s = trials[first].started_s or 0.0
        before = [t for t in study.trials if t.counts and (t.finished_s or 0.0) <= end_s]
        reference = reference_point(study.info.objectives)
        then, last = (
            hypervolume(finished_points(of, study.info.objectives)[1], reference)
            for of in (before, [t for t in study.trials if t.counts])
        )
        print(f"| {run.name} | {len(before)} | {end_s:.0f} | {then / last:.1%} | {ratios[-1].ratio:.2f} |", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
