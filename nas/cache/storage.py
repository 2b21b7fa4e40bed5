"""How a target is stored: int8 with a scale per channel, bfloat16 or float32. Decoding gives float32."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float32]
Codes = NDArray[Any]


class Codec:
    """Between targets (N, k) or (N, k, g, g) in float32 and what lies in a file; `largest` (k,) is what fits in."""

    dtype: ClassVar[np.dtype[Any]]

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


class Bf16(Codec):
    """The upper half of a float32's bits, rounded to nearest even. Decoding is exact."""

    dtype = np.dtype(np.uint16)

    def encode(self, values: Values) -> Codes:
        bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
        codes: Codes = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
        return codes

    def decode(self, codes: Codes) -> Values:
        return (codes.astype(np.uint32) << 16).view(np.float32)


class Fp32(Codec):
    """As it is."""

    dtype = np.dtype(np.float32)

    def encode(self, values: Values) -> Codes:
        return values

    def decode(self, codes: Codes) -> Values:
        return codes


CODECS: dict[str, type[Codec]] = {"int8": Int8, "bf16": Bf16, "fp32": Fp32}
