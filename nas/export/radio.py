"""A backbone that transformers loads, with the calls and outputs of the RADIO models.

This file is copied into folders of ``nas.export --format hf``, with what it imports of this project.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import timm  # noqa: F401 (named here, in the first file that is read, so that transformers says what to install)
import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from backbones.backbone import SIZE_MULTIPLE_PX, Backbone
from backbones.build import build
from backbones.fuse import fuse
from nas.distill.adaptor import build_adaptor, module_name
from search_space.arch import ArchSpec


class Resolution(NamedTuple):
    """In px."""

    height: int
    width: int


class RadioOutput(NamedTuple):
    """summary (B, C); None of a teacher that has none. features (B, T, D), or (B, D, h, w) as "NCHW"."""

    summary: Tensor | None
    features: Tensor


class BackboneNasConfig(PretrainedConfig):
    """`hidden_size` is D, `summary_size` C; a token stands for `patch_size` px a side.

    spec: ArchSpec.to_dict(). adaptors: teacher -> widths and fingerprint of its heads, and stride of the map that they
    take. adaptor_names: of teachers whose features are wanted beside the backbone's own, as
    ``from_pretrained(..., adaptor_names=["clip"])``.
    """

    model_type = "backbone_nas"

    def __init__(
        self,
        spec: Mapping[str, Any] | None = None,
        image_size: int = 64,
        hidden_size: int = 0,
        summary_size: int = 0,
        patch_size: int = 32,
        image_mean: Sequence[float] = (0.5, 0.5, 0.5),
        image_std: Sequence[float] = (0.25, 0.25, 0.25),
        adaptors: Mapping[str, Mapping[str, Any]] | None = None,
        adaptor_names: Sequence[str] | None = None,
        **rest: Any,
    ) -> None:
        super().__init__(**rest)
        self.spec = dict(spec or {})
        self.image_size, self.hidden_size, self.summary_size = image_size, hidden_size, summary_size
        self.patch_size = patch_size
        self.image_mean, self.image_std = list(image_mean), list(image_std)
        self.adaptors = {name: dict(about) for name, about in (adaptors or {}).items()}
        self.adaptor_names = list(adaptor_names or ())


class InputConditioner(nn.Module):
    """Images (B, 3, H, W), RGB in [0, 1], to what the network was trained on."""

    norm_mean: Tensor
    norm_std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("norm_mean", torch.tensor(list(mean)).view(3, 1, 1))
        self.register_buffer("norm_std", torch.tensor(list(std)).view(3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.norm_mean) / self.norm_std


class BackboneNasModel(PreTrainedModel):
    """``summary, spatial_features = model(x)`` for x (B, 3, H, W) in [0, 1], H and W multiples of 32."""

    config_class = BackboneNasConfig
    main_input_name = "pixel_values"

    def __init__(self, config: BackboneNasConfig) -> None:
        super().__init__(config)
        unknown = [name for name in config.adaptor_names if name not in config.adaptors]
        if unknown:
            known = ", ".join(config.adaptors) or "none"
            raise ValueError(f"adaptor_names: no heads for {unknown[0]!r} in this folder; it has: {known}")
        self.input_conditioner: nn.Module = InputConditioner(config.image_mean, config.image_std)
        self.network: Backbone = build(ArchSpec.from_dict(config.spec))
        _keep_derived(self.network)
        self.adaptors = nn.ModuleDict({module_name(name): build_adaptor(a) for name, a in config.adaptors.items()})
        self.post_init()

    def forward(self, pixel_values: Tensor, feature_fmt: str = "NLC") -> RadioOutput | dict[str, RadioOutput]:
        """Return summary and spatial features; with `adaptor_names`, by name, "backbone" first.

        A teacher's token stands for 16 px a side, whatever the backbone's does.
        feature_fmt: "NLC" for tokens (B, T, D), row by row; "NCHW" for maps (B, D, h, w).
        """
        if feature_fmt not in ("NLC", "NCHW"):
            raise ValueError(f"feature_fmt: {feature_fmt!r}: choose NLC or NCHW")
        x = self.input_conditioner(pixel_values).to(self.dtype)
        summary, spatial = self.network.encode(x)
        found = {"backbone": RadioOutput(summary, _as(spatial, feature_fmt))}
        for name in self.config.adaptor_names:
            of_teacher, mapped = self.adaptors[module_name(name)](summary, spatial)
            found[name] = RadioOutput(of_teacher, _as(mapped, feature_fmt))
        return found if len(found) > 1 else found["backbone"]

    @property
    def patch_size(self) -> int:
        """Return the side of a token in px."""
        return int(self.config.patch_size)

    @property
    def summary_dim(self) -> int:
        """Return the width of the summary."""
        return int(self.config.summary_size)

    @property
    def embed_dim(self) -> int:
        """Return the width of a token."""
        return int(self.config.hidden_size)

    @property
    def min_resolution_step(self) -> int:
        """Return the px of which sides must be multiples."""
        return SIZE_MULTIPLE_PX

    @property
    def preferred_resolution(self) -> Resolution:
        """Return the resolution that it was distilled at."""
        return Resolution(self.config.image_size, self.config.image_size)

    def get_nearest_supported_resolution(self, height: int, width: int) -> Resolution:
        """Return the nearest multiples of 32 px, 32 at least."""
        step = SIZE_MULTIPLE_PX
        return Resolution(*(max(1, int(side / step + 0.5)) * step for side in (height, width)))

    def make_preprocessor_external(self) -> nn.Module:
        """Take the normalization out of the model and return it, to be done once for all."""
        external, self.input_conditioner = self.input_conditioner, nn.Identity()
        return external

    def switch_to_deploy(self) -> None:
        """Fold BatchNorm into convolutions: faster, and not to be trained any more."""
        self.network = fuse(self.network)

    def _init_weights(self, module: nn.Module) -> None:
        """`build` has done it."""


def _keep_derived(network: nn.Module) -> None:
    """Make buffers that follow from the spec part of the weights: transformers leaves others empty when it loads.

    In the type that is the default here: transformers sets it to the one that was asked for, and fills what there is.
    """
    for module in network.modules():
        for name, buffer in list(module.named_buffers(recurse=False)):
            dtype = torch.get_default_dtype() if buffer.is_floating_point() else buffer.dtype
            module.register_buffer(name, buffer.to(dtype))


def _as(spatial: Tensor, feature_fmt: str) -> Tensor:
    return spatial.flatten(2).transpose(1, 2) if feature_fmt == "NLC" else spatial
