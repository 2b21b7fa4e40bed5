"""Four checks of whether a study's numbers can be trusted: how each came out, and the command that makes it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import pairwise
from statistics import median
from typing import Any

from nas.analysis.recommendation import Recommendation, unused_words
from nas.analysis.trial_choice import measurement
from nas.numbers import fixed, plural
from nas.study.ending import is_exhausted
from nas.study.metrics import is_in_tables
from nas.study.objectives import on_plane
from nas.study.records import StudyInfo
from nas.study.timing_doubts import has_interval, no_interval, noise_floor, timing_doubt
from reports.export_advice import race_command, remeasure_command, retrain_command
from reports.formatting import brief, capitalized
from reports.headline import race_sentence
from reports.metric_agreement import AGREEMENT_TAU, MAX_P_VALUE, MetricSummary, trained_models
from reports.pace import more_finished_models, retraining_price
from reports.score_gain import printed_difference
from reports.search_course import MIN_RANKED
from reports.sentences import MEANINGS, too_few_models
from reports.summary import StudySummary
from reports.timing_noise import MAX_DOUBTFUL, floor_words

TRAINED_ONCE = "The search trained each model once."
MAX_FLOOR = 0.03
MIN_TAU = 0.5
MIN_CHANCE = 0.5


class Outcome(StrEnum):
    """How a check came out."""

    PASS = "pass"
    WARN = "warn"
    NOT_DONE = "not done"
    NOT_APPLICABLE = "not applicable"


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
    price: str = ""  # what the command does, and the time it takes


RACE_PRICE = "It trains the target and the candidates that may win, the fastest first, until one has."


NOISE = CheckKind(
    "Measurement noise",
    "noise",
    f"The reference measured against itself (A/A) differs by at most {100 * MAX_FLOOR:g} %, and at most "
    f"{100 * MAX_DOUBTFUL:g} % of the timings cannot be trusted.",
    "Noise as large as the difference between two models would decide their order.",
)
RUNGS = CheckKind(
    "Do short runs predict longer ones?",
    "rungs",
    f"Kendall’s τ between each lower rung and the last one is {MIN_TAU:g} or more, over at least {MIN_RANKED} "
    "candidates.",
    "At τ = 0.5, three of four pairs of candidates have the same order at both rungs; at τ = 0, half of them.",
)
SEEDS = CheckKind(
    "Longer training with other seeds",
    "retraining",
    "A candidate has passed the race. Or, without a race, the recommended candidate was retrained with two seeds or "
    "more. Its probability of being on the front of the retrained candidates is "
    f"{MIN_CHANCE:g} or more (judged only if the whole front was retrained). The 95 % interval of its lead over the "
    "best baseline does not reach below 0; this interval allows for the choice among all compared candidates.",
    "A front collects the lucky trainings of many candidates; only new seeds show how much of a score was luck.",
)
METRICS = CheckKind(
    "Agreement with downstream metrics",
    "metrics",
    f"Over at least {MIN_RANKED} models, Kendall’s τ between the distillation score and more than half of the metrics "
    f"is {AGREEMENT_TAU:g} or more at p < {MAX_P_VALUE:g}, and the score contradicts none. Retrieval of a teacher’s "
    "summary does not count, nor do metrics in which the teachers are near chance.",
    "A weaker agreement may be chance, and the model with the best score would often not be the best by the metric. "
    "The p-values are too optimistic: a sampler proposes similar models, which are not independent. The check covers "
    "all trained models, bad ones included; the order among those on the front alone may differ.",
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
        retraining: results, as `reports.evidence_data.retraining_results` returns them.
        run: folder of the study, for the commands.
    """
    return (
        replace(_noise_check(info, summary, run), kind=_noise_kind(info, summary)),
        _rung_check(info, summary, run),
        _seed_check(info, summary, retraining, run),
        _metric_check(info, summary, metrics, run),
    )


def verdict_sentence(checks: Iterable[TrustCheck]) -> str:
    """Say how many checks passed, warn, were not made, and do not apply."""
    outcomes = [check.outcome for check in checks]
    counts = [(outcomes.count(outcome), outcome) for outcome in Outcome]
    words = {
        Outcome.PASS: ("passes", "pass"),
        Outcome.WARN: ("warns", "warn"),
        Outcome.NOT_DONE: ("is not done", "are not done"),
        Outcome.NOT_APPLICABLE: ("does not apply", "do not apply"),
    }
    parts = [f"{n} {words[outcome][n > 1]}" for n, outcome in counts if n]
    return f"Of {len(outcomes)} checks, {', '.join(parts)}."


def _not_done_yet(
    kind: CheckKind, sentence: str, info: StudyInfo, summary: StudySummary, run: str, models: int
) -> TrustCheck:
    """Return a check that has only `models` finished models, with the command that trains the missing ones.

    There is no such command of published scores, and where no new architecture is left.
    """
    if info.replayed or is_exhausted(info):
        return TrustCheck(kind, Outcome.NOT_DONE, sentence)
    evaluations, price = more_finished_models(info, summary, MIN_RANKED - models)
    budget = info.config.get("budget")
    left = max(0, budget - summary.evaluated) if isinstance(budget, int) else 0
    extend = "" if left >= evaluations else f" --extend {evaluations - left}"
    return TrustCheck(kind, Outcome.NOT_DONE, sentence, f"backbone-nas search --resume {run}{extend}", price)


def _noise_kind(info: StudyInfo, summary: StudySummary) -> CheckKind:
    """Return the check of the noise; its reason is the gap between the models of this study's front, if it is known."""
    gaps = [a.ratio / b.ratio - 1 for a, b in pairwise(summary.front) if b.ratio > 0]
    if not gaps or len(info.objectives) == 1 or any(timing_doubt(s.trial.measurement) for s in summary.front):
        return NOISE
    reason = (
        f"In the median, neighbors on this study’s front are {100 * median(gaps):.1f} % apart in throughput; noise of "
        "that size would decide their order."
    )
    return replace(NOISE, reason=reason)


def _noise_check(info: StudyInfo, summary: StudySummary, run: str) -> TrustCheck:
    command = remeasure_command(info, summary, run)
    itself = summary.self_comparison
    measured = sum(summary.verdicts.values())
    doubtful = summary.doubtful
    if summary.half_width is None and summary.verdicts:
        return TrustCheck(NOISE, Outcome.NOT_APPLICABLE, "The throughputs are published ones: nothing was timed.")
    if summary.half_width is None:
        networks = plural(summary.scale, "comparison network was", "comparison networks were")
        only = f"; {networks} measured" if summary.scale else ""
        sentence = f"No candidate or baseline has been measured{only}."
        return _not_done_yet(NOISE, sentence, info, summary, run, MIN_RANKED - 1)
    if itself is None:
        sentence = (
            "The reference was not measured against itself, so the noise floor (A/A) is unknown. A search measures it "
            f"where {brief(info.reference, 40)} is one of its --baselines, and with any --scale but none."
        )
        return TrustCheck(NOISE, Outcome.NOT_DONE, sentence)
    timings = plural(measured, "timing")
    kinds = "; ".join(f"{count} {doubt}: {MEANINGS[doubt]}" for doubt, count in summary.doubts.items())
    untrusted = f"Of {timings}, {doubtful} cannot be trusted{f' ({kinds})' if kinds else ''}."
    if not doubtful:
        untrusted = f"Of {timings}, none is in doubt."
    if not has_interval(m := measurement(itself.trial)):
        sentence = f"The reference was timed against a copy of itself (A/A), but {no_interval(m)}. {untrusted}"
        return TrustCheck(NOISE, Outcome.WARN, sentence, command)
    sentence = (
        f"The reference, timed against a copy of itself (A/A), came to {itself.ratio_low:.3f} to "
        f"{itself.ratio_high:.3f} times its own throughput: two equal models can differ by {floor_words(itself)}. "
        f"{untrusted}"
    )
    few = doubtful <= MAX_DOUBTFUL * measured and not timing_doubt(itself.trial.measurement)
    quiet = few and noise_floor(itself.trial.measurement) <= MAX_FLOOR
    return TrustCheck(NOISE, Outcome.PASS, sentence) if quiet else TrustCheck(NOISE, Outcome.WARN, sentence, command)


def _rung_check(info: StudyInfo, summary: StudySummary, run: str) -> TrustCheck:
    last = len(info.rung_steps) - 1
    to_last = [c for c in summary.correlations if c.high == last]
    if not to_last:
        sentence = "All candidates were trained for the same number of steps: no short run decided anything."
        return TrustCheck(RUNGS, Outcome.NOT_APPLICABLE, sentence)
    worst = min(to_last, key=lambda c: -math.inf if c.tau is None else c.tau)
    if worst.tau is None and worst.trials >= MIN_RANKED:
        sentence = (
            f"All {worst.trials} candidates have the same score after {info.rung_steps[worst.low]} steps, or after "
            f"{info.rung_steps[last]}: there is no order to compare."
        )
        return TrustCheck(RUNGS, Outcome.NOT_DONE, sentence)
    if worst.tau is None or worst.trials < MIN_RANKED:
        reached = plural(worst.trials, "candidate")
        sentence = f"The last rung was reached by {reached}; comparing their orders takes at least {MIN_RANKED}."
        return _not_done_yet(RUNGS, sentence, info, summary, run, min(worst.trials, MIN_RANKED - 1))
    sentence = (
        f"The orders of {plural(worst.trials, 'candidate')} by score after {info.rung_steps[worst.low]} and after "
        f"{info.rung_steps[last]} steps agree with Kendall’s τ = {fixed(worst.tau, 2)}. Among the "
        "best of them alone, τ is usually lower."
    )
    if worst.tau >= MIN_TAU:
        return TrustCheck(RUNGS, Outcome.PASS, sentence)
    return TrustCheck(
        RUNGS, Outcome.WARN, sentence, retrain_command(info, summary, run), retraining_price(info, summary)
    )


def _seed_check(info: StudyInfo, summary: StudySummary, retrained: Mapping[str, Any] | None, run: str) -> TrustCheck:
    steps = None if retrained is None else int(retrained["steps"])
    more = retrain_command(info, summary, run, steps=steps), retraining_price(info, summary, steps)
    if retrained is None and info.replayed:
        return TrustCheck(SEEDS, Outcome.NOT_APPLICABLE, "The scores are published ones: nothing can be retrained.")
    if retrained is None and not on_plane(info.objectives):
        words = "Retraining takes the objectives score and throughput alone, not those of this search."
        return TrustCheck(SEEDS, Outcome.NOT_APPLICABLE, f"{TRAINED_ONCE} {words}")
    if retrained is None and summary.recommendation is None:
        sentence = "No candidate has been trained to the last rung, so there is none to retrain."
        return TrustCheck(SEEDS, Outcome.NOT_DONE, sentence)
    if summary.recommendation is not None and (raced := summary.recommendation.race):
        outcome = Outcome.PASS if raced.passed else Outcome.WARN
        return TrustCheck(SEEDS, outcome, race_sentence(summary.recommendation))
    if retrained is None:
        race = race_command(info, summary, run)
        return TrustCheck(SEEDS, Outcome.NOT_DONE, TRAINED_ONCE, *((race, RACE_PRICE) if race else more))
    best = summary.recommendation
    found = next((c for c in retrained["candidates"] if best and c["trial"] == best.trial.number), None)
    if best is None or found is None:
        were = plural(len(retrained["candidates"]), "model was", "models were")
        sentence = f"{were[:1].upper()}{were[1:]} retrained, but not the recommended one."
        return TrustCheck(SEEDS, Outcome.WARN, sentence, *more)
    name = brief(best.trial.name)
    if found["chance"] is None:
        sentence = (
            f"The recommended candidate, {name}, was retrained, but has no result: {brief(found['change'], 200)}."
        )
        return TrustCheck(SEEDS, Outcome.WARN, sentence, *more)
    interval = "" if found["half_width"] is None else f" ± {found['half_width']:.3f}"
    untrained = len(retrained["untrained"])
    of_front = f" and is on the front of the retrained candidates with probability {fixed(found['chance'], 2)}."
    if untrained:
        left = plural(untrained, "model of the search’s front was", "models of the search’s front were")
        of_front = f"; {left} not retrained."
    sentence = (
        f"Retrained for {retrained['steps']:,} steps with {plural(len(found['scores']), 'seed')}, {name} scores "
        f"{fixed(found['score'], 3)}{interval}{of_front}"
    )
    lead, leads = _lead_words(best)
    sentence += lead
    if unused := unused_words(best):
        return TrustCheck(SEEDS, Outcome.WARN, f"{sentence} {unused[:1].upper()}{unused[1:]}.", *more)
    on_front = bool(lead) if untrained else found["chance"] >= MIN_CHANCE  # of few models that says nothing
    sure = len(found["scores"]) > 1 and on_front and leads
    return TrustCheck(SEEDS, Outcome.PASS, sentence) if sure else TrustCheck(SEEDS, Outcome.WARN, sentence, *more)


def _lead_words(best: Recommendation) -> tuple[str, bool]:
    """Say how far the recommended candidate leads the best baseline in retrained scores, and whether beyond luck.

    There is nothing to say, and nothing against it, without a baseline and where retrained scores do not decide.
    """
    if best.scatter is None or best.best_baseline is None:
        return "", True
    result = best.fastest_as_good if best.for_speed else None
    half = None if result is None else result.half_width(best.scatter)
    difference, baseline = printed_difference(best.model, best.best_baseline), brief(best.best_baseline.name)
    name = capitalized(brief(best.model.name))
    if difference < 0:
        return f" {name} scores {-difference:.3f} less than {baseline}.", False
    within = "" if result is None or half is None else f" ± {half:.3f}"
    ahead = f"leads {baseline} by {difference:.3f}{within} in score"
    if not difference:
        ahead = f"scores as high as {baseline}" + (within and f",{within}")
    if result is None or half is None:
        return f" {name} {ahead}.", False
    among = "" if result.compared == 1 else f", which allows for the choice among {result.compared} candidates"
    return f" {name} {ahead} (95 % interval{among}).", result.score_gain >= half


def _metric_check(info: StudyInfo, summary: StudySummary, metrics: Sequence[MetricSummary], run: str) -> TrustCheck:
    if info.replayed and not metrics:
        sentence = "The scores are published ones: no model was trained that a task could judge."
        return TrustCheck(METRICS, Outcome.NOT_APPLICABLE, sentence)
    if not trained_models(summary):
        sentence = "No model has been trained to the last rung."
        return _not_done_yet(METRICS, sentence, info, summary, run, 0)
    judging = [m for m in metrics if is_in_tables(m.name)]
    known = [m for m in judging if not m.teacher_near_chance]
    if not judging:
        sentence = "No task was evaluated, as these images have none: nothing shows what a higher score is good for."
        return TrustCheck(METRICS, Outcome.NOT_DONE, sentence)
    if not known:
        sentence = "Even the teachers are near chance in every metric on these images, so none can judge the score."
        return TrustCheck(METRICS, Outcome.NOT_DONE, sentence)
    if max(m.models for m in known) < MIN_RANKED:
        return _not_done_yet(METRICS, too_few_models(known), info, summary, run, max(m.models for m in known))
    if not any(m.tau is not None for m in known):
        sentence = "All models have the same score or the same values of the metrics: there is no order to compare."
        return TrustCheck(METRICS, Outcome.NOT_DONE, sentence)
    agreeing, opposed = [m for m in known if m.agrees], [m for m in known if m.contradicts]
    values = ", ".join(f"{brief(m.label)} {fixed(m.tau, 2)}" for m in known if m.tau is not None)
    sentence = (
        f"The score agrees with {len(agreeing) or 'none'} of {plural(len(known), 'metric')} (Kendall’s τ: {values})."
    )
    if opposed:
        sentence = f"{sentence.removesuffix('.')}, and ranks the models in the opposite order of {len(opposed)}."
    passed = 2 * len(agreeing) > len(known) and not opposed
    words = f"{sentence} {_front_agreement(known)}" if len(info.objectives) > 1 else sentence
    return TrustCheck(METRICS, Outcome.PASS if passed else Outcome.WARN, words)


def _front_agreement(metrics: Sequence[MetricSummary]) -> str:
    """Say for which metrics the agreement is significant over the models on the front alone."""
    most = max(m.on_front.candidates for m in metrics)
    if most < MIN_RANKED:
        return f"On the front alone it is unknown: {plural(most, 'model')} cannot show it."
    agreeing = [m for m in metrics if m.agrees_on_front]
    values = ", ".join(f"{brief(m.label)} {fixed(m.on_front.tau, 2)}" for m in agreeing)
    return (
        f"Among the {most} models of the front alone, the agreement is significant (95 % interval of τ above 0) for "
        f"{len(agreeing) or 'none'} of {plural(len(metrics), 'metric')}{f': {values}' if values else ''}. That says "
        "nothing of two models with nearly equal scores."
    )
