"""Data that one rank cannot read, as a fault of its node; a module that fresh processes can import."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from nas.distill import distributed
from nas.study.records import TrialRecord

WORDS = "Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu!"


class Breaking(dict[str, Any]):
    """A spec that the last rank cannot read; it notes each attempt in a file."""

    def __iter__(self) -> Iterator[str]:
        if distributed.rank() == distributed.world_size() - 1:
            with Path(os.environ["BREAKING_ATTEMPTS"]).open("a") as file:
                file.write("x")
            raise RuntimeError(WORDS)
        return super().__iter__()


def breaking(trial: TrialRecord) -> TrialRecord:
    """Return the trial with a spec that breaks the last rank."""
    return replace(trial, spec=Breaking(trial.spec))
