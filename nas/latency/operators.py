"""Operators by their sizes alone: what each kind computes and moves. Plain Python."""

from __future__ import annotations

from typing import NamedTuple


class Operator(NamedTuple):
    """One operator call of one batch."""

    kind: str
    macs: int
    moved: int  # elements read and written, weights included


Operators = tuple[Operator, ...]


class Map(NamedTuple):
    """A batch of square maps."""

    batch: int
    side: int

    @property
    def places(self) -> int:
        """Pixels of all maps."""
        return self.batch * self.side**2

    def padded(self, step: int) -> Map:
        """The side rounded up to a multiple of `step`."""
        return Map(self.batch, -(-self.side // step) * step)

    def shrunk(self, stride: int) -> Map:
        """What a stride leaves."""
        return Map(self.batch, self.side // stride)


def memory(kind: str, elements: int, passes: int = 2) -> Operator:
    """An operator without MACs; each pass reads or writes all elements."""
    return Operator(kind, 0, elements * passes)


def conv(at: Map, inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> Operator:
    """A convolution to a map `stride` times coarser."""
    after, weights = at.shrunk(stride), outputs * inputs // groups * kernel**2
    if groups == 1:
        kind = "pointwise" if kernel == 1 else "conv"
    else:
        kind = "depthwise" if groups == inputs == outputs else "grouped"
    return Operator(kind, after.places * weights, at.places * inputs + after.places * outputs + weights)


def transposed(at: Map, channels: int, ratio: int) -> Operator:
    """A transposed convolution whose kernel is its stride, from a map `ratio` times coarser to `at`."""
    moved = (at.places + at.shrunk(ratio).places) * channels + (ratio * channels) ** 2
    return Operator("transposed", at.places * channels**2, moved)


def pooled(at: Map, channels: int, ratio: int) -> Operator:
    """Average pooling to a map `ratio` times coarser."""
    return Operator("pool", 0, (at.places + at.shrunk(ratio).places) * channels)


def linear(tokens: int, inputs: int, outputs: int) -> Operator:
    """Tokens times a matrix of weights."""
    return Operator("linear", tokens * inputs * outputs, tokens * (inputs + outputs) + inputs * outputs)


def attention(tokens: int, seen: int, width: int, heads: int) -> Operators:
    """Fused attention in which each token sees `seen` tokens, and the softmax inside, which memory doesn't see."""
    fused = Operator("attention", 2 * tokens * seen * width, 4 * tokens * width)
    return fused, memory("softmax", tokens * seen * heads, 1)
