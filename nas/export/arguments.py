"""Define the settings of ``backbone-nas export`` and its command line."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

from nas.analysis import BEST
from nas.cli import OneLineParser
from nas.export import ExportError
from nas.extras import install_command
from nas.flags import RUN, parse_as, parser_of, shared
from nas.measure.runtime_spec import Arm
from nas.measure.runtime_traits import PRECISIONS
from nas.validation import ConfigError, Flag, OneOf, Pixels, checked
from search_space.arch import SIZE_MULTIPLE_PX

FORMATS = ("timm", "hf", "onnx", "torchscript")
GRAPHS = ("onnx", "torchscript")  # contain the fused model; the others contain a trainable one
# Libraries that a format is written and checked with; the extra that installs them has the format's name.
LIBRARIES = {"hf": ("transformers",), "onnx": ("onnx", "onnxscript", "onnxruntime")}
FOLDER = "exports"  # in the run's folder
ALL_HEADS = "all"  # in place of teachers' names

_EXAMPLES = """examples:
  backbone-nas export runs/mine --format timm                    timm.create_model("local-dir:FOLDER", pretrained=True)
  backbone-nas export runs/mine --format hf --heads all          transformers.AutoModel, same interface as RADIO models
  backbone-nas export runs/mine --trial 17 --format onnx --out winner
  backbone-nas export runs/mine --trial 3fa9 --format torchscript --heads lite0
  backbone-nas export runs/mine --format onnx --precision fp16   for an engine of TensorRT in fp16
  backbone-nas export runs/mine --format torchscript --img-size 224 --out winner-224

The folder contains weights or a graph, spec.json, preprocessor_config.json, export.json and README.md, a model card
with the measurements. It appears when everything is written and checked. An existing folder is replaced only if it is
an export to which no files were added. If `backbone-nas retrain` has retrained the trial, the weights with most
training steps are exported; all weights are averaged ones (EMA).

RUN may also be a folder of `backbone-nas train`, which trains one architecture at full length.
"""


@checked
@dataclass(frozen=True)
class ExportSettings:
    """Settings of one ``backbone-nas export`` command."""

    run: Annotated[Path, RUN]
    format: Annotated[str, OneOf(FORMATS), Flag("timm, hf (transformers), onnx or torchscript (required)")]
    trial: Annotated[
        str,
        Flag(
            "trial number, baseline's name, the beginning of an arch_id (at least 8 characters if all are digits), or "
            "best, the model that the report recommends: the fastest candidate that scores at least as high as the "
            "best baseline; without one, or if throughput was no objective, the one with the highest score. Retrained "
            "scores decide where it and all baselines were retrained",
            "TRIAL",
        ),
    ] = BEST
    out: Annotated[Path | None, Flag("folder to write", "DIR", f"RUN/{FOLDER}/ARCH_ID-FORMAT")] = None
    fuse: Annotated[
        bool | None,
        Flag(
            "fold BatchNorm into convolutions",
            default="yes for onnx and torchscript, impossible for the other formats",
            more={"action": argparse.BooleanOptionalAction},
        ),
    ] = None
    img_size: Annotated[
        Pixels | None,
        shared(
            "img_size",
            "that of the distillation",
            "; a graph is traced with it, and a TorchScript graph often takes no other (only onnx and torchscript)",
        ),
    ] = None
    precision: Annotated[str, OneOf(PRECISIONS), Flag("types of an ONNX graph's input, weights and outputs")] = "fp32"
    heads: Annotated[
        tuple[str, ...],
        Flag("comma-separated teachers whose adaptor heads are exported too, or all", "NAMES"),
    ] = ()
    overwrite: Annotated[
        bool,
        Flag(
            "replace a folder even if it is no export, has other files or weights that were trained longer; its "
            "content is deleted"
        ),
    ] = False

    def __post_init__(self) -> None:
        if self.img_size is not None and self.format not in GRAPHS:
            raise ConfigError(
                f"--img-size: only for {' and '.join(GRAPHS)}; a model of the format {self.format} takes any size in "
                f"multiples of {SIZE_MULTIPLE_PX} px"
            )
        if self.fuse and self.format not in GRAPHS:
            raise ConfigError(
                f"--fuse: the format {self.format} has trainable weights; fuse the loaded model instead, with "
                "backbones.fuse(model), or model.switch_to_deploy() for hf"
            )
        if self.precision != "fp32" and self.format != "onnx":
            raise ConfigError(
                f"--precision: only for onnx; the format {self.format} is written in fp32, so convert the loaded model "
                "instead, as with model.to(torch.bfloat16)"
            )

    @property
    def arm(self) -> Arm:
        """Return precision and form of the exported model."""
        fused = self.format in GRAPHS if self.fuse is None else self.fuse
        return Arm(precision=self.precision, form="fused" if fused else "unfused")


def parser() -> OneLineParser:
    """Build the parser."""
    about = "Write a trained model of a study as a folder that others can use, with a model card."
    return parser_of(ExportSettings, "export", about, _EXAMPLES)


def parse(words: Sequence[str]) -> ExportSettings:
    """Return the settings of a command line; SystemExit(2) or ConfigError, one line, where it is wrong."""
    return parse_as(ExportSettings, parser(), words)


def check_installed(kind: str) -> None:
    """Raise ExportError where a library that the format needs is missing."""
    if missing := [name for name in LIBRARIES.get(kind, ()) if find_spec(name) is None]:
        names = f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'}"
        raise ExportError(f"--format {kind}: {names} not installed; {install_command(kind)}")
