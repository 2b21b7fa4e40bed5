"""A builder in a process of its own: ``python -m tests.nas.cache.builder ROOT [STAGE DONE]``.

Prints every written shard, and kills itself with SIGKILL at the given progress.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from nas.cache import entry, open_targets

SIZES = {"train_images": 48, "val_images": 20, "image_px": 64, "grid": 4, "seed": 0}


def main() -> None:
    root, *fatal = sys.argv[1:]
    entry.SHARD_ITEMS = 16
    record = entry.CacheEntry.record

    def record_and_print(written, shard, *rest, **details):
        record(written, shard, *rest, **details)
        print(written.folder.name, shard.name, flush=True)

    def progress(stage, done, total):
        if fatal and stage.endswith(fatal[0]) and str(done) == fatal[1]:
            os.kill(os.getpid(), signal.SIGKILL)

    entry.CacheEntry.record = record_and_print
    open_targets("builtin", "xfeat", root=Path(root), progress=progress, **SIZES)


if __name__ == "__main__":
    main()
