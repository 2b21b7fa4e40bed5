"""Settings of ``python -m nas.export``, and its command line."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from nas.analysis.selection import BEST
from nas.cli import OneLineParser, add_training_options

FORMATS = ("timm", "hf", "onnx", "torchscript")
GRAPHS = ("onnx", "torchscript")  # hold the fused model; the others hold what can be trained further
FOLDER = "exports"  # in the run's folder
ALL_HEADS = "all"  # in the place of teachers' names

_EXAMPLES = """examples:
  python -m nas.export runs/mine --format timm                    timm.create_model("local-dir:FOLDER", pretrained=True)
  python -m nas.export runs/mine --format hf --heads all          transformers.AutoModel, called as the RADIO models are
  python -m nas.export runs/mine --trial 17 --format onnx --out winner
  python -m nas.export runs/mine --trial 3fa9 --format torchscript --heads lite0
  python -m nas.export runs/mine --format timm --train-longer 5000

The folder has weights or a graph, spec.json, preprocessor_config.json, export.json and README.md, a model card with
what was measured. It appears when all is written and checked; a folder that is no export, or that has files which no
export wrote, is not replaced.
Of a trial that nas.retrain trained again, the longest trained weights are taken; all are averaged ones (EMA).

--train-longer continues from the study's weights and heads, not from nothing: the recipe's learning rate is constant,
so there is no decayed rate to be raised again, and nothing that the study has learned is thrown away. The optimizer's
moments were not kept and start anew behind the recipe's warm-up; the images come in another order. A trial without
weights is trained from nothing. As many GPUs take part as divide the batch. After Ctrl-C the same command continues
where it was stopped.
"""

_TRIAL_HELP = (
    "a trial's number, the beginning of an arch_id (8 characters at least where all are digits), or best: the fastest "
    "candidate at least as good as the best baseline, as the report headlines; where none is, or throughput was no "
    "objective, the candidate of the highest score (default: best)"
)


@dataclass(frozen=True)
class ExportSettings:
    """What a user asks of ``nas.export``; ValueError where options contradict each other."""

    run: Path
    format: str  # of FORMATS
    trial: str = BEST
    out: Path | None = None  # None: RUN/exports/ARCH_ID-FORMAT
    fuse: bool | None = None  # fold BatchNorm; None: in GRAPHS
    heads: tuple[str, ...] = ()  # teachers whose adaptor heads are exported, or ALL_HEADS
    train_longer: int | None = None  # steps of distillation before the export
    device: str | None = None  # that trains; None: the study's
    cache: str | None = None
    teacher_files: Mapping[str, Path] = field(default_factory=dict)
    force: bool = False  # replace a folder that is no export

    def __post_init__(self) -> None:
        if self.train_longer is not None and self.train_longer < 1:
            raise ValueError(f"--train-longer: {self.train_longer}: must be 1 or more")
        training = {"device": self.device, "cache": self.cache, "teacher": self.teacher_files}
        if self.train_longer is None and (useless := [name for name, value in training.items() if value]):
            raise ValueError(f"--{useless[0]}: is for training; give --train-longer STEPS too, or leave it out")
        if self.fuse and self.format not in GRAPHS:
            raise ValueError(
                f"--fuse: {self.format} keeps weights that can be trained further; fuse what was loaded: "
                "timm.utils.reparameterize_model(model), or model.switch_to_deploy() of hf"
            )

    @property
    def fused(self) -> bool:
        """Return whether BatchNorm is folded."""
        return self.format in GRAPHS if self.fuse is None else self.fuse


def parse(words: Sequence[str]) -> ExportSettings:
    """Return the settings of a command line; SystemExit(2) or ValueError, one line, where it is wrong."""
    options = vars(_parser().parse_args(words))
    heads = tuple(name for name in options.pop("heads").split(",") if name)
    return ExportSettings(**options, heads=heads)


def _parser() -> OneLineParser:
    parser = OneLineParser(
        prog="python -m nas.export",
        description="Write a trained model of a study as a folder that others can use, with a model card.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("run", type=Path, metavar="RUN", help="folder of the study")
    add("--trial", default=BEST, metavar="WHICH", help=_TRIAL_HELP)
    add("--format", required=True, choices=FORMATS, help="timm, hf (transformers), onnx or torchscript")
    add("--out", type=Path, metavar="DIR", help=f"folder to write (default: RUN/{FOLDER}/ARCH_ID-FORMAT)")
    fuse = "fold BatchNorm (default: in onnx and torchscript; the other formats cannot)"
    add("--fuse", action=argparse.BooleanOptionalAction, help=fuse)
    heads = "teachers whose adaptor heads are exported too, with commas, or all (default: none)"
    add("--heads", default="", metavar="NAMES", help=heads)
    add("--train-longer", type=int, metavar="STEPS", help="distill for so many steps more before the export")
    add_training_options(add, "device of --train-longer: ")
    force = "replace a folder that is no export or has other files, and lose what it holds"
    add("--force", action="store_true", help=force)
    return parser
