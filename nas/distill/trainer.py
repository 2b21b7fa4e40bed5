"""Distil one backbone from cached teachers, in one process or in the ranks of nas.distill.distributed."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nas.cache.targets import Targets
from nas.config import DistillConfig, Group
from nas.distill import distributed
from nas.distill.adaptor import Adaptor
from nas.distill.adaptors import unfold
from nas.distill.balance import BALANCES, Balance
from nas.distill.batches import Batch, Loader, Schedule
from nas.distill.heads import HeadDims, Student, TeacherHeads
from nas.distill.losses import Comparison

_STEPS_PER_SLOT = 5  # the device is offered to a waiting measurement this often
Slot = Callable[[], AbstractContextManager[Any]]


class TrainingError(RuntimeError):
    """The training broke down, e.g. its loss is no longer finite."""


class Objective(nn.Module):
    """Student, losses and their balance in one module: everything whose gradients the ranks share."""

    def __init__(self, student: Student, compare: Comparison, balance: Balance, autocast: Slot) -> None:
        super().__init__()
        self.student, self.balance = student, balance
        self._compare, self._autocast = compare, autocast

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """What to minimise, and the mean of each loss, detached."""
        teachers = list(dict.fromkeys(key.rpartition("/")[0] for key in batch.truth))
        with self._autocast():
            predictions = self.student(batch.images, teachers)
        losses = self._compare(predictions, batch.truth)
        return self.balance(losses), {key: loss.detach().mean() for key, loss in losses.items()}


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
        self.config, self.device, self._slot = config, _numbered(device), slot
        self._teachers = targets.teachers
        torch.manual_seed(seed)
        compare = Comparison(targets, config)
        self.student = Student(backbone, _heads(backbone, targets, config, compare))
        self.student.to(self.device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
        if config.grad_checkpointing:
            backbone.set_grad_checkpointing(True)  # type: ignore[operator]
        self.averaged = copy.deepcopy(self.student).eval().requires_grad_(False)
        distributed.synchronise_norms(self.student, self.device)
        self._statistics = distributed.RankStatistics(self.student)
        self._balance = BALANCES[config.balance](compare.weights).to(self.device)
        autocast = partial(torch.autocast, self.device.type, torch.bfloat16, enabled=config.precision == "bf16")
        groups = config.groups or (Group(tuple(targets.teachers), config.batch_size, (config.image_px,)),)
        self._objective = distributed.distributed(
            Objective(self.student, compare, self._balance, autocast),
            self.device,
            some_unused=_some_unused(groups, targets),
        )
        self._optimizer = _adamw([self.student, self._balance], config)
        self._pairs = _float_pairs(self.averaged, self.student)
        self._loader = Loader(targets.train, Schedule(groups, len(targets.train), seed), self.device)
        self.step = 0
        self.losses: list[dict[str, float]] = []  # one entry a step: "teacher/head" -> loss

    def begin_with(self, adaptors: Mapping[str, Adaptor]) -> None:
        """Takes the heads that an earlier training on the same targets left, before the first step."""
        for student in (self.student, self.averaged):
            unfold(adaptors, student.heads, self._teachers)

    def advance(self, to_step: int, between: Callable[[], None] = lambda: None) -> None:
        """Trains on to step `to_step`, calling `between` every few steps; TrainingError where a loss is not finite."""
        while self.step < to_step:
            with self._slot():
                distributed.meet()  # no rank computes before rank 0, which queues for all, has the device
                for _ in range(min(_STEPS_PER_SLOT, to_step - self.step)):
                    self._one_step()
            between()

    def mean_losses(self, since: int) -> dict[str, float]:
        """Mean of each loss over the last third of the steps since `since`; steadier than the last value."""
        recent = self.losses[since:]
        recent = recent[-max(1, len(recent) // 3) :]
        keys = dict.fromkeys(key for entry in recent for key in entry)
        return {key: float(np.mean([entry[key] for entry in recent if key in entry])) for key in keys}

    def state(self) -> dict[str, Any]:
        """All that a run needs to go on as if it had never stopped: tensors and plain values."""
        state = {
            "step": self.step,
            "losses": self.losses,
            "student": self.student.state_dict(),
            "averaged": self.averaged.state_dict(),
            "balance": self._balance.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "random": torch.get_rng_state(),
        }
        if self.device.type == "cuda":
            state["random_cuda"] = torch.cuda.get_rng_state(self.device)
        return state

    def restore(self, state: dict[str, Any]) -> None:
        """Inverse of `state`, for a distiller made with the same arguments."""
        self.step, self.losses = int(state["step"]), list(state["losses"])
        self.student.load_state_dict(state["student"])
        self.averaged.load_state_dict(state["averaged"])
        self._balance.load_state_dict(state["balance"])
        self._optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["random"].cpu())
        if "random_cuda" in state and self.device.type == "cuda":
            torch.cuda.set_rng_state(state["random_cuda"].cpu(), self.device)

    def close(self) -> None:
        """Ends the reading ahead."""
        self._loader.close()

    def _one_step(self) -> None:
        for group in self._optimizer.param_groups:
            group["lr"] = self.config.learning_rate * min(1.0, (self.step + 1) / self.config.warmup_steps)
        self._optimizer.zero_grad(set_to_none=True)
        parts = self._loader[self.step].micro(self.config.accumulate)
        with distributed.gradients_stay_here(self._objective):
            means = [self._backward(part, 1 / len(parts)) for part in parts[:-1]]
        means.append(self._backward(parts[-1], 1 / len(parts)))
        stacked = torch.stack([torch.stack(list(part.values())) for part in means]).mean(0)
        values = distributed.mean_of_ranks(stacked).tolist()
        if not all(map(math.isfinite, values)):
            raise TrainingError(f"the loss is not finite at step {self.step + 1}")
        self._optimizer.step()
        self._statistics.average()
        self.step += 1
        self._average()
        self.losses.append(dict(zip(means[0], values, strict=True)))

    def _backward(self, batch: Batch, share: float) -> dict[str, Tensor]:
        """Adds the gradients of a batch, times `share`; returns the mean of each loss."""
        total, means = self._objective(batch)
        (total * share).backward()
        return dict(means)

    def _average(self) -> None:
        """One EMA step; the decay starts low so that early rungs are not weighed down by the initial weights."""
        decay = min(self.config.ema_decay, (1 + self.step) / (10 + self.step))
        averaged, current = self._pairs
        torch._foreach_lerp_(averaged, current, 1 - decay)


def _numbered(device: str) -> torch.device:
    """The device with its number: which one is current belongs to a thread, and batches are read in others."""
    return torch.device("cuda", torch.cuda.current_device()) if device == "cuda" else torch.device(device)


def _some_unused(groups: Sequence[Group], targets: Targets) -> bool:
    """Whether a step can leave a head, or the student's summary, without a gradient."""
    return not targets.train.summary or any(set(group.teachers) != set(targets.teachers) for group in groups)


def _heads(backbone: nn.Module, targets: Targets, config: DistillConfig, compare: Comparison) -> TeacherHeads:
    dims = {}
    for name, teacher in targets.teachers.items():
        summary = targets.train.summary[name].shape[1] if name in targets.train.summary else 0
        dims[name] = HeadDims(summary, teacher.spatial.dims)
    grid = next(iter(targets.train.spatial.values())).shape[-1]
    summary_dim, spatial_dim = int(backbone.summary_dim), int(backbone.spatial_dim)  # type: ignore[arg-type]
    return TeacherHeads(summary_dim, spatial_dim, dims, config.head_width, grid, compare.spaces)


def _adamw(modules: list[nn.Module], config: DistillConfig) -> torch.optim.AdamW:
    """AdamW without weight decay on vectors (norms, biases, layer scales)."""
    parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
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
