"""Train one network as a search or `backbone-nas train` does, for an experiment's row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn

from experiments.distillation.teachers import DATA, scenes_miou
from nas.cache import open_targets
from nas.cache.targets import Targets
from nas.distill.adaptor import Adaptor
from nas.distill.evaluation.explained_variance import explained_variance
from nas.distill.evaluation.tasks import student_metrics
from nas.distill.heads import Student
from nas.distill.trainer import Distiller
from nas.machine import cache_root
from nas.study.config import DistillConfig

LABELS = {"knn": "CIFAR-10 kNN", "probe": "CIFAR-10 probe", "miou": "CamVid mIoU"}


@dataclass
class Trained:
    """A training's student with averaged weights, and what it had reached at each rung.

    Attributes:
        student: The averaged student.
        scores: Distillation score at each rung.
        teachers: Explained variance of each teacher's spatial features at each rung.
    """

    student: Student
    scores: list[float] = field(default_factory=list)
    teachers: list[dict[str, float]] = field(default_factory=list)


def train(
    backbone: nn.Module,
    targets: Targets,
    config: DistillConfig,
    seed: int,
    adaptors: Mapping[str, Adaptor] | None = None,
) -> Trained:
    """Train a network on a CPU to the last of its rungs; seed the weights before it is built.

    Args:
        backbone: The network, with `encode`, `summary_dim` and `spatial_dim`.
        targets: The teachers' cached targets.
        config: The recipe, with the rungs.
        seed: Seed of the heads' weights and of the order of images.
        adaptors: Heads to begin with; None: new ones.
    """
    distiller = Distiller(backbone, targets, config, seed=seed, adaptors=adaptors)
    trained = Trained(distiller.averaged)
    try:
        for rung in config.rung_steps:
            distiller.train_until(rung)
            explained = explained_variance(distiller.averaged, targets.val, "cpu")
            trained.teachers.append({teacher: round(heads["spatial"], 5) for teacher, heads in explained.items()})
            trained.scores.append(round(float(np.mean(list(trained.teachers[-1].values()))), 5))
    finally:
        distiller.close()
    return trained


def metrics_of(student: Student, targets: Targets) -> dict[str, float]:
    """Return the probes of the data that trained a student, and where ../shared/data is, those of `label_metrics`."""
    found = student_metrics(student, targets, "cpu") | label_metrics(student)
    return {name: round(value, 5) for name, value in found.items()}


def label_metrics(student: Student) -> dict[str, float]:
    """Return accuracies on CIFAR-10 and the mIoU on CamVid of the frozen features; nothing without the images."""
    if not DATA.exists():
        return {}
    found = student_metrics(student, cifar_targets(), "cpu", images=8000)
    return {"knn": found["knn"], "probe": found["probe"], "miou": scenes_miou(student, cache_root(None))}


def cifar_targets() -> Targets:
    """Return CIFAR-10 at 64 px with the targets of one teacher; build their cache at the first call."""
    uri = f"webdataset:{DATA}/cifar10/train-*.tar::{DATA}/cifar10/val-*.tar"
    return open_targets(
        uri, "lite0", root=cache_root(None), train_images=8000, val_images=2000, image_px=64, grid=4, seed=0
    )


def seed_weights(seed: int) -> None:
    """Seed the weights of networks that are built from now on, and leave other trainings their cores."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
