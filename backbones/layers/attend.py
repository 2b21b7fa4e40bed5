"""Attention weights times values, with a bias on the logits that may want a gradient."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

CHUNK = 2**20  # attention weights at a time: they stay in a core's cache, and small blocks are not given back to the OS


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
    """softmax(q k^T / sqrt(D) + bias) v. (B, heads, N, D) with bias (1, heads, N, M) and k, v of M tokens.

    On a CPU the fused kernel has no gradient of the bias, and the open form that PyTorch falls back to writes the
    weights of all windows to memory several times. `Recomputed` is twice as fast and keeps none of them; where all
    fit into a cache it has nothing to win.
    """
    if bias is None:
        return F.scaled_dot_product_attention(q, k, v)
    trained = bias.requires_grad and torch.is_grad_enabled() and not torch.compiler.is_compiling()
    if trained and q.device.type == "cpu" and len(q) * bias.numel() > CHUNK:
        y: Tensor = Recomputed.apply(q, k, v, bias)  # type: ignore[no-untyped-call]
        return y
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype))


class Recomputed(torch.autograd.Function):
    """Forward by the fused kernel; backward computes the weights again, some windows at a time. arXiv 2205.14135."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.detach().to(q.dtype))
        ctx.save_for_backward(q, k, v, bias, y)
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        q, k, v, bias, y = ctx.saved_tensors
        grad_q, grad_k, grad_v = (torch.empty_like(x) for x in (q, k, v))
        grad_bias = torch.zeros_like(bias, dtype=torch.float32)
        step = max(1, CHUNK // bias.numel())
        for i in range(0, len(q), step):
            part = slice(i, i + step)
            # In fp32 whatever came in: sums over windows need it, and a CPU may have nothing narrower.
            qs, ks, vs, ys, gs = (x[part].float() for x in (q, k, v, y, grad))
            qs = qs * q.shape[-1] ** -0.5
            weights = (qs @ ks.transpose(-1, -2)).add_(bias).softmax(-1)
            logits = (gs @ vs.transpose(-1, -2)).sub_((gs * ys).sum(-1, keepdim=True)).mul_(weights)  # their gradient
            grad_bias += logits.sum(0, keepdim=True)
            grad_q[part] = logits @ ks * q.shape[-1] ** -0.5
            grad_k[part] = logits.transpose(-1, -2) @ qs
            grad_v[part] = weights.transpose(-1, -2) @ gs
        return grad_q, grad_k, grad_v, grad_bias.to(bias.dtype)
