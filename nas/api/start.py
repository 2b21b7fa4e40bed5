"""Start a search or a training from Python as the commands do, and return its study."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from nas.api.opened_study import Model, Study, load_study
from nas.cli import logged_work
from nas.command_log import CommandLog, log_to
from nas.flags import LATEST
from nas.redaction import public_text
from nas.study.config import DistillConfig, SearchConfig
from nas.terminal import stderr_console
from nas.validation import ConfigError, no_such_setting
from search_space import NetworkSpec
from search_space.checks import shown


def search(
    config: SearchConfig | None = None,
    run_dir: str | Path | None = None,
    *,
    recipe: str | None = None,
    config_file: str | Path | None = None,
    resume: bool | str | Path = False,
    extend: int = 0,
    workers: int | None = None,
    cache: str | Path | None = None,
    teacher_weights: Mapping[str, str | Path] | None = None,
    storage: str | None = None,
    address: str | None = None,
    trial_timeout_s: float | None = None,
    max_hours: float | None = None,
    until_converged: bool = False,
    race: bool | Mapping[str, Any] = True,
) -> Study:
    """Run a search to its end and return its study; a terminal and a notebook show its progress.

    Ctrl-C raises KeyboardInterrupt. Every finished trial is in the study; the same call with `resume=True` continues.

    Args:
        config: Settings of the search; one that equals its default counts as not given. None as the study to resume.
        run_dir: Folder of the study; None for runs/<date>-<sampler>-s<seed>.
        recipe: Name of a packaged recipe, as "cifar10-1gpu"; given settings of `config` and arguments override it.
        config_file: TOML file of settings, as RUN/config.toml of every search, in place of a recipe.
        resume: Folder of a study to continue, or to help with, or True for `run_dir`. Other settings are refused.
        extend: With `resume`: architectures to evaluate in addition to the study's budget.
        workers: Trials at a time; None for one per GPU, or per CPU if the memory suffices, or all that a cluster takes.
        cache: Folder of images and teacher outputs; None: that to resume, $BACKBONE_NAS_CACHE or ~/.cache/backbone-nas.
        teacher_weights: safetensors files of timm teachers by name; others are those to resume, or are downloaded.
        storage: URL of a database, see `--storage`; None for RUN/study.db.
        address: Address of a running Ray cluster, or "auto"; None for this machine alone.
        trial_timeout_s: Seconds of a measurement or a rung after which it hangs; None for a limit from earlier trials.
        max_hours: Hours after which no new candidate starts, and a training under way stops at its next rung.
        until_converged: End when known-cost's latest proposals are expected to gain less than noise gives.
        race: Whether to race at the end; or by name `target`, `race_by`, `race_steps`, `fresh_images`: `Study.race`.

    Raises:
        ConfigError: A setting is impossible; LimitError where it is a limit.
        DataError: The images cannot be read.
        TeacherError: There is no such teacher, or its weights cannot be loaded.
        StoreError: There is no study to resume, or already one in the folder, or the study cannot be written.
        SearchFailed: Too many trials failed in a row, or more than were trained; `load_study` opens the study.
    """
    _check_types(config, resume, teacher_weights)
    settings: dict[str, Any] = {
        "run" if resume is False else "resume": _folder(run_dir, resume),
        "recipe": recipe,
        "config": None if config_file is None else str(config_file),
        "extend": extend or None,
        "until_converged": until_converged or None,
        "cache": None if cache is None else str(cache),
        "teacher_weights": _plain("teacher_weights", teacher_weights or None),
        "workers": workers,
        **_race_options(race),
    }
    settings |= {"storage": storage, "address": address, "trial_timeout": trial_timeout_s, "max_hours": max_hours}
    return load_study(_run(config, {name: each for name, each in settings.items() if each is not None}))


def _check_types(config: object, resume: object, teacher_weights: object) -> None:
    """Raise ConfigError for arguments of `search` that are of a wrong type."""
    if not isinstance(config, SearchConfig | None):
        raise ConfigError(f"config: {shown(config)}: must be a SearchConfig, as SearchConfig(budget=20)")
    if not isinstance(resume, bool | str | Path) or resume == "":
        raise ConfigError(f"resume: {shown(resume)}: must be True, False or the folder of a study")
    if not isinstance(teacher_weights, Mapping | None):
        raise ConfigError(f"teacher_weights: {shown(teacher_weights)}: must be a table of files by teacher")


def _race_options(race: bool | Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of the search command that say whether and what it races."""
    if isinstance(race, bool):
        return {} if race else {"no_race": True}
    if unknown := sorted(set(race) - {"target", "race_steps", "fresh_images", "race_by"}):
        raise ConfigError(f"race: {shown(unknown[0])}: choose from target, race_steps, fresh_images, race_by")
    return {name: str(value) if name == "target" else value for name, value in race.items()}


def _folder(run_dir: str | Path | None, resume: bool | str | Path) -> str | None:
    """Return the folder of a new study or of that to resume; None for the default of a new one."""
    if not isinstance(resume, bool):
        if run_dir is not None:
            raise ConfigError("run_dir: not with the folder of a study as resume; give one of them")
        return str(resume)
    folder = LATEST if resume and run_dir is None else run_dir
    return None if folder is None else str(folder)


def _run(config: SearchConfig | None, settings: Mapping[str, Any]) -> Path:
    """Run the search command and return the run folder.

    Args:
        config: Settings of the search, of which those that differ from their defaults are given.
        settings: The other options of the command line by name, without those that were not given.
    """
    from nas.search.session import search as run_search
    from nas.search.settings import check_inputs, command_of

    call = f"nas.api.search({_call_arguments(config, settings)})"
    with CommandLog(), logged_work():
        command = command_of({**_changes(config or SearchConfig()), **settings}, public_text(call))
        check_inputs(command)
        log_to(command.run, "search", command.text)
        run_search(command, stderr_console())
    return command.run


def _changes(config: SearchConfig | DistillConfig) -> dict[str, Any]:
    """Return the settings that differ from their defaults, as plain data."""
    plain, of_default = (json.loads(json.dumps(asdict(each))) for each in (config, type(config)()))
    changes = {name: value for name, value in plain.items() if value != of_default[name]}
    if isinstance(config, SearchConfig) and "distill" in changes:
        changes["distill"] = _changes(config.distill)
    return changes


def _call_arguments(config: SearchConfig | None, settings: Mapping[str, Any]) -> str:
    """Return the arguments of a call of `search` as code."""
    names = {"run": "run_dir", "config": "config_file", "trial_timeout": "trial_timeout_s"}
    keywords = [f"{names.get(name, name)}={value!r}" for name, value in settings.items()]
    return ", ".join([*([] if config is None else [_code(config)]), *keywords])


def _code(value: object) -> str:
    """Return a value as code; of a config, the settings without their default value."""
    if not isinstance(value, SearchConfig | DistillConfig):
        return repr(value)
    default = type(value)()
    changed = [(f.name, v) for f in fields(value) if (v := getattr(value, f.name)) != getattr(default, f.name)]
    return f"{type(value).__name__}({', '.join(f'{name}={_code(v)}' for name, v in changed)})"


def train(
    arch: str | Path | NetworkSpec | Model | None = None, run_dir: str | Path | None = None, **options: Any
) -> Study:
    """Distill one architecture at full length, as ``backbone-nas train`` does, and return its study of this one model.

    Ctrl-C, or the interruption of a notebook's kernel, saves the training's state and raises KeyboardInterrupt:
    `train(resume=RUN)` continues. The training runs in processes of its own: in a script, call it under
    ``if __name__ == "__main__":``.

    Args:
        arch: A preset, timm:NAME, a spec, a spec's .json file, the run folder of a search, whose recommended model is
            trained, or a model of a search.
        run_dir: Folder of the training; None for runs/<date>-train-<name>.
        options: Options of the command by name: train_steps or epochs, trial, warm, data, teachers, img_size,
            batch_size, schedule, live, workers, log, ...; distill is a dict of settings of the recipe.

    Raises:
        ConfigError: There is no such option, or a setting is impossible.
        DataError: The images cannot be read.
        TeacherError: There is no such teacher, or its weights cannot be loaded.
        SelectionError: The study has no such trial.
        StoreError: There is no study to resume or no such folder, or the study cannot be written.
        TrainingFailed: The training broke down; its last checkpoint is kept.
    """
    from nas.search.settings import check_inputs
    from nas.train.command import train as run_train
    from nas.train.training_settings import command_of

    _check_names(options)
    if isinstance(arch, Model):
        if "trial" in options:
            raise ConfigError("trial: not with a model, which is that of a trial")
        options["trial"] = arch.number
    named = arch.study.run_dir if isinstance(arch, Model) else arch
    given = {"arch": named, "run": run_dir, **options}
    given = {name: _plain(name, value) for name, value in given.items() if value is not None}
    call = ", ".join(f"{name}={value!r}" for name, value in given.items())
    with CommandLog(), logged_work():
        command = command_of(given, public_text(f"nas.api.train({call})"))
        check_inputs(command.session)
        log_to(command.session.run, "train", command.session.text)
        run_train(command, stderr_console())
    return load_study(command.session.run)


def _check_names(options: Mapping[str, Any]) -> None:
    """Raise ConfigError for a name that no option of a training has."""
    from nas.train.options import OPTIONS

    known = OPTIONS - {"arch", "run"}
    of_recipe = {field.name for field in fields(DistillConfig)}
    for name in options.keys() - known:
        if name in of_recipe:
            raise ConfigError(f"{name}: a setting of the recipe: give distill={{{name!r}: ...}}")
        raise ConfigError(f"{name}: {no_such_setting(name, sorted(known | of_recipe))}")


def _plain(name: str, value: Any) -> Any:
    """Return an option as the command line gives it, where paths and a trial's number are texts."""
    if name == "teacher_weights" and isinstance(value, Mapping):
        for teacher, file in value.items():
            if not (isinstance(teacher, str) and isinstance(file, str | Path)):
                raise ConfigError(f"teacher_weights: {shown(teacher)}: {shown(file)}: must be files by teacher")
        return {teacher: Path(file).expanduser() for teacher, file in value.items()}
    return str(value) if isinstance(value, Path) or (name == "trial" and isinstance(value, int)) else value
