"""The report of one study as an HTML file with everything inline: it fetches nothing and runs only its own scripts."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, fields, replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment
from markupsafe import Markup

from nas.analysis.evidence import StudyEvidence
from nas.files import atomic_write
from nas.study.ending import unfinished
from nas.study.metrics import METRICS, is_in_tables, metric_label
from nas.study.public_info import public_info
from nas.study.records import Measurement, StudyInfo, StudyRecord
from nas.study.timing_doubts import no_interval, recorded_ratio_interval, throughput_interval, timing_doubt
from nas.study.training_files import is_training
from reports import captions, headline, sentences
from reports.chart_style import Specification
from reports.charts import (
    importance_charts,
    importance_rows,
    page_charts,
    race_chart,
    retraining_chart,
    small_charts,
)
from reports.dataframe import UNITS
from reports.document import asset, chart_svg, policy, templates, vega_bundle
from reports.evidence_data import race_points, read_evidence, retimed_trials, retraining_points, retraining_results
from reports.export_advice import before_export, export_command, retrain_command, weights_place
from reports.figure_data import BASELINE, BEST, FRONT, STOPPED, FigureData, prepare
from reports.formatting import brief, duration, flat, moment, packed_json, rounded, significant
from reports.gallery import Gallery, read_gallery
from reports.importance import have_coarse_stems, importances
from reports.metric_agreement import (
    MetricSummary,
    metric_names,
    summarize_heads,
    summarize_metrics,
    trained_models,
)
from reports.scored_trials import objective_words, value_of
from reports.search_course import limit_misses
from reports.summary import StudySummary, summarize
from reports.tiles import tiles
from reports.timing_noise import doubts, ratio_words
from reports.training_page import write_training_page
from reports.trust import trust_checks, verdict_sentence

Datasets = dict[str, list[dict[str, Any]]]  # of the charts, by name

REPORT_FILE = "report.html"
STAGE_DIGITS = 4  # of a stage's seconds, which are means of a few runs
STATIC_WIDTH_PX = 920
STATIC_SMALL_PX = 300
STATIC_POINTS = 1200  # in the picture that is shown before, or without, JavaScript
STATIC_CURVES = 150  # learning curves, likewise
STATIC_SMALL_POINTS = 900  # in all small pictures together
MAX_RANKED = 20  # models of a study with one objective
CONTENTS = (
    ("result", "Summary"),
    ("front", "Pareto front"),
    ("trust", "Can I trust this?"),
    ("candidates", "Parallel coordinates"),
    ("teachers", "Teachers"),
    ("progress", "Progress"),
    ("importance", "Importance"),
    ("time-spent", "Time"),
    ("failures", "Failures"),
    ("trials", "Trials"),
    ("settings", "Settings"),
)  # the sections' ids, and their titles in the table of contents
OWN_COLUMNS = ("latency", "params", "macs")  # objectives of which each table of models has a column anyway
RANKING = "Ranking"  # in place of "Pareto front"
# Concatenated in this order. Modules are impossible: a page opened from a file cannot load them.
SCRIPTS = ("core", "selection", "charts", "parallel", "table", "diagrams", "card", "report")
# Fields of a measurement without a default: a record cannot be read back without them.
REQUIRED_FIELDS = {f.name for f in fields(Measurement) if f.default is MISSING and f.default_factory is MISSING}


def build_report(run_dir: Path, out: Path | None = None) -> Path:
    """Write the report of the study in `run_dir` and return its path.

    Args:
        run_dir: folder of a search.
        out: file to write (default: `run_dir`/report.html).

    Raises:
        StoreError: the study cannot be read.
        OSError: `out` cannot be written.
    """
    out = out or run_dir / REPORT_FILE
    write_page(read_evidence(run_dir), out, run_dir)
    return out


def write_page(evidence: StudyEvidence, out: Path, run_dir: Path) -> None:
    """Write a study's report to `out`, or that of a training, replacing an old one once the new one is complete.

    Args:
        evidence: what is known of the study's models.
        out: file to write.
        run_dir: folder that may hold contact sheets.
    """
    if is_training(run_dir):
        write_training_page(evidence, out, run_dir)
        return
    summary, retraining = summarize(evidence.study, evidence), retraining_results(evidence)
    folder = run_dir.relative_to(Path.cwd()) if run_dir.is_relative_to(Path.cwd()) else run_dir
    atomic_write(out, render(evidence.study, summary, read_gallery(run_dir, summary), retraining, str(folder)))


def render(
    study: StudyRecord,
    summary: StudySummary,
    pictures: Gallery | None = None,
    retraining: Mapping[str, Any] | None = None,
    run: str = "RUN",
) -> str:
    """Render the report as HTML.

    Args:
        study: records of the study, with the timings to show.
        summary: numbers of the study.
        pictures: feature maps of its models, if there are any.
        retraining: results, as `reports.evidence_data.retraining_results` returns them.
        run: folder of the study, for the commands on the page.
    """
    study = replace(study, info=public_info(study.info))
    data = prepare(study, summary)
    choices, words = importances(study.info, summary), objective_words(study.info)
    metrics = summarize_metrics(study.info, summary, retraining)
    datasets = data.datasets() | {
        "retraining": retraining_points(study, retraining),
        "race": race_points(study),
        "importances": importance_rows(choices, words),
    }
    large = page_charts(data) | retraining_chart(datasets["retraining"]) | race_chart(datasets["race"])
    small = small_charts(data) | importance_charts(datasets["importances"])
    stills = {name: _still(chart, datasets, STATIC_WIDTH_PX) for name, chart in large.items()}
    stills |= {name: _still(chart, datasets, STATIC_SMALL_PX) for name, chart in small.items()}
    scripts, style = [vega_bundle(), _script()], asset("report.css")
    return _templates().get_template("report.html.j2").render(
        study=study,
        info=study.info,
        summary=summary,
        figures=data,
        gallery=pictures,
        retraining=retraining,
        importances=choices,
        coarse_stems=have_coarse_stems(study.trials),
        objective_words=words,
        run=run,
        contents=[(section, _title(study.info, section, title)) for section, title in CONTENTS],
        **_tables(study, summary, metrics, retraining),
        **_trust(study, summary, metrics, retraining, shlex.quote(run)),
        front_caption=captions.front_caption(study.info, data, summary, retrained=retraining is not None),
        **_sentences(study, summary, data, shlex.quote(run)),
        pictures={name: Markup(svg) for name, svg in stills.items()},
        payload=Markup(packed_json(_payload(study, summary, data, datasets, large | small, shlex.quote(run)))),
        scripts=[Markup(s) for s in scripts],
        style=Markup(style),
        policy=policy(style, scripts),
    )  # fmt: skip


def _title(info: StudyInfo, section: str, title: str) -> str:
    """Return a section's title in the table of contents; models of one objective form a ranking."""
    return RANKING if section == "front" and len(info.objectives) == 1 else title


def _tables(
    study: StudyRecord,
    summary: StudySummary,
    metrics: Sequence[MetricSummary],
    retraining: Mapping[str, Any] | None,
) -> dict[str, Any]:
    info = study.info
    kinds = {m.name.partition("/")[0] for m in metrics}
    misses = limit_misses(study)
    missed = {number for row in misses for number in row.numbers}
    objectives = [o.name for o in info.objectives]
    single = len(objectives) == 1
    ranking = sorted(summary.complete, key=lambda s: s.values, reverse=True)[:MAX_RANKED] if single else summary.front
    baselines = [b.scored for b in summary.baselines]
    return {
        "heads": summarize_heads(info, summary),
        "metrics": metrics,
        "definitions": [metric for name, metric in METRICS.items() if name in kinds],
        "columns": [m for m in metrics if is_in_tables(m.name) and m.name not in objectives],
        "ranking": ranking,
        "ranks": {s.trial.number: 1 + sum(other.values > s.values for other in ranking) for s in ranking},
        "table_notes": sentences.table_notes(info, [*(s.trial for s in (*ranking, *baselines)), *study.scale]),
        "timed_sizes": sentences.timed_sizes([*study.trials, *study.scale]),
        "any_doubtful": any(timing_doubt(t.measurement) for t in study.trials),
        "limit_misses": misses,
        "retimed": (retimed := retimed_trials(study, retraining)),
        "retimed_on": sentences.devices(retimed.values()),
        "reasons": [row for row in summary.reasons if not missed.issuperset(row.numbers)],
        "agreement": sentences.agreement(metrics),
        "environment": sentences.environment_rows(info),
        "settings": list(flat(info.config)),
        "scale": sorted(study.scale, key=lambda t: -t.measurement.ratio if t.measurement else 0.0),
    }


def _trust(
    study: StudyRecord,
    summary: StudySummary,
    metrics: Sequence[MetricSummary],
    retraining: Mapping[str, Any] | None,
    run: str,
) -> dict[str, Any]:
    checks = trust_checks(study.info, summary, metrics, retraining, run)
    return {
        "checks": checks,
        "trust_sentence": verdict_sentence(checks),
        "headline": headline.headline(study.info, summary, run),
        "doubts": before_export(study.info, summary, run),
        "retrain_command": retrain_command(study.info, summary, run),
        "report_command": f"backbone-nas report {run}",
    }


def _sentences(study: StudyRecord, summary: StudySummary, data: FigureData, run: str) -> dict[str, Any]:
    info = study.info
    return {
        "further": [o for o in data.further if o.name not in OWN_COLUMNS],
        "subject": sentences.subject(info),
        "score_definition": sentences.score_definition(info),
        "unit_summaries": sentences.unit_summaries(info),
        "tiles": tiles(info, summary),
        "recommended": headline.recommended(info, summary),
        "export_command": export_command(summary, run),
        "unfinished": unfinished(study),
        "device": sentences.device(info),
        "threads": sentences.threads(info, next((t.measurement for t in study.trials if t.measurement), None)),
        "noise": sentences.noise(info, summary),
        "verdicts": sentences.verdicts(summary),
        "convergence": sentences.convergence_words(study, run),
        "predictions": sentences.predictions(study.trials),
        "weights_place": weights_place(summary),
        "baseline_words": sentences.baseline_words(info),
        "hypervolume": captions.hypervolume(info, summary),
        "score_curves_caption": captions.score_curves_caption(data),
        "noise_floor": sentences.noise_floor_sentence(summary),
        "footer": captions.footer(info, summary),
        "picture_words": sentences.picture_words(info),
        "precision": sentences.precision(info),
        "progress": sentences.progress(info, summary, datetime.now(UTC)),
        "search_scores": captions.search_scores(info),
        "learning_caption": captions.learning_caption(info, summary),
        "teacher_caption": captions.teacher_caption(info, summary),
        "curve_caption": captions.curve_caption(info, data),
    }


def _payload(
    study: StudyRecord,
    summary: StudySummary,
    data: FigureData,
    datasets: Datasets,
    charts: Mapping[str, Specification],
    run: str,
) -> dict[str, Any]:
    """Return the data of the page's script: the study as records, so that it can be downloaded again, and the charts.

    `scattered` has the metrics of the small charts in order, each with the step at which its dominated models are
    drawn; `curve_step` is that step for the learning curves; `floors` are the scores at which the chart of the front
    ends, without early-stopped candidates and with them; `timing_doubts` has a pair for each trial whose timing cannot
    be trusted, its number and the reason; `no_intervals` the same for intervals that are not
    usable; `state_words` replace the states of trials in the tables; `further` are the objectives other than score and
    throughput, each with its values by trial; `units` are names of columns of the CSV.
    """
    names = metric_names(trained_models(summary))
    return {
        "info": study.info.to_dict(),
        "trials": [{**_without_defaults(rounded(t.to_dict())), "spec": t.spec} for t in study.trials],
        "front": [s.trial.number for s in summary.front],
        "units": UNITS,
        "further": [
            {
                "name": o.name,
                "title": f"{brief(o.label, 30)} {o.unit}".strip(),
                "log": o.log,
                "values": [rounded(value_of(t, o.name)) for t in study.trials],
            }
            for o in data.further
        ],
        "metrics": [[name, metric_label(name), is_in_tables(name)] for name in names],
        "charts": dict(charts),
        "datasets": rounded({**datasets, "metrics": [], "score-curves": []}),  # the script derives these
        "scattered": [[scatter.name, scatter.step] for scatter in data.metrics],
        "curve_step": data.curve_step,
        "floors": [data.score_range[0], data.score_range_of_all[0]],
        "stopped_kind": STOPPED,
        "run": run,
        "timing_doubts": [[t.number, timing_doubt(t.measurement)] for t in study.trials if timing_doubt(t.measurement)],
        "no_intervals": {
            "ratio": _without(study, recorded_ratio_interval),
            "throughput": _without(study, throughput_interval),
        },
        "state_words": {"front": BEST if data.single else FRONT, "baseline": BASELINE, "stopped": STOPPED},
    }


def _without(study: StudyRecord, interval: Callable[[Measurement], object]) -> list[list[Any]]:
    """Return the number of each trial that lacks a usable interval, and the reason."""
    return [[t.number, no_interval(m)] for t in study.trials if (m := t.measurement) and interval(m) is None]


def _without_defaults(trial: dict[str, Any]) -> dict[str, Any]:
    """Remove the empty fields of a trial's measurement: thousands of nulls make a large page."""
    measurement = trial["measurement"]
    if measurement is None:
        return trial
    kept = {k: v for k, v in measurement.items() if k in REQUIRED_FIELDS or v not in (None, [], {})}
    if "stages_s" in kept:
        kept["stages_s"] = rounded(kept["stages_s"], STAGE_DIGITS)
    return {**trial, "measurement": kept}


def _still(chart: Specification, datasets: Datasets, width_px: int) -> str:
    """Render a chart as SVG for readers without JavaScript."""
    datasets = datasets | {
        "points": _thinned(datasets["points"], STATIC_POINTS),
        "metrics": _thinned(datasets["metrics"], STATIC_SMALL_POINTS),
        "score-curves": _fewer_curves(datasets["score-curves"], STATIC_CURVES),
    }
    return chart_svg({**chart, "width": width_px, "datasets": datasets})


def _thinned(rows: list[dict[str, Any]], limit: int) -> list[dict[str, Any]]:
    """Keep the front, the baselines, and about `limit` of the others, evenly spaced."""
    important = [p for p in rows if p["kind"] in (FRONT, BASELINE)]
    others = [p for p in rows if p["kind"] not in (FRONT, BASELINE)]
    return others[:: max(1, -(-len(others) // limit))] + important


def _fewer_curves(rows: list[dict[str, Any]], limit: int) -> list[dict[str, Any]]:
    """Keep the curves of the front, of the baselines, and of about `limit` other candidates, evenly spaced."""
    others = list(dict.fromkeys(row["number"] for row in rows if row["kind"] not in (FRONT, BASELINE)))
    kept = set(others[:: max(1, -(-len(others) // limit))])
    return [row for row in rows if row["kind"] in (FRONT, BASELINE) or row["number"] in kept]


@cache
def _templates() -> Environment:
    return templates(
        seconds=duration,
        moment=moment,
        brief=brief,
        value_of=value_of,
        doubts=doubts,
        ratio_words=ratio_words,
        significant=significant,
    )


@cache
def _script() -> str:
    parts = "".join(asset(f"{name}.js") for name in SCRIPTS)
    return f"(() => {{\n'use strict';\n{parts}}})();\n"
