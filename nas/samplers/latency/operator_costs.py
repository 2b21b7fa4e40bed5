"""Derive the cost of operators from their sizes alone: MACs, elements moved and weights, by kind. Plain Python."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, TypeVar

from search_space import SpecError

T = TypeVar("T")


class OperatorCost(NamedTuple):
    """The cost of one operator call on one batch."""

    kind: str
    macs: int
    moved: int  # elements read and written, weights included
    weights: int = 0


Operators = tuple[OperatorCost, ...]


class FeatureMap(NamedTuple):
    """A batch of square maps."""

    batch: int
    side: int

    @property
    def places(self) -> int:
        """Pixels of all maps."""
        return self.batch * self.side**2

    def padded(self, step: int) -> FeatureMap:
        """Round the side up to a multiple of `step`."""
        return FeatureMap(self.batch, -(-self.side // step) * step)

    def shrunk(self, stride: int) -> FeatureMap:
        """Divide the side by a stride, rounding up."""
        return FeatureMap(self.batch, -(-self.side // stride))


def entry_of(table: Mapping[str, T], field: str, name: str) -> T:
    """Return the entry of a block, stem or downsampling in a table of operators. Raises SpecError where it has none."""
    if name not in table:
        raise SpecError(
            f"{field}: {name!r} has no entry in the tables of operators in nas/samplers/latency, from which times are "
            "predicted"
        )
    return table[name]


def memory(kind: str, elements: int, passes: int = 2) -> OperatorCost:
    """Return the cost of an operator without MACs; each pass reads or writes all elements."""
    return OperatorCost(kind, 0, elements * passes)


def conv(at: FeatureMap, inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> OperatorCost:
    """Return the cost of a convolution to a map `stride` times coarser."""
    after, weights = at.shrunk(stride), outputs * inputs // groups * kernel**2
    if groups == 1:
        kind = "pointwise" if kernel == 1 else "conv"
    else:
        kind = "depthwise" if groups == inputs == outputs else "grouped"
    return OperatorCost(kind, after.places * weights, at.places * inputs + after.places * outputs + weights, weights)


def transposed(at: FeatureMap, channels: int, ratio: int) -> OperatorCost:
    """Return the cost of a transposed convolution to `at` from a map `ratio` times coarser; kernel = stride."""
    weights = (ratio * channels) ** 2
    moved = (at.places + at.shrunk(ratio).places) * channels + weights
    return OperatorCost("transposed", at.places * channels**2, moved, weights)


def pooled(at: FeatureMap, channels: int, ratio: int) -> OperatorCost:
    """Return the cost of average pooling to a map `ratio` times coarser."""
    return OperatorCost("pool", 0, (at.places + at.shrunk(ratio).places) * channels)


def linear(tokens: int, inputs: int, outputs: int) -> OperatorCost:
    """Return the cost of tokens times a matrix of weights."""
    weights = inputs * outputs
    return OperatorCost("linear", tokens * weights, tokens * (inputs + outputs) + weights, weights)


def product(tokens: int, inputs: int, outputs: int) -> OperatorCost:
    """Return the cost of tokens times a matrix that is computed."""
    return linear(tokens, inputs, outputs)._replace(weights=0)


def attention(
    tokens: int, seen: int, width: int, heads: int, keys: int | None = None, sources: int | None = None
) -> Operators:
    """Return the costs of fused attention to `seen` tokens each, and of its softmax, which moves no memory.

    `width` and `keys` are channels of all heads: of values and outputs, and of queries and keys, by default as many.
    `sources` are the tokens that have keys and values, by default the `tokens` that have queries.
    """
    both = width + (width if keys is None else keys)
    moved = (tokens + (tokens if sources is None else sources)) * both
    return OperatorCost("attention", tokens * seen * both, moved), memory("softmax", tokens * seen * heads, 1)
