"""The storage of studies in Optuna's format; `nas.storage.store` is its interface."""
