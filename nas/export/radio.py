"""Define a backbone that transformers loads, with the calls and outputs of the RADIO models.

``backbone-nas export --format hf`` copies this file into its folders, with the modules of this project that it imports.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import timm  # noqa: F401 (transformers reads this file first and reports missing libraries)
import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from backbones.backbone import Backbone
from backbones.build import build
from backbones.fuse import fuse
from nas.distill.adaptor import build_adaptor, module_name
from search_space.arch import SIZE_MULTIPLE_PX, ArchSpec


class Resolution(NamedTuple):
    """Height and width in px."""

    height: int
    width: int


class RadioOutput(NamedTuple):
    """Summary (B, C), None for teachers without one; features (B, T, D), or (B, D, h, w) with "NCHW"."""

    summary: Tensor | None
    features: Tensor


class BackboneNasConfig(PretrainedConfig):
    """Configuration of `BackboneNasModel`.

    Args:
        spec: `ArchSpec.to_dict()`.
        image_size: side of the images in distillation, in px.
        hidden_size: width D of a token.
        summary_size: width C of the summary.
        patch_size: side of a token, in px.
        image_mean: of the model's input normalization.
        image_std: of the model's input normalization.
        adaptors: teacher -> widths and fingerprint of its heads, and stride of their input map.
        adaptor_names: teachers whose features the model returns in addition to the backbone's own, as in
            ``from_pretrained(..., adaptor_names=["clip"])``; one name needs no list.
        deployed: whether BatchNorm is folded, see `BackboneNasModel.switch_to_deploy`.
        resolution: (H, W) px for which `BackboneNasModel.change_resolution` has set the windows; None: those of `spec`.
        rest: of PretrainedConfig.
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
        deployed: bool = False,
        resolution: Sequence[int] | None = None,
        **rest: Any,
    ) -> None:
        super().__init__(**rest)
        self.spec = dict(spec or {})
        self.image_size, self.hidden_size, self.summary_size = image_size, hidden_size, summary_size
        self.patch_size = patch_size
        self.image_mean, self.image_std = list(image_mean), list(image_std)
        self.adaptors = {name: dict(about) for name, about in (adaptors or {}).items()}
        self.adaptor_names = list(adaptor_names or ())
        self.deployed = deployed
        self.resolution = None if resolution is None else list(resolution)


class InputConditioner(nn.Module):
    """Normalizes images (B, 3, H, W), RGB in [0, 1], as in training."""

    norm_mean: Tensor
    norm_std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("norm_mean", torch.tensor(list(mean)).view(3, 1, 1))
        self.register_buffer("norm_std", torch.tensor(list(std)).view(3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Return the normalized images."""
        return (x - self.norm_mean) / self.norm_std


class BackboneNasModel(PreTrainedModel):
    """``summary, spatial_features = model(x)`` for x (B, 3, H, W) in [0, 1], H and W multiples of 32."""

    config_class = BackboneNasConfig
    main_input_name = "pixel_values"
    supports_gradient_checkpointing = True
    _keys_to_ignore_on_load_missing: ClassVar[list[str]] = [r"num_batches_tracked$"]  # frozen norms do not save it

    def __init__(self, config: BackboneNasConfig) -> None:
        super().__init__(config)
        if isinstance(config.adaptor_names, str):  # transformers sets arguments of `from_pretrained` as attributes
            config.adaptor_names = [config.adaptor_names]
        unknown = [name for name in config.adaptor_names if name not in config.adaptors]
        if unknown:
            available = ", ".join(config.adaptors) or "none"
            raise ValueError(f"adaptor_names: no heads for {unknown[0]!r} in this folder; available: {available}")
        self.input_conditioner: nn.Module = InputConditioner(config.image_mean, config.image_std)
        network = build(ArchSpec.from_dict(config.spec))
        if config.resolution is not None:
            network.change_resolution(config.resolution)
        self.network: Backbone = _keep_derived(fuse(network) if config.deployed else network)
        self.adaptors = nn.ModuleDict({module_name(name): build_adaptor(a) for name, a in config.adaptors.items()})
        self.adaptors.requires_grad_(False)
        self.post_init()

    @classmethod
    def from_pretrained(cls, *args: Any, **options: Any) -> Any:
        """Return the model of a folder, and with `output_loading_info` a dictionary about it, as transformers does.

        transformers makes each parameter trainable and contiguous. Adaptors do not train: those that no one names
        would get no gradient, which DistributedDataParallel refuses. Nor does a folded network. Convolutions are faster
        in channels-last memory.
        """
        loaded = super().from_pretrained(*args, **options)
        model: BackboneNasModel = loaded[0] if isinstance(loaded, tuple) else loaded
        model.adaptors.requires_grad_(False)
        if model.network.deployed:
            model.network.requires_grad_(False)
        for parameter in model.network.parameters():
            if parameter.ndim == 4:
                parameter.data = parameter.data.to(memory_format=torch.channels_last)
        return loaded

    def forward(self, pixel_values: Tensor, feature_fmt: str = "NLC") -> RadioOutput | dict[str, RadioOutput]:
        """Return summary and spatial features; with `adaptor_names`, by name, "backbone" first.

        A teacher's token covers 16 px a side, whatever the backbone's covers.

        Args:
            pixel_values: images (B, 3, H, W), RGB in [0, 1].
            feature_fmt: "NLC" for tokens (B, T, D), row by row; "NCHW" for maps (B, D, h, w).
        """
        if feature_fmt not in ("NLC", "NCHW"):
            raise ValueError(f"feature_fmt: {feature_fmt!r}: must be NLC or NCHW")
        x = self.input_conditioner(pixel_values).to(self.dtype)
        summary, spatial = self.network.encode(x)
        outputs = {"backbone": RadioOutput(summary, _as(spatial, feature_fmt))}
        for name in self.config.adaptor_names:
            teacher_summary, teacher_spatial = self.adaptors[module_name(name)](summary, spatial, x)
            outputs[name] = RadioOutput(teacher_summary, _as(teacher_spatial, feature_fmt))
        return outputs if len(outputs) > 1 else outputs["backbone"]

    @property
    def gradient_checkpointing(self) -> bool:
        """Whether training recomputes each block in the backward pass instead of keeping its activations.

        `activation_checkpointing_enable` of this model, or of a VLM around it, sets this attribute of each module.
        """
        return any(stage.grad_checkpointing for stage in self.network.stages)

    @gradient_checkpointing.setter
    def gradient_checkpointing(self, enable: bool) -> None:
        self.network.set_grad_checkpointing(enable)

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
        """Return the step of image sides, in px."""
        return SIZE_MULTIPLE_PX

    @property
    def preferred_resolution(self) -> Resolution:
        """Return the resolution of the distillation."""
        return Resolution(self.config.image_size, self.config.image_size)

    def get_nearest_supported_resolution(self, height: int, width: int) -> Resolution:
        """Return the nearest multiples of 32 px, at least 32."""
        step = SIZE_MULTIPLE_PX
        return Resolution(*(max(1, int(side / step + 0.5)) * step for side in (height, width)))

    def make_preprocessor_external(self) -> nn.Module:
        """Remove the normalization from the model and return it, for a data loader that applies it."""
        external, self.input_conditioner = self.input_conditioner, nn.Identity()
        return external

    def change_resolution(self, resolution: int | Sequence[int]) -> None:
        """Set the windows for images of side or (H, W) px, as the backbone's method; `save_pretrained` keeps them."""
        self.network.change_resolution(resolution)
        self.config.resolution = [resolution] * 2 if isinstance(resolution, int) else list(resolution)

    def switch_to_deploy(self) -> None:
        """Fold BatchNorm into convolutions: inference is faster, training impossible. `save_pretrained` keeps it so."""
        self.network = _keep_derived(fuse(self.network))
        self.config.deployed = True

    def _init_weights(self, module: nn.Module) -> None:
        """Start counts of batches that a folder lacks at 0; `build` has initialized all else."""
        batches = getattr(module, "num_batches_tracked", None)
        if batches is not None and not getattr(batches, "_is_hf_initialized", False):
            batches.zero_()


def _keep_derived(network: Backbone) -> Backbone:
    """Make buffers that follow from the spec part of the weights: transformers leaves non-persistent ones empty.

    They take the type of the parameters, which transformers builds in the requested one while it loads.
    """
    requested = next(network.parameters()).dtype
    for module in network.modules():
        for name, buffer in list(module.named_buffers(recurse=False)):
            module.register_buffer(name, buffer.to(requested) if buffer.is_floating_point() else buffer)
    return network


def _as(spatial: Tensor, feature_fmt: str) -> Tensor:
    return spatial.flatten(2).transpose(1, 2) if feature_fmt == "NLC" else spatial
