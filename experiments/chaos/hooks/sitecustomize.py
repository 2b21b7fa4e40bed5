"""Faults that only code inside a training process can cause; Python imports this file at every start.

A file "nan" or "hang" in the folder $CHAOS_FAULTS is taken by the first training process that makes a step: its
gradients become NaN, or it never returns.
"""

from __future__ import annotations

import os
import sys
import time
from contextlib import suppress
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import Any

_FOLDER = os.environ.get("CHAOS_FAULTS", "")
_MODULE = "torch.optim.optimizer"


def _before_step(optimizer: Any, *_: Any) -> None:
    if _taken("hang"):
        while True:
            time.sleep(1000)
    if _taken("nan"):
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.grad.fill_(float("nan"))


def _taken(fault: str) -> bool:
    with suppress(OSError):
        Path(_FOLDER, fault).rename(Path(_FOLDER, f"{fault}-taken-{os.getpid()}"))  # one process succeeds
        return True
    return False


class _Finder(MetaPathFinder):
    """Registers the hook when torch's optimizers are imported."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name != _MODULE:
            return None
        spec = PathFinder.find_spec(name, path)
        if spec is not None and spec.loader is not None:
            spec.loader = _Hooking(spec.loader)
        return spec


class _Hooking(Loader):
    def __init__(self, loader: Any) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> Any:
        return self._loader.create_module(spec)

    def exec_module(self, module: Any) -> None:
        self._loader.exec_module(module)
        module.register_optimizer_step_pre_hook(_before_step)


if _FOLDER:
    sys.meta_path.insert(0, _Finder())
