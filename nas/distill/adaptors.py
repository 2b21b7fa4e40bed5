"""Heads for use without us: from a student's features to a teacher's own, what undoes PHI-S and PCA folded in.

PHI-S and PCA are linear maps of a head's outputs, and so is what leads out of another loss space: all three go into
the head's last layer, which then gives the teacher's own C channels (arXiv 2410.01680). Nothing of the cache is needed
to use them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from nas.cache.standardise import Standardiser
from nas.cache.targets import TeacherTargets
from nas.distill.adaptor import Adaptor, described, mlp, module_name
from nas.distill.heads import TeacherHeads
from nas.distill.losses import Space
from nas.files import atomic_path

FORMAT = "backbone-nas-heads/1"


class HeadsError(ValueError):
    """A file of heads that cannot be used; one line that names it and what is wrong."""


def fold(heads: TeacherHeads, teachers: Mapping[str, TeacherTargets], stride: int) -> dict[str, Adaptor]:
    """Teacher -> its adaptor, on the CPU in float32; `heads` stay as they are. stride: of the student's map, px."""
    adaptors = {}
    for name in heads.names:
        key, about = module_name(name), teachers[name]
        summary = None
        if about.summary is not None:
            summary = folded(heads.summary[key], about.summary, heads.spaces.get(f"{name}/summary"))
        spatial = folded(heads.spatial[key], about.spatial, heads.spaces.get(f"{name}/spatial"))
        adaptors[name] = Adaptor(summary, spatial, about.fingerprint, stride).requires_grad_(False).eval()
    return adaptors


def folded(head: nn.Module, standardiser: Standardiser, space: Space | None) -> nn.Sequential:
    """A copy of a head whose last layer (k outputs) gives the teacher's own C channels; computed in float64.

    y = (x - offset) / scale leaves the loss's space, inverse y + mean leaves PHI-S, and x = W h + b.
    """
    first, norm, _, last = cast(Iterable[Any], head)
    weight, bias = (p.detach().double().cpu() for p in (last.weight, last.bias))
    if space is not None:
        weight, bias = weight / space.scale, (bias - space.offset.double()) / space.scale
    inverse = torch.from_numpy(standardiser.inverse).double()
    made = mlp(first.in_features, last.in_features, len(inverse))
    made[0].load_state_dict(first.state_dict())
    made[1].load_state_dict(norm.state_dict())
    final = cast(nn.Linear, made[-1])
    with torch.no_grad():
        final.weight.copy_(inverse @ weight)
        final.bias.copy_(inverse @ bias + torch.from_numpy(standardiser.mean))
    return made


def unfold(adaptors: Mapping[str, Adaptor], heads: TeacherHeads, teachers: Mapping[str, TeacherTargets]) -> None:
    """Inverse of `fold`: fills `heads` with what was folded, exact to rounding, so that a training goes on with them.

    HeadsError where they are not heads of these teachers' targets.
    """
    for name in heads.names:
        if name not in adaptors:
            raise HeadsError(f"no heads for teacher {name!r}; there are: {', '.join(adaptors)}")
        about, adaptor, key = teachers[name], adaptors[name], module_name(name)
        if adaptor.fingerprint != about.fingerprint:
            raise HeadsError(f"the heads of teacher {name!r} are of another version of it")
        if about.summary is not None and adaptor.summary is not None:
            _unfolded(adaptor.summary, heads.summary[key], about.summary, heads.spaces.get(f"{name}/summary"))
        _unfolded(adaptor.spatial, heads.spatial[key], about.spatial, heads.spaces.get(f"{name}/spatial"))


def _unfolded(folded: nn.Sequential, head: nn.Module, standardiser: Standardiser, space: Space | None) -> None:
    """Fills a head: what the inverse of PHI-S did is taken back, for forward @ inverse is the identity."""
    final = cast(nn.Linear, folded[-1])
    forward, mean = torch.from_numpy(standardiser.forward), torch.from_numpy(standardiser.mean)
    weight, bias = forward @ final.weight.double(), forward @ (final.bias.double() - mean)
    if space is not None:
        weight, bias = weight * space.scale, bias * space.scale + space.offset.double()
    state = folded.state_dict() | {"3.weight": weight.float(), "3.bias": bias.float()}
    head.load_state_dict(state)


def save_heads(adaptors: Mapping[str, Adaptor], path: Path) -> None:
    """One safetensors file; its metadata tell every teacher's name, widths and fingerprint.

    A file that is there is replaced as a whole or not at all.
    """
    about = {name: describe(adaptor) for name, adaptor in adaptors.items()}
    state = {
        f"{name}/{key}": value.contiguous()
        for name, adaptor in adaptors.items()
        for key, value in adaptor.state_dict().items()
    }
    with atomic_path(path) as unfinished:
        save_file(state, unfinished, {"format": FORMAT, "teachers": json.dumps(about)})


def describe(adaptor: Adaptor) -> dict[str, Any]:
    """Fingerprint, stride of the student's map, and by head the widths of input, hidden layer and output."""
    heads = {"summary": adaptor.summary, "spatial": adaptor.spatial}
    widths = {
        head: [layers[0].in_features, layers[0].out_features, layers[-1].out_features]
        for head, layers in heads.items()
        if layers is not None
    }
    return {"fingerprint": adaptor.fingerprint, **widths, "stride": adaptor.stride}


def load_heads(path: Path, teachers: Iterable[str] | None = None) -> dict[str, Adaptor]:
    """The adaptors of all teachers in a file, or of those named. HeadsError says in one line what is wrong."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise HeadsError(f"{path}: format {metadata.get('format')!r} is not {FORMAT!r}")
            about = json.loads(metadata["teachers"])
            if not isinstance(about, dict):
                raise HeadsError(f"{path}: its metadata name no teachers")
            wanted = list(about) if teachers is None else list(teachers)
            for name in wanted:
                if name not in about:
                    raise HeadsError(f"{path}: no heads for teacher {name!r}; it holds: {', '.join(about)}")
            return {name: _loaded(file, name, about[name]) for name in wanted}
    except (OSError, SafetensorError, KeyError, TypeError, RuntimeError, ValueError) as error:
        if isinstance(error, HeadsError):
            raise
        reason = " ".join(str(error).split())[:200]
        raise HeadsError(f"{path}: no readable file of heads ({reason})") from error


def _loaded(file: Any, name: str, about: Mapping[str, Any]) -> Adaptor:
    """One teacher's; the tensors must be those that the widths say."""
    with torch.device("meta"):
        adaptor = described(about)
    # Cloned: safetensors maps the file, and one that shrinks under a map kills the process.
    state = {key: file.get_tensor(f"{name}/{key}").clone() for key in adaptor.state_dict()}
    adaptor.load_state_dict(state, assign=True)
    return adaptor.requires_grad_(False).eval()
