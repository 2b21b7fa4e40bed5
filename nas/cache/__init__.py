"""Teacher features computed once, compressed, kept on disk, and opened by every trial."""

from __future__ import annotations

from nas.cache.opening import open_config_targets, open_study_targets, open_targets
from nas.cache.parts import CacheError
from nas.cache.targets import Targets, load_targets

__all__ = ["CacheError", "Targets", "load_targets", "open_config_targets", "open_study_targets", "open_targets"]
