"""What the noise of the timings leaves open: who ties with whom, and whose interval cannot be trusted at all."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from nas.analysis.remeasuring import DISTURBED
from nas.records import StudyInfo
from reports.wording import brief

if TYPE_CHECKING:
    from reports.summary import Scored


def disturbance(net: Scored) -> str | None:
    """The verdict on the net's timing where not even its interval can be trusted."""
    m = net.trial.measurement
    return m.verdict if m is not None and m.verdict in DISTURBED else None


def disturbances(nets: Iterable[Scored]) -> str:
    """In words, of whose timings that is said: "trial 3 contended, trial 5 throttled"; "" where of none."""
    return ", ".join(
        f"{name} {verdict}" for name, verdict in {brief(n.name, 40): disturbance(n) for n in nets}.items() if verdict
    )


def floor_of(itself: Scored | None) -> float:
    """By what share of speed two equal nets differ, by the reference against itself (A/A); 0 where that is unknown."""
    return max(itself.ratio_high, 1 / itself.ratio_low) - 1 if itself and itself.ratio_low > 0 else 0.0


def tied_neighbours(front: Sequence[Scored], floor: float) -> int:
    """Neighbours on the front, fastest first, whose speeds differ by no more than intervals or `floor`."""
    return sum(a.ratio_low <= b.ratio_high or a.ratio / b.ratio - 1 <= floor for a, b in pairwise(front))


def near_front(
    complete: Sequence[Scored], front: Sequence[Scored], info: StudyInfo, floor: float
) -> tuple[Scored, ...]:
    """Dominated nets that would not be, were they as much faster than the front as the intervals, or `floor`, allow."""
    speed = next((i for i, o in enumerate(info.objectives) if o.name == "throughput"), None)
    if speed is None:
        return ()
    others = {s.trial.number: s.values[:speed] + s.values[speed + 1 :] for s in (*complete, *front)}
    on_front = {s.trial.number for s in front}

    def surely(f: Scored, s: Scored) -> bool:
        a, b = others[f.trial.number], others[s.trial.number]
        apart, gap = f.ratio_low - s.ratio_high, f.ratio / s.ratio - 1 - floor
        faster = (apart > 0 and gap > 0) or (a != b and apart >= 0 and gap >= 0)
        return faster and all(x >= y for x, y in zip(a, b, strict=True))

    return tuple(s for s in complete if s.trial.number not in on_front and not any(surely(f, s) for f in front))
