"""Estimate the passes, seconds and bytes of the teachers. A plan never downloads weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import torch

from nas.cache.build import CachePlan
from nas.cache.codecs import CODECS
from nas.cache.entry import SHARD_ITEMS
from nas.cache.estimate import TIMING, BuildEstimate, estimate_images, estimate_teacher
from nas.cache.images import ImageCacheBuilder, ImageSource
from nas.cache.targets import Targets, load_targets
from nas.cache.teacher_features import CALIBRATION_SHARDS, Compression, TeacherCacheBuilder
from nas.measure.counts.macs import MacCountingMode
from nas.plan.forecast import Basis, weaker
from nas.plan.probe import AssumedDevice
from nas.search.preconditions import check_image_count
from nas.stage_progress import StageProgress
from nas.study.config import TARGET_SHARE, SearchConfig
from nas.teachers import TEACHERS, TeacherSpec, check_weights, specs
from nas.teachers.timm_networks import create, features, layout, parse

# How many times slower than in dense bf16 a GPU multiplies, by the peaks of NVIDIA's data sheets in TFLOP/s: A100 312
# in bf16, 156 in TF32, 19.5 in fp32; H100 SXM 989, 495, 67. Others differ: an L40S is only 4 times slower in fp32.
TF32_SLOWDOWN, FP32_SLOWDOWN = 2, 15


@dataclass(frozen=True)
class TeacherCost:
    """The remaining cost of one teacher, in the precision of the settings.

    Args:
        name: Name of the teacher.
        passes: Images whose outputs are not cached yet.
        seconds: Seconds of all passes on one device; None: unknown.
        kept_bytes: Bytes that the cache keeps.
        temporary_bytes: Bytes that are needed only while the cache is built.
        basis: Source of the seconds.
        note: Remark in the table.
    """

    name: str
    passes: int
    seconds: float | None
    kept_bytes: float
    temporary_bytes: float
    basis: Basis
    note: str


@dataclass(frozen=True)
class Material:
    """The images and targets of the trials, and the cost of building them.

    Args:
        teachers: Cost of each teacher.
        images: Cost of the images.
        widths: Channels of each teacher's (summary, spatial) outputs.
        val_images: Held-out images, as many as are asked for or found.
        targets: The built targets; None: they are not built yet.
        warning: What the search will say of too few images; "" where there are enough.
    """

    teachers: tuple[TeacherCost, ...]
    images: BuildEstimate
    widths: Mapping[str, tuple[int, int]]
    val_images: int
    targets: Targets | None = None
    warning: str = ""

    @property
    def teachers_s(self) -> tuple[float | None, Basis]:
        """Return the seconds of all teachers and images on one device, None where unknown, and their source."""
        seconds = [teacher.seconds for teacher in self.teachers]
        known = None if None in seconds else sum(filter(None, seconds)) + self.images.seconds
        return known, weaker(*(teacher.basis for teacher in self.teachers))


def material_here(config: SearchConfig, weights: Mapping[str, Path], root: Path, progress: StageProgress) -> Material:
    """Open the images, and time every teacher on a few if its weights are here and its outputs are not cached.

    Raises:
        ConfigError: The search would refuse the images that are found, see `check_image_count`.
    """
    counts = {"train": config.train_images, "val": config.val_images}
    source = ImageSource(config.data, counts, 0, config.views, root, progress)  # type: ignore[arg-type]
    px = config.distill.img_size
    compression = Compression(config.grid, config.target_dtype, TARGET_SHARE)
    chosen = specs(config.teachers, weights)
    missing = [spec for spec in chosen if not spec.is_here()]
    check_weights([spec for spec in chosen if spec not in missing])
    images = ImageCacheBuilder(source, px)
    train, val = len(images.sets["train"]), len(images.sets["val"])
    warning = check_image_count(config, train // config.views, val)
    costs = []
    for done, spec in enumerate(chosen):
        progress(TIMING, done, len(chosen))
        if spec in missing:
            way_out = "name a file with --teacher-weights, or plan with --assume-tflops"
            note = f"time unknown: the weights are not on this machine; {way_out}"
            costs.append(_unknown(spec, config, train, val, note))
        else:
            costs.append(_here(TeacherCacheBuilder(spec, images, compression, config.teacher_precision)))
    progress(TIMING, len(chosen), len(chosen))
    targets = None
    if images.entry.complete and not missing:
        plan = CachePlan(source, config.teachers, weights, px, compression, config.teacher_precision)
        if not plan.missing and plan.path.exists():
            targets = load_targets(plan.path)
    widths = {spec.name: spec.widths for spec in chosen}
    return Material(tuple(costs), estimate_images(images), widths, val, targets, warning)


def material_counted(config: SearchConfig, weights: Mapping[str, Path], device: AssumedDevice | None) -> Material:
    """Count the passes over the images of a search, and their seconds on a device. Nothing is opened or run.

    Args:
        config: Settings of the search.
        weights: Files of teachers' weights, by teacher.
        device: Device that runs the teachers; None: the seconds are not asked for, and unknown.
    """
    chosen, precision, costs = specs(config.teachers, weights), config.teacher_precision, []
    for spec in chosen:
        cost = _unknown(spec, config, config.train_images * config.views, config.val_images, "")
        counted = pass_macs(spec.name)
        if counted is None:
            cost = replace(cost, note="only the MACs of timm's networks are counted")
        elif device is not None:
            note = f"{counted.macs / 1e9:.1f} GMACs per image, counted; in {precision}"
            seconds = cost.passes * pass_seconds(counted, device, precision)
            cost = replace(cost, seconds=seconds, basis=Basis.ASSUMED, note=note)
        costs.append(cost)
    widths = {spec.name: spec.widths for spec in chosen}
    return Material(tuple(costs), BuildEstimate(images_bytes(config)), widths, config.val_images)


def images_bytes(config: SearchConfig) -> float:
    """Return the bytes of all images and their views in the cache."""
    return (config.train_images * config.views + config.val_images) * (3 * config.distill.img_size**2 + 8)


def bytes_of_an_image(config: SearchConfig, widths: Mapping[str, tuple[int, int]]) -> float:
    """Return the bytes that a training reads for one image: its pixels, and the targets of all teachers at most.

    Args:
        config: Settings of the search.
        widths: Channels of each teacher's (summary, spatial) outputs.
    """
    return 3 * config.distill.img_size**2 + sum(_kept_bytes(each, config) for each in widths.values())


class PassMacs(NamedTuple):
    """The MACs of a teacher's pass for one image, and those of its convolutions among them."""

    macs: float
    convolution_macs: float


def pass_macs(name: str) -> PassMacs | None:
    """Return the MACs of a timm teacher for one image, or for its share of a mosaic. No weights are needed.

    A teacher of `TEACHERS`, which is no network of timm, has None.
    """
    if name in TEACHERS:
        return None
    parsed, counter = parse(name), MacCountingMode()
    norm = layout(parsed).norm  # runs the network where the layout is not cached
    with torch.device("meta"):
        model = create(parsed).eval()
        with torch.no_grad(), counter:
            features(model, torch.zeros(1, 3, parsed.px, parsed.px), norm)
    return PassMacs(counter.macs / parsed.tiles**2, counter.convolution_macs / parsed.tiles**2)


def pass_seconds(counted: PassMacs, device: AssumedDevice, precision: str) -> float:
    """Return the seconds of a teacher's pass for one image; in fp32 a lower bound.

    In fp32 the rest of a pass, which the device's `mfu` stands for, takes at least as long as in bf16. By default
    PyTorch multiplies fp32 matrices on CUDA without tensor cores, and lets convolutions use TF32.

    Args:
        counted: The MACs of the pass.
        device: Device that runs the teacher.
        precision: "fp32" or "bf16".
    """
    longer = 0.0
    if precision == "fp32":
        matrix_macs = counted.macs - counted.convolution_macs
        longer = (FP32_SLOWDOWN - 1) * matrix_macs + (TF32_SLOWDOWN - 1) * counted.convolution_macs
    return (counted.macs + device.mfu * longer) * device.seconds_per_mac


def _here(teacher: TeacherCacheBuilder) -> TeacherCost:
    name = teacher.spec.name
    if teacher.entry.complete:
        return TeacherCost(name, 0, 0.0, 0.0, 0.0, Basis.MEASURED, "cached already")
    cost = estimate_teacher(teacher)
    missing = teacher.entry.written.count_missing(teacher.images.shards)
    note = f"timed on up to 16 images in {teacher.precision}"
    return TeacherCost(name, missing, cost.seconds, cost.kept_bytes, cost.temporary_bytes, Basis.MEASURED, note)


def _unknown(spec: TeacherSpec, config: SearchConfig, train: int, val: int, note: str) -> TeacherCost:
    """Return the passes of a teacher and the bytes that the cache keeps of it at most; its seconds are unknown."""
    temporary = min(CALIBRATION_SHARDS * SHARD_ITEMS, train) * _numbers(spec.widths, config) * 4.0
    kept = (train + val) * _kept_bytes(spec.widths, config)
    return TeacherCost(spec.name, train + val, None, kept, temporary, Basis.UNKNOWN, note)


def _numbers(widths: tuple[int, int], config: SearchConfig) -> int:
    """Return the numbers that a teacher with (summary, spatial) widths computes for one image."""
    summary, spatial = widths
    return summary + config.grid**2 * spatial


def _kept_bytes(widths: tuple[int, int], config: SearchConfig) -> float:
    """Return the bytes that the cache keeps of them at most."""
    return _numbers(widths, config) * TARGET_SHARE * CODECS[config.target_dtype].dtype.itemsize
