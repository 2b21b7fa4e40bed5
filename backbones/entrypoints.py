"""Presets as timm models: after ``import backbones``, ``timm.create_model("eradio_b")`` builds one.

``timm.list_models(module="entrypoints")`` lists the presets, `register` adds any other spec. The models accept timm's
usual arguments and `neck`. By default they have neither neck nor summary token, because classification does not use
them and their parameters would get no gradient; `backbones.build` keeps them. There are no published weights:
``pretrained=True`` needs a .safetensors file that `backbones.load` accepts, ``pretrained_cfg_overlay={"file": path}``.
If the file has no classifier, the model gets a new one.

`backbone_nas` builds any architecture from its spec. Folders of ``nas.export --format timm`` use it:
``timm.create_model("local-dir:FOLDER", pretrained=True)``.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models import (
    DefaultCfg,
    build_model_with_cfg,
    generate_default_cfgs,
    register_model,
    register_notrace_function,
    register_notrace_module,
)
from torch import Tensor, nn

from backbones.backbone import Backbone, check_input
from backbones.build import build
from backbones.layers.stage import Stage
from backbones.weights import WeightsError, load
from search_space import PRESETS, ArchSpec, SpecError
from search_space.arch import SIZE_MULTIPLE_PX
from search_space.spaces import PHOTO_PX, space_of

FOLDER_WEIGHTS = "model.safetensors"  # file name in a folder that timm opens as local-dir


def create(
    cfg: ArchSpec,
    *,
    num_classes: int = 1000,
    global_pool: str = "avg",
    in_chans: int = 3,
    img_size: int | tuple[int, int] | None = None,
    drop_rate: float = 0.0,
    drop_path_rate: float = 0.0,
    neck: bool = False,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> Backbone:
    """Build a backbone from a spec with timm's arguments.

    Args:
        cfg: the architecture.
        num_classes: width of the classifier; 0: no classifier.
        global_pool: see `Backbone.reset_classifier`.
        in_chans: channels of the images.
        img_size: side or (H, W) px for `Backbone.change_resolution`; None keeps the spec's windows, which accept any
            size.
        drop_rate: dropout before the classifier.
        drop_path_rate: stochastic depth of the last block.
        neck: whether to keep the spec's neck and summary token, which only `Backbone.encode` reads.
        device: of the parameters; None: torch's default.
        dtype: of the parameters; None: float32.
    """
    with torch.device(device or torch.get_default_device()):
        model = build(cfg if neck else for_classification(cfg), drop_path_rate)
        if in_chans != model.in_chans:
            _set_channels(model, in_chans)
        if img_size is not None:
            model.change_resolution(img_size)
        model.head_drop.p = drop_rate
        model.reset_classifier(num_classes, global_pool)
    return model if dtype is None else model.to(dtype)


def for_classification(spec: ArchSpec) -> ArchSpec:
    """Return the spec without the parts that a classifier does not read."""
    return replace(spec, neck="none", summary=None)


def _set_channels(model: Backbone, in_chans: int) -> None:
    """Replace the stem's first convolution by a new one for images of `in_chans` channels."""
    name = first_conv(model.spec)
    old = model.get_submodule(name)
    assert isinstance(old, nn.Conv2d)
    new = nn.Conv2d(in_chans, old.out_channels, old.kernel_size, old.stride, old.padding, bias=old.bias is not None)  # type: ignore[arg-type]
    nn.init.normal_(new.weight, std=float(math.sqrt(2 / new.weight[:, 0].numel())))
    model.set_submodule(name, new.to(memory_format=torch.channels_last))  # type: ignore[call-overload]
    model.in_chans = in_chans


def first_conv(spec: ArchSpec) -> str:
    """Return the name of the convolution that reads the image."""
    return "stem.0.conv" if spec.stem in ("conv", "conv16") else "stem.conv"


def image_px(spec: ArchSpec) -> int:
    """Return the side in px of the images that a spec is designed for: those of its space, where it is in one.

    Otherwise E-RADIO's rule in reverse: the map of the last windowed stage is one window of its coarsest attention
    (window = side / 32 in the family), or the maps are the smallest that fill the grids that their positions are
    learned for. 224 without windows and grids.
    """
    if (space := space_of(spec)) is not None:
        return space.image_px
    pairs = list(zip(spec.strides, spec.stages, strict=True))
    lacking_px = [stride * (stage.grid - 1) for stride, stage in pairs if stage.grid is not None]
    for stride, stage in reversed(pairs):
        if stage.grid is not None:  # also of a vit with windows, which fit any map
            return (max(lacking_px) // SIZE_MULTIPLE_PX + 1) * SIZE_MULTIPLE_PX
        if stage.window is not None:
            windows_px = stride * max(r * w for r, w in zip(stage.attention_ratios, stage.windows, strict=True))
            return math.lcm(windows_px, SIZE_MULTIPLE_PX)
    return PHOTO_PX


def default_cfg(spec: ArchSpec, px: int | None = None) -> dict[str, Any]:
    """Return timm's description of a model; mean and std are timm's defaults, ImageNet's.

    Args:
        spec: the architecture.
        px: side of its images; None: that of `image_px`.
    """
    side = image_px(spec) if px is None else px
    pool = -(-side // spec.strides[-1])
    return {
        "input_size": (3, side, side),
        "pool_size": (pool, pool),
        "first_conv": first_conv(spec),
        "classifier": "head",
    }


def fit_state(state: Mapping[str, Tensor], model: Backbone) -> dict[str, Tensor]:
    """Return the tensors of a file that `model` has, and its own head's if the file has none.

    Raises:
        WeightsError: the tensors are those of another architecture. Where timm replaces a classifier, it would leave
            missing tensors at their random values.
    """
    target = model.state_dict()
    missing = [key for key in target if key not in state and not key.startswith("head.")]
    foreign = [key for key in state if key not in target and not key.startswith(("head.", "neck.", "summary_norm."))]
    if missing or foreign:
        misfit = f"lack {missing[0]!r}" if missing else f"have {foreign[0]!r} of another architecture"
        raise WeightsError(f"pretrained: the weights do not fit the architecture: they {misfit}")
    return {key: state.get(key, value) for key, value in target.items()}


def check_file(path: Path, spec: ArchSpec) -> None:
    """Raise WeightsError unless `backbones.load` accepts the file and its spec is `spec`, but for neck and summary."""
    if path.suffix != ".safetensors":  # timm would unpickle it
        raise WeightsError(f"{path}: not a .safetensors file; other formats are not supported")
    stored = load(path).spec
    if not isinstance(stored, ArchSpec) or for_classification(stored) != for_classification(spec):
        raise WeightsError(f"{path}: holds architecture {stored.arch_id}, not {spec.arch_id}")


def register(name: str, spec: ArchSpec) -> None:
    """Register `spec` with timm as `name`. Raises ValueError if timm has a model of that name."""
    if timm.is_model(name):
        raise ValueError(f"name: timm has a model {name!r} already")
    default_cfgs.update(generate_default_cfgs({name: default_cfg(spec)}))
    globals()[name] = register_model(_entrypoint(name, spec))


def _entrypoint(name: str, spec: ArchSpec) -> Callable[..., nn.Module]:
    def entrypoint(pretrained: bool = False, **options: Any) -> nn.Module:
        return _create_with_timm(name, spec, pretrained, options)

    entrypoint.__name__ = entrypoint.__qualname__ = name
    entrypoint.__doc__ = f"{name}, architecture {spec.arch_id}."
    return entrypoint


def _create_with_timm(name: str, spec: ArchSpec, pretrained: bool, options: Mapping[str, Any]) -> nn.Module:
    if pretrained and (file := _weight_file(options)):
        check_file(file, spec)
    model: nn.Module = build_model_with_cfg(
        create,
        name,
        pretrained,
        model_cfg=spec,
        feature_cfg={"out_indices": tuple(range(len(spec.stages))), "feature_cls": "getter"},
        pretrained_filter_fn=fit_state,
        **options,
    )
    return model


def _weight_file(options: Mapping[str, Any]) -> Path | None:
    """Return the weights file that timm is about to read, of a folder the preferred one, even if it is missing."""
    cfg = options.get("pretrained_cfg") or {}
    plain = {} if isinstance(cfg, str) else dict(cfg if isinstance(cfg, Mapping) else vars(cfg))
    settings = plain | (options.get("pretrained_cfg_overlay") or {})
    if not (file := settings.get("file")):
        return None
    return Path(file) / FOLDER_WEIGHTS if settings.get("source") == "local-dir" else Path(file)


def backbone_nas(pretrained: bool = False, spec: Mapping[str, Any] | None = None, **options: Any) -> nn.Module:
    """Build the architecture of `spec`, the data of `ArchSpec.to_dict()`."""
    if spec is None:
        raise SpecError("spec: backbone_nas builds any architecture; it needs spec=ArchSpec.to_dict()")
    return _create_with_timm("backbone_nas", ArchSpec.from_dict(spec), pretrained, options)


default_cfgs: dict[str, DefaultCfg] = {}  # timm reads this name in the module of a registered function

for _name, _spec in PRESETS.items():
    try:
        register(_name, _spec)
    except ValueError as error:  # a later timm may use the name; `--arch` still resolves the preset
        warnings.warn(f"preset {_name}: {error}", stacklevel=2)

register_model(backbone_nas)

# Stages depend on the map's size, which symbolic tracing doesn't know.
register_notrace_module(Stage)
register_notrace_function(check_input)
