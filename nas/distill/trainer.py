"""Distils one backbone from cached teachers, rung by rung, on one device."""

from __future__ import annotations

import copy
import math
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nas.config import DistillConfig
from nas.distill.heads import HeadDims, Student, TeacherHeads, normalise
from nas.cache.targets import SplitTargets, Targets

_STEPS_PER_SLOT = 5  # the device is offered to a waiting measurement this often
Slot = Callable[[], AbstractContextManager[Any]]


class TrainingError(RuntimeError):
    """The training broke down, e.g. its loss is no longer finite."""


class Distiller:
    """Trains a student on one split and keeps an exponential average of its weights.

    The order of the images depends on `seed` alone, so all architectures of a study see the same batches.

    Args:
        backbone: any module with ``encode``, ``summary_dim`` and ``spatial_dim``; trained in place.
        targets: the cached teachers.
        config: the recipe.
        seed: of the heads' initial weights and of the order of the images.
        slot: context manager in which every few steps run, e.g. a lock that a measurement can take.
    """

    def __init__(
        self,
        backbone: nn.Module,
        targets: Targets,
        config: DistillConfig,
        *,
        seed: int,
        device: str = "cpu",
        slot: Slot = nullcontext,
    ) -> None:
        self.config, self.device, self.seed, self._slot = config, torch.device(device), seed, slot
        self._train = targets.train
        torch.manual_seed(seed)
        self.student = Student(backbone, _heads(backbone, targets, config))
        self.student.to(self.device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
        self._autocast = partial(torch.autocast, self.device.type, torch.bfloat16, enabled=config.precision == "bf16")
        self.averaged = copy.deepcopy(self.student).eval().requires_grad_(False)
        self._optimizer = _adamw(self.student, config)
        self._pairs = _float_pairs(self.averaged, self.student)
        self.step = 0
        self.losses: list[dict[str, float]] = []  # one entry a step: "teacher/head" -> MSE

    def advance(self, to_step: int) -> None:
        """Trains on to step `to_step`; TrainingError where the loss is not finite."""
        while self.step < to_step:
            with self._slot():
                for _ in range(min(_STEPS_PER_SLOT, to_step - self.step)):
                    self._one_step()

    def mean_losses(self, since: int) -> dict[str, float]:
        """Mean of each loss over the last third of the steps since `since`; steadier than the last value."""
        recent = self.losses[since:]
        recent = recent[-max(1, len(recent) // 3) :]
        return {key: float(np.mean([entry[key] for entry in recent])) for key in recent[0]}

    def _one_step(self) -> None:
        for group in self._optimizer.param_groups:
            group["lr"] = self.config.learning_rate * min(1.0, (self.step + 1) / self.config.warmup_steps)
        index = self._batch_index()
        images = normalise(_rows(self._train.images, index, self.device))
        with self._autocast():
            predictions = self.student(images)
        losses = {
            f"{teacher}/{head}": F.mse_loss(prediction.float(), self._truth(teacher, head, index))
            for teacher, heads in predictions.items()
            for head, prediction in heads.items()
        }
        stacked = torch.stack(list(losses.values()))
        values = stacked.detach().tolist()
        if not all(map(math.isfinite, values)):
            raise TrainingError(f"the loss is not finite at step {self.step + 1}")
        self._optimizer.zero_grad(set_to_none=True)
        stacked.mean().backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()
        self.step += 1
        self._average()
        self.losses.append(dict(zip(losses, values, strict=True)))

    def _truth(self, teacher: str, head: str, index: Any) -> Tensor:
        return _rows(_target(self._train, teacher, head), index, self.device).float()

    def _average(self) -> None:
        """One EMA step; the decay starts low so that early rungs are not weighed down by the initial weights."""
        decay = min(self.config.ema_decay, (1 + self.step) / (10 + self.step))
        averaged, current = self._pairs
        torch._foreach_lerp_(averaged, current, 1 - decay)

    def _batch_index(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Images of the current step: consecutive slices of one permutation an epoch."""
        count, size = len(self._train.images), self.config.batch_size
        per_epoch = count // size
        epoch, position = divmod(self.step, per_epoch)
        order = np.random.default_rng((self.seed, epoch)).permutation(count)
        return np.sort(order[position * size : (position + 1) * size])


def predict(
    student: nn.Module, split: SplitTargets, device: str | torch.device, batch: int = 100
) -> Iterator[tuple[slice, Any]]:
    """Runs `student` over a split in order: yields (rows, its output on them), without gradients."""
    with torch.inference_mode():
        for start in range(0, len(split.images), batch):
            rows = slice(start, min(start + batch, len(split.images)))
            yield rows, student(normalise(_rows(split.images, rows, torch.device(device))))


def explained_variance(
    student: nn.Module, split: SplitTargets, device: str | torch.device
) -> dict[str, dict[str, float]]:
    """teacher -> head -> 1 - (squared error) / (variance of the teacher's targets), over the whole split.

    1 is a perfect copy, 0 is as good as the constant mean, negative is worse. The same for any rotation and
    common scale of the targets, so PHI-S and a global standardisation give the same number.
    """
    error: dict[tuple[str, str], float] = defaultdict(float)
    for rows, predictions in predict(student, split, device):
        for teacher, heads in predictions.items():
            for head, prediction in heads.items():
                truth = _rows(_target(split, teacher, head), rows, prediction.device).float()
                error[teacher, head] += float(((prediction.float() - truth) ** 2).sum())
    scores: dict[str, dict[str, float]] = defaultdict(dict)
    for (teacher, head), squared in error.items():
        truth_all = torch.from_numpy(np.asarray(_target(split, teacher, head), dtype=np.float32))
        channel_mean = truth_all.mean([d for d in range(truth_all.ndim) if d != 1], keepdim=True)
        scores[teacher][head] = 1.0 - squared / float(((truth_all - channel_mean) ** 2).sum())
    return dict(scores)


def _target(split: SplitTargets, teacher: str, head: str) -> Any:
    return split.summary[teacher] if head == "summary" else split.spatial[teacher]


def _rows(array: Any, index: Any, device: torch.device) -> Tensor:
    return torch.from_numpy(np.array(array[index])).to(device)  # a copy: the map itself is read-only


def _heads(backbone: nn.Module, targets: Targets, config: DistillConfig) -> TeacherHeads:
    dims = {name: HeadDims(t.summary_dim, t.spatial_dim) for name, t in targets.teachers.items()}
    grid = next(iter(targets.train.spatial.values())).shape[-1]
    summary_dim, spatial_dim = int(backbone.summary_dim), int(backbone.spatial_dim)  # type: ignore[arg-type]
    return TeacherHeads(summary_dim, spatial_dim, dims, config.head_width, grid)


def _adamw(student: nn.Module, config: DistillConfig) -> torch.optim.AdamW:
    """AdamW without weight decay on vectors (norms, biases, layer scales)."""
    parameters = [p for p in student.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.learning_rate, fused=True)


def _float_pairs(averaged: nn.Module, current: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
    """The floating-point parameters and buffers (BatchNorm statistics) of both modules, in the same order."""
    mine = [t.detach() for t in averaged.state_dict(keep_vars=True).values() if t.is_floating_point()]
    theirs = [t.detach() for t in current.state_dict(keep_vars=True).values() if t.is_floating_point()]
    return mine, theirs
