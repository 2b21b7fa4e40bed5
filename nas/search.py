"""``python -m nas.search``: searches a space of backbones and ends with a Pareto report."""

from __future__ import annotations

import argparse
import getpass
import json
import os
import shlex
import signal
import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from sqlalchemy.exc import SQLAlchemyError

from nas.config import ConfigError, DistillConfig, SearchConfig
from nas.progress import SearchProgress, StageProgress, clock, stderr_console
from nas.records import Objective, StudyInfo, TrialState
from nas.samplers import SAMPLERS, make_sampler
from nas.store import Store, StoreError
from nas.study import StudyLoop
from search_space import SPACES, preset

OBJECTIVES = (
    Objective("quality", "explained variance of the teachers' features", "", reference=0.0),
    Objective("throughput", "throughput relative to the reference backbone", "x", reference=0.125, log=True),
)
_EXAMPLES = """examples:
  python -m nas.search --budget 200                      the whole job on this machine, embedded images and teachers
  python -m nas.search --budget 8 --steps 10,30          a quick look, about a minute after the first time
  python -m nas.search --max-params 1e6 --max-latency-ms 5
  python -m nas.search --data imagefolder:PHOTOS --seed 1 --run runs/photos
  python -m nas.search --resume runs/photos              goes on where a study was left
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit code: 0 done, 2 bad input, 130 interrupted."""
    parser = _parser()
    arguments = vars(parser.parse_args(argv))
    console = stderr_console()
    for ending in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(ending, _interrupt)
    run_dir: Path | None = None
    try:
        config, run_dir, resume = _wishes(arguments)
        return _search(config, run_dir, resume, arguments, console)
    except KeyboardInterrupt:
        print("interrupted; nothing was lost", file=sys.stderr)
        if run_dir is not None and (run_dir / "study.db").exists():
            print(f"go on with: python -m nas.search --resume {shlex.quote(str(run_dir))}", file=sys.stderr)
        return 130
    except (ConfigError, StoreError, ValueError, OSError, SQLAlchemyError) as error:
        print(f"error: {_one_line(error)}", file=sys.stderr)
        if run_dir is not None and isinstance(error, OSError | SQLAlchemyError) and (run_dir / "study.db").exists():
            print(f"what was finished is kept; --resume {shlex.quote(str(run_dir))} goes on", file=sys.stderr)
        return 2


def _search(config: SearchConfig, run_dir: Path, resume: bool, arguments: dict[str, Any], console: Console) -> int:
    from nas.teachers.cache import open_targets

    progress = StageProgress(console)
    with progress.showing():
        targets = open_targets(
            config.data,
            config.teachers,
            root=_cache_root(arguments),
            train_images=config.train_images,
            val_images=config.val_images,
            image_px=config.distill.image_px,
            grid=config.grid,
            seed=0,  # of the generated images: the same for every study, so that studies can be compared
            progress=progress,
        )
    sampler = make_sampler(config.sampler, SPACES[config.space], OBJECTIVES, config.seed)
    if resume:
        store = Store.open(run_dir, sampler)
        _refuse_other_targets(store.info, targets)
        _start_session(store)
    else:
        store = Store.create(run_dir, _info(config, run_dir, targets), sampler)
    shown = SearchProgress(console)
    loop = StudyLoop(store, shown)
    workers = arguments.get("workers") or _default_workers(config)
    ending = "interrupted"
    try:
        with shown.showing():
            _run(loop, config, run_dir, targets, workers)
        ending = loop.gave_up or "done"
    finally:
        _close(loop, workers, targets.build_seconds)
        _report(loop, run_dir, ending, console)
    return 0


def _run(loop: StudyLoop, config: SearchConfig, run_dir: Path, targets: Any, workers: int) -> None:
    from nas.runner import Places, run_study  # ray takes seconds to import: not before the input is known to be good

    places = Places(
        config=json.dumps(config.to_dict()),
        targets_dir=str(targets.folder.resolve()),
        lock_dir=str(_made(_lock_dir(config.device))),
        weights_dir=str(_made(run_dir / "weights")),
        train_threads=max(1, cpu_count() // workers),
        # One CPU is left to the driver and the system: OpenMP waits for its slowest thread (LOG.md, 2026-11-24).
        measure_threads=max(1, cpu_count() - 1),
        gpus=1.0 if config.device.startswith("cuda") else 0.0,
    )
    run_study(loop, places, workers)


def _close(loop: StudyLoop, workers: int, teacher_seconds: float) -> None:
    """Writes the ledger: where the workers' seconds went, over all sessions."""
    trials = loop.trials.values()
    ledger = {"teachers": loop.info.ledger.get("teachers", teacher_seconds)}
    ledger["measure"] = sum(t.measurement.seconds for t in trials if t.measurement)
    for rung, steps in enumerate(loop.info.rung_steps):
        spent = sum(t.rungs[rung].seconds for t in trials if len(t.rungs) > rung)
        ledger[f"train to {steps} steps"] = spent
    ledger["waiting and start-up"] = max(0.0, loop.elapsed_s * workers - sum(ledger.values()) + ledger["teachers"])
    loop.close(ledger)


def _report(loop: StudyLoop, run_dir: Path, ending: str, console: Console) -> None:
    """Builds the HTML report and says how the search ended."""
    from reports.page import build_report

    size, volume = loop.front_summary()
    counts = ", ".join(
        f"{loop.counts[s]} {s.value}" for s in TrialState if loop.counts[s] and s is not TrialState.RUNNING
    )
    console.print(
        f"{ending} after {clock(loop.elapsed_s)}: {loop.evaluated} unique architectures evaluated ({counts}); "
        f"front of {size}, hypervolume {volume:.3f}",
        highlight=False,
    )
    if loop.trials:
        print(build_report(run_dir))


def _wishes(arguments: dict[str, Any]) -> tuple[SearchConfig, Path, bool]:
    """The config, the run folder, and whether a study there goes on."""
    if "resume" in arguments:
        run_dir = Path(arguments["resume"])
        stored = SearchConfig.from_dict(Store.open(run_dir).info.config)
        changed = stored.differences(_config(arguments, stored))
        if changed:
            raise ConfigError(f"--resume goes on with the study's own settings; these differ: {'; '.join(changed)}")
        return stored, run_dir, True
    config = _config(arguments, SearchConfig())
    _check_names(config)
    stamp = datetime.now(UTC).strftime("%Y-%m-%d-%H%M%S")
    run_dir = Path(arguments.get("run", f"runs/{stamp}-{config.sampler}-s{config.seed}"))
    if (run_dir / "study.db").exists():
        raise StoreError(f"{run_dir} already holds a study; go on with --resume {run_dir}, or choose another --run")
    return config, run_dir, False


def _config(arguments: dict[str, Any], base: SearchConfig) -> SearchConfig:
    plain = base.to_dict()
    given = {k: v for k, v in arguments.items() if k in plain and v is not None}
    limits = {k: arguments[k] for k in arguments if k.startswith(("max_", "min_"))}
    distill = dict(plain["distill"])
    if "steps" in arguments:
        distill["rung_steps"] = arguments["steps"]
    if "image_px" in arguments:
        distill["image_px"] = arguments["image_px"]
    if given.get("device") == "auto":
        given["device"] = _auto_device()
    return SearchConfig.from_dict({**plain, **given, "limits": {**plain["limits"], **limits}, "distill": distill})


def _check_names(config: SearchConfig) -> None:
    """Fails before anything expensive where a name is unknown; DistillConfig and SearchConfig check the numbers."""
    if config.sampler not in SAMPLERS:
        raise ConfigError(f"--sampler: unknown sampler {config.sampler!r}; choose one of: {', '.join(SAMPLERS)}")
    if config.space not in SPACES:
        raise ConfigError(f"--space: unknown space {config.space!r}; choose one of: {', '.join(SPACES)}")
    for name in (config.reference, *config.baselines):
        preset(name)
    if config.device.startswith("cuda"):
        import torch

        if not torch.cuda.is_available():
            raise ConfigError(f"--device: {config.device!r}: PyTorch sees no CUDA device here; choose cpu")
    elif config.device != "cpu":
        raise ConfigError(f"--device: {config.device!r}: choose auto, cpu or cuda")


def _info(config: SearchConfig, run_dir: Path, targets: Any) -> StudyInfo:
    from nas.measure import environment

    return StudyInfo(
        name=run_dir.name,
        created=_now(),
        command="python -m nas.search " + shlex.join(sys.argv[1:]),
        config=config.to_dict(),
        environment=environment(config.device),
        objectives=OBJECTIVES,
        rung_steps=config.distill.rung_steps,
        limits=config.limits,
        teachers={name: teacher.fingerprint for name, teacher in targets.teachers.items()},
        data={"name": config.data, "fingerprint": targets.data_fingerprint},
        reference=config.reference,
        baselines=config.baselines,
        ledger={"teachers": targets.build_seconds},
        sessions=({"started": _now(), "wall_s": 0.0},),
    )


def _refuse_other_targets(info: StudyInfo, targets: Any) -> None:
    """A study goes on with the teachers and images it began with, or not at all."""
    now = {name: teacher.fingerprint for name, teacher in targets.teachers.items()}
    if now != info.teachers:
        raise StoreError(f"the study began with teachers {info.teachers}, now they are {now}")
    if targets.data_fingerprint != info.data["fingerprint"]:
        raise StoreError(f"the images of {info.data['name']!r} are not those that the study began with")


def _start_session(store: Store) -> None:
    from dataclasses import replace

    info = store.info
    store.save_info(replace(info, sessions=(*info.sessions, {"started": _now(), "wall_s": 0.0})))


def cpu_count() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _default_workers(config: SearchConfig) -> int:
    if config.device.startswith("cuda"):
        import torch

        return torch.cuda.device_count()
    return cpu_count()


def _auto_device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _cache_root(arguments: dict[str, Any]) -> Path:
    fallback = os.environ.get("BACKBONE_NAS_CACHE", str(Path.home() / ".cache" / "backbone-nas"))
    return Path(arguments.get("cache", fallback))


def _lock_dir(device: str) -> Path:
    """One folder a device and user on this machine, so that two searches do not measure beside each other either."""
    return Path(tempfile.gettempdir()) / f"backbone-nas-{getpass.getuser()}" / device.replace(":", "-")


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder.resolve()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _interrupt(signum: int, frame: Any) -> None:
    raise KeyboardInterrupt


def _steps(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def _parser() -> argparse.ArgumentParser:
    defaults = SearchConfig()
    parser = argparse.ArgumentParser(
        prog="python -m nas.search",
        description="Searches hybrid CNN-transformer backbones: measured throughput against distilled quality.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,
    )
    add = parser.add_argument
    add("--budget", type=int, metavar="N", help=f"unique architectures to evaluate (default {defaults.budget})")
    add("--run", metavar="DIR", help="folder of the study (default runs/<date>-<sampler>-s<seed>)")
    add("--resume", metavar="DIR", help="go on with the study in DIR")
    add("--seed", type=int, help="of sampling, initial weights and image order (default 0)")
    add("--sampler", metavar="NAME", help=f"{', '.join(SAMPLERS)} (default {defaults.sampler})")
    add("--space", metavar="NAME", help=f"{', '.join(SPACES)} (default {defaults.space})")
    add("--data", metavar="URI", help="embedded, imagefolder:PATH, webdataset:PATTERN or cifar10 (default embedded)")
    add("--teachers", metavar="NAMES", help="embedded, or a comma-separated part of it (default embedded)")
    add("--device", metavar="NAME", help="auto, cpu or cuda (default cpu)")
    add("--workers", type=int, metavar="N", help="trials at a time (default: one a CPU or GPU)")
    rungs = ",".join(map(str, defaults.distill.rung_steps))
    add("--steps", type=_steps, metavar="A,B,C", help=f"distillation steps of the rungs (default {rungs})")
    add("--train-images", type=int, metavar="N", help=f"(default {defaults.train_images})")
    add("--val-images", type=int, metavar="N", help=f"held-out images (default {defaults.val_images})")
    add("--image-px", type=int, metavar="PX", help=f"student's input size (default {defaults.distill.image_px})")
    add("--measure-batch", type=int, metavar="N", help=f"batch of the throughput (default {defaults.measure_batch})")
    add("--max-params", type=float, metavar="X", help="hard limit; broken limits are found before training")
    add("--max-gmacs", type=float, metavar="X", help="hard limit on 1e9 multiply-accumulates an image")
    add("--max-latency-ms", type=float, metavar="X", help="hard limit on the latency of one image")
    add("--max-memory-mib", type=float, metavar="X", help="hard limit on peak memory")
    add("--min-throughput", dest="min_throughput_img_s", type=float, metavar="X", help="hard limit in images/s")
    add("--cache", metavar="DIR", help="folder of images and teacher outputs (default ~/.cache/backbone-nas)")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
