"""Members of the family that no reference file holds, against the straight port; and everything that can be wrong."""

import pytest
import torch

from backbones import WeightsError, eradio_from_public, fuse
from search_space import SpecError
from tests.backbones.builders import outputs
from tests.backbones.straight_port import StraightPort

BASE = {
    "depths": [1, 2, 2, 1],
    "num_heads": [1, 2, 4, 8],
    "window_size": [None, None, [4, 4], 4],
    "dim": 16,
    "in_dim": 8,
    "sr_ratio": [1, 1, [2, 1], 1],
    "conv_base": True,
    "use_neck": True,
    "full_features_head_dim": 24,
    "neck_start_stage": 2,
    "cpb_mlp_hidden": 16,
    "mlp_ratio": 4,
    "num_classes": 5,
}
MEMBERS = {
    "base": {},
    "everything": {
        "use_swiglu": True,
        "layer_scale": 0.3,
        "qkv_bias": True,
        "conv_base": False,
        "conv_groups_ratio": 1,
    },
    "no pre-conv": {"conv_groups_ratio": -1},
    "grouped pre-conv": {"conv_groups_ratio": 0.25},
    "three resolutions": {"sr_ratio": [1, 1, [4, 2, 1], [2, 1]], "window_size": [None, None, [4, 4, 4], [2, 2]]},
    "ratio 3": {"sr_ratio": [1, 1, [3, 2], 1]},
    "unequal windows": {"window_size": [None, None, [3, 4], 5]},
    "no subsampling": {"sr_ratio": [1, 1, 1, 1], "window_size": [None, None, 7, 2]},
    "window 1": {"window_size": [None, None, [1, 1], 1]},
    "slim": {"depths": [2, 1, 1, 3], "mlp_ratio": 2, "num_heads": [1, 1, 2, 2], "dim": 24, "cpb_mlp_hidden": 512},
    "dense at stride 8": {"neck_start_stage": 1},
    "dense at stride 32": {"neck_start_stage": 3},
    "a neck entry that is the identity": {"full_features_head_dim": 64},
    "neither neck nor classifier": {"use_neck": False, "num_classes": 0},
}
COMMON = ("base", "everything", "grouped pre-conv", "three resolutions", "unequal windows", "dense at stride 8")
SIZES = ((64, 64), (96, 32))


def straight(**changes):
    """The port with weights and statistics far from their initial ones."""
    torch.manual_seed(0)
    port = StraightPort(BASE | changes).eval()
    for tensor in port.state_dict().values():
        if tensor.is_floating_point() and tensor.ndim == 1:
            tensor.copy_(torch.rand_like(tensor) + 0.5)
    return port


@pytest.mark.parametrize(
    "name", [name if name in COMMON else pytest.param(name, marks=pytest.mark.slow) for name in MEMBERS]
)
def test_unseen_members_agree_with_the_straight_port(name):
    changes = MEMBERS[name]
    port = straight(**changes)
    model = eradio_from_public(BASE | changes, port.state_dict())
    fused = fuse(model)
    for size in SIZES:
        x = torch.randn(2, 3, *size)
        with torch.no_grad():
            wanted = port(x)
        for form, tolerance in ((model, 2e-6), (fused, 1e-5)):
            got = outputs(form, x)
            for key, value in wanted.items():
                scale = max(1.0, float(value.abs().max()))
                assert float((got[key] - value).abs().max()) < tolerance * scale, (key, size, form is fused)


def test_the_resolution_changes_windows_after_loading():
    port = straight(window_size=[None, None, [7, 7], 7])
    model = eradio_from_public(BASE | {"window_size": [None, None, [7, 7], 7]}, port.state_dict())
    fused = fuse(model)
    sizes = (
        ((256, 256), 8),
        ((96, 64), 7),  # whose rule has windows of 1: those of the config
        ((224, 352), 7),
        ((192, 96), 3),
        (96, 3),
    )
    for size, window in sizes:
        other = StraightPort(BASE | {"window_size": [None, None, [window, window], window]}).eval()
        other.load_state_dict(port.state_dict())
        x = torch.randn(1, 3, *(size if isinstance(size, tuple) else (size, size)))
        with torch.no_grad():
            wanted = other(x)
        for form in (model, fused):
            form.change_resolution(size)
            assert [stage.window for stage in form.spec.stages[2:]] == [window, window]
            torch.testing.assert_close(outputs(form, x)["neck"], wanted["neck"], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s.pop("levels.2.blocks.1.attention_blocks.0.attn.qkv.weight"), "qkv.weight' is missing"),
        (lambda s: s.update({"levels.9.x": torch.zeros(1)}), "'levels.9.x' is not part"),
        (lambda s: s.update({"norm.weight": torch.zeros(3)}), r"'norm.weight' has shape \(3,\), not \(128,\)"),
    ],
)
def test_a_wrong_key_is_named(change, words):
    state = dict(straight().state_dict())
    change(state)
    with pytest.raises(WeightsError, match=words):
        eradio_from_public(BASE, state)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"shuffle_down": True}, "shuffle_down"),
        ({"downsample_shuffle": True}, "downsample_shuffle"),
        ({"dim": None}, "'dim' is missing"),
        ({"depths": [1, 1]}, "depths"),
        ({"num_heads": [1, 2, 3, 8]}, "heads: 3"),
        ({"window_size": [None, None, None, 4]}, "window_size: None in stage 3"),
        ({"window_size": [None, None, [4, 4, 4], 4]}, "window_size"),
        ({"in_chans": 4}, "in_chans"),
        ({"yolo_arch": False}, "yolo_arch"),
    ],
)
def test_a_wrong_config_is_named(change, words):
    with pytest.raises(SpecError, match=words):
        eradio_from_public(BASE | change, {})


def test_derived_buffers_are_ignored_and_unknown_arguments_are_warned_of():
    state = dict(straight().state_dict())
    state["levels.2.blocks.0.attention_blocks.0.attn.pos_emb_funct.relative_bias"] = torch.zeros(1)
    with pytest.warns(UserWarning, match="ignored hat"):
        eradio_from_public(BASE | {"hat": True}, state)
