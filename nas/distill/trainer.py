"""Distill one backbone from cached teachers, in one process or in the ranks of nas.distill.distributed."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from itertools import compress
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from backbones import Backbone
from nas.cache.targets import Targets
from nas.distill import distributed
from nas.distill.adaptor import Adaptor
from nas.distill.balance import BALANCES, Balance
from nas.distill.batches import Batch, BatchLoader, BatchSource, CachedSource, Schedule
from nas.distill.convolutions import train_convolutions
from nas.distill.folded_heads import unfold, without_heads
from nas.distill.heads import HeadDims, Student, TeacherHeads
from nas.distill.losses import DistillationLoss
from nas.study.config import DistillConfig, Group

GRAD_NORM = "gradient norm"  # among a step's values
KEPT_STEPS = 3000  # whose losses are kept, so that the checkpoints of a long training do not grow
_STEPS_PER_LEASE = 5  # of one process; a device is offered to a waiting measurement this often
_CPU_STEPS_PER_LEASE = 1
_LEASE_S = 1.0  # about, of several ranks: every lease costs messages between them
_STOP, _STEPS = "asked to stop", "steps of the next lease"  # among the values that ranks exchange
ContextFactory = Callable[[], AbstractContextManager[Any]]  # of the lease on the devices, and of autocast
_Value = TypeVar("_Value")


class TrainingError(RuntimeError):
    """The training broke down, e.g. its loss is no longer finite."""


class DistillationModule(nn.Module):
    """Student, losses and their balance in one module: everything whose gradients the ranks share."""

    def __init__(self, student: Student, loss: DistillationLoss, balance: Balance, autocast: ContextFactory) -> None:
        super().__init__()
        self.student, self.balance = student, balance
        self._loss, self._autocast = loss, autocast

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the scalar to minimize, and the mean of each loss, detached."""
        teachers = list(dict.fromkeys(key.rpartition("/")[0] for key in batch.targets))
        with self._autocast():
            predictions = self.student(batch.images, teachers)
        for heads in predictions.values():
            heads["spatial"] = batch.with_targets(heads["spatial"])
        losses = self._loss(predictions, batch.targets)
        return self.balance(losses), {key: loss.detach().mean() for key, loss in losses.items()}


class StepValues:
    """Scalars of the steps since the last read, kept on the device: reading one makes the host wait for the device."""

    def __init__(self) -> None:
        self._names: list[tuple[str, ...]] = []
        self._values: list[Tensor] = []

    def append(self, names: Sequence[str], values: Tensor) -> None:
        """Keep the values (n,) of one step."""
        self._names.append(tuple(names))
        self._values.append(values)

    def read(self) -> list[dict[str, float]]:
        """Return every step's values, as means over the ranks, in one transfer, and forget them."""
        if not self._values:
            return []
        values = iter(distributed.all_reduce_mean(torch.cat(self._values)).tolist())
        steps = [{name: next(values) for name in names} for names in self._names]
        self._names, self._values = [], []
        return steps


class Distiller:
    """Trains a student on one split and keeps an exponential moving average (EMA) of its weights.

    The order of the images depends on `seed` alone, so all architectures of a study see the same batches.

    Args:
        backbone: any module with ``encode``, ``summary_dim`` and ``spatial_dim``; trained in place.
        targets: the cached teachers.
        config: the recipe.
        seed: of the heads' initial weights and of the order of the images.
        device: "cpu" or "cuda".
        source: images and targets to train on; None for the cached ones, which give the sizes and statistics anyway.
        adaptors: heads of an earlier training to start from, where they fit, see `without_heads`; None: fresh heads.
        lease: makes the context managers in which every few steps run; e.g. a `DeviceLease`. With several ranks the
            steps take about a second, else they are 5, on a CPU 1. `state_dict` is left to the caller.

    Attributes:
        student: backbone and heads under training.
        averaged: their EMA, in evaluation mode.
        step: number of steps done.
        images: number of images that all ranks have trained on since this object was made.
        losses: "teacher/head" -> loss of each of the last KEPT_STEPS steps; complete whenever `train_until` returns or
            calls `between`.
        grad_norms: the gradient's norm before clipping in each of these steps; empty without clipping.
        loss_names: all "teacher/head".
        angular_transforms: the transform of each "teacher/head" whose loss ignores length.
        stopping: whether any of several ranks was asked to stop in the last lease; the same on all ranks.
    """

    def __init__(
        self,
        backbone: nn.Module,
        targets: Targets,
        config: DistillConfig,
        *,
        seed: int,
        device: str = "cpu",
        source: BatchSource | None = None,
        adaptors: Mapping[str, Adaptor] | None = None,
        lease: ContextFactory = nullcontext,
    ) -> None:
        self.config, self.device, self._lease = config, indexed_device(device), lease
        torch.manual_seed(seed)
        loss = DistillationLoss(targets, config, self.device)
        self.student = Student(backbone, _heads(backbone, targets, config, loss))
        if adaptors is not None:
            fresh = without_heads(adaptors, targets.teachers, config.head_width)
            fitting = {name: adaptors[name] for name in targets.teachers if name not in fresh}
            unfold(fitting, self.student.heads, targets.teachers)
        self.student.to(self.device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
        if config.grad_checkpointing:
            backbone.set_grad_checkpointing(True)  # type: ignore[operator]
        self.averaged = copy.deepcopy(self.student).eval().requires_grad_(False)
        if self.device.type == "cpu":
            train_convolutions(self.student)
        distributed.convert_sync_batchnorm(self.student, self.device)
        self._statistics = distributed.RunningStatistics(self.student)
        self.loss_names, self.angular_transforms = tuple(loss.weights), loss.angular_transforms
        self._balance = BALANCES[config.balance](loss.weights).to(self.device)
        if config.compile:
            torch.compiler.reset()  # what is kept of earlier students of this process counts against Dynamo's limit
            self.student.compile()
        autocast = partial(torch.autocast, self.device.type, torch.bfloat16, enabled=config.precision == "bf16")
        groups = config.groups or (Group(tuple(targets.teachers), config.batch_size, (config.img_size,)),)
        module = DistillationModule(self.student, loss, self._balance, autocast)
        unused = _may_leave_unused(groups, targets, backbone)
        self._module = distributed.data_parallel(module, self.device, find_unused_parameters=unused)
        self._parameters = [p for m in (self.student, self._balance) for p in m.parameters() if p.requires_grad]
        self._optimizer = _adamw(self._parameters, self.student.backbone, config)
        self._averaged_pairs = _float_pairs(self.averaged, self.student)
        source = source or CachedSource(targets.train)
        schedule = Schedule(groups, len(source), seed, min(config.max_shift, targets.grid - 1))
        self._loader = BatchLoader(source, schedule, self.device)
        self._unread, self.stopping = StepValues(), False
        alone_on_gpu = distributed.world_size() == 1 and self.device.type != "cpu"
        self._steps_per_lease = _STEPS_PER_LEASE if alone_on_gpu else _CPU_STEPS_PER_LEASE
        self.step = self.images = 0
        self.losses: list[dict[str, float]] = []
        self.grad_norms: list[float] = []

    def train_until(
        self,
        step: int,
        between: Callable[[], None] = lambda: None,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        """Train until `step` steps are done.

        Args:
            step: number of steps of the whole training.
            between: called after every lease, and at once after a step in which the training is to stop.
            should_stop: tells whether this process is asked to stop. One process asks after every step. Several ranks
                exchange their answers once a lease; `stopping` has the result. `between` may then raise.

        Raises:
            TrainingError: a loss is not finite; the message names the step, the teacher and its head.
        """
        while self.step < step:
            with self._lease():
                steps = min(self._steps_per_lease, step - self.step)
                if distributed.world_size() == 1:
                    self._train_alone(steps, should_stop)
                else:
                    self._train_together(steps, should_stop)
            between()

    def _train_alone(self, steps: int, should_stop: Callable[[], bool]) -> None:
        """Take the steps of a lease, or those until the process is asked to stop."""
        for _ in range(steps):
            self.train_step()
            if should_stop():
                break
        self._read_losses()

    def _train_together(self, steps: int, should_stop: Callable[[], bool]) -> None:
        """Take the steps of a lease; with the losses, all ranks learn whether one is asked to stop, and the next steps.

        Rank 0 chooses how many there are, by the seconds that these took.
        """
        began_s = time.perf_counter()
        for done in range(1, steps + 1):
            self.train_step()
            if self.device.type == "cuda" and (done == steps or done % _STEPS_PER_LEASE == 0):
                torch.cuda.current_stream().synchronize()  # the batches of steps that wait for the device take memory
        step_s = (time.perf_counter() - began_s) / steps
        chosen = max(1, min(2 * self._steps_per_lease, round(_LEASE_S / step_s)))
        own = float(should_stop()), float(chosen if distributed.rank() == 0 else 0)
        self._unread.append((_STOP, _STEPS), torch.tensor(own, device=self.device))
        self._read_losses()

    def train_step(self) -> None:
        """Take one step; no value leaves the device."""
        for group in self._optimizer.param_groups:
            group["lr"] = self.config.learning_rate_at(self.step)
        self._optimizer.zero_grad(set_to_none=True)
        batch = self._loader[self.step]
        self.images += len(batch.images) * distributed.world_size()
        parts = batch.micro_batches(self.config.accumulate)
        with distributed.no_gradient_sync(self._module):
            means = [self._backward(part, 1 / len(parts)) for part in parts[:-1]]
        means.append(self._backward(parts[-1], 1 / len(parts)))
        names, values = list(means[0]), torch.stack([torch.stack(list(part.values())) for part in means]).mean(0)
        if self.config.max_grad_norm:
            norm = nn.utils.clip_grad_norm_(self._parameters, self.config.max_grad_norm)
            names, values = [*names, GRAD_NORM], torch.cat([values, norm[None]])
        self._unread.append(names, values)
        self._optimizer.step()
        self._balance.end_step()
        self._statistics.average()
        self.step += 1
        self.update_ema()

    def update_ema(self) -> None:
        """Move the averaged weights toward the student's by one step.

        The decay starts low, so that the initial weights do not weigh down early rungs.
        """
        decay = min(self.config.ema_decay, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(*self._averaged_pairs, 1 - decay)

    def mean_losses(self, since: int) -> dict[str, float]:
        """Return the mean of each loss over the last third of the steps since `since`; steadier than the last value.

        Of more than 3 x KEPT_STEPS steps it is the mean over the last KEPT_STEPS.
        """
        recent = _since(since, self.losses, self.step)
        return _means(recent[-max(1, (self.step - since) // 3) :])

    def means(self, since: int, until: int) -> dict[str, float]:
        """Return the mean of each loss, and of "gradient norm" with clipping, of steps `since` + 1 to `until`."""
        steps = until - since
        norms = [{GRAD_NORM: norm} for norm in _since(since, self.grad_norms, self.step)[:steps]]
        return _means(_since(since, self.losses, self.step)[:steps]) | _means(norms)

    @property
    def waiting_s(self) -> float:
        """Return the seconds that this process has waited for images and targets."""
        return self._loader.waiting_s

    def state_dict(self) -> dict[str, Any]:
        """Return all that resuming needs to give the same numbers: tensors and plain values.

        Raises:
            TrainingError: A weight is not finite: the losses tell of a bad step only in the step after it.
        """
        self._check_finite()
        state = {
            "step": self.step,
            "losses": self.losses,
            "grad_norms": self.grad_norms,
            "student": self.student.state_dict(),
            "averaged": self.averaged.state_dict(),
            "balance": self._balance.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "random": torch.get_rng_state(),
        }
        if self.device.type == "cuda":
            state["random_cuda"] = torch.cuda.get_rng_state(self.device)
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume from the `state_dict` of a distiller with the same arguments."""
        self.step, self.losses, self.grad_norms = int(state["step"]), list(state["losses"]), list(state["grad_norms"])
        self.student.load_state_dict(state["student"])
        self.averaged.load_state_dict(state["averaged"])
        self._balance.load_state_dict(state["balance"])
        self._optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["random"].cpu())
        if "random_cuda" in state and self.device.type == "cuda":
            torch.cuda.set_rng_state(state["random_cuda"].cpu(), self.device)

    def close(self) -> None:
        """End the reading ahead."""
        self._loader.close()

    def _check_finite(self) -> None:
        """Raise TrainingError where a weight or a running statistic is not finite."""
        values = [*self._averaged_pairs[1], *(p.detach() for p in self._balance.parameters())]
        if not torch.stack([value.isfinite().all() for value in values]).all():
            raise TrainingError(f"the weights are not finite after step {self.step}")

    def _backward(self, batch: Batch, share: float) -> dict[str, Tensor]:
        """Add the gradients of a batch, times `share`; return the mean of each loss."""
        total, means = self._module(batch)
        with _buffers_kept(self.student) if self.config.grad_checkpointing else nullcontext():
            (total * share).backward()
        return dict(means)

    def _read_losses(self) -> None:
        """Fetch the losses of the steps since the last call; TrainingError names the first that is not finite."""
        unread = self._unread.read()
        if _STOP in unread[-1]:
            means = unread.pop()
            self.stopping = means[_STOP] > 0
            self._steps_per_lease = round(means[_STEPS] * distributed.world_size())  # the other ranks have added 0
        for step, losses in enumerate(unread, start=self.step - len(unread) + 1):
            for name, value in losses.items():
                if not math.isfinite(value):
                    quantity = name if name == GRAD_NORM else f"loss of {name}"
                    raise TrainingError(f"the {quantity} is not finite at step {step}")
            if GRAD_NORM in losses:
                self.grad_norms.append(losses.pop(GRAD_NORM))
            self.losses.append(losses)
        del self.losses[:-KEPT_STEPS], self.grad_norms[:-KEPT_STEPS]


@contextmanager
def _buffers_kept(module: nn.Module) -> Iterator[None]:
    """Give the buffers of a module their values back after the block.

    A backward pass that computes activations again would update the running statistics of BatchNorms a second time.
    Our stages restore them themselves (`backbones.layers.stage.KeptStatistics`); timm's networks have no hook for that.
    """
    buffers = list(module.buffers())
    kept = [buffer.clone() for buffer in buffers]
    yield
    for buffer, value in zip(buffers, kept, strict=True):
        buffer.copy_(value)


def _since(step: int, values: Sequence[_Value], now: int) -> Sequence[_Value]:
    """Return the values of the steps after `step`, of a list that ends with step `now`."""
    return values[max(0, step - now + len(values)) :]


def _means(entries: Sequence[Mapping[str, float]]) -> dict[str, float]:
    names = dict.fromkeys(name for entry in entries for name in entry)
    return {name: float(np.mean([entry[name] for entry in entries if name in entry])) for name in names}


def indexed_device(device: str) -> torch.device:
    """Return the device with its index: which GPU is current belongs to a thread, and batches are read in others."""
    return torch.device("cuda", torch.cuda.current_device()) if device == "cuda" else torch.device(device)


def _may_leave_unused(groups: Sequence[Group], targets: Targets, backbone: nn.Module) -> bool:
    """Return whether a step can leave a head, the student's summary, or its last norm, without a gradient.

    With a neck and a summary token, neither the map nor the summary comes from the last norm.
    """
    if isinstance(backbone, Backbone) and backbone.neck is not None and backbone.summary_norm is not None:
        return True
    return not targets.train.summary or any(set(group.teachers) != set(targets.teachers) for group in groups)


def _heads(backbone: nn.Module, targets: Targets, config: DistillConfig, loss: DistillationLoss) -> TeacherHeads:
    dims = {}
    for name, teacher in targets.teachers.items():
        summary = targets.train.summary[name].shape[1] if name in targets.train.summary else 0
        dims[name] = HeadDims(summary, teacher.spatial.dims)
    grid = next(iter(targets.train.spatial.values())).shape[-1]
    summary_dim, spatial_dim = int(backbone.summary_dim), int(backbone.spatial_dim)  # type: ignore[arg-type]
    return TeacherHeads(summary_dim, spatial_dim, dims, config.head_width, grid, loss.transforms)


def _adamw(parameters: Sequence[nn.Parameter], backbone: nn.Module, config: DistillConfig) -> torch.optim.AdamW:
    """Build AdamW without weight decay on vectors (norms, biases, layer scales) and on what the backbone exempts."""
    names = backbone.no_weight_decay() if hasattr(backbone, "no_weight_decay") else ()  # type: ignore[operator]
    exempt = {id(parameter) for name, parameter in backbone.named_parameters() if name in names}
    decays = [parameter.ndim > 1 and id(parameter) not in exempt for parameter in parameters]
    groups = [
        {"params": list(compress(parameters, decays)), "weight_decay": config.weight_decay},
        {"params": [p for p, decay in zip(parameters, decays, strict=True) if not decay], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.learning_rate, fused=True)


def _float_pairs(averaged: nn.Module, current: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
    """Return the floating-point parameters and buffers (BatchNorm statistics) of both modules, in the same order.

    Of divided ones, this rank's parts. What has several names is there once.
    """
    values = (module.state_dict(keep_vars=True).values() for module in (averaged, current))
    pairs = {(id(a), id(c)): (a, c) for a, c in zip(*values, strict=True) if a.is_floating_point()}
    averages, currents = ([each.detach() for each in side] for side in zip(*pairs.values(), strict=True))
    return averages, currents
