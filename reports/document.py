"""A page as one HTML file: templates, everything inline, a strict security policy, written whole or not at all.

The policy allows exactly the page's own scripts and style sheet, by their SHA-256, and nothing from anywhere else.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

TEMPLATES = Path(__file__).parent / "templates"


def templates(**filters: Callable[..., Any]) -> Environment:
    """The pages' templates; what a study says is escaped, and a name without a value is an error."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= filters
    return environment


@cache
def asset(name: str) -> str:
    """The text of a style sheet or script."""
    return (TEMPLATES / name).read_text(encoding="utf-8")


def policy(style: str, scripts: Sequence[str] = ()) -> str:
    """Content-Security-Policy of a page with one style sheet and these scripts. ValueError where one ends its tag."""
    if any("</script" in s.lower() or "<!--" in s for s in scripts) or "</style" in style.lower():
        raise ValueError("a script or style of the report would end its own tag")
    run = f"script-src {' '.join(map(_hash, scripts))}; " if scripts else ""
    return f"default-src 'none'; {run}style-src {_hash(style)}; img-src data:; base-uri 'none'; form-action 'none'"


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def flat(data: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested settings as (dotted name, text) rows."""
    rows: list[tuple[str, str]] = []
    for key, value in data.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            rows += flat(value, f"{name}.")
        else:
            rows.append((name, ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)))
    return rows
