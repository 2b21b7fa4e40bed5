"""Results of operators on the meta device by rule, where torch's own way there costs up to a millisecond of Python.

A rule speaks only of what it is sure of, the usual call in eval mode; for the rest it returns None, and torch decides
or raises its error. Every rule gives what torch gives: type, shape and strides, but for those of sides of length 1,
which nothing reads.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

aten = torch.ops.aten


def result(operator: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What `operator` returns on the meta device."""
    rule = RULES.get(operator)
    made = rule(*args, **kwargs) if rule is not None and _on_meta(args) else None
    return operator(*args, **kwargs) if made is None else made


def _on_meta(args: tuple[Any, ...]) -> bool:
    return all(arg.is_meta for arg in args if isinstance(arg, Tensor))


def _like(x: Tensor) -> Tensor:
    """What an elementwise operator makes of `x`: the same layout, without gaps."""
    extent = 1 + sum((side - 1) * stride for side, stride in zip(x.shape, x.stride(), strict=True))
    if extent != x.numel():
        return torch.empty_like(x)
    return torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device="meta")


def _made(x: Tensor, *shape: int) -> Tensor:
    """A contiguous tensor of the type of `x`; not by `new_empty`, which is Python on the meta device as well."""
    return torch.empty(shape, dtype=x.dtype, device="meta")


def _unary(x: Tensor, *args: Any, **kwargs: Any) -> Tensor | None:
    return _like(x) if x.is_floating_point() else None


def _in_place(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    return x


def _binary(a: Tensor, b: Any, *args: Any, **kwargs: Any) -> Tensor | None:
    if not a.is_floating_point():
        return None
    if isinstance(b, Tensor):
        aligned = zip(reversed(b.shape), reversed(a.shape), strict=False)
        fits = a.dtype == b.dtype and b.ndim <= a.ndim and all(side in (1, whole) for side, whole in aligned)
    else:
        fits = isinstance(b, int | float)
    return _like(a) if fits else None


def _softmax(x: Tensor, dim: int, *args: Any, **kwargs: Any) -> Tensor | None:
    plain = x.is_floating_point() and not kwargs and not any(args)
    return _made(x, *x.shape) if plain and -x.ndim <= dim < x.ndim else None


def _batch_norm(
    x: Tensor, weight: Any, bias: Any, mean: Any, variance: Any, training: bool, *args: Any
) -> tuple[Tensor, ...] | None:
    vectors = [v for v in (weight, bias, mean, variance) if v is not None]
    if training or x.ndim < 2 or any(v.shape != x.shape[1:2] or v.dtype != x.dtype for v in vectors):
        return None
    return _like(x), _made(x, x.shape[1]), _made(x, x.shape[1])


def _layer_norm(x: Tensor, shape: Any, weight: Any, bias: Any, eps: float) -> tuple[Tensor, ...] | None:
    rest = x.shape[: x.ndim - len(shape)]
    vectors = [v for v in (weight, bias) if v is not None]
    if x.dtype != torch.float32 or (*rest, *shape) != x.shape:
        return None
    if any(list(v.shape) != list(shape) or v.dtype != x.dtype for v in vectors):
        return None
    statistic = (*rest, *(1 for _ in shape))
    return _made(x, *x.shape), _made(x, *statistic), _made(x, *statistic)


def _addmm(bias: Tensor, a: Tensor, b: Tensor, **kwargs: Any) -> Tensor | None:
    if kwargs or a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[0] or bias.shape != b.shape[1:]:
        return None
    return _made(a, a.shape[0], b.shape[1]) if a.dtype == b.dtype == bias.dtype else None


def _convolution(
    x: Tensor, weight: Tensor, bias: Any, stride: Any, padding: Any, dilation: Any, transposed: bool, *args: Any
) -> Tensor | None:
    groups = args[-1]
    if transposed or x.ndim != 4 or x.shape[1] != weight.shape[1] * groups or weight.shape[0] % groups:
        return None
    if x.dtype != weight.dtype or not len(stride) == len(padding) == len(dilation) == 2:
        return None
    geometry = zip(x.shape[2:], weight.shape[2:], stride, padding, dilation, strict=True)
    sides = [(side + 2 * pad - step * (kernel - 1) - 1) // jump + 1 for side, kernel, jump, pad, step in geometry]
    return _made(x, x.shape[0], weight.shape[0], *sides) if min(sides) > 0 else None


def _resize(x: Tensor, size: Any, *args: Any) -> Tensor | None:
    plain = x.ndim == 4 and x.is_contiguous() and x.numel() and len(size) == 2 and min(size) > 0
    return _made(x, *x.shape[:2], *size) if plain else None


def _mean(x: Tensor, dim: Any, keepdim: bool = False, **kwargs: Any) -> Tensor | None:
    if kwargs or not dim or not x.is_floating_point() or not all(-x.ndim <= d < x.ndim for d in dim):
        return None
    reduced = {d % x.ndim for d in dim}
    if not x.is_contiguous() or len(reduced) < len(dim):
        return None
    return _made(x, *(1 if d in reduced else side for d, side in enumerate(x.shape) if keepdim or d not in reduced))


RULES: dict[Any, Callable[..., Any]] = {
    aten._safe_softmax.default: _softmax,
    aten._softmax.default: _softmax,
    aten.add.Tensor: _binary,
    aten.addmm.default: _addmm,
    aten.convolution.default: _convolution,
    aten.gelu.default: _unary,
    aten.hardswish.default: _unary,
    aten.mean.dim: _mean,
    aten.mul.Scalar: _binary,
    aten.mul.Tensor: _binary,
    aten.native_batch_norm.default: _batch_norm,
    aten.native_layer_norm.default: _layer_norm,
    aten.relu.default: _unary,
    aten.relu_.default: _in_place,
    aten.sigmoid.default: _unary,
    aten.silu.default: _unary,
    aten.silu_.default: _in_place,
    aten.sub.Tensor: _binary,
    aten.upsample_bicubic2d.default: _resize,
    aten.upsample_bilinear2d.default: _resize,
    aten.upsample_nearest2d.default: _resize,
}
