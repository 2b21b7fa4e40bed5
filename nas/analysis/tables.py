"""Print retrainings, remeasurements and answers to limits as tables."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from nas.analysis.agreement import RankCorrelation
from nas.analysis.front import FrontStatus
from nas.analysis.remeasuring import (
    RemeasuredCandidate,
    RemeasuringComparison,
    conclusion,
    front_line,
    hypervolume_line,
    order_line,
    remeasuring_notes,
)
from nas.analysis.retraining import RetrainedCandidate, RetrainingSummary, rank_correlations, retraining_notes
from nas.analysis.selecting import (
    Answer,
    Limits,
    MeasuredCandidate,
    WeightFiles,
    answer_notes,
    confidence_line,
    in_unit,
    nothing_fits_line,
    percent,
    share_of_draws,
)
from nas.numbers import fixed, fixed_interval
from nas.study.limits import LIMITS
from nas.study.records import Measurement, Remeasurement, StudyRecord, TrialRecord
from nas.study.timing_doubts import ratio_interval_words, recorded_ratio_interval, timing_doubt

LOST, JOINED, TIED, ASIDE = "red", "green", "yellow", "dim"
TEXT_COLUMNS = ("", "between", "front", "fronts", "verdict")  # these wrap in a narrow terminal
MAX_RUNNERS_UP = 12  # in the table; --json has all


def show_retraining(study: StudyRecord, summary: RetrainingSummary, console: Console) -> None:
    """Print the retrained candidates, fastest first; rank correlations; notes."""
    title = f"retraining: {summary.steps} steps, {summary.seed_words}"
    headings = "score in\nthe search", "seeds", "mean score,\nretrained", "throughput\nratio", "chance\non front"
    table = _table(title, "trial", "<architecture", *headings, "<fronts")
    for candidate in summary.candidates:
        table.add_row(*_retraining_cells(candidate, summary), style=_retraining_style(candidate))
    console.print(table)
    console.print(_correlations(rank_correlations(summary, study.info.rung_steps[-1])))
    _print_lines(console, retraining_notes(study, summary))


def _retraining_cells(c: RetrainedCandidate, summary: RetrainingSummary) -> tuple[str, ...]:
    half = summary.scatter.of_kind(c.trial.baseline).half_width([*c.scores.values()])
    return (
        str(c.trial.number),
        _short_name(c.trial),
        fixed(c.trial.final_score, 3),
        str(len(c.scores)),
        "-" if c.mean is None else f"{fixed(c.mean, 4)}{'' if half is None else f' ± {half:.4f}'}",
        _ratio(c.measurement),
        "" if c.chance is None else f"{c.chance:.2f}",
        c.fronts,
    )


def _retraining_style(c: RetrainedCandidate) -> str:
    if c.trial.baseline or c.chance is None or not (c.was_on_front or c.on_front):
        return ASIDE
    return LOST if not c.on_front else "" if c.was_on_front else JOINED


def _correlations(correlations: dict[str, RankCorrelation]) -> Table:
    title = "agreement of the orders by score"
    table = _table(title, "<between", "models", "Kendall's tau-b", "95 % interval")
    for between, c in correlations.items():
        interval = "-" if c.interval is None else fixed_interval(*c.interval, 2)
        table.add_row(between, str(c.candidates), fixed(c.tau, 2, "-"), interval)
    return table


def show_remeasuring(study: StudyRecord, again: Remeasurement, c: RemeasuringComparison, console: Console) -> None:
    """Print the candidates, the fastest by the study first; notes; the conclusion last."""
    title = f"remeasurement {again.name!r}; ratio: throughput relative to {again.setting['reference']}"
    table = _table(title, "trial", "<architecture", "score", "ratio before", "ratio now", "rank", "<front", "<verdict")
    for candidate in c.candidates:
        table.add_row(*_remeasuring_cells(candidate), style=_remeasuring_style(candidate))
    console.print(table)
    summary = order_line(c.agreement), front_line(c), hypervolume_line(c)
    _print_lines(console, [*summary, *remeasuring_notes(study, again, c)])
    console.print(Text(conclusion(c), style="bold"))


def _remeasuring_cells(c: RemeasuredCandidate) -> tuple[str, ...]:
    return (
        str(c.trial.number),
        _short_name(c.trial),
        fixed(c.trial.final_score, 3),
        _ratio(c.trial.measurement),
        _ratio(c.measurement),
        "" if c.now is None else f"{c.rank_before} → {c.rank_now}",
        c.change,
        c.reason or (c.measurement.verdict if c.measurement else ""),
    )


def _remeasuring_style(c: RemeasuredCandidate) -> str:
    """Return a row's color, by the change of its place on the front."""
    was, now = c.before.status is FrontStatus.FRONT, c.now.status if c.now else None
    if c.trial.baseline or (not was and now is not FrontStatus.FRONT):
        return ASIDE
    if now is FrontStatus.FRONT:
        return "" if was else JOINED
    return TIED if now is FrontStatus.TIED else LOST


def show_answer(a: Answer, limits: Limits, weights: WeightFiles, console: Console) -> None:
    """Print the answer, or the nearest candidate; runners-up; notes."""
    shown = a.best or a.nearest
    if a.unfinished:
        _print_lines(console, [a.unfinished])
    if a.best is None:
        console.print(nothing_fits_line(a, limits), style="bold")
    if shown is not None:
        _print_candidate(a, shown, limits, console)
        for path in weights(shown):
            console.print(f"weights: {path}", soft_wrap=True)
    if a.best is not None:
        _print_lines(console, [confidence_line(a, limits)])
    if a.runners_up:
        console.print(_runners_up(a, limits))
    _print_lines(console, answer_notes(a, limits))


def _print_candidate(a: Answer, c: MeasuredCandidate, limits: Limits, console: Console) -> None:
    role = "nearest model" if a.best is None else "best model within the limits" if limits else "best model"
    title = f"{role}: trial {c.trial.number}, {c.trial.arch_id}"
    if c.trial.baseline:
        title += f", which is the baseline {c.trial.baseline} and not a candidate of the search"
    console.print(title, style="bold")
    console.print(c.outline)
    table = _table(None, "<", "value", "95 % interval", *(("limit", "chance\nwithin limit") if limits else ()))
    m, digits = c.measurement, 2 if timing_doubt(c.measurement) else 3
    seeds = f" (mean of {c.seeds} seeds)" if c.seeds > 1 else ""
    interval = a.scatter.of_kind(c.trial.baseline).interval_words(c.scores, a.chosen_among(c))
    table.add_row(f"score{seeds}", fixed(c.score, 4), interval)
    ratio, interval = f"{m.ratio:.{digits}f}", ratio_interval_words(m, digits)
    table.add_row(f"throughput relative to {m.reference}", ratio, interval)
    for name, limit in LIMITS.items():
        if name in c.quantities or name in limits:
            cells = _limit_cells(c, name, limits.get(name))
            table.add_row(f"{limit.label}, {limit.unit}", *(cells if limits else cells[:2]))
    console.print(table)


def _limit_cells(c: MeasuredCandidate, name: str, bound: float | None) -> tuple[str, ...]:
    q = c.quantities.get(name)
    if q is None:
        return "unknown", "", "" if bound is None else in_unit(name, bound), ""
    interval = "" if q.low is None or q.high is None else f"{in_unit(name, q.low)} to {in_unit(name, q.high)}"
    if bound is None:
        return in_unit(name, q.value), interval, "", ""
    chance = q.chance(bound)
    within = ("yes" if q.kept(bound) else "no") if chance is None else percent(chance)
    return in_unit(name, q.value), interval, in_unit(name, bound), within


def _runners_up(a: Answer, limits: Limits) -> Table:
    """Return the table of the models that score higher than the best one with a chance that is not negligible."""
    title = f"models whose score is not clearly lower: {len(a.runners_up)}"
    if len(a.runners_up) > MAX_RUNNERS_UP:
        title += f" (the {MAX_RUNNERS_UP} with the highest chances shown)"
    highest = "chance of\nhighest score" + ("" if a.scatter.measured else "\n(assumed noise)")
    chances = (highest, *(("chance\nwithin limits",) if limits else ()))
    table = _table(title, "trial", "<model", "score", "throughput\nratio", *chances)
    for c in a.runners_up[:MAX_RUNNERS_UP]:
        name = f"baseline {c.trial.baseline}" if c.trial.baseline else c.trial.arch_id
        cells = fixed(c.score, 4), f"{c.measurement.ratio:.2f}", share_of_draws(c, a.fitting), percent(c.chance_to_keep)
        table.add_row(str(c.trial.number), name, *(cells if limits else cells[:-1]))
    return table


def _table(title: str | None, *columns: str) -> Table:
    """Return an empty table; columns align to the right, those whose name begins with "<" to the left."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for column in columns:
        name = column.removeprefix("<")
        left = name != column
        table.add_column(name, justify="left" if left else "right", no_wrap=name not in TEXT_COLUMNS)
    return table


def _print_lines(console: Console, lines: Sequence[str]) -> None:
    for line in lines:
        console.print(line)


def _short_name(trial: TrialRecord) -> str:
    return trial.baseline or trial.arch_id[:8]


def _ratio(m: Measurement | None) -> str:
    if m is None:
        return "-"
    ends = recorded_ratio_interval(m)
    return f"{m.ratio:.2f} " + (f"[{ends[0]:.2f}, {ends[1]:.2f}]" if ends else "(no interval)")
