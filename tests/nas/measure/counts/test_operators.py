"""What operators move, by hand."""

import pytest
import timm
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from backbones import build, fuse
from nas.measure.counts import count
from nas.measure.counts.operators import operators
from search_space import PRESETS


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 1)
        self.act = nn.ReLU(inplace=True)
        self.parts = nn.ModuleDict({"linear": nn.Linear(8, 4, bias=False)})
        self.idle = nn.Linear(5, 5)

    def forward(self, x):
        y = F.dropout(self.act(self.conv(x)), 0.5, training=self.training)
        y = y.flatten(2).transpose(1, 2).contiguous()  # views, and no copy where none is needed: nothing moves
        return self.parts["linear"](y) + 1


def test_bytes_macs_and_modules_by_hand():
    found = operators(Net(), 2, 4)  # 2 images of 16 pixels
    assert [(o.module, o.macs, o.params) for o in found] == [
        ("conv", 2 * 16 * 3 * 8, 3 * 8 + 8),
        ("act", 0, 0),
        ("parts.linear", 2 * 16 * 8 * 4, 32),
        ("", 0, 0),
    ]
    conv, act, linear, plus = found
    assert (conv.read_bytes, conv.written_bytes) == (4 * (2 * 16 * 3 + 32), 4 * 2 * 16 * 8)
    assert (act.read_bytes, act.written) == (4 * 2 * 16 * 8, 2 * 16 * 8)
    assert conv.touched_bytes == conv.moved_bytes
    assert act.touched_bytes == act.moved_bytes / 2  # in place
    assert (linear.read_bytes, linear.written_bytes) == (4 * (2 * 16 * 8 + 32), 4 * 2 * 16 * 4)
    assert plus.moved_bytes == 2 * 4 * 2 * 16 * 4


def test_half_precision_moves_half():
    whole, half = (sum(o.moved_bytes for o in operators(Net(), 2, 4, d)) for d in (torch.float32, torch.bfloat16))
    assert whole == 2 * half


def test_attention_is_one_operator():
    class Attend(nn.Module):
        def forward(self, x):
            q = x.flatten(2)[:, :, :, None].repeat(1, 1, 1, 8)
            return F.scaled_dot_product_attention(q, q, q)

    *_, attention = operators(Attend(), 1, 4)
    assert attention.name == "scaled_dot_product_attention"
    assert attention.macs == 2 * 3 * 16 * 16 * 8
    assert attention.read_bytes == 3 * attention.written_bytes == 3 * 4 * 3 * 16 * 8  # no 16 x 16 map is moved


@pytest.mark.parametrize("name", ["eradio_femto", "timm:resnet18", "timm:vit_tiny_patch16_224"])
def test_operators_add_up_to_the_count(name):
    model = build(PRESETS[name]) if name in PRESETS else timm.create_model(name.removeprefix("timm:"), num_classes=0)
    fused, px = fuse(model), 64 if name in PRESETS else 224
    found = operators(fused, 2, px)
    assert sum(o.macs for o in found) == 2 * count(fused, px).macs
    assert sum(o.params for o in found) <= sum(p.numel() for p in fused.parameters())
    assert {o.module for o in found} <= {n for n, _ in fused.named_modules()}


def test_the_same_operators_run_as_on_the_cpu():
    """No copy that only the meta device makes, and none that it hides."""

    class Seen(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            given = {t.untyped_storage()._cdata for t in tree_leaves(args) if isinstance(t, torch.Tensor)}
            if isinstance(out, torch.Tensor) and (func._schema.is_mutable or out.untyped_storage()._cdata not in given):
                seen.append(func._overloadpacket.__name__)
            return out

    seen: list[str] = []
    fused = fuse(build(PRESETS["eradio_nano"]))
    images = torch.randn(2, 3, 64, 64).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode(), Seen():
        fused.encode(images)
    assert [o.name for o in operators(fused, 2, 64)] == seen
