"""Cache teacher features on disk: compute them once, compress them, and open them in every trial.

A cache consists of entries. One entry holds the images at the student's size (`images`); one entry per teacher holds
its features on these images (`teacher_features`), standardized and compressed (`standardize`, `codecs`). An entry is a
folder of shards that several processes can fill together (`entry`, `shards`). A set file names the entries that belong
to one training run (`targets`). `build` opens a set and builds the missing entries.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nas.cache.build import open_study_targets, open_targets
    from nas.cache.entry import CacheError
    from nas.cache.targets import Targets, load_targets

__all__ = ["CacheError", "Targets", "load_targets", "open_study_targets", "open_targets"]

_MODULES = {
    "CacheError": "entry",
    "Targets": "targets",
    "load_targets": "targets",
    "open_study_targets": "build",
    "open_targets": "build",
}


def __getattr__(name: str) -> Any:
    """Import a name when it is first used: torch takes seconds to import, and the help of a command needs none."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
