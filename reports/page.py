"""The report as one HTML file: everything inline, nothing fetched, no code but ours.

Vega runs under the page's policy without `unsafe-eval`: vega-embed carries Vega's expression interpreter and uses it
with `ast: true`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import MISSING, fields, replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import vl_convert
from jinja2 import Environment
from markupsafe import Markup

from nas.analysis.remeasuring import DISTURBED
from nas.disclosure import disclosed
from nas.records import Measurement, Study
from nas.store import read_study
from reports import captions, sentences
from reports.document import asset, flat, policy, templates, write_whole
from reports.figures import charts, importance_charts, importance_rows, multiples, retraining_chart
from reports.importance import importances
from reports.meaning import IN_TABLES, head_rows, metric_label, metric_names, metric_rows, trained
from reports.misses import misses
from reports.objectives import value_of
from reports.pack import packed_json, rounded
from reports.pictures import Gallery, gallery
from reports.points import BASELINE, FRONT, FigureData, prepare
from reports.retraining import read_retraining, retraining_points
from reports.summary import StudySummary, summarize
from reports.ties import disturbances
from reports.wording import brief, duration, significant

Datasets = dict[str, list[dict[str, Any]]]  # of the charts, by name

VEGA_LITE = "6.4"  # altair 6's; vl-convert carries several
REPORT_FILE = "report.html"
VEGA_SNIPPET = "window.vegaEmbed = vegaEmbed;"  # what of the bundle the page's script sees
STAGE_DIGITS = 4  # of a part's seconds: means of a few runs
STATIC_WIDTH_PX = 920
STATIC_SMALL_PX = 300
RANKED = 20  # nets of a study with one objective
# One scope, in this order; no one of them is a module, which a page of a file cannot load.
SCRIPTS = ("core", "selection", "charts", "parallel", "table", "diagrams", "card", "report")
# Of a measurement, what has no default: a record cannot be read back without it.
TOLD = {f.name for f in fields(Measurement) if f.default is MISSING and f.default_factory is MISSING}
STATIC_POINTS = 1200  # dots in the picture that shows before, or without, JavaScript
STATIC_SMALL_POINTS = 900  # in all small ones together


def build_report(run_dir: Path, out: Path | None = None) -> Path:
    """Write the report of the study in `run_dir`, by default as `run_dir`/report.html; the path that was written.

    Raises `nas.store.StoreError` for an unreadable study, OSError where `out` cannot be written.
    """
    out = out or run_dir / REPORT_FILE
    write_page(read_study(run_dir), out, run_dir)
    return out


def write_page(study: Study, out: Path, run_dir: Path) -> None:
    """Write `study`'s report to `out`, replacing it only once the whole page is there.

    `run_dir` is where the study's pictures lie, if there are any.
    """
    summary = summarize(study)
    page = render(study, summary, gallery(run_dir, summary), read_retraining(run_dir, study))
    write_whole(page, out)


def render(
    study: Study, summary: StudySummary, pictures: Gallery | None = None, retraining: Mapping[str, Any] | None = None
) -> str:
    """The whole page. `retraining`: results as `reports.retraining.read_retraining` returns them."""
    study = replace(study, info=disclosed(study.info))
    data = prepare(study, summary)
    choices = importances(study.info, summary)
    datasets = data.datasets() | {"retraining": retraining_points(retraining), "importances": importance_rows(choices)}
    large = charts(data) | retraining_chart(datasets["retraining"])
    small = multiples(data) | importance_charts(datasets["importances"])
    stills = {name: static_svg(spec, datasets, STATIC_WIDTH_PX) for name, spec in large.items()}
    stills |= {name: static_svg(spec, datasets, STATIC_SMALL_PX) for name, spec in small.items()}
    scripts, style = [vega_bundle(), _script()], asset("report.css")
    return _templates().get_template("report.html.j2").render(
        study=study,
        info=study.info,
        summary=summary,
        figures=data,
        gallery=pictures,
        retraining=retraining,
        importances=choices,
        **_tables(study, summary),
        **_words(study, summary, data),
        pictures={name: Markup(svg) for name, svg in stills.items()},
        payload=Markup(packed_json(_payload(study, summary, data, datasets, large | small))),
        scripts=[Markup(s) for s in scripts],
        style=Markup(style),
        policy=policy(style, scripts),
    )  # fmt: skip


def _tables(study: Study, summary: StudySummary) -> dict[str, Any]:
    info, rows = study.info, metric_rows(study.info, summary)
    missed = misses(study)
    told = {number for miss in missed for number in miss.numbers}
    objectives = [o.name for o in info.objectives]
    single = len(objectives) == 1
    best = sorted(summary.complete, key=lambda s: s.values, reverse=True)[:RANKED]
    ranking = best if single else summary.front
    return {
        "heads": head_rows(info, summary),
        "metrics": rows,
        "columns": [r for r in rows if r.name.partition("/")[0] in IN_TABLES and r.name not in objectives],
        "ranking": ranking,
        "disturbed": disturbances((*ranking, *(b.scored for b in summary.baselines))),
        "any_disturbed": any(t.measurement and t.measurement.verdict in DISTURBED for t in study.trials),
        "misses": missed,
        "reasons": [row for row in summary.reasons if not told.issuperset(row.numbers)],
        "meaning": sentences.meaning(rows),
        "environment": list(flat(info.environment)),
        "settings": list(flat(info.config)),
    }


def _words(study: Study, summary: StudySummary, data: FigureData) -> dict[str, Any]:
    return {
        "third": data.third,
        "headline": sentences.headline(study.info, summary),
        "noise": sentences.noise(study.info, summary),
        "floor": sentences.floor(summary.itself),
        "footer": captions.footer(study.info, summary),
        "progress": sentences.progress(study.info, summary, datetime.now(UTC)),
        "control": captions.control(study.info, summary),
        "front_caption": captions.front_caption(data),
        "rise_caption": captions.rise_caption(study.info),
        "curve_caption": captions.curve_caption(study.info, data),
    }


def _payload(
    study: Study, summary: StudySummary, data: FigureData, datasets: Datasets, specs: Mapping[str, Any]
) -> dict[str, Any]:
    """What the page's script reads: the study as records, so that it can be downloaded again, and the figures.

    `floor` is the quality at which the front's picture ends; `scattered` are the metrics of the small pictures, in
    order, and every how many-th net they draw; `distrusted` the verdicts whose intervals say nothing.
    """
    names = metric_names(trained(summary))
    return {
        "info": study.info.to_dict(),
        "trials": [{**_told(rounded(t.to_dict())), "spec": t.spec} for t in study.trials],
        "front": [s.trial.number for s in summary.front],
        "metrics": [[name, metric_label(name), name.partition("/")[0] in IN_TABLES] for name in names],
        "charts": dict(specs),
        "datasets": rounded({**datasets, "metrics": []}),  # the script takes these from the trials
        "scattered": [[scatter.name, scatter.step] for scatter in data.metrics],
        "floor": data.quality_range[0],
        "distrusted": DISTURBED,
    }


def _told(trial: dict[str, Any]) -> dict[str, Any]:
    """Without what its measurement is by default: thousands of nulls make a large page."""
    measurement = trial["measurement"]
    if measurement is None:
        return trial
    told = {k: v for k, v in measurement.items() if k in TOLD or v not in (None, [], {})}
    if "stages_s" in told:
        told["stages_s"] = rounded(told["stages_s"], STAGE_DIGITS)
    return {**trial, "measurement": told}


def static_svg(spec: Mapping[str, Any], datasets: Datasets, width_px: int) -> str:
    """The chart as an SVG picture, for readers without JavaScript."""
    datasets = datasets | {
        "points": _thinned(datasets["points"], STATIC_POINTS),
        "metrics": _thinned(datasets["metrics"], STATIC_SMALL_POINTS),
    }
    svg = vl_convert.vegalite_to_svg({**spec, "width": width_px, "datasets": datasets}, vl_version=VEGA_LITE)
    svg = re.sub(r"<[^>]+>", lambda tag: re.sub(r"(\.\d\d)\d+", r"\1", tag[0]), svg)  # hundredths of a pixel are enough
    return svg.replace("<svg ", '<svg aria-hidden="true" ', 1)  # its place is the image, with its caption


def _thinned(nets: list[dict[str, Any]], most: int) -> list[dict[str, Any]]:
    """The front and the baselines; of the others, evenly, about as many as `most`."""
    important = [p for p in nets if p["kind"] in (FRONT, BASELINE)]
    others = [p for p in nets if p["kind"] not in (FRONT, BASELINE)]
    return others[:: max(1, -(-len(others) // most))] + important


@cache
def vega_bundle() -> str:
    """Vega, Vega-Lite and vega-embed as one script, about 0.9 MB."""
    return str(vl_convert.javascript_bundle(VEGA_SNIPPET, vl_version=VEGA_LITE))


@cache
def _templates() -> Environment:
    return templates(
        seconds=duration, brief=brief, value_of=value_of, disturbances=disturbances, significant=significant
    )


@cache
def _script() -> str:
    parts = "".join(asset(f"{name}.js") for name in SCRIPTS)
    return f"(() => {{\n'use strict';\n{parts}}})();\n"
