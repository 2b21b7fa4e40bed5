"""How a target is stored: int8 with a scale per channel, int4, bfloat16 or float32. Decoding gives float32."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float32]
Codes = NDArray[Any]


class Codec:
    """Between targets (N, k) or (N, k, g, g) in float32 and what lies in a file; `largest` (k,) is what fits in."""

    dtype: ClassVar[np.dtype[Any]]
    bits: ClassVar[int]  # of a number
    share: ClassVar[float] = 0.25  # of a teacher's numbers that is kept unless told otherwise

    def __init__(self, largest: NDArray[np.float32]) -> None:
        self.largest = largest

    def encode(self, values: Values) -> Codes:
        raise NotImplementedError

    def decode(self, codes: Codes) -> Values:
        raise NotImplementedError

    def clipped(self, values: Values) -> int:
        """How many of the values don't fit."""
        return 0


class Int8(Codec):
    """Steps of `largest` / 127; what is larger is clipped."""

    dtype = np.dtype(np.int8)
    bits = 8

    def encode(self, values: Values) -> Codes:
        codes: Codes = np.rint(values / self.step(values)).clip(-127, 127).astype(np.int8)
        return codes

    def decode(self, codes: Codes) -> Values:
        values: Values = codes * self.step(codes)
        return values

    def clipped(self, values: Values) -> int:
        return int((np.abs(values) > 127.5 * self.step(values)).sum())

    def step(self, values: NDArray[Any]) -> Values:
        """The channels' steps, shaped to multiply `values`."""
        step: Values = (self.largest / np.float32(127)).reshape(-1, *(1,) * (values.ndim - 2))
        return step


class Int4(Codec):
    """Two to a byte, fifteen steps of 0.35: nearly the best for PHI-S channels, normal and of variance 1 (Max 1960).

    Twice as many channels as in int8 fit into the same bytes, which keeps more than their coarser steps lose.
    """

    dtype = np.dtype(np.uint8)
    bits = 4
    share = 0.5
    step = np.float32(0.35)

    def encode(self, values: Values) -> Codes:
        codes = (np.rint(values / self.step).clip(-7, 7) + 8).astype(np.uint8)
        if codes.shape[1] % 2:
            codes = np.concatenate([codes, np.full_like(codes[:, :1], 8)], axis=1)
        packed: Codes = codes[:, 0::2] << 4 | codes[:, 1::2]
        return packed

    def decode(self, codes: Codes) -> Values:
        pairs = np.stack([codes >> 4, codes & 15], axis=2)
        channels = pairs.reshape(len(codes), -1, *codes.shape[2:])[:, : len(self.largest)]
        values: Values = (channels.astype(np.float32) - 8) * self.step
        return values

    def clipped(self, values: Values) -> int:
        return int((np.abs(values) > 7.5 * self.step).sum())


class Bf16(Codec):
    """The upper half of a float32's bits, rounded to nearest even. Decoding is exact."""

    dtype = np.dtype(np.uint16)
    bits = 16

    def encode(self, values: Values) -> Codes:
        bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
        codes: Codes = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
        return codes

    def decode(self, codes: Codes) -> Values:
        return (codes.astype(np.uint32) << 16).view(np.float32)


class Fp32(Codec):
    """As it is."""

    dtype = np.dtype(np.float32)
    bits = 32

    def encode(self, values: Values) -> Codes:
        return values

    def decode(self, codes: Codes) -> Values:
        return codes


CODECS: dict[str, type[Codec]] = {"int8": Int8, "int4": Int4, "bf16": Bf16, "fp32": Fp32}
