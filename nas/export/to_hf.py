"""``--format hf``: write a folder for ``transformers.AutoModel.from_pretrained(FOLDER, trust_remote_code=True)``.

The trusted code is this project's, copied into the folder: its users need only transformers, torch and timm.
transformers reads a folder's code from flat files that import each other relatively: `backbones.layers.conv` becomes
backbones_layers_conv.py. The copies differ from the sources only in the imports between this project's modules.
"""

from __future__ import annotations

import ast
import inspect
import json
import os
import subprocess
import sys
from collections.abc import Iterable
from contextlib import suppress
from importlib import import_module
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from backbones import Backbone
from backbones.weights import write_tensors
from nas.distill.adaptor import module_name
from nas.distill.folded_heads import describe
from nas.export import ExportError, ExportFailed
from nas.export.graph import TOLERANCE
from nas.export.source import MEAN, STD, WEIGHTS, ExportSource, FormatReport
from nas.measure.runtime_spec import Arm
from nas.scratch import scratch_folder

MODEL_MODULE, MODULE = "nas.export.radio", "modeling_backbone_nas"  # in this project, in the folder
OUR_PACKAGES = ("search_space", "backbones", "nas")
COPY_HEADER = "# Copied from {module} of backbone-nas (Apache-2.0); imports made relative.\n"
LIMIT_S = 300
USAGE = """import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModel  # Python 3.11; pip install transformers torch torchvision timm

processor = AutoImageProcessor.from_pretrained("FOLDER")
model = AutoModel.from_pretrained("FOLDER", trust_remote_code=True).eval()
image = Image.open("photo.jpg").convert("RGB")

# As in distillation: the central square at PX x PX px. Values are in [0, 1]; the model normalizes them.
pixel_values = processor(images=image, return_tensors="pt").pixel_values
with torch.inference_mode():
    summary, spatial_features = model(pixel_values)  # (B, C) and (B, T, D); feature_fmt="NCHW" for a map

# The whole image at (nearly) its own size. Features at other sizes than PX x PX px are untested.
size = model.get_nearest_supported_resolution(image.height, image.width)._asdict()
pixel_values = processor(images=image, size=size, do_center_crop=False, return_tensors="pt").pixel_values"""
HEADS_USAGE = """
model = AutoModel.from_pretrained("FOLDER", trust_remote_code=True, adaptor_names=[{teacher}])
summary, spatial_features = model(pixel_values)[{teacher}]  # in the teacher's feature space"""

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


def write(source: ExportSource, folder: Path, arm: Arm) -> FormatReport:
    """Write weights, config and code, and open them in a process that cannot import this project."""
    if not isinstance(source.model, Backbone):
        others = "timm, onnx or torchscript" if source.model.neck is None else "onnx or torchscript"
        raise ExportError(f"--format hf: {source.model.name} is a network of timm; choose {others}")
    for name, text in copied_modules(MODEL_MODULE, MODULE).items():
        (folder / name).write_text(text)
    (folder / "config.json").write_text(json.dumps(_config(source), indent=2) + "\n")
    write_tensors(folder / WEIGHTS, _state(source), {"format": "pt"})
    (folder / "LICENSE").write_text(license_text())
    first = json.dumps(next(iter(source.adaptors), ""), ensure_ascii=False)
    usage = USAGE + HEADS_USAGE.format(teacher=first) * bool(source.adaptors)
    error = _check(source, folder)
    line = (
        "opened by transformers without this project: outputs differ from the trained model's by at most"
        f" {error:.1e} of the largest one"
    )
    return FormatReport(usage, (line,), {"error": error})


def _config(source: ExportSource) -> dict[str, Any]:
    model = source.model
    return {
        "architectures": ["BackboneNasModel"],
        "auto_map": {"AutoConfig": f"{MODULE}.BackboneNasConfig", "AutoModel": f"{MODULE}.BackboneNasModel"},
        "model_type": "backbone_nas",
        "spec": model.spec.to_dict(),
        "image_size": source.image_px,
        "hidden_size": model.spatial_dim,
        "summary_size": model.summary_dim,
        "patch_size": model.spatial_stride,
        "image_mean": list(MEAN),
        "image_std": list(STD),
        "adaptors": {name: describe(adaptor) for name, adaptor in source.adaptors.items()},
        "adaptor_names": [],
        "dtype": "float32",
    }


def _state(source: ExportSource) -> dict[str, Tensor]:
    """Name tensors as `nas.export.radio` does; buffers that follow from the spec are kept as well."""
    state = {
        "input_conditioner.norm_mean": torch.tensor(MEAN).view(3, 1, 1),
        "input_conditioner.norm_std": torch.tensor(STD).view(3, 1, 1),
    }
    named = [*source.model.named_parameters(), *source.model.named_buffers()]
    state |= {f"network.{name}": tensor for name, tensor in named}
    for teacher, adaptor in source.adaptors.items():
        state |= {f"adaptors.{module_name(teacher)}.{name}": t for name, t in adaptor.state_dict().items()}
    return {name: tensor.detach().contiguous().clone() for name, tensor in state.items()}


def _check(source: ExportSource, folder: Path) -> float:
    px = source.image_px
    images = torch.rand(2, 3, px, px, generator=torch.Generator().manual_seed(0))
    with scratch_folder("nas-export-") as scratch:
        save_file({"images": images}, f"{scratch}/images")
        words = [sys.executable, "-c", _CHECK, str(folder.resolve()), f"{scratch}/images", f"{scratch}/out"]
        settings = {"HF_MODULES_CACHE": f"{scratch}/modules", "HF_HUB_OFFLINE": "1"}
        try:
            process = subprocess.run(
                words, env={**os.environ, **settings}, capture_output=True, text=True, timeout=LIMIT_S, check=False,
                cwd=scratch,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise ExportFailed(f"--format hf: transformers did not open the folder within {LIMIT_S} s") from None
        if process.returncode:
            last = (process.stderr.strip().splitlines() or ["it gave no reason"])[-1]
            raise ExportFailed(f"--format hf: transformers cannot open the folder: {last[:300]}")
        actual = load_file(f"{scratch}/out")
    with torch.inference_mode():
        summary, spatial = source.model.encode((images - MEAN[0]) / STD[0])
    expected = {"summary": summary, "features": spatial.flatten(2).transpose(1, 2)}
    error = max(float((actual[k] - e).abs().max() / e.abs().max()) for k, e in expected.items())
    if not error <= TOLERANCE:
        raise ExportFailed(f"--format hf: the model in transformers differs from PyTorch by {error:.2g}")
    return error


def license_text() -> str:
    """Return the license of the copied code, from the installed package or from a checkout."""
    with suppress(PackageNotFoundError):
        if text := distribution("backbone-nas").read_text("licenses/LICENSE"):
            return text
    return (Path(__file__).parents[2] / "LICENSE").read_text()


def copied_modules(module: str, name: str) -> dict[str, str]:
    """Return the sources of `module` (as `name`.py) and of this project's modules that it imports, by file name."""
    files: dict[str, str] = {}
    waiting, seen = [module], {module}
    while waiting:
        current = waiting.pop()
        source, needed = _relative(inspect.getsource(import_module(current)))
        files[f"{name if current == module else _flat(current)}.py"] = COPY_HEADER.format(module=current) + source
        waiting += sorted(needed - seen)
        seen |= needed
    return files


def _relative(source: str) -> tuple[str, set[str]]:
    """Return a module's source with relative, flat imports of this project, and the modules that it imports."""
    lines = source.splitlines(keepends=True)
    needed: set[str] = set()
    for node in sorted(_our_imports(ast.parse(source)), key=lambda n: -n.lineno):
        homes: dict[str, list[ast.alias]] = {}
        for alias in node.names:
            homes.setdefault(_defining_module(str(node.module), alias.name), []).append(alias)
        needed |= set(homes)
        imports = [ast.unparse(ast.ImportFrom(_flat(home), names, 1)) for home, names in sorted(homes.items())]
        indent = " " * node.col_offset
        lines[node.lineno - 1 : node.end_lineno] = [f"{indent}{line}\n" for line in imports]
    return "".join(lines), needed


def _flat(module: str) -> str:
    """Return the name of a module's copy, without .py."""
    return module.replace(".", "_")


def _our_imports(tree: ast.Module) -> Iterable[ast.ImportFrom]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in OUR_PACKAGES:
            yield node


def _defining_module(module: str, name: str) -> str:
    """Return the module that defines a name which `module`, a package or a module, exports."""
    exporter = import_module(module)
    return str(getattr(exporter, name).__module__) if hasattr(exporter, "__path__") else module
