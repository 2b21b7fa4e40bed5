"""What a second measurement changes: ranks, the front, how far both agree. Pure; records in, numbers out.

The two measurements never share a front: each net is compared with others under one of them, and the outcomes are laid
side by side.
"""

from __future__ import annotations

from dataclasses import dataclass

from nas.records import Measurement, Rerank, Study, TrialRecord
from nas.reranking.agreement import Agreement, agreement
from nas.reranking.plane import Place, Plane, Standing
from nas.reranking.selection import complete, is_baseline

WRONG = "wrong output"  # a verdict: what was timed does not compute the network, and has no place on a front


@dataclass(frozen=True)
class Row:
    """One net before and now. What has no number now has no place, no ranks and a reason.

    Ranks are by ratio among the rows with both numbers, the fastest is 1.
    """

    trial: TrialRecord
    before: Place
    now: Place | None
    rank_before: int | None
    rank_now: int | None
    measurement: Measurement | None
    reason: str | None


@dataclass(frozen=True)
class Comparison:
    """All that is told of a rerank."""

    rows: tuple[Row, ...]  # fastest before first
    agreement: Agreement
    volume_before: float  # hypervolume of the found nets measured both times, in the study's own units
    volume_now: float
    left_out: int  # complete found nets that were not tried again

    def moved(self, before: Standing, now: Standing | None) -> tuple[Row, ...]:
        """Found nets that stood so and stand so now; None: those without a number now."""
        found = (r for r in self.rows if not is_baseline(r.trial))
        return tuple(r for r in found if (r.before.standing, r.now and r.now.standing) == (before, now))

    @property
    def stayed(self) -> tuple[Row, ...]:
        """On the front before and now."""
        return self.moved(Standing.FRONT, Standing.FRONT)

    @property
    def tied(self) -> tuple[Row, ...]:
        """Of the front before, now behind others by less than the intervals."""
        return self.moved(Standing.FRONT, Standing.TIED)

    @property
    def left(self) -> tuple[Row, ...]:
        """Of the front before, now beaten."""
        return self.moved(Standing.FRONT, Standing.BEHIND)

    @property
    def lost(self) -> tuple[Row, ...]:
        """Of the front before, without a number now."""
        return self.moved(Standing.FRONT, None)

    @property
    def joined(self) -> tuple[Row, ...]:
        """On the front now, not before."""
        return self.moved(Standing.TIED, Standing.FRONT) + self.moved(Standing.BEHIND, Standing.FRONT)


def compare(study: Study, rerank: Rerank) -> Comparison:
    """Lay the study's measurements and the rerank's side by side, for every net that the rerank tried."""
    able = complete(study)
    tried = [t for t in able if t.number in rerank.measurements or t.number in rerank.unmeasured]
    old = {t.number: t.measurement for t in able if t.measurement}
    before, before_of_tried = Plane(able, old), Plane(tried, old)
    now = Plane(tried, {n: m for n, m in rerank.measurements.items() if m.verdict != WRONG})
    both = now.spots.keys()
    ranks_before, ranks_now = before.ranks(both), now.ranks(both)
    rows = [
        Row(
            trial=t,
            before=before.place(t.number),
            now=_now(t.number, before, before_of_tried, now) if t.number in both else None,
            rank_before=ranks_before.get(t.number),
            rank_now=ranks_now.get(t.number),
            measurement=rerank.measurements.get(t.number),
            reason=_reason(rerank, t.number),
        )
        for t in sorted(tried, key=lambda t: (-before.spots[t.number].ratio, t.number))
    ]
    return Comparison(
        rows=tuple(rows),
        agreement=agreement([before.spots[n] for n in both], list(now.spots.values())),
        volume_before=before.volume(both, study.info.objectives),
        volume_now=now.volume(both, study.info.objectives),
        left_out=sum(not is_baseline(t) for t in able) - sum(not is_baseline(t) for t in tried),
    )


def _now(number: int, before: Plane, before_of_tried: Plane, now: Plane) -> Place:
    """A net is not new on the front where only those that nobody tried again had kept it away."""
    place, old = now.place(number), before.place(number)
    kept_away = old.standing is not Standing.FRONT
    by_others = before_of_tried.place(number).standing is Standing.FRONT
    if place.standing is Standing.FRONT and kept_away and by_others:
        return Place(Standing.OPEN, old.by)
    return place


def _reason(rerank: Rerank, number: int) -> str | None:
    m = rerank.measurements.get(number)
    if m is not None and m.verdict == WRONG:
        return WRONG if m.output_error is None else f"{WRONG}: {m.output_error:.2g} off fp32 eager's"
    return rerank.unmeasured.get(number)
