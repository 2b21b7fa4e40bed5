"""Text of a study made fit for a line: a name may be 10 kB long, or hold what ends a line where nobody sees it."""

from __future__ import annotations


def clean(text: object) -> str:
    """On one line. Vega's expressions cannot hold U+2028, which is a line's end to them and not to JSON."""
    return " ".join(str(text).split())


def brief(text: object, most: int = 80) -> str:
    """On one line of at most so many characters."""
    words = clean(text)
    return words if len(words) <= most else words[: most - 1] + "…"
