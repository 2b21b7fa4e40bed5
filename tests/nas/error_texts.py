"""Texts of real errors, and what they mean: of PyTorch, cuDNN, cuBLAS, the driver, NCCL, gloo, Triton and runtimes."""

from __future__ import annotations

OUT_OF_MEMORY = (
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.11 GiB",
    "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported at some other API call",
    "CUDA driver error: out of memory",  # expandable segments, the launcher of Inductor
    "Triton Error [CUDA]: out of memory",
    "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
    "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
    "NCCL error in: NCCLUtils.hpp:219, unhandled cuda error, NCCL version 2.28.9\n"
    "ncclUnhandledCudaError: Call to CUDA function failed.\nLast error:\nCuda failure 2 'out of memory'",
    "backend='inductor' raised:\nOutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB",
    "Failed to allocate memory for requested buffer of size 4294967296",  # ONNX Runtime
    "std::bad_alloc",
    "can't start new thread",
)
# With a card that has memory left, they mean an unsupported shape or a broken installation (pytorch#103665).
OUT_OF_MEMORY_OF_A_FULL_CARD = (
    "GET was unable to find an engine to execute this computation",  # pytorch#108645
    "FIND was unable to find an engine to execute this computation",
    "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`",
    "cuDNN error: CUDNN_STATUS_NOT_INITIALIZED",
)
# RuntimeErrors that end one rank, after which the others lose their connections to it.
CAUSES = (
    "unexpected layout of memory format",
    "mat1 and mat2 shapes cannot be multiplied (8x64 and 32x64)",
    "Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu!",
    "cuDNN error: CUDNN_STATUS_EXECUTION_FAILED",
    "CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx(...)`",
    "CUDA error: uncorrectable ECC error encountered",
    "CUDA error: an illegal memory access was encountered",
    "NCCL error in: ProcessGroupNCCL.cpp:77, invalid usage, NCCL version 2.28.9\n"
    "ncclInvalidUsage: This usually reflects invalid usage of NCCL library.\n"
    "Last error:\nDuplicate GPU detected : rank 1 and rank 0 both on CUDA device 1b000",
    "NCCL error in: ProcessGroupNCCL.cpp:3699, unhandled system error, NCCL version 2.28.9\n"
    "ncclSystemError: System call (e.g. socket, malloc) or external library call failed or device error.\n"
    "Last error:\nError while creating shared memory segment /dev/shm/nccl-b7Xq2f (size 33030528)",
)
LOST_CONNECTIONS = (
    "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:1165",
    "[/pytorch/third_party/gloo/gloo/transport/tcp/unbound_buffer.cc:81] Timed out waiting 1800000ms for recv operation"
    " to complete",
    "writev [127.0.0.1]:5126: Broken pipe",
    "NCCL communicator was aborted on rank 0.",
    "NCCL error in: NCCLUtils.cpp:94, remote process exited or there was a network error, NCCL version 2.28\n"
    "ncclRemoteError: A call failed possibly due to a network error or a remote process exiting prematurely.\n"
    "Last error:\nsocketProgress: Connection closed by remote peer node2<45334>",
    "[Rank 0] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=31, OpType=ALLREDUCE, NumelIn=4096)",
)
