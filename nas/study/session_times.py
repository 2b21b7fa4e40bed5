"""The times of a study's sessions, which may overlap and of which a killed one has no length. Pure but for the clock.

A session is plain data: when it started, at which second of the study it began, its length and its driver.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

Session = Mapping[str, Any]


def elapsed(sessions: Sequence[Session]) -> float:
    """Return the seconds from the first session's start to the last end of one.

    Args:
        sessions: Sessions of a study, which may run in parallel.
    """
    return max((session["began_s"] + session["wall_s"] for session in sessions), default=0.0)


def elapsed_by_clock(sessions: Sequence[Session]) -> float:
    """Return the seconds from the first session's start until now, by the clocks of sessions that have not ended.

    Args:
        sessions: Sessions that run now.
    """
    return max((session["began_s"] + _seconds_since(session["started"]) for session in sessions), default=0.0)


def covered(sessions: Sequence[Session], until_s: float) -> float:
    """Return how many of the study's first seconds are in ended sessions.

    Args:
        sessions: Sessions of a study, which may overlap.
        until_s: Number of the first seconds.
    """
    covered_s = end_s = 0.0
    for session in sorted(sessions, key=lambda session: session["began_s"]):
        begin_s, end_s = max(end_s, session["began_s"]), max(end_s, session["began_s"] + session["wall_s"])
        covered_s += max(0.0, min(end_s, until_s) - begin_s)
    return covered_s


def session_driver(driver: str | None) -> str | None:
    """Return the name of a trial's driver as its session has it, without the name of its machine.

    Args:
        driver: The driver's whole name; None for a trial of none.
    """
    return None if driver is None else driver.rpartition(":")[2]


def now() -> str:
    """Return the time of day in UTC, to the second, as a session records its start."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _seconds_since(moment: str) -> float:
    return max(0.0, (datetime.now(UTC) - datetime.fromisoformat(moment)).total_seconds())
