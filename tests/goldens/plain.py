"""Values as plain JSON data, and their comparison."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any

import numpy as np


def plain(value: Any) -> Any:
    """Return a value as JSON has it: records as tables, tuples as lists, paths and enums as text, without functions."""
    if isinstance(value, Enum):
        return plain(value.value)
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in fields(value) if not callable(getattr(value, f.name))}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in (sorted(value) if isinstance(value, set | frozenset) else value)]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def flat(value: Any, name: str = "") -> dict[str, Any]:
    """Return tables in tables as one table by dotted names, without empty tables."""
    if not isinstance(value, dict):
        return {name: value}
    return {
        key: item for part, inner in value.items() for key, item in flat(inner, f"{name}.{part}".lstrip(".")).items()
    }


def without_prose(value: Any) -> Any:
    """Return a plain value without its sentences, texts of four words or more: their words may change."""
    if isinstance(value, dict):
        return {key: without_prose(item) for key, item in value.items() if not _is_prose(item)}
    if isinstance(value, list):
        return [without_prose(item) for item in value if not _is_prose(item)]
    return value


def _is_prose(value: Any) -> bool:
    return isinstance(value, str) and value.count(" ") >= 3


def differences(recorded: Any, found: Any, tolerance: float, at: str = "") -> Iterator[str]:
    """Yield where two plain values differ; numbers by more than `tolerance`, relative to the larger of 1 and them."""
    if isinstance(recorded, dict) and isinstance(found, dict):
        for key in recorded.keys() | found.keys():
            yield from differences(recorded.get(key, "missing"), found.get(key, "missing"), tolerance, f"{at}.{key}")
    elif isinstance(recorded, list) and isinstance(found, list) and len(recorded) == len(found):
        for i, (a, b) in enumerate(zip(recorded, found, strict=True)):
            yield from differences(a, b, tolerance, f"{at}[{i}]")
    elif not _equal(recorded, found, tolerance):
        yield f"{at}: recorded {recorded!r}, now {found!r}"


def _equal(recorded: Any, found: Any, tolerance: float) -> bool:
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in (recorded, found))
    if numbers and tolerance:
        return abs(recorded - found) <= tolerance * max(1.0, abs(recorded), abs(found))
    return bool(recorded == found)
