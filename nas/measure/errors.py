"""The error of a measurement that gives no number."""

from __future__ import annotations

from typing import Any


class Unmeasured(RuntimeError):
    """A network that has no number here.

    `verdict` is "out of memory", "no samples", "crash" or "hang"; the message says more.
    """

    def __init__(self, verdict: str, message: str) -> None:
        super().__init__(message)
        self.verdict = verdict

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.verdict, str(self))
