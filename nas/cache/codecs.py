"""Encode float32 targets for storage: int8 with a scale per channel, bfloat16 or float32."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Values = NDArray[np.float32]
Codes = NDArray[Any]


class Codec:
    """Translates targets (N, k) or (N, k, g, g) in float32 to a file's codes and back.

    `decode` and `decode_tensor` return the same bits. numpy decodes int8 four times as fast as torch on a CPU; a GPU
    decodes where it trains, as codes are a quarter of the bytes to copy.

    `largest` (k,) is the largest absolute value of each channel.
    """

    dtype: ClassVar[np.dtype[Any]]

    def __init__(self, largest: NDArray[np.float32]) -> None:
        self.largest = largest

    def encode(self, values: Values) -> Codes:
        """Encode targets (N, k, ...)."""
        raise NotImplementedError

    def decode(self, codes: Codes) -> Values:
        """Decode codes to targets (N, k, ...) in float32."""
        raise NotImplementedError

    def decode_tensor(self, codes: Tensor) -> Tensor:
        """Decode codes (N, k, ...) on any device to targets in float32 on the same device."""
        raise NotImplementedError

    def clipped(self, values: Values) -> int:
        """Count the values that are outside of the representable range."""
        return 0


class Int8(Codec):
    """Rounds to steps of `largest` / 127 and clips larger values."""

    dtype = np.dtype(np.int8)

    def encode(self, values: Values) -> Codes:
        """Round targets (N, k, ...) to int8."""
        codes: Codes = np.rint(values / self.step(values.ndim)).clip(-127, 127).astype(np.int8)
        return codes

    def decode(self, codes: Codes) -> Values:
        """Multiply codes (N, k, ...) by the channels' steps."""
        values: Values = codes * self.step(codes.ndim)
        return values

    def decode_tensor(self, codes: Tensor) -> Tensor:
        """Multiply codes (N, k, ...) by the channels' steps."""
        return codes * torch.from_numpy(self.step(codes.ndim)).to(codes.device)

    def clipped(self, values: Values) -> int:
        """Count the values above 127.5 steps."""
        return int((np.abs(values) > 127.5 * self.step(values.ndim)).sum())

    def step(self, ndim: int) -> Values:
        """Return the channels' steps, shaped to multiply targets of `ndim` dimensions."""
        step: Values = (self.largest / np.float32(127)).reshape(-1, *(1,) * (ndim - 2))
        return step


class Bf16(Codec):
    """Keeps the upper half of a float32's bits, rounded to nearest even. Decoding is exact."""

    dtype = np.dtype(np.uint16)

    def encode(self, values: Values) -> Codes:
        """Round targets to bfloat16, stored as uint16."""
        bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
        codes: Codes = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
        return codes

    def decode(self, codes: Codes) -> Values:
        """Return the float32 values of bfloat16 bits."""
        return (codes.astype(np.uint32) << 16).view(np.float32)

    def decode_tensor(self, codes: Tensor) -> Tensor:
        """Return the float32 values of bfloat16 bits."""
        return codes.view(torch.bfloat16).float()


class Fp32(Codec):
    """Stores float32 without a change."""

    dtype = np.dtype(np.float32)

    def encode(self, values: Values) -> Codes:
        """Return the targets."""
        return values

    def decode(self, codes: Codes) -> Values:
        """Return the codes."""
        return codes

    def decode_tensor(self, codes: Tensor) -> Tensor:
        """Return the codes."""
        return codes


CODECS: dict[str, type[Codec]] = {"int8": Int8, "bf16": Bf16, "fp32": Fp32}
