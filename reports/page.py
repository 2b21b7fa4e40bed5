"""The report as one HTML file: everything inline, nothing fetched, no code but ours, under a strict security policy.

The policy allows exactly the page's own scripts and style sheet, by their SHA-256. Vega runs under it without
`unsafe-eval`: vega-embed carries Vega's expression interpreter and uses it with `ast: true`.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import vl_convert
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from nas.records import Study
from nas.store import read_study
from reports import sentences
from reports.figures import charts, multiples
from reports.meaning import IN_TABLES, head_rows, metric_label, metric_names, metric_rows, trained
from reports.pack import packed_json, rounded
from reports.pictures import Gallery, gallery
from reports.points import BASELINE, FRONT, FigureData, prepare
from reports.summary import StudySummary, summarize

TEMPLATES = Path(__file__).parent / "templates"
VEGA_LITE = "6.4"  # altair 6's; vl-convert carries several
REPORT_FILE = "report.html"
VEGA_SNIPPET = "window.vegaEmbed = vegaEmbed;"  # what of the bundle the page's script sees
STATIC_WIDTH_PX = 920
STATIC_SMALL_PX = 300
STATIC_POINTS = 1500  # dots in the picture that shows before, or without, JavaScript


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
    page = render(study, summary, gallery(run_dir, summary))
    partial = out.with_name(out.name + ".partial")
    partial.write_text(page, encoding="utf-8", newline="\n")
    partial.replace(out)


def render(study: Study, summary: StudySummary, pictures: Gallery | None = None) -> str:
    """The whole page."""
    data = prepare(study, summary)
    large, small = charts(data), multiples(data)
    scripts = [vega_bundle(), _asset("report.js")]
    style = _asset("report.css")
    rows = metric_rows(study.info, summary)
    stills = {name: static_svg(spec, data, STATIC_WIDTH_PX) for name, spec in large.items()}
    stills |= {name: static_svg(spec, data, STATIC_SMALL_PX) for name, spec in small.items()}
    return _templates().get_template("report.html.j2").render(
        study=study,
        info=study.info,
        summary=summary,
        figures=data,
        gallery=pictures,
        heads=head_rows(study.info, summary),
        metrics=rows,
        columns=[row for row in rows if row.name.partition("/")[0] in IN_TABLES],
        headline=sentences.headline(study.info, summary),
        noise=sentences.noise(summary),
        progress=sentences.progress(study.info, summary),
        meaning=sentences.meaning(rows),
        environment=list(_flat(study.info.environment)),
        settings=list(_flat(study.info.config)),
        pictures={name: Markup(svg) for name, svg in stills.items()},
        payload=Markup(packed_json(_payload(study, summary, data, large | small))),
        scripts=[Markup(s) for s in scripts],
        style=Markup(style),
        policy=_policy(scripts, style),
    )  # fmt: skip


def _payload(study: Study, summary: StudySummary, data: FigureData, specs: Mapping[str, Any]) -> dict[str, Any]:
    """What the page's script reads: the study as records, so that it can be downloaded again, and the figures."""
    names = metric_names(trained(summary))
    return {
        "info": study.info.to_dict(),
        "trials": [{**_told(rounded(t.to_dict())), "spec": t.spec} for t in study.trials],
        "front": [s.trial.number for s in summary.front],
        "metrics": [[name, metric_label(name), name.partition("/")[0] in IN_TABLES] for name in names],
        "charts": dict(specs),
        "datasets": rounded(data.datasets()),
    }


def _told(trial: dict[str, Any]) -> dict[str, Any]:
    """Without what nobody could know of its measurement: thousands of nulls make a large page."""
    measurement = trial["measurement"]
    if measurement is None:
        return trial
    return {**trial, "measurement": {k: v for k, v in measurement.items() if v is not None and v != [] and v != {}}}


def static_svg(spec: Mapping[str, Any], data: FigureData, width_px: int) -> str:
    """The chart as an SVG picture, for readers without JavaScript."""
    datasets = data.datasets()
    important = [p for p in datasets["points"] if p["kind"] in (FRONT, BASELINE)]
    others = [p for p in datasets["points"] if p["kind"] not in (FRONT, BASELINE)]
    datasets["points"] = others[:: max(1, -(-len(others) // STATIC_POINTS))] + important
    svg = vl_convert.vegalite_to_svg({**spec, "width": width_px, "datasets": datasets}, vl_version=VEGA_LITE)
    return re.sub(
        r"<[^>]+>", lambda tag: re.sub(r"(\.\d\d)\d+", r"\1", tag[0]), svg
    )  # hundredths of a pixel are enough


@cache
def vega_bundle() -> str:
    """Vega, Vega-Lite and vega-embed as one script, about 0.9 MB."""
    return str(vl_convert.javascript_bundle(VEGA_SNIPPET, vl_version=VEGA_LITE))


@cache
def _templates() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["seconds"] = _duration
    return environment


@cache
def _asset(name: str) -> str:
    return (TEMPLATES / name).read_text(encoding="utf-8")


def _policy(scripts: list[str], style: str) -> str:
    """Content-Security-Policy: our scripts and style by hash, nothing from anywhere else."""
    if any("</script" in s.lower() or "<!--" in s for s in scripts) or "</style" in style.lower():
        raise ValueError("a script or style of the report would end its own tag")
    allowed = " ".join(_hash(s) for s in scripts)
    return (
        f"default-src 'none'; script-src {allowed}; style-src {_hash(style)}; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _flat(data: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested settings as (dotted name, text) rows."""
    rows: list[tuple[str, str]] = []
    for key, value in data.items():
        if isinstance(value, Mapping):
            rows += _flat(value, f"{prefix}{key}.")
        else:
            rows.append(
                (prefix + str(key), ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value))
            )
    return rows


def _duration(seconds: float) -> str:
    """A time that people read: 48 s, 12 min, 3.4 h."""
    if seconds < 120:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
