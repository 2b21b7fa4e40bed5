"""Arms: the ways to run one network. The arm is part of every number; numbers of two runtimes share no front."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
LAYOUTS = {"channels-last": torch.channels_last, "nchw": torch.contiguous_format}
FORMS = ("fused", "unfused")
# What each stands for: nas.measure.runtimes.
RUNTIMES = ("eager", "compiled", "reduce-overhead", "max-autotune-no-cudagraphs", "onnxruntime", "tensorrt")
UNTRACKED_RUNTIMES = (
    "reduce-overhead",
    "onnxruntime",
    "tensorrt",
)  # PyTorch's allocator tells nothing of a call's memory
COMPILED_RUNTIMES = (
    "compiled",
    "reduce-overhead",
    "max-autotune-no-cudagraphs",
    "tensorrt",
)  # may take minutes to be made


class ArmError(ValueError):
    """An arm that does not exist, or cannot run here; the message is one line that names what can be chosen."""


@dataclass(frozen=True)
class Arm:
    """How a network is run. Its text is its words joined by "+", as `eager+fp32+channels-last+fused`."""

    runtime: str = "eager"
    precision: str = "fp32"
    layout: str = "channels-last"
    form: str = (
        "fused"  # BatchNorm folded into convolutions and constants precomputed (`backbones.fuse`), or as trained
    )

    def __str__(self) -> str:
        return "+".join((self.runtime, self.precision, self.layout, self.form))

    @classmethod
    def parse(cls, text: str, base: Arm | None = None) -> Arm:
        """The arm that `text` names, what it leaves open as in `base` (default: the class's own defaults).

        ArmError for a word that is unknown or a kind that is named twice.
        """
        kinds = {"runtime": RUNTIMES, "precision": tuple(PRECISIONS), "layout": tuple(LAYOUTS), "form": FORMS}
        said: dict[str, str] = {}
        for word in text.split("+"):
            kind = next((kind for kind, words in kinds.items() if word in words), None)
            if kind is None:
                raise ArmError(f"arm: {word!r} in {text!r}: choose words from {_words(kinds.values())}, joined by +")
            if kind in said:
                raise ArmError(f"arm: {text!r}: {said[kind]} and {word} are both a {kind}; name one")
            said[kind] = word
        return replace(base or cls(), **said)

    @property
    def dtype(self) -> torch.dtype:
        """Of weights and inputs."""
        return PRECISIONS[self.precision]

    @property
    def memory_format(self) -> torch.memory_format:
        """Of weights and inputs."""
        return LAYOUTS[self.layout]

    def unknown_fields(self, device_type: str) -> frozenset[str]:
        """Return the fields of a `Measurement` that this arm leaves unknown on a device ("cpu" or "cuda").

        Tensors are followed on a CPU where PyTorch's own operators run, and on a card where its allocator serves them.
        """
        seen = self.runtime == "eager" if device_type == "cpu" else self.runtime not in UNTRACKED_RUNTIMES
        return frozenset() if seen else frozenset({"peak_memory_mib"})


def default_arm(device: torch.device) -> Arm:
    """The arm that a search measures: on CUDA compiled in bf16, on a CPU eager in fp32; channels last and fused."""
    return Arm("compiled", "bf16") if device.type == "cuda" else Arm()


def _words(kinds: Iterable[Iterable[str]]) -> str:
    return "; ".join(", ".join(words) for words in kinds)
