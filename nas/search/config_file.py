"""Configuration files: the settings of a search as TOML, strict on reading and complete on writing.

A file's keys are the fields of `SearchConfig`, with the tables ``[distill]`` (`DistillConfig`), ``[limits]`` (names of
`nas.study.limits`), ``[run]`` (how and where the search runs) and ``[plan]`` (the device that a plan assumes). A key
is its flag with _ for -. Recipes are such files inside the package. A search writes its own as RUN/config.toml.
"""

from __future__ import annotations

import logging
import os
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import tomli_w

from nas.cli import PROGRAM
from nas.command_log import announce
from nas.machine import cache_root
from nas.redaction import public_word
from nas.search.options import PlanAssumptions, RunSettings
from nas.study.config import DistillConfig, SearchConfig
from nas.study.limits import LIMITS, Bound
from nas.validation import ConfigError, Text, adapter, declared, misfit, no_such_setting
from search_space.checks import read_text

_LOG = logging.getLogger(__name__)
FILE_NAME = "config.toml"  # in the run folder
# Keys of [run] that hold for every command that trains models of the study; the others are those of one session.
RECORDED_KEYS = ("cache", "teacher_weights", "trial_timeout")
TABLES: dict[str, dict[str, Any]] = {
    "distill": declared(DistillConfig),
    "limits": dict.fromkeys(LIMITS, Bound),
    "run": {"run": Text, **declared(RunSettings)},
    "plan": declared(PlanAssumptions),
}
_SETTINGS = {name: hint for name, hint in declared(SearchConfig).items() if name not in TABLES}
_HEADER = f"""\
# All settings of this search. Start it again in a new folder, from the folder where it was started:
#   {PROGRAM} search --config {FILE_NAME}
# Flags override the file, as --seed 1; --run DIR names the new folder.
"""
_REMOVED = """\
# The user, the password and the query of a URL in `data` were removed. Put them back to start the search.
"""


def read_options(path: Path) -> dict[str, Any]:
    """Return the settings of a file as the options of a command line: by name, without those that are not given.

    Raises:
        ConfigError: There is no such file, it is not TOML, or keys or the types of their values are wrong.
    """
    try:
        text = read_text(path)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"--config: cannot read {str(path)!r}: {reason}") from None
    try:
        content = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # brackets in brackets, a thousand deep
        raise ConfigError(f"{path}: not TOML: {error}") from None
    tables = {name: content.pop(name, {}) for name in TABLES}
    wrong = list(_wrong("", content, _SETTINGS, also=TABLES))
    for name, table in tables.items():
        plain = isinstance(table, dict)
        wrong += _wrong(f"{name}.", table, TABLES[name]) if plain else [f"{name}: {table!r}: must be a table"]
    if wrong:
        raise ConfigError(f"{path}: {'; '.join(wrong)}")
    options = content
    for name in ("run", "plan"):
        options |= {key: adapter(TABLES[name][key]).validate_python(value) for key, value in tables[name].items()}
    return options | {name: tables[name] for name in ("distill", "limits") if tables[name]}


def _wrong(prefix: str, table: Mapping[str, Any], hints: Mapping[str, Any], also: Iterable[str] = ()) -> Iterator[str]:
    """Yield what is wrong in a table: a key that is unknown, or a value of another type."""
    for key, value in table.items():
        if key not in hints:
            yield f"{prefix}{key}: {no_such_setting(key, [*hints, *also])}"
        elif problem := misfit(value, hints[key]):
            yield f"{prefix}{key}: {problem}"


def run_table(command: Any) -> dict[str, Any]:
    """Return the table ``[run]`` of a `SearchCommand`, without the folder of its study: a search has its own.

    Paths are absolute, so that they are found from another folder. The user's default cache is left out.
    """
    values = {name: getattr(command, name) for name in declared(RunSettings)}
    if command.cache is not None or "BACKBONE_NAS_CACHE" in os.environ:
        values["cache"] = str(cache_root(command.cache).absolute())
    values["teacher_weights"] = {name: str(file.absolute()) for name, file in command.teacher_weights.items()}
    return {name: value for name, value in values.items() if value}


def recorded_run(run_dir: Path) -> dict[str, Any]:
    """Return the table ``[run]`` of the file in a run folder; empty where there is no file."""
    path = run_dir / FILE_NAME
    options = read_options(path) if path.is_file() else {}
    found = {name: options[name] for name in TABLES["run"] if name in options}
    if "teacher_weights" in found:
        found["teacher_weights"] = {name: str(file) for name, file in found["teacher_weights"].items()}
    return found


def recorded_data(run_dir: Path) -> str | None:
    """Return the images that the file in a run folder names, without secrets; None where there is no file."""
    path = run_dir / FILE_NAME
    return read_options(path).get("data") if path.is_file() else None


def unrecorded_words(command: Any) -> list[str]:
    """Return the flags of a `SearchCommand` that differ from what its study's search recorded, see `RECORDED_KEYS`."""
    recorded, now = recorded_run(command.run), run_table(command)
    data = public_word(command.config.data)
    words = [] if recorded_data(command.run) in (None, data) else ["--data", data]
    for name in ("cache", "trial_timeout"):
        if name in now and now[name] != recorded.get(name):
            value = f"{now[name]:g}" if name == "trial_timeout" else now[name]
            words += [f"--{name.replace('_', '-')}", value]
    earlier = recorded.get("teacher_weights", {})
    for name, file in now.get("teacher_weights", {}).items():
        words += [] if earlier.get(name) == file else ["--teacher-weights", f"{name}={file}"]
    return words


def with_recorded(run_dir: Path, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return options completed by the run settings that the study's search recorded, see `RECORDED_KEYS`.

    A recorded path that is gone is left out, after a line that says what is used in its place.

    Args:
        run_dir: Folder of the study.
        given: Options of the command line by name, without those that were not given; they override the record.

    Raises:
        ConfigError: The file of settings was edited and is no longer valid.
    """
    path = run_dir / FILE_NAME
    options = read_options(path) if path.is_file() else {}
    recorded = {name: options[name] for name in RECORDED_KEYS if name in options}
    files = {**recorded.pop("teacher_weights", {}), **given.get("teacher_weights", {})}
    if "cache" not in given and "cache" in recorded and not Path(recorded["cache"]).is_dir():
        gone, instead = recorded.pop("cache"), cache_root()
        _warn(f"--cache: {gone} of {path} is gone; using {instead}, where teachers run again if it has no outputs")
    for name in files.keys() - given.get("teacher_weights", {}).keys():
        if not files[name].exists():
            _warn(f"--teacher-weights: {files.pop(name)} of {path} is gone; {name} uses timm's own weights")
    return recorded | dict(given) | ({"teacher_weights": files} if files else {})


def recorded_sources(run_dir: Path, cache: str | None, files: Mapping[str, Path]) -> tuple[Path, Mapping[str, Path]]:
    """Return the folder of the cache and the files of teachers' weights that a study's models are trained with.

    Args:
        run_dir: Folder of the study.
        cache: The folder that the user gave; None for that of the search.
        files: Files that the user gave, by teacher; the others are those of the search.
    """
    options = with_recorded(run_dir, ({"cache": cache} if cache is not None else {}) | {"teacher_weights": files})
    return cache_root(options.get("cache")), options.get("teacher_weights", {})


def _warn(line: str) -> None:
    announce(line, _LOG, level=logging.WARNING)


def config_text(settings: Mapping[str, Any], run: Mapping[str, Any]) -> str:
    """Return a file that starts a search again, without secrets.

    Args:
        settings: `SearchConfig.to_dict`.
        run: The table ``[run]``, without the folder of the study.
    """
    tables = {name: settings[name] for name in ("limits", "distill")} | {"run": dict(run)}
    plain = {name: value for name, value in settings.items() if name not in tables}
    public = plain | {"data": public_word(plain["data"])}
    removed = "" if public["data"] == plain["data"] else _REMOVED
    return _HEADER + removed + "\n" + tomli_w.dumps(public | tables)
