"""Self-contained HTML documents: templates, inline assets, static charts, a strict security policy, atomic writing.

The policy allows exactly the document's own scripts and style sheet, by their SHA-256, and no other source. Vega runs
under it without `unsafe-eval`: vega-embed contains Vega's expression interpreter and uses it with `ast: true`.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import vl_convert
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from nas.numbers import fixed, millions, plural, plural_range, probability
from nas.terminal import visible

TEMPLATES = Path(__file__).parent / "templates"
VEGA_LITE = "6.4"  # the version of altair 6; vl-convert carries several
VEGA_SNIPPET = "window.vegaEmbed = vegaEmbed;"  # the only name of the bundle that the page's script uses


def templates(**filters: Callable[..., Any]) -> Environment:
    """Return the template environment: a study's text is escaped and visible, a name without a value is an error."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_visible,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "fixed": fixed,
        "millions": millions,
        "plural": plural,
        "plural_range": plural_range,
        "probability": probability,
    } | filters
    return environment


@cache
def asset(name: str) -> str:
    """Return the text of a style sheet or script."""
    return (TEMPLATES / name).read_text(encoding="utf-8")


@cache
def vega_bundle() -> str:
    """Return Vega, Vega-Lite and vega-embed as one script of about 0.9 MB."""
    return str(vl_convert.javascript_bundle(VEGA_SNIPPET, vl_version=VEGA_LITE))


def chart_svg(specification: Mapping[str, Any]) -> str:
    """Render a Vega-Lite specification as an SVG that assistive technology skips: its figure has a caption.

    XML has no control characters, and vl-convert ends the whole process over one.
    """
    svg = vl_convert.vegalite_to_svg(_visible(dict(specification)), vl_version=VEGA_LITE)
    svg = re.sub(r"<[^>]+>", lambda tag: re.sub(r"(\.\d\d)\d+", r"\1", tag[0]), svg)  # hundredths of a pixel are enough
    return svg.replace("<svg ", '<svg aria-hidden="true" ', 1)


def _visible(data: Any) -> Any:
    """Replace the control characters in the texts of plain data; finished markup stays as it is."""
    if isinstance(data, dict):
        return {_visible(key): _visible(value) for key, value in data.items()}
    if isinstance(data, list):
        return [_visible(value) for value in data]
    return visible(data) if type(data) is str else data


def policy(style: str, scripts: Sequence[str] = ()) -> str:
    """Return the Content-Security-Policy of a document with one style sheet and these scripts.

    Raises:
        ValueError: a script or style contains its own end tag.
    """
    if any("</script" in s.lower() or "<!--" in s for s in scripts) or "</style" in style.lower():
        raise ValueError("a script or style of the report contains its own end tag")
    run = f"script-src {' '.join(map(_hash, scripts))}; " if scripts else ""
    return f"default-src 'none'; {run}style-src {_hash(style)}; img-src data:; base-uri 'none'; form-action 'none'"


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
