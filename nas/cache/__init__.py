"""Cache teacher features on disk: compute them once, compress them, and open them in every trial.

A cache consists of entries. One entry holds the images at the student's size (`images`); one entry per teacher holds
its features on these images (`teacher_features`), standardized and compressed (`standardize`, `codecs`). An entry is a
folder of shards that several processes can fill together (`entry`, `shards`). A set file names the entries that belong
to one training run (`targets`). `build` opens a set and builds the missing entries.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from nas.cache.build import open_study_targets, open_targets
    from nas.cache.entry import CacheError
    from nas.cache.targets import Targets, load_targets

__all__ = ["CacheError", "Targets", "load_targets", "open_study_targets", "open_targets"]

# Names are imported when they are first used: torch takes seconds to import, and the help of a command needs none.
__getattr__, __dir__, _ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "entry": ["CacheError"],
        "targets": ["Targets", "load_targets"],
        "build": ["open_study_targets", "open_targets"],
    },
)
