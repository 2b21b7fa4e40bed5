"""Load the trained model to export, for all formats; define the report that a format returns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from backbones import Network, WeightsError, load
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


IMAGES_USAGE = """
import numpy as np
from PIL import Image

image = Image.open("photo.jpg").convert("RGB").resize((PX, PX), Image.Resampling.BILINEAR)
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
