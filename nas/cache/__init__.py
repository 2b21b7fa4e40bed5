"""Teacher features computed once, compressed, kept on disk, and opened by every trial."""

from __future__ import annotations

from nas.cache.opening import CacheError, Targets, open_targets
from nas.cache.targets import load_targets

__all__ = ["CacheError", "Targets", "load_targets", "open_targets"]
