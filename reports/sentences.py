"""What a study found, in plain sentences that carry their numbers and say what the noise does not allow."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from nas.records import StudyInfo, TrialState
from reports.meaning import MetricRow, near_chance
from reports.summary import Comparison, Scored, StudySummary
from reports.tallies import is_open
from reports.ties import disturbance, disturbances
from reports.wording import brief


def headline(info: StudyInfo, summary: StudySummary) -> tuple[str, ...]:
    """Three sentences: the front, the fastest at the best baseline's quality, the best at its speed."""
    first = _front_sentence(info, summary)
    if not summary.complete or summary.best_baseline is None:
        missing = "No baseline was trained to the last rung, so there is nothing to compare with."
        return (first,) if summary.best_baseline is not None else (first, missing)
    return first, _speed_sentence(summary), _quality_sentence(summary)


def noise(info: StudyInfo, summary: StudySummary) -> str:
    """What the measured intervals allow to say about a front of quality and throughput; "" of any other."""
    plane = {o.name for o in info.objectives} == {"quality", "throughput"}
    if not summary.front or not plane or summary.half_width is None:
        return ""
    width = f" (95 % intervals, half-width {summary.half_width:.2%} in the median)"
    ties = "no two neighbours on the front have overlapping intervals"
    if len(summary.front) == 1:
        ties = "the front has no two neighbours to be told apart"
    if summary.tied_neighbours:
        pairs = _plural(summary.tied_neighbours, "pair", "pairs")
        ties = f"{pairs} of neighbours on the front cannot be told apart in speed"
    near = _plural(len(summary.near), "dominated net is", "dominated nets are")
    return (
        f"{floor(summary.itself)}By the throughput measurements{width}, {ties}, and {near} within the "
        "noise of the front. Each net was trained once: quality has no interval here, so small differences in "
        "quality prove nothing."
    )


def floor(itself: Scored | None) -> str:
    """What two equal nets differ by here."""
    if itself is None:
        return ""
    disturbed = (
        f" That measurement was disturbed ({d}): its interval cannot be trusted." if (d := disturbance(itself)) else ""
    )
    return (
        f"Measured against itself (A/A), {brief(itself.name)} came to {itself.ratio:.3f} times its own throughput "
        f"({itself.ratio_low:.3f} to {itself.ratio_high:.3f}): differences within that are ties.{disturbed} "
    )


def progress(info: StudyInfo, summary: StudySummary, made: datetime) -> str | None:
    """A sentence for a study that has not spent its budget or still has trials running; None for a finished one."""
    budget = info.config.get("budget")
    running = summary.counts.get(TrialState.RUNNING, 0)
    short = isinstance(budget, int) and summary.evaluated < budget
    if not short and not running:
        return None
    done = f"{summary.evaluated} of {budget}" if short else str(summary.evaluated)
    open_trials = f", {_plural(running, 'trial was', 'trials were')} running when this was written" if running else ""
    on = f"This page was made at {made:%Y-%m-%d %H:%M:%S} UTC"
    if is_open(info) or not info.sessions:
        return (
            f"Unfinished: {done} evaluations are in{open_trials}. {on}; "
            "while the search runs its file is written again, and reloading shows more."
        )
    if (why := info.sessions[-1].get("ending")) is not None and not running:
        return f"Ended early: {done} evaluations are in, and the search could not go on: {brief(why, 300)}. {on}."
    return f"Unfinished: {done} evaluations are in{open_trials}. {on}, when no search was at it; one can go on with it."


def meaning(rows: Sequence[MetricRow]) -> tuple[str, ...]:
    """What the quality says about the further metrics, and which of those say little themselves."""
    known = [row for row in rows if row.tau is not None]
    if not known:
        return ("Too few nets were trained to the end to compare their quality with anything.",) if rows else ()
    agrees = [row for row in known if row.agrees]
    against = [row for row in known if row.contradicts]
    weakly = [row for row in known if row.agrees_weakly]
    silent = [row for row in known if row not in (*agrees, *weakly, *against)]
    said = []
    if agrees:
        said.append(f"Quality ranks the nets as these do: {_taus(agrees)}.")
    if weakly:
        said.append(f"It ranks them weakly as these do, surely but not by much: {_taus(weakly)}.")
    if against:
        said.append(f"Beware: quality ranks the nets against these: {_taus(against)}.")
    if silent:
        said.append(
            f"About these it says nothing that {max(row.nets for row in silent)} nets could show: {_taus(silent)}."
        )
    return (*said, *_near_chance(rows))


def _taus(rows: Sequence[MetricRow]) -> str:
    return ", ".join(f"{brief(row.label)} (τ {row.tau:.2f})" for row in rows)


def _near_chance(rows: Sequence[MetricRow]) -> tuple[str, ...]:
    """Metrics in which the best net, or even the best teacher, hardly differs from a constant guess."""
    said = []
    for row in rows:
        if near_chance(row.teachers, row.chance):
            said.append(
                f"In {brief(row.label)} even the best teacher itself, {brief(row.teacher)}, is near chance "
                f"({row.teachers:.3f} against {row.chance:.3f}) on these images."
            )
        elif near_chance(row.best, row.chance):
            teacher = (
                ""
                if row.teacher is None
                else f"; the best teacher itself, {brief(row.teacher)}, has {row.teachers:.3f}"
            )
            said.append(
                f"In {brief(row.label)} all nets stay near chance (at most {row.best:.3f} against "
                f"{row.chance:.3f}){teacher}."
            )
    return tuple(said)


def one_line(summary: StudySummary) -> str:
    """For the terminal."""
    text = f"{summary.evaluated} evaluated, front of {len(summary.front)}, hypervolume {summary.hypervolume:.4f}"
    best = summary.fastest_as_good
    if best is not None:
        text += (
            f"; {brief(best.found.name)}: {brief(best.baseline.name)}'s quality at {best.speedup:.2f}x its throughput"
        )
    return text


def _plural(count: int, one: str, many: str) -> str:
    return f"{count or 'no'} {one if count == 1 else many}"


def _front_sentence(info: StudyInfo, summary: StudySummary) -> str:
    stopped = summary.counts.get(TrialState.STOPPED, 0)
    evaluated = _plural(summary.evaluated, "architecture was evaluated", "architectures were evaluated")
    if not summary.front:
        lost = [f"{n} {state.value}" for state, n in summary.counts.items() if n and state is not TrialState.COMPLETE]
        none = (
            ", none of them to the last rung"
            if summary.evaluated and not summary.counts.get(TrialState.COMPLETE)
            else ""
        )
        return f"There is no front: {evaluated}{none} ({', '.join(lost) or 'no trials'})."
    stopping = f", {stopped} of them stopped early" if stopped else ""
    fastest, best = summary.front[0], max(summary.front, key=lambda s: s.quality)
    if len(info.objectives) == 1:
        return (
            f"{evaluated[0].upper()}{evaluated[1:]}{stopping}; the best in {brief(info.objectives[0].label)} is "
            f"{brief(best.name)}: quality {best.quality:.3f} at {best.ratio:.2f} times the speed "
            f"of {brief(info.reference)}."
        )
    size = _plural(len(summary.front), "net forms", "nets form")
    return (
        f"{evaluated[0].upper()}{evaluated[1:]}{stopping}; {size} the front, from {fastest.ratio:.2f} times the speed "
        f"of {brief(info.reference)} at quality {fastest.quality:.3f} to {best.ratio:.2f} times at {best.quality:.3f}."
    )


def _speed_sentence(summary: StudySummary) -> str:
    result, baseline = summary.fastest_as_good, summary.best_baseline
    assert baseline is not None
    if result is None:
        return f"No net found is as good as {brief(baseline.name)}, the best baseline (quality {baseline.quality:.3f})."
    return (
        f"{_start(result)} is at least as good as the best baseline, {brief(baseline.name)} "
        f"({result.found.quality:.3f} against {baseline.quality:.3f}), "
        f"{_times(result, 'its')}."
    )


def _quality_sentence(summary: StudySummary) -> str:
    result, baseline = summary.best_as_fast, summary.best_baseline
    assert baseline is not None
    if result is None:
        return f"No net found is as fast as {brief(baseline.name)}."
    gain = "better" if result.quality_gain >= 0 else "worse"
    return (
        f"At {brief(baseline.name)}'s speed or above, {brief(result.found.name)} is the best: quality "
        f"{result.found.quality:.3f}, {abs(result.quality_gain):.3f} {gain}, "
        f"{_times(result, 'the')}."
    )


def _start(result: Comparison) -> str:
    name = brief(result.found.name)
    return name[0].upper() + name[1:]


def _times(result: Comparison, whose: str) -> str:
    """The speed-up with its interval, and whether that can be trusted."""
    text = (
        f"at {result.speedup:.2f} times {whose} throughput "
        f"(95 % intervals combined: {result.speedup_low:.2f} to {result.speedup_high:.2f})"
    )
    disturbed = disturbances((result.found, result.baseline))
    return text + (
        f"; measurements were disturbed ({brief(disturbed)}): this interval cannot be trusted" if disturbed else ""
    )
