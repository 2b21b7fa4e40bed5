"""Four checks of whether a study's numbers can be trusted: how each came out, and the command that makes it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from nas.analysis.remeasuring import DISTURBED
from nas.study.records import StudyInfo
from reports.formatting import brief, plural
from reports.metrics import AGREEMENT_TAU, IN_TABLES, MAX_P_VALUE, MetricSummary
from reports.noise import disturbance, noise_floor
from reports.statistics import RungCorrelation
from reports.summary import StudySummary

MAX_FLOOR = 0.03
MAX_DISTURBED = 0.1
MIN_TAU = 0.5
MIN_CANDIDATES = 10
MIN_CHANCE = 0.5


class Outcome(StrEnum):
    """How a check came out."""

    PASS = "pass"
    WARN = "warn"
    NOT_DONE = "not done"


@dataclass(frozen=True)
class CheckKind:
    """One of the four checks: its title, the section with its details, and what it takes to pass."""

    title: str
    section: str  # id of the section
    passes: str
    reason: str  # for the threshold


@dataclass(frozen=True)
class TrustCheck:
    """The outcome of a check in one sentence, and the command that makes, repeats or refines it."""

    kind: CheckKind
    outcome: Outcome
    sentence: str
    command: str | None = None


NOISE = CheckKind(
    "Measurement noise",
    "noise",
    f"The reference measured against itself (A/A) differs by at most {MAX_FLOOR:.0%}, and at most "
    f"{MAX_DISTURBED:.0%} of the measurements were disturbed.",
    "Neighbors on a front are typically 5 to 20 % apart in throughput; noise of that size would decide their order.",
)
RUNGS = CheckKind(
    "Do short runs predict longer ones?",
    "rungs",
    f"Kendall’s τ between each lower rung and the last one is {MIN_TAU:g} or more, over at least {MIN_CANDIDATES} "
    "candidates.",
    "At τ = 0.5, three of four pairs of candidates have the same order at both rungs; at τ = 0, half of them.",
)
SEEDS = CheckKind(
    "Retraining with other seeds",
    "retraining",
    f"The recommended candidate was retrained with two seeds or more, and its probability of being on the front of "
    f"the retrained candidates is {MIN_CHANCE:g} or more.",
    "A front collects the lucky trainings of many candidates; only new seeds show how much of a score was luck.",
)
METRICS = CheckKind(
    "Agreement with downstream metrics",
    "metrics",
    f"Kendall’s τ between the distillation score and at least one metric is {AGREEMENT_TAU:g} or more at "
    f"p < {MAX_P_VALUE:g}, and the score contradicts none. Metrics in which the teachers are near chance do not count.",
    "A weaker agreement may be chance, and choosing by the score would hardly choose by the metric.",
)


def trust_checks(
    info: StudyInfo,
    summary: StudySummary,
    metrics: Sequence[MetricSummary],
    retraining: Mapping[str, Any] | None,
    run: str,
) -> tuple[TrustCheck, ...]:
    """Return the four checks of a study.

    Args:
        info: description of the study.
        summary: numbers of the study.
        metrics: summaries of its downstream metrics.
        retraining: results, as `reports.retraining.read_retraining` returns them.
        run: folder of the study, for the commands.
    """
    return (
        _noise_check(summary, run),
        _rung_check(info, summary.correlations, run),
        _seed_check(info, summary, retraining, run),
        _metric_check(metrics, run),
    )


def verdict_sentence(checks: Iterable[TrustCheck]) -> str:
    """Say how many checks passed, warn, and were not made."""
    outcomes = [check.outcome for check in checks]
    counts = [(outcomes.count(outcome), outcome) for outcome in Outcome]
    words = {
        Outcome.PASS: ("passes", "pass"),
        Outcome.WARN: ("warns", "warn"),
        Outcome.NOT_DONE: ("is not done", "are not done"),
    }
    parts = [f"{n} {words[outcome][n > 1]}" for n, outcome in counts if n]
    return f"Of {len(outcomes)} checks, {', '.join(parts)}."


def _noise_check(summary: StudySummary, run: str) -> TrustCheck:
    command = f"backbone-nas remeasure {run}"
    itself = summary.self_comparison
    measured = sum(summary.verdicts.values())
    disturbed = sum(n for verdict, n in summary.verdicts.items() if verdict in DISTURBED)
    if summary.half_width is None:
        return TrustCheck(NOISE, Outcome.NOT_DONE, "No throughput has been measured.")
    if itself is None:
        sentence = "The reference was not measured against itself, so the noise floor (A/A) is unknown."
        return TrustCheck(NOISE, Outcome.NOT_DONE, sentence, command)
    floor = noise_floor(itself)
    sentence = (
        f"Equal models are measured within {100 * floor:.1f} % of each other (A/A), and "
        f"{disturbed} of {measured} measurements were disturbed, by other work or by heat."
    )
    quiet = floor <= MAX_FLOOR and disturbed <= MAX_DISTURBED * measured and not disturbance(itself.trial)
    return TrustCheck(NOISE, Outcome.PASS, sentence) if quiet else TrustCheck(NOISE, Outcome.WARN, sentence, command)


def _rung_check(info: StudyInfo, correlations: Sequence[RungCorrelation], run: str) -> TrustCheck:
    last = len(info.rung_steps) - 1
    to_last = [c for c in correlations if c.high == last]
    if not to_last:
        sentence = "All candidates were trained for the same number of steps: no short run decided anything."
        return TrustCheck(RUNGS, Outcome.PASS, sentence)
    worst = min(to_last, key=lambda c: -math.inf if c.tau is None else c.tau)
    if worst.tau is None or worst.trials < MIN_CANDIDATES:
        reached = plural(worst.trials, "candidate", "candidates")
        sentence = f"Too few candidates reached the last rung to compare their orders ({reached})."
        return TrustCheck(RUNGS, Outcome.NOT_DONE, sentence, f"backbone-nas search --resume {run} --extend 50")
    sentence = (
        f"The order after {info.rung_steps[worst.low]} steps agrees with that after {info.rung_steps[last]} steps "
        f"with τ = {worst.tau:.2f}, over {worst.trials} candidates."
    )
    if worst.tau >= MIN_TAU:
        return TrustCheck(RUNGS, Outcome.PASS, sentence)
    return TrustCheck(RUNGS, Outcome.WARN, sentence, f"backbone-nas retrain {run}")


def _seed_check(info: StudyInfo, summary: StudySummary, retraining: Mapping[str, Any] | None, run: str) -> TrustCheck:
    command = f"backbone-nas retrain {run} --baselines"
    if retraining is None and not info.teachers:
        return TrustCheck(SEEDS, Outcome.NOT_DONE, "The scores are published ones: nothing can be retrained.")
    if retraining is None:
        sentence = "Each candidate was trained once: small differences in score may be luck."
        return TrustCheck(SEEDS, Outcome.NOT_DONE, sentence, command)
    seeds, steps = len(retraining["seeds"]), retraining["steps"]
    recommended = None if summary.recommendation is None else summary.recommendation.trial
    found = next((c for c in retraining["candidates"] if recommended and c["trial"] == recommended.number), None)
    if recommended is None or found is None or found["chance"] is None:
        sentence = f"{len(retraining['candidates'])} models were retrained, but not the recommended one."
        return TrustCheck(SEEDS, Outcome.WARN, sentence, command)
    sentence = (
        f"Retrained for {steps} steps with {plural(seeds, 'seed', 'seeds')}, {brief(recommended.name)} scores "
        f"{found['score']:.3f} ± {found['half_width']:.3f} and is on the front of the retrained candidates with "
        f"probability {found['chance']:.2f}."
    )
    sure = len(found["scores"]) > 1 and found["chance"] >= MIN_CHANCE
    return TrustCheck(SEEDS, Outcome.PASS, sentence) if sure else TrustCheck(SEEDS, Outcome.WARN, sentence, command)


def _metric_check(metrics: Sequence[MetricSummary], run: str) -> TrustCheck:
    labeled = "backbone-nas search --data imagefolder:LABELED_PHOTOS"
    if not metrics:
        sentence = "No downstream metric was evaluated: nothing shows what a higher score is good for."
        return TrustCheck(METRICS, Outcome.NOT_DONE, sentence, labeled)
    known = [m for m in metrics if m.name.partition("/")[0] in IN_TABLES and not m.teacher_near_chance]
    if not known:
        sentence = "Even the teachers are near chance in every metric on these images, so none can judge the score."
        return TrustCheck(METRICS, Outcome.NOT_DONE, sentence, labeled)
    if not any(m.tau is not None for m in known):
        sentence = "Too few models were trained to the last rung to compare their scores with metrics."
        return TrustCheck(METRICS, Outcome.NOT_DONE, sentence, f"backbone-nas search --resume {run} --extend 50")
    agreeing, opposed = [m for m in known if m.agrees], [m for m in known if m.contradicts]
    best = max((m for m in known if m.tau is not None), key=lambda m: m.tau or 0.0)
    many = plural(len(known), "metric", "metrics")
    closest = f"closest to {brief(best.label)} (τ = {best.tau:.2f})"
    sentence = f"The score ranks the models as {len(agreeing)} of {many} do, {closest}."
    if not agreeing:
        sentence = f"The score ranks the models as none of {many} does, {closest}."
    if opposed:
        sentence = f"{sentence.removesuffix('.')}, and in the opposite order of {len(opposed)}."
    return TrustCheck(METRICS, Outcome.PASS if agreeing and not opposed else Outcome.WARN, sentence)
