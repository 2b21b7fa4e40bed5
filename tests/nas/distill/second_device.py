"""A device other than the CPU, on a machine that has none: its tensors are computed by the CPU's own operators.

An operator refuses tensors of two devices, as on CUDA. It also refuses the CPU's indices and tensors of one number,
which CUDA takes: the trainings need none, and a buffer that was forgotten in a move looks like them. The device is
PyTorch's PrivateUse1, which a process keeps to its end, so tests run in one of their own.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.library import Library, fallthrough_kernel
from torch.utils._pytree import tree_map_only
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend

from backbones import build
from backbones.fuse import fuse
from nas.cache import open_targets
from nas.cache.targets import Targets, TeacherTargets
from nas.distill import batches
from nas.distill.batches import Schedule
from nas.distill.evaluation import explained_variance as evaluation
from nas.distill.evaluation.pictures import contact_sheet
from nas.distill.evaluation.tasks import student_metrics
from nas.distill.folded_heads import fold
from nas.distill.live import LiveSource, LiveTeachers
from nas.distill.trainer import Distiller
from nas.study.config import DistillConfig, Group
from search_space import ArchSpec, preset
from tests.nas.distill.targets_builder import standardizer, two_teachers

NAME = "otherdevice"
DEVICE = f"{NAME}:0"
aten = torch.ops.aten
COPIES = {aten.copy_.default, aten._to_copy.default, aten._foreach_copy_.default}
IN_BF16 = ("addmm", "baddbmm", "bmm", "conv2d", "linear", "matmul", "mm", "scaled_dot_product_attention")  # by autocast
_libraries: list[Library] = []  # which take their operators along when they go


class Elsewhere(Tensor):
    """A tensor of the second device.

    Attributes:
        inner: the tensor of the CPU that has its numbers.
    """

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> Elsewhere:
        layout = {"strides": inner.stride(), "storage_offset": inner.storage_offset(), "dtype": inner.dtype}
        with torch.inference_mode(inner.is_inference()):  # a view of a tensor from outside of the mode is none of it
            made = Tensor._make_wrapper_subclass(cls, inner.size(), device=DEVICE, **layout)
        made.inner = inner
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return computed(func, *args, **(kwargs or {}))

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.inner})"


def computed(operator: Any, *args: Any, **kwargs: Any) -> Any:
    """Return what an operator returns, on its tensors' device or on the one it names.

    Raises:
        RuntimeError: The tensors are on two devices.
    """
    tensors: list[Tensor] = []

    def inner(tensor: Tensor) -> Tensor:
        tensors.append(tensor)
        return tensor.inner if isinstance(tensor, Elsewhere) else tensor

    args, kwargs = mapped(args, inner), {name: mapped(value, inner) for name, value in kwargs.items()}
    there = {id(tensor.inner): tensor for tensor in tensors if isinstance(tensor, Elsewhere)}
    here = [tensor for tensor in tensors if not isinstance(tensor, Elsewhere)]
    if there and here and operator not in COPIES:
        raise RuntimeError(f"{operator}: tensors of two devices: {[(t.device, tuple(t.shape)) for t in tensors]}")
    target = torch.device(kwargs.get("device") or (tensors[0].device if tensors else DEVICE))
    if kwargs.get("device") and target.type == NAME:
        kwargs["device"] = "cpu"
    found = operator(*args, **kwargs)
    if any(tensor.shape != tensor.inner.shape for tensor in there.values()):
        raise NotImplementedError(f"{operator} changes the size of a tensor in place")
    if target.type != NAME:
        return found
    return mapped(found, lambda tensor: there[id(tensor)] if id(tensor) in there else Elsewhere(tensor))


def mapped(values: Any, change: Callable[[Tensor], Any]) -> Any:
    """Return nested values with every tensor changed; several times as fast as PyTorch's own trees."""
    if isinstance(values, list | tuple):
        return type(values)([mapped(value, change) for value in values])
    return change(values) if isinstance(values, Tensor) else values


class Backend(_DummyBackendModule):
    """What PyTorch asks a device for, in autocast and when it computes activations again."""

    _initialized = True
    get_rng_state = staticmethod(lambda device=None: torch.get_rng_state())
    set_rng_state = staticmethod(lambda state, device=None: torch.set_rng_state(state))

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16]

    @contextmanager
    def device(self, index: int) -> Iterator[None]:
        yield


def install() -> None:
    """Give this process the device, to which batches are copied as to a GPU."""
    _setup_privateuseone_for_python_backend(NAME, Backend())
    every, some = Library("_", "IMPL"), Library("aten", "IMPL")
    every.fallback(computed, "PrivateUse1")
    every.fallback(fallthrough_kernel, "AutocastPrivateUse1")
    for arange in (aten.arange.default, aten.arange.start, aten.arange.start_step):
        some.impl(arange, partial(computed, arange), "PrivateUse1")  # else PyTorch resizes
    for name in IN_BF16:
        some.impl(name, in_bf16(getattr(aten, name)), "AutocastPrivateUse1")
    _libraries.extend((every, some))
    for module in (batches, evaluation):
        module.read_rows = partial(read_rows_there, batches.read_rows)
    torch.set_num_threads(1)


def read_rows_there(read_rows: Callable[..., Tensor], array: Any, index: Any, device: str = "cpu") -> Tensor:
    """Return rows on a device; the product copies to CUDA alone."""
    return read_rows(array, index).to(device)


def in_bf16(operator: Any) -> Callable[..., Any]:
    """Return the operator as autocast calls it."""
    without = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastPrivateUse1)

    def narrow(tensor: Tensor) -> Tensor:
        return tensor.bfloat16() if tensor.dtype == torch.float32 else tensor

    def called(*args: Any, **kwargs: Any) -> Any:
        with torch._C._ExcludeDispatchKeyGuard(without):
            return operator(*mapped(args, narrow), **{name: mapped(value, narrow) for name, value in kwargs.items()})

    return called


def accepted() -> list[str]:
    """Return which calls with a tensor of the CPU the device takes."""
    there, here, found = torch.ones(2, 2, device=DEVICE), torch.ones(2, 2), []
    calls: dict[str, Callable[[], Any]] = {
        "sum": lambda: there + here,
        "sum in place": lambda: there.add_(here),
        "product": lambda: here @ there,
        "stack": lambda: torch.stack([there, here]),
        "index": lambda: there[torch.tensor([0])],
        "mask": lambda: there.masked_fill_(here > 0, 0.0),
        "each of a list": lambda: torch._foreach_lerp_([there], [here], 0.5),
        "number": lambda: there * torch.tensor(2.0),
        "copy": lambda: there.copy_(here),
    }
    for name, call in calls.items():
        with suppress(RuntimeError):
            call()
            found.append(name)
    return found


@cache
def targets() -> Targets:
    """Return targets of two teachers whose features have means, also outside of the kept directions."""
    colour, mean = standardizer(12, 8, seed=0), standardizer(6, 4, seed=1)
    teachers = {"colour": TeacherTargets("1", colour, colour), "mean": TeacherTargets("2", None, mean)}
    return replace(two_teachers(Path()), teachers=teachers)


def distiller(config: DistillConfig, device: str) -> Distiller:
    torch.manual_seed(0)
    return Distiller(build(preset("eradio_femto")), targets(), config, seed=0, device=device)


def trained(config: DistillConfig, device: str) -> dict[str, Any]:
    """Return the numbers of a training, and of its averaged weights on the device and on the CPU."""
    run = distiller(config, device)
    run.train_until(config.rung_steps[-1])
    run.close()
    explained = [
        evaluation.explained_variance(student, targets().val, place, run.angular_transforms)
        for student, place in ((run.averaged, device), (copy.deepcopy(run.averaged).to("cpu"), "cpu"))
    ]
    return {"losses": run.losses, "norms": run.grad_norms, "explained": explained}


def restored(config: DistillConfig, device: str) -> tuple[Any, Any]:
    """Return the losses of a training in one go, and of one that was restored before its last step."""
    whole, begun, run = (distiller(config, device) for _ in range(3))
    last = config.rung_steps[-1]
    begun.train_until(last - 1)
    state = tree_map_only(Tensor, lambda tensor: tensor.cpu(), begun.state_dict())  # as a checkpoint is read
    for each in (whole, run):
        if each is run:
            run.load_state_dict(state)
        each.train_until(last)
    for each in (whole, begun, run):
        each.close()
    return whole.losses, run.losses


def evaluated(device: str) -> dict[str, Any]:
    """Return what a rung tells of an untrained student, and its heads folded for export."""
    student = distiller(DistillConfig(img_size=64, standardization="raw"), device).averaged
    sheet = contact_sheet(student, targets(), device)
    heads = fold(student.heads, targets().teachers, student.stride_at(64))
    weights = {name: value.cpu() for each in heads.values() for name, value in each.state_dict().items()}
    return {"metrics": student_metrics(student, targets(), device), "heads": weights, "sheet": sheet.tiles.astype(int)}


def live_batch(root: Path, device: str, teachers_at: tuple[str, ...] = ()) -> dict[str, Tensor]:
    """Return the images and the targets of a batch of live teachers, from the student's device."""
    settings = LiveTeachers("builtin", 8, "hed", root, devices=teachers_at, augment=False)
    whole = open_targets("builtin", "hed", root=root, train_images=8, val_images=4, image_px=64, grid=4, seed=0)
    group = Group(("hed",), 8, (32,))
    source = LiveSource(settings, whole, torch.device(device))
    plan = Schedule((group,), len(source), 0)[0]
    batch = source.read(plan, plan.rows, torch.device(device))
    found = {"images": batch.images, **batch.targets}
    assert {str(tensor.device) for tensor in found.values()} == {device}
    return {name: tensor.cpu() for name, tensor in found.items()}


def features(spec: ArchSpec, device: str) -> list[Tensor]:
    """Return a backbone's outputs and gradients in training, and its outputs when it is fused, on another size."""
    torch.manual_seed(0)
    model = build(spec).to(device)
    images = torch.rand(2, 3, 96, 96)
    outputs = [*model.train().encode(images[..., :64, :64].to(device))]
    sum(each.square().sum() for each in outputs).backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    fused = fuse(model)
    with torch.inference_mode():
        outputs += [*fused.encode(images.to(device))]
    return [each.detach().cpu() for each in (*outputs, *gradients)]
