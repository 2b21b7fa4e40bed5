"""``--format hf``: a folder for ``transformers.AutoModel.from_pretrained(FOLDER, trust_remote_code=True)``.

The code that it trusts is ours, copied into the folder: who reads it needs transformers, torch and timm alone.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from nas.distill.adaptor import module_name
from nas.distill.adaptors import describe
from nas.exporting.choice import ExportError
from nas.exporting.deployed import TOLERANCE
from nas.exporting.sources import copied
from nas.exporting.subject import MEAN, STD, WEIGHTS, Subject, Written

MODULE = "modeling_backbone_nas"
LIMIT_S = 300
USAGE = """from transformers import AutoImageProcessor, AutoModel  # pip install transformers torch timm

processor = AutoImageProcessor.from_pretrained("FOLDER")
model = AutoModel.from_pretrained("FOLDER", trust_remote_code=True)
pixel_values = processor(images=image, return_tensors="pt").pixel_values  # in [0, 1]; the model normalises
summary, spatial_features = model(pixel_values)  # (B, C) and (B, T, D); feature_fmt="NCHW" for a map"""
HEADS_USAGE = """
model = AutoModel.from_pretrained("FOLDER", trust_remote_code=True, adaptor_names=[{teacher}])
summary, spatial_features = model(pixel_values)[{teacher}]  # in the teacher's own space"""

_CHECK = """
import sys
for ours in ("backbones", "nas", "search_space"):
    sys.modules[ours] = None  # as where this project is not installed
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel
folder, images, out = sys.argv[1:]
model = AutoModel.from_pretrained(folder, trust_remote_code=True).eval()
with torch.inference_mode():
    summary, features = model(load_file(images)["images"])
save_file({"summary": summary.contiguous(), "features": features.contiguous()}, out)
"""


def write(given: Subject, folder: Path, fused: bool) -> Written:
    """Writes weights, config and code, and opens them in a process that has none of this project."""
    for name, source in copied("nas.exporting.radio", MODULE).items():
        (folder / name).write_text(source)
    (folder / "config.json").write_text(json.dumps(_config(given), indent=2) + "\n")
    save_file(_state(given), folder / WEIGHTS, {"format": "pt"})
    first = json.dumps(next(iter(given.adaptors), ""), ensure_ascii=False)
    usage = USAGE + HEADS_USAGE.format(teacher=first) * bool(given.adaptors)
    if find_spec("transformers") is None:
        return Written(usage, ("not checked: transformers is not installed (pip install 'backbone-nas[hf]')",))
    error = _check(given, folder)
    line = f"opened by transformers in a process without this project: {error:.1e} off PyTorch, of the largest output"
    return Written(usage, (line,), {"error": error})


def _config(given: Subject) -> dict[str, Any]:
    net = given.net
    return {
        "architectures": ["BackboneNasModel"],
        "auto_map": {"AutoConfig": f"{MODULE}.BackboneNasConfig", "AutoModel": f"{MODULE}.BackboneNasModel"},
        "model_type": "backbone_nas",
        "spec": net.spec.to_dict(),
        "image_size": given.image_px,
        "hidden_size": net.spatial_dim,
        "summary_size": net.summary_dim,
        "patch_size": net.spatial_stride,
        "image_mean": list(MEAN),
        "image_std": list(STD),
        "adaptors": {name: describe(adaptor) for name, adaptor in given.adaptors.items()},
        "adaptor_names": [],
        "dtype": "float32",
    }


def _state(given: Subject) -> dict[str, Tensor]:
    """As `nas.exporting.radio` names it: buffers that follow from the spec are kept as well."""
    state = {
        "input_conditioner.norm_mean": torch.tensor(MEAN).view(3, 1, 1),
        "input_conditioner.norm_std": torch.tensor(STD).view(3, 1, 1),
    }
    named = [*given.net.named_parameters(), *given.net.named_buffers()]
    state |= {f"network.{name}": tensor for name, tensor in named}
    for teacher, adaptor in given.adaptors.items():
        state |= {f"adaptors.{module_name(teacher)}.{name}": t for name, t in adaptor.state_dict().items()}
    return {name: tensor.detach().contiguous().clone() for name, tensor in state.items()}


def _check(given: Subject, folder: Path) -> float:
    px = given.image_px
    images = torch.rand(2, 3, px, px, generator=torch.Generator().manual_seed(0))
    with tempfile.TemporaryDirectory(prefix="backbone-nas-") as scratch:
        save_file({"images": images}, f"{scratch}/images")
        words = [sys.executable, "-c", _CHECK, str(folder.resolve()), f"{scratch}/images", f"{scratch}/out"]
        settings = {"HF_MODULES_CACHE": f"{scratch}/modules", "HF_HUB_OFFLINE": "1"}
        try:
            done = subprocess.run(
                words, env={**os.environ, **settings}, capture_output=True, text=True, timeout=LIMIT_S, check=False,
                cwd=scratch,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise ExportError(f"--format hf: transformers did not open what was written in {LIMIT_S} s") from None
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no word of it"])[-1]
            raise ExportError(f"--format hf: transformers cannot open what was written: {last[:300]}")
        found = load_file(f"{scratch}/out")
    with torch.inference_mode():
        summary, spatial = given.net.encode((images - MEAN[0]) / STD[0])
    wanted = {"summary": summary, "features": spatial.flatten(2).transpose(1, 2)}
    error = max(float((found[k] - w).abs().max() / w.abs().max()) for k, w in wanted.items())
    if not error <= TOLERANCE:
        raise ExportError(f"--format hf: what transformers opens is {error:.2g} off PyTorch")
    return error
