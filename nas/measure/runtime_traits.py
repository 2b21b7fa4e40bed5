"""The runtimes, with what each needs and reports: flags, checks, time limits, doctor and profile read this table."""

from __future__ import annotations

from dataclasses import dataclass, replace

PRECISIONS = ("fp32", "bf16", "fp16")
MIN_TRITON_CAPABILITY = (7, 0)  # of a GPU for which torch.compile generates code
MIN_BF16_CAPABILITY = (8, 0)  # of a GPU that computes in bf16; older ones emulate it, which compilers refuse


@dataclass(frozen=True)
class RuntimeTraits:
    """What a runtime needs and what it reports. The defaults are those of PyTorch's eager mode.

    Attributes:
        library: Library that runs the network, as users know it; "" for PyTorch's eager mode.
        extra: Extra of pyproject.toml that installs the library; "" where it comes with PyTorch.
        packages: Distributions of the library. Their versions change timings, as PyTorch's does.
        cuda_only: Whether it runs on CUDA only.
        tracked_on: Types of devices on which PyTorch sees the memory of a call: on a CPU where PyTorch's own operators
            run, on CUDA where PyTorch's allocator serves them.
        torch_allocator: Whether the memory that it takes on CUDA is that of PyTorch's allocator.
        slow_to_prepare: Whether compiling or exporting a network may take minutes.
        cpu_precisions: Precisions that it runs on a CPU.
        min_capability: Least compute capability of a GPU.
        min_bf16_capability: Least compute capability of a GPU for bf16.
    """

    library: str = ""
    extra: str = ""
    packages: tuple[str, ...] = ()
    cuda_only: bool = False
    tracked_on: tuple[str, ...] = ("cpu", "cuda")
    torch_allocator: bool = True
    slow_to_prepare: bool = False
    cpu_precisions: tuple[str, ...] = PRECISIONS
    min_capability: tuple[int, int] = (0, 0)
    min_bf16_capability: tuple[int, int] = (0, 0)


_COMPILED = RuntimeTraits(
    library="torch.compile",
    tracked_on=("cuda",),
    slow_to_prepare=True,
    min_capability=MIN_TRITON_CAPABILITY,
    min_bf16_capability=MIN_BF16_CAPABILITY,
)
# `nas.measure.runtimes.RUNNERS` has their functions.
RUNTIMES: dict[str, RuntimeTraits] = {
    "eager": RuntimeTraits(),
    "compiled": _COMPILED,
    "reduce-overhead": replace(_COMPILED, cuda_only=True, tracked_on=()),  # it records CUDA graphs
    "max-autotune-no-cudagraphs": _COMPILED,
    "onnxruntime": RuntimeTraits(
        library="ONNX Runtime",
        extra="onnx",
        packages=("onnxruntime", "onnxruntime-gpu"),
        tracked_on=(),
        torch_allocator=False,
        slow_to_prepare=True,  # it exports the network, three times for a pair
        cpu_precisions=("fp32",),
    ),
    "tensorrt": RuntimeTraits(
        library="TensorRT",
        extra="tensorrt",
        packages=("tensorrt",),
        cuda_only=True,
        tracked_on=(),
        torch_allocator=False,
        slow_to_prepare=True,
        min_capability=(7, 5),  # TensorRT 10.5 dropped Volta, which has 7.0 (its release notes)
        min_bf16_capability=MIN_BF16_CAPABILITY,
    ),
}
