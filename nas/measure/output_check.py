"""Check that a network computes the same on its runtime, in its precision, as where it is trained."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._pytree import tree_leaves

from nas.measure.runtimes.contract import encoder

# Largest relative error that counts as rounding. 25 networks reached 1.3e-6 (fp32), 1.6e-3 (fp16) and 1.4e-2 (bf16) at
# most (LOG.md). cuDNN may use TF32 for fp32.
TOLERANCES = {"fp32": 5e-3, "fp16": 1e-2, "bf16": 5e-2}
# Spacing of the numbers next to 1; that of TF32 for fp32.
SPACINGS = {"fp32": 2**-10, "fp16": 2**-10, "bf16": 2**-7}
# Random weights can amplify rounding, those of deep attention with BatchNorm to an error of 0.45 in bf16. The error was
# at most 1.7 times that of fp32 with perturbed weights in 84 checks (LOG.md), the largest of three perturbations: where
# softmax is nearly hard, only some of them change its maximum. Outputs of zeros have an error of 1.
AMPLIFIED_TIMES, PERTURBATIONS = 2.0, 3
LARGEST_TOLERANCE = 0.9
CHECKED_IMAGES = 2  # whose outputs are compared with the expected ones
STATISTICS_IMAGES = 8  # for the statistics of untrained norms


@dataclass(frozen=True)
class Expected:
    """Outputs of a network as it is trained, for the images that they are checked with.

    Attributes:
        model: The network.
        images: (images, 3, height, width), on the device.
        precision: "fp32", "fp16" or "bf16": that of the outputs to check.
        outputs: Those of fp32 eager.
    """

    model: nn.Module
    images: Tensor
    precision: str
    outputs: list[Tensor]

    @cached_property
    def tolerance(self) -> float:
        """The largest relative error that counts as rounding, also for weights that amplify it.

        It is that of the precision. For a model whose outputs change more when its weights are perturbed by as much as
        the precision rounds them, it is twice the largest change of three perturbations, at most 0.9. Asking takes
        longer than the outputs took.
        """
        change = perturbation_error(self.model, self.images, SPACINGS[self.precision], self.outputs)
        return max(TOLERANCES[self.precision], min(AMPLIFIED_TIMES * change, LARGEST_TOLERANCE))


@dataclass(frozen=True)
class OutputCheck:
    """Whether outputs are correct; `error` is the largest relative Euclidean norm of a difference."""

    error: float
    correct: bool


def expected_outputs(model: nn.Module, images: Tensor, precision: str) -> Expected:
    """Return what the outputs of a model in a precision are compared with; of a `Backbone`, `encode` is called."""
    return Expected(model, images, precision, reference_outputs(model, images))


def perturbation_error(model: nn.Module, images: Tensor, spacing: float, outputs: list[Tensor] | None = None) -> float:
    """Return how much the outputs change when all weights are rounded to numbers whose spacing next to 1 is `spacing`.

    Weights and statistics are off by at most half the spacing of each, at random, three times; the largest change
    counts. `outputs` are those without.
    """
    outputs = outputs or reference_outputs(model, images)
    perturbed = (reference_outputs(_perturbed(model, spacing / 2, seed), images) for seed in range(PERTURBATIONS))
    return max(_largest_error(each, outputs) for each in perturbed)


def has_untrained_norms(model: nn.Module) -> bool:
    """Return whether a model has BatchNorms of which none has seen a batch; else its outputs are what counts."""
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    return bool(norms) and not any(n.num_batches_tracked is None or n.num_batches_tracked > 0 for n in norms)


def with_batch_statistics(model: nn.Module, images: Tensor) -> nn.Module:
    """Return a copy of an untrained model whose BatchNorms have the statistics of one batch.

    With those of a new BatchNorm (mean 0, variance 1), maps of a deep network grow, in fp16 beyond the largest number,
    and its attention becomes nearly hard, which amplifies rounding. Throughput does not depend on statistics.

    Args:
        model: The model; it stays as it is.
        images: The batch in fp32, (images, 3, height, width).
    """
    normalized = copy.deepcopy(model).eval().to(images.device, torch.float32)
    for module in normalized.modules():
        if isinstance(module, _BatchNorm):
            module.momentum = None  # the mean of all batches, which is one
            module.train()
    with torch.no_grad():
        encoder(normalized)(images)
    return normalized.eval()


def reference_outputs(model: nn.Module, images: Tensor) -> list[Tensor]:
    """Return the outputs of a model as it is trained (eager, fp32 without TF32, NCHW) for `images`, run one by one."""
    trained = copy.deepcopy(model).eval().requires_grad_(False).to(images.device, torch.float32)
    with torch.inference_mode(), _without_tf32():
        each = [outputs_of(encoder(trained), image) for image in images.contiguous()[:, None]]
    return [torch.cat(parts) for parts in zip(*each, strict=True)]


def check(run: Callable[[Tensor], Any], images: Tensor, expected: Expected) -> OutputCheck:
    """Compare the outputs of `run` for the first of `images` with the expected ones."""
    with torch.inference_mode():
        actual = outputs_of(run, images)
    if [a.shape[1:] for a in actual] != [e.shape[1:] for e in expected.outputs]:
        return OutputCheck(float("inf"), False)
    error = _largest_error(actual, expected.outputs)
    if not all(bool(a.isfinite().all()) for a in actual):
        return OutputCheck(error, False)
    return OutputCheck(error, error <= TOLERANCES[expected.precision] or error <= expected.tolerance)


def outputs_of(run: Callable[[Tensor], Any], images: Tensor) -> list[Tensor]:
    """Return copies of all output tensors of `run`: some runtimes overwrite them in the next call."""
    return [leaf.clone() for leaf in tree_leaves(run(images)) if isinstance(leaf, Tensor)]


def _perturbed(model: nn.Module, share: float, seed: int) -> nn.Module:
    """Return a copy whose weights and statistics are off by at most `share` of each, at random."""
    perturbed, generator = copy.deepcopy(model), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in chain(perturbed.parameters(), perturbed.buffers()):
            if tensor.is_floating_point():
                factors = torch.empty(tensor.shape).uniform_(1 - share, 1 + share, generator=generator)
                tensor.mul_(factors.to(tensor.device))
    return perturbed


def _largest_error(actual: list[Tensor], expected: list[Tensor]) -> float:
    errors = [_error(a[: len(e)].float(), e[: len(a)]) for a, e in zip(actual, expected, strict=True)]
    return float(torch.tensor(errors).max())  # unlike Python's max, it is NaN where an error is


def _error(actual: Tensor, expected: Tensor) -> float:
    return float(torch.linalg.vector_norm(actual - expected) / torch.linalg.vector_norm(expected).clamp(min=1e-12))


@contextmanager
def _without_tf32() -> Iterator[None]:
    """Compute convolutions and matrix products of fp32 in fp32 in the body."""
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            yield
    finally:
        torch.set_float32_matmul_precision(precision)
