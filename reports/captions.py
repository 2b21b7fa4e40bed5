"""Captions of the page's figures, and what its curve can be compared with."""

from __future__ import annotations

from nas.records import Objective, StudyInfo
from reports.meaning import by_maps
from reports.points import FigureData
from reports.summary import StudySummary
from reports.wording import brief


def front_caption(data: FigureData) -> str:
    """What the marks of the front's picture are."""
    third = ""
    if data.third:
        better = " (lower is better)" if data.third.minimise else ""
        third = f" The larger a mark, the larger its {brief(data.third.label)}{better}."
    return (
        "Each point is a net; bars are 95 % intervals of the throughput ratio. Nets stopped early stand at the quality "
        "of the rung they reached and are not comparable with the others; crosses at the bottom broke a hard limit or "
        f"cannot be measured here, and were never trained.{third} Choose a point to open its card."
    )


def curve_caption(info: StudyInfo, data: FigureData) -> str:
    """What the lines of the pictures of the hypervolume are."""
    if data.single is not None:
        text = f"The best {brief(data.single.label)} so far, above the declared reference ({data.single.reference:g}), "
    else:
        axes = ", ".join(f"{_called(o)} {o.reference:g}" for o in info.objectives)
        text = f"Hypervolume above the declared reference point ({axes}{_doublings(info, '; ', ' in doublings')}), "
    text += "in the order in which evaluations finished."
    return text + (" Dotted: what random search is expected to reach." if data.chance else "")


def rise_caption(info: StudyInfo) -> str:
    """What of a teacher rises by steps."""
    what = "maps" if by_maps(info) else "features, mean of its heads,"
    return (
        f"Explained variance of each teacher’s {what} after the steps of every rung: nets on the front in the front’s "
        "colour, baselines in theirs."
    )


def footer(info: StudyInfo, summary: StudySummary) -> str:
    """How speed was timed, if it was, and what the hypervolume counts."""
    timed = f"Speed is the ratio of interleaved timings of a net and of {brief(info.reference)}. "
    doubled = "" if len(info.objectives) == 1 else _doublings(info, "The hypervolume counts ", " in doublings. ")
    return ("" if summary.half_width is None else timed) + doubled


def _doublings(info: StudyInfo, before: str, after: str) -> str:
    """Which objectives are counted in doublings; "" where none is."""
    names = " and ".join(_called(o) for o in info.objectives if o.log)
    return f"{before}{names}{after}" if names else ""


def _called(objective: Objective) -> str:
    return {"quality": "quality", "throughput": "speed"}.get(objective.name) or brief(objective.label)


def control(info: StudyInfo, summary: StudySummary) -> str:
    """What of the curve is a comparison with random search, and what is not."""
    sampler = info.config.get("sampler", "unknown")
    another = "A control as long as the search is a second study, by the sampler “random”: see reports.compare."
    if sampler == "random":
        return "This study is a random search itself: its curve is the control of other searches."
    start = summary.chance_start
    if start is None:
        why = f"what its sampler, {sampler}, tried was not drawn at random, or nothing else was tried yet"
        return f"This study holds no random control: {why}. {another}"
    last, count = start.expected[-1], len(start.trials)
    return (
        f"The first {count} evaluations that the sampler, {sampler}, drew at random are a control for as many "
        f"trainings: together they reached {last:.4f}. Random search of more trainings is not in this study. {another}"
    )
