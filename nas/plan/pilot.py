"""Propose the rungs of a search, from a few random architectures trained to the last rung."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console

from nas.analysis.agreement import MIN_FOR_INTERVAL, RankCorrelation
from nas.analysis.rung_choice import (
    MIN_TAU,
    MIN_TAU_LOW,
    PilotTraining,
    RungEvidence,
    first_rung,
    rung_evidence,
    size_correlation,
)
from nas.cli import PROGRAM
from nas.numbers import fixed, fixed_interval
from nas.plan.arguments import PlanSettings
from nas.plan.pilot_trainings import pilot_folder, pilot_recipe, train_models
from nas.plan.tables import public_settings, seconds, table_of
from nas.stage_progress import StageProgress
from nas.study.config import SearchConfig
from nas.study.records import TrialRecord, TrialState


class PilotFailed(RuntimeError):
    """Too few models of a pilot could be trained; the message is one line."""


@dataclass(frozen=True)
class Pilot:
    """The outcome of a pilot.

    Args:
        config: Settings of the search.
        folder: Folder of the trainings.
        rungs: Measured rungs.
        trainings: The trained models.
        failed: Reasons of failed trainings, by architecture.
        evidence: On every measured rung but the last.
        size: Kendall's tau of the models' MACs to their scores at the last rung.
        first: The proposed first rung; None where no rung before the last one keeps the order.
    """

    config: SearchConfig
    folder: Path
    rungs: tuple[int, ...]
    trainings: tuple[PilotTraining, ...]
    failed: dict[str, str]
    evidence: tuple[RungEvidence, ...]
    size: RankCorrelation
    first: RungEvidence | None

    @property
    def proposal(self) -> tuple[int, ...]:
        """Return the proposed rungs: those from `first` on, or the last one alone."""
        return self.rungs[-1:] if self.first is None else self.first.ladder

    @property
    def flags(self) -> str:
        """Return the proposal as flags of a search."""
        return f"--rung-steps {_steps(self.proposal)}"


def run_pilot(settings: PlanSettings, command: str, progress: StageProgress) -> Pilot:
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


def outcome(settings: PlanSettings, trials: Sequence[TrialRecord]) -> Pilot:
    """Return what trained models tell.

    Args:
        settings: The search and the pilot.
        trials: The models, complete or failed.

    Raises:
        PilotFailed: Fewer than six are complete.
    """
    config, rungs = settings.config, pilot_recipe(settings.config).rung_steps
    complete = [trial for trial in trials if trial.state is TrialState.COMPLETE]
    failed = {trial.arch_id: trial.reason or "" for trial in trials if trial not in complete}
    if len(complete) < MIN_FOR_INTERVAL:
        reason = next(iter(failed.values()))
        needed = f"{MIN_FOR_INTERVAL} are needed; the first reason: {reason}"
        raise PilotFailed(f"only {len(complete)} of {len(trials)} models could be trained, {needed}")
    trainings = tuple(_training(trial) for trial in complete)
    evidence, size = rung_evidence(trainings, rungs, config.reduction_factor), size_correlation(trainings)
    folder = pilot_folder(settings)
    return Pilot(config, folder, rungs, trainings, failed, evidence, size, first_rung(evidence))


def _training(trial: TrialRecord) -> PilotTraining:
    scores, seconds = tuple(rung.score for rung in trial.rungs), tuple(rung.seconds for rung in trial.rungs)
    return PilotTraining(trial.arch_id, trial.macs or 0, scores, seconds)


def show_pilot(pilot: Pilot, console: Console) -> None:
    """Print a table of the rungs, the notes, and the proposal last."""
    config, last = pilot.config, pilot.rungs[-1]
    title = f"{len(pilot.trainings)} models of {config.space}, trained to {last} steps, seed {config.seed}"
    whole_s = median(sum(training.seconds) for training in pilot.trainings)
    rows = [
        ("MACs only", _estimate(pilot.size), "0"),
        *((_steps(rung.ladder), _estimate(rung.kendall), seconds(rung.seconds)) for rung in pilot.evidence),
        (str(last), "", seconds(whole_s)),
    ]
    columns = ("rungs", f"Kendall's tau of\nthe first to {last} steps", "seconds a model\nto the first")
    proposed = [rungs for rungs, *_ in rows].index(_steps(pilot.proposal))
    console.print(table_of(title, [dict(zip(columns, row, strict=True)) for row in rows], proposed))
    for note in (_reason(pilot), *_notes(pilot)):
        console.print(f"- {note}", markup=False)
    console.print(f"proposal: {pilot.flags}", style="bold", markup=False, highlight=False, soft_wrap=True)


def _steps(rungs: Sequence[int]) -> str:
    return ",".join(map(str, rungs))


def _estimate(kendall: RankCorrelation) -> str:
    if kendall.tau is None or kendall.low is None or kendall.high is None:
        return "-"
    return f"{fixed(kendall.tau, 2)} ({fixed_interval(kendall.low, kendall.high, 2)})"


def _reason(pilot: Pilot) -> str:
    """Return why the proposal is what it is."""
    asked = f"a Kendall's tau of {MIN_TAU:g} or more, and {MIN_TAU_LOW:g} or more at the lower end of its interval"
    last, first = pilot.rungs[-1], pilot.first
    if first is None:
        return (
            f"There is no rung from which on every measured rung ranks the models as {last} steps do, with {asked}. So"
            " train every candidate to the end, or add models (--pilot-models), which narrows the intervals."
        )
    line = f"From {first.steps} steps on, every measured rung ranks the models as {last} steps do, with {asked}."
    if pilot.size.tau is not None and first.kendall.tau is not None and first.kendall.tau <= pilot.size.tau:
        line += " The models' MACs alone rank them as well as the first rung does, so that rung tells little."
    return line


def _notes(pilot: Pilot) -> list[str]:
    """Return what the pilot assumes and cannot know."""
    models = len(pilot.trainings)
    notes = [
        f"Intervals are 95 % intervals by a bootstrap over the {models} models, which are random architectures with one"
        " seed. Candidates that a sampler proposes are closer to each other, so a rung ranks them less well.",
        f"What a search with other rungs costs: {PROGRAM} plan with the same flags, and --rung-steps of a row.",
        f"{pilot.folder} keeps the trainings: the same command with a larger --pilot-models trains only the added"
        " models.",
    ]
    if pilot.failed:
        named = "; ".join(f"{arch_id}: {reason}" for arch_id, reason in pilot.failed.items())
        notes.append(f"{len(pilot.failed)} of {models + len(pilot.failed)} models failed, and are left out: {named}")
    return notes


def pilot_json(pilot: Pilot) -> dict[str, Any]:
    """Return plain JSON data, with times in seconds."""
    return {
        "settings": public_settings(pilot.config),
        "folder": str(pilot.folder),
        "models": [asdict(training) for training in pilot.trainings],
        "failed": pilot.failed,
        "measured_rungs": list(pilot.rungs),
        "rungs": [asdict(rung) for rung in pilot.evidence],
        "macs_only": asdict(pilot.size),
        "proposal": {"rung_steps": list(pilot.proposal), "flags": pilot.flags, "reason": _reason(pilot)},
        "notes": _notes(pilot),
    }
