"""The settings that a search is run with: the options of a command line or a file, checked and completed."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from nas.cli import command_line
from nas.command_log import announce
from nas.local_workers import check_local_workers
from nas.machine import check_cache
from nas.measure.devices import cuda_is_available, fast_precision
from nas.measure.runtime_spec import Arm, check_reported, check_runs_on, default_arm
from nas.race.arguments import check_metric, is_score, race_config
from nas.redaction import public_word
from nas.search.config_file import read_options, unrecorded_words, with_recorded
from nas.search.networks import check_networks, check_new_baselines, read_spec_files
from nas.search.options import (
    PlanAssumptions,
    RunSettings,
    SessionFlags,
    folded,
    recipe_names,
    recipe_path,
)
from nas.search.preconditions import check_device, check_sources
from nas.study import compatibility
from nas.study.config import KNOWN_COST, SearchConfig, check_recipe, check_sampler, supports
from nas.study.objectives import OBJECTIVES, objectives, on_plane
from nas.study.teacher_names import SETS
from nas.validation import ConfigError, check_values, declared
from search_space import SPACES, SpecError
from search_space.checks import shown

_LOG = logging.getLogger(__name__)
NODE_REMEDY = "run this on the node that has the GPUs"
RACE_OPTIONS = ("no_race", "race_steps", "fresh_images", "target", "race_by")
_OPTIONS = {
    name: hint for flags in (RunSettings, SessionFlags, PlanAssumptions) for name, hint in declared(flags).items()
}
_TEACHERS_OF_A_LAPTOP = {"builtin", *SETS["builtin"]}
_BEYOND_A_LAPTOP = (("device", "cuda"), ("space", "full"))


@dataclass(frozen=True)
class SearchCommand(RunSettings):
    """What a user asks of ``backbone-nas search``.

    Args:
        config: Settings of the search; of a resumed study its own, with the new budget.
        run: Folder of the study.
        resume: Whether the study exists.
        extend: Architectures to evaluate in addition to the budget of a resumed study.
        text: Command line or call that the study records, without secrets.
        dry_run: Whether everything is checked and nothing is run.
        device_source: The option, file or study that names the device.
        is_new_folder: Whether the study's folder was made for this session.
        grows_batch: Whether the batch of measurements may grow, because the user did not give it.
    """

    config: SearchConfig
    run: Path
    resume: bool = False
    extend: int = 0
    text: str = ""
    dry_run: bool = False
    device_source: str = "--device"
    is_new_folder: bool = False
    grows_batch: bool = False

    @property
    def races(self) -> bool:
        """Return whether a race ends the search."""
        return self.race_config is not None

    @property
    def race_config(self) -> SearchConfig | None:
        """Return the settings of the trainings of the race that ends the search."""
        return final_race(self.config, self.no_race, self.race_steps, self.fresh_images)


def final_race(
    config: SearchConfig, no_race: bool | None = None, steps: int | None = None, images: int | None = None
) -> SearchConfig | None:
    """Return the settings of a race at the end of a search; None where its objectives, or the user, want none."""
    wanted = not no_race and on_plane(objectives(config.objectives, config.distill.score))
    return race_config(config, steps, images) if wanted else None


def command_of(given: Mapping[str, Any], text: str) -> SearchCommand:
    """Return the settings of a search, and make the folder of a new study.

    A password in --storage is moved to the variable PGPASSWORD of this process, where libpq looks for it.

    Args:
        given: Options of the command line by name, without those that were not given.
        text: Command line or call that the study records, without secrets.

    Raises:
        ConfigError: A setting is impossible, or would be ignored.
        StoreError: There is no study to resume, or no place for a new one.
    """
    options = with_file(given)
    _check_flags(options)
    _hide_password(options)
    if resume := "resume" in options:
        options = with_recorded(Path(options["resume"]), options)
    config = _resumed_config(options) if resume else new_config(options)
    if options.get("until_converged") and config.sampler != KNOWN_COST:
        raise ConfigError(
            f"--until-converged: needs --sampler {KNOWN_COST}; {config.sampler} does not predict what one more"
            " candidate would gain"
        )
    source = device_source(given)
    if not options.get("dry_run"):
        check_device(config, source, NODE_REMEDY)
    check_race(options, config)
    if not resume:
        check_size(options, config)
    is_new_folder = not resume and not options.get("dry_run") and is_new(options)
    return SearchCommand(
        config=config,
        run=Path(options["resume"]) if resume else _run_folder(options, config),
        resume=resume,
        **{name: options[name] for name in (*declared(RunSettings), "extend", "dry_run") if name in options},
        text=text,
        device_source=source,
        is_new_folder=is_new_folder,
        grows_batch="measure_batch_size" not in options,
    )


def check_race(options: Mapping[str, Any], config: SearchConfig) -> None:
    """Raise ConfigError for a race that the search could not hold at its end."""
    given = [name for name in RACE_OPTIONS if name in options]
    if "no_race" in given and len(given) > 1:
        raise ConfigError(f"--{given[-1].replace('_', '-')}: not with --no-race; leave one of them out")
    race_config(config, options.get("race_steps"))
    check_metric(options.get("race_by"))
    target = options.get("target")
    if options.get("race_by") and (is_score(target or "") or (target is None and config.limits)):
        raise ConfigError("--race-by: needs a baseline as the target: name one with --target")
    if target is not None and target not in config.baselines and not is_score(target):
        names = ", ".join(config.baselines) or "none"
        raise ConfigError(f"--target: no baseline {target!r}; name one of: {names}, or a score to reach")


def resume_command(command: SearchCommand) -> str:
    """Return the command line that continues a search as this session ran it; the study's record has the rest."""
    session = {
        "--workers": command.workers,
        "--address": command.address,
        "--max-hours": command.max_hours and f"{command.max_hours:g}",
        "--race-steps": command.race_steps,
        "--fresh-images": command.fresh_images,
        "--race-by": command.race_by,
        "--target": command.target,
    }
    words = [word for flag, value in session.items() if value is not None for word in (flag, str(value))]
    words += ["--until-converged"] if command.until_converged else []
    words += ["--no-race"] if command.no_race else []
    return command_line("search", ["--resume", str(command.run), *words, *unrecorded_words(command)])


def device_source(given: Mapping[str, Any]) -> str:
    """Return which option, file or study names the device.

    Args:
        given: Options of the command line by name, without those that were not given.
    """
    sources = [f"--{name} {given[name]}" for name in ("resume", "config", "recipe") if name in given]
    return "--device" if "device" in given or not sources else f"the device of {sources[0]}"


def with_file(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options with those of the file that --config or --recipe names; options override the file.

    Args:
        options: Options of the command line by name, without those that were not given.

    Raises:
        ConfigError: A value is out of its range, the file cannot be read, or it alone is no valid search.
    """
    given = folded(options)
    check_values(given, _OPTIONS)
    check_recipe(given.get("distill", {}))
    sources = [name for name in ("config", "recipe") if name in given]
    if not sources:
        return given
    if len(sources) == 2 or "resume" in given:
        raise ConfigError(f"--{sources[-1]}: does not go with --{'config' if len(sources) == 2 else 'resume'}")
    path = Path(given["config"]) if sources == ["config"] else recipe_path(given["recipe"])
    from_file = read_options(path)
    try:
        _check_flags(from_file)
        new_config(from_file)
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from None
    nested: dict[str, Any] = {
        name: {**from_file[name], **given.get(name, {})}
        for name in ("distill", "limits", "teacher_weights")
        if name in from_file
    }
    choices = {
        part: {**fields, **given.get("choices", {}).get(part, {})}
        for part, fields in from_file.get("choices", {}).items()
    }
    if choices:
        nested["choices"] = {**given.get("choices", {}), **choices}
    return {**from_file, **given, **nested}


def new_config(options: Mapping[str, Any]) -> SearchConfig:
    """Return the settings of a new study, which may ask for a device that this machine does not have.

    Args:
        options: Options of the command line by name, without those that were not given.

    Raises:
        ConfigError: A name is unknown or a number out of its range.
    """
    return changed_config(options, _defaults(options))


def changed_config(options: Mapping[str, Any], base: SearchConfig) -> SearchConfig:
    """Return the settings of `base` with those that the options change.

    Args:
        options: Options of the command line by name, without those that were not given.
        base: The settings to change.

    Raises:
        ConfigError: A name is unknown or a number out of its range.
    """
    config = _config(options, base)
    _check_names(config)
    check_new_baselines(config)
    return config


def _check_flags(options: Mapping[str, Any]) -> None:
    """Raise ConfigError for a flag that would be ignored, an address that is none, or too many workers."""
    if "resume" in options and "run" in options:
        raise ConfigError("--run: does not go with --resume")
    if "extend" in options and "resume" not in options:
        raise ConfigError("--extend: only with --resume")
    check_address(options.get("address", "auto"))
    if "address" not in options:
        check_local_workers(options.get("workers"))


def check_address(address: str) -> None:
    """Raise ConfigError unless an address is that of a Ray cluster."""
    host, _, port = address.rpartition(":")
    if address != "auto" and not (host and port.isascii() and port.isdecimal() and 0 < int(port[:9]) < 2**16):
        raise ConfigError(f"--address: {shown(address)}: must be auto or HOST:PORT, as 10.0.0.1:6379")


def _hide_password(options: dict[str, Any]) -> None:
    """Move a password in --storage to PGPASSWORD: this process alone has it, and it is stored nowhere."""
    if "storage" not in options:
        return
    from nas.storage.location import password_of, without_password

    if (password := password_of(options["storage"])) is None:
        return
    os.environ["PGPASSWORD"] = password
    options["storage"] = without_password(options["storage"])
    advice = "put it into ~/.pgpass or PGPASSWORD, for --resume and reports"
    announce(f"the password in --storage is not stored: {advice}", _LOG)


def _resumed_config(options: Mapping[str, Any]) -> SearchConfig:
    """Return the settings of the study to resume, with the budget that --extend raises.

    With --data, this session finds the study's images there; that they are the same is checked when they are opened.
    The study and RUN/config.toml keep the place that the search began with: other machines may use it.

    Raises:
        ConfigError: Options, the search space or versions differ from those of the study.
    """
    from nas.measure.environment import versions  # imports torch
    from nas.storage.store import Store

    with Store.open(Path(options["resume"]), database=options.get("storage")) as store:
        info = store.info
    stored = SearchConfig.from_dict(info.config)
    _check_names(stored)
    asked = _config(options, stored)
    changed = stored.differences(asked)
    changed += compatibility.of_space(info, stored.search_space.choices())
    arm = Arm.parse(stored.runtime)
    changed += compatibility.of_versions(info, versions(arm), arm.traits.packages)
    if changed:
        hint = " (--extend M raises the budget)" if "budget" in options else ""
        raise ConfigError(
            f"--resume keeps the study's own settings and versions; these differ: {'; '.join(changed)}{hint}"
        )
    return replace(stored, data=asked.data, budget=stored.budget + options.get("extend", 0))


def check_inputs(command: SearchCommand) -> None:
    """Check images, teachers and cache as far as no library is needed; a refused search leaves no empty folder.

    Args:
        command: The settings.

    Raises:
        ValueError: Images or teachers are surely not there, or the cache cannot be written.
    """
    try:
        check_sources(command.config.data, command.config.teachers, command.teacher_weights)
        check_cache(command.cache)
    except ValueError:
        if command.is_new_folder:
            with suppress(OSError):  # it is not empty
                command.run.rmdir()
        raise


def check_size(options: Mapping[str, Any], config: SearchConfig) -> None:
    """Refuse to spend a GPU or a cluster on the budget of a laptop unless the user names one.

    A GPU that was found and not asked for runs it on the built-in data: that is a demonstration, and is called so.

    Args:
        options: Options of the command line or a file by name, without those that were not given.
        config: The settings that they make.

    Raises:
        ConfigError: The options ask for what a laptop does not have, and name neither a file nor the training's size.
    """
    if {"config", "recipe"} & set(options) or (
        "train_images" in options and "rung_steps" in options.get("distill", {})
    ):
        return
    recipe, names = config.distill, ", ".join(recipe_names())
    steps = "/".join(map(str, recipe.rung_steps))
    size = f"{config.train_images:,} images of {recipe.img_size} px, {steps} steps, batches of {recipe.batch_size}"
    asked = [f"--{name} {options[name]}" for name in ("address",) if name in options]
    asked += [f"--{name} {value}" for name, value in _BEYOND_A_LAPTOP if options.get(name) == value]
    if config.device == "cuda":
        asked += [f"--data {config.data}"] if config.data != "builtin" else []
        asked += [f"--teachers {config.teachers}"] if set(config.teachers.split(",")) - _TEACHERS_OF_A_LAPTOP else []
    if asked:
        raise ConfigError(
            f"{public_word(asked[0])}: would train on a laptop's budget, {size}: choose --recipe NAME ({names}), or "
            "give --train-images and --rung-steps"
        )
    if config.device == "cuda":
        announce(f"a demonstration: a laptop's budget, {size}, on a GPU; for more choose --recipe NAME ({names})", _LOG)


def _run_folder(options: Mapping[str, Any], config: SearchConfig) -> Path:
    """Return the folder of a new study; it is made unless this is a dry run."""
    default = default_folder(f"{config.sampler}-s{config.seed}")
    if options.get("dry_run"):
        return Path(options.get("run", default))
    return new_folder(options, default)


def default_folder(name: str) -> Path:
    """Return the folder of a new study that the user does not name.

    Args:
        name: What the study is, in a word or two.
    """
    return Path(f"runs/{datetime.now(UTC).strftime('%Y-%m-%d-%H%M%S')}-{name}")


def is_new(options: Mapping[str, Any]) -> bool:
    """Return whether the folder of a new study is still to be made.

    Args:
        options: Options of the command line by name: "run".
    """
    return "run" not in options or not Path(options["run"]).exists()


def new_folder(options: Mapping[str, Any], default: Path) -> Path:
    """Make the folder of a new study and return it: one that cannot be written is refused before an hour of work.

    Args:
        options: Options of the command line by name: "run" and "storage".
        default: The folder where the user names none; if there is one already, a number is added.

    Raises:
        StoreError: The folder has a study, or cannot be written.
    """
    from nas.storage.errors import StoreError
    from nas.storage.store import Store

    run_dir = Path(options.get("run", default))
    Store.check_free(run_dir, options.get("storage"))
    try:
        if "run" not in options:
            return _unused_folder(default)
        run_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"--run: cannot write {str(run_dir)!r}: {error.strerror}") from error
    return run_dir


def _unused_folder(path: Path) -> Path:
    """Make a folder that no other search has: searches that start in the same second get the same default name."""
    folder, number = path, 1
    while True:
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            number += 1
            folder = path.with_name(f"{path.name}-{number}")
        else:
            return folder


def _defaults(options: Mapping[str, Any]) -> SearchConfig:
    """Return the defaults of the chosen space and device; resolution, reference and baselines suit the space."""
    base = SearchConfig()
    if (name := options.get("space")) in SPACES:
        space = SPACES[name]
        base = replace(base, reference=space.reference, baselines=space.baselines)
        base = replace(base, distill=replace(base.distill, img_size=space.image_px))
    if not supports(base.sampler, options.get("objectives", base.objectives)):
        base = replace(base, sampler="evolution")
    device = _resolved_device(options.get("device", base.device))
    base = replace(base, teacher_precision=fast_precision(device))
    if device == "cuda":
        base = replace(base, measure_batch_size=128, runtime=str(default_arm("cuda")))
    return base


def _config(options: Mapping[str, Any], base: SearchConfig) -> SearchConfig:
    """Return the settings of `base` with those that the options change; the device "auto" is resolved."""
    plain, options = base.to_dict(), folded(options)
    changes = {name: value for name, value in options.items() if name in plain and value is not None}
    if "runtime" in changes:
        changes["runtime"] = _runtime(changes["runtime"], base.runtime)
    tables = {name: {**plain[name], **options.get(name, {})} for name in ("limits", "distill")}
    changes["device"] = _resolved_device(changes.get("device", base.device))
    if ":" in changes.get("data", ""):
        changes["data"] = absolute_data(changes["data"])
    return read_spec_files(SearchConfig.from_dict({**plain, **changes, **tables}))


def absolute_data(data: str) -> str:
    """Return the URI by which a process in another folder finds the same images; one that `check_uri` refuses stays.

    Args:
        data: The images, as `nas.data.open_images` takes them.
    """
    from nas.data import DataError, absolute_uri, check_uri  # NumPy and PIL take a while to import

    try:
        check_uri(data)
    except DataError:
        return data
    return absolute_uri(data)


def _check_names(config: SearchConfig) -> None:
    """Raise ConfigError for an unknown name; SearchConfig has checked the numbers."""
    check_sampler(config)
    if config.space not in SPACES:
        raise ConfigError(f"--space: unknown space {config.space!r}; choose one of: {', '.join(SPACES)}")
    try:
        _ = config.search_space  # building it checks the choices
    except SpecError as error:
        raise ConfigError(f"--{error}") from None
    if config.device not in ("cpu", "cuda"):
        raise ConfigError(f"--device: {shown(config.device)}: choose auto, cpu or cuda")
    _check_rungs(config)
    _check_runtime(config)
    check_networks(config)


def _check_rungs(config: SearchConfig) -> None:
    """Raise ConfigError for an objective by which the lower rungs cannot compare candidates."""
    rungs = config.distill.rung_steps
    late = [name for name in config.objectives if OBJECTIVES[name].trained and not OBJECTIVES[name].at_every_rung]
    if late and len(rungs) > 1:
        raise ConfigError(
            f"--objectives: {late[0]}: has a value at the last rung only, so that lower rungs cannot compare"
            f" candidates by it; give one rung: --rung-steps {rungs[-1]}"
        )


def _check_runtime(config: SearchConfig) -> None:
    """Raise ArmError for a runtime that the device does not have, else see `check_reported`."""
    arm = Arm.parse(config.runtime)
    check_runs_on(config.device, arm.runtime, arm.precision)
    check_reported(arm, config.device, config.limits, config.objectives)


def _runtime(words: str, base: str | None = None) -> str:
    """Return the full text of the runtime settings that `words` change; ArmError for an unknown word."""
    return str(Arm.parse(words, Arm.parse(base) if base else None))


def _resolved_device(name: str) -> str:
    """Return the device that "auto" stands for on this machine; another name stays."""
    return name if name != "auto" else "cuda" if cuda_is_available() else "cpu"
