"""E-RADIO written down slowly from its description: the oracle of our port.

Public key names, NCHW, softmax attention in the open, every permute and resize as described; nothing shared with ours.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F


class ConvBn(nn.Module):
    def __init__(self, cin, cout, kernel=3, stride=1, groups=1):
        super().__init__()
        self.conv = nn.Conv2d(cin, cout, kernel, stride, kernel // 2, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(cout, eps=1e-5)

    def forward(self, x):
        return self.bn(self.conv(x))


class ConvBnSilu(ConvBn):
    def forward(self, x):
        return F.silu(super().forward(x))


class Bottleneck(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.cv1, self.cv2 = ConvBnSilu(c, c), ConvBnSilu(c, c)

    def forward(self, x):
        return x + self.cv2(self.cv1(x))


class C2f(nn.Module):
    def __init__(self, c, depth):
        super().__init__()
        self.cv1 = ConvBnSilu(c, c, 1)
        self.cv2 = ConvBnSilu((2 + depth) * (c // 2), c, 1)
        self.m = nn.ModuleList(Bottleneck(c // 2) for _ in range(depth))

    def forward(self, x):
        parts = list(self.cv1(x).split(x.shape[1] // 2, 1))
        for m in self.m:
            parts.append(m(parts[-1]))
        return self.cv2(torch.cat(parts, 1))


class PositionBias(nn.Module):
    def __init__(self, window, heads, hidden):
        super().__init__()
        self.window = window
        self.cpb_mlp = nn.Sequential(nn.Linear(2, hidden), nn.ReLU(), nn.Linear(hidden, heads, bias=False))

    def forward(self):
        w = self.window
        offset = torch.arange(-(w - 1), w, dtype=torch.float32)
        offset = 8 * offset / (w - 1) if w > 1 else 0 * offset
        offset = torch.sign(offset) * torch.log2(offset.abs() + 1) / math.log2(8)
        table = torch.stack(torch.meshgrid(offset, offset, indexing="ij"), -1)
        table = 16 * torch.sigmoid(self.cpb_mlp(table.view(-1, 2)))
        places = torch.stack(torch.meshgrid(torch.arange(w), torch.arange(w), indexing="ij")).flatten(1)
        relative = (places[:, :, None] - places[:, None, :]) + w - 1
        index = relative[0] * (2 * w - 1) + relative[1]
        return table[index.flatten()].view(w * w, w * w, -1).permute(2, 0, 1).unsqueeze(0)


class Attention(nn.Module):
    def __init__(self, c, heads, window, hidden, qkv_bias):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(c, 3 * c, bias=qkv_bias)
        self.proj = nn.Linear(c, c, bias=False)
        self.pos_emb_funct = PositionBias(window, heads, hidden)

    def forward(self, x):
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        logits = (q @ k.transpose(-2, -1)) * (c // self.heads) ** -0.5 + self.pos_emb_funct()
        return self.proj((logits.softmax(-1) @ v).transpose(1, 2).reshape(b, n, c))


class Mlp(nn.Module):
    def __init__(self, c, hidden, swiglu):
        super().__init__()
        self.swiglu = swiglu
        self.fc1 = nn.Linear(c, 2 * hidden if swiglu else hidden, bias=False)
        self.fc2 = nn.Linear(hidden, c, bias=False)

    def forward(self, x):
        if not self.swiglu:
            return self.fc2(F.gelu(self.fc1(x)))
        value, gate = self.fc1(x).chunk(2, -1)
        return self.fc2(F.silu(gate) * value)


class NearestThenConv(ConvBn):
    def __init__(self, c, ratio):
        super().__init__(c, c, 1)
        self.ratio = ratio

    def forward(self, x):
        return super().forward(F.interpolate(x, scale_factor=self.ratio, mode="nearest"))


class Block(nn.Module):
    def __init__(self, c, heads, window, ratio, cfg):
        super().__init__()
        self.window, self.ratio = window, ratio
        groups_ratio = cfg.get("conv_groups_ratio", 0)
        self.pool = not cfg.get("conv_base")
        if ratio > 1 and self.pool:
            self.downsample_mixer = ConvBn(c, c, 1)
            self.upsample_op = NearestThenConv(c, ratio)
        elif ratio > 1:
            self.downsample_op = nn.Conv2d(c, c, ratio, ratio)
            self.upsample_op = nn.ConvTranspose2d(c, c, ratio, ratio)
        elif groups_ratio != -1:
            self.pre_conv = ConvBn(c, c, groups=max(1, int(groups_ratio * c)))
        self.norm1, self.norm2 = nn.LayerNorm(c, eps=1e-5), nn.LayerNorm(c, eps=1e-5)
        self.attn = Attention(c, heads, window, cfg.get("cpb_mlp_hidden", 512), bool(cfg.get("qkv_bias")))
        swiglu = bool(cfg.get("use_swiglu"))
        self.mlp = Mlp(c, 64 * (2 * c // 64) if swiglu else int(cfg.get("mlp_ratio", 4) * c), swiglu)
        scale = cfg.get("layer_scale")
        self.gamma1 = nn.Parameter(scale * torch.ones(c)) if scale else 1
        self.gamma2 = nn.Parameter(scale * torch.ones(c)) if scale else 1

    def forward(self, x):
        whole, w = x, self.window
        if self.ratio == 1:
            x = x + (self.pre_conv(x) if hasattr(self, "pre_conv") else x)
        elif self.pool:
            x = self.downsample_mixer(F.avg_pool2d(x, self.ratio, self.ratio))
        else:
            x = self.downsample_op(x)
        b, c, h, v = x.shape
        x = F.pad(x, (0, -v % w, 0, -h % w), mode="reflect") if h % w or v % w else x
        rows, columns = x.shape[2] // w, x.shape[3] // w
        x = x.view(b, c, rows, w, columns, w).permute(0, 2, 4, 3, 5, 1).reshape(-1, w * w, c)
        x = x + self.gamma1 * self.attn(self.norm1(x))
        x = x + self.gamma2 * self.mlp(self.norm2(x))
        x = x.view(b, rows, columns, w, w, c).permute(0, 5, 1, 3, 2, 4).reshape(b, c, rows * w, columns * w)
        x = x[:, :, :h, :v]
        if self.ratio > 1:
            x = self.upsample_op(x)
            down, right = whole.shape[2] - x.shape[2], whole.shape[3] - x.shape[3]
            x = F.pad(x, (0, right, 0, down), mode="reflect") if down or right else x
        return 0.5 * x + 0.5 * whole


class Layer(nn.Module):
    def __init__(self, c, heads, windows, ratios, cfg):
        super().__init__()
        self.attention_blocks = nn.ModuleList(Block(c, heads, w, r, cfg) for w, r in zip(windows, ratios, strict=True))

    def forward(self, x):
        for block in self.attention_blocks:
            x = block(x)
        return x


class Reduction(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.reduction = ConvBn(c, 2 * c, 3, 2)

    def forward(self, x):
        return self.reduction(x)


def entries(value):
    return list(value) if isinstance(value, list | tuple) else [value]


class Level(nn.Module):
    def __init__(self, i, cfg):
        super().__init__()
        c, depth = cfg["dim"] * 2**i, cfg["depths"][i]
        if i < 2:
            self.blocks = C2f(c, depth)
        else:
            windows, ratios = entries(cfg["window_size"][i]), entries(cfg["sr_ratio"][i])
            self.step = max(windows) * max(ratios)
            layers = (Layer(c, cfg["num_heads"][i], windows, ratios, cfg) for _ in range(depth))
            self.blocks = nn.ModuleList(layers)
        self.downsample = Reduction(c) if i < 3 else None

    def forward(self, x):
        if isinstance(self.blocks, C2f):
            x = self.blocks(x)
        else:
            h, w = x.shape[2:]
            fit = math.ceil(h / self.step) * self.step, math.ceil(w / self.step) * self.step
            x = F.interpolate(x, size=fit, mode="nearest")
            for layer in self.blocks:
                x = layer(x)
            x = F.interpolate(x, size=(h, w), mode="nearest")
        return x, (x if self.downsample is None else self.downsample(x))


class NeckEntry(nn.Module):
    def __init__(self, c, width):
        super().__init__()
        self.conv1 = nn.Conv2d(c, c, 3, padding=1, groups=c)
        self.norm = nn.BatchNorm2d(c, eps=1e-5)
        self.conv2 = nn.Conv2d(c, width, 1)

    def forward(self, x):
        return self.conv2(self.norm(self.conv1(x)))


class Neck(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        self.start, width = cfg["neck_start_stage"], cfg["full_features_head_dim"]
        channels = [cfg["dim"] * 2**i for i in range(self.start, 4)]
        self.neck_features_proj = nn.ModuleList(
            nn.Identity() if i == 0 and c == width else NeckEntry(c, width) for i, c in enumerate(channels)
        )

    def forward(self, stages):
        total = 0
        for i, (entry, x) in enumerate(zip(self.neck_features_proj, stages[self.start :], strict=True)):
            total = total + entry(F.interpolate(x, scale_factor=2**i, mode="nearest") if i else x)
        return total


class PatchEmbed(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        width, dim = cfg["in_dim"], cfg["dim"]
        self.conv_down = nn.Sequential(ConvBn(3, width, 3, 2), nn.ReLU(), ConvBn(width, dim, 3, 2), nn.ReLU())

    def forward(self, x):
        return self.conv_down(x)


class StraightPort(nn.Module):
    """`forward` gives all tensors by the names of the reference files."""

    def __init__(self, cfg):
        super().__init__()
        self.patch_embed = PatchEmbed(cfg)
        self.levels = nn.ModuleList(Level(i, cfg) for i in range(4))
        self.norm = nn.BatchNorm2d(8 * cfg["dim"], eps=1e-5)
        self.head = nn.Linear(8 * cfg["dim"], cfg["num_classes"]) if cfg.get("num_classes") else nn.Identity()
        self.high_res_neck = Neck(cfg) if cfg.get("use_neck") else None

    def forward(self, x):
        x = self.patch_embed(x)
        stages = []
        for level in self.levels:
            stage, x = level(x)
            stages.append(stage)
        features = self.norm(x)
        pooled = features.mean((2, 3))
        out = {f"stage{i}": stage for i, stage in enumerate(stages)}
        out |= {"features": features, "pooled": pooled, "logits": self.head(pooled)}
        return out if self.high_res_neck is None else out | {"neck": self.high_res_neck(stages)}
