"""Ray Tune runs the trials of a study: `run_study`, whose parts are in `nas.running`."""

from __future__ import annotations

from nas.running.places import Places
from nas.running.session import run_study

__all__ = ["Places", "run_study"]
