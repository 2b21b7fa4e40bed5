"""The settings of a search: one frozen value, stored with the study and compared when the study is resumed."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Annotated, Any, Self

from pydantic import Field

from nas.flags import shared
from nas.study.limits import LIMITS, check_bounds
from nas.study.objectives import OBJECTIVES
from nas.validation import (
    BatchSize,
    Budget,
    ConfigError,
    Flag,
    HeldOutImages,
    Images,
    MeasureSeconds,
    OneOf,
    Pixels,
    Seed,
    Steps,
    Text,
    Views,
    check_values,
    checked,
    declared,
    no_such_setting,
)
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
TARGET_DTYPES = ("int8", "bf16", "fp32")
TARGET_SHARE = 0.25  # of a teacher's numbers that PCA keeps: in int8, an eighth of the bytes of fp16 features
SUMMARY_LOSSES = ("mse", "cosine", "angle")
SPATIAL_LOSSES = ("mse", "hybrid")  # the score needs lengths, which an angular loss does not train
STANDARDIZATIONS = ("phi_s", "global", "raw")
BALANCES = ("fixed", "uncertainty", "adaloss", "drop")
SCORES = ("spatial", "both")
SCHEDULES = ("constant", "cosine", "wsd")
_DECAY = 0.2  # last part of the steps in which "wsd" lets the learning rate fall
DEFAULT_SPACE = "laptop"
ANGULAR_LOSSES = ("cosine", "angle")  # losses that ignore the length of a prediction
_searched, _training = (partial(Flag, group=title) for title in ("what to search", "training"))
_of_data = partial(Flag, group="data and teachers")
_SPACE, _FULL = SPACES[DEFAULT_SPACE], SPACES["full"]


def compares_unit_vectors(settings: Mapping[str, Any]) -> bool:
    """Return whether summaries are compared as vectors of length 1, because their loss ignores length.

    Args:
        settings: A study's `config`, as `SearchConfig.to_dict` returns it.
    """
    return settings.get("distill", {}).get("summary_loss") in ANGULAR_LOSSES


def is_of_timm(name: str) -> bool:
    """Return whether an arch name is that of a network of timm."""
    return name.startswith(PREFIX)


@checked
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

    teachers: Annotated[tuple[Text, ...], Field(min_length=1)]
    batch_size: BatchSize
    img_size: Annotated[tuple[Pixels, ...], Field(min_length=1)]
    rate: Annotated[float, Field(strict=True, gt=0, le=1_000_000)] = 1.0


@checked
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

    img_size: Annotated[Pixels, shared("img_size", "64; 224 with --space full", group="training")] = 64
    batch_size: Annotated[BatchSize, _training("images per training step", "N")] = 32
    learning_rate: Annotated[float, Field(strict=True, gt=0, le=100)] = 2e-3
    schedule: Annotated[str, OneOf(SCHEDULES)] = "constant"
    weight_decay: Annotated[float, Field(strict=True, ge=0, le=100)] = 0.02
    warmup_steps: Steps = 10
    ema_decay: Annotated[float, Field(strict=True, ge=0, lt=1)] = 0.98
    head_width: Annotated[int, Field(strict=True, ge=1, le=16_384)] = 128
    precision: Annotated[str, OneOf(PRECISIONS)] = "auto"
    rung_steps: Annotated[tuple[Steps, ...], _training("training steps of the rungs", "A,B,C")] = (30, 90, 270)
    summary_loss: Annotated[str, OneOf(SUMMARY_LOSSES)] = "cosine"
    spatial_loss: Annotated[str, OneOf(SPATIAL_LOSSES)] = "mse"
    standardization: Annotated[str, OneOf(STANDARDIZATIONS)] = "phi_s"
    balance: Annotated[str, OneOf(BALANCES)] = "fixed"
    score: Annotated[str, OneOf(SCORES)] = "spatial"
    weights: dict[str, Annotated[float, Field(strict=True, gt=0, le=1_000_000)]] = field(default_factory=dict)
    groups: tuple[Group, ...] = ()
    max_grad_norm: Annotated[float, Field(strict=True, ge=0, le=1_000_000_000)] = 0.0
    accumulate: Annotated[int, Field(strict=True, ge=1, le=4_096)] = 1
    max_shift: Annotated[int, Field(strict=True, ge=0, le=64)] = 0
    grad_checkpointing: bool = False
    compile: bool = False
    ranks: Annotated[int, Field(strict=True, ge=1, le=1_024)] = 1

    def __post_init__(self) -> None:
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


class GatherRecipe(argparse.Action):
    """Gathers KEY=VALUE settings of `DistillConfig` in a dict; a value is JSON, or else text."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: str | None = None
    ) -> None:
        """Add one setting to the dict."""
        key, equals, text = str(values).partition("=")
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):  # brackets in brackets, a thousand deep
            value = text
        if not equals:
            raise argparse.ArgumentError(self, f"{shown(values)}: must be KEY=VALUE, as batch_size=64")
        try:
            check_recipe({key: value})
        except ConfigError as error:
            raise argparse.ArgumentError(self, str(error).removeprefix("--distill ")) from None
        setattr(namespace, self.dest, {**getattr(namespace, self.dest, {}), key: value})


_RETIRED = (("last_rung_chance", 0.0),)  # settings of earlier studies, with the values that are as without them


@checked
@dataclass(frozen=True)
class SearchConfig:
    """The settings that a study's numbers depend on, and the budget.

    Attributes:
        specs: Architectures by name, as ArchSpec.to_dict(); the command line reads them from the files that it names.
        limits: Hard limits, by their names.
        distill: The training recipe.
    """

    budget: Annotated[Budget, _searched("unique architectures to evaluate, without baselines", "N")] = 200
    seed: Annotated[Seed, _searched("seed of sampling, initial weights and image order", "N")] = 0
    sampler: Annotated[Text, _searched("proposes architectures", more={"choices": SAMPLERS})] = KNOWN_COST
    space: Annotated[Text, _searched("search space", more={"choices": SPACES})] = DEFAULT_SPACE
    choices: Annotated[dict[str, dict[str, Any]], shared("choices", group="what to search")] = field(
        default_factory=dict
    )
    data: Annotated[
        Text,
        _of_data(
            "builtin, imagefolder:PATH, webdataset:PATTERN (files or https://; TRAIN::VAL; #ignore=N for void masks) "
            "or cifar10; of a study, where its images lie now",
            "URI",
        ),
    ] = "builtin"
    teachers: Annotated[
        Text,
        _of_data(
            "comma list of builtin, am_radio, c_radio_v4, lite0, hed, xfeat, or timm's networks as NAME[@PX[/N]]",
            "NAMES",
        ),
    ] = "builtin"
    train_images: Annotated[Images, _of_data("images to train on", "N", "what there is, up to 3000")] = 3000
    val_images: Annotated[
        HeldOutImages, _of_data("held-out images, for scores and probes", "N", "what there is, up to 600")
    ] = 600
    views: Annotated[Views, shared("views", group="data and teachers")] = 1
    teacher_precision: Annotated[
        str,
        OneOf(TEACHER_PRECISIONS),
        shared(
            "teacher_precision",
            "bf16 on a GPU with tensor cores for it and on a CPU with AMX or AMD's AVX512-BF16, else fp32",
            group="data and teachers",
        ),
    ] = "fp32"
    target_dtype: Annotated[str, OneOf(TARGET_DTYPES), _of_data("data type of the teachers' stored outputs")] = "int8"
    device: Annotated[Text, shared("device", group="measuring")] = "auto"
    measure_batch_size: Annotated[
        BatchSize,
        shared(
            "measure_batch_size",
            "16; on CUDA 128 or, where the CPU would limit the reference's speed, more",
            group="measuring",
        ),
    ] = 16
    runtime: Annotated[
        Text,
        shared(
            "runtime",
            "eager+fp32+channels-last+fused; on CUDA compiled+bf16, or compiled+fp16 where the GPU has no bf16",
            group="measuring",
        ),
    ] = "eager+fp32+channels-last+fused"
    measure_seconds: Annotated[
        MeasureSeconds,
        shared(
            "measure_seconds",
            more="; it ends earlier when it is exact to 1 %%; a slow network gets up to five times as long, for an "
            "interval",
            group="measuring",
        ),
    ] = 2.0
    measure_first: Annotated[
        bool,
        Flag(
            "measure every candidate before its training",
            default="measure before the last rung, and only candidates that reach it, where known-cost predicts the "
            "throughput to 8 %% and no limit needs a measurement; else before the first",
            group="measuring",
        ),
    ] = False
    reduction_factor: Annotated[
        int, Field(strict=True, ge=2, le=1_000), _training("at a rung, the best 1/N of the candidates continue", "N")
    ] = 3
    front_gain: Annotated[
        float,
        Field(strict=True, ge=0, le=1),
        _training(
            "let a candidate continue that successive halving would stop, if its final score, predicted from all "
            "scores so far, would raise the hypervolume of the front by this share or more; 0: halving alone decides",
            "SHARE",
        ),
    ] = 0.02
    reference: Annotated[
        Text,
        _searched(
            "network that throughputs are relative to, timed in a pair with each candidate: a preset, a spec's .json "
            "file, or timm:NAME with random weights",
            "ARCH",
            f"{_SPACE.reference}; {_FULL.reference} with --space full",
        ),
    ] = _SPACE.reference
    baselines: Annotated[
        tuple[Text, ...],
        _searched(
            "comma list of networks, named as --reference, that are trained and measured like candidates, or none; "
            "those of timm get a neck, so that their maps have the stride of the others'",
            "A,B",
            f"{','.join(_SPACE.baselines)}; without timm's with --space micro; {','.join(_FULL.baselines)} with "
            "--space full",
        ),
    ] = _SPACE.baselines
    scale: Annotated[
        tuple[Text, ...],
        _searched(
            "comma list of networks, named as --reference, that are measured and not trained, to show the scale of "
            "the throughputs, or none; the reference is measured with them, unless it is a baseline",
            "A,B",
        ),
    ] = ("timm:resnet18", "timm:mobilenetv3_small_050")
    specs: dict[str, dict[str, Any]] = field(default_factory=dict)
    limits: dict[str, float] = field(default_factory=dict)
    objectives: Annotated[
        tuple[Text, ...],
        _searched(
            f"comma list of score and any of {', '.join(name for name in OBJECTIVES if name != 'score')}; for "
            "objectives that known-cost does not take, the default sampler is evolution",
            "A,B",
        ),
    ] = ("score", "throughput")
    distill: Annotated[
        DistillConfig,
        _training(
            "a setting of the recipe (nas.study.config.DistillConfig), may be given several times: learning_rate, "
            f"batch_size, summary_loss ({', '.join(SUMMARY_LOSSES)}), spatial_loss ({', '.join(SPATIAL_LOSSES)}), "
            f"standardization ({', '.join(STANDARDIZATIONS)}), balance ({', '.join(BALANCES)}), score "
            f"({', '.join(SCORES)}), weights, groups, ...",
            "KEY=VALUE",
            "the recipe's",
            more={"action": GatherRecipe},
        ),
    ] = field(default_factory=DistillConfig)

    def __post_init__(self) -> None:
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
        """Return whether a candidate with a good prediction of its throughput is measured before its last rung.

        It is measured first where `measure_first` is set, the sampler predicts nothing, there is one rung, or the study
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
        return cls(**data)

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
