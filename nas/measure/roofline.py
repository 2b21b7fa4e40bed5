"""Measure a device's ceilings of compute and bandwidth once, and bound the time of operators by them.

Roofline model: Williams, Waterman, Patterson, "Roofline: an insightful visual performance model" (CACM 2009). Data
that fits into a cache moves faster than memory, so bandwidth is a function of the bytes that an operator touches.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from nas.files import atomic_write, parse_json
from nas.measure.environment import device_name
from nas.measure.runtime_spec import torch_dtype
from nas.measure.timers import Timer, timer_for

# Large products reach the ceiling; on a busy CPU, only small ones end before another process is scheduled.
MATMUL_SIDES = {"cpu": (256, 512, 1024, 2048), "cuda": (4096, 8192)}
CONVOLUTION = {"cpu": (4, 96, 56), "cuda": (128, 256, 56)}  # images, channels, side of the map; 3x3
TOUCHED_BYTES = {
    "cpu": tuple(2**k for k in range(16, 30, 2)),  # 64 KiB to 256 MiB: from the caches to memory
    "cuda": tuple(2**k for k in range(20, 32, 2)),  # 1 MiB to 1 GiB
}
MIN_SAMPLES = 9  # the fastest of them counts: a ceiling is the best that the device reaches
SAMPLE_S = 0.002
MIN_TIMING_S, MAX_TIMING_S = 0.1, 1.0  # for one operator and size
GIGA = 1e9


@dataclass(frozen=True)
class Ceilings:
    """The highest rates that a device reached, in one precision with a number of threads."""

    device: str
    threads: int
    precision: str
    torch: str
    gmacs_s: float  # 1e9 multiply-accumulates a second, of a large matrix product or a convolution
    product_gmacs_s: float  # of matrix products alone: lower on a GPU in fp32, where PyTorch runs them without TF32
    gbytes_s: tuple[tuple[int, float], ...]  # (bytes touched, 1e9 bytes a second read and written), sizes rising

    def bandwidth(self, touched: int) -> float:
        """Return the memory bandwidth in GB/s of an operator that moves this number of bytes.

        It is the highest rate of the largest size that is no larger, and of all sizes above: a smaller working set lies
        in a cache that is at least as fast.
        """
        start = max((i for i, (size, _) in enumerate(self.gbytes_s) if size <= touched), default=0)
        return max(rate for _, rate in self.gbytes_s[start:])

    def compute_s(self, macs: int, is_product: bool) -> float:
        """Return the lower bound on the seconds that this number of MACs takes, of a matrix product or not."""
        return macs / ((self.product_gmacs_s if is_product else self.gmacs_s) * GIGA)

    def memory_s(self, moved: int, touched: int) -> float:
        """Return the least seconds to read and write `moved` bytes of a working set of `touched` bytes."""
        return moved / (self.bandwidth(touched) * GIGA)

    def highest(self, other: Ceilings) -> Ceilings:
        """Return the higher of both ceilings for compute and for each size."""
        rates = [(size, max(a, b)) for (size, a), (_, b) in zip(self.gbytes_s, other.gbytes_s, strict=True)]
        return replace(
            self,
            gmacs_s=max(self.gmacs_s, other.gmacs_s),
            product_gmacs_s=max(self.product_gmacs_s, other.product_gmacs_s),
            gbytes_s=tuple(rates),
        )


@dataclass(frozen=True)
class Bound:
    """The least time of a sequence of operators on a device, and whether compute or memory decides it."""

    attainable_s: float
    kind: str  # "compute" or "memory", whichever takes most of that time; "none" without work


def bound(work: Iterable[tuple[int, int, int, bool]], ceilings: Ceilings) -> Bound:
    """Return the bound of operators that run one after another.

    Args:
        work: (MACs, bytes moved, bytes touched, whether it is a matrix product) of each.
        ceilings: Ceilings of the device.
    """
    spent = {"compute": 0.0, "memory": 0.0}
    for macs, moved, touched, is_product in work:
        compute_s, memory_s = ceilings.compute_s(macs, is_product), ceilings.memory_s(moved, touched)
        spent["compute" if compute_s >= memory_s else "memory"] += max(compute_s, memory_s)
    total = sum(spent.values())
    return Bound(total, max(spent, key=lambda kind: spent[kind]) if total else "none")


def load_ceilings(device: torch.device, precision: str, root: Path) -> Ceilings | None:
    """Load the ceilings of this device, thread count, precision and torch from `root`; None where there are none."""
    identity = _identity(device, precision)
    try:
        plain = parse_json(_file(root, identity).read_bytes())
        rates = tuple((int(size), float(rate)) for size, rate in plain.pop("gbytes_s"))
        ceilings = Ceilings(**plain, gbytes_s=rates)
        valid = {k: plain[k] for k in identity} == identity and min(
            ceilings.gmacs_s, ceilings.product_gmacs_s, *(r for _, r in rates)
        ) > 0
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None  # never measured, or damaged
    return ceilings if valid and rates else None


def save_ceilings(ceilings: Ceilings, root: Path) -> None:
    """Save ceilings under `root`.

    Raises:
        OSError: `root` cannot be written.
    """
    plain = asdict(ceilings)
    path = _file(root, {k: plain[k] for k in ("device", "threads", "precision", "torch")})
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, json.dumps(plain, indent=2))


def measure_ceilings(
    device: torch.device,
    precision: str,
    timer: Timer | None = None,
    sides: tuple[int, ...] | None = None,
    sizes: tuple[int, ...] | None = None,
) -> Ceilings:
    """Time matrix products, a convolution and three ways to move rising amounts of bytes, in a few seconds.

    Convolutions are timed because on some CPUs they come from a faster library than matrix products do. Copies are not
    enough for bandwidth: a copy makes the cache fetch the lines that it overwrites.

    Args:
        device: The device.
        precision: One of `arms.PRECISIONS`.
        timer: The clock; None: the one that the device needs.
        sides: Sides of the matrices; None: the device's own sizes, and a convolution.
        sizes: Bytes touched; None: the device's own sizes.
    """
    timer = timer or timer_for(device)
    dtype = torch_dtype(precision)
    with torch.inference_mode():
        # On most CPUs bf16 is slower than float32, to which kernels may convert it: the faster type is the ceiling.
        types = {dtype, torch.float32} if device.type == "cpu" else {dtype}
        squares = sides or MATMUL_SIDES[device.type]
        # Convolutions may use TF32 where products must not.
        of_convolutions, of_products = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
        gmacs_s = max(_fastest_gmacs_s(squares, device, t, timer, of_convolutions) for t in types)
        if sides is None:
            gmacs_s = max(gmacs_s, *(_convolution_gmacs_s(device, t, timer) for t in types))
        product_gmacs_s = gmacs_s
        if device.type == "cuda" and dtype == torch.float32 and of_convolutions != of_products:
            product_gmacs_s = _fastest_gmacs_s(squares, device, dtype, timer, of_products)
        rates = tuple(
            (size, _moving_gbytes_s(size, device, dtype, timer)) for size in sizes or TOUCHED_BYTES[device.type]
        )
    return Ceilings(**_identity(device, precision), gmacs_s=gmacs_s, product_gmacs_s=product_gmacs_s, gbytes_s=rates)


def _fastest_gmacs_s(
    sides: tuple[int, ...], device: torch.device, dtype: torch.dtype, timer: Timer, tf32: bool
) -> float:
    """Return the highest rate over the sides, without those that would take seconds in an emulated type."""
    best = 0.0
    for side in sides:
        if best and side**3 > best * GIGA * MAX_TIMING_S:
            break
        best = max(best, _matmul_gmacs_s(side, device, dtype, timer, tf32))
    return best


def _matmul_gmacs_s(side: int, device: torch.device, dtype: torch.dtype, timer: Timer, tf32: bool) -> float:
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    out = torch.empty_like(a)
    allowed = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = tf32
    try:
        return float(side**3 / _best_s(lambda: torch.mm(a, b, out=out), timer) / GIGA)
    finally:
        torch.backends.cuda.matmul.allow_tf32 = allowed


def _convolution_gmacs_s(device: torch.device, dtype: torch.dtype, timer: Timer) -> float:
    batch, channels, side = CONVOLUTION[device.type]
    weight = torch.randn(channels, channels, 3, 3, device=device, dtype=dtype)
    x = torch.randn(batch, channels, side, side, device=device, dtype=dtype)
    x, weight = (t.contiguous(memory_format=torch.channels_last) for t in (x, weight))
    macs = batch * side**2 * 9 * channels**2
    return float(macs / _best_s(lambda: torch.conv2d(x, weight, padding=1), timer) / GIGA)


def _moving_gbytes_s(touched: int, device: torch.device, dtype: torch.dtype, timer: Timer) -> float:
    """Return the highest rate of a copy, a sum (reads only) and a negation in place (reads and writes alike)."""
    source = torch.randn(touched // dtype.itemsize, device=device, dtype=dtype)
    half = source[: len(source) // 2]
    target = torch.empty_like(half)
    ways = ((touched, lambda: target.copy_(half)), (touched, source.sum), (2 * touched, source.neg_))
    return max(float(moved / _best_s(way, timer) / GIGA) for moved, way in ways)


def _best_s(call: Callable[[], object], timer: Timer) -> float:
    first = timer.run([call, call], [1, 1])[1].device_s  # the very first call is no sample
    repeats = max(1, math.ceil(SAMPLE_S / max(first, 1e-9)))
    best, start, samples = first, timer.now(), 0
    while (samples < MIN_SAMPLES or timer.now() < start + MIN_TIMING_S) and timer.now() < start + MAX_TIMING_S:
        best = min(best, timer.run([call], [repeats])[0].device_s)
        samples += 1
    return best


def _identity(device: torch.device, precision: str) -> dict[str, Any]:
    threads = torch.get_num_threads()
    return {"device": device_name(device), "threads": threads, "precision": precision, "torch": torch.__version__}


def _file(root: Path, identity: dict[str, Any]) -> Path:
    name = "-".join(str(value) for value in identity.values())
    return root / "ceilings" / (re.sub(r"[^A-Za-z0-9.+]+", "-", name).lower() + ".json")
