"""What the scores mean: further metrics of the nets trained to the end beside their quality, chance and teachers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from nas.analysis.agreement import kendall
from nas.records import HeadFacts, StudyInfo
from reports.summary import Scored, StudySummary

LABELS = {"knn": "kNN", "probe": "linear probe", "miou": "mIoU", "zero_shot": "zero-shot", "retrieval": "retrieval"}
IN_TABLES = ("knn", "probe", "miou", "zero_shot")  # retrieval has a number a teacher: those are in the cards
AGREES, CERTAIN = 0.3, 0.05  # tau and p value from which quality is said to rank nets as a metric does
NEAR_CHANCE = 0.1, 2.0  # at most so much of the way from chance to 1, and less than so many times chance


def by_maps(info: StudyInfo) -> bool:
    """Whether quality is of the teachers' maps alone; else of all their heads."""
    return bool(info.config.get("distill", {}).get("score") == "spatial")


def taught(heads: Mapping[str, float], info: StudyInfo) -> float:
    """What of a teacher's heads is in the quality: explained variance of its maps, or the mean; NaN where unknown."""
    if by_maps(info) and "spatial" in heads:
        return heads["spatial"]
    return sum(heads.values()) / len(heads) if heads else math.nan


@dataclass(frozen=True)
class MetricRow:
    """One metric, over the nets that have it."""

    name: str
    label: str
    nets: int
    tau: float | None  # Kendall's tau-b against quality
    p_value: float | None
    best: float
    best_net: str
    baseline: float | None  # the best baseline's
    teacher: str | None  # the teacher whose own features do best
    teachers: float | None
    chance: float | None

    @property
    def agrees(self) -> bool:
        """Whether quality ranks the nets as the metric does, more than by chance."""
        return self.tau is not None and self.tau >= AGREES and (self.p_value or 0.0) < CERTAIN

    @property
    def agrees_weakly(self) -> bool:
        """Whether they rank the nets alike by more than chance, but by little."""
        return self.tau is not None and 0 < self.tau < AGREES and (self.p_value or 0.0) < CERTAIN

    @property
    def contradicts(self) -> bool:
        """Whether quality ranks the nets the other way round."""
        return self.tau is not None and self.tau < 0 and (self.p_value or 0.0) < CERTAIN


@dataclass(frozen=True)
class HeadRow:
    """One head of a teacher: what of it is distilled, and how well by the best net."""

    teacher: str
    head: str
    facts: HeadFacts | None  # None in studies that did not record it
    best: float | None
    best_net: str


def trained(summary: StudySummary) -> tuple[Scored, ...]:
    """All nets with a quality at the last rung, baselines too: they are trained by the same recipe."""
    return (*summary.complete, *(b.scored for b in summary.baselines))


def metrics_of(net: Scored) -> dict[str, float]:
    """The finite metrics of a net's last rung."""
    return {name: value for name, value in net.trial.rungs[-1].metrics.items() if math.isfinite(value)}


def metric_names(nets: Iterable[Scored]) -> tuple[str, ...]:
    """All metrics that any of the nets has, the known ones first."""
    known = list(LABELS)
    found = {name: None for net in nets for name in metrics_of(net)}
    return tuple(sorted(found, key=lambda name: (_place(name.partition("/")[0], known), name)))


def _place(kind: str, known: Sequence[str]) -> int:
    return known.index(kind) if kind in known else len(known)


def metric_label(name: str) -> str:
    """For people: ``retrieval/hed`` is "retrieval, hed"."""
    kind, _, teacher = name.partition("/")
    return LABELS.get(kind, kind) + (f", {teacher}" if teacher else "")


def metric_rows(info: StudyInfo, summary: StudySummary) -> tuple[MetricRow, ...]:
    """One row a metric."""
    nets = trained(summary)
    return tuple(_metric_row(name, nets, info, summary.best_baseline) for name in metric_names(nets))


def _metric_row(name: str, nets: Sequence[Scored], info: StudyInfo, baseline: Scored | None) -> MetricRow:
    have = [(metrics_of(net)[name], net) for net in nets if name in metrics_of(net)]
    best, best_net = max(have, key=lambda pair: pair[0])
    tau, p_value = kendall([(net.quality, value) for value, net in have])
    own = {teacher: facts.metrics[name] for teacher, facts in info.teacher_facts.items() if name in facts.metrics}
    strongest = max(own, key=lambda teacher: own[teacher], default=None)
    return MetricRow(
        name=name,
        label=metric_label(name),
        nets=len(have),
        tau=tau,
        p_value=p_value,
        best=best,
        best_net=best_net.name,
        baseline=None if baseline is None else metrics_of(baseline).get(name),
        teacher=strongest,
        teachers=None if strongest is None else own[strongest],
        chance=info.chance.get(name, info.chance.get(name.partition("/")[0])),
    )


def head_rows(info: StudyInfo, summary: StudySummary) -> tuple[HeadRow, ...]:
    """One row a teacher and head, teachers in the study's order."""
    nets = trained(summary)
    reached: dict[tuple[str, str], list[tuple[float, str]]] = {
        (teacher, head): [] for teacher, facts in info.teacher_facts.items() for head in facts.heads
    }
    for net in nets:
        for teacher, heads in net.trial.rungs[-1].teachers.items():
            for head, value in heads.items():
                reached.setdefault((teacher, head), []).append((value, net.name))
    rows = []
    for (teacher, head), values in reached.items():
        facts = info.teacher_facts[teacher].heads.get(head) if teacher in info.teacher_facts else None
        best, best_net = max(values, default=(None, ""))
        rows.append(HeadRow(teacher, head, facts, best, best_net))
    return tuple(rows)


def near_chance(value: float | None, chance: float | None) -> bool:
    """Whether a score is hardly different from a constant guess's."""
    if value is None or chance is None:
        return False
    share, times = NEAR_CHANCE
    return value - chance < share * (1 - chance) and value < times * chance
