"""E-RADIO against tensors of the original with random weights: the port is right where every tensor agrees."""

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from backbones import build, fuse
from search_space.presets import eradio

FOLDER = Path(__file__).resolve().parents[3] / "shared" / "reference"
MEMBERS = ("conv_base", "pool_depthwise", "window_resize")

# Public checkpoint key -> ours, applied in order.
RENAMES = (
    (r"^patch_embed\.conv_down\.0\.", "stem.0."),
    (r"^patch_embed\.conv_down\.2\.", "stem.1."),
    (r"^levels\.(\d)\.downsample\.reduction\.", r"downs.\1."),
    (r"^levels\.(\d)\.blocks\.cv1\.", r"stages.\1.split."),
    (r"^levels\.(\d)\.blocks\.cv2\.", r"stages.\1.merge."),
    (r"^levels\.(\d)\.blocks\.m\.(\d+)\.cv1\.", r"stages.\1.bottlenecks.\2.0."),
    (r"^levels\.(\d)\.blocks\.m\.(\d+)\.cv2\.", r"stages.\1.bottlenecks.\2.1."),
    (r"\.attn\.pos_emb_funct\.cpb_mlp\.", ".attention.position.mlp."),
    (r"\.attn\.", ".attention."),
    (r"\.(attention\.|mlp\.|norm1|norm2)(.*)$", r".layer.\1\2"),
    (r"\.layer\.attention\.position\.layer\.mlp", ".layer.attention.position.mlp"),
    (r"\.pre_conv\.", ".pre_conv.conv."),
    (r"\.downsample_mixer\.", ".subsample.1."),
    (r"\.upsample_op\.(conv|bn)\.", r".upsample.conv.\1."),
    (r"\.downsample_op\.", ".subsample."),
    (r"\.upsample_op\.", ".upsample."),
    (r"^high_res_neck\.neck_features_proj\.(\d)\.conv1", r"neck.branches.\1.depthwise"),
    (r"^high_res_neck\.neck_features_proj\.(\d)\.conv2", r"neck.branches.\1.pointwise"),
    (r"^high_res_neck\.neck_features_proj\.", "neck.branches."),
    (r"\.bn\.", ".norm."),
)
DERIVED = ("relative_coords_table", "relative_position_index", "relative_bias")


def spec_of(config):
    return eradio(
        config["dim"],
        depths=config["depths"],
        window=config["window_size"][3],
        in_dim=config["in_dim"],
        heads=tuple(config["num_heads"][2:]),
        subsampling="conv" if config["conv_base"] else "pool",
        pre_conv="depthwise" if config.get("conv_groups_ratio") == 1 else "dense",
        cpb_hidden=config["cpb_mlp_hidden"],
        neck=f"stage{config['neck_start_stage'] + 1}",
        neck_dim=config["full_features_head_dim"],
    )


def rename(key, ratios):
    flat = r"^levels\.(\d)\.blocks\.(\d+)\.attention_blocks\.(\d)\."
    if match := re.match(flat, key):
        stage, layer, block = map(int, match.groups())
        key = f"stages.{stage}.blocks.{layer * ratios[stage] + block}." + key[match.end() :]
    for pattern, ours in RENAMES:
        key = re.sub(pattern, ours, key)
    return key


@pytest.fixture(scope="module", params=MEMBERS)
def member(request):
    path = FOLDER / f"eradio_micro_{request.param}.safetensors"
    if not path.exists():
        pytest.skip(f"no reference tensors at {path}")
    with safe_open(path, framework="pt") as file:
        config = json.loads(file.metadata()["config"])
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    ratios = [len(r) if isinstance(r, list) else 1 for r in config["sr_ratio"]]
    state = {
        rename(key.removeprefix("state."), ratios): value
        for key, value in tensors.items()
        if key.startswith("state.") and not key.endswith(DERIVED)
    }
    model = build(spec_of(config))
    model.reset_classifier(config["num_classes"])
    model.load_state_dict(state)
    wanted = {key.removeprefix("tensor."): value for key, value in tensors.items() if key.startswith("tensor.")}
    return model.eval(), wanted


@torch.no_grad()
def outputs(model, x):
    features, stages = model.forward_intermediates(x)
    pooled, neck = model.encode(x)
    named = {f"stage{i}": stage for i, stage in enumerate(stages)}
    return named | {"features": features, "pooled": pooled, "neck": neck, "logits": model(x)}


def test_every_tensor_agrees(member):
    model, wanted = member
    got = outputs(model, wanted["input"])
    for key, value in got.items():
        assert value.shape == wanted[key].shape
        assert (value - wanted[key]).abs().max() < 2e-6, key


def test_the_deploy_form_agrees(member):
    model, wanted = member
    got = outputs(fuse(model), wanted["input"])
    for key, value in got.items():
        torch.testing.assert_close(value, wanted[key], atol=1e-5, rtol=1e-5, msg=key)
