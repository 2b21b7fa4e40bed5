"""Text of a study made fit for a line, and numbers for people.

A name may be 10 kB long, or hold what ends a line where nobody sees it.
"""

from __future__ import annotations


def clean(text: object) -> str:
    """On one line. Vega's expressions cannot hold U+2028, which is a line's end to them and not to JSON."""
    return " ".join(str(text).split())


def brief(text: object, most: int = 80) -> str:
    """On one line of at most so many characters."""
    words = clean(text)
    return words if len(words) <= most else words[: most - 1] + "…"


def significant(value: float | None) -> str:
    """Four digits, or all before the point, without an exponent: 0.5123, 12.3, 1,234,567."""
    if value is None:
        return "–"
    return f"{value:,.0f}" if abs(value) >= 1e4 else f"{value:.4g}"


def duration(seconds: float) -> str:
    """A time that people read: 48 s, 12 min, 3.4 h."""
    if seconds < 120:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
