"""Save and load weights in safetensors files that contain their spec.

Nothing is unpickled, and a file is verified step by step: its header, its spec, the layout of its tensors against the
spec, and only then the tensors, by a checksum over everything. So a malicious file allocates no memory.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from backbones.backbone import Backbone
from backbones.resolve import Network, build_network
from backbones.skip_init import skip_init
from search_space import ArchSpec, NetworkSpec
from search_space.timm_spec import network_spec_from_json

FORMAT = "backbone-nas/2"  # 1 had a checksum of the tensors only
FIELDS = ("format", "num_classes", "spec", "sha256")
# In safetensors' names. `build` creates the first two types alone, networks of timm also others.
DTYPES = {torch.float32: "F32", torch.int64: "I64", torch.int32: "I32", torch.bool: "BOOL", torch.float64: "F64"}
HEADER_LIMIT = 8 << 20  # bytes; the deepest spec has 41,000 tensors of about 135 bytes in the header
SPEC_LIMIT = 64 << 10  # characters; specs have less than 4,000
DERIVED_LIMIT = 4 << 30  # bytes of buffers that are not in the file: a position index has window^4 numbers

TensorLayout = dict[str, tuple[tuple[int, ...], str]]  # tensor name -> shape and type


class WeightsError(ValueError):
    """Weights that cannot be used; the message names the file and the error, in one line."""


def save(model: Network, path: str | Path) -> str:
    """Write a model's weights and its spec; an existing file is replaced as a whole or not at all.

    Args:
        model: The model.
        path: The file.

    Returns:
        The checksum of the file.

    Raises:
        WeightsError: the model is fused, so that its weights no longer fit its spec, its classifier reads features of
            another pooling than the mean, which a file does not record, or the file cannot be written.
    """
    path = Path(path)
    if isinstance(model, Backbone) and model.num_classes and model.global_pool.pool_type != "avg":
        pool = model.global_pool.pool_type
        raise _refusal(path, f"a classifier of features pooled by {pool!r}; a file holds those of 'avg' only")
    state = to_write(_real_tensors(path, model))
    misfit = _misfit(_layout(state), _layout(_meta_network(model.spec, model.num_classes).state_dict()))
    if misfit:
        raise _refusal(path, f"the model is fused or altered ({misfit}); save it before fuse(), in float32")
    metadata = {"format": FORMAT, "num_classes": str(model.num_classes), "spec": model.spec.to_json()}
    return save_checked(path, state, metadata)


def to_write(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors on the CPU that share no memory, as safetensors needs them; a network may share parameters."""
    written, seen = {}, set()
    for name, tensor in state.items():
        here = tensor.detach().cpu().contiguous()
        address = here.untyped_storage().data_ptr()
        written[name] = here.clone() if address in seen else here
        seen.add(address)
    return written


def save_checked(path: Path, state: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """Write a safetensors file as a whole or not at all; return the checksum of tensors and metadata that it holds.

    Raises:
        WeightsError: the file cannot be written.
    """
    checksum = digest(metadata, state)
    unfinished = path.with_name(f"{path.name}.{secrets.token_hex(8)}.tmp")  # another process may write the same one
    try:
        write_tensors(unfinished, state, {**metadata, "sha256": checksum})
        with unfinished.open("rb+") as file:
            os.fsync(file.fileno())  # the checkpoint of the training is deleted next
        unfinished.replace(path)
    except (OSError, SafetensorError) as error:
        raise _refusal(path, f"cannot be written ({error})") from None
    finally:
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)
    return checksum


def write_tensors(path: Path, state: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file with the permissions of any new file: safetensors alone lets only its owner read it.

    Raises:
        OSError: the file cannot be written.
        SafetensorError: the same, as safetensors reports it.
    """
    path.touch()
    mode = path.stat().st_mode
    save_file(dict(state), path, dict(metadata))
    path.chmod(mode)


def load(path: str | Path, spec: NetworkSpec | None = None) -> Network:
    """Load a network, in training mode. Raises WeightsError, also for an architecture other than `spec`."""
    path = Path(path)
    with open_tensors(path) as (file, metadata):
        stored, num_classes = _read_metadata(path, metadata)
        if spec is not None and stored != spec:
            raise _refusal(path, f"holds architecture {stored.arch_id}, not {spec.arch_id}")
        slices = {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
        layout = {key: (tuple(part.get_shape()), part.get_dtype()) for key, part in slices.items()}
        _check_layout(path, layout, _meta_network(stored, num_classes))
        state = {key: file.get_tensor(key) for key in layout}
    check_digest(path, metadata, state)
    model = _build(stored, num_classes)
    model.load_state_dict(state)
    return model


@contextmanager
def open_tensors(path: Path) -> Iterator[tuple[Any, dict[str, str]]]:
    """Open a safetensors file whose header is valid; yield it with its metadata.

    Raises:
        WeightsError: the file cannot be read, before or within the block.
    """
    _check_header(path)
    try:
        with safe_open(path, framework="pt") as file:
            yield file, dict(file.metadata() or {})
    except (OSError, SafetensorError) as error:
        raise _refusal(path, f"truncated or not a safetensors file ({error})") from None


def checksum_of(path: Path) -> str:
    """Return the checksum that a file of `save` holds, without its tensors; WeightsError if it holds none."""
    with open_tensors(path) as (_, metadata):
        if "sha256" not in metadata:
            raise _refusal(path, "no checksum in its metadata")
        return metadata["sha256"]


def check_digest(path: Path, metadata: Mapping[str, str], state: Mapping[str, Tensor]) -> None:
    """Raise WeightsError unless metadata and tensors of a file match the checksum in its metadata."""
    if metadata.get("sha256") != digest(metadata, state):
        raise _refusal(path, "metadata and tensors don't match their checksum; the file was altered")


def digest(metadata: Mapping[str, str], state: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of the metadata except "sha256", and of names, shapes, types and bytes of all tensors."""
    total = hashlib.sha256(json.dumps(sorted((k, v) for k, v in metadata.items() if k != "sha256")).encode())
    for key in sorted(state):
        tensor = state[key].contiguous()
        total.update(json.dumps([key, list(tensor.shape), str(tensor.dtype)]).encode())
        total.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()


def _check_header(path: Path) -> None:
    """Refuse a file that is not regular, or without a valid header of our size, before safetensors reads it."""
    try:
        if not path.is_file():  # opening a FIFO would wait for its writer
            raise _refusal(path, "not a regular file" if path.exists() else "no such file")
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > HEADER_LIMIT:
                raise _refusal(path, f"not a safetensors file of this project: its header would have {length} bytes")
            json.loads(file.read(length).decode(), object_pairs_hook=_unique)
    except OSError as error:
        raise _refusal(path, f"cannot be read ({error.strerror})") from None
    except WeightsError:
        raise
    except (ValueError, RecursionError) as error:
        raise _refusal(path, f"truncated or not a safetensors file (header: {error})") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object; ValueError for a repeated name, of which the standard would keep the last entry."""
    name, times = Counter(key for key, _ in pairs).most_common(1)[0] if pairs else ("", 0)
    if times > 1:
        raise ValueError(f"{name!r} occurs {times} times")
    return dict(pairs)


def _read_metadata(path: Path, metadata: Mapping[str, str]) -> tuple[NetworkSpec, int]:
    """Return spec and number of classes."""
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
        spec, num_classes = network_spec_from_json(metadata["spec"]), int(metadata["num_classes"])
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise _refusal(path, f"its spec is not valid ({error})") from None
    if num_classes and not isinstance(spec, ArchSpec):
        raise _refusal(path, f"num_classes {num_classes}: a network of timm has no classifier here")
    return spec, num_classes


def _check_layout(path: Path, layout: TensorLayout, model: Network) -> None:
    """Refuse a file whose tensors are not the model's, or whose model is out of proportion to the file."""
    misfit = _misfit(layout, _layout(model.state_dict()))
    if misfit:
        raise _refusal(path, misfit)
    derived = sum(buffer.numel() * buffer.element_size() for buffer in model.buffers())
    if derived > DERIVED_LIMIT:
        raise _refusal(path, f"its spec needs {derived >> 30} GiB in addition to the weights; use smaller windows")


def _layout(state: Mapping[str, Tensor]) -> TensorLayout:
    return {key: (tuple(value.shape), DTYPES.get(value.dtype, str(value.dtype))) for key, value in state.items()}


def _misfit(layout: TensorLayout, expected: TensorLayout) -> str | None:
    """Describe the first tensor that is missing, left over, or of another shape or type; None if all fit."""
    for key, (shape, dtype) in expected.items():
        if key not in layout:
            return f"tensor {key!r} is missing"
        if layout[key][0] != shape:
            return f"tensor {key!r} has shape {layout[key][0]}, not {shape}"
        if layout[key][1] != dtype:
            return f"tensor {key!r} has type {layout[key][1]}, not {dtype}"
    left_over = sorted(set(layout) - set(expected))
    return f"tensor {left_over[0]!r} is not part of the architecture" if left_over else None


def _build(spec: NetworkSpec, num_classes: int) -> Network:
    model = build_network(spec)
    if isinstance(model, Backbone):
        model.reset_classifier(num_classes)
    return model


def _meta_network(spec: NetworkSpec, num_classes: int) -> Network:
    """Build a model on the meta device, for names, shapes and types of its tensors."""
    try:
        with skip_init():
            return _build(spec, num_classes)
    except (NotImplementedError, RuntimeError):  # some networks of timm compute while they are built
        if isinstance(spec, ArchSpec):
            raise
        return _build(spec, num_classes)


def _real_tensors(path: Path, model: Network) -> dict[str, Tensor]:
    state: dict[str, Tensor] = model.state_dict()
    empty = next((key for key, value in state.items() if value.is_meta), None)
    if empty is not None:
        raise _refusal(path, f"tensor {empty!r} of the model is on the meta device and has no values")
    return state


def _refusal(path: Path, reason: str) -> WeightsError:
    """Return an error whose message is one line, even if the reason contains text of a file."""
    line = "".join(c if c.isprintable() else " " for c in f"{path}: {reason}")
    return WeightsError(line if len(line) <= 500 else f"{line[:500]} ...")
