"""A training that was cut off goes on from its last checkpoint as if nothing had happened.

A checkpoint is read with ``weights_only``: tensors and plain containers, nothing that runs.
"""

from __future__ import annotations

import pickle
import time
from pathlib import Path
from typing import Any

import torch

from nas.files import atomic_path


class Checkpoint:
    """The one checkpoint of a training, at `path`, for whoever shows the same `identity`.

    A file that is damaged or of another identity counts as none: the training begins anew.
    """

    def __init__(self, path: Path, identity: str, every_s: float = 30.0) -> None:
        self._path, self._identity, self._every_s = path, identity, every_s
        self._written = time.monotonic()

    @property
    def due(self) -> bool:
        """Whether the last one is old enough to write another."""
        return time.monotonic() - self._written >= self._every_s

    def save(self, content: dict[str, Any]) -> None:
        """Writes tensors and plain values beside the old checkpoint, then in its place."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(self._path, sync=True) as unfinished:
            torch.save({"identity": self._identity, "content": content}, unfinished)
        self._written = time.monotonic()

    def load(self) -> dict[str, Any] | None:
        """What was saved last, or None."""
        try:
            saved = torch.load(self._path, map_location="cpu", weights_only=True)
        except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError):
            return None
        known = isinstance(saved, dict) and saved.get("identity") == self._identity
        return dict(saved["content"]) if known else None
