"""Cache teacher features on disk: compute them once, compress them, and open them in every trial.

A cache consists of entries. One entry holds the images at the student's size (`images`); one entry per teacher holds
its features on these images (`teacher_features`), standardized and compressed (`standardize`, `codecs`). An entry is a
folder of shards that several processes can fill together (`entry`, `shards`). A set file names the entries that belong
to one training run (`targets`). `build` opens a set and builds the missing entries.
"""

from __future__ import annotations

from nas.cache.build import open_study_targets, open_targets
from nas.cache.entry import CacheError
from nas.cache.targets import Targets, load_targets

__all__ = ["CacheError", "Targets", "load_targets", "open_study_targets", "open_targets"]
