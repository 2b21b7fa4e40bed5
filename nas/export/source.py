"""What is exported, whatever the format."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from backbones import Backbone, WeightsError, load
from nas.distill.adaptor import Adaptor
from nas.distill.adaptors import HeadsError, load_heads
from nas.exporting.choice import ALL_HEADS, ExportError
from nas.exporting.kept import Kept
from nas.records import TrialRecord
from search_space import ArchSpec

# Of `nas.distill.heads.normalise`, the students' convention.
MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
WEIGHTS, HEADS = "model.safetensors", "heads.safetensors"


@dataclass(frozen=True)
class Subject:
    """A trained net, in eval mode and as it was trained, with the heads of the teachers that were asked for."""

    trial: TrialRecord
    kept: Kept
    net: Backbone
    adaptors: Mapping[str, Adaptor]
    image_px: int  # side that it was distilled at


@dataclass(frozen=True)
class Written:
    """What a format has to say about what it wrote."""

    usage: str  # Python that uses the folder, FOLDER standing for its path
    lines: tuple[str, ...] = ()  # what was checked and found
    about: Mapping[str, Any] = field(default_factory=dict)  # the same as plain data


def subject(trial: TrialRecord, kept: Kept, heads: Sequence[str], image_px: int) -> Subject:
    """The net from its files. ExportError where they are damaged, of another net, or lack heads that are wanted."""
    try:
        net = load(kept.weights, ArchSpec.from_dict(trial.spec))
        adaptors = {} if not heads else load_heads(kept.heads, None if ALL_HEADS in heads else heads)
    except (WeightsError, HeadsError) as error:
        raise ExportError(str(error)) from None
    for adaptor in adaptors.values():  # until 2026-11-25 a training's file said nothing of the net's map
        adaptor.stride = net.spatial_stride
    return Subject(trial, kept, net.eval().requires_grad_(False), adaptors, image_px)


def preprocessing(image_px: int, *, normalised: bool) -> dict[str, Any]:
    """preprocessor_config.json, which transformers' AutoImageProcessor reads: the central square, resized bilinearly.

    normalised: the net expects (x - mean) / std; else x in [0, 1], and does the rest itself.
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
        "do_normalize": normalised,
        "image_mean": list(MEAN),
        "image_std": list(STD),
    }
