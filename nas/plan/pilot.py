"""Propose the rungs and the number of images of a search, from a few random architectures trained to the last rung."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from nas.analysis.agreement import MIN_FOR_INTERVAL, Array, RankCorrelation
from nas.analysis.image_choice import ImageEvidence, enough_images, image_evidence
from nas.analysis.rung_choice import (
    PilotTraining,
    RungEvidence,
    first_rung,
    ladder_from,
    ladder_seconds,
    ladder_survival,
    rung_evidence,
    size_correlation,
)
from nas.backend.simulated import Cluster
from nas.plan.arguments import PilotSettings
from nas.plan.forecast import Basis, PlanCosts, TrialTimes, simulate_search
from nas.plan.pilot_trainings import has_targets, pilot_folder, pilot_recipe, train_models
from nas.plan.probe import driver_times
from nas.plan.search_plan import workers_per_device
from nas.run_folder import IMAGE_SCORES, image_scores_path
from nas.search.options import START_S
from nas.stage_progress import StageProgress
from nas.study.config import SearchConfig
from nas.study.objectives import objectives
from nas.study.records import TrialRecord, TrialState


class PilotFailed(RuntimeError):
    """Too few models of a pilot could be trained; the message is one line."""


@dataclass(frozen=True)
class LadderForecast:
    """The cost of a search with some rungs, simulated on this machine.

    Args:
        rungs: Training steps of the rungs.
        survival: Chance that the best model reaches the last rung, as far as the pilot's models tell.
        wall_s: Seconds of the search.
        steps: Training steps of all candidates.
        reached: Candidates that reach each rung.
    """

    rungs: tuple[int, ...]
    survival: float
    wall_s: float
    steps: int
    reached: tuple[int, ...]


@dataclass(frozen=True)
class Pilot:
    """The outcome of a pilot.

    Args:
        config: Settings of the search.
        folder: Folder of the trainings.
        workers: Trials at a time of the simulated searches.
        models: Number of models asked for.
        rungs: Measured rungs.
        trainings: The trained models.
        failed: Reasons of failed trainings, by architecture.
        evidence: On every measured rung but the last.
        size: Kendall's tau of the models' MACs to their scores at the last rung.
        ladders: Rungs that begin at each measured rung, and what a search with them costs; the last has one rung.
        first: The proposed first rung; None where no rung before the last one keeps the order.
        images: On numbers of held-out images, by the steps of a rung; empty where no scores of images are there.
        enough: Number of held-out images that suffices; None where the pilot's do not suffice to tell.
        cached: Whether the cache holds the teachers' outputs for the held-out images of `config`.
    """

    config: SearchConfig
    folder: Path
    workers: int
    models: int
    rungs: tuple[int, ...]
    trainings: tuple[PilotTraining, ...]
    failed: dict[str, str]
    evidence: tuple[RungEvidence, ...]
    size: RankCorrelation
    ladders: tuple[LadderForecast, ...]
    first: RungEvidence | None
    images: dict[int, tuple[ImageEvidence, ...]]
    enough: int | None
    cached: bool

    @property
    def proposal(self) -> LadderForecast:
        """Return the proposed rungs: those from `first` on, or the last one alone."""
        first = self.rungs[-1] if self.first is None else self.first.steps
        return next(ladder for ladder in self.ladders if ladder.rungs[0] == first)

    @property
    def held_out(self) -> int:
        """Return the number of held-out images that scored the models: there may be fewer than are asked for."""
        return next((numbers[0].images for numbers in self.images.values()), self.config.val_images)

    @property
    def val_images(self) -> int:
        """Return the proposed number of held-out images."""
        return self.held_out if self.enough is None else self.enough

    @property
    def keeps_images(self) -> bool:
        """Tell whether another number of images is not proposed, as every teacher would run on all images again."""
        return self.cached and self.val_images != self.config.val_images


def run_pilot(settings: PilotSettings, command: str, progress: StageProgress) -> Pilot:
    """Train the models that are not trained yet, and return what all of them tell.

    Args:
        settings: The search and the pilot.
        command: Command line, for the log.
        progress: Shows the trained steps.

    Raises:
        ConfigError: The folder has a pilot of other settings or images, or another command works there.
        PilotFailed: Fewer than six models could be trained.
    """
    return outcome(settings, train_models(settings, command, progress))


def outcome(settings: PilotSettings, trials: Sequence[TrialRecord]) -> Pilot:
    """Return what trained models tell, after a simulation of searches with the rungs in question.

    Args:
        settings: The search and the pilot.
        trials: The models, complete or failed.

    Raises:
        PilotFailed: Fewer than six are complete.
    """
    config, rungs = settings.config, pilot_recipe(settings.config).rung_steps
    folder = pilot_folder(settings)
    complete = [trial for trial in trials if trial.state is TrialState.COMPLETE]
    failed = {trial.arch_id: trial.reason or "" for trial in trials if trial not in complete}
    if len(complete) < MIN_FOR_INTERVAL:
        reason = next(iter(failed.values()))
        needed = f"{MIN_FOR_INTERVAL} are needed; the first reason: {reason}"
        raise PilotFailed(f"only {len(complete)} of {len(trials)} models could be trained, {needed}")
    trainings = tuple(_training(trial) for trial in complete)
    factor = config.reduction_factor
    evidence = rung_evidence(trainings, rungs, factor)
    first = first_rung(evidence)
    shown = dict.fromkeys((rungs[0] if first is None else first.steps, rungs[-1]))
    images = {
        steps: image_evidence(shares) for steps in shown if (shares := _image_scores(folder, complete, steps)).size
    }
    judged = [images[steps] for steps in images if first is not None or steps == rungs[-1]]
    return Pilot(
        config=config, folder=folder, workers=_search_workers(settings), models=settings.models, rungs=rungs,
        trainings=trainings, failed=failed, evidence=evidence, size=size_correlation(trainings),
        ladders=_ladders(settings, trainings, rungs), first=first, images=images,
        enough=enough_images(judged) if judged else None, cached=has_targets(settings),
    )  # fmt: skip


def _search_workers(settings: PilotSettings) -> int:
    """Return the trials that a search takes at a time where the pilot trains in as many processes."""
    return max(1, settings.workers // settings.config.distill.ranks)


def _training(trial: TrialRecord) -> PilotTraining:
    scores, seconds = tuple(rung.score for rung in trial.rungs), tuple(rung.seconds for rung in trial.rungs)
    return PilotTraining(trial.arch_id, trial.macs or 0, scores, seconds)


def _image_scores(folder: Path, trials: Sequence[TrialRecord], steps: int) -> Array:
    """Return the (M, N) shares of N images in the scores of M models at a rung; empty where a file is missing."""
    paths = [image_scores_path(folder / IMAGE_SCORES, trial.arch_id, steps) for trial in trials]
    if not all(path.is_file() for path in paths):
        return np.empty((0, 0))
    return np.stack([np.load(path) for path in paths])


def _ladders(
    settings: PilotSettings, trainings: Sequence[PilotTraining], rungs: tuple[int, ...]
) -> tuple[LadderForecast, ...]:
    """Simulate a search with the rungs from each measured one on; the last has none before the last rung."""
    config, factor = settings.config, settings.config.reduction_factor
    workers = _search_workers(settings)
    by_device = workers_per_device(config, workers)
    driver = driver_times(config, objectives(config.objectives, config.distill.score))
    cluster = Cluster(workers // by_device, by_device, START_S, driver.ask_s, driver.tell_s)
    forecasts = []
    for first in rungs:
        ladder = ladder_from(first, rungs, factor)
        costs = _costs(config, trainings, rungs, ladder)
        searched = replace(config, distill=replace(config.distill, rung_steps=ladder))
        run = simulate_search(searched, costs, cluster)
        added = [later - earlier for earlier, later in zip((0, *ladder), ladder, strict=False)]
        steps = sum(count * more for count, more in zip(run.reached, added, strict=True))
        survival = ladder_survival(trainings, rungs, ladder, factor)
        forecasts.append(LadderForecast(ladder, survival, run.wall_s, steps, run.reached))
    return tuple(forecasts)


def _costs(
    config: SearchConfig, trainings: Sequence[PilotTraining], rungs: Sequence[int], ladder: Sequence[int]
) -> PlanCosts:
    """Return the costs of a search whose candidates take the seconds of the models; a measurement takes its budget."""
    ranks = config.distill.ranks
    times = [
        TrialTimes(config.measure_seconds, tuple(s / ranks for s in ladder_seconds(training, rungs, ladder)))
        for training in trainings
    ]
    middle = sorted(times, key=lambda each: sum(each.rung_s))[len(times) // 2]
    return PlanCosts(
        candidates=tuple(times), baselines=(middle,) * len(config.baselines), params=0.0, infeasible=0.0,
        basis=Basis.MEASURED, teachers_s=None, teachers_basis=Basis.UNKNOWN,
    )  # fmt: skip
