"""A comparison in words: what became of each net, what differs between the measurements, what it means. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from nas.records import Measurement, Rerank, Study
from nas.reranking.agreement import FEW, LEVEL, Agreement
from nas.reranking.comparison import Comparison, Row
from nas.reranking.plane import Place, Standing
from nas.reranking.selection import complete

MEASURED_WITH = ("torch", "timm", "cuda", "cudnn")  # versions in a study's environment
OTHER_ORDER = 0.5  # tau: from here down a quarter of the pairs is turned, and a front is another's by luck
DISTURBED = ("contended", "throttled", "clock changed")  # verdicts: not even the intervals can be trusted
ARROW = " → "


def change(row: Row) -> str:
    """What became of a net's place among the found ones; baselines are no part of a front."""
    aside = row.trial.baseline is not None
    before, now = _place(row.before, aside), "no number" if row.now is None else _place(row.now, aside)
    if row.now and not aside:
        was, here = (place.standing is Standing.FRONT for place in (row.before, row.now))
        if here and not was:
            now = "front, new"
        if was and row.now.standing is Standing.BEHIND:
            now = f"left, by {row.now.by}"
    return before if before == now else f"{before}{ARROW}{now}"


def _place(place: Place, baseline: bool) -> str:
    return {
        Standing.FRONT: "unbeaten" if baseline else "front",
        Standing.TIED: f"ties with {place.by}",
        Standing.BEHIND: f"behind {place.by}",
        Standing.OPEN: f"open: {place.by} not measured",
    }[place.standing]


def order_line(a: Agreement) -> str:
    """Kendall's tau with its interval, and the pairs behind it."""
    if a.tau is None:
        return f"order by speed: {_nets(a.nets)} measured both times, too few to compare or all equal"
    interval = f"no interval of fewer than {FEW}"
    if a.low is not None:
        interval = f"{100 * LEVEL:.0f} % interval {a.low:.2f} to {a.high:.2f}"
    pairs = f"of {a.pairs} pairs {a.turned} turned ({a.surely_turned} beyond the intervals), {a.tied} tied"
    within = f"{a.close} within the intervals before or now"
    return f"order by speed: Kendall's tau-b {a.tau:.2f} of {_nets(a.nets)} ({interval}); {pairs}, {within}"


def front_line(c: Comparison) -> str:
    """What became of the front."""
    told = [
        (c.stayed, "stayed"),
        (c.tied, "within the intervals of staying"),
        (c.left, "left"),
        (c.lost, "without a number"),
    ]
    before = sum(len(rows) for rows, _ in told)
    words = [f"{len(rows)} {what}{_numbers(rows)}" for rows, what in told if rows]
    joined = f"{len(c.joined)} joined{_numbers(c.joined)}" if c.joined else "none joined"
    return f"front: of {before} before {', '.join(words) or 'none was measured'}; {joined}"


def volume_line(c: Comparison) -> str:
    """Hypervolumes of the nets measured both times."""
    return f"hypervolume of the nets measured both times: {c.volume_before:.3f} before, {c.volume_now:.3f} now"


def notes(study: Study, rerank: Rerank, c: Comparison) -> list[str]:
    """What a reader should know beside the numbers, a phrase each."""
    before = [t.measurement for t in complete(study) if t.number in rerank.measurements and t.measurement]
    said = [f"differs: {d}" for d in differences(study, rerank, before)] or ["differs: nothing that is recorded"]
    said += _quality(before, rerank) + _floor(rerank.floor) + _verdicts(rerank)
    said += _baselines(c, Standing.FRONT, "that no found net beats")
    said += _baselines(c, Standing.BEHIND, "beaten by a found net")
    if c.left_out:
        trained = f"{_nets(c.left_out)} that trained to the end {'was' if c.left_out == 1 else 'were'} not tried"
        said.append(f"{trained}: who of them would join is unknown (--which near, --which all)")
    return said


def _quality(before: Sequence[Measurement], rerank: Rerank) -> list[str]:
    others = {m.resolution for m in rerank.measurements.values()} - {m.resolution for m in before}
    return [f"quality is that of the study's resolution, not of {px} px" for px in sorted(others)]


def _floor(m: Measurement | None) -> list[str]:
    if m is None:
        return []
    return [
        f"{m.reference} beside itself: {m.ratio:.3f} [{m.ratio_low:.3f}, {m.ratio_high:.3f}]; what is off 1 is noise"
    ]


def _verdicts(rerank: Rerank) -> list[str]:
    verdicts = Counter(m.verdict for m in rerank.measurements.values())
    told = ", ".join(f"{n} {verdict}" for verdict, n in verdicts.most_common())
    return [f"verdicts: {told}"] if set(verdicts) - {"ok"} else []


def differences(study: Study, rerank: Rerank, before: Sequence[Measurement]) -> list[str]:
    """In what the measurements differ, as "batch: 16 -> 1"; of each, what most nets were measured with."""
    now = list(rerank.measurements.values())
    found = []
    for name in ("device", "arm", "batch", "resolution", "reference"):
        then, here = (_mostly(getattr(m, name) for m in ms) for ms in (before, now))
        if then != here:
            found.append(f"{name}: {then}{ARROW}{here}")
    old, new = study.info.environment, rerank.environment
    found += [f"{k}: {old[k]}{ARROW}{new[k]}" for k in MEASURED_WITH if k in old and k in new and old[k] != new[k]]
    return found


def meaning(c: Comparison) -> str:
    """What follows for somebody who chooses a net, in a sentence."""
    before = len(c.stayed) + len(c.tied) + len(c.left)
    gone, new, lost = len(c.left), len(c.joined), len(c.lost)
    a = c.agreement
    if not before:
        return "None of the front has a number here, so nothing is known about the choice it offers."
    if (disturbed := sum(_disturbed(r.measurement) for r in c.rows)) > a.nets / 2:
        return (
            f"{disturbed} of {a.nets} measurements were disturbed: measure again (--again) when nothing else runs here."
        )
    if gone > before / 2 or ((gone or new) and a.tau is not None and a.nets >= FEW and a.tau <= OTHER_ORDER):
        return "The study's front says little about the choice here: search again on this device and arm."
    if gone or new or lost:
        return f"Most of the front holds here, but {_moves(gone, new, lost)}: choose by the numbers of now."
    if a.surely_turned:
        return f"The front holds here, but {_pairs(a.surely_turned)} changed places in speed: look at the ranks of now."
    return "The front and the order hold here: the study's choice is also the choice here."


def _disturbed(m: Measurement | None) -> bool:
    return m is not None and m.verdict in DISTURBED


def _moves(gone: int, new: int, lost: int) -> str:
    told = ((gone, "beaten"), (new, "new on it"), (lost, "without a number"))
    return " and ".join(f"{_nets(n)} {'is' if n == 1 else 'are'} {what}" for n, what in told if n)


def _baselines(c: Comparison, standing: Standing, words: str) -> list[str]:
    """Baselines that came to stand so."""
    baselines = (r for r in c.rows if r.trial.baseline and r.now)
    rows = [r for r in baselines if r.now and r.now.standing is standing and r.before.standing is not standing]
    return [f"baselines {words} now, but not before: {', '.join(r.trial.name for r in rows)}"] if rows else []


def _numbers(rows: Sequence[Row]) -> str:
    return f" ({', '.join(str(r.trial.number) for r in rows)})"


def _nets(n: int) -> str:
    return f"{n} net" if n == 1 else f"{n} nets"


def _pairs(n: int) -> str:
    return "a pair of nets" if n == 1 else f"{n} pairs of nets"


def _mostly(values: Iterable[object]) -> str:
    """The most frequent one; "?" where there is none."""
    return next((str(value) for value, _ in Counter(values).most_common(1)), "?")
