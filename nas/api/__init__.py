"""The Python interface: start a search, or open its study, and use the models that it trained.

```python
from nas.api import SearchConfig, load_study, search

study = search(SearchConfig(budget=20), run_dir="runs/nb")  # or load_study("runs/nb")
study.dataframe()
chosen = study.select(max_latency_ms=13)
model = chosen.load()
chosen.export("winner", format="timm")
study.report()
```

`Study.select` returns the model with the highest score within limits, `Study.best` the one that the report recommends,
or that leads.

These functions are the commands' own: `search` is ``backbone-nas search``, `train` is ``backbone-nas train``,
`Study.select` is ``backbone-nas select``, and so on. What a command prints as an error is an exception here, with the
same line: `ConfigError` for an impossible setting, or its subclass `LimitError` for a limit that is no positive number,
`DataError` for images that cannot be read, `TeacherError` for a teacher that does not exist or cannot be loaded,
`StoreError` for a study that cannot be read or written, `SelectionError` where no model answers, `ExportError` for a
model that cannot be exported, `WeightsError` for a weight file that cannot be loaded, `SearchFailed` for a search that
gave up or lost most of its models, `TrainingFailed` for a training that broke down. All but the last two are subclasses
of ValueError.

Importing this module imports neither PyTorch nor Ray: `Model.load` and `Model.export` need the first, `search` both.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from nas.analysis.trial_choice import SelectionError
from nas.api.opened_study import Model, NothingFits, Study, load_study
from nas.api.start import search, train
from nas.export import ExportError
from nas.storage.errors import StoreError
from nas.study.config import DistillConfig, SearchConfig
from nas.study.limits import LimitError
from nas.study.teacher_names import TeacherError
from nas.validation import ConfigError

if TYPE_CHECKING:
    from backbones.weights import WeightsError
    from nas.backend.training_rank import TrainingFailed
    from nas.data import DataError
    from nas.search.session import SearchFailed

__all__ = [
    "ConfigError",
    "DataError",
    "DistillConfig",
    "ExportError",
    "LimitError",
    "Model",
    "NothingFits",
    "SearchConfig",
    "SearchFailed",
    "SelectionError",
    "StoreError",
    "Study",
    "TeacherError",
    "TrainingFailed",
    "WeightsError",
    "load_study",
    "search",
    "train",
]

# Imported when they are first used: their modules import PyTorch, or as much that takes long.
_MODULES = {
    "DataError": "nas.data",
    "SearchFailed": "nas.search.session",
    "TrainingFailed": "nas.backend.training_rank",
    "WeightsError": "backbones.weights",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(_MODULES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
