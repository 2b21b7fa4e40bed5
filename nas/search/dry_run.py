"""Check everything that a search needs, and run nothing: device, teachers, data, folders, disk, database, cluster."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from rich.console import Console

from nas.cli import BAD_INPUT, OperationFailed, one_line
from nas.files import check_writable, existing_folder
from nas.local_workers import default_workers, limited_by_memory
from nas.machine import cache_root
from nas.measure.devices import cuda_is_available
from nas.measure.runtime_check import check_runtime
from nas.measure.runtime_spec import Arm
from nas.numbers import format_bytes, plural
from nas.redaction import public_text
from nas.search.config_file import config_text, run_table
from nas.search.preconditions import check_device, check_image_count, check_limits, unseen_images
from nas.search.settings import NODE_REMEDY, SearchCommand
from nas.stage_progress import StageProgress
from nas.storage.store import Store
from nas.study.config import SearchConfig
from nas.study.teacher_names import TeacherError, check_files
from nas.terminal import write_line
from nas.validation import ConfigError


class Doubtful(str):
    """The outcome of a check that does not keep the search from starting, and that the user should know."""

    __slots__ = ()


Check = Callable[[SearchCommand], str]


def dry_run(command: SearchCommand, console: Console) -> int:
    """Print the settings of a search, one line for each check, and the problems; return the exit code.

    Args:
        command: The settings.
        console: Shows the progress of opening the data; results go to stdout.

    Returns:
        0 where the search can start, else 2.
    """
    write_line(config_text(command.config.to_dict(), run_table(command)))
    problems: list[str] = []
    for name, check in _checks(command, console):
        try:
            found = check(command)
            line = f"{'warning ' if isinstance(found, Doubtful) else 'ok      '} {name}: {found}"
        except (ValueError, OperationFailed, OSError, RuntimeError) as error:
            line = f"problem  {name}: {one_line(error).removeprefix(f'{name}: ')}"
            problems.append(line)
        write_line(public_text(line))
    write_line(f"nothing was run; {plural(len(problems), 'problem') + ':' if problems else 'the search can start'}")
    for line in problems:  # again: above, they stand among all settings and checks
        write_line(public_text(line))
    return BAD_INPUT if problems else 0


def _checks(command: SearchCommand, console: Console) -> Iterator[tuple[str, Check]]:
    yield "device", _device
    here = command.address is None and (command.config.device == "cpu" or cuda_is_available())
    if here and Arm.parse(command.config.runtime).traits.slow_to_prepare:
        yield "runtime", lambda command: _runtime(command, StageProgress(console))
    yield "teachers", _teachers
    for teacher in _teacher_names(command):
        yield f"teacher {teacher}", partial(_weights, teacher)
    if command.config.limits and not command.resume:
        yield "limits", lambda command: check_limits(command.config)
    yield "data", lambda command: _data(command, StageProgress(console))
    if command.races:
        yield "race", _race
    yield "run folder", _run_folder
    yield "disk", _disk
    if command.storage is not None:
        yield "database", _database
    if command.address is not None:
        yield "cluster", _cluster


def _device(command: SearchCommand) -> str:
    from nas.measure.environment import check_compute_mode, device_line, torch_device

    check_device(command.config, command.device_source, NODE_REMEDY)
    check_compute_mode(command.config.device)
    line = device_line(torch_device(command.config.device)).removeprefix("device: ")
    if command.workers or command.address:
        return f"{line}; trials at a time: {command.workers or 'as many as the nodes take'}"
    taken = command.config.device, command.config.distill.ranks
    limited = limited_by_memory(*taken)
    return f"{line}; trials at a time: {default_workers(*taken)}" + (f" ({limited})" if limited else "")


def _runtime(command: SearchCommand, progress: StageProgress) -> str:
    with progress.showing():
        return check_runtime(command.config, progress, command.resume)


def _teachers(command: SearchCommand) -> str:
    from nas.distill.heads import narrow_heads
    from nas.teachers import enlarged_maps, specs

    config = command.config
    chosen = specs(config.teachers)
    config.distill.check_teachers([spec.name for spec in chosen])
    check_files(config.teachers, command.teacher_weights)
    line = f"{len(chosen)} in {config.teachers}"
    enlarged = enlarged_maps(chosen, config.grid, config.distill.img_size)
    doubts = [*filter(None, (enlarged, narrow_heads({each.name: each.widths for each in chosen}, config)))]
    return Doubtful("; ".join((line, *doubts))) if doubts else line


def _teacher_names(command: SearchCommand) -> list[str]:
    """Return the names of the teachers; none where there is an unknown one, which is a problem of its own."""
    from nas.teachers import specs

    try:
        return [spec.name for spec in specs(command.config.teachers)]
    except ValueError:
        return []


def _weights(teacher: str, command: SearchCommand) -> str:
    """Say where a teacher's weights come from; what is not here and cannot be had, or does not fit, is a problem."""
    from nas.teachers import spec_of

    return spec_of(teacher, command.teacher_weights).check()


def _data(command: SearchCommand, progress: StageProgress) -> str:
    """Count the images. What is downloaded is downloaded by a search only, so that here only its name is checked."""
    from nas.cache.images import ImageSource
    from nas.data.cifar import find_cifar10
    from nas.data.webdataset import sources

    config, root = command.config, cache_root(command.cache)
    kind, _, pattern = config.data.partition(":")
    if kind == "webdataset" and "://" in pattern:
        shards = sum(len(sources(part)) for part in pattern.partition("#")[0].split("::") if part)
        verb = "is" if shards == 1 else "are"
        return f"{config.data}: {plural(shards, 'shard')}, which {verb} downloaded when the search starts"
    if kind == "cifar10":
        here = find_cifar10(root)
        return f"{config.data}: {'in the cache' if here else '170 MB, which are downloaded when the search starts'}"
    counts = {"train": config.train_images, "val": config.val_images}
    source = ImageSource(config.data, counts, 0, 1, root, progress)  # type: ignore[arg-type]
    with progress.showing():
        sets = [source.open(split, config.distill.img_size) for split in ("train", "val")]  # type: ignore[arg-type]
    train, val = map(len, sets)
    notes = "".join(f"; {note}" for note in dict.fromkeys((*sets[0].notes, *sets[1].notes)))
    doubts = [doubt for doubt in (check_image_count(config, train, val), unseen_images(config)) if doubt]
    if doubts:
        return Doubtful("; ".join(doubts) + notes)
    return (
        f"{config.data}: {plural(train, 'image')} to train on (of {config.train_images:,} asked for), "
        f"{val:,} held out (of {config.val_images:,}){notes}"
    )


def _race(command: SearchCommand) -> str:
    config = command.race_config
    assert config is not None
    what = "the best within the limits" if command.config.limits and not command.target else "the fastest as good as "
    target = "" if what.endswith("limits") else command.target or "the best baseline"
    images = f"{config.train_images:,} images, or all that there are"
    steps = config.distill.rung_steps[-1]
    return f"at the end, {what}{target} after {steps:,} steps on {images}; the teachers run on these, too"


def _run_folder(command: SearchCommand) -> str:
    if command.resume:
        _check_writable(command.run)
        return f"{command.run} holds the study"
    if command.storage is None:  # else the line of the database says whether both are free
        Store.check_free(command.run)
    _check_writable(command.run)
    return f"{command.run} can be created"


def _disk(command: SearchCommand) -> str:
    """Compare the free space of the cache's disk with what images and targets take at most."""
    root = cache_root(command.cache)
    _check_writable(root)
    images, outputs, temporary = _cache_bytes(command.config)
    if command.race_config is not None:
        of_race = _cache_bytes(command.race_config)
        images, temporary = images + of_race[0], max(temporary, of_race[2])
        outputs = None if outputs is None else outputs + (of_race[1] or 0.0)
    free = shutil.disk_usage(existing_folder(root)).free
    needed = images + (outputs or 0.0) + temporary
    what = "images and teacher outputs" if outputs is not None else "images, and more for teacher outputs"
    building = f", {format_bytes(temporary)} of it during the build only" if temporary else ""
    figures = f"needs up to {format_bytes(needed)} for {what}{building}; {format_bytes(free)} are free in {root}"
    if needed > free:
        raise ConfigError(f"--cache: {figures}; free some space, or give --cache DIR on a larger disk")
    return figures


def _cache_bytes(config: SearchConfig) -> tuple[float, float | None, float]:
    """Return the bytes of images, of teacher outputs (None where a teacher is unknown) and of files of the build."""
    from nas.plan.teacher_costs import images_bytes, material_counted

    try:
        material = material_counted(config, {}, device=None)
    except TeacherError:  # an unknown name, which is a problem of its own
        return images_bytes(config), None, 0.0
    outputs = sum(teacher.kept_bytes for teacher in material.teachers)
    return material.images.kept_bytes, outputs, max(teacher.temporary_bytes for teacher in material.teachers)


def _database(command: SearchCommand) -> str:
    if command.resume:
        Store.open(command.run, database=command.storage).close()
    else:
        Store.check_free(command.run, command.storage)
    return f"{command.storage} answers"


def _cluster(command: SearchCommand) -> str:
    from nas.backend.ray_session import cluster_resources

    with tempfile.TemporaryDirectory() as folder:
        nodes, cpus, gpus = cluster_resources(str(command.address), Path(folder))
    return f"{command.address}: {plural(nodes, 'node')} with {_units(cpus, 'CPU')} and {_units(gpus, 'GPU')}"


def _units(count: float, unit: str) -> str:
    """Return the count of CPUs or GPUs with its unit; Ray counts fractions too."""
    return plural(int(count), unit) if count == int(count) else f"{count:g} {unit}s"


def _check_writable(path: Path) -> None:
    """Raise ConfigError where a folder cannot be made or written."""
    try:
        check_writable(path)
    except OSError as error:
        raise ConfigError(f"{str(path)!r} cannot be written: {error.strerror}") from None
