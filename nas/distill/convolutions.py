"""Convolutions of a training on a CPU, where oneDNN has no fast gradient of the weights for small maps.

For a kernel that is larger than the map it multiplies one matrix for each image and group, and takes up to 50 times
the time of the forward pass; for a smaller one with a stride, two to five times. Here the same sums are a few large
products, or a convolution that oneDNN is fast at. Results differ by rounding alone.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_COLUMNS_PLACES = 16  # places of the output of a strided convolution up to which the columns of its patches pay
_gradients = torch.ops.aten.convolution_backward


class TrainedConv2d(nn.Conv2d):
    """A convolution that computes the gradients in fp32 on a CPU in the faster of several ways.

    The shapes alone decide which way is taken, so that a resumed training repeats the numbers.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Return the convolution of maps (B, C, H, W)."""
        if not _is_trained_in_fp32(input, self.weight):
            return super().forward(input)
        if _is_product(self, input):
            return _patch_product(self, input)
        if not _is_slow(self, input):
            return super().forward(input)
        geometry = self.stride[0], self.padding[0], self.groups
        y: Tensor = _Convolution.apply(input, self.weight, *geometry)  # type: ignore[no-untyped-call]
        return y if self.bias is None else y + self.bias.view(-1, 1, 1)


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


def _is_trained_in_fp32(x: Tensor, weight: Tensor) -> bool:
    """Return whether gradients of fp32 maps will be computed on a CPU; images need none and stay with oneDNN."""
    return (
        x.device.type == "cpu"
        and x.requires_grad
        and torch.is_grad_enabled()
        and weight.requires_grad
        and x.dtype == weight.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
    )


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
    kernel, stride, padding = conv.kernel_size[0], conv.stride[0], conv.padding[0]
    larger = min(x.shape[2:]) < kernel  # than the map
    if conv.groups == 1:
        return larger if stride == 1 else (x.shape[2] // stride) * (x.shape[3] // stride) <= _COLUMNS_PLACES
    depthwise = conv.groups == conv.in_channels == conv.out_channels
    return larger and depthwise and stride == 1 and kernel == 2 * padding + 1  # type: ignore[operator]


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
        return grad_x, _depthwise(x, grad, weight, padding), None, None, None


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


def _depthwise(x: Tensor, grad: Tensor, weight: Tensor, padding: int) -> Tensor:
    """Return the gradient of a depthwise kernel that is larger than the map."""
    b, c, h, w = x.shape
    kernel = weight.shape[2]
    if kernel == 3:  # padded before, the map is as large as the kernel, and oneDNN has a kernel of its own for it
        return _call(grad, F.pad(x, [padding] * 4), weight, 1, 0, c, (False, True, False))[1]
    # Each channel of each image is a channel: the convolution of its map with its gradient.
    maps = x.permute(2, 3, 0, 1).reshape(1, h, w, b * c).permute(0, 3, 1, 2)
    kernels = grad.permute(2, 3, 0, 1).reshape(h, w, b * c).permute(2, 0, 1).unsqueeze(1)
    each: Tensor = F.conv2d(maps, kernels, padding=padding, groups=b * c)
    return each.view(b, c, kernel, kernel).sum(0).unsqueeze(1)
