"""Fold trained heads into adaptors that give a teacher's own features, keep them in a file, and load them back.

PHI-S, PCA and a `TargetTransform` are linear maps of a head's outputs. Their inverses are folded into the head's last
layer, which then gives the teacher's own C channels (arXiv 2410.01680), so that using an adaptor needs no cache.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from backbones.weights import WeightsError, check_digest, open_tensors, save_checked
from nas.cache.standardize import Standardizer
from nas.cache.targets import TeacherTargets
from nas.distill.adaptor import Adaptor, build_adaptor, mlp, module_name
from nas.distill.heads import TeacherHeads
from nas.distill.losses import TargetTransform
from nas.files import parse_json

# 1 had no checksum and did not name the model; 2 may have a stride that the map has at one size only, or at none.
FORMAT = "backbone-nas-heads/3"


class HeadsError(WeightsError):
    """Heads that cannot be used; the message is one line that names the file or teacher and the fault."""


def fold(heads: TeacherHeads, teachers: Mapping[str, TeacherTargets], stride: int | None) -> dict[str, Adaptor]:
    """Return every teacher's adaptor, on the CPU in float32; `heads` stay as they are.

    Args:
        heads: trained heads.
        teachers: the cached targets of each teacher.
        stride: of the student's map in px, see `Student.stride_at`.
    """
    adaptors = {}
    for name in heads.names:
        key, about = module_name(name), teachers[name]
        summary = None
        if about.summary is not None:
            summary = _folded(heads.summary[key], about.summary, heads.transforms[f"{name}/summary"])
        spatial = _folded(heads.spatial[key], about.spatial, heads.transforms[f"{name}/spatial"])
        adaptors[name] = Adaptor(summary, spatial, about.fingerprint, stride).requires_grad_(False).eval()
    return adaptors


def _folded(head: nn.Module, standardizer: Standardizer, transform: TargetTransform) -> nn.Sequential:
    """Copy a head so that its last layer (k outputs) gives the teacher's own C channels; computed in float64.

    With x = W h + b, y = (x - offset) / scale inverts the transform, and inverse y + mean inverts PHI-S.
    """
    first, norm, _, last = cast(Iterable[Any], head)
    weight, bias = (p.detach().double().cpu() for p in (last.weight, last.bias))
    if transform.offset is not None:
        weight, bias = weight / transform.scale, (bias - transform.offset.double().cpu()) / transform.scale
    inverse = torch.from_numpy(standardizer.inverse).double()
    folded = mlp(first.in_features, last.in_features, len(inverse))
    folded[0].load_state_dict(first.state_dict())
    folded[1].load_state_dict(norm.state_dict())
    final = cast(nn.Linear, folded[-1])
    with torch.no_grad():
        final.weight.copy_(inverse @ weight)
        final.bias.copy_(inverse @ bias + torch.from_numpy(standardizer.mean))
    return folded


def without_heads(
    adaptors: Mapping[str, Adaptor], teachers: Mapping[str, TeacherTargets], head_width: int
) -> list[str]:
    """Return the teachers whose heads cannot be had from adaptors: these have none, or one that does not fit.

    Args:
        adaptors: the adaptors by teacher, of a student of the same widths.
        teachers: the cached targets of each teacher.
        head_width: hidden width of the heads.
    """
    return [name for name, about in teachers.items() if not _fits(adaptors.get(name), about, head_width)]


def _fits(adaptor: Adaptor | None, about: TeacherTargets, head_width: int) -> bool:
    """Tell whether an adaptor is of this version of the teacher and of this hidden width."""
    if adaptor is None or adaptor.fingerprint != about.fingerprint:
        return False
    pairs = ((adaptor.spatial, about.spatial), (adaptor.summary, about.summary))
    return all(
        layers is None if standardizer is None else _is_of_widths(layers, head_width, len(standardizer.mean))
        for layers, standardizer in pairs
    )


def _is_of_widths(layers: nn.Sequential | None, hidden: int, width_out: int) -> bool:
    if layers is None:
        return False
    last = cast(nn.Linear, layers[-1])
    return (last.in_features, last.out_features) == (hidden, width_out)


def unfold(adaptors: Mapping[str, Adaptor], heads: TeacherHeads, teachers: Mapping[str, TeacherTargets]) -> None:
    """Fill `heads` with the weights of adaptors: the inverse of `fold`, exact to rounding, for a training to continue.

    Args:
        adaptors: the adaptors by teacher, each of which fits, see `without_heads`; other heads stay as they are.
        heads: heads to fill.
        teachers: the cached targets of each teacher.
    """
    for name, adaptor in adaptors.items():
        about, key = teachers[name], module_name(name)
        if about.summary is not None and adaptor.summary is not None:
            _unfold_head(adaptor.summary, heads.summary[key], about.summary, heads.transforms[f"{name}/summary"])
        _unfold_head(adaptor.spatial, heads.spatial[key], about.spatial, heads.transforms[f"{name}/spatial"])


def _unfold_head(
    folded: nn.Sequential, head: nn.Module, standardizer: Standardizer, transform: TargetTransform
) -> None:
    """Fill one head; forward @ inverse is the identity, so forward takes the inverse of PHI-S back."""
    final = cast(nn.Linear, folded[-1])
    forward, mean = torch.from_numpy(standardizer.forward), torch.from_numpy(standardizer.mean)
    weight, bias = forward @ final.weight.double(), forward @ (final.bias.double() - mean)
    if transform.offset is not None:
        weight, bias = weight * transform.scale, bias * transform.scale + transform.offset.double().cpu()
    state = folded.state_dict() | {"3.weight": weight.float(), "3.bias": bias.float()}
    head.load_state_dict(state)


def save_heads(adaptors: Mapping[str, Adaptor], path: Path, model: str) -> None:
    """Write all adaptors to one safetensors file, with a checksum and every teacher's name, widths and fingerprint.

    An existing file is replaced as a whole or not at all.

    Args:
        adaptors: the adaptors by teacher.
        path: the file.
        model: the checksum of the weights that the heads were trained with, of `backbones.save`.

    Raises:
        WeightsError: the file cannot be written.
    """
    about = {name: describe(adaptor) for name, adaptor in adaptors.items()}
    state = {
        f"{name}/{key}": value.contiguous()
        for name, adaptor in adaptors.items()
        for key, value in adaptor.state_dict().items()
    }
    save_checked(path, state, {"format": FORMAT, "model": model, "teachers": json.dumps(about)})


def describe(adaptor: Adaptor) -> dict[str, Any]:
    """Return fingerprint, stride of the student's map, and by head the widths of input, hidden layer and output."""
    heads = {"summary": adaptor.summary, "spatial": adaptor.spatial}
    widths = {
        head: [layers[0].in_features, layers[0].out_features, layers[-1].out_features]
        for head, layers in heads.items()
        if layers is not None
    }
    return {"fingerprint": adaptor.fingerprint, **widths, "stride": adaptor.stride}


def load_heads(path: Path, teachers: Iterable[str] | None = None, model: str | None = None) -> dict[str, Adaptor]:
    """Load the adaptors of all teachers in a file, or of those named.

    Args:
        path: the file.
        teachers: names of teachers; None for all.
        model: the checksum of the weights that the heads must belong to; None for any.

    Raises:
        HeadsError: the file cannot be read, is altered, belongs to another model, or lacks a teacher.
    """
    try:
        with open_tensors(path) as (file, metadata):
            if metadata.get("format") != FORMAT:
                raise HeadsError(f"{path}: format {metadata.get('format')!r} is not {FORMAT!r}")
            # Cloned: safetensors maps the file, and one that shrinks under a map kills the process.
            state = {key: file.get_tensor(key).clone() for key in file.keys()}  # noqa: SIM118 (not a dict)
        check_digest(path, metadata, state)
        if model is not None and metadata["model"] != model:
            raise HeadsError(f"{path}: these heads belong to other weights than those in the same folder")
        about = dict(parse_json(metadata["teachers"]).items())
        names = list(about) if teachers is None else list(teachers)
        for name in names:
            if name not in about:
                raise HeadsError(f"{path}: no heads for teacher {name!r}; it holds: {', '.join(about)}")
        return {name: _load_adaptor(state, name, about[name]) for name in names}
    except HeadsError:
        raise
    except WeightsError as error:  # names the file
        raise HeadsError(str(error)) from None
    except (AttributeError, KeyError, TypeError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise HeadsError(f"{path}: no readable file of heads ({reason})") from error


def _load_adaptor(state: Mapping[str, Tensor], name: str, about: Mapping[str, Any]) -> Adaptor:
    """Return one teacher's adaptor; the tensors must have the widths that the metadata say."""
    with torch.device("meta"):
        adaptor = build_adaptor(about)
    adaptor.load_state_dict({key: state[f"{name}/{key}"] for key in adaptor.state_dict()}, assign=True)
    return adaptor.requires_grad_(False).eval()
