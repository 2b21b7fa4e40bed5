"""JSON that states each object's keys once: a study of 10,000 trials stays small enough to be mailed.

`{"keys": [["a", "b"], ...], "data": ...}`, where an object is `[index into keys, value, value, ...]` and an array is
`[-1, item, ...]`. `templates/report.js` has the inverse.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

SIGNIFICANT_DIGITS = 6  # finer than any interval in a study; the store keeps the exact numbers


def packed_json(value: Any) -> str:
    """`value` (plain data) as packed JSON that is safe between script tags: `<`, `>` and `&` are escaped.

    Numbers that JSON cannot carry (NaN, infinities) become null.
    """
    keys: dict[tuple[str, ...], int] = {}
    data = _pack(value, keys)
    text = json.dumps({"keys": [list(k) for k in keys], "data": data}, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _pack(value: Any, keys: dict[tuple[str, ...], int]) -> Any:
    if isinstance(value, Mapping):
        names = tuple(str(k) for k in value)
        return [keys.setdefault(names, len(keys)), *(_pack(v, keys) for v in value.values())]
    if isinstance(value, list | tuple):
        return [-1, *(_pack(v, keys) for v in value)]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def rounded(value: Any, digits: int = SIGNIFICANT_DIGITS) -> Any:
    """Plain data with its floats at that many significant digits. For measured numbers; a spec must stay exact."""
    if isinstance(value, Mapping):
        return {k: rounded(v, digits) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(v, digits) for v in value]
    if isinstance(value, float) and math.isfinite(value):
        return float(f"{value:.{digits}g}")
    return value
