"""Flags and arguments that several commands take, each with one text; and ``runs/latest``, the default study.

A command's parser adds them by `add_flag` with its own default; everything else about a flag is the same everywhere.
"""

from __future__ import annotations

import argparse
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nas.cli import DEVICES, PICTURE_SUFFIXES, TEACHER_HELP, NamedFile, file_to_write, not_empty
from nas.command_log import announce
from search_space.checks import shown

LATEST = "runs/latest"  # a link to the search last started or resumed from the current folder
_LOG = logging.getLogger(__name__)

Add = Callable[..., object]  # the method `add_argument` of a parser or a group

_CHOICES_HELP = (
    "other choices in the space, may be given several times: PART is stageN or layoutN, or stages or layouts for all "
    "of them; FIELD is one of search_space.genes.StageChoices or Layout, as stages.blocks=mbconv,convnext or "
    "stage1.widths=16,32 (default: those of the space)"
)

FLAGS: dict[str, dict[str, Any]] = {
    "--device": {
        "metavar": "NAME",
        "help": "cpu, cuda, or auto for a GPU that PyTorch sees, else the CPU",
    },
    "--img-size": {"type": int, "metavar": "PX", "help": "side of the input images in pixels, a multiple of 32"},
    "--views": {
        "type": int,
        "metavar": "N",
        "help": "stored versions of each training image: the plain one and N - 1 augmented ones",
    },
    "--measure-batch-size": {"type": int, "metavar": "N", "help": "images per call when a network is measured"},
    "--runtime": {
        "metavar": "WORDS",
        "help": "how networks run when they are measured: runtime, precision, layout and form joined by +, as "
        "compiled+bf16 or nchw",
    },
    "--measure-seconds": {"type": float, "metavar": "S", "help": "longest timing of a network, in seconds"},
    "--threads": {"type": int, "metavar": "N", "help": "CPU threads of the process that measures"},
    "--cache": {"metavar": "DIR", "help": "folder of images, teachers' outputs and roofline ceilings"},
    "--teacher-weights": {"action": NamedFile, "metavar": "NAME=FILE", "help": TEACHER_HELP},
    "--teacher-precision": {
        "help": "precision that the teachers compute in; where it is the default, bf16 is several times faster",
    },
    "--json": {"action": "store_true", "help": "print one JSON object instead of tables"},
    "--plot": {
        "type": file_to_write(*PICTURE_SUFFIXES),
        "metavar": "FILE",
        "help": "picture to draw, as .png, .svg or .pdf",
    },
}


def add_flag(
    add: Add, flag: str, default: str, /, *, names: tuple[str, ...] = (), more: str = "", **settings: Any
) -> None:
    """Add a shared flag to a parser.

    Args:
        add: The method `add_argument` of a parser or a group.
        flag: A key of `FLAGS`.
        default: The default, as the help shows it.
        names: Spellings of the flag; empty for `flag` alone.
        more: Continues the help text.
        settings: Further arguments of `add`.
    """
    shared = FLAGS[flag]
    add(*(names or (flag,)), **{**shared, "help": f"{shared['help']}{more} (default: {default})", **settings})


def add_cache(add: Add, first: str = "") -> None:
    """Add --cache; `first` names the default that comes before the user's own."""
    add_flag(add, "--cache", f"{first}$BACKBONE_NAS_CACHE, else ~/.cache/backbone-nas")


def add_batch_size(add: Add, default: str) -> None:
    """Add --batch-size to a command that measures and does not train, where --measure-batch-size is the same."""
    add_flag(add, "--measure-batch-size", default, names=("--batch-size", "--measure-batch-size"), dest="batch_size")


def add_measuring_device(add: Add, **settings: Any) -> None:
    """Add --device to a command that measures and does not train, which may choose one of several GPUs."""
    add_flag(add, "--device", "auto", more="; cuda:N for the GPU of that number", **settings)


def add_training_flags(add: Add) -> None:
    """Add --device, --cache and --teacher-weights to a command that trains the models of a study."""
    add_flag(add, "--device", "auto", choices=DEVICES)
    add_cache(add, "that of the search; ")
    add_flag(add, "--teacher-weights", "those of the search; else download from timm", default={})


def add_choices(add: Add) -> None:
    """Add --choices, which gathers the changes of a space as `search_space.own_choices` takes them."""
    add("--choices", action=_Choices, metavar="PART.FIELD=A,B", help=_CHOICES_HELP)


class _Choices(argparse.Action):
    """Gathers PART.FIELD=A,B changes of a space in nested dicts; a value is a number, or else text."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: str | None = None
    ) -> None:
        name, equals, text = str(values).partition("=")
        part, dot, field = name.partition(".")
        if not (equals and dot and part and field and text):
            raise argparse.ArgumentError(self, f"{shown(values)}: must be PART.FIELD=A,B, as stage1.widths=16,32")
        found = {**(getattr(namespace, self.dest, None) or {})}
        found[part] = {**found.get(part, {}), field: [_number_or_text(word.strip()) for word in text.split(",")]}
        setattr(namespace, self.dest, found)


def _number_or_text(word: str) -> int | float | str:
    for convert in (int, float):
        try:
            return convert(word)
        except ValueError:
            pass
    return word


def add_run(add: Add) -> None:
    """Add the argument RUN, the folder of a study."""
    about = f"folder of the study (default: {LATEST}, the search last started or resumed from the current folder)"
    add("run", nargs="?", type=run_folder, default=LATEST, metavar="RUN", help=about)


def run_folder(text: str) -> Path:
    """Return the run folder that a text names; a link is followed, so that messages name the study itself.

    Raises:
        argparse.ArgumentTypeError: There is no such folder.
    """
    path = Path(not_empty(text))
    if path.is_dir():
        return _without_link(path) if path.is_symlink() else path
    if path.is_file():
        raise argparse.ArgumentTypeError(f"{text!r} is a file; name the run folder that has it")
    if path.is_symlink():
        raise argparse.ArgumentTypeError(f"{text} links to {str(path.readlink())!r}, which is gone; name a run folder")
    if text == LATEST:
        raise argparse.ArgumentTypeError(
            f"{text} is missing, because no search that was started in this folder has begun a trial; name a run folder"
        )
    raise argparse.ArgumentTypeError(f"no such run folder: {text!r}")


def _without_link(path: Path) -> Path:
    """Return where a link leads, relative to the current folder if it is in there."""
    target, here = path.resolve(), Path.cwd()
    return target.relative_to(here) if target.is_relative_to(here) else target


@contextmanager
def linked_as_latest(run_dir: Path, is_study: Callable[[Path], bool]) -> Iterator[None]:
    """Let ``runs/latest`` link to a run folder; link to the earlier study again if the body leaves no study in it.

    Args:
        run_dir: The run folder.
        is_study: Tells whether a folder holds a study.
    """
    link = Path(LATEST)
    earlier = link.resolve() if link.is_dir() else None
    link_latest(run_dir)
    try:
        yield
    finally:
        if link.is_symlink() and link.resolve() == run_dir.resolve() and not is_study(run_dir):
            if earlier is None:
                link.unlink()
            else:
                link_latest(earlier)


def link_latest(run_dir: Path) -> None:
    """Let ``runs/latest`` in the current folder link to a study, in one step; an error is only shown."""
    link = Path(LATEST)
    if link.absolute() == run_dir.absolute():
        return
    unfinished = link.with_name(f".latest-{os.getpid()}")
    try:
        link.parent.mkdir(exist_ok=True)
        unfinished.unlink(missing_ok=True)
        unfinished.symlink_to(os.path.relpath(run_dir.resolve(), link.parent.resolve()))
        unfinished.replace(link)
    except OSError as error:
        unfinished.unlink(missing_ok=True)
        announce(f"{LATEST} could not be set to {run_dir}: {error.strerror}", _LOG, level=logging.WARNING)
