"""Neural architecture search for vision backbones under multi-teacher distillation.

Any release of Optuna or Ray may change their private names, so `pyproject.toml` bounds both. These names are used:

- Optuna: `BaseStorage._set_trial_param`, `Study._storage`, `Study._study_id`, `Study._thread_local` (its cache of all
  trials), `Trial._trial_id`, `BaseDistribution._contains`.
- Ray: `ray._private.node`, `ray._private.services`, `ray._private.state`, `ray._private.utils`, `ray._raylet` (its
  settings and token), `_node_ip_address` and `_temp_dir` of `ray.init`, `_actor_id` of an actor's handle.
"""

import logging
import os

if os.name == "nt":
    raise ImportError("backbone-nas runs on Linux; on Windows, use it inside WSL2")
logging.getLogger(__name__).addHandler(logging.NullHandler())  # a program that imports nas decides where its log goes
