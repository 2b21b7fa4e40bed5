"""``--format timm``: write a folder for ``timm.create_model("local-dir:FOLDER", pretrained=True)``."""

from __future__ import annotations

import json
from pathlib import Path

import timm
import torch

from backbones import save
from backbones.entrypoints import default_cfg
from nas.distill.folded_heads import save_heads
from nas.export import ExportFailed
from nas.export.source import HEADS, MEAN, STD, WEIGHTS, ExportSource, FormatReport

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
classifier = timm.create_model("local-dir:FOLDER", pretrained=True, num_classes=100)  # for fine-tuning
deploy = timm.utils.reparameterize_model(model)  # BatchNorm folded"""
HEADS_USAGE = """
from pathlib import Path
from nas.distill.folded_heads import load_heads

for teacher, adaptor in load_heads(Path("FOLDER/heads.safetensors")).items():
    teacher_summary, teacher_spatial = adaptor(summary, spatial)"""


def write(source: ExportSource, folder: Path, fused: bool) -> FormatReport:
    """Write weights, heads and timm's config.json, and open them again."""
    checksum = save(source.model, folder / WEIGHTS)
    if source.adaptors:
        save_heads(source.adaptors, folder / HEADS, checksum)
    (folder / "config.json").write_text(json.dumps(_config(source), indent=2) + "\n")
    _check(source, folder)
    strides = [str(stride) for stride in source.model.spec.strides]
    usage = USAGE.replace("LAST_STRIDE", strides[-1]).replace("STRIDES", ", ".join(strides))
    usage += HEADS_USAGE * bool(source.adaptors)
    return FormatReport(usage, ("opened by timm: features and maps of all stages are equal",))


def _config(source: ExportSource) -> dict[str, object]:
    spec = source.model.spec
    preprocessing = {
        "interpolation": "bilinear",
        "crop_pct": 1.0,
        "crop_mode": "center",
        "mean": list(MEAN),
        "std": list(STD),
        "num_classes": 0,
    }
    return {
        "architecture": "backbone_nas",
        "num_classes": 0,
        "num_features": source.model.num_features,
        "model_args": {"spec": spec.to_dict(), "neck": True},
        "pretrained_cfg": default_cfg(spec, source.image_px) | preprocessing,
    }


def _check(source: ExportSource, folder: Path) -> None:
    opened = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    maps = timm.create_model(f"local-dir:{folder}", pretrained=True, features_only=True).eval()
    images = torch.randn(2, 3, source.image_px, source.image_px)
    with torch.inference_mode():
        actual = [*opened.encode(images), *maps(images)]
        expected = [*source.model.encode(images), *source.model.forward_intermediates(images, intermediates_only=True)]
    if not all(torch.equal(a, e) for a, e in zip(actual, expected, strict=True)):
        raise ExportFailed("--format timm: the model that timm opens computes other features")
