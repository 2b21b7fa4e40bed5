"""The ways to call ``nas.search``, and the flags that each takes: what it would ignore is refused."""

from __future__ import annotations

from typing import Any

from nas.config import ConfigError
from nas.limits import LIMITS

_SETTINGS = {
    "budget", "seed", "sampler", "space", "objectives", "data", "teachers", "device", "steps", "distill_settings",
    "train_images", "val_images", "views", "storage", "image_px", "measure_batch", "measure_arm", "measure_seconds",
    *LIMITS,
}  # fmt: skip
_RUNNING = {"teacher", "cache", "workers", "address", "time_limit", "database"}
_PLANNED = {
    "plan", "gpus", "deadline", "probe", "assume_tflops", "mfu", "assume_measure_s", "start_s", "ask_s", "json", "plot",
    "teacher", "cache", "workers",
}  # fmt: skip
_REPLAYED = {
    "bench", "bench_dataset", "bench_latency", "bench_proxies", "bench_knowledge", "bench_rungs", "seeds", "budget",
    "seed", "sampler", "workers", "run", "json", "plot",
}  # fmt: skip
MODES = {  # the flag that asks for it, None for a new search -> what it takes, by the names that the parser gives
    "plan": _SETTINGS | _PLANNED,
    "bench": _REPLAYED,
    "resume": _SETTINGS | _RUNNING | {"resume", "extend"},  # settings are compared with the study's
    None: _SETTINGS | _RUNNING | {"run"},
}
_SPELT = {
    "distill_settings": "--distill",
    "measure_arm": "--arm",
    "assume_measure_s": "--assume-measure-seconds",
    "start_s": "--start-seconds",
    "ask_s": "--ask-seconds",
    **{limit.name: limit.flag for limit in LIMITS.values()},
}


def flag(name: str) -> str:
    """A flag as it is written, by the name that the parser gives its value."""
    return _SPELT.get(name, f"--{name.replace('_', '-')}")


def check_flags(arguments: dict[str, Any]) -> None:
    """Raises ConfigError for a flag that this way to call the command does not take."""
    mode = next(name for name in MODES if name is None or name in arguments)
    for name in arguments:
        if name in MODES[mode]:
            continue
        if mode is not None:
            raise ConfigError(f"{flag(name)}: does not go with {flag(mode)}")
        takers = [flag(taker) for taker, taken in MODES.items() if taker and name in taken]
        raise ConfigError(f"{flag(name)}: only with {' or '.join(takers)}")
    if arguments.get("workers", 1) < 1:
        raise ConfigError(f"--workers: {arguments['workers']}: must be 1 or more")
    if not arguments.get("time_limit", 1) > 0:
        raise ConfigError(f"--time-limit: {arguments['time_limit']}: must be over 0")
