"""Load the trained model to export, for all formats; define the report that a format returns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from backbones import Network, TimmBackbone, WeightsError, load
from backbones.weights import checksum_of
from nas.analysis.run_files import TrainedWeights
from nas.distill.adaptor import Adaptor
from nas.distill.folded_heads import load_heads
from nas.export import ExportError
from nas.export.arguments import ALL_HEADS
from nas.study.records import TrialRecord
from search_space import network_spec

# As in `nas.distill.heads.normalize`, the students' convention.
MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
WEIGHTS, HEADS = "model.safetensors", "heads.safetensors"


@dataclass(frozen=True)
class ExportSource:
    """A trained model, in eval mode and not fused, with the heads of the requested teachers."""

    trial: TrialRecord
    weights: TrainedWeights
    model: Network
    adaptors: Mapping[str, Adaptor]  # by teacher
    image_px: int  # side of the images that the folder is for: that of the distillation, or --img-size


@dataclass(frozen=True)
class OutputShapes:
    """What a model returns for images of one size; the names of its fields are those in export.json."""

    image_px: int
    summary_width: int  # C of the summary (B, C)
    summary: str  # where it comes from, in words
    map_width: int  # D of the map (B, D, h, w), or of tokens (B, h * w, D)
    map_stride: int  # in px
    map_sides: tuple[int, int]  # h and w at `image_px`
    tokens: int  # h * w

    @property
    def line(self) -> str:
        """Return the shapes on a line for people."""
        rows, columns = self.map_sides
        return (
            f"summary (B, C): C = {self.summary_width}, {self.summary}; map (B, D, h, w): D = {self.map_width}, stride "
            f"{self.map_stride} px, {rows} x {columns} = {self.tokens} tokens at {self.image_px} x {self.image_px} px"
        )


@dataclass(frozen=True)
class FormatReport:
    """A format's report of the files that it wrote."""

    usage: str  # example in Python; FOLDER stands for the folder's path, PX for the side of the images
    lines: tuple[str, ...] = ()  # checks and their outcomes
    about: Mapping[str, Any] = field(default_factory=dict)  # the same as plain data


def open_source(trial: TrialRecord, weights: TrainedWeights, heads: Sequence[str], image_px: int) -> ExportSource:
    """Load the model from its files.

    Raises:
        ExportError: the files are damaged, of another architecture, or lack requested heads.
    """
    try:
        model = load(weights.weights, network_spec(trial.spec))
        teachers = None if ALL_HEADS in heads else heads
        adaptors = load_heads(weights.heads, teachers, checksum_of(weights.weights)) if heads else {}
    except WeightsError as error:  # or HeadsError
        raise ExportError(str(error)) from None
    return ExportSource(trial, weights, model.eval().requires_grad_(False), adaptors, image_px)


def output_shapes(source: ExportSource) -> OutputShapes:
    """Return the shapes of the model's outputs at the size that the folder is for."""
    model, px = source.model, source.image_px
    with torch.inference_mode():
        summary, spatial = model.encode(torch.zeros(1, 3, px, px))
    rows, columns = spatial.shape[-2:]
    if isinstance(model, TimmBackbone):
        kind = "timm's pooled features"
    elif model.spec.summary == "token":
        kind = "the summary token of the last stage"
    else:
        kind = "the mean of the last stage's map"
    return OutputShapes(
        px, summary.shape[1], kind, spatial.shape[1], model.spatial_stride, (rows, columns), rows * columns
    )


IMAGES_USAGE = """
import numpy as np
from PIL import Image, ImageOps

photo = Image.open("photo.jpg").convert("RGB")
image = ImageOps.fit(photo, (PX, PX), Image.Resampling.BILINEAR)  # the central square
pixels = (np.asarray(image, np.float32) / 255 - 0.5) / 0.25  # normalized
images = np.ascontiguousarray(pixels.transpose(2, 0, 1)[None])  # float32 (1, 3, PX, PX)
"""  # for the formats that need neither timm nor transformers


def preprocessing(image_px: int, *, normalized: bool) -> dict[str, Any]:
    """Return preprocessor_config.json, for transformers' AutoImageProcessor: the central square, resized bilinearly.

    Args:
        image_px: side of the images that the folder is for.
        normalized: whether the model expects (x - mean) / std; else it takes x in [0, 1] and normalizes it itself.
    """
    return {
        "image_processor_type": "CLIPImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": image_px},
        "resample": 2,  # bilinear, with antialiasing
        "do_center_crop": True,
        "crop_size": {"height": image_px, "width": image_px},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": normalized,
        "image_mean": list(MEAN),
        "image_std": list(STD),
    }
