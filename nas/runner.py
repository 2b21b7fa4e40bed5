"""Ray Tune runs the trials of a study: `run_study` at a site of `open_site`; its parts are in `nas.running`."""

from __future__ import annotations

from nas.running.places import Places
from nas.running.session import Site, open_site, run_study

__all__ = ["Places", "Site", "open_site", "run_study"]
