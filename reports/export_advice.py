"""What is in doubt about the recommended model, and the commands that settle it, and that export the model."""

from __future__ import annotations

import math
from pathlib import Path

from nas.analysis import RETRAINED_TIMES_LONGER
from nas.analysis.evidence import RETRAINED
from nas.analysis.recommendation import Recommendation, unused_words
from nas.run_folder import race_folder, retraining_folder, weights_file
from nas.study.objectives import on_plane
from nas.study.records import StudyInfo
from nas.study.seed_noise import study_noise
from nas.study.timing_doubts import timing_doubt
from reports.formatting import brief
from reports.score_gain import printed_difference
from reports.summary import StudySummary

SEED_DIFFERENCE = 1.96 * math.sqrt(2)  # end of the 95 % interval of a difference, in deviations of one score


def retrain_command(info: StudyInfo, summary: StudySummary, run: str, steps: int | None = None) -> str | None:
    """Return the command that retrains the front of a study and its baselines; None where it refuses the study.

    It refuses other objectives, a study of published scores, and one without a complete candidate. Without the
    baselines, if there are any, retrained scores could not decide what is recommended.

    Args:
        info: description of the study.
        summary: numbers of the study.
        run: folder of the study.
        steps: steps of each training, as of those that it adds seeds to; None for the command's default.
    """
    flag = " --baselines" if summary.baselines else ""
    flag += f" --train-steps {steps}" if steps not in (None, RETRAINED_TIMES_LONGER * info.rung_steps[-1]) else ""
    return f"backbone-nas retrain {run}{flag}" if _has_front_on_plane(info, summary) else None


def race_command(info: StudyInfo, summary: StudySummary, run: str) -> str | None:
    """Return the command that races the candidates of a study; None where there is nothing to race for."""
    what = bool(summary.baselines or info.limits) and not (info.race and info.race.decided)
    return f"backbone-nas race {run}" if what and _has_front_on_plane(info, summary) else None


def remeasure_command(info: StudyInfo, summary: StudySummary, run: str) -> str | None:
    """Return the command that times the front of a study again; None where it refuses the study."""
    return f"backbone-nas remeasure {run}" if _has_front_on_plane(info, summary) else None


def _has_front_on_plane(info: StudyInfo, summary: StudySummary) -> bool:
    return bool(info.teachers) and on_plane(info.objectives) and summary.recommendation is not None


def before_export(info: StudyInfo, summary: StudySummary, run: str) -> tuple[tuple[str, str | None], ...]:
    """Return what is in doubt about the recommended model, each with the command that settles it, if there is one."""
    found, settled_by = summary.recommendation, []
    if found is None:
        return ()
    retrain, remeasure = retrain_command(info, summary, run), remeasure_command(info, summary, run)
    if info.teachers and not found.retrained:
        race = race_command(info, summary, run)
        longer = " Before you rely on it, train it and its rivals for longer:" if race else ""
        once = f"It was trained once, for {found.model.steps} steps{_near_tie(info, found)}.{longer}"
        if why := unused_words(found):
            once, race = f"Its score is that of the search: {brief(why, 200)}:", retrain
        settled_by.append((once, race))
    if found.basis == RETRAINED and found.model.seeds == 1:
        again = retrain_command(info, summary, run, steps=found.model.steps)
        settled_by.append(("It was retrained with one seed; train it with more:", again))
    if doubt := timing_doubt(found.trial.measurement):
        idle = "; measure it on an idle machine:" if remeasure else "."
        settled_by.append((f"† Its timing cannot be trusted ({doubt}){idle}", remeasure))
    return tuple(settled_by)


def _near_tie(info: StudyInfo, found: Recommendation) -> str:
    """Say that the score is no higher than the baseline's by more than another seed could change; "" where it is."""
    best, noise = found.best_baseline, study_noise(info)
    differ = SEED_DIFFERENCE * noise.deviation
    if best is None or not 0 <= (gain := printed_difference(found.model, best)) < differ:
        return ""
    return (
        f", and scores {gain:.3f} higher than {brief(best.name)}. Two trainings of one model differ by up to "
        f"{differ:.3f} (95 %, after {noise.steps} steps in the space {noise.space})"
    )


def weights_place(summary: StudySummary) -> str:
    """Return where in the run folder the recommended model's weights are; "" where there are none."""
    found = summary.recommendation
    if found is None or found.published:
        return ""
    folder = retraining_folder(Path(), found.model.steps, "*") if found.basis == RETRAINED else Path()
    if found.race is not None:
        folder = race_folder(Path(), found.race.steps, "*")
    return str(weights_file(folder, brief(found.trial.arch_id, 40)))


def export_command(summary: StudySummary, run: str) -> str:
    """Return the command that exports the recommended model; "" where none is recommended, or nothing was trained."""
    if summary.recommendation is None or summary.recommendation.published:
        return ""
    number = summary.recommendation.trial.number
    return f"backbone-nas export {run} --trial {number} --format timm --out winner"
