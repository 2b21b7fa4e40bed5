"""Weights in safetensors files that carry their spec. Nothing here unpickles."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from backbones.backbone import Backbone
from backbones.build import build
from search_space import ArchSpec, SpecError

FORMAT = "backbone-nas/1"


class WeightsError(ValueError):
    """A weights file that cannot be used; the message names the file and what is wrong with it."""


def save(model: Backbone, path: Path) -> None:
    """Write `model`'s weights with its spec. A fused model is refused: its weights no longer fit its spec."""
    state = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    expected = set(build_like(model.spec, model.num_classes).state_dict())
    if set(state) != expected:
        raise WeightsError(f"{path}: the model is fused or altered; save it before fuse()")
    metadata = {
        "format": FORMAT,
        "spec": model.spec.to_json(),
        "num_classes": str(model.num_classes),
        "sha256": digest(state),
    }
    save_file(state, path, metadata)


def load(path: Path, spec: ArchSpec | None = None) -> Backbone:
    """The network in `path`. With `spec`, a file of any other architecture is refused. Raises WeightsError."""
    metadata, state = read(path)
    try:
        found = ArchSpec.from_json(metadata["spec"])
        num_classes = int(metadata.get("num_classes", "0"))
    except (SpecError, ValueError) as error:
        raise WeightsError(f"{path}: its spec is not valid ({error})") from None
    if spec is not None and found != spec:
        raise WeightsError(f"{path}: holds architecture {found.arch_id}, not {spec.arch_id}")
    model = build_like(found, num_classes)
    check_keys(path, model, state)
    if metadata.get("sha256") != digest(state):
        raise WeightsError(f"{path}: tensors don't match their checksum; the file was altered")
    model.load_state_dict(state)
    return model


def read(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Metadata and tensors of a file of ours. Raises WeightsError."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata() or {})
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"{path}: missing, truncated or not a safetensors file ({error})") from None
    if "spec" not in metadata:
        raise WeightsError(f"{path}: no spec in its metadata; not written by backbones.save")
    if metadata.get("format") != FORMAT:
        raise WeightsError(f"{path}: format {metadata.get('format')!r} is not one of {FORMAT}")
    return metadata, state


def check_keys(path: Path, model: Backbone, state: dict[str, Tensor]) -> None:
    """Raise WeightsError that names the first missing, left-over or misshapen tensor."""
    expected = model.state_dict()
    for key in expected:
        if key not in state:
            raise WeightsError(f"{path}: tensor {key!r} is missing")
        if state[key].shape != expected[key].shape:
            shapes = f"{tuple(state[key].shape)}, not {tuple(expected[key].shape)}"
            raise WeightsError(f"{path}: tensor {key!r} has shape {shapes}")
    left_over = sorted(set(state) - set(expected))
    if left_over:
        raise WeightsError(f"{path}: tensor {left_over[0]!r} is not part of the architecture")


def build_like(spec: ArchSpec, num_classes: int) -> Backbone:
    """A fresh network with a classifier of `num_classes`."""
    model = build(spec)
    model.reset_classifier(num_classes)
    return model


def digest(state: dict[str, Tensor]) -> str:
    """SHA-256 over names, shapes, types and bytes of all tensors."""
    total = hashlib.sha256()
    for key in sorted(state):
        tensor = state[key].contiguous()
        total.update(json.dumps([key, list(tensor.shape), str(tensor.dtype)]).encode())
        total.update(tensor.numpy().tobytes())
    return total.hexdigest()
