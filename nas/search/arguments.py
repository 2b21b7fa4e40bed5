"""The arguments of ``nas.search``: what they are, and the `SearchConfig` that they wish for."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from nas.cli import TEACHER_HELP, NamedFile, OneLineParser, cpu_count
from nas.samplers import SAMPLERS, check_objectives, supports
from nas.storage.store import Store, StoreError
from nas.study import compatibility
from nas.study.config import (
    BALANCES,
    SCORES,
    SPATIAL_LOSSES,
    STANDARDIZATIONS,
    SUMMARY_LOSSES,
    ConfigError,
    DistillConfig,
    SearchConfig,
)
from nas.study.limits import add_limit_flags, check_knowable, given_limits
from nas.study.objectives import OBJECTIVES
from search_space import SPACES, preset

_EXAMPLES = """examples:
  python -m nas.search --budget 200                      the whole job on this machine, built-in images and teachers
  python -m nas.search --budget 8 --steps 10,30          a quick look, about a minute after the first time
  python -m nas.search --max-params 1e6 --max-latency-ms 5
  python -m nas.search --objectives score,throughput,params
  python -m nas.search --data imagefolder:PHOTOS --seed 1 --run runs/photos
  python -m nas.search --distill balance=adaloss --distill 'weights={"lite0": 2}' --distill batch_size=64
  python -m nas.search --resume runs/photos              goes on where a study was left
  python -m nas.search --resume runs/photos --extend 50  and evaluates 50 more
  python -m nas.search --database postgresql://nas@db.example.org/nas --run /shared/runs/big
  python -m nas.search --resume /shared/runs/big         on another machine: both work on it
  python -m nas.search --address auto --run /shared/mine --cache /shared/cache    on a Ray cluster that is there
  python -m nas.search --budget 500 --plan               what it would cost, as python -m nas.plan says; nothing is run
"""

TEACHERS_HELP = "comma list of builtin, am_radio, c_radio_v4, lite0, hed, xfeat, or timm's networks as NAME[@PX[/N]]"
_DATABASE_HELP = (
    "keep the study in PostgreSQL, as postgresql://USER@HOST:PORT/NAME, so that several machines can work on it"
    " (default: the file study.db in the run folder); the password from ~/.pgpass or PGPASSWORD"
)
_DATA_HELP = (
    "builtin, imagefolder:PATH, webdataset:PATTERN (files or https://; TRAIN::VAL; #ignore=N for void masks) or "
    "cifar10 (default builtin)"
)
_ARM_HELP = (
    "how nets run when they are measured: runtime, precision, layout and form joined by +, as compiled+bf16 or nchw "
    "(default: eager+fp32+channels-last+fused; on CUDA compiled+bf16)"
)
LIMITS_HELP = "An architecture that is not within them is never trained."
_ADDRESS_HELP = (
    "of a running Ray cluster, or auto: its nodes take the trials (default: this machine alone). They need the run "
    "folder and the cache under the same paths, and the same code; start them with RAY_worker_niceness=0 ray start"
)
_TIME_LIMIT_HELP = (
    "of measuring a net, and of each rung, a worker's start aside; who takes longer hangs, is killed and run once more "
    "(default: ten times the median of earlier trials, never under 600)"
)
_OBJECTIVES_HELP = (
    f"what is traded off: score, and any of {', '.join(name for name in OBJECTIVES if name != 'score')} "
    "(default score,throughput; where known-cost does not take them the default sampler is evolution)"
)
_DISTILL_HELP = (
    "a setting of the recipe (nas.study.config.DistillConfig), may be given several times: learning_rate, batch_size, "
    f"summary_loss ({', '.join(SUMMARY_LOSSES)}), spatial_loss ({', '.join(SPATIAL_LOSSES)}), standardization "
    f"({', '.join(STANDARDIZATIONS)}), balance ({', '.join(BALANCES)}), score ({', '.join(SCORES)}), "
    "weights, groups, ..."
)


def wishes(arguments: dict[str, Any]) -> tuple[SearchConfig, Path, bool]:
    """The config, the run folder, and whether a study there goes on."""
    if "resume" in arguments:
        return *_resumed(arguments), True
    config = new_config(arguments)
    return config, _new_folder(arguments, config), False


def new_config(arguments: dict[str, Any], here: bool = True) -> SearchConfig:
    """Return the config of a new study; `here` says whether its device has to be there.

    Raises:
        ConfigError: a name is unknown or a number out of its range.
    """
    config = _config(arguments, _defaults(arguments))
    _check_names(config, here)
    return config


def default_workers(config: SearchConfig) -> int:
    """Return how many trials this machine takes at a time."""
    if config.device.startswith("cuda"):
        import torch

        return max(1, torch.cuda.device_count() // config.distill.ranks)
    return max(1, cpu_count() // config.distill.ranks)


def check_flags(arguments: dict[str, Any]) -> None:
    """Raise ConfigError for a flag that would be ignored, or a number of no meaning."""
    if "plan" in arguments:
        raise ConfigError("--plan: has to be written in full")
    if "resume" in arguments and "run" in arguments:
        raise ConfigError("--run: does not go with --resume")
    if "extend" in arguments and "resume" not in arguments:
        raise ConfigError("--extend: only with --resume")
    if arguments.get("workers", 1) < 1:
        raise ConfigError(f"--workers: {arguments['workers']}: must be 1 or more")
    if not arguments.get("time_limit", 1) > 0:
        raise ConfigError(f"--time-limit: {arguments['time_limit']}: must be over 0")


def _resumed(arguments: dict[str, Any]) -> tuple[SearchConfig, Path]:
    """The study's own settings, with the budget that --extend makes of it."""
    from nas.measure.environment import versions  # imports torch

    more = arguments.get("extend", 0)
    if "extend" in arguments and more < 1:
        raise ConfigError(f"--extend: {more}: must be 1 or more")
    run_dir = Path(arguments["resume"])
    with Store.open(run_dir, database=arguments.get("database")) as store:
        info = store.info
    stored = SearchConfig.from_dict(info.config)
    _check_names(stored)
    changed = stored.differences(_config(arguments, stored))
    changed += compatibility.of_space(info, SPACES[stored.space].choices())
    changed += compatibility.of_versions(info, versions())
    if changed:
        hint = " (--extend M raises the budget)" if "budget" in arguments else ""
        raise ConfigError(
            f"--resume goes on with the study's own settings and versions; these differ: {'; '.join(changed)}{hint}"
        )
    return replace(stored, budget=stored.budget + more), run_dir


def _new_folder(arguments: dict[str, Any], config: SearchConfig) -> Path:
    """The folder of a new study, made now: one that cannot be written is better known before an hour of work."""
    stamp = datetime.now(UTC).strftime("%Y-%m-%d-%H%M%S")
    run_dir = Path(arguments.get("run", f"runs/{stamp}-{config.sampler}-s{config.seed}"))
    Store.find_room(run_dir, arguments.get("database"))
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"--run: cannot write {str(run_dir)!r}: {error.strerror}") from error
    return run_dir


def _defaults(arguments: dict[str, Any]) -> SearchConfig:
    """The defaults of the chosen space and device: resolution, reference and baselines are of its scale."""
    base = SearchConfig()
    if arguments.get("space") == "full":
        names = ("eradio_xt", "eradio_t", "eradio_s")
        base = replace(base, reference=names[0], baselines=names, distill=replace(base.distill, image_px=224))
    if not supports(base.sampler, arguments.get("objectives", base.objectives)):
        base = replace(base, sampler="evolution")
    if (_auto_device() if arguments.get("device") == "auto" else arguments.get("device")) == "cuda":
        base = replace(base, measure_batch=128, measure_arm=_arm("compiled+bf16"))
    return base


def _config(arguments: dict[str, Any], base: SearchConfig) -> SearchConfig:
    plain = base.to_dict()
    if "measure_arm" in arguments:
        arguments = {**arguments, "measure_arm": _arm(arguments["measure_arm"], base.measure_arm)}
    given = {k: v for k, v in arguments.items() if k in plain and v is not None}
    limits = {**plain["limits"], **given_limits(arguments)}
    distill = {**plain["distill"], **arguments.get("distill_settings", {})}
    if "steps" in arguments:
        distill["rung_steps"] = arguments["steps"]
    if "image_px" in arguments:
        distill["image_px"] = arguments["image_px"]
    device = given.get("device", plain["device"])
    if device == "auto":
        given["device"] = device = _auto_device()
    if distill["precision"] == "auto" and device in ("cpu", "cuda"):
        distill["precision"] = _auto_precision(device)
    return SearchConfig.from_dict({**plain, **given, "limits": limits, "distill": distill})


def _check_names(config: SearchConfig, here: bool = True) -> None:
    """Fails before anything expensive where a name is unknown; DistillConfig and SearchConfig check the numbers."""
    if config.sampler not in SAMPLERS:
        raise ConfigError(f"--sampler: unknown sampler {config.sampler!r}; choose one of: {', '.join(SAMPLERS)}")
    check_objectives(config)
    if config.space not in SPACES:
        raise ConfigError(f"--space: unknown space {config.space!r}; choose one of: {', '.join(SPACES)}")
    for name in (config.reference, *config.baselines):
        preset(name)
    if config.device == "cuda":
        import torch

        if here and not torch.cuda.is_available():
            raise ConfigError(f"--device: {config.device!r}: PyTorch sees no CUDA device here; choose cpu")
    elif config.device != "cpu":
        raise ConfigError(f"--device: {config.device!r}: choose auto, cpu or cuda")
    if config.limits:
        _check_limits(config)


def _check_limits(config: SearchConfig) -> None:
    """Raise LimitError for a limit on what the study's device and runtime leave unknown."""
    from nas.measure.arms import Arm  # imports torch

    device, arm = config.device, Arm.parse(config.measure_arm)
    check_knowable(config.limits, arm.unknown_fields(device), f"on {device} with the runtime {arm.runtime}")


def _arm(words: str, base: str | None = None) -> str:
    """The whole name of the arm that `words` change. ArmError for a word that is none."""
    from nas.measure.arms import Arm

    return str(Arm.parse(words, Arm.parse(base) if base else None))


def _auto_device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _auto_precision(device: str) -> str:
    """Resolved here and stored, so that a study does not change its numbers when it goes on elsewhere."""
    import torch

    if device == "cuda":
        return "bf16" if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else "fp32"
    # On CPUs without AVX512-BF16 or AMX, bf16 is emulated and slower than fp32.
    return "bf16" if torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported() else "fp32"


def _names(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(","))


def _steps(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: must be whole numbers with commas, as 30,90,270") from None


class _Setting(argparse.Action):
    """Collects KEY=VALUE for `DistillConfig`; a value is JSON, or else text."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: str | None = None
    ) -> None:
        key, equals, text = str(values).partition("=")
        known = DistillConfig().__dict__
        if not equals or key not in known:
            raise argparse.ArgumentError(self, f"{values!r}: must be KEY=VALUE with one of {', '.join(known)}")
        try:
            value = json.loads(text)
        except ValueError:
            value = text
        if type(value) not in _kinds(known[key]):  # True is an int to isinstance
            raise argparse.ArgumentError(self, f"{key}: {text}: must be like the default, {json.dumps(known[key])}")
        setattr(namespace, self.dest, {**getattr(namespace, self.dest, {}), key: value})


def _kinds(default: Any) -> tuple[type, ...]:
    """Types that a value may have in the place of `default`."""
    if isinstance(default, bool | str | dict):
        return (type(default),)
    return (list,) if isinstance(default, tuple) else (int,) if isinstance(default, int) else (int, float)


def parser() -> argparse.ArgumentParser:
    """Return the parser of ``nas.search``. An absent flag leaves no trace in the namespace."""
    made = OneLineParser(
        prog="python -m nas.search",
        description="Searches hybrid CNN-transformer backbones: measured throughput against distilled score.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,
    )
    add = made.add_argument
    add_settings(add)
    add("--run", metavar="DIR", help="folder of the study (default runs/<date>-<sampler>-s<seed>)")
    add("--resume", metavar="DIR", help="go on with the study in DIR, or share its work with a driver that is at it")
    add("--extend", type=int, metavar="M", help="with --resume: evaluate M more architectures than the study was to")
    add("--database", metavar="URL", help=_DATABASE_HELP)
    add("--workers", type=int, metavar="N", help="trials at a time (default: one a CPU or GPU; of a cluster, all)")
    add("--address", metavar="HOST:PORT", help=_ADDRESS_HELP)
    add("--time-limit", type=float, metavar="S", help=_TIME_LIMIT_HELP)
    add("--plan", action="store_true", help="run nothing and print what it would cost, as nas.plan with the same flags")
    add_limit_flags(made, LIMITS_HELP)
    return made


def add_settings(add: Callable[..., object]) -> None:
    """Add what a search's numbers depend on, and where its images and teachers come from."""
    defaults = SearchConfig()
    add("--budget", type=int, metavar="N", help=f"unique architectures to evaluate (default {defaults.budget})")
    add("--seed", type=int, help="of sampling, initial weights and image order (default 0)")
    add("--sampler", metavar="NAME", help=f"{', '.join(SAMPLERS)} (default {defaults.sampler})")
    add("--objectives", type=_names, metavar="A,B", help=_OBJECTIVES_HELP)
    add("--space", metavar="NAME", help=f"{', '.join(SPACES)} (default {defaults.space})")
    add("--data", metavar="URI", help=_DATA_HELP)
    add("--teachers", metavar="NAMES", help=f"{TEACHERS_HELP} (default builtin)")
    add("--teacher", action=NamedFile, metavar="NAME=FILE", help=TEACHER_HELP)
    add("--device", metavar="NAME", help="auto, cpu or cuda (default cpu)")
    rungs = ",".join(map(str, defaults.distill.rung_steps))
    add("--steps", type=_steps, metavar="A,B,C", help=f"distillation steps of the rungs (default {rungs})")
    add("--distill", action=_Setting, dest="distill_settings", metavar="KEY=VALUE", help=_DISTILL_HELP)
    add("--train-images", type=int, metavar="N", help=f"(default {defaults.train_images})")
    add("--val-images", type=int, metavar="N", help=f"held-out images (default {defaults.val_images})")
    add("--views", type=int, metavar="N", help=f"stored augmentations of each train image (default {defaults.views})")
    add(
        "--storage",
        metavar="NAME",
        help=f"of the teachers' targets: int8, int4, bf16, fp32 (default {defaults.storage})",
    )
    add("--image-px", type=int, metavar="PX", help=f"student's input size (default {defaults.distill.image_px})")
    add("--measure-batch", type=int, metavar="N", help=f"batch of the throughput (default {defaults.measure_batch})")
    add("--arm", dest="measure_arm", metavar="WORDS", help=_ARM_HELP)
    most = f"of one net, at most (default {defaults.measure_seconds:g}; less where ±1 %% is reached)"
    add("--measure-seconds", type=float, metavar="S", help=most)
    add("--cache", metavar="DIR", help="folder of images and teacher outputs (default ~/.cache/backbone-nas)")
