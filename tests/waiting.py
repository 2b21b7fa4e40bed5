"""Waiting for something that happens elsewhere. No test is judged by its time: the limit only ends what hangs."""

from __future__ import annotations

import time
from collections.abc import Callable

PATIENCE_S = 600.0


def until(condition: Callable[[], object], every_s: float = 0.02) -> None:
    """Return as soon as a condition holds.

    Raises:
        TimeoutError: it did not come to hold within `PATIENCE_S`.
    """
    end = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"waited {PATIENCE_S:g} s without effect")
        time.sleep(every_s)
