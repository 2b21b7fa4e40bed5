"""Compare a study's measurements with a remeasurement: ranks, fronts, agreement, and a conclusion in words. Pure.

The two sets never share a front: candidates are compared under one set at a time, and the outcomes are shown side by
side.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import mode
from typing import Any

from nas.analysis.agreement import MIN_FOR_INTERVAL, SpeedAgreement, speed_agreement
from nas.analysis.comparable import ARROW, not_comparable, other_versions, same_setting
from nas.analysis.front import FrontPosition, FrontStatus, ScoreSpeedPlane
from nas.analysis.noise import CONFIDENCE_LEVEL
from nas.analysis.trial_choice import complete
from nas.numbers import fixed, fixed_interval, plural, trials_words
from nas.study.records import Measurement, Remeasurement, StudyRecord, TrialRecord
from nas.study.timing_doubts import ratio_interval_words, timing_doubt

OTHER_ORDER_TAU = 0.5  # at 0.5 a quarter of the pairs is swapped: the fronts agree by chance at most


@dataclass(frozen=True)
class RemeasuredCandidate:
    """A trial before and now. A trial without a measurement now has a reason instead of a position and ranks.

    Ranks are by ratio among the trials measured both times; the fastest is 1.
    """

    trial: TrialRecord
    before: FrontPosition
    now: FrontPosition | None
    rank_before: int | None
    rank_now: int | None
    measurement: Measurement | None
    reason: str | None

    @property
    def change(self) -> str:
        """Return the change of the candidate's position in words; baselines are not part of a front."""
        baseline = self.trial.baseline is not None
        before = _position(self.before, baseline)
        now = "not measured" if self.now is None else _position(self.now, baseline)
        if self.now and not baseline:
            was, here = (position.status is FrontStatus.FRONT for position in (self.before, self.now))
            if here and not was:
                now = "front (new)"
            if was and self.now.status is FrontStatus.BEHIND:
                now = f"left (behind {self.now.by})"
        return before if before == now else f"{before}{ARROW}{now}"


@dataclass(frozen=True)
class RemeasuringComparison:
    """A study's measurements compared with a remeasurement's."""

    candidates: tuple[RemeasuredCandidate, ...]  # baselines too; the fastest by the study's measurements first
    agreement: SpeedAgreement
    hypervolume_before: float  # of the candidates measured both times
    hypervolume_now: float
    not_tried: int  # complete candidates that were not measured again
    front_not_tried: int = 0  # those of them on the front before

    def moved(self, before: FrontStatus, now: FrontStatus | None) -> tuple[RemeasuredCandidate, ...]:
        """Return the candidates with these statuses before and now; None stands for those not measured now."""
        searched = (c for c in self.candidates if not c.trial.baseline)
        return tuple(c for c in searched if (c.before.status, c.now and c.now.status) == (before, now))

    @property
    def stayed(self) -> tuple[RemeasuredCandidate, ...]:
        """Return the candidates on the front both times."""
        return self.moved(FrontStatus.FRONT, FrontStatus.FRONT)

    @property
    def tied(self) -> tuple[RemeasuredCandidate, ...]:
        """Return the candidates that were on the front and are now dominated within the intervals."""
        return self.moved(FrontStatus.FRONT, FrontStatus.TIED)

    @property
    def left(self) -> tuple[RemeasuredCandidate, ...]:
        """Return the candidates that were on the front and are now dominated beyond the intervals."""
        return self.moved(FrontStatus.FRONT, FrontStatus.BEHIND)

    @property
    def lost(self) -> tuple[RemeasuredCandidate, ...]:
        """Return the candidates that were on the front and could not be measured now."""
        return self.moved(FrontStatus.FRONT, None)

    @property
    def joined(self) -> tuple[RemeasuredCandidate, ...]:
        """Return the candidates on the front now and not before."""
        return self.moved(FrontStatus.TIED, FrontStatus.FRONT) + self.moved(FrontStatus.BEHIND, FrontStatus.FRONT)


def compare_remeasurement(study: StudyRecord, again: Remeasurement) -> RemeasuringComparison:
    """Compare the study's measurements with a remeasurement's, for every trial that was tried again."""
    trials = complete(study)
    tried = [t for t in trials if t.number in again.measurements or t.number in again.unmeasured]
    old = {t.number: t.measurement for t in trials if t.measurement}
    before, before_of_tried = ScoreSpeedPlane(trials, old), ScoreSpeedPlane(tried, old)
    now = ScoreSpeedPlane(tried, {n: m for n, m in again.measurements.items() if not not_comparable(again, m)})
    both = now.points.keys()
    ranks_before, ranks_now = before.speed_ranks(both), now.speed_ranks(both)
    candidates = [
        RemeasuredCandidate(
            trial=t,
            before=before.position(t.number),
            now=_position_now(t.number, before, before_of_tried, now) if t.number in both else None,
            rank_before=ranks_before.get(t.number),
            rank_now=ranks_now.get(t.number),
            measurement=again.measurements.get(t.number),
            reason=_reason(again, t.number),
        )
        for t in sorted(tried, key=lambda t: (-before.points[t.number].ratio, t.number))
    ]
    untried = [t for t in trials if not t.baseline and t not in tried]
    return RemeasuringComparison(
        candidates=tuple(candidates),
        agreement=speed_agreement([before.points[n] for n in both], list(now.points.values())),
        hypervolume_before=before.hypervolume(both, study.info.objectives),
        hypervolume_now=now.hypervolume(both, study.info.objectives),
        not_tried=len(untried),
        front_not_tried=sum(before.position(t.number).status is FrontStatus.FRONT for t in untried),
    )


def _position_now(
    number: int, before: ScoreSpeedPlane, before_of_tried: ScoreSpeedPlane, now: ScoreSpeedPlane
) -> FrontPosition:
    """Return the position now; it is OPEN where only candidates that were not tried again dominated this one."""
    position, old = now.position(number), before.position(number)
    dominated_before = old.status is not FrontStatus.FRONT
    only_by_untried = before_of_tried.position(number).status is FrontStatus.FRONT
    if position.status is FrontStatus.FRONT and dominated_before and only_by_untried:
        return FrontPosition(FrontStatus.OPEN, old.by)
    return position


def _reason(again: Remeasurement, number: int) -> str | None:
    m = again.measurements.get(number)
    return again.unmeasured.get(number) if m is None else not_comparable(again, m)


def _position(position: FrontPosition, baseline: bool) -> str:
    return {
        FrontStatus.FRONT: "undominated" if baseline else "front",
        FrontStatus.TIED: f"ties with {position.by}",
        FrontStatus.BEHIND: f"behind {position.by}",
        FrontStatus.OPEN: f"open: {position.by} not measured",
    }[position.status]


def order_line(a: SpeedAgreement) -> str:
    """Return a line with Kendall's tau of candidates and baselines, its interval, and the pairs behind it."""
    c = a.correlation
    if c.tau is None:
        return f"order by speed: {plural(c.candidates, 'model')} measured both times, too few or all equal"
    why = f"for fewer than {MIN_FOR_INTERVAL}" if c.low is None else "of a perfect order"
    interval = f"no interval {why}"
    if c.interval is not None:
        interval = f"{100 * CONFIDENCE_LEVEL:.0f} % interval {fixed_interval(*c.interval, 2)}"
    swapped = f"{a.swapped} of {plural(a.pairs, 'pair')} swapped ({a.clearly_swapped} of them beyond the intervals)"
    rest = f"{a.tied} tied, {a.overlapping} with overlapping intervals"
    tau = f"Kendall's tau-b {fixed(c.tau, 2)}, {plural(c.candidates, 'model')}"
    return f"order by speed: {tau} ({interval}); {swapped}, {rest}"


def front_line(c: RemeasuringComparison) -> str:
    """Return a line with the changes of the front."""
    parts = [
        (c.stayed, "still on it"),
        (c.tied, "dominated only within the 95 % intervals"),
        (c.left, "left it"),
        (c.lost, "not measured"),
    ]
    before = sum(len(candidates) for candidates, _ in parts) + c.front_not_tried
    counts = [f"{len(candidates)} {status}{_numbers(candidates)}" for candidates, status in parts if candidates]
    counts += [f"{c.front_not_tried} not tried"] * bool(c.front_not_tried)
    joined = f"{len(c.joined)} joined{_numbers(c.joined)}" if c.joined else "none joined"
    return f"front before, {_candidates(before)}: {', '.join(counts) or 'none was measured'}; {joined}"


def hypervolume_line(c: RemeasuringComparison) -> str:
    """Return a line with the hypervolumes of the candidates measured both times."""
    return (
        f"hypervolume of the candidates measured both times: {c.hypervolume_before:.3f} before, "
        f"{c.hypervolume_now:.3f} now"
    )


def remeasuring_notes(study: StudyRecord, again: Remeasurement, c: RemeasuringComparison) -> list[str]:
    """Return notes for the reader of the numbers, a phrase each."""
    before = [t.measurement for t in complete(study) if t.number in again.measurements and t.measurement]
    changed = differences(study, again, before)
    notes = [f"changed: {d}" for d in changed] or ["changed: no recorded setting"]
    notes += _resolution_notes(before, again) + _floor_notes(again.floor) + _verdict_notes(again)
    notes += _scale_notes(study, again) + _use_notes(study, again)
    notes += _baseline_notes(c, FrontStatus.FRONT, "no longer dominated")
    notes += _baseline_notes(c, FrontStatus.BEHIND, "newly dominated")
    if c.not_tried:
        were = "was" if c.not_tried == 1 else "were"
        complete_ones = f"{_candidates(c.not_tried)} trained to the last rung {were} not measured again"
        notes.append(f"{complete_ones} and may belong on the front here (--trials near, --trials all)")
    return notes


def _resolution_notes(before: Sequence[Measurement], again: Remeasurement) -> list[str]:
    others = {m.resolution for m in again.measurements.values()} - {m.resolution for m in before}
    return [f"scores are those at the image size of the search, not at {px} px" for px in sorted(others)]


def _floor_notes(m: Measurement | None) -> list[str]:
    if m is None:
        return []
    interval = ratio_interval_words(m, 3)
    return [f"{m.reference} against itself: {m.ratio:.3f} ({interval}); its difference from 1 is noise"]


def _verdict_notes(again: Remeasurement) -> list[str]:
    verdicts = Counter(m.verdict for m in again.measurements.values())
    counts = ", ".join(f"{n} {verdict}" for verdict, n in verdicts.most_common())
    return [f"verdicts: {counts}"] if set(verdicts) - {"ok"} else []


def _scale_notes(study: StudyRecord, again: Remeasurement) -> list[str]:
    """Return a note on each comparison network that was measured both times, without the reference itself."""
    return [
        f"comparison network {t.scale}: throughput ratio {t.measurement.ratio:.3f} before, "
        f"{again.measurements[t.number].ratio:.3f} now"
        for t in study.scale
        if t.measurement and t.number in again.measurements and t.scale != study.info.reference
    ]


def _use_notes(study: StudyRecord, again: Remeasurement) -> list[str]:
    """Return a note on what the timings are for: they replace the search's only in its setting and versions."""
    olds = {t.number: t.measurement for t in complete(study) if t.measurement}
    same = [n for n, m in again.measurements.items() if n in olds and same_setting(m, olds[n])]
    if same and not other_versions(study.info, again):
        return [
            "measured in the search's setting: the report, the recommendation, select and export use the newest "
            "timings that can be trusted"
        ]
    command = f"backbone-nas select --remeasurement {again.name}"
    return [f"the search's timings stay in the report; {command} chooses by these"]


def _baseline_notes(c: RemeasuringComparison, status: FrontStatus, words: str) -> list[str]:
    """Return a note with the baselines that newly have this status."""
    baselines = [b for b in c.candidates if b.trial.baseline and b.now]
    changed = [b for b in baselines if b.now and b.now.status is status and b.before.status is not status]
    names = ", ".join((b.trial.baseline or b.trial.arch_id) for b in changed)
    return [f"baselines {words}: {names}"] if changed else []


def differences(study: StudyRecord, again: Remeasurement, before: Sequence[Measurement]) -> list[str]:
    """Return the settings that differ, as "batch: 16 -> 1"; each is that of most measurements."""
    now = list(again.measurements.values())
    changed = []
    for name in ("device", "arm", "batch", "resolution", "reference"):
        old_value, new_value = (mode([getattr(m, name) for m in ms] or ["?"]) for ms in (before, now))
        if old_value != new_value:
            changed.append(f"{'runtime' if name == 'arm' else name}: {old_value}{ARROW}{new_value}")
    return [*changed, *other_versions(study.info, again)]


def conclusion(c: RemeasuringComparison) -> str:
    """Return the consequence for the choice of a candidate, and how little of the front it is from."""
    if not c.front_not_tried:
        return _consequence(c)
    tried = len(c.stayed) + len(c.tied) + len(c.left) + len(c.lost)
    were, of = "was" if tried == 1 else "were", tried + c.front_not_tried
    return f"Only {tried} of the {plural(of, 'model')} of the front {were} measured. {_consequence(c)}"


def _consequence(c: RemeasuringComparison) -> str:
    before = len(c.stayed) + len(c.tied) + len(c.left)
    gone, new, lost = len(c.left), len(c.joined), len(c.lost)
    measured, tau = c.agreement.correlation.candidates, c.agreement.correlation.tau
    if not before and not lost:
        return "No candidate of the front was measured again: nothing is known about the front on this device."
    if not before:
        return "No candidate of the front could be measured here: nothing is known about the front on this device."
    if (doubtful := sum(timing_doubt(r.measurement) is not None for r in c.candidates)) > measured / 2:
        return (
            f"{doubtful} of {plural(measured, 'measurement')} cannot be trusted: measure again (--overwrite) "
            "on an otherwise idle machine."
        )
    other_order = tau is not None and measured >= MIN_FOR_INTERVAL and tau <= OTHER_ORDER_TAU
    if gone > before / 2 or ((gone or new) and other_order):
        return "The front of the search does not hold on this device and runtime: run a search on them."
    if gone or new or lost:
        return f"Most of the front holds here, but {_moves(gone, new, lost)}: choose by the ratios measured now."
    if c.agreement.clearly_swapped:
        pairs = "a pair of models"
        if c.agreement.clearly_swapped > 1:
            pairs = f"{c.agreement.clearly_swapped} pairs of models"
        return f"The front holds here, but {pairs} changed their order by speed: compare the ranks in the table."
    return "The front and the order by speed hold here: the best candidates of the search are also the best here."


def _moves(gone: int, new: int, lost: int) -> str:
    moves = ((gone, "left it"), (new, "joined it"), (lost, "could not be measured"))
    return " and ".join(f"{_candidates(n)} {move}" for n, move in moves if n)


def _numbers(candidates: Sequence[RemeasuredCandidate]) -> str:
    return f" ({trials_words([c.trial.number for c in candidates])})"


def _candidates(n: int) -> str:
    return plural(n, "candidate")


def remeasuring_json(study: StudyRecord, again: Remeasurement, c: RemeasuringComparison) -> dict[str, Any]:
    """Return the comparison as plain data, with every measurement whole."""
    fronts = {name: getattr(c, name) for name in ("stayed", "tied", "left", "lost", "joined")}
    about = {key: value for key, value in again.to_dict().items() if key not in ("measurements", "unmeasured")}
    return {
        "study": study.info.name,
        **about,
        "candidates": [_candidate_json(candidate) for candidate in c.candidates],
        "agreement": asdict(c.agreement),
        "front": {name: [r.trial.number for r in rows] for name, rows in fronts.items()},
        "hypervolume": {"before": c.hypervolume_before, "now": c.hypervolume_now},
        "not_tried": c.not_tried,
        "front_not_tried": c.front_not_tried,
        "notes": remeasuring_notes(study, again, c),
        "conclusion": conclusion(c),
    }


def _candidate_json(c: RemeasuredCandidate) -> dict[str, Any]:
    before, now = c.trial.measurement, c.measurement
    return {
        "trial": c.trial.number,
        "arch_id": c.trial.arch_id,
        "name": c.trial.name,
        "baseline": c.trial.baseline,
        "score": c.trial.final_score,
        "before": before and before.to_dict(),
        "now": now and now.to_dict(),
        "rank": {"before": c.rank_before, "now": c.rank_now},
        "position": {"before": asdict(c.before), "now": c.now and asdict(c.now)},
        "change": c.change,
        "reason": c.reason,
    }
