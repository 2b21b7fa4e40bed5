"""Say how a network is run: runtime, precision, layout and form. Numbers of two such arms never share a front.

Users read "runtime" for the whole; `Arm` is the record behind the flag `--runtime`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from nas.measure.devices import compute_capability, dotted
from nas.measure.runtime_traits import MIN_BF16_CAPABILITY, MIN_TRITON_CAPABILITY, PRECISIONS, RUNTIMES, RuntimeTraits
from nas.study.limits import LIMITS, LimitError
from nas.study.objectives import OBJECTIVES
from nas.validation import ConfigError

if TYPE_CHECKING:
    import torch

LAYOUTS = ("channels-last", "nchw")
FORMS = ("fused", "unfused")
# Fields of a `Measurement`.
UNKNOWN_ON_CPU = frozenset({"energy_j", "reserved_memory_mib", "driver_memory_mib", "launch_share"})


class ArmError(ConfigError):
    """Raised for an arm that does not exist or cannot run here; the message is one line that names the choices."""


@dataclass(frozen=True)
class Arm:
    """How a network is run. `str` joins its words by "+", as in `eager+fp32+channels-last+fused`.

    Attributes:
        runtime: One of RUNTIMES.
        precision: One of PRECISIONS.
        layout: One of LAYOUTS.
        form: "fused" (BatchNorm folded into convolutions, constants precomputed: `backbones.fuse`) or "unfused".
    """

    runtime: str = "eager"
    precision: str = "fp32"
    layout: str = "channels-last"
    form: str = "fused"

    def __str__(self) -> str:
        return "+".join((self.runtime, self.precision, self.layout, self.form))

    @classmethod
    def parse(cls, text: str, base: Arm | None = None) -> Arm:
        """Parse words joined by "+"; fields that no word sets are those of `base` (default: the class's defaults).

        Raises:
            ArmError: A word is unknown, or two words set the same field.
        """
        choices = {"runtime": RUNTIMES, "precision": PRECISIONS, "layout": LAYOUTS, "form": FORMS}
        fields: dict[str, str] = {}
        for word in text.split("+"):
            field = next((name for name, words in choices.items() if word in words), None)
            if field is None:
                raise ArmError(
                    f"runtime: {word!r} in {text!r}: choose words from {_words(choices.values())}, joined by +"
                )
            if field in fields:
                raise ArmError(f"runtime: {text!r}: {fields[field]} and {word} are both a {field}; name one")
            fields[field] = word
        return replace(base or cls(), **fields)

    @property
    def dtype(self) -> torch.dtype:
        """The type of weights and inputs."""
        return torch_dtype(self.precision)

    @property
    def memory_format(self) -> torch.memory_format:
        """The memory format of weights and inputs."""
        import torch

        return torch.channels_last if self.layout == "channels-last" else torch.contiguous_format

    @property
    def traits(self) -> RuntimeTraits:
        """What the runtime needs and reports."""
        return RUNTIMES[self.runtime]

    @property
    def times_stages(self) -> bool:
        """Whether `Measurement.stages_s`, which is timed in eager mode, tells how this runtime's time divides.

        It does not for ONNX Runtime: with them, predictions of its times are worse than without
        (`python -m experiments.predicted_throughput`). Other compilers fuse operators across stages, too.
        """
        return self.runtime == "eager"

    def unknown_fields(self, device_type: str) -> frozenset[str]:
        """Return the fields of a `Measurement` that this arm leaves unknown on a device ("cpu" or "cuda")."""
        fields = set(UNKNOWN_ON_CPU if device_type == "cpu" else ())
        if device_type not in self.traits.tracked_on:
            fields.add("peak_memory_mib")
        if not self.traits.torch_allocator:
            fields.add("reserved_memory_mib")
        return frozenset(fields)


def check_runs_on(device_type: str, runtime: str, precision: str) -> None:
    """Raise ArmError for a runtime that no device of this type runs, whatever is installed and whatever the network.

    Args:
        device_type: "cpu" or "cuda".
        runtime: One of RUNTIMES.
        precision: One of PRECISIONS.
    """
    traits = RUNTIMES[runtime]
    if device_type == "cuda":
        return
    if traits.cuda_only:
        others = ", ".join(name for name, other in RUNTIMES.items() if not other.cuda_only)
        raise ArmError(f"runtime: {runtime} runs on CUDA only, not on {device_type}; choose one of {others}")
    if precision not in traits.cpu_precisions:
        known = " and ".join(traits.cpu_precisions)
        raise ArmError(f"runtime: {runtime} runs {known} only on {device_type}, not {precision}")


def check_runs_here(device_type: str, runtime: str, precision: str) -> None:
    """Raise ArmError for a runtime that no device of this type runs, or that the oldest GPU here does not.

    Args:
        device_type: "cpu" or "cuda".
        runtime: One of RUNTIMES.
        precision: One of PRECISIONS.
    """
    check_runs_on(device_type, runtime, precision)
    capability = compute_capability() if device_type == "cuda" else None
    if capability is None:
        return
    traits, has = RUNTIMES[runtime], f"this GPU has compute capability {dotted(capability)}"
    if capability < traits.min_capability:
        needed = f"{traits.library} needs compute capability {dotted(traits.min_capability)}"
        others = " or ".join(f"{name}+fp32" for name, other in RUNTIMES.items() if capability >= other.min_capability)
        raise ArmError(f"runtime: {runtime}: {needed}, and {has}; choose {others}")
    if precision == "bf16" and capability < traits.min_bf16_capability:
        needed = f"{traits.library} needs compute capability {dotted(traits.min_bf16_capability)} for bf16"
        raise ArmError(f"runtime: {runtime}+bf16: {needed}, and {has}; choose {runtime}+fp16")


def check_reported(
    arm: Arm, device_type: str, limits: Iterable[str] = (), study_objectives: Iterable[str] = ()
) -> None:
    """Raise an error of one line for a limit or an objective on a quantity that no measurement will have.

    Args:
        arm: How networks are measured.
        device_type: "cpu" or "cuda".
        limits: Names of limits.
        study_objectives: Names of objectives.

    Raises:
        LimitError: For a limit.
        ConfigError: For an objective.
    """
    unknown, where = arm.unknown_fields(device_type), f"unknown on {device_type} with the runtime {arm.runtime}"
    advice = "choose another --runtime or --device, or drop this"
    for limit in (LIMITS[name] for name in limits):
        if limit.quantity in unknown:
            raise LimitError(f"{limit.flag}: {limit.label} is {where}: {advice} limit")
    for name in study_objectives:
        if OBJECTIVES[name].quantity in unknown:
            label = OBJECTIVES[name].objective.label
            raise ConfigError(f"--objectives: {name}: {label} is {where}: {advice} objective")


def torch_dtype(precision: str) -> torch.dtype:
    """Return the type of numbers of a precision, one of `PRECISIONS`."""
    import torch

    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]


def precision_of(dtype: torch.dtype) -> str:
    """Return the precision of a type of numbers, or the type's own name where it is none of `PRECISIONS`."""
    return next((name for name in PRECISIONS if torch_dtype(name) == dtype), str(dtype))


def default_arm(device_type: str) -> Arm:
    """Return the arm that a search measures: on CUDA compiled in bf16, on a CPU eager in fp32; channels last, fused.

    GPUs that do not compute in bf16 get fp16, and those that torch.compile does not support are measured as a CPU is.
    """
    if device_type != "cuda":
        return Arm()
    capability = compute_capability() or MIN_BF16_CAPABILITY
    if capability < MIN_TRITON_CAPABILITY:
        return Arm()
    return Arm("compiled", "fp16" if capability < MIN_BF16_CAPABILITY else "bf16")


def named_arms(text: str, base: Arm) -> dict[str, Arm]:
    """Return the runtimes that a text names.

    Args:
        text: Names separated by commas, or "all": `base` and every arm that differs from it in one word.
        base: Arm that completes the names.

    Raises:
        ArmError: A word is unknown, or two names stand for one runtime.
    """
    names = _all_names(base) if text == "all" else [name.strip() for name in text.split(",")]
    arms: dict[str, Arm] = {}
    for name in names:
        arm = Arm.parse(name, base)
        twin = next((earlier for earlier, other in arms.items() if other == arm), None)
        if twin is not None:
            raise ArmError(f"--runtimes: {twin!r} and {name!r} are the same runtime: {arm}")
        arms[name] = arm
    return arms


def _all_names(base: Arm) -> Sequence[str]:
    words = (*RUNTIMES, *PRECISIONS, *LAYOUTS, *FORMS)
    return [base.runtime, *(word for word in words if Arm.parse(word, base) != base)]


def _words(choices: Iterable[Iterable[str]]) -> str:
    return "; ".join(", ".join(words) for words in choices)
