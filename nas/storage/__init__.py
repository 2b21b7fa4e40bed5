"""The storage of studies in Optuna's format; `nas.storage.store` is its interface."""

import importlib
import warnings

with warnings.catch_warnings():
    # Optuna imports tqdm, which warns in a notebook without ipywidgets; none of its progress bars is shown here.
    warnings.filterwarnings("ignore", message="IProgress not found")
    importlib.import_module("tqdm.auto")
