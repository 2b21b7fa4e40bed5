"""Compute teacher features once, compress them, keep them on disk, and open them in every trial."""

from __future__ import annotations

from nas.cache.build import open_study_targets, open_targets
from nas.cache.entry import CacheError
from nas.cache.targets import Targets, load_targets

__all__ = ["CacheError", "Targets", "load_targets", "open_study_targets", "open_targets"]
