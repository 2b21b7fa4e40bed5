"""Format the text and numbers of a study for pages: one-line text, durations, rounded numbers, packed JSON.

Names in a study can be 10 kB long and can hold invisible line separators.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

SIGNIFICANT_DIGITS = 6  # finer than any interval in a study; the study's database keeps the exact numbers


def clean(text: object) -> str:
    """Return `text` on one line.

    Vega's expression language reads U+2028 as the end of a line, JSON does not.
    """
    return " ".join(str(text).split())


def capitalized(text: str) -> str:
    """Return a text with a capital first letter; the other letters stay, which `str.capitalize` would lower."""
    return text[:1].upper() + text[1:]


def brief(text: object, max_characters: int = 80) -> str:
    """Return `text` on one line, shortened to `max_characters`."""
    line = clean(text)
    return line if len(line) <= max_characters else line[: max_characters - 1] + "…"


def significant(value: float | None) -> str:
    """Format with four digits, or with all digits before the point, and no exponent: 0.5123, 12.3, 1,234,567."""
    if value is None:
        return "–"
    return f"{value:,.0f}" if abs(value) >= 1e4 else f"{value:.4g}"


def duration(seconds: float) -> str:
    """Format a duration for people: 48 s, 12 min, 3.4 h."""
    if seconds < 120:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def moment(text: str) -> str:
    """Format a UTC time in ISO 8601 for people: 2026-01-31 12:00 UTC; return any other text on one line."""
    try:
        return f"{datetime.fromisoformat(text).astimezone(UTC):%Y-%m-%d %H:%M} UTC"
    except ValueError:
        return brief(text)


def rounded(value: Any, digits: int = SIGNIFICANT_DIGITS) -> Any:
    """Round every float of plain data to `digits` significant digits.

    This is meant for measured numbers; a spec must stay exact.
    """
    if isinstance(value, Mapping):
        return {k: rounded(v, digits) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(v, digits) for v in value]
    if isinstance(value, float) and math.isfinite(value):
        return float(f"{value:.{digits}g}")
    return value


def flat(data: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Flatten nested settings into rows of (dotted name, text)."""
    rows: list[tuple[str, str]] = []
    for key, value in data.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            rows += flat(value, f"{name}.")
        else:
            rows.append((name, ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)))
    return rows


def packed_json(value: Any) -> str:
    """Serialize plain data to JSON that states the keys of equal objects once.

    The format is `{"keys": [["a", "b"], ...], "data": ...}`. An object is `[index into keys, value, value, ...]`
    without its last values that are null, an array is `[-1, item, ...]`; `templates/core.js` has the inverse. A study
    of 10,000 trials stays small enough to be mailed. The text is safe between script tags: `<`, `>` and `&` are
    escaped. NaN and infinities become null.
    """
    keys: dict[tuple[str, ...], int] = {}
    data = _pack(value, keys)
    text = json.dumps({"keys": [list(k) for k in keys], "data": data}, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _pack(value: Any, keys: dict[tuple[str, ...], int]) -> Any:
    if isinstance(value, Mapping):
        names = tuple(str(k) for k in value)
        packed = [keys.setdefault(names, len(keys)), *(_pack(v, keys) for v in value.values())]
        while packed[-1] is None:
            packed.pop()
        return packed
    if isinstance(value, list | tuple):
        return [-1, *(_pack(v, keys) for v in value)]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
