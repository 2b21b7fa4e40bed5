"""The student: a backbone with adaptor heads for every teacher. Heads are dropped after distillation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from backbones import Features
from nas.cache.grid import to_grid
from nas.cache.standardize import channels_of_targets
from nas.distill.adaptor import map_stride, mlp, module_name, on_grid
from nas.distill.losses import TargetTransform
from nas.measure.memory import out_of_memory
from nas.study.config import SearchConfig
from search_space.arch import SIZE_MULTIPLE_PX

NARROW = 2  # times a head's width, the channels of a map's targets above which the head is narrow
Predictions = dict[str, dict[str, Tensor]]  # teacher -> {"summary": (B, k), "spatial": (B, k, grid, grid)}


def mlp_macs(width_in: int, hidden: int, width_out: int) -> int:
    """Return the multiply-accumulates of an `mlp` for one vector."""
    return hidden * (width_in + width_out)


def narrow_heads(widths: Mapping[str, tuple[int, int]], config: SearchConfig) -> str:
    """Return a warning about heads that are narrow for their teachers; "" where there are none.

    The answers of a head lie in as many directions as it has hidden units. A head is narrow where the targets of its
    teacher's map have more than `NARROW` times as many channels: those of the built-in teachers have up to 140, whose
    variance lies in 128 directions to 99.4 %.

    Args:
        widths: Channels of each teacher's (summary, spatial) outputs.
        config: Settings of the search.
    """
    head_width = config.distill.head_width
    channels = {name: spatial for name, (_, spatial) in channels_of_targets(widths, config).items()}
    narrow = {name: count for name, count in channels.items() if count > NARROW * head_width}
    if not narrow:
        return ""
    fitting = 2 ** (max(narrow.values()) - 1).bit_length()
    listed = ", ".join(f"{name} ({count})" for name, count in narrow.items())
    return (
        f"heads of {head_width} hidden units (head_width) learn at most {head_width} directions of a teacher's map, and"
        f" the targets have about as many channels as in brackets: {listed}; give --distill head_width={fitting}"
    )


class HeadDims(NamedTuple):
    """Widths of one teacher's standardized targets; `summary` is 0 for a teacher without one (SAM)."""

    summary: int
    spatial: int


class TeacherHeads(nn.Module):
    """A summary head (where the teacher has a summary) and a spatial head for every teacher.

    Every head is initialized so that its first answers lie near the teacher's mean feature, in whatever space its loss
    uses. An answer far from that mean would make the angular loss of a teacher with a narrow cone many times larger
    than the losses of the others.

    Args:
        summary_dim: width of the student's summary.
        spatial_dim: width of the student's map.
        teachers: teacher name -> widths of its targets.
        hidden: hidden width of every head.
        grid: side of the targets' spatial grid; the student's map is resized to it.
        transforms: "teacher/head" -> the space in which the head answers (default: PHI-S, as targets are stored).
    """

    def __init__(
        self,
        summary_dim: int,
        spatial_dim: int,
        teachers: Mapping[str, HeadDims],
        hidden: int,
        grid: int,
        transforms: Mapping[str, TargetTransform] | None = None,
    ) -> None:
        super().__init__()
        self.grid = grid
        self.names = tuple(teachers)  # a teacher's name may hold dots, a module's may not
        self.summary = nn.ModuleDict(
            {module_name(name): mlp(summary_dim, hidden, d.summary) for name, d in teachers.items() if d.summary}
        )
        self.spatial = nn.ModuleDict(
            {module_name(name): mlp(spatial_dim, hidden, d.spatial) for name, d in teachers.items()}
        )
        keys = [f"{name}/{head}" for name in teachers for head in ("summary", "spatial")]
        self.transforms = dict.fromkeys(keys, TargetTransform()) | dict(transforms or {})
        for name in teachers:
            for kind, heads in (("summary", self.summary), ("spatial", self.spatial)):
                if module_name(name) in heads:
                    last = cast(nn.Linear, cast(nn.Sequential, heads[module_name(name)])[-1])
                    self.transforms[f"{name}/{kind}"].move(last)

    def forward(self, features: Features, teachers: Sequence[str] | None = None) -> Predictions:
        """Return the answers of the heads of all or the named teachers, each in its own space."""
        tokens = to_grid(features.spatial, self.grid).flatten(2).transpose(1, 2)  # (B, grid^2, C)
        predictions: Predictions = {}
        for name in self.names if teachers is None else teachers:
            key = module_name(name)
            spatial = self.spatial[key](tokens).transpose(1, 2).reshape(len(tokens), -1, self.grid, self.grid)
            predictions[name] = {"spatial": spatial}
            if key in self.summary:
                predictions[name] = {"summary": self.summary[key](features.summary), "spatial": spatial}
        return predictions

    def predict_targets(self, features: Features) -> Predictions:
        """Return the heads' answers as PHI-S targets, as the cache stores them, in float32."""
        return {
            teacher: {
                head: self.transforms[f"{teacher}/{head}"].invert(values.float()) for head, values in heads.items()
            }
            for teacher, heads in self(features).items()
        }

    def predict_summary(self, summary: Tensor, teacher: str) -> Tensor:
        """Map the student's summary (B, C) to the PHI-S targets (B, k) of a teacher that has a summary."""
        answer = self.summary[module_name(teacher)](summary)
        return self.transforms[f"{teacher}/summary"].invert(answer.float())


class Student(nn.Module):
    """A backbone with its heads: images to predictions of every teacher's targets."""

    def __init__(self, backbone: nn.Module, heads: TeacherHeads) -> None:
        super().__init__()
        self.backbone = backbone
        self.heads = heads

    def forward(self, images: Tensor, teachers: Sequence[str] | None = None) -> Predictions:
        """Map (B, 3, S, S) normalized images to the heads' answers, each in its own space."""
        predictions: Predictions = self.heads(self.encode(images), teachers)
        return predictions

    def encode(self, images: Tensor) -> Features:
        """Return the backbone's features of (B, 3, S, S) normalized images, the map cut to what covers them.

        At stride 64 a map of 224 px has four places a side, of which the last ones reach beyond the image.
        """
        features: Features = self.backbone.encode(images)  # type: ignore[operator]
        stride = map_stride(features.spatial, self._declared_stride, images)
        sides = zip(features.spatial.shape[2:], images.shape[2:], strict=True)
        if stride is None or all(side * stride <= px for side, px in sides):
            return features
        return Features(features.summary, on_grid(features.spatial, stride, images))

    @torch.inference_mode()
    def stride_at(self, image_px: int) -> int | None:
        """Return the `map_stride` of the backbone's map that holds for images of this side and of other sides.

        None where it holds by chance at this side: a network that resizes its tokens covers images of the next side in
        another way. Of a network of one fixed size, it is that of this side.
        """
        stride = self._map_stride(image_px)
        try:
            return stride if self._map_stride(image_px + SIZE_MULTIPLE_PX) == stride else None
        except (RuntimeError, AssertionError, ValueError) as error:  # raised by timm's networks of a fixed size
            if out_of_memory(error):
                raise
            return stride

    def _map_stride(self, image_px: int) -> int | None:
        images = torch.zeros(1, 3, image_px, image_px, device=next(self.parameters()).device)
        return map_stride(self.backbone.encode(images).spatial, self._declared_stride, images)  # type: ignore[operator]

    @property
    def _declared_stride(self) -> int:
        return int(self.backbone.spatial_stride)  # type: ignore[arg-type]

    def predict_targets(self, images: Tensor) -> Predictions:
        """Map (B, 3, S, S) normalized images to PHI-S targets, as the cache stores them."""
        return self.heads.predict_targets(self.encode(images))


def normalize(images: Tensor) -> Tensor:
    """Convert uint8 (B, 3, S, S) to channels-last float in about [-2, 2] by the students' (x / 255 - 0.5) / 0.25."""
    return images.to(torch.float32, memory_format=torch.channels_last).sub_(127.5).div_(63.75)
