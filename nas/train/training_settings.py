"""The settings of a training: the options of a command line, checked and completed by those of a search."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec as find_module
from pathlib import Path
from typing import Any

from nas.analysis import BEST
from nas.backend.teacher_gpus import reserved
from nas.files import parse_json
from nas.measure.devices import cuda_is_available, without_kernels
from nas.run_folder import heads_file
from nas.search.config_file import RECORDED_KEYS, with_recorded
from nas.search.options import RunSettings, folded
from nas.search.preconditions import check_device
from nas.search.settings import (
    NODE_REMEDY,
    SearchCommand,
    absolute_data,
    changed_config,
    check_address,
    default_folder,
    is_new,
    new_config,
    new_folder,
)
from nas.study.config import SearchConfig, check_recipe
from nas.study.records import Record
from nas.study.training_files import PLAN
from nas.train.options import (
    CALIBRATION_IMAGES,
    EVALUATIONS,
    KEPT_CHECKPOINTS,
    LOG_LIBRARIES,
    LONG_RECIPE,
    TrainFlags,
)
from nas.train.processes import with_workers
from nas.validation import ConfigError, check_values, declared
from search_space import PRESETS, SPACES, NetworkSpec, SpecError, TimmSpec, network_spec
from search_space.checks import shown
from search_space.presets import unknown_preset
from search_space.spaces import space_of
from search_space.timm_names import PREFIX
from search_space.timm_spec import find_network
from search_space.windows import fit_windows

_VALUES = (
    declared(TrainFlags)
    | {"distill": dict[str, Any]}
    | {name: declared(RunSettings)[name] for name in ("cache", "teacher_weights")}
)
_RESUMED_WITH = ("resume", "workers", "address", "data", "cache", "teacher_weights", "teacher_devices")


@dataclass(frozen=True)
class TrainingPlan(Record):
    """What a training's folder keeps in addition to its study.

    Args:
        name: The architecture's name, for people.
        spec: The architecture as plain data, as `search_space.network_spec` takes it.
        start: File of the weights that it begins with, next to that of their heads; a relative path begins at the
            training's folder, which has a copy. None for initial weights.
        eval_every: Steps between two evaluations; None for a tenth of all.
        epochs: Passes through the training images; None where the number of steps was given.
        kept_checkpoints: Checkpoints that are kept.
        event_logs: Where the course of the training is shown, names of `nas.distill.event_logs`.
        live_images: Images that live teachers see; None for cached targets.
        live_fingerprint: Digest of these images; None for cached targets.
        augment: Whether live teachers see augmented images.
        teacher_devices: Devices of live teachers; none for the student's.
    """

    name: str
    spec: dict[str, Any]
    start: str | None = None
    eval_every: int | None = None
    epochs: int | None = None
    kept_checkpoints: int = KEPT_CHECKPOINTS
    event_logs: tuple[str, ...] = ("tensorboard",)
    live_images: int | None = None
    live_fingerprint: str | None = None
    augment: bool = True
    teacher_devices: tuple[str, ...] = ()

    @property
    def architecture(self) -> NetworkSpec:
        """Return the architecture."""
        return network_spec(self.spec)


@dataclass(frozen=True)
class TrainCommand:
    """What a user asks of ``backbone-nas train``.

    Args:
        session: The settings that a training shares with a search: recipe, data, device, folders.
        plan: What is trained.
    """

    session: SearchCommand
    plan: TrainingPlan


def command_of(options: Mapping[str, Any], text: str) -> TrainCommand:
    """Return the settings of a training, and make the folder of a new one.

    Args:
        options: Options of the command line by name, without those that were not given.
        text: Command line that the study records, without secrets.

    Raises:
        ConfigError: A setting is impossible, or would be ignored.
        StoreError: There is no such study or trial, or no place for a new one.
    """
    options = folded(options)
    _check(options)
    if "resume" in options:
        return _resumed(options, text)
    of_run = _is_run(options["arch"])
    plan, options, base = (_of_run if of_run else _of_name)(options["arch"], options)
    plan = replace(
        plan,
        eval_every=options.get("eval_every"),
        epochs=options.get("epochs"),
        kept_checkpoints=options.get("keep_checkpoints", KEPT_CHECKPOINTS),
        event_logs=tuple(options.get("log", ("tensorboard",))),
        augment=not options.get("no_augment", False),
        teacher_devices=tuple(options.get("teacher_devices", ())),
    )
    alone = _alone(options)
    config = new_config(alone) if base is None else changed_config(alone, replace(base, limits={}))
    if plan.epochs is not None and config.distill.groups:
        pace = "each of which goes through the images at a pace of its own"
        raise ConfigError(f"--epochs: not with groups, {pace}; give --train-steps")
    if options.get("live"):
        plan = replace(plan, live_images=config.train_images)
        cached = min(config.train_images, max(CALIBRATION_IMAGES, config.distill.largest_batch))
        config = replace(config, train_images=cached, views=1)
    config = with_steps(config, plan, options.get("train_steps", 1))  # the images of an epoch are not counted yet
    check_device(config, "--device", NODE_REMEDY)
    _check_network(plan, config)
    _check_start(plan)
    if "address" in options and "workers" not in options:
        raise ConfigError("--address: add --workers N, the number of processes on the cluster")
    _check_cluster_devices(plan, options)
    config = with_workers(config, options.get("workers"), plan.teacher_devices, "address" in options)
    made = is_new(options)
    run = new_folder(options, default_folder(f"train-{plan.name.replace(':', '-')}"))
    session = _session(config, run, options, text)
    return TrainCommand(replace(session, is_new_folder=made), plan)


def _check(options: Mapping[str, Any]) -> None:
    """Raise ConfigError for options that are missing, contradict each other, or are out of range."""
    check_values(options, _VALUES)
    check_recipe(options.get("distill", {}))
    _check_logs(options.get("log", ()))
    if "resume" in options:
        if ignored := sorted(set(options) - set(_RESUMED_WITH)):
            flag = "ARCH" if ignored[0] == "arch" else f"--{ignored[0].replace('_', '-')}"
            raise ConfigError(f"{flag}: does not go with --resume, which keeps the training's own settings")
        return
    if "arch" not in options:
        choices = "a preset, timm:NAME, a spec's .json file or a run folder"
        raise ConfigError(f"ARCH: name {choices}, or continue with --resume RUN")
    if {"train_steps", "epochs"} <= options.keys():
        raise ConfigError("--epochs: not with --train-steps; give one of them")
    if not {"train_steps", "epochs"} & options.keys():
        raise ConfigError("--train-steps: give the number of steps, or else --epochs")
    if not options.get("live") and (only := [name for name in ("no_augment", "teacher_devices") if name in options]):
        raise ConfigError(f"--{only[0].replace('_', '-')}: only with --live")
    if options.get("live") and "views" in options:
        raise ConfigError("--views: not with --live, where every epoch has views of its own")
    if not _is_run(options["arch"]) and (only := [name for name in ("trial", "warm") if name in options]):
        raise ConfigError(f"--{only[0]}: only with the run folder of a search, which {shown(options['arch'])} is not")


def _check_logs(names: Sequence[str]) -> None:
    """Raise ConfigError for a log whose library is not installed."""
    for name in names:
        if find_module(LOG_LIBRARIES[name]) is None:
            raise ConfigError(f"--log: {name} is not installed: pip install {LOG_LIBRARIES[name]}")


def _is_run(arch: str | NetworkSpec) -> bool:
    return isinstance(arch, str) and Path(arch).is_dir()


def _named_spec(arch: str | NetworkSpec) -> tuple[str, NetworkSpec]:
    if not isinstance(arch, str | NetworkSpec):
        raise ConfigError(f"ARCH: {shown(arch)}: must be the name of a preset, timm:NAME, a spec, a file or a folder")
    if not isinstance(arch, str):
        return (f"{PREFIX}{arch.name}" if isinstance(arch, TimmSpec) else arch.arch_id), arch
    try:
        if not (arch.startswith(PREFIX) or arch.endswith(".json") or arch in PRESETS):
            raise unknown_preset(arch, "the run folder of a search, timm:NAME, a spec's .json file")
        return find_network(arch)
    except SpecError as error:
        raise ConfigError(f"ARCH: {str(error).removeprefix('arch: ')}") from None


def _of_name(
    arch: str | NetworkSpec, options: Mapping[str, Any]
) -> tuple[TrainingPlan, dict[str, Any], SearchConfig | None]:
    """Return what is trained, and the options with those that suit the architecture."""
    name, spec = _named_spec(arch)
    if isinstance(spec, TimmSpec):
        suitable, px = _suitable_for_timm(spec, options)
    else:
        from backbones.entrypoints import image_px  # imports torch

        space = space_of(spec)
        suitable = {"space": "full" if space is None else space.name}
        px = image_px(spec)
        if name in PRESETS:
            spec = fit_windows(spec, options.get("distill", {}).get("img_size", px))
    distill = {"img_size": px, **options.get("distill", {})}
    return TrainingPlan(name, spec.to_dict()), {**suitable, **options, "distill": distill}, None


def _suitable_for_timm(spec: TimmSpec, options: Mapping[str, Any]) -> tuple[dict[str, Any], int]:
    """Return the options that suit a network of timm, by its image size, and that size, its own unless given."""
    from backbones.timm_models import image_px  # imports torch and timm

    px = options.get("distill", {}).get("img_size") or image_px(spec.name)
    small = SearchConfig().space
    return {"space": small if px == SPACES[small].image_px else "full"}, px


def _check_network(plan: TrainingPlan, config: SearchConfig) -> None:
    """Raise ConfigError for a network of timm that cannot be trained like this."""
    spec = plan.architecture
    if not isinstance(spec, TimmSpec):
        return
    from backbones import build_network  # imports torch and timm
    from backbones.skip_init import skip_init
    from nas.measure.counts import network_totals

    sizes = {"--img-size": {config.distill.img_size}}
    sizes["--distill groups"] = {px for group in config.distill.groups for px in group.img_size}
    for flag, sides_px in sizes.items():
        for px in sorted(sides_px):
            try:
                network_totals(plan.spec, px)
            except ValueError as error:
                raise ConfigError(f"{flag}: {error}") from None
    if config.distill.grad_checkpointing:
        with skip_init():
            network = build_network(spec)
        try:
            network.set_grad_checkpointing()
        except SpecError as error:
            raise ConfigError(f"--distill grad_checkpointing: {error}") from None


def _check_start(plan: TrainingPlan) -> None:
    """Raise ConfigError where the weights that a training begins with, or their heads, cannot be read."""
    if plan.start is None:
        return
    from backbones.weights import WeightsError, checksum_of
    from nas.distill.folded_heads import load_heads  # imports torch

    start = Path(plan.start)
    try:
        load_heads(heads_file(start), model=checksum_of(start))
    except WeightsError as error:
        raise ConfigError(f"--warm: {error}") from None


def _of_run(run: str, options: Mapping[str, Any]) -> tuple[TrainingPlan, dict[str, Any], SearchConfig | None]:
    """Return what is trained, the options with what the search recorded, and its settings, with its race's images."""
    from nas.analysis.evidence import gather_evidence
    from nas.analysis.recommendation import find_trial
    from nas.analysis.run_files import trained_weights
    from nas.storage.store import Store

    folder = Path(run)
    with Store.open(folder, read_only=True) as store:
        study, retrainings, remeasurements = store.read_all()
    trial = find_trial(gather_evidence(study, retrainings, remeasurements), options.get("trial", BEST), "--trial")
    weights = trained_weights(folder, study, trial, retrainings) if options.get("warm") else None
    if options.get("warm") and weights is None:
        raise ConfigError(f"--warm: trial {trial.number} has no weights: it was not trained to the last rung")
    start = None if weights is None else str(weights.weights.resolve())
    recorded = {name: value for name, value in with_recorded(folder, options).items() if name in RECORDED_KEYS}
    plan = TrainingPlan(trial.baseline or f"trial{trial.number}", dict(trial.spec), start)
    config, race = SearchConfig.from_dict(study.info.config), study.info.race
    if race is not None and "data" not in options:  # other data may have fewer
        config = replace(config, train_images=race.images)
    return plan, {**recorded, **options}, config


def _alone(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a study of one architecture, with the recipe of a long training."""
    recipe = LONG_RECIPE | {"ranks": 1} | ({"schedule": options["schedule"]} if "schedule" in options else {})
    alone = {"budget": 1, "sampler": "random", "baselines": (), "scale": (), "objectives": ("score", "throughput")}
    return {**options, **alone, "distill": {**recipe, **options.get("distill", {})}}


def with_steps(config: SearchConfig, plan: TrainingPlan, steps: int) -> SearchConfig:
    """Return the settings with a number of steps: the last rung is its end, the others are the evaluations before.

    Args:
        config: The settings.
        plan: What is trained.
        steps: Number of steps.
    """
    every = plan.eval_every or max(1, round(steps / EVALUATIONS))
    return replace(config, distill=replace(config.distill, rung_steps=(*range(every, steps, every), steps)))


def _check_cluster_devices(plan: TrainingPlan, options: Mapping[str, Any]) -> None:
    """Raise ConfigError for GPUs of teachers on a Ray cluster."""
    if "address" in options and (numbers := reserved(plan.teacher_devices)):
        alone = "Ray gives each process the GPU of its student alone"
        raise ConfigError(f"--teacher-devices: cuda:{numbers[0]}: not with --address: {alone}; leave the flag out")


def check_teacher_devices(command: TrainCommand) -> None:
    """Raise ConfigError for teachers on a GPU of a machine that has none; the nodes of a cluster are not looked at."""
    gpus = [name for name in command.plan.teacher_devices if name != "cpu"]
    if gpus and command.session.address is None and not cuda_is_available():
        reason = without_kernels() or f"PyTorch sees no CUDA device here; {NODE_REMEDY}"
        raise ConfigError(f"--teacher-devices: {gpus[0]}: {reason}")


def _session(
    config: SearchConfig, run: Path, options: Mapping[str, Any], text: str, resume: bool = False
) -> SearchCommand:
    weights = options.get("teacher_weights", {})
    address = options.get("address")
    if address is not None:
        check_address(address)
    return SearchCommand(
        config, run, resume, teacher_weights=weights, cache=options.get("cache"), text=text, address=address
    )


def _resumed(options: Mapping[str, Any], text: str) -> TrainCommand:
    """Return the settings of a training that has begun, in another number of processes perhaps.

    With --data, its images are found there; that they are the same is checked when they are opened.
    """
    from nas.storage.store import Store

    run = Path(options["resume"])
    with Store.open(run, read_only=True) as store:
        config = SearchConfig.from_dict(store.info.config)
    if "data" in options:
        config = replace(config, data=absolute_data(options["data"]))
    try:
        kept = parse_json((run / PLAN).read_bytes())
        kept.pop("fsdp", None)  # of a version that divided parameters among processes; its checkpoints are whole
        plan = TrainingPlan.from_dict(kept)
    except (AttributeError, OSError, ValueError):
        raise ConfigError(
            f"--resume: {str(run)!r} was not written by backbone-nas train; name the run folder of a training"
        ) from None
    check_device(config, f"the device of {run}", NODE_REMEDY)
    if "teacher_devices" in options:
        if plan.live_images is None:
            raise ConfigError(f"--teacher-devices: the training in {run} is not one with --live")
        plan = replace(plan, teacher_devices=tuple(options["teacher_devices"]))
    _check_cluster_devices(plan, options)
    workers = options.get("workers") or config.distill.ranks
    config = with_workers(config, workers, plan.teacher_devices, "address" in options)
    return TrainCommand(_session(config, run, with_recorded(run, options), text, resume=True), plan)
