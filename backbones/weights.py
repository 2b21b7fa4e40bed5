"""Weights in safetensors files that carry their spec.

Nothing here unpickles, and a file is believed step by step: its header, its spec, the layout of its tensors against
that spec, and only then the tensors, by a checksum over all of it. So a file that lies costs no memory.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from backbones.backbone import Backbone
from backbones.build import build
from backbones.skip_init import skip_init
from search_space import ArchSpec

FORMAT = "backbone-nas/2"  # 1 had a checksum of the tensors only
FIELDS = ("format", "num_classes", "spec", "sha256")
DTYPES = {torch.float32: "F32", torch.int64: "I64"}  # in safetensors' names; all that `build` makes
HEADER_LIMIT = 8 << 20  # bytes; the deepest spec has 41,000 tensors of about 135 bytes in the header
SPEC_LIMIT = 64 << 10  # characters; specs have less than 4,000
DERIVED_LIMIT = 4 << 30  # bytes of tensors that are not in the file: a position index has window^4 numbers

Layout = dict[str, tuple[tuple[int, ...], str]]  # tensor name -> shape and type


class WeightsError(ValueError):
    """Weights that cannot be used; the message names the file and what is wrong with it, in one line."""


def save(model: Backbone, path: Path) -> None:
    """Write `model`'s weights with its spec; a file that is there is replaced as a whole or not at all.

    Raises WeightsError for a fused model, whose weights no longer fit its spec, and where it cannot write.
    """
    state = {key: value.detach().cpu().contiguous() for key, value in _on_a_device(path, model).items()}
    misfit = _misfit(_layout(state), _layout(_meta_network(model.spec, model.num_classes).state_dict()))
    if misfit:
        raise _refusal(path, f"the model is fused or altered ({misfit}); save it before fuse(), in float32")
    metadata = {"format": FORMAT, "num_classes": str(model.num_classes), "spec": model.spec.to_json()}
    unfinished = path.with_name(f"{path.name}.{secrets.token_hex(8)}.tmp")  # another process may write the same one
    try:
        save_file(state, unfinished, metadata | {"sha256": digest(metadata, state)})
        unfinished.replace(path)
    except (OSError, SafetensorError) as error:
        raise _refusal(path, f"cannot be written ({error})") from None
    finally:
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)


def load(path: Path, spec: ArchSpec | None = None) -> Backbone:
    """The network in `path`, in training mode. With `spec`, any other architecture is refused. Raises WeightsError."""
    _check_header(path)
    try:
        with safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata() or {})
            found, num_classes = _described(path, metadata)
            if spec is not None and found != spec:
                raise _refusal(path, f"holds architecture {found.arch_id}, not {spec.arch_id}")
            slices = {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
            layout = {key: (tuple(part.get_shape()), part.get_dtype()) for key, part in slices.items()}
            _check_layout(path, layout, _meta_network(found, num_classes))
            state = {key: file.get_tensor(key) for key in layout}
    except (OSError, SafetensorError) as error:
        raise _refusal(path, f"truncated or not a safetensors file ({error})") from None
    if metadata["sha256"] != digest(metadata, state):
        raise _refusal(path, "spec and tensors don't match their checksum; the file was altered")
    model = _build(found, num_classes)
    model.load_state_dict(state)
    return model


def digest(metadata: Mapping[str, str], state: Mapping[str, Tensor]) -> str:
    """SHA-256 over the metadata but "sha256", and names, shapes, types and bytes of all tensors."""
    total = hashlib.sha256(json.dumps(sorted((k, v) for k, v in metadata.items() if k != "sha256")).encode())
    for key in sorted(state):
        tensor = state[key].contiguous()
        total.update(json.dumps([key, list(tensor.shape), str(tensor.dtype)]).encode())
        total.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()


def _check_header(path: Path) -> None:
    """Refuse, before safetensors reads it, what is no regular file or begins with anything but a header of our size."""
    try:
        if not path.is_file():  # opening a FIFO would wait for its writer
            raise _refusal(path, "not a regular file" if path.exists() else "no such file")
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > HEADER_LIMIT:
                raise _refusal(path, f"not a safetensors file of ours: its header would have {length} bytes")
            json.loads(file.read(length).decode(), object_pairs_hook=_once)
    except OSError as error:
        raise _refusal(path, f"cannot be read ({error.strerror})") from None
    except WeightsError:
        raise
    except (ValueError, RecursionError) as error:
        raise _refusal(path, f"truncated or not a safetensors file (header: {error})") from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON. The standard lets a later entry of one name hide an earlier one."""
    name, times = Counter(key for key, _ in pairs).most_common(1)[0] if pairs else ("", 0)
    if times > 1:
        raise ValueError(f"{name!r} stands there {times} times")
    return dict(pairs)


def _described(path: Path, metadata: Mapping[str, str]) -> tuple[ArchSpec, int]:
    """Spec and number of classes."""
    if "spec" not in metadata:
        raise _refusal(path, "no spec in its metadata; not written by backbones.save")
    if metadata.get("format") != FORMAT:
        raise _refusal(path, f"format {metadata.get('format')!r} is not {FORMAT!r}")
    wrong = sorted(set(metadata) ^ set(FIELDS))
    if wrong:
        raise _refusal(path, f"metadata field {wrong[0]!r} is {'unknown' if wrong[0] in metadata else 'missing'}")
    if not re.fullmatch("[0-9]{1,8}", metadata["num_classes"]):
        raise _refusal(path, f"num_classes {metadata['num_classes'][:20]!r} is not a whole number below 100 million")
    if len(metadata["spec"]) > SPEC_LIMIT:
        raise _refusal(path, f"its spec has {len(metadata['spec'])} characters, more than any spec can have")
    try:
        return ArchSpec.from_json(metadata["spec"]), int(metadata["num_classes"])
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise _refusal(path, f"its spec is not valid ({error})") from None


def _check_layout(path: Path, found: Layout, network: Backbone) -> None:
    """Refuse a file whose tensors are not those of the network, or a network that is out of proportion to its file."""
    misfit = _misfit(found, _layout(network.state_dict()))
    if misfit:
        raise _refusal(path, misfit)
    derived = sum(buffer.numel() * buffer.element_size() for buffer in network.buffers())
    if derived > DERIVED_LIMIT:
        raise _refusal(path, f"its spec needs {derived >> 30} GiB beside the weights; smaller windows don't")


def _layout(state: Mapping[str, Tensor]) -> Layout:
    return {key: (tuple(value.shape), DTYPES.get(value.dtype, str(value.dtype))) for key, value in state.items()}


def _misfit(found: Layout, expected: Layout) -> str | None:
    """The first tensor that is missing, misshapen, of another type or left over, in words; None where all fit."""
    for key, (shape, dtype) in expected.items():
        if key not in found:
            return f"tensor {key!r} is missing"
        if found[key][0] != shape:
            return f"tensor {key!r} has shape {found[key][0]}, not {shape}"
        if found[key][1] != dtype:
            return f"tensor {key!r} has type {found[key][1]}, not {dtype}"
    left_over = sorted(set(found) - set(expected))
    return f"tensor {left_over[0]!r} is not part of the architecture" if left_over else None


def _build(spec: ArchSpec, num_classes: int) -> Backbone:
    model = build(spec)
    model.reset_classifier(num_classes)
    return model


def _meta_network(spec: ArchSpec, num_classes: int) -> Backbone:
    """The network without memory: names, shapes and types of its tensors."""
    with skip_init():
        return _build(spec, num_classes)


def _on_a_device(path: Path, model: Backbone) -> dict[str, Tensor]:
    state: dict[str, Tensor] = model.state_dict()
    empty = next((key for key, value in state.items() if value.is_meta), None)
    if empty is not None:
        raise _refusal(path, f"tensor {empty!r} of the model is on the meta device and holds no numbers")
    return state


def _refusal(path: Path, reason: str) -> WeightsError:
    """One line, whatever a file put into the reason."""
    line = "".join(c if c.isprintable() else " " for c in f"{path}: {reason}")
    return WeightsError(line if len(line) <= 500 else f"{line[:500]} ...")
