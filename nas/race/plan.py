"""Plan a race from a study: who takes part, against whom, with which trainings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from nas.analysis.evidence import ModelEvidence, StudyEvidence
from nas.analysis.trial_choice import SelectionError, check_trained, find_by_name, nothing_complete
from nas.race.arguments import RaceSettings, is_score, race_config
from nas.run_folder import race_folder
from nas.search.settings import absolute_data
from nas.study.config import SearchConfig
from nas.study.horizon import LAPTOP, LAPTOP_LATER, HorizonModel, later_model
from nas.study.metrics import is_in_tables
from nas.study.objectives import check_plane
from nas.study.race import Entrant, Race
from nas.study.race_loop import RaceLength
from nas.study.records import TrialRecord
from nas.study.timing_doubts import timing_doubt

NOTHING = "there is nothing to race for: the study has neither a trained baseline nor limits, and no --target is given"


@dataclass(frozen=True)
class RacePlan:
    """A race of a study.

    Attributes:
        race: The rules.
        trials: The trials that may take part, by number.
        config: Settings of all trainings but their seeds.
        length: Of the trainings.
        run_dir: Folder of the study.
        out_of_reach: Names of baselines that are predicted to score higher than those to beat, and that no faster
            candidate is likely to reach.
    """

    race: Race
    trials: dict[int, TrialRecord]
    config: SearchConfig
    length: RaceLength
    run_dir: Path
    out_of_reach: tuple[str, ...] = ()

    def name(self, number: int) -> str:
        """Return the name of a trial."""
        return self.trials[number].name

    @property
    def to_beat(self) -> str | None:
        """Return the name of the model to beat, or several, the best of which is the target; None without one."""
        names = [self.name(baseline.number) for baseline in self.race.baselines]
        return f"the best of {', '.join(names)}" if len(names) > 1 else next(iter(names), None)

    @property
    def later_steps(self) -> int | None:
        """Return the steps after which the winner is to be as good; None: after those of the trainings."""
        return None if self.race.model.later is None else self.length.later

    def folder(self, seed: int) -> Path:
        """Return the folder of the trainings with a seed."""
        return race_folder(self.run_dir, self.length.steps, seed)


def plan_race(evidence: StudyEvidence, settings: RaceSettings) -> RacePlan | None:
    """Return the plan; None where there is nothing to race for.

    Raises:
        SelectionError: The target is unknown, or no candidate was measured and trained to the last rung.
        ConfigError: The trainings would be no longer than the study's.
        ValueError: The study has other objectives than score and throughput.
    """
    info = evidence.record.info
    check_trained(info)
    check_plane(info.objectives, "backbone-nas race")
    searched = SearchConfig.from_dict(info.config)
    config = race_config(searched, settings.race_steps, settings.fresh_images)
    race, out_of_reach = _race(evidence, settings.target)
    if race is None:
        return None
    if settings.race_by is not None:
        race = replace(race, by_metric=_has_metric(evidence, race, settings.race_by))
    if settings.data is not None:
        config = replace(config, data=absolute_data(settings.data))
    models = {model.number: model.trial for model in evidence.searched}
    taking_part = {entrant.number: models[entrant.number] for entrant in (*race.entrants, *race.baselines)}
    length = RaceLength(config.distill.rung_steps[-1], config.train_images, searched.seed + 1, settings.race_by)
    return RacePlan(race, taking_part, config, length, settings.run, out_of_reach)


def _race(evidence: StudyEvidence, target: str | None) -> tuple[Race | None, tuple[str, ...]]:
    """Return the rules by the target that a user named, or by the default one, and the baselines out of reach.

    The default is the best of the baselines that a faster candidate may reach. There is none without baselines.
    """
    info = evidence.record.info
    baselines = [model for model in evidence.searched if model.trial.baseline]
    candidates = [model for model in evidence.searched if not model.trial.baseline]
    if not candidates:
        raise nothing_complete(evidence.study)
    candidates = [model for model in candidates if timing_doubt(model.measurement) is None]
    if not candidates:
        raise SelectionError("no race: no candidate has a timing that can be trusted; remeasure them, then race")
    if target is not None and is_score(target):
        return Race(tuple(_entrant(model, LAPTOP) for model in candidates), LAPTOP, target_score=float(target)), ()
    by = later_model(SearchConfig.from_dict(info.config).data)
    rules = Race(tuple(_entrant(model, by) for model in candidates), by)
    if target is None and info.limits:
        return rules, ()
    if target is not None:
        return replace(rules, baselines=(_to_beat(_named(evidence, target, baselines), info.reference),)), ()
    promising_first = sorted((_to_beat(model, info.reference) for model in baselines), key=lambda b: -b.predicted)
    if not promising_first:
        return None, ()
    may_be_reached = [b for b in promising_first if replace(rules, baselines=(b,)).outcome({}).may_be_won]
    to_beat = may_be_reached or promising_first[:1]
    names = {model.number: model.name for model in baselines}
    above = promising_first[: promising_first.index(to_beat[0])]
    return replace(rules, baselines=tuple(to_beat)), tuple(names[baseline.number] for baseline in above)


def _has_metric(evidence: StudyEvidence, race: Race, metric: str) -> bool:
    """Return True; raise SelectionError where a race has no target, or the study does not evaluate the metric."""
    if not race.baselines:
        raise SelectionError("--race-by: needs a baseline or a trial as the target; a score has no other metric")
    to_beat = next(model.trial for model in evidence.searched if model.number == race.baselines[0].number)
    if metric not in (known := to_beat.rungs[-1].metrics):
        names = ", ".join(filter(is_in_tables, known)) or "none"
        raise SelectionError(f"--race-by: the study has no {metric!r}; it evaluates: {names}")
    return True


def _to_beat(model: ModelEvidence, reference: str) -> Entrant:
    """Return a model to beat; against itself, a reference's timing is noise."""
    entrant = _entrant(model, LAPTOP_LATER)
    return replace(entrant, speed=1.0) if model.trial.baseline == reference else entrant


def _named(evidence: StudyEvidence, target: str, baselines: Sequence[ModelEvidence]) -> ModelEvidence:
    for model in evidence.searched:
        if target == model.trial.baseline:
            return model
    if not target.isdigit():
        names = ", ".join(model.name for model in baselines) or "none"
        raise SelectionError(f"--target: no baseline {target!r}; name one of: {names}, a trial's number, or a score")
    number = find_by_name(evidence.study, target, "--target").number
    found = next((model for model in evidence.searched if model.number == number), None)
    if found is None:
        raise SelectionError(f"--target: trial {number} was not measured and trained to the last rung")
    return found


def _entrant(model: ModelEvidence, by: HorizonModel) -> Entrant:
    return Entrant(model.number, model.ratio, by.predict(model.score, model.trial.params or 1))
