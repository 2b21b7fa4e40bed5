"""Convolutions of a training on a CPU, where oneDNN has no fast gradient of the weights for small maps.

For a kernel that is larger than the map it multiplies one matrix for each image and group, and takes up to 50 times
the time of the forward pass; in bf16 any depthwise kernel larger than 3x3 takes as long. A smaller dense one with a
stride takes two to five times. Here the same sums are a few large products, or a convolution that oneDNN is fast at.
Results differ by rounding alone.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_DEPTHWISE_SIDE = 32  # of a map up to which the gradient of a large depthwise kernel is a convolution
_COLUMNS_PLACES = 16  # places of the output of a strided convolution up to which the columns of its patches pay
_gradients = torch.ops.aten.convolution_backward


class TrainedConv2d(nn.Conv2d):
    """A convolution that computes the gradients on a CPU in the faster of several ways.

    The shapes alone decide which way is taken, so that a resumed training repeats the numbers.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Return the convolution of maps (B, C, H, W)."""
        if not _is_trained_on_cpu(input, self.weight):
            return super().forward(input)
        if torch.is_autocast_enabled("cpu"):
            if not _is_slow_depthwise(self, input):
                return super().forward(input)
            lower = torch.get_autocast_dtype("cpu")
            return self._own(input.to(lower), self.weight.to(lower))
        if _is_product(self, input):
            return _patch_product(self, input)
        if not _is_slow(self, input):
            return super().forward(input)
        return self._own(input, self.weight)

    def _own(self, x: Tensor, weight: Tensor) -> Tensor:
        y: Tensor = _Convolution.apply(x, weight, self.stride[0], self.padding[0], self.groups)  # type: ignore[no-untyped-call]
        return y if self.bias is None else y + self.bias.view(-1, 1, 1).to(y)


def train_convolutions(module: nn.Module) -> None:
    """Let the plain convolutions in a module be `TrainedConv2d`; their parameters and names stay."""
    for part in module.modules():
        if type(part) is nn.Conv2d and _is_square(part):
            part.__class__ = TrainedConv2d


def _is_square(conv: nn.Conv2d) -> bool:
    """Return whether kernel, stride and padding have one number each, and nothing else is unusual."""
    if isinstance(conv.padding, str) or conv.padding_mode != "zeros" or conv.dilation != (1, 1):
        return False
    return all(pair[0] == pair[1] for pair in (conv.kernel_size, conv.stride, conv.padding))


def _is_trained_on_cpu(x: Tensor, weight: Tensor) -> bool:
    """Return whether gradients of maps will be computed on a CPU; images need none and stay with oneDNN."""
    return x.device.type == "cpu" and x.requires_grad and torch.is_grad_enabled() and weight.requires_grad


def _is_product(conv: nn.Conv2d, x: Tensor) -> bool:
    """Return whether the convolution is a matrix product on patches that do not overlap."""
    kernel = conv.kernel_size[0]
    tiles = kernel == conv.stride[0] and conv.padding[0] == 0 and conv.groups == 1
    # With a 1x1 kernel a step takes the same time either way.
    return kernel > 1 and tiles and x.shape[2] % kernel == x.shape[3] % kernel == 0


def _patch_product(conv: nn.Conv2d, x: Tensor) -> Tensor:
    b, c, h, w = x.shape
    kernel = conv.kernel_size[0]
    tokens = x.permute(0, 2, 3, 1).reshape(b, h // kernel, kernel, w // kernel, kernel, c).transpose(2, 3)
    weight = conv.weight.permute(0, 2, 3, 1).reshape(conv.out_channels, -1)
    y = F.linear(tokens.reshape(-1, kernel * kernel * c), weight, conv.bias)
    return y.view(b, h // kernel, w // kernel, conv.out_channels).permute(0, 3, 1, 2)


def _is_slow(conv: nn.Conv2d, x: Tensor) -> bool:
    """Return whether oneDNN's gradient of the weights is slower than that of `_Convolution`."""
    kernel, stride = conv.kernel_size[0], conv.stride[0]
    if conv.groups > 1:
        return _is_slow_depthwise(conv, x)
    if stride == 1:
        return min(x.shape[2:]) < kernel
    return (x.shape[2] // stride) * (x.shape[3] // stride) <= _COLUMNS_PLACES


def _is_slow_depthwise(conv: nn.Conv2d, x: Tensor) -> bool:
    """Return whether the kernel is depthwise, and larger than 3x3 or than the map."""
    kernel, sides = conv.kernel_size[0], x.shape[2:]
    depthwise = conv.groups == conv.in_channels == conv.out_channels and conv.stride[0] == 1
    small = min(sides) > 1 and max(sides) <= _DEPTHWISE_SIDE
    return depthwise and kernel == 2 * conv.padding[0] + 1 and small and kernel > min(3, *sides)  # type: ignore[operator]


class _Convolution(torch.autograd.Function):
    """A convolution without bias with its own gradient of the weights."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int, padding: int, groups: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.geometry = stride, padding, groups
        return F.conv2d(x, weight, None, stride, padding, 1, groups)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        stride, padding, groups = ctx.geometry
        grad = grad.contiguous(memory_format=torch.channels_last)
        (grad_x, _, _) = _call(grad, x, weight, stride, padding, groups, (True, False, False))
        if groups == 1:
            return grad_x, _by_columns(x, grad, weight.shape[2], stride, padding), None, None, None
        return grad_x, _depthwise(x, grad, weight.shape[2], padding), None, None, None


def _call(
    grad: Tensor, x: Tensor, weight: Tensor, stride: int, padding: int, groups: int, wanted: tuple[bool, bool, bool]
) -> tuple[Tensor, Tensor, Tensor]:
    """Return oneDNN's gradients, as far as `wanted`, of x, the weight and a bias."""
    sizes = [stride, stride], [padding, padding], [1, 1]
    gradients: tuple[Tensor, Tensor, Tensor] = _gradients(grad, x, weight, None, *sizes, False, [0, 0], groups, wanted)
    return gradients


def _by_columns(x: Tensor, grad: Tensor, kernel: int, stride: int, padding: int) -> Tensor:
    """Return the gradient of a dense kernel: one product of the output's gradient and the patches of all images."""
    rows, columns = grad.shape[2:]
    padded = F.pad(x.permute(0, 2, 3, 1), (0, 0, *[padding] * 4)).contiguous()
    b, _, _, c = padded.shape
    by_image, by_row, by_column, _ = padded.stride()
    patches = padded.as_strided(
        (b, rows, columns, kernel, kernel, c), (by_image, by_row * stride, by_column * stride, by_row, by_column, 1)
    )
    output = grad.permute(0, 2, 3, 1).reshape(-1, grad.shape[1])
    weight = output.t() @ patches.reshape(len(output), -1)
    return weight.view(grad.shape[1], kernel, kernel, c).permute(0, 3, 1, 2)


def _depthwise(x: Tensor, grad: Tensor, kernel: int, padding: int) -> Tensor:
    """Return the gradient of a depthwise kernel: each channel of each image is convolved with its gradient."""
    b, c, h, w = x.shape
    maps = x.permute(2, 3, 0, 1).reshape(1, h, w, b * c).permute(0, 3, 1, 2)
    kernels = grad.permute(2, 3, 0, 1).reshape(h, w, b * c).permute(2, 0, 1).unsqueeze(1)
    each: Tensor = F.conv2d(maps, kernels, padding=padding, groups=b * c)
    return each.view(b, c, kernel, kernel).sum(0).unsqueeze(1)
