"""Execute trials on workers of Ray or on a simulated clock, and trainings in processes of their own.

`ray_tune` runs a study, with `ray_session`, `cluster`, `watchdog`, `worker` and `worker_spec`; these and
`cluster_ranks` are the only modules that know ray. Ray reads its environment variables when it is imported, so they are
set here, for this process and for the nodes that it starts.
"""

from __future__ import annotations

import logging
import os

logging.getLogger("ray.widgets.util").setLevel(logging.WARNING)  # in a notebook it asks for widgets that nothing shows
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")  # by "uv run", each worker would install its own torch
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # Ray imports MLflow where it is installed
os.environ.setdefault("RAY_worker_niceness", "0")  # 15 by default: any other process would slow a measurement down
os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"
os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"
os.environ["TUNE_GLOBAL_CHECKPOINT_S"] = "86400"
os.environ["TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S"] = "0"
os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = "10000"  # else nodes start their workers one after the other

# The variables that workers on the nodes of another cluster need too.
WORKER_ENVIRONMENT = {key: os.environ[key] for key in os.environ if key.startswith("RAY_ACCEL_")}
