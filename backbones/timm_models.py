"""timm's own networks as backbones: the same `encode` and the same declared attributes."""

from __future__ import annotations

import difflib
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from backbones.backbone import Features
from search_space import SpecError


class TimmBackbone(nn.Module):
    """A network of timm with random weights. Sizes are as that network wants them; many take any multiple of 32.

    The spatial map is the last feature map, the summary what the network's own head pools from it.
    """

    fuses_parts = True

    def __init__(self, name: str) -> None:
        super().__init__()
        self.model: Any
        if not timm.is_model(name):
            near = difflib.get_close_matches(name, timm.list_models(), n=3) or ["resnet18", "convnext_atto"]
            raise SpecError(f"arch: timm has no model {name!r}; similar: {', '.join(near)}; all: timm.list_models()")
        self.name = name
        self.model = create(name)
        if not hasattr(self.model, "forward_intermediates"):
            raise SpecError(f"arch: timm:{name} gives no feature maps (it has no forward_intermediates)")
        info = self.model.feature_info
        self.widths = tuple(int(i["num_chs"]) for i in info)
        self.strides = tuple(int(i["reduction"]) for i in info)
        self.spatial_dim, self.spatial_stride = self.widths[-1], self.strides[-1]
        self.num_features = int(self.model.num_features)
        self.summary_dim = int(getattr(self.model, "head_hidden_size", None) or self.num_features)
        self.input_px = int(self.model.default_cfg["input_size"][-1])

    @property
    def feature_info(self) -> list[dict[str, Any]]:
        """As timm declares it: `num_chs`, `reduction`, `module` of each feature map."""
        return list(self.model.feature_info)

    def encode(self, x: Tensor) -> Features:
        """Summary (B, summary_dim) and last map (B, spatial_dim, h, w) of images (B, 3, H, W)."""
        last, (spatial,) = self.model.forward_intermediates(x, indices=1, output_fmt="NCHW")
        return Features(self.model.forward_head(last, pre_logits=True), spatial)

    def forward_features(self, x: Tensor) -> Tensor:
        """timm's own last features."""
        y: Tensor = self.model.forward_features(x)
        return y

    def forward(self, x: Tensor) -> Tensor:
        """The summary (B, summary_dim): there is no classifier."""
        return self.encode(x).summary

    def fuse(self) -> None:
        """timm's own reparameterisation where a part has one, then every BatchNorm that follows a convolution."""
        for part in list(self.model.modules()):
            if callable(own := getattr(part, "fuse", None)):
                own()
        fold_batch_norms(self.model, self.input_px)

    def stage_modules(self) -> list[tuple[str, nn.Module]]:
        """The network's direct parts, for per-stage tables."""
        return list(self.model.named_children())


def fold_batch_norms(model: nn.Module, input_px: int) -> None:
    """Fold, in place, each BatchNorm whose input is the output of a convolution that nothing else reads.

    Which these are is seen in one call of the network in eval mode, however its modules nest. Raises RuntimeError
    where folding changed the output after all: a convolution's output that is read twice.
    """
    parameter = next(model.parameters())
    images = torch.randn(1, 3, input_px, input_px, device=parameter.device, dtype=parameter.dtype)
    with torch.no_grad():
        pairs, before = _traced_pairs(model, images)
        for conv_name, norm_name in pairs:
            conv, norm = model.get_submodule(conv_name), model.get_submodule(norm_name)
            model.set_submodule(conv_name, fuse_conv_bn_eval(conv, norm))  # type: ignore[type-var, arg-type]
            model.set_submodule(
                norm_name, nn.Sequential(*(getattr(norm, p) for p in ("drop", "act") if hasattr(norm, p)))
            )
        after = model.forward_features(images)  # type: ignore[operator]
    scale = float(before.abs().max())
    if float((after - before).abs().max()) > 1e-3 * scale:
        raise RuntimeError("folding BatchNorm changed the network's output")


def _traced_pairs(model: nn.Module, images: Tensor) -> tuple[list[tuple[str, str]], Tensor]:
    """Names of (convolution, BatchNorm) pairs in a call, and the call's output."""
    made: dict[int, tuple[str, Tensor]] = {}  # the outputs are kept alive, so that an id stays one tensor's
    pairs: list[tuple[str, str]] = []
    hooks = []
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            hooks.append(module.register_forward_hook(lambda m, i, out, n=name: made.update({id(out): (n, out)})))
        elif isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:
            hooks.append(
                module.register_forward_pre_hook(
                    lambda m, i, n=name: pairs.append((made[id(i[0])][0], n)) if id(i[0]) in made else None
                )
            )
    output: Tensor = model.forward_features(images)  # type: ignore[operator]
    for hook in hooks:
        hook.remove()
    return pairs, output


def create(name: str) -> nn.Module:
    """timm's network without classifier, taking any size where its constructor offers that."""
    for flexible in ({"dynamic_img_size": True}, {"strict_img_size": False}, {}):
        try:
            model: nn.Module = timm.create_model(name, pretrained=False, num_classes=0, **flexible)
        except TypeError:  # the network has no such argument
            continue
        except RuntimeError as error:  # an unknown tag after the name's dot
            raise SpecError(f"arch: timm:{name}: {error}") from None
        return model
    raise SpecError(f"arch: timm:{name} cannot be built without a classifier")
