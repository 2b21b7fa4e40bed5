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
from nas.study.horizon import LAPTOP
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
        out_of_reach: Names of baselines that score higher than the target, which no candidate is likely to reach.
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
    def target_name(self) -> str | None:
        """Return the name of the model to beat; None without one."""
        return None if self.race.target is None else self.name(self.race.target.number)

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
    taking_part = {entrant.number: models[entrant.number] for entrant in (*race.entrants, *filter(None, [race.target]))}
    length = RaceLength(config.distill.rung_steps[-1], config.train_images, searched.seed + 1, settings.race_by)
    return RacePlan(race, taking_part, config, length, settings.run, out_of_reach)


def _race(evidence: StudyEvidence, target: str | None) -> tuple[Race | None, tuple[str, ...]]:
    """Return the rules by the target that a user named, or by the default one, and the baselines out of reach.

    The default is the baseline of the highest score that a faster candidate may reach. There is none without baselines.
    """
    info = evidence.record.info
    baselines = [model for model in evidence.searched if model.trial.baseline]
    candidates = [
        model for model in evidence.searched if not model.trial.baseline and timing_doubt(model.measurement) is None
    ]
    if not candidates:
        raise nothing_complete(evidence.study)
    if target is None and info.limits:
        return Race(tuple(map(_entrant, candidates)), LAPTOP), ()
    if target is not None and is_score(target):
        return Race(tuple(map(_entrant, candidates)), LAPTOP, target_score=float(target)), ()
    if target is not None:
        return _against(_named(evidence, target, baselines), candidates, info.reference), ()
    best_first = sorted(baselines, key=lambda model: -model.score)
    races = [_against(model, candidates, info.reference) for model in best_first]
    reachable = next((i for i, race in enumerate(races) if race.outcome({}).may_be_won), 0)
    return (races[reachable] if races else None), tuple(model.name for model in best_first[:reachable])


def _has_metric(evidence: StudyEvidence, race: Race, metric: str) -> bool:
    """Return True; raise SelectionError where a race has no target, or the study does not evaluate the metric."""
    if race.target is None:
        raise SelectionError("--race-by: needs a baseline or a trial as the target; a score has no other metric")
    of_target = next(model.trial for model in evidence.searched if model.number == race.target.number)
    if metric not in (known := of_target.rungs[-1].metrics):
        names = ", ".join(filter(is_in_tables, known)) or "none"
        raise SelectionError(f"--race-by: the study has no {metric!r}; it evaluates: {names}")
    return True


def _against(beaten: ModelEvidence, candidates: Sequence[ModelEvidence], reference: str) -> Race:
    """Return the rules of a race against a model."""
    speed = 1.0 if beaten.trial.baseline == reference else beaten.ratio  # against itself, a timing is noise
    faster = [_entrant(model) for model in candidates if model.ratio > speed and model.number != beaten.number]
    return Race(tuple(faster), LAPTOP, replace(_entrant(beaten), speed=speed))


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


def _entrant(model: ModelEvidence) -> Entrant:
    return Entrant(model.number, model.ratio, LAPTOP.predict(model.score, model.trial.params or 1))
