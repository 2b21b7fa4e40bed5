"""The report's numbers by plain loops, and a reader of its pages. Shares no code with `reports`."""

from __future__ import annotations

import json
import random
import re
from dataclasses import dataclass, field
from html.parser import HTMLParser
from math import erfc, exp, factorial, hypot, log, log2
from typing import Any

import numpy as np

from nas.study.records import StudyRecord, TrialRecord, TrialState

Place = tuple[float, float]  # score, relative throughput


def trained(study: StudyRecord, baselines: bool) -> list[TrialRecord]:
    """Return the trials, or the baselines, that were trained to the last rung and measured."""
    last = len(study.info.rung_steps) - 1
    return [
        t
        for t in study.trials
        if t.state is TrialState.COMPLETE
        and (t.baseline is not None) is baselines
        and t.rungs
        and t.rungs[-1].rung == last
        and t.measurement is not None
    ]


def place(trial: TrialRecord) -> Place:
    return trial.rungs[-1].score, trial.measurement.ratio


def over_processes(m: Any) -> Place:
    """Return the ends of a ratio's 95 % interval with the deviation of 1.7 % between processes."""
    low, high = (hypot(log(end / m.ratio), 1.959964 * 0.017) for end in (m.ratio_low, m.ratio_high))
    return m.ratio * exp(-low), m.ratio * exp(high)


def speedup_interval(m: Any, other: Any) -> Place:
    """Return the ends of the 95 % interval of how many times as fast one model is as another."""
    (low, high), (least, most) = over_processes(m), over_processes(other)
    below = hypot(log(m.ratio / low), log(most / other.ratio))
    above = hypot(log(high / m.ratio), log(other.ratio / least))
    return m.ratio / other.ratio * exp(-below), m.ratio / other.ratio * exp(above)


def beats(a: Place, b: Place) -> bool:
    return a[0] >= b[0] and a[1] >= b[1] and a != b


def front(trials: list[TrialRecord]) -> list[TrialRecord]:
    """Return the Pareto front, fastest first."""
    found = [t for t in trials if not any(beats(place(other), place(t)) for other in trials)]
    return sorted(found, key=lambda t: (-t.measurement.ratio, -t.rungs[-1].score, t.number))


def hypervolume(places: list[Place], reference: Place) -> float:
    """Sweep from the fastest to the slowest; throughput counts in doublings."""
    area, height = 0.0, reference[0]
    for score, speed in sorted(places, key=lambda place: (-place[1], -place[0])):
        if speed > reference[1] and score > height:
            area += (log2(speed) - log2(reference[1])) * (score - height)
            height = score
    return area


def hypervolume_by_chance(places: list[Place], reference: Place, darts: int = 4000) -> tuple[float, float]:
    """Throw darts into the box above the reference point; return the estimate and its standard error."""
    rng = random.Random(0)
    width = max(log2(speed / reference[1]) for _, speed in places)
    height = max(score - reference[0] for score, _ in places)
    hits = 0
    for _ in range(darts):
        speed, score = reference[1] * 2 ** (rng.random() * width), reference[0] + rng.random() * height
        hits += any(q >= score and s >= speed for q, s in places)
    share = hits / darts
    return share * width * height, width * height * (share * (1 - share) / darts) ** 0.5


def tau(pairs: list[tuple[float, float]]) -> float | None:
    """Count pairs for Kendall's tau-b; None where it is undefined, or for fewer than three pairs."""
    agree = against = only_first = only_second = 0
    for i, (a, b) in enumerate(pairs):
        for c, d in pairs[:i]:
            sign = (a - c) * (b - d)
            agree += sign > 0
            against += sign < 0
            only_first += a == c and b != d
            only_second += b == d and a != c
    first, second = agree + against + only_first, agree + against + only_second
    return (agree - against) / (first * second) ** 0.5 if len(pairs) > 2 and first and second else None


def chance_of_tau(pairs: list[tuple[float, float]], shuffles: int = 4000) -> tuple[float, float]:
    """Return the p value of a rank correlation and its relative error.

    Few pairs without ties are counted exactly, others are shuffled. If shuffling hardly ever reaches the correlation,
    the normal distribution gives the p value, with the variance of the shuffles.
    """
    if all(len(set(values)) == len(pairs) for values in zip(*pairs, strict=True)):
        if abs(tau(pairs) or 0) == 1:
            return 2 / factorial(len(pairs)), 0.0
        if len(pairs) <= 33:
            return chance_of_order(pairs), 0.0
    rng = np.random.default_rng(0)
    first, second = (np.sign(np.subtract.outer(values, values)) for values in np.asarray(pairs).T)
    seen, sums = abs(np.sum(first * second)), []
    for _ in range(shuffles):
        order = rng.permutation(len(pairs))
        sums.append(abs(np.sum(first * second[np.ix_(order, order)])))
    hits = sum(found >= seen for found in sums)
    if hits >= 40:
        return hits / shuffles, 4 / hits**0.5
    z = seen / float(np.sqrt(np.mean(np.square(sums))))
    return erfc(z / 2**0.5), 0.2 * z * z  # the variance is off by some percent


def chance_of_order(pairs: list[tuple[float, float]]) -> float:
    """Return the share of all orders without ties that have as few concordant or discordant pairs."""
    orders = [1]  # of 1, 2, ... items, by discordant pairs
    for n in range(2, len(pairs) + 1):
        orders = [sum(orders[max(0, k - n + 1) : k + 1]) for k in range(len(orders) + n - 1)]
    against = sum((a - c) * (b - d) < 0 for i, (a, b) in enumerate(pairs) for c, d in pairs[:i])
    fewer = min(against, len(orders) - 1 - against)
    return min(1.0, 2 * sum(orders[: fewer + 1]) / sum(orders))


def coverage(covering: list[Place], covered: list[Place]) -> float:
    return sum(any(a[0] >= b[0] and a[1] >= b[1] for a in covering) for b in covered) / len(covered)


def median(values: list[float]) -> float:
    ordered = sorted(values)
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2


@dataclass
class Table:
    """The texts of a page's table; `label` is the accessible name of the region around it."""

    label: str
    caption: str = ""
    rows: list[list[str]] = field(default_factory=list)

    @property
    def head(self) -> list[str]:
        return self.rows[0]

    def body(self) -> list[dict[str, str]]:
        """Return the rows by column heading; the first column is ""."""
        return [dict(zip(["", *self.head[1:]], row, strict=True)) for row in self.rows[1:]]


class Page(HTMLParser):
    """The tables, tiles and remaining words of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tables: list[Table] = []
        self.tiles: dict[str, str] = {}
        self.words = ""
        self._label = self._cell = self._term = ""
        self._in: list[str] = []
        self.feed(page)

    def table(self, label: str) -> Table:
        (found,) = [t for t in self.tables if t.label == label]
        return found

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if given.get("role") == "region":
            self._label = given.get("aria-label") or ""
        if tag == "table":
            self.tables.append(Table(self._label))
            self._label = ""
        if tag == "tr" and self.tables:
            self.tables[-1].rows.append([])
        if tag in ("td", "th", "caption", "dt", "dd", "script", "style", "svg", "title"):
            self._in.append(tag)
            if tag in ("td", "th", "caption", "dt", "dd"):
                self._cell = ""

    def handle_data(self, data: str) -> None:
        if self._in and self._in[-1] in ("script", "style", "svg"):
            return
        self._cell += data
        if not self._in:
            self.words += data

    def handle_endtag(self, tag: str) -> None:
        if not self._in or self._in[-1] != tag:
            return
        self._in.pop()
        text = " ".join(self._cell.split())
        if tag in ("td", "th"):
            self.tables[-1].rows[-1].append(text)
        elif tag == "caption":
            self.tables[-1].caption = text
        elif tag == "dt":
            self._term = text
        elif tag == "dd":
            self.tiles[self._term] = text


def payload(page: str) -> dict[str, Any]:
    """Unpack the study and the data sets inside a report."""
    packed = json.loads(re.search(r'id="data">(.*?)</script>', page, re.S)[1])

    def whole(value: Any) -> Any:
        if not isinstance(value, list):
            return value
        head, *rest = value
        values = [whole(v) for v in rest]
        if head < 0:
            return values
        keys = packed["keys"][head]
        return dict(zip(keys, [*values, *[None] * (len(keys) - len(values))], strict=True))

    return whole(packed["data"])
