"""Find a study's best candidate within limits, with its confidence; the nearest one where none fits. Pure.

Only candidates with equally long trainings are compared: those of the study's last rung with each other, or retrained
ones with each other, each with its deciding measurement. `nas.analysis.evidence` has the rule.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from nas.analysis import RETRAINED_NEAR_MISSES
from nas.analysis.comparable import setting_words
from nas.analysis.evidence import LAST_RUNG, RETRAINED, ModelEvidence, StudyEvidence
from nas.analysis.limit_chances import Quantity, chance_to_keep, quantities
from nas.analysis.noise import DRAWS, SeedScatter, assumed_scatter, draw_scores
from nas.analysis.recommendation import race_words, recommend
from nas.analysis.trial_choice import (
    NEGLIGIBLE_CHANCE,
    SelectionError,
    candidates_to_retrain,
    complete,
    front_candidates,
    nothing_complete,
)
from nas.cli import OperationFailed
from nas.numbers import fixed, plural
from nas.study.ending import unfinished
from nas.study.limits import LIMITS, Compliance
from nas.study.records import StudyRecord, TrialRecord, TrialState
from nas.study.timing_doubts import timing_doubt
from search_space import SpecError
from search_space.outline import outline

CHANCES = (
    "chance of the highest score: share of random draws in which the model scores highest; each draw adds the noise of "
    'seeds to every score. A score is "not clearly lower" if it exceeds that of the best model in more than '
    f"{NEGLIGIBLE_CHANCE:.0%} of the draws."
)

Limits = Mapping[str, float]
# Name of a remeasurement or None, arch_id -> seconds of single-image calls.
Latencies = Callable[[str | None, str], Sequence[float]]


class NoCandidate(OperationFailed, SelectionError):
    """A study that has no answer because none of its candidates is complete."""


@dataclass(frozen=True, kw_only=True)
class MeasuredCandidate(ModelEvidence):
    """A trial or baseline that may be the answer, with the quantities that limits bound."""

    quantities: Mapping[str, Quantity]
    chance_best: float | None = None  # among the candidates that fit; None where it does not fit
    chance_to_keep: float | None = None  # that it is within all limits; None where no interval is known

    def fits(self, limits: Limits) -> bool:
        """Return whether it is within all limits; an unknown quantity is within none."""
        return all(name in self.quantities and self.quantities[name].kept(bound) for name, bound in limits.items())

    def excess(self, limits: Limits) -> dict[str, float]:
        """Return the factor by which each exceeded limit would have to be relaxed; infinite for unknown quantities."""
        q = self.quantities
        factors = {n: q[n].relaxation(bound) if n in q else math.inf for n, bound in limits.items()}
        return {name: factor for name, factor in factors.items() if factor > 1}

    @property
    def outline(self) -> str:
        """Return the architecture on one line; of a replay's networks, which are no specs of ours, the id."""
        try:
            return outline(self.trial.network)
        except SpecError:
            return self.trial.arch_id


@dataclass(frozen=True)
class Answer:
    """A study's answer to limits. `nearest` and `alone` are set where nothing fits."""

    basis: str  # RETRAINED or LAST_RUNG
    steps: int  # of each compared training
    scatter: SeedScatter
    best: MeasuredCandidate | None
    runners_up: tuple[MeasuredCandidate, ...]  # possibly better than the best; the likeliest first
    fitting: int  # candidates and baselines
    compared: int  # candidates
    compared_baselines: int
    stopped_early: int  # candidates within the limits that were stopped at a lower rung and are not compared
    stopped_unknown: int  # others stopped at a lower rung that break no limit, and of which a limited value is unknown
    not_retrained: int  # candidates within the limits that were not retrained; 0 where the basis is the last rung
    baselines_not_retrained: int  # as the candidates
    nearest: MeasuredCandidate | None
    alone: Mapping[str, MeasuredCandidate | None]  # by limit, the best candidate within this limit alone
    unfinished: str = ""  # how much of the study was evaluated; "" of a finished one
    missing: tuple[ModelEvidence, ...] = ()  # models without which retrained scores do not decide
    missing_command: str = ""  # what retrains them; "" where no option of backbone-nas retrain does
    replayed: bool = False  # the study's results are a table's, and nothing can be retrained
    only: str | None = None  # the remeasurement whose timings alone count
    untimed: int = 0  # complete models that it did not time
    raced: str = ""  # what the study's race decided; "" without one
    lacks_baselines: bool = False  # retrained scores decide, and none of the study's baselines has one

    def chosen_among(self, c: MeasuredCandidate) -> int:
        """Return the number of models of which a candidate has the highest score; 1 where it was not chosen by that."""
        return self.fitting if self.best is not None and c.number == self.best.number else 1


def answer(evidence: StudyEvidence, limits: Limits, latencies: Latencies = lambda remeasurement, arch_id: ()) -> Answer:
    """Return a study's answer to limits.

    Retrained candidates, which were trained longer and with more seeds, are the basis if the best candidate by the last
    rung is among them.

    Raises:
        NoCandidate: The study has no complete candidate; a baseline is only shown as comparison.
    """
    study, summary = evidence.study, evidence.retraining
    if all(model.trial.baseline for model in evidence.searched):
        if evidence.only is not None and evidence.untimed:
            raise NoCandidate(f"the remeasurement {evidence.only!r} timed no candidate trained to the last rung")
        raise NoCandidate(str(nothing_complete(study)))
    last = [_candidate(model, latencies) for model in evidence.searched]
    retrained = [_candidate(model, latencies) for model in evidence.retrained]
    favorite = _best([c for c in last if c.fits(limits)])
    missing = evidence.unretrained([favorite] if favorite else [])
    by_retraining = not missing and any(c.fits(limits) for c in retrained)
    candidates = retrained if by_retraining else last
    scatter = assumed_scatter(study.info)
    if summary is not None:
        scatter = summary.scatter if by_retraining else summary.scatter_at_last_rung or scatter
    baselines = [model for model in evidence.searched if model.trial.baseline]
    fitting = _with_chances([c for c in candidates if c.fits(limits)], scatter, limits)
    best = _best(fitting)
    compared = {c.trial.number for c in candidates}
    stopped = [t for t in study.trials if t.state is TrialState.STOPPED and not t.baseline and t.number not in compared]
    compared_baselines = sum(c.trial.baseline is not None for c in candidates)
    not_retrained = evidence.unretrained(c for c in last if c.fits(limits)) if by_retraining else ()
    baselines_not_retrained = sum(model.trial.baseline is not None for model in not_retrained)
    compliances = [_compliance(t, limits) for t in stopped]
    recommended = recommend(evidence)
    raced = recommended if recommended is not None and recommended.race is not None else None
    return Answer(
        raced="" if raced is None else f"the study's race: {raced.model.name} {race_words(raced)}",
        basis=RETRAINED if by_retraining else LAST_RUNG,
        steps=summary.steps if summary and by_retraining else study.info.rung_steps[-1],
        scatter=scatter,
        best=best,
        runners_up=_runners_up(fitting, best, scatter),
        fitting=len(fitting),
        compared=len(candidates) - compared_baselines,
        compared_baselines=compared_baselines,
        stopped_early=compliances.count(Compliance.KEPT),
        stopped_unknown=compliances.count(Compliance.UNKNOWN),
        not_retrained=len(not_retrained) - baselines_not_retrained,
        baselines_not_retrained=baselines_not_retrained,
        nearest=None if best else _nearest(candidates, limits),
        alone={} if best else {n: _best([c for c in candidates if c.fits({n: b})]) for n, b in limits.items()},
        unfinished=unfinished(study),
        missing=missing if evidence.retrained else (),
        missing_command=_retrain_command(evidence, missing[0]) if evidence.retrained and missing else "",
        replayed=study.info.replayed,
        only=evidence.only,
        untimed=evidence.untimed,
        lacks_baselines=by_retraining and bool(baselines) and len(evidence.unretrained(baselines)) == len(baselines),
    )


def _retrain_command(evidence: StudyEvidence, model: ModelEvidence) -> str:
    """Return the command that retrains a model; "" where the model is neither on the front nor a near miss."""
    if model.trial.baseline:
        return "backbone-nas retrain --baselines"
    recommended = recommend(evidence)
    has_front = any(not trial.baseline for trial in complete(evidence.before))
    candidates = front_candidates(evidence.before) if has_front else ()
    ranked = [c.trial.number for c in candidates_to_retrain(candidates, len(candidates)) if not c.on_front]
    on_front = {c.trial.number for c in candidates if c.on_front}
    if recommended is not None:
        on_front.add(recommended.by_search.number)
    if model.number in on_front or model.number in ranked[:RETRAINED_NEAR_MISSES]:
        return "backbone-nas retrain"
    return f"backbone-nas retrain --near-misses {ranked.index(model.number) + 1}" if model.number in ranked else ""


def _candidate(model: ModelEvidence, latencies: Latencies) -> MeasuredCandidate:
    known = quantities(model.trial, model.measurement, latencies(model.remeasurement, model.trial.arch_id))
    return MeasuredCandidate(**vars(model), quantities=known)


def _best(candidates: Sequence[MeasuredCandidate]) -> MeasuredCandidate | None:
    """Return the best by score; of equals the fastest, then the earliest."""
    return max(candidates, key=lambda c: (c.score, c.measurement.ratio, -c.trial.number), default=None)


def _with_chances(
    candidates: Sequence[MeasuredCandidate], scatter: SeedScatter, limits: Limits
) -> list[MeasuredCandidate]:
    if not candidates:
        return []
    drawn = _draw(candidates, scatter)
    best = np.bincount(drawn.argmax(axis=1), minlength=len(candidates)) / len(drawn)
    return [
        replace(c, chance_best=float(share), chance_to_keep=chance_to_keep(c.quantities, limits))
        for c, share in zip(candidates, best, strict=True)
    ]


def _runners_up(
    candidates: Sequence[MeasuredCandidate], best: MeasuredCandidate | None, scatter: SeedScatter
) -> tuple[MeasuredCandidate, ...]:
    """Return the candidates whose chance to be better than the best, compared in pairs, is not negligible."""
    if best is None:
        return ()
    drawn = _draw(candidates, scatter)
    best_drawn = drawn[:, candidates.index(best)]
    close = [
        c
        for c, other in zip(candidates, drawn.T, strict=True)
        if c is not best and (other > best_drawn).mean() > NEGLIGIBLE_CHANCE
    ]
    return tuple(sorted(close, key=lambda c: (-(c.chance_best or 0.0), -c.score, c.trial.number)))


def _draw(candidates: Sequence[MeasuredCandidate], scatter: SeedScatter) -> np.ndarray:
    scatters = [scatter.of_kind(c.trial.baseline) for c in candidates]
    return draw_scores([c.scores for c in candidates], scatters, DRAWS, np.random.default_rng(0))


def _compliance(trial: TrialRecord, limits: Limits) -> Compliance:
    """Return an early-stopped candidate's compliance with all limits. A search times only some of those candidates."""
    known = quantities(trial, trial.measurement)
    answers = {LIMITS[n].compliance(known[n].value if n in known else None, bound) for n, bound in limits.items()}
    return next((each for each in (Compliance.BROKEN, Compliance.UNKNOWN) if each in answers), Compliance.KEPT)


def _nearest(candidates: Sequence[MeasuredCandidate], limits: Limits) -> MeasuredCandidate | None:
    """Return the candidate with the smallest worst excess; ties go to the smallest total excess, then to the score."""

    def distance(candidate: MeasuredCandidate) -> tuple[float, float, float]:
        excess = candidate.excess(limits).values()
        return max(excess), math.prod(excess), -candidate.score

    nearest = min(candidates, key=distance)
    return nearest if math.isfinite(distance(nearest)[0]) else None


def nothing_fits_line(a: Answer, limits: Limits) -> str:
    """Return a line that nothing fits, and by how much limits would have to be relaxed."""
    line = f"none of {_models(a.compared, a.compared_baselines)} is within the limits"
    if a.nearest is None:
        return f"{line}: of every model, a limited quantity is unknown"
    relaxed = ", ".join(
        f"{LIMITS[name].flag} by {100 * (factor - 1):.1f} % ({_with_unit(name, a.nearest.quantities[name].value)})"
        for name, factor in a.nearest.excess(limits).items()
    )
    return f"{line}; the nearest one, {a.nearest.trial.name}, breaks {relaxed}"


def confidence_line(a: Answer, limits: Limits) -> str:
    """Return a line with the confidence in the answer."""
    assert a.best is not None
    of = f"the {plural(a.fitting, 'model')} {'within the limits' if limits else 'compared'}"
    line = f"chance that {a.best.trial.name} has the highest score of {of}: {share_of_draws(a.best, a.fitting)}"
    if not a.scatter.measured and a.fitting > 1:
        trains = "" if a.replayed else ": backbone-nas retrain trains them"
        line += f", if scores vary between seeds as in another study (no model of this study has two seeds{trains})"
    return f"{line}; chance that it is within the limits: {percent(a.best.chance_to_keep)}" if limits else line


def answer_notes(a: Answer, limits: Limits) -> list[str]:
    """Return notes for the reader of the numbers, a phrase each."""
    basis = "mean score of retrainings" if a.basis == RETRAINED else "score of one training each"
    notes = [a.raced] if a.raced else []
    notes += [f"models are compared by {basis}, {a.steps} steps; those trained for other numbers of steps are left out"]
    notes.append(f"standard deviation of the score between seeds: {a.scatter.words}")
    if a.best is not None and a.fitting > 1:
        notes.append(CHANCES)
    within = " within the limits" if limits else ""
    if a.missing:
        notes.append(
            f"retrained scores are not used, because {a.missing[0].name}, which has the search's highest score{within},"
            f" was not retrained{f' ({a.missing_command})' if a.missing_command else ''}"
        )
    if a.lacks_baselines:
        notes.append("no baseline was retrained, so the model is compared with none (backbone-nas retrain --baselines)")
    if a.only is not None:
        left = f"; {plural(a.untimed, 'model')} that it did not time are left out" if a.untimed else ""
        notes.append(f"models are compared by the timings of the remeasurement {a.only} alone{left}")
    if a.stopped_early:
        notes.append(f"left out: {_models(a.stopped_early)}{within}, early-stopped at lower rungs")
    if a.stopped_unknown:
        notes.append(
            f"left out: {_models(a.stopped_unknown)} early-stopped at lower rungs, of which a limited quantity is "
            "unknown, so that they may be within the limits"
        )
    if a.not_retrained or a.baselines_not_retrained:
        notes.append(f"left out: {_models(a.not_retrained, a.baselines_not_retrained)}{within}, not retrained")
    notes += [_alone_line(name, limits[name], c) for name, c in a.alone.items() if len(limits) > 1]
    if a.best is not None and a.best.chance_to_keep is None:
        unknown = [n for n, b in limits.items() if LIMITS[n].interval and a.best.quantities[n].chance(b) is None]
        notes.append(f"no 95 % interval is known for: {', '.join(LIMITS[n].label for n in unknown)}")
    if a.best is not None and a.best.chance_to_keep is not None:
        chances = {n: a.best.quantities[n].chance(b) or 0.0 for n, b in limits.items()}
        if len(unsure := [n for n, chance in chances.items() if 0 < chance < 1]) > 1:
            notes.append(
                f"the chances of {' and '.join(LIMITS[n].label for n in unsure)} count as independent; where one cause "
                f"moves them together, the chance to be within the limits is up to {percent(min(chances.values()))}"
            )
    if (shown := a.best or a.nearest) is not None:
        m = shown.measurement
        verdict = "" if m.verdict == "ok" else f"; verdict: {m.verdict}"
        doubt = " (the intervals of its timings cannot be trusted)" if timing_doubt(m) else ""
        again = "" if shown.remeasurement is None else f" again (remeasurement {shown.remeasurement})"
        notes.append(f"measured{again} on {setting_words(m)}{verdict}{doubt}")
    return notes


def _alone_line(name: str, bound: float, candidate: MeasuredCandidate | None) -> str:
    limit = f"with {LIMITS[name].flag} {bound:g} as the only limit"
    if candidate is None:
        return f"{limit}: no model is within it"
    value = _with_unit(name, candidate.quantities[name].value)
    return f"{limit}: trial {candidate.trial.number}, score {fixed(candidate.score, 4)}, {value}"


def in_unit(name: str, value: float) -> str:
    """Return a limited quantity's value in the unit of tables, without the unit."""
    return f"{value / LIMITS[name].shown_per:.4g}"


def _with_unit(name: str, value: float) -> str:
    return f"{in_unit(name, value)} {LIMITS[name].unit}"


def share_of_draws(c: MeasuredCandidate, fitting: int) -> str:
    """Return the chance to be the best in percent: among several candidates, draws show no certainty."""
    if c.chance_best is None or fitting == 1 or 0 < c.chance_best < 1:
        return percent(c.chance_best)
    return ">99%" if c.chance_best else "<1%"


def percent(chance: float | None) -> str:
    """Return a chance in percent; only certainty is 0 % or 100 %."""
    if chance is None:
        return "unknown"
    whole = f"{chance:.0%}"
    if whole == "100%" and chance < 1:
        return ">99%"
    return "<1%" if whole == "0%" and chance > 0 else whole


def _models(candidates: int, baselines: int = 0) -> str:
    """Return "5 candidates and 1 baseline", without a kind of which there is none."""
    counts = ((candidates, "candidate"), (baselines, "baseline"))
    return " and ".join(plural(count, kind) for count, kind in counts if count)


WeightFiles = Callable[[MeasuredCandidate], Sequence[Path]]


def answer_json(study: StudyRecord, a: Answer, limits: Limits, weights: WeightFiles) -> dict[str, Any]:
    """Return the answer as plain data, with the weight files of each candidate."""

    def plain(candidate: MeasuredCandidate | None) -> dict[str, Any] | None:
        if candidate is None:
            return None
        return _candidate_json(a, candidate, limits) | {"weights": [str(path) for path in weights(candidate)]}

    return {
        "study": study.info.name,
        "unfinished": a.unfinished or None,
        "limits": dict(limits),
        "basis": a.basis,
        "steps": a.steps,
        "seed_scatter": asdict(a.scatter),
        "fitting": a.fitting,
        "compared": a.compared,
        "compared_baselines": a.compared_baselines,
        "stopped_early": a.stopped_early,
        "stopped_unknown": a.stopped_unknown,
        "not_retrained": a.not_retrained,
        "baselines_not_retrained": a.baselines_not_retrained,
        "best": plain(a.best),
        "runners_up": [plain(candidate) for candidate in a.runners_up],
        "nearest": plain(a.nearest),
        "alone": {name: plain(candidate) for name, candidate in a.alone.items()},
        "notes": answer_notes(a, limits),
    }


def _candidate_json(a: Answer, c: MeasuredCandidate, limits: Limits) -> dict[str, Any]:
    return {
        "trial": c.trial.number,
        "arch_id": c.trial.arch_id,
        "name": c.trial.name,
        "baseline": c.trial.baseline,
        "outline": c.outline,
        "spec": c.trial.spec,
        "score": c.score,
        "half_width": a.scatter.of_kind(c.trial.baseline).half_width(c.scores, a.chosen_among(c)),
        "seeds": c.seeds,
        "remeasurement": c.remeasurement,
        "measurement": c.measurement.to_dict(),
        "limits": {name: _limit_json(c, name, bound) for name, bound in limits.items()},
        "chance_best": c.chance_best,
        "chance_to_keep": c.chance_to_keep,
    }


def _limit_json(c: MeasuredCandidate, name: str, bound: float) -> Mapping[str, float | bool | None]:
    q = c.quantities.get(name)
    if q is None:
        return {"bound": bound, "value": None, "low": None, "high": None, "chance": None, "excess": None}
    value = {"bound": bound, "value": q.value, "low": q.low, "high": q.high}
    return value | {"chance": q.chance(bound), "excess": q.relaxation(bound)}
