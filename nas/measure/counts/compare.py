"""Compare our count of MACs with those of fvcore and thop, and explain each difference in a line."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from nas.measure.counts.macs import Counts, EncodeModule, count, evaluating, meta_copy
from nas.numbers import plural

MATRIX_OPERATORS = frozenset({"conv", "linear", "matmul", "bmm", "addmm", "einsum"})  # in fvcore's names
THOP_HOOKS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.Linear)
MIN_EXPLAINED_MACS = 100_000  # 0.0001 G, the smallest amount that a reason shows


@dataclass(frozen=True)
class CounterResult:
    """The count of one counter for one image."""

    name: str
    macs: int | None  # None: it could not count this network
    reason: str  # for which it differs from ours


def compare_counters(
    model: nn.Module, resolution: int, ours: Counts | None = None
) -> tuple[CounterResult, CounterResult, CounterResult]:
    """Count one image (1, 3, resolution, resolution) by our counter, fvcore and thop.

    fvcore traces a real forward on the CPU; thop runs on a copy on the meta device, because it leaves buffers behind.

    Args:
        model: The network.
        resolution: Side of the image in px.
        ours: Our count, if it is known already.
    """
    ours = ours or count(model, resolution)
    return (
        CounterResult("ours", ours.macs, "matrix products, convolutions and attention, exactly"),
        _try_count("fvcore", lambda: _fvcore(model, resolution)),
        _try_count("thop", lambda: _thop(model, resolution, ours)),
    )


def _try_count(name: str, counter: Callable[[], CounterResult]) -> CounterResult:
    """Run another library's counter; one that cannot count this network gives a line in the table, not an error."""
    try:
        return counter()
    except Exception as error:  # RuntimeError, TypeError, or AssertionError of a tracer
        summary = f"{type(error).__name__}: {error}".splitlines()[0]
        return CounterResult(name, None, f"cannot count this network: {summary}")


def _fvcore(model: nn.Module, resolution: int) -> CounterResult:
    encoder = EncodeModule(copy.deepcopy(model).cpu().float())
    with evaluating(encoder), warnings.catch_warnings():
        # The tracer warns of every Python branch on a shape, and newer versions of PyTorch of fvcore's scripted losses.
        warnings.simplefilter("ignore")
        from fvcore.nn import FlopCountAnalysis

        analysis = FlopCountAnalysis(encoder, torch.zeros(1, 3, resolution, resolution))
        analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
        operators = {name: int(macs) for name, macs in analysis.by_operator().items()}
        skipped = {name.removeprefix("aten::"): calls for name, calls in analysis.unsupported_ops().items()}
    return CounterResult("fvcore", sum(operators.values()), _fvcore_reason(operators, skipped))


def _fvcore_reason(operators: Mapping[str, int], skipped: Mapping[str, int]) -> str:
    extra = {
        name: macs for name, macs in operators.items() if name not in MATRIX_OPERATORS and macs >= MIN_EXPLAINED_MACS
    }
    attention = sum(calls for name, calls in skipped.items() if "attention" in name)
    parts = [f"leaves out scaled_dot_product_attention ({plural(attention, 'call')})"] if attention else []
    if extra:
        parts.append("adds " + ", ".join(f"{name} {format_macs(macs)}" for name, macs in extra.items()))
    return "; ".join(parts) or "counts the same operators"


def _thop(model: nn.Module, resolution: int, ours: Counts) -> CounterResult:
    import thop

    encoder = EncodeModule(meta_copy(model))
    with evaluating(encoder):
        macs, _ = thop.profile(encoder, (torch.empty(1, 3, resolution, resolution, device="meta"),), verbose=False)
    return CounterResult("thop", int(macs), _thop_reason(int(macs), model, ours))


def _thop_reason(macs: int, model: nn.Module, ours: Counts) -> str:
    """Explain thop's count: it hooks modules of exact types, misses functions and subclasses, and counts norms."""
    hooked = sum(ours.module_macs[name] for name, module in model.named_modules() if type(module) in THOP_HOOKS)
    functional = ours.macs - hooked
    transposed = sum(
        ours.module_macs[name] * (math.prod(module.stride) - 1)
        for name, module in model.named_modules()
        if type(module) is nn.ConvTranspose2d
    )
    others = macs - hooked - transposed
    parts = (
        [f"leaves out {format_macs(functional)} in functions and subclasses (attention, matmul ...)"]
        if functional > 0
        else []
    )
    if transposed:
        parts.append(f"over-counts transposed convolutions by stride² (+{format_macs(transposed)})")
    if others >= MIN_EXPLAINED_MACS:
        parts.append(f"adds {format_macs(others)} for normalization, activation and pooling modules")
    return "; ".join(parts) or "counts the same operators"


def format_macs(macs: int) -> str:
    """Return MACs in G or M, as texts show them."""
    return f"{macs / 1e9:.4f} G" if macs >= 1_000_000 else f"{macs / 1e6:.4f} M"
