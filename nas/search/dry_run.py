"""Check everything that a search needs, and run nothing: device, teachers, data, folders, disk, database, cluster."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from rich.console import Console

from nas.cache.estimate import format_bytes
from nas.cli import BAD_INPUT, OperationFailed, StageProgress, cache_root, one_line
from nas.search.arguments import SearchCommand, default_workers
from nas.search.config_file import config_text, run_table
from nas.storage.store import Store
from nas.study.config import ConfigError
from nas.study.redaction import public_text

Check = Callable[[SearchCommand], str]


def dry_run(command: SearchCommand, console: Console) -> int:
    """Print the settings of a search, and one line for each check; return the exit code.

    Args:
        command: The settings.
        console: Shows the progress of opening the data; results go to stdout.

    Returns:
        0 where the search can start, else 2.
    """
    print(config_text(command.config.to_dict(), run_table(command)))
    problems: list[str] = []
    for name, check in _checks(command, console):
        if check is _disk and "teachers" in problems:
            continue  # what the teachers' outputs take is unknown
        try:
            line = f"ok       {name}: {check(command)}"
        except (ValueError, OperationFailed, OSError, RuntimeError) as error:
            problems.append(name)
            line = f"problem  {name}: {one_line(error)}"
        print(public_text(line), flush=True)
    print("nothing was run; " + (f"problems: {', '.join(problems)}" if problems else "the search can start"))
    return BAD_INPUT if problems else 0


def _checks(command: SearchCommand, console: Console) -> Iterator[tuple[str, Check]]:
    yield "device", _device
    yield "teachers", _teachers
    yield "data", lambda command: _data(command, StageProgress(console))
    yield "run folder", _run_folder
    yield "disk", _disk
    if command.storage is not None:
        yield "database", _database
    if command.address is not None:
        yield "cluster", _cluster


def _device(command: SearchCommand) -> str:
    from nas.measure.environment import device_line, torch_device

    line = device_line(torch_device(command.config.device)).removeprefix("device: ")
    trials = command.workers or ("as many as the nodes take" if command.address else default_workers(command.config))
    return f"{line}; trials at a time: {trials}"


def _teachers(command: SearchCommand) -> str:
    """Name each teacher with the place of its weights; a file that is missing or no safetensors file is a problem."""
    from nas.plan.teacher_costs import weights_here
    from nas.teachers import specs
    from nas.teachers.weights import file_for, local_file

    config, files, found = command.config, command.teacher_weights, []
    chosen = specs(config.teachers, files)
    config.distill.check_teachers([spec.name for spec in chosen])
    for spec in chosen:
        if (file := file_for(spec.name, files)) is not None:
            found.append(f"{spec.name} ({local_file(spec.name, file)})")
        else:
            here = weights_here(spec.name, files)
            found.append(f"{spec.name} ({'its weights are here' if here else 'its weights will be downloaded'})")
    return ", ".join(found)


def _data(command: SearchCommand, progress: StageProgress) -> str:
    """Count the images. What is downloaded is downloaded by a search only, so that here only its name is checked."""
    from nas.cache.images import ImageSource
    from nas.data.webdataset import sources

    config = command.config
    kind, _, pattern = config.data.partition(":")
    if kind == "webdataset" and "://" in pattern:
        shards = sum(len(sources(part)) for part in pattern.partition("#")[0].split("::") if part)
        return f"{config.data}: {shards:,} shards, which are fetched when the search starts"
    if kind == "cifar10":
        return f"{config.data}: downloaded when the search starts, unless the cache has it"
    counts = {"train": config.train_images, "val": config.val_images}
    root = cache_root(command.cache)
    source = ImageSource(config.data, counts, 0, 1, root, progress)  # type: ignore[arg-type]
    with progress.showing():
        train, val = (len(source.open(split, config.distill.img_size)) for split in ("train", "val"))
    if train < config.distill.largest_batch or val < 2:
        counted = f"{train} images to train on and {val} held out"
        raise ConfigError(f"{config.data}: {counted}; needed are a batch of {config.distill.largest_batch} and 2")
    return (
        f"{config.data}: {train:,} images to train on (of {config.train_images:,} asked for), "
        f"{val:,} held out (of {config.val_images:,})"
    )


def _run_folder(command: SearchCommand) -> str:
    if command.resume:
        return f"{command.run} holds the study"
    Store.check_free(command.run)
    _check_writable(command.run)
    return f"{command.run} can be made"


def _disk(command: SearchCommand) -> str:
    """Compare the free space of the cache's disk with what images and targets take at most."""
    root = cache_root(command.cache)
    _check_writable(root)
    needed, free = _cache_bytes(command), shutil.disk_usage(_existing(root)).free
    figures = f"{format_bytes(needed)} for images and teacher outputs at most, {format_bytes(free)} free in {root}"
    if needed > free:
        raise ConfigError(f"--cache: {figures}")
    return figures


def _cache_bytes(command: SearchCommand) -> float:
    from nas.plan.teacher_costs import material_counted

    material = material_counted(command.config, command.teacher_weights, seconds_per_mac=0.0)
    return material.images.kept_bytes + sum(teacher.kept_bytes for teacher in material.teachers)


def _database(command: SearchCommand) -> str:
    if command.resume:
        Store.open(command.run, database=command.storage).close()
    else:
        Store.check_free(command.run, command.storage)
    return f"{command.storage} answers"


def _cluster(command: SearchCommand) -> str:
    from nas.backend.ray_tune import cluster_resources

    with tempfile.TemporaryDirectory() as folder:
        nodes, cpus, gpus = cluster_resources(str(command.address), Path(folder))
    return f"{command.address}: {nodes} nodes with {cpus:g} CPUs and {gpus:g} GPUs"


def _existing(path: Path) -> Path:
    """Return the nearest folder of a path that exists."""
    path = path.resolve()
    return next(folder for folder in (path, *path.parents) if folder.exists())


def _check_writable(path: Path) -> None:
    """Raise ConfigError where a folder cannot be made or written."""
    try:
        tempfile.TemporaryFile(dir=_existing(path)).close()
    except OSError as error:
        raise ConfigError(f"{str(path)!r} cannot be written: {error.strerror}") from None
