"""The settings of a search: one frozen value, stored with the study and compared when the study is resumed."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Annotated, Any, Self

from nas.ranges import (
    BatchSize,
    Budget,
    ConfigError,
    HeldOutImages,
    Images,
    MeasureSeconds,
    OneOf,
    Pixels,
    Range,
    Seed,
    Steps,
    Text,
    Views,
    check_fields,
    check_values,
    declared,
    no_such_setting,
)
from nas.study.limits import LIMITS, check_bounds
from nas.study.objectives import OBJECTIVES
from search_space import SPACES, NetworkSpec, Space, TimmSpec, network_spec, preset
from search_space.checks import shown
from search_space.own_choices import plain_choices, with_choices
from search_space.timm_names import PREFIX
from search_space.windows import fit_windows

PRECISIONS = ("auto", "fp32", "bf16")
# The keys of nas.samplers' SAMPLERS and COSTS, of nas.cache's CODECS and of nas.distill's LOSSES, TRANSFORMS and
# BALANCES, repeated here because the help of a command imports neither optuna nor torch.
KNOWN_COST = "known-cost"  # the sampler that knows an architecture's cost before it runs
OPTUNA_SAMPLERS = ("nsga2", "tpe", "gp")
SAMPLERS = (KNOWN_COST, "evolution", "random", *OPTUNA_SAMPLERS)
# Trials that a sampler draws at random before it learns from any. nas.samplers makes the samplers with these numbers;
# the report states them, and says nothing of a sampler without one.
RANDOM_TRIALS = {KNOWN_COST: 0, "evolution": 32, "nsga2": 20, "tpe": 20, "gp": 10}
KNOWN_COSTS = ("throughput", "params", "macs")  # the costs that the sampler known-cost can model, next to the score
MIN_BF16_GAIN = 0.05  # of a training step's time, for which bf16 is taken: its sums are less exact
TEACHER_PRECISIONS = ("fp32", "bf16")
TARGET_DTYPES = ("int8", "int4", "bf16", "fp32")
SUMMARY_LOSSES = ("mse", "cosine", "angle")
SPATIAL_LOSSES = ("mse", "hybrid")  # the score needs lengths, which an angular loss does not train
STANDARDIZATIONS = ("phi_s", "global", "raw")
BALANCES = ("fixed", "uncertainty", "adaloss", "drop")
SCORES = ("spatial", "both")
SCHEDULES = ("constant", "cosine", "wsd")
_DECAY = 0.2  # last part of the steps in which "wsd" lets the learning rate fall
RECIPE_FLAGS = ("rung_steps", "img_size", "batch_size")  # fields of the recipe that have flags of their own
DEFAULT_SPACE = "laptop"
ANGULAR_LOSSES = ("cosine", "angle")  # losses that ignore the length of a prediction


def compares_unit_vectors(settings: Mapping[str, Any]) -> bool:
    """Return whether summaries are compared as vectors of length 1, because their loss ignores length.

    Args:
        settings: A study's `config`, as `SearchConfig.to_dict` returns it.
    """
    return settings.get("distill", {}).get("summary_loss") in ANGULAR_LOSSES


def is_of_timm(name: str) -> bool:
    """Return whether an arch name is that of a network of timm."""
    return name.startswith(PREFIX)


@dataclass(frozen=True)
class Group:
    """Teachers that are distilled together, with their own batch size, student image sizes and share of the steps.

    The features of a student that learns from a teacher at a single size vary with the size. Sources: the partitions of
    AM-RADIO (arXiv 2312.06709) and the resolutions of RADIOv2.5 (arXiv 2412.07679).

    Attributes:
        teachers: Names of the teachers.
        batch_size: Images of a step of this group.
        img_size: Sides of the student's input in px, multiples of 32; a step draws one.
        rate: Share of the steps, relative to the other groups.
    """

    teachers: tuple[Text, ...]
    batch_size: BatchSize
    img_size: tuple[Pixels, ...]
    rate: Annotated[float, Range(0, 1_000_000, above=True)] = 1.0

    def __post_init__(self) -> None:
        check_fields(self, "groups: ")
        if not self.teachers or not self.img_size:
            raise ConfigError(f"groups: {shown(vars(self))}: needs teachers and sizes")
        for name in ("teachers", "img_size"):
            object.__setattr__(self, name, tuple(getattr(self, name)))


@dataclass(frozen=True)
class DistillConfig:
    """The training recipe of every architecture of a study.

    By default: AdamW with a constant learning rate and averaged weights (EMA), so that every rung is a fair end point;
    a cosine loss of the summaries (arXiv 2312.06709), MSE of the spatial features on PHI-S targets (arXiv 2410.01680),
    and equal weights for all teachers, each shared by the teacher's heads.

    Attributes:
        img_size: Side of the candidates' input in px, a multiple of 32. Spatial targets have a cell for every 16 px.
        batch_size: Images of a training step, a multiple of `accumulate` times `ranks`.
        learning_rate: Learning rate of AdamW at the end of the warm-up.
        schedule: Learning rate after the warm-up: "constant"; "cosine", which falls to 0 at the last rung; or "wsd"
            (warm-up, stable, decay), constant but for the last fifth of the steps, in which it falls to 0 as 1 minus a
            square root (arXiv 2405.18392).
        weight_decay: Weight decay of AdamW; none on vectors, position tables and registers.
        warmup_steps: Steps in which the learning rate rises to its value.
        ema_decay: Decay of the averaged weights (EMA), which are scored and exported; 0 for no averaging.
        head_width: Hidden width of the adaptor heads, one for each teacher.
        precision: "fp32" or "bf16" (autocast); a search replaces "auto" by the one whose steps are shorter.
        rung_steps: Training steps at which candidates are compared, rising; the last one ends a training.
        summary_loss: Loss of the summaries: "mse", "cosine" or "angle".
        spatial_loss: Loss of the spatial features: "mse", or "hybrid" (0.9 cosine + 0.1 smooth L1).
        standardization: Standardization of the targets: "phi_s", "global" or "raw".
        balance: Weights between teachers: "fixed", or adapted by "uncertainty", "adaloss" or "drop".
        score: Heads in the distillation score: "spatial", or the mean of "both". The ranking by summary features after
            a few hundred steps is mostly that of the seed (experiments/LOG.md). A summary whose loss trains directions
            only ("cosine", "angle") is compared as a vector of length 1.
        weights: Loss weights by teacher or "teacher/head"; the others are 1. The heads of a teacher share its weight:
            the map of SAM, which has no summary, weighs twice as much as the map of another teacher.
            {"samvit_huge_patch16.sa1b@1024/4": 0.5} gives all heads the same weight, as in the sum of AM-RADIO. Weights
            are relative to the mean weight of all teachers, also in the steps of a group.
        groups: Teachers with batches of their own; none for all teachers together at `img_size`.
        max_grad_norm: Norm to which gradients are clipped; 0 for no clipping.
        accumulate: Parts of a batch whose gradients add up to those of a step.
        max_shift: Largest shift of a batch's images, in cells of the targets (16 px at `img_size`), in each direction.
            The loss is over the cells that the student and the teachers both see. 0 for none.
        grad_checkpointing: Whether activations are computed again in the backward pass, to save memory.
        compile: Whether torch.compile compiles the student and its losses.
        ranks: Processes that train one architecture together, on CUDA each on its own GPU.
    """

    img_size: Pixels = 64
    batch_size: BatchSize = 32
    learning_rate: Annotated[float, Range(0, 100, above=True)] = 2e-3
    schedule: Annotated[str, OneOf(SCHEDULES)] = "constant"
    weight_decay: Annotated[float, Range(0, 100)] = 0.02
    warmup_steps: Steps = 10
    ema_decay: Annotated[float, Range(0, 1, below=True)] = 0.98
    head_width: Annotated[int, Range(1, 16_384)] = 128
    precision: Annotated[str, OneOf(PRECISIONS)] = "auto"
    rung_steps: tuple[Steps, ...] = (30, 90, 270)
    summary_loss: Annotated[str, OneOf(SUMMARY_LOSSES)] = "cosine"
    spatial_loss: Annotated[str, OneOf(SPATIAL_LOSSES)] = "mse"
    standardization: Annotated[str, OneOf(STANDARDIZATIONS)] = "phi_s"
    balance: Annotated[str, OneOf(BALANCES)] = "fixed"
    score: Annotated[str, OneOf(SCORES)] = "spatial"
    weights: dict[str, Annotated[float, Range(0, 1_000_000, above=True)]] = field(default_factory=dict)
    groups: tuple[Group, ...] = ()
    max_grad_norm: Annotated[float, Range(0, 1_000_000_000)] = 0.0
    accumulate: Annotated[int, Range(1, 4_096)] = 1
    max_shift: Annotated[int, Range(0, 64)] = 0
    grad_checkpointing: bool = False
    compile: bool = False
    ranks: Annotated[int, Range(1, 1_024)] = 1

    def __post_init__(self) -> None:
        check_fields(self, "", **{name: f"--{name.replace('_', '-')}" for name in RECIPE_FLAGS})
        object.__setattr__(self, "rung_steps", tuple(self.rung_steps))
        object.__setattr__(self, "groups", tuple(_group(group) for group in self.groups))
        if not self.rung_steps or list(self.rung_steps) != sorted(set(self.rung_steps)):
            raise ConfigError(f"--rung-steps: {shown(self.rung_steps)}: must be rising numbers of steps, as 60,180,540")
        self._check_batch("--batch-size", self.batch_size)
        for group in self.groups:
            self._check_group(group)

    def learning_rate_at(self, step: int) -> float:
        """Return the learning rate of a step.

        Args:
            step: 0 for the first one.
        """
        warmed_up = self.learning_rate * min(1.0, (step + 1) / self.warmup_steps)
        if self.schedule == "constant":
            return warmed_up
        last = self.rung_steps[-1]
        falls_from = self.warmup_steps if self.schedule == "cosine" else max(self.warmup_steps, (1 - _DECAY) * last)
        fallen = min(1.0, max(0.0, step - falls_from) / max(1.0, last - falls_from))
        return warmed_up * (
            (1 + math.cos(math.pi * fallen)) / 2 if self.schedule == "cosine" else 1 - math.sqrt(fallen)
        )

    @property
    def largest_batch(self) -> int:
        """Return the largest batch size of a step, over all groups."""
        return max([self.batch_size, *(group.batch_size for group in self.groups)])

    @property
    def image_sizes(self) -> list[int]:
        """Return the sides of the images of all steps and evaluations, in px, rising."""
        return sorted({self.img_size, *(px for group in self.groups for px in group.img_size)})

    def _check_batch(self, name: str, size: int) -> None:
        parts = self.accumulate * self.ranks
        if size < 2 * parts or size % parts:
            needed = f"a multiple of accumulate * ranks ({parts}), and two or more images in each part (BatchNorm)"
            raise ConfigError(f"{name}: {size}: must be {needed}")

    def check_teachers(self, names: Collection[str]) -> None:
        """Raise ConfigError for weights or groups of unknown teachers, and for a teacher in no group.

        Args:
            names: The study's teachers.
        """
        heads = {f"{name}/{head}" for name in names for head in ("summary", "spatial")}
        grouped = {name for group in self.groups for name in group.teachers}
        for setting, keys, allowed in (
            ("weights", set(self.weights), {*names, *heads}),
            ("groups", grouped, set(names)),
        ):
            if unknown := sorted(keys - allowed):
                raise ConfigError(f"{setting}: no teacher {unknown[0]!r} in this study; choose from {', '.join(names)}")
        if grouped and (missing := sorted(set(names) - grouped)):
            raise ConfigError(f"groups: teacher {missing[0]!r} is in none of them")

    def _check_group(self, group: Group) -> None:
        self._check_batch("groups: batch_size", group.batch_size)
        for px in group.img_size:
            if px > self.img_size:
                raise ConfigError(f"groups: img_size: {px}: must be at most that of all teachers ({self.img_size})")


def _group(group: Group | Mapping[str, Any]) -> Group:
    if isinstance(group, Group):
        return group
    try:
        return Group(**group)
    except TypeError:  # a key that is missing or unknown
        like = "{'teachers': ['lite0'], 'batch_size': 32, 'img_size': [64], 'rate': 1}"
        raise ConfigError(f"groups: {shown(group)}: must be like {like}") from None


_RETIRED = (("last_rung_chance", 0.0),)  # settings of earlier studies, with the values that are as without them


@dataclass(frozen=True)
class SearchConfig:
    """The settings that a study's numbers depend on, and the budget.

    Attributes:
        budget: Unique architectures to evaluate; baselines do not count.
        seed: Seed of sampling, initial weights and the order of images.
        sampler: Sampler: "known-cost", "evolution", "random", "nsga2", "tpe" or "gp".
        space: Search space: "laptop" or "micro" (64 px), or "full" (224 px).
        choices: Other choices in that space, by part and field (`search_space.own_choices`), as {"stages": {"blocks":
            ["mbconv", "convnext"]}, "stage1": {"widths": [16, 32]}}.
        data: Images as a URI: "builtin", "imagefolder:PATH", "webdataset:PATTERN" or "cifar10".
        teachers: Comma list of teachers and sets of teachers.
        train_images: Images to train on.
        val_images: Held-out images, for scores and probes.
        views: Stored augmentations of each training image.
        teacher_precision: Precision that teachers compute in: "fp32", or "bf16" (autocast; the weights stay in fp32).
        target_dtype: Number format of the stored targets: "int8", "int4", "bf16" or "fp32".
        device: Device that measures and trains: "cpu" or "cuda"; a search replaces "auto" by a GPU that PyTorch sees,
            or else by the CPU.
        measure_batch_size: Images per call when a candidate is measured.
        runtime: Runtime, precision, layout and form of a measured candidate, joined by +, as "compiled+bf16".
        measure_seconds: Longest measurement of a candidate; it ends earlier when the ratio is known to 1 %. A slow
            network gets up to five times as long for six blocks, the fewest that give an interval.
        measure_first: Whether every candidate is measured before its training. Otherwise one whose throughput is
            predicted well is measured when it has passed the first rung.
        reduction_factor: Halving: the best 1 / reduction_factor of a rung continue.
        front_gain: Share of the front's hypervolume that a candidate has to add, predicted from the scores so far, to
            continue although halving would stop it; 0: halving alone decides.
        reference: Network that every throughput is relative to: a preset, a key of `specs` or timm:NAME.
        baselines: Networks that are trained and measured in the same study, for comparison; named as `reference`.
        scale: Networks that are measured and not trained, for comparison; named as `reference`.
        specs: Architectures by name, as ArchSpec.to_dict(); the command line reads them from the files that it names.
        limits: Hard limits, by their names.
        objectives: Names of the objectives; "score" is one of them, and becomes the first.
        distill: The training recipe.
    """

    budget: Budget = 200
    seed: Seed = 0
    sampler: Text = KNOWN_COST
    space: Text = DEFAULT_SPACE
    choices: dict[str, dict[str, Any]] = field(default_factory=dict)
    data: Text = "builtin"
    teachers: Text = "builtin"
    train_images: Images = 3000
    val_images: HeldOutImages = 600
    views: Views = 1
    teacher_precision: Annotated[str, OneOf(TEACHER_PRECISIONS)] = "fp32"
    target_dtype: Annotated[str, OneOf(TARGET_DTYPES)] = "int8"
    device: Text = "auto"
    measure_batch_size: BatchSize = 16
    runtime: Text = "eager+fp32+channels-last+fused"
    measure_seconds: MeasureSeconds = 2.0
    measure_first: bool = False
    reduction_factor: Annotated[int, Range(2, 1_000)] = 3
    front_gain: Annotated[float, Range(0, 1)] = 0.02
    reference: Text = SPACES[DEFAULT_SPACE].reference
    baselines: tuple[Text, ...] = SPACES[DEFAULT_SPACE].baselines
    scale: tuple[Text, ...] = ("timm:resnet18", "timm:mobilenetv3_small_050")
    specs: dict[str, dict[str, Any]] = field(default_factory=dict)
    limits: dict[str, float] = field(default_factory=dict)
    objectives: tuple[Text, ...] = ("score", "throughput")
    distill: DistillConfig = field(default_factory=DistillConfig)

    def __post_init__(self) -> None:
        check_fields(self)
        if isinstance(recipe := self.distill, Mapping):  # of a call, as in a file
            check_recipe(recipe)
            object.__setattr__(self, "distill", DistillConfig(**recipe))
        for name in ("baselines", "scale", "objectives"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        object.__setattr__(self, "objectives", tuple(sorted(self.objectives, key=lambda name: name != "score")))
        object.__setattr__(self, "choices", plain_choices(self.choices))
        self._check_objectives()
        check_bounds(self.limits)
        if self.train_images < self.distill.largest_batch:
            raise ConfigError(
                f"--train-images: {self.train_images}: must be at least a batch ({self.distill.largest_batch}); raise "
                "it, or lower --batch-size"
            )

    def _check_objectives(self) -> None:
        named = ",".join(self.objectives)
        if unknown := [name for name in self.objectives if name not in OBJECTIVES]:
            raise ConfigError(f"--objectives: unknown {unknown[0]!r}; choose from: {', '.join(OBJECTIVES)}")
        if "score" not in self.objectives or len(set(self.objectives)) < len(self.objectives):
            raise ConfigError(f"--objectives: {named}: needs score, and each name only once")

    @property
    def search_space(self) -> Space:
        """Return the search space, for the study's size of images."""
        px = self.distill.img_size
        return with_choices(SPACES[self.space].at(px), self.choices, px)

    @property
    def grid(self) -> int:
        """Return the side of the teachers' spatial targets, which is that of the student's map at stride 16."""
        return self.distill.img_size // 16

    @property
    def measures_late(self) -> bool:
        """Return whether a candidate with a good prediction of its throughput is measured after its first rung.

        It is not where `measure_first` is set, the sampler predicts nothing, the first rung is the last, or the study
        has limits that only a measurement tells.
        """
        limited = any(LIMITS[name].measured for name in self.limits)
        several = len(self.distill.rung_steps) > 1
        return self.sampler == KNOWN_COST and several and not limited and not self.measure_first

    @property
    def comparison_networks(self) -> tuple[str, ...]:
        """Return the names of the networks that are measured and not trained.

        With those in `scale`, the reference is measured against itself, unless it is a baseline: the difference of the
        ratio from 1 is the noise of all ratios.
        """
        names = dict.fromkeys((self.reference, *self.scale)) if self.scale else ()
        return tuple(name for name in names if name not in self.baselines)

    def spec(self, name: str) -> NetworkSpec:
        """Return the architecture of a name of this study; SpecError for an unknown name.

        The windows of a preset tile the maps of the study's images, as those of its space do. A network of timm has a
        neck, as wide as that of the space's own reference: its map has a cell for each of the targets, like those of
        the presets.
        """
        if is_of_timm(name):
            return TimmSpec(name.removeprefix(PREFIX), preset(SPACES[self.space].reference).neck_dim)
        if name in self.specs:
            return network_spec(self.specs[name])
        return fit_windows(preset(name), self.distill.img_size)

    def arch(self, name: str) -> str | dict[str, Any]:
        """Return what measures a network of this study by its name: the spec; of timm's, the name unless a baseline."""
        return name if is_of_timm(name) and name not in self.baselines else self.spec(name).to_dict()

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as plain JSON data."""
        plain: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return plain

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Build the settings from the result of `to_dict`.

        Raises:
            ConfigError: A setting is unknown or invalid.
        """
        data = {name: value for name, value in data.items() if (name, value) not in _RETIRED}
        unknown = set(data) - {f.name for f in fields(cls)}
        if unknown:
            raise ConfigError(f"unknown setting(s) {sorted(unknown)}: written by a newer version?")
        try:
            return cls(**{**data, "distill": DistillConfig(**data["distill"])})
        except (KeyError, TypeError) as error:
            raise ConfigError(f"settings of another version: {error}") from None

    def differences(self, other: SearchConfig) -> list[str]:
        """Return the settings that differ between two configs, as "name: ours -> theirs".

        Architectures from files are compared by their names, which end in their ids. The images are compared by the
        kind of their source: the same images may lie elsewhere, which their fingerprint tells.
        """
        hidden = {"distill": None, "specs": None}
        if self.data.partition(":")[0] == other.data.partition(":")[0]:
            hidden["data"] = None
        ours, theirs = ({**c.to_dict(), **c.to_dict()["distill"], **hidden} for c in (self, other))
        return [f"{name}: {ours[name]} -> {theirs[name]}" for name in ours if ours[name] != theirs[name]]


def check_recipe(settings: Mapping[str, Any]) -> None:
    """Raise ConfigError for a setting that `DistillConfig` does not have, or whose value it cannot have.

    Args:
        settings: Settings of the recipe by name, without those that were not given.
    """
    check_values({"distill": settings}, {"distill": dict[str, Any]})
    hints = declared(DistillConfig)
    if unknown := [name for name in settings if name not in hints]:
        raise ConfigError(f"--distill {shown(unknown[0])}: {no_such_setting(unknown[0], hints)}")
    check_values(settings, hints, "--distill ")


def check_recorded(settings: Mapping[str, Any]) -> None:
    """Raise ConfigError for a recorded setting whose value no search can have; unknown and missing ones are left.

    Args:
        settings: A study's `config`, as `SearchConfig.to_dict` returns it.
    """
    check_values(settings, declared(SearchConfig), "config: ")
    check_values(settings.get("distill") or {}, declared(DistillConfig), "config: distill: ")


def supports(sampler: str, objectives: Sequence[str]) -> bool:
    """Tell whether a sampler can search for these objectives, by their names in any order."""
    costs = [name for name in objectives if name != "score"]
    return sampler != KNOWN_COST or ("score" in objectives and len(costs) < 2 and set(costs) <= set(KNOWN_COSTS))


def check_sampler(config: SearchConfig) -> None:
    """Raise ConfigError unless there is a sampler of this name that supports the objectives."""
    if config.sampler not in SAMPLERS:
        raise ConfigError(f"--sampler: unknown sampler {config.sampler!r}; choose one of: {', '.join(SAMPLERS)}")
    if not supports(config.sampler, config.objectives):
        supported = f"supports score alone, or score and one of {', '.join(KNOWN_COSTS)}"
        others = ", ".join(name for name in SAMPLERS if name != KNOWN_COST)
        names = ",".join(config.objectives)
        raise ConfigError(f"--objectives: {names}: {KNOWN_COST} {supported}; samplers for any objectives: {others}")


def faster_precision(step_ms: Mapping[str, float]) -> str:
    """Return "bf16" where its training steps are clearly shorter, see `MIN_BF16_GAIN`, or alone timed, else "fp32"."""
    fp32_ms, bf16_ms = (step_ms.get(name, float("inf")) for name in ("fp32", "bf16"))
    return "bf16" if bf16_ms <= (1 - MIN_BF16_GAIN) * fp32_ms else "fp32"
