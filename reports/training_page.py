"""The page of a training: what it reached, its course, what the student sees, its settings.

The page has no script. Its policy allows its own style sheet and nothing else.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import altair as alt
from markupsafe import Markup

from nas.analysis.evidence import StudyEvidence
from nas.files import atomic_write
from nas.numbers import fixed
from nas.study.metrics import metric_label
from nas.study.public_info import public_info
from nas.study.records import RungResult, StudyInfo, StudyRecord, TrialRecord, TrialState
from nas.study.timing_doubts import timing_doubt
from nas.study.training_files import LOSS, NORM, RATE, SPEED, STEP, WAITING, read_history
from reports import sentences
from reports.chart_style import static_chart
from reports.document import asset, policy, templates
from reports.figure_data import SERIES
from reports.formatting import brief, duration, flat, moment
from reports.gallery import read_gallery
from reports.metric_agreement import teacher_score
from reports.summary import summarize
from reports.timing_noise import ratio_words

MAX_POINTS = 300  # of a line in a chart: more are averaged
LOW = 0.5  # height of a chart of one quantity, as a share of the usual one
SCORE = "score"
SMALL_CHARTS = (  # column, title of the axis, caption
    (RATE, "learning rate", "Learning rate."),
    (NORM, "gradient norm", "Norm of the gradient before clipping."),
    (SPEED, "images/s", "Images of all processes per second of training."),
    (WAITING, "share of time", "Share of the time that the student waits for images and targets."),
)


@dataclass(frozen=True)
class EvaluationRow:
    """One evaluation of the training, for the table; `teachers` are their parts of the score."""

    steps: int
    score: float
    teachers: tuple[float, ...]
    metrics: tuple[float | None, ...]
    seconds: float


def write_training_page(evidence: StudyEvidence, out: Path, run_dir: Path) -> None:
    """Write the page of a training to `out`, replacing an old one only once the new one is complete.

    Args:
        evidence: What is known of the study of the one model.
        out: File to write.
        run_dir: Folder of the training.
    """
    gallery = read_gallery(run_dir, summarize(evidence.study, evidence))
    folder = run_dir.relative_to(Path.cwd()) if run_dir.is_relative_to(Path.cwd()) else run_dir
    atomic_write(out, render(evidence.study, read_history(run_dir), gallery, str(folder)))


def render(study: StudyRecord, history: dict[str, list[float]], gallery: Any, run: str) -> str:
    """Render the page as HTML.

    Args:
        study: The study of the one model, with its deciding timing.
        history: Columns of the table of steps.
        gallery: Feature maps of the model, if there are any.
        run: Folder of the training, for the commands on the page.
    """
    study = replace(study, info=public_info(study.info))
    info = study.info
    trial = study.trials[0] if study.trials else None
    rungs = trial.rungs if trial else ()
    teachers = list(dict.fromkeys(name for rung in rungs for name in rung.teachers))
    metrics = list(dict.fromkeys(name for rung in rungs for name in rung.metrics))
    style = asset("report.css") + asset("compare.css")
    settings = [*flat(info.environment, "environment."), *flat(info.config)]
    page = templates(brief=brief, moment=moment, duration=duration)
    return page.get_template("training.html.j2").render(
        info=info,
        name=_name(info.space),
        device=sentences.device(info),
        score_definition=sentences.score_definition(info),
        trial=trial,
        headline=headline(trial, info.rung_steps[-1], info.reference),
        finished=trial is not None and trial.state is TrialState.COMPLETE,
        total=info.rung_steps[-1],
        rows=[_row(rung, teachers, metrics, info) for rung in rungs],
        teachers=teachers,
        metrics=[metric_label(name) for name in metrics],
        pictures=draw_charts(info, rungs, history),
        captions={name: caption for name, _, caption in SMALL_CHARTS},
        gallery=gallery,
        run=shlex.quote(run),
        settings=settings,
        style=Markup(style),
        policy=policy(style),
    )


def _name(space: dict[str, list[Any]]) -> str:
    """Return the name of the only architecture of the study's space."""
    return str(next(iter(space.get("architecture", [])), "the model"))


def headline(trial: TrialRecord | None, steps: int, reference: str) -> tuple[str, ...]:
    """Say what the training has reached, in a few sentences.

    Args:
        trial: The model; None before the training has begun.
        steps: Steps of the whole training.
        reference: Name of the network that the throughput is relative to.
    """
    sentences = []
    if trial is None or not trial.rungs:
        sentences.append("The training has not been evaluated yet.")
    else:
        last, first = trial.rungs[-1], trial.rungs[0]
        of_all = "" if last.steps == steps else f" of {steps:,}"
        sentences.append(f"After {last.steps:,}{of_all} training steps the score is {fixed(last.score, 3)}.")
        if len(trial.rungs) > 1:
            sentences.append(f"It was {fixed(first.score, 3)} after {first.steps:,} steps.")
    if trial is not None and trial.measurement is not None:
        ratio, interval = ratio_words(trial)
        speed = f"{trial.measurement.throughput_img_s:,.0f} images/s"
        doubt = timing_doubt(trial.measurement)
        trust = f" This timing cannot be trusted ({doubt}): treat the speed as unknown." if doubt else ""
        sentences.append(f"Its throughput is {ratio} times that of {reference} ({interval}), {speed}.{trust}")
    return tuple(sentences)


def _row(rung: RungResult, teachers: Sequence[str], metrics: Sequence[str], info: StudyInfo) -> EvaluationRow:
    parts = tuple(teacher_score(rung.teachers.get(name, {}), info) for name in teachers)
    return EvaluationRow(rung.steps, rung.score, parts, tuple(map(rung.metrics.get, metrics)), rung.seconds)


def draw_charts(info: StudyInfo, rungs: Sequence[RungResult], history: dict[str, list[float]]) -> dict[str, Markup]:
    """Draw each chart as SVG; charts without data are left out.

    Args:
        info: Description of the study.
        rungs: The evaluations.
        history: Columns of the table of steps.
    """
    charts: dict[str, Markup] = {}
    if rungs:
        charts["scores"] = static_chart(_scores(info, rungs))
    steps = history.get(STEP, [])
    losses = {name.removeprefix(LOSS): values for name, values in history.items() if name.startswith(LOSS)}
    if steps and losses:
        rows = [row for name, values in losses.items() for row in _points(steps, values, name)]
        charts["losses"] = static_chart(_lines(rows, "loss", list(losses), log=all(row["value"] > 0 for row in rows)))
    for name, title, _ in SMALL_CHARTS:
        if rows := _points(steps, history.get(name, []), name):
            charts[name] = static_chart(_lines(rows, title, [name], legend=False), LOW)
    return charts


def _points(steps: Sequence[float], values: Sequence[float], series: str) -> list[dict[str, Any]]:
    """Return finite values by step, averaged over neighbors where there are many."""
    known = [(step, value) for step, value in zip(steps, values, strict=False) if math.isfinite(value)]
    size = max(1, math.ceil(len(known) / MAX_POINTS))
    parts = [known[i : i + size] for i in range(0, len(known), size)]
    return [{"steps": part[-1][0], "value": sum(v for _, v in part) / len(part), "series": series} for part in parts]


def _scores(info: StudyInfo, rungs: Sequence[RungResult]) -> Any:
    """Draw the score, and each teacher's part of it."""
    names = [SCORE, *dict.fromkeys(name for rung in rungs for name in rung.teachers)]
    rows = [{"steps": rung.steps, "value": rung.score, "series": SCORE} for rung in rungs]
    rows += [
        {"steps": rung.steps, "value": part, "series": teacher}
        for rung in rungs
        for teacher, heads in rung.teachers.items()
        if math.isfinite(part := teacher_score(heads, info))
    ]
    (label,) = (objective.label for objective in info.objectives if objective.name == SCORE)
    return _lines(rows, f"{label}, higher is better", names, points=True)


def _lines(
    rows: Sequence[dict[str, Any]],
    title: str,
    names: Sequence[str],
    *,
    log: bool = False,
    points: bool = False,
    legend: bool = True,
) -> Any:
    colors = [SERIES[i % len(SERIES)][0] for i in range(len(names))]
    key = alt.Legend(title=None, orient="top", symbolType="stroke", symbolStrokeWidth=2, labelLimit=260)
    color = alt.Color(
        "series:N", scale=alt.Scale(domain=names, range=colors), sort=None, legend=key if legend else None
    )
    scale = alt.Scale(type="log", nice=False) if log else alt.Scale(zero=False)
    line = alt.Chart(alt.Data(values=rows)).mark_line(strokeWidth=1.8, point=points)
    return line.encode(
        x=alt.X("steps:Q", title="training steps", axis=alt.Axis(format=",d", tickCount=6, labelOverlap=True)),
        y=alt.Y("value:Q", title=title, scale=scale, axis=alt.Axis(tickCount=6, format="~g")),
        color=color,
    )
