"""Convert E-RADIO's public checkpoints, constructor arguments and state dict, to a Backbone.

Source of shapes and key names: the public checkpoints of "AM-RADIO: Agglomerative Vision Foundation Model", arXiv
2312.06709.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from backbones.backbone import Backbone
from backbones.build import build
from backbones.layers.conv import C2f, ConvNorm
from backbones.layers.neck import NeckBranch
from backbones.layers.window import WindowBlock
from backbones.weights import WeightsError
from search_space import ArchSpec, SpecError, StageSpec

DERIVED = (
    "relative_bias",
    "relative_coords_table",
    "relative_position_index",
)  # buffers that are computed from the window
UNSUPPORTED = ("shuffle_down", "downsample_shuffle", "use_shift", "multi_query", "qk_scale")
READ = {
    *("dim", "in_dim", "depths", "num_heads", "window_size", "sr_ratio", "conv_base", "conv_groups_ratio", "yolo_arch"),
    *("mlp_ratio", "use_swiglu", "qkv_bias", "layer_scale", "cpb_mlp_hidden", "drop_path_rate"),
    *("use_neck", "full_features_head_dim", "neck_start_stage", "num_classes", "in_chans", "resolution"),
}


def eradio_from_public(config: Mapping[str, Any], state_dict: Mapping[str, Tensor]) -> Backbone:
    """Build a public checkpoint's backbone, in eval mode and fp32.

    The outputs of the original are available as: `forward_intermediates(x)[1]`, the four stages' maps before
    downsampling; `forward_features(x)`, the last map after the last norm (B, 8 dim, H/32, W/32); `encode(x).summary`,
    its mean (B, 8 dim); `forward(x)`, the logits (B, num_classes); `encode(x).spatial`, the neck's map (B, neck_dim, h,
    w). Window sizes are the config's; `change_resolution` sets them for another size.

    Args:
        config: arguments of the original constructor.
        state_dict: tensors under the original names.

    Raises:
        SpecError: the config is invalid.
        WeightsError: names a key that is missing, left over, or has a wrong shape.
    """
    model = build(spec_from_public(config), drop_path_rate=float(config.get("drop_path_rate") or 0))
    head = state_dict.get("head.weight")
    model.reset_classifier(config["num_classes"] if "num_classes" in config else 0 if head is None else len(head))
    public = dict(public_keys(model))
    _check(state_dict, {public[key]: value for key, value in model.state_dict().items()})
    model.load_state_dict({key: state_dict[public[key]] for key in model.state_dict()})
    return model.eval()


def _check(state_dict: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    for key, tensor in expected.items():
        if key not in state_dict:
            raise WeightsError(f"state dict: key {key!r} is missing")
        if state_dict[key].shape != tensor.shape:
            shapes = f"{tuple(state_dict[key].shape)}, not {tuple(tensor.shape)}"
            raise WeightsError(f"state dict: key {key!r} has shape {shapes}")
    left_over = sorted(key for key in state_dict if key not in expected and not key.endswith(DERIVED))
    if left_over:
        raise WeightsError(f"state dict: key {left_over[0]!r} is not part of the network (left over: {len(left_over)})")


def public_keys(model: Backbone) -> Iterator[tuple[str, str]]:
    """Yield (our key, public key) of every tensor of an E-RADIO backbone."""
    public = dict(_modules(model))
    for key in model.state_dict():
        module, _, tensor = key.rpartition(".")
        yield key, f"{public[module]}.{tensor}"


def _modules(model: Backbone) -> Iterator[tuple[str, str]]:
    """Yield (our module, public module) for every module that has tensors of its own."""
    yield from _conv_norm("stem.0", "patch_embed.conv_down.0")
    yield from _conv_norm("stem.1", "patch_embed.conv_down.2")
    for i, stage in enumerate(model.stages):
        blocks = list(stage.blocks)  # type: ignore[arg-type]
        if isinstance(blocks[0], C2f):
            yield from _c2f(blocks[0], f"stages.{i}.blocks.0", f"levels.{i}.blocks")
        else:
            per_layer = len(model.spec.stages[i].attention_ratios)
            for j, block in enumerate(blocks):
                layer, number = divmod(j, per_layer)
                public = f"levels.{i}.blocks.{layer}.attention_blocks.{number}"
                yield from _window_block(block, f"stages.{i}.blocks.{j}", public)
        if i < len(model.downs):
            yield from _conv_norm(f"downs.{i}", f"levels.{i}.downsample.reduction")
    for i, branch in enumerate(model.neck.branches if model.neck is not None else ()):  # type: ignore[arg-type, union-attr]
        if isinstance(branch, NeckBranch):
            ours, public = f"neck.branches.{i}", f"high_res_neck.neck_features_proj.{i}"
            yield from ((f"{ours}.{a}", f"{public}.{b}") for a, b in NECK_BRANCH)
    yield from (("norm", "norm"), ("head", "head"))


NECK_BRANCH = (("depthwise", "conv1"), ("norm", "norm"), ("pointwise", "conv2"))
LAYER = (
    ("layer", ""),  # gamma1, gamma2
    ("layer.norm1", ".norm1"),
    ("layer.norm2", ".norm2"),
    ("layer.attention.qkv", ".attn.qkv"),
    ("layer.attention.proj", ".attn.proj"),
    ("layer.attention.position.mlp.0", ".attn.pos_emb_funct.cpb_mlp.0"),
    ("layer.attention.position.mlp.2", ".attn.pos_emb_funct.cpb_mlp.2"),
    ("layer.mlp.fc1", ".mlp.fc1"),
    ("layer.mlp.fc2", ".mlp.fc2"),
)


def _conv_norm(ours: str, public: str) -> Iterator[tuple[str, str]]:
    yield from ((f"{ours}.conv", f"{public}.conv"), (f"{ours}.norm", f"{public}.bn"))


def _c2f(block: C2f, ours: str, public: str) -> Iterator[tuple[str, str]]:
    yield from _conv_norm(f"{ours}.split", f"{public}.cv1")
    yield from _conv_norm(f"{ours}.merge", f"{public}.cv2")
    for j in range(len(block.bottlenecks)):
        for k in (0, 1):
            yield from _conv_norm(f"{ours}.bottlenecks.{j}.{k}", f"{public}.m.{j}.cv{k + 1}")


def _window_block(block: nn.Module, ours: str, public: str) -> Iterator[tuple[str, str]]:
    assert isinstance(block, WindowBlock)
    yield from ((f"{ours}.{a}", f"{public}{b}") for a, b in LAYER)
    if block.pre_conv is not None:
        yield from _conv_norm(f"{ours}.pre_conv.conv", f"{public}.pre_conv")
    if isinstance(block.subsample, nn.Conv2d):
        yield from ((f"{ours}.{a}", f"{public}.{b}_op") for a, b in (("subsample", "downsample"), ("upsample",) * 2))
    elif block.subsample is not None:
        assert isinstance(block.subsample, nn.Sequential)
        assert isinstance(block.subsample[1], ConvNorm)
        yield from _conv_norm(f"{ours}.subsample.1", f"{public}.downsample_mixer")
        yield from _conv_norm(f"{ours}.upsample.conv", f"{public}.upsample_op")


def spec_from_public(config: Mapping[str, Any]) -> ArchSpec:
    """Return the architecture of a config; warn about unknown arguments. Raises SpecError that names an argument."""
    _check_config(config)
    dim, depths = config["dim"], config["depths"]
    stages = [StageSpec("c2f", depths[i], dim * 2**i, expansion=0.5) for i in (0, 1)]
    stages += [_attention_stage(config, i) for i in (2, 3)]
    neck = bool(config.get("use_neck"))
    return ArchSpec(
        tuple(stages),
        stem_width=config["in_dim"],
        neck=f"stage{config['neck_start_stage'] + 1}" if neck else "none",
        neck_dim=config["full_features_head_dim"] if neck else None,
    )


def _attention_stage(config: Mapping[str, Any], i: int) -> StageSpec:
    width = config["dim"] * 2**i
    ratios, windows = _entries("sr_ratio", config, i), _entries("window_size", config, i)
    if len(windows) == 1:
        windows *= len(ratios)
    if len(windows) != len(ratios):
        raise SpecError(f"window_size: {config['window_size'][i]!r} for {len(ratios)} sr_ratio in stage {i + 1}")
    swiglu = bool(config.get("use_swiglu"))
    return StageSpec(
        "window" if ratios == [1] else "mr_window",
        config["depths"][i],
        width,
        # The gated MLP's hidden width depends on the stage's width only.
        expansion=4.0 if swiglu else float(config.get("mlp_ratio", 4)),
        heads=config["num_heads"][i],
        **_pre_conv(width, config.get("conv_groups_ratio", 0)),
        window=windows[0] if len(windows) == 1 else tuple(windows),
        cpb_hidden=config.get("cpb_mlp_hidden", 512),
        subsampling="conv" if config.get("conv_base") else "pool",
        ratios=tuple(ratios),
        mlp="swiglu" if swiglu else None,
        qkv_bias=bool(config.get("qkv_bias")),
        layer_scale=_layer_scale(config.get("layer_scale")),
    )


def _entries(name: str, config: Mapping[str, Any], i: int) -> list[int]:
    """Return a stage's entries of an argument that may be a list per stage, a scalar per stage, or one scalar."""
    value = config.get(name, 1) if name == "sr_ratio" else config[name]
    value = value[i] if isinstance(value, Sequence) else value
    entries = list(value) if isinstance(value, Sequence) else [value]
    if not entries or not all(isinstance(e, int) and e > 0 for e in entries):
        raise SpecError(f"{name}: {value!r} in stage {i + 1}; need a whole number or a list of them")
    return entries


def _pre_conv(width: int, ratio: float) -> dict[str, Any]:
    if ratio == -1:
        return {"pre_conv": "none"}
    groups = max(1, int(ratio * width))
    kind = {1: "dense", width: "depthwise"}.get(groups, "grouped")
    return {"pre_conv": kind, "pre_conv_groups": groups}


def _layer_scale(value: Any) -> float | None:
    return None if value is None or value is False else float(value)


def _check_config(config: Mapping[str, Any]) -> None:
    needed = ["depths", "num_heads", "window_size", "dim", "in_dim"]
    needed += ["full_features_head_dim", "neck_start_stage"] if config.get("use_neck") else []
    missing = [name for name in needed if config.get(name) is None]
    if missing:
        raise SpecError(f"config: {missing[0]!r} is missing")
    for name in UNSUPPORTED:
        if config.get(name):
            raise SpecError(f"config: {name}={config[name]!r} is not supported; leave it out")
    if not config.get("yolo_arch", True):
        raise SpecError("config: yolo_arch=False is not supported: the convolutional stages are C2f")
    if config.get("in_chans", 3) != 3:
        raise SpecError(f"config: in_chans={config['in_chans']!r} is not supported, only 3")
    for name in ("depths", "num_heads"):
        if not isinstance(config[name], Sequence) or len(config[name]) != 4:
            raise SpecError(f"config: {name}={config[name]!r}; need one for each of four stages")
    unknown = sorted(name for name in set(config) - READ - set(UNSUPPORTED) if config[name])
    if unknown:
        warnings.warn(f"config: ignored {', '.join(unknown)}", stacklevel=4)
