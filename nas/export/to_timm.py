"""``--format timm``: write a folder for ``timm.create_model("local-dir:FOLDER", pretrained=True)``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor

from backbones import Backbone, TimmBackbone, save
from backbones.entrypoints import default_cfg
from backbones.weights import save_checked, to_write
from nas.cli import one_line
from nas.distill.folded_heads import save_heads
from nas.export import ExportError, ExportFailed
from nas.export.source import HEADS, MEAN, STD, WEIGHTS, ExportSource, FormatReport
from nas.measure.runtime_spec import Arm

USAGE = """import backbones  # of backbone-nas, installed from its repository; registers the architecture in timm
import timm
import torch
from PIL import Image

model = timm.create_model("local-dir:FOLDER", pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_data_config({}, model=model))  # to PX x PX, normalized
images = transform(Image.open("photo.jpg").convert("RGB"))[None]
pyramid = timm.create_model("local-dir:FOLDER", pretrained=True, features_only=True).eval()
with torch.inference_mode():
    summary, spatial = model.encode(images)  # (B, C) and (B, D, h, w); with a neck this is the neck's map
    last = model.forward_features(images)  # the last stage's map: stride LAST_STRIDE, no neck
    maps = pyramid(images)  # one map of each stage (strides: STRIDES)
# For fine-tuning: a classifier reads neither neck nor summary token, which would get no gradient.
classifier = timm.create_model("local-dir:FOLDER", pretrained=True, num_classes=100, neck=False)
deploy = backbones.fuse(model)  # BatchNorm folded; stays in eval mode, also inside a model that trains"""
USAGE_OF_TIMM = """import timm  # the network is timm's own
import torch
from PIL import Image

model = timm.create_model("local-dir:FOLDER", pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_data_config({}, model=model))  # to PX x PX, normalized
images = transform(Image.open("photo.jpg").convert("RGB"))[None]
with torch.inference_mode():
    features, (spatial,) = model.forward_intermediates(images, indices=1, output_fmt="NCHW")  # spatial: (B, D, h, w)
    summary = model.forward_head(features, pre_logits=True)  # (B, C)
classifier = timm.create_model("local-dir:FOLDER", pretrained=True, num_classes=100)  # for fine-tuning"""
HEADS_USAGE = """
from pathlib import Path
from nas.distill.folded_heads import load_heads

for teacher, adaptor in load_heads(Path("FOLDER/heads.safetensors")).items():
    teacher_summary, teacher_spatial = adaptor(summary, spatial, images)  # a cell for every 16 px"""
PREPROCESSING = {
    "interpolation": "bilinear",
    "crop_pct": 1.0,
    "crop_mode": "center",
    "mean": list(MEAN),
    "std": list(STD),
    "num_classes": 0,
}


def write(source: ExportSource, folder: Path, arm: Arm) -> FormatReport:
    """Write weights, heads and timm's config.json, and open them again."""
    model = source.model
    if isinstance(model, Backbone):
        checksum, config, usage = save(model, folder / WEIGHTS), _config(model, source.image_px), _usage(model)
    else:
        checksum, config, usage = _save_timm(model, folder), _timm_config(model, source.image_px), USAGE_OF_TIMM
    if source.adaptors:
        save_heads(source.adaptors, folder / HEADS, checksum)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    _check(source, folder)
    maps = "features and maps of all stages" if isinstance(model, Backbone) else "summary and feature map"
    checked = f"opened by timm: {maps} are equal to the trained model's"
    return FormatReport(usage + HEADS_USAGE * bool(source.adaptors), (checked,))


def _usage(model: Backbone) -> str:
    strides = [str(stride) for stride in model.spec.strides]
    return USAGE.replace("LAST_STRIDE", strides[-1]).replace("STRIDES", ", ".join(strides))


def _config(model: Backbone, image_px: int) -> dict[str, Any]:
    return {
        "architecture": "backbone_nas",
        "num_classes": 0,
        "num_features": model.num_features,
        "model_args": {"spec": model.spec.to_dict(), "neck": True},
        "pretrained_cfg": default_cfg(model.spec, image_px) | PREPROCESSING,
    }


def _save_timm(model: TimmBackbone, folder: Path) -> str:
    """Write the weights of a network of timm under timm's own names; return their checksum."""
    if model.neck is not None:
        raise ExportError(f"--format timm: timm's {model.name} has no neck, as here; choose onnx or torchscript")
    if not model.has_head:
        raise ExportError(f"--format timm: timm's {model.name} has feature maps only; choose onnx or torchscript")
    return save_checked(folder / WEIGHTS, to_write(model.model.state_dict()), {"format": "pt"})


def _timm_config(model: TimmBackbone, image_px: int) -> dict[str, Any]:
    declared = model.model.default_cfg
    options = dict(model.model_args)
    if declared.get("fixed_input_size"):  # timm built it for this size, which the folder's own must not replace
        options["img_size"] = list(declared["input_size"][-2:])
    kept = {name: declared[name] for name in ("first_conv", "classifier", "pool_size") if declared.get(name)}
    return {
        "architecture": model.name,
        "num_classes": 0,
        "num_features": model.num_features,
        "model_args": options,
        "pretrained_cfg": {**kept, "input_size": [3, image_px, image_px], **PREPROCESSING},
    }


def _check(source: ExportSource, folder: Path) -> None:
    try:
        equal = _opens_equal(source, folder)
    except Exception as error:  # of any network of timm
        raise ExportFailed(f"--format timm: timm cannot open the model: {one_line(error)}") from None
    if not equal:
        raise ExportFailed("--format timm: the model that timm opens computes other features")


def _opens_equal(source: ExportSource, folder: Path) -> bool:
    images = torch.randn(2, 3, source.image_px, source.image_px)
    opened = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    with torch.inference_mode():
        if isinstance(source.model, Backbone):
            maps = timm.create_model(f"local-dir:{folder}", pretrained=True, features_only=True).eval()
            actual = [*opened.encode(images), *maps(images)]
            expected = [*source.model.encode(images), *_maps(source.model, images)]
        else:
            features, (spatial,) = opened.forward_intermediates(images, indices=1, output_fmt="NCHW")
            actual = [opened.forward_head(features, pre_logits=True), spatial]
            expected = [*source.model.encode(images)]
    return all(torch.equal(a, e) for a, e in zip(actual, expected, strict=True))


def _maps(model: Backbone, images: Tensor) -> list[Tensor]:
    maps = model.forward_intermediates(images, intermediates_only=True)
    assert isinstance(maps, list)
    return maps
