"""The command line of settings: options from the fields of a class, see `nas.validation`; and the default study.

``runs/latest`` is a link to the search last started or resumed from the current folder.
"""

from __future__ import annotations

import argparse
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, fields, replace
from functools import partial
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from pydantic import AfterValidator, ValidationError

from nas.cli import PROGRAM, OneLineParser
from nas.command_log import announce
from nas.redaction import public_word
from nas.validation import Flag, OneOf, adapter, declared, flag_of, problem
from search_space.checks import shown

LATEST = "runs/latest"
_LOG = logging.getLogger(__name__)
T = TypeVar("T")


def shared(name: str, default: str | None = None, more: str = "", **changes: Any) -> Flag:
    """Return a flag of `SHARED` with a default, the rest of its help, and other changes."""
    flag = SHARED[name]
    return replace(flag, help=flag.help + more, default=default or flag.default, **changes)


def parser_of(settings: type, name: str, about: str, examples: str, **more: Any) -> OneLineParser:
    """Return the parser of a command; an option that is not given is not in its namespace.

    Args:
        settings: A class of `nas.validation.checked`, whose fields with a `Flag` are the options.
        name: Name of the command.
        about: What it does.
        examples: Text at the end of the help.
        more: Further arguments of `OneLineParser`.
    """
    built = OneLineParser(
        prog=f"{PROGRAM} {name}", description=about, epilog=examples, argument_default=argparse.SUPPRESS, **more
    )
    add_flags(built, settings)
    return built


def parse_as(settings: type[T], parser: argparse.ArgumentParser, words: Sequence[str] | None) -> T:
    """Return the settings of a command line; ConfigError or SystemExit(2), after one line, where it is wrong."""
    return settings(**vars(parser.parse_args(words)))


def add_flags(parser: argparse._ActionsContainer, settings: Any, *only: str, **changed: Flag) -> None:
    """Add the options of a class of settings to a parser.

    Args:
        parser: The parser, or a group of one.
        settings: The class.
        only: Names of the fields; empty for all that have a flag.
        changed: Flags in place of the fields' own, by name.
    """
    groups = {group.title: group for group in parser._action_groups}
    for field in fields(settings):
        hint = declared(settings)[field.name]
        flag = changed.get(field.name) or flag_of(hint)
        if flag is None or (only and field.name not in only):
            continue
        if flag.group and flag.group not in groups:
            groups[flag.group] = parser.add_argument_group(flag.group)
        default = field.default_factory() if field.default_factory is not MISSING else field.default
        add_flag(groups[flag.group] if flag.group else parser, field.name, hint, flag, default)


def add_flag(group: Any, name: str, hint: Any, flag: Flag, default: object = None) -> None:
    """Add one option to a parser or a group of one.

    Args:
        group: The parser or the group.
        name: Name of the setting.
        hint: Its declaration.
        flag: Its flag.
        default: Its value where it is not given.
    """
    names = flag.names or (f"--{name.replace('_', '-')}",)
    shown_default = flag.default or ("" if default is MISSING else in_words(default))
    more: dict[str, Any] = {"help": f"{flag.help} (default: {shown_default})" if shown_default else flag.help}
    kind = kind_of(hint)
    if kind is bool and "action" not in flag.more:
        more["action"] = "store_true"
    elif flag.more.get("action", "append") == "append":
        more |= {"metavar": flag.metavar, "type": reader(hint)}
        if kind is not tuple and (choices := choices_of(hint)):
            more["choices"] = choices
    else:
        more["metavar"] = flag.metavar
    if names[0].startswith("-"):
        more["dest"] = name
        more |= {"required": True} if default is MISSING else {}
        group.add_argument(*names, **more | dict(flag.more))
    else:
        nargs = {} if default is MISSING else {"nargs": "?"}
        group.add_argument(name, **more | {"metavar": names[0]} | nargs | dict(flag.more))


def in_words(default: object) -> str:
    """Return a default as a help text shows it."""
    if default is None or default is False or default == () or default == {}:
        return "no" if default is False else "none"
    if isinstance(default, list | tuple):
        return ",".join(map(str, default))
    return f"{default:g}" if isinstance(default, float) else str(default)


def kind_of(hint: Any) -> Any:
    """Return the plain type in a declaration: int, float, str, bool, Path, tuple, dict or Literal."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return kind_of(parts[0])
    if origin in (Union, UnionType):
        return kind_of(next(part for part in parts if part is not type(None)))
    return origin or hint


def choices_of(hint: Any) -> tuple[Any, ...]:
    """Return the words that a setting may be; none where it is free."""
    if isinstance(hint, OneOf):
        return hint.words
    parts = get_args(hint)
    return parts if get_origin(hint) is Literal else next(filter(None, map(choices_of, parts)), ())


def reader(hint: Any) -> Callable[[str], Any]:
    """Return the type of an option for argparse, see `value_of`."""
    return partial(value_of, hint)


def value_of(hint: Any, text: str) -> Any:
    """Return the value of a setting that a text gives, of lists with commas, where "none" is an empty one.

    Args:
        hint: Declaration of the setting.
        text: The text.

    Raises:
        argparse.ArgumentTypeError: The setting cannot have this value.
    """
    if not text.strip():
        raise argparse.ArgumentTypeError(f"{text!r}: must not be empty")
    value: Any = number_or_text(text, hint)
    if kind_of(hint) is tuple:
        public = public_word(text)  # a message may quote one part of a URL
        words = () if text == "none" else tuple(word.strip() for word in public.split(","))
        if not all(words):
            raise argparse.ArgumentTypeError(f"{shown(text)}: must be separated by commas")
        value = tuple(number_or_text(word, hint) for word in words)
    try:
        return adapter(hint).validate_python(value)
    except ValidationError as error:
        raise argparse.ArgumentTypeError(problem(error)) from None


def number_or_text(word: str, hint: Any = float) -> int | float | str:
    """Return a word as the number that it is; as it stands where it is none, or the setting is no number."""
    while kind_of(hint) is tuple:
        hint = item_of(hint)
    kind = kind_of(hint)
    for convert in (int, float) if kind is float else (int,) if kind is int else ():
        try:
            return convert(word)
        except ValueError:
            pass
    return word


def item_of(hint: Any) -> Any:
    """Return the declaration of the items of a list."""
    parts = get_args(hint)
    return parts[0] if get_origin(hint) is tuple else item_of(next(part for part in parts if kind_of(part) is tuple))


class NamedFile(argparse.Action):
    """Collects the ``NAME=FILE`` values of a repeatable option in a dict of paths; a repeated name is an error."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        """Add one value of the option to the dict."""
        files: dict[str, Path] = getattr(namespace, self.dest, None) or {}
        name, _, file = str(values).partition("=")
        if not (name and file):
            parser.error(f"{option_string}: {values!r}: must be NAME=FILE")
        if name in files:
            parser.error(f"{option_string}: {name}: a file was given twice")
        setattr(namespace, self.dest, {**files, name: Path(file).expanduser()})


class GatherChoices(argparse.Action):
    """Gathers PART.FIELD=A,B changes of a space in nested dicts; a value is a number, or else text."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: str | None = None
    ) -> None:
        """Add one change to the dict."""
        name, equals, text = str(values).partition("=")
        part, dot, field = name.partition(".")
        if not (equals and dot and part and field and text):
            raise argparse.ArgumentError(self, f"{shown(values)}: must be PART.FIELD=A,B, as stage1.widths=16,32")
        found = {**(getattr(namespace, self.dest, None) or {})}
        found[part] = {**found.get(part, {}), field: [number_or_text(word.strip()) for word in text.split(",")]}
        setattr(namespace, self.dest, found)


def run_folder(text: str) -> Path:
    """Return the run folder that a text names; a link is followed, so that messages name the study itself.

    Raises:
        argparse.ArgumentTypeError: There is no such folder.
    """
    path = Path(text)
    if text.strip() and path.is_dir():
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


# Flags that several commands have, by the name of the field.
SHARED = {
    "device": Flag("cpu, cuda, or auto for a GPU that PyTorch sees, else the CPU", "NAME"),
    "img_size": Flag("side of the input images in pixels, a multiple of 32", "PX"),
    "views": Flag("stored versions of each training image: the plain one and N - 1 augmented ones", "N"),
    "measure_batch_size": Flag("images per call when a network is measured", "N"),
    "batch_size": Flag(
        "images per call when a network is measured", "N", names=("--batch-size", "--measure-batch-size")
    ),
    "runtime": Flag(
        "how networks run when they are measured: runtime, precision, layout and form joined by +, as compiled+bf16 or "
        "nchw",
        "WORDS",
    ),
    "measure_seconds": Flag("longest timing of a network, in seconds", "S"),
    "threads": Flag("CPU threads of the process that measures", "N"),
    "cache": Flag(
        "folder of images, teachers' outputs and roofline ceilings",
        "DIR",
        "$BACKBONE_NAS_CACHE, else ~/.cache/backbone-nas",
    ),
    "teacher_weights": Flag(
        "safetensors file with the weights of a timm teacher; may be given several times",
        "NAME=FILE",
        more={"action": NamedFile},
    ),
    "teacher_precision": Flag(
        "precision that the teachers compute in; where it is the default, bf16 is several times faster"
    ),
    "json": Flag("print one JSON object instead of tables"),
    "plot": Flag("picture to draw, as .png, .svg or .pdf", "FILE"),
    "choices": Flag(
        "other choices in the space, may be given several times: PART is stageN or layoutN, or stages or layouts for "
        "all of them; FIELD is one of search_space.genes.StageChoices or Layout, as stages.blocks=mbconv,convnext or "
        "stage1.widths=16,32",
        "PART.FIELD=A,B",
        "those of the space",
        more={"action": GatherChoices},
    ),
}
ADDRESS = Flag("a running Ray cluster, or auto", "HOST:PORT", "this machine alone")
MOVED_DATA = Flag(
    "where the study's images lie, if they have moved: a source as of search --data", "URI", "where they were"
)
MEASURING_DEVICE = shared("device", "auto", "; cuda:N for the GPU of that number")
RUN = Flag(
    "folder of the study",
    default=f"{LATEST}, the search last started or resumed from the current folder",
    names=("RUN",),
    more={"nargs": "?", "default": LATEST, "type": run_folder},
)


def file_to_write(*suffixes: str) -> Callable[[Path], Path]:
    """Return the check of a file to write, which is made before the command starts its work.

    Args:
        suffixes: What the file's name may end in. A study's own files end in others, and are not overwritten by a slip.
    """

    def check(path: Path) -> Path:
        if path.suffix not in suffixes:
            raise ValueError(f"must end in {' or '.join(suffixes)}")
        if path.exists() and not path.is_file():
            raise ValueError("is a folder; name a file")
        if not path.parent.is_dir():
            raise ValueError(f"no such folder {str(path.parent)!r}")
        return path

    return check


Picture = Annotated[Path, AfterValidator(file_to_write(".png", ".svg", ".pdf"))]
Page = Annotated[Path, AfterValidator(file_to_write(".html", ".htm"))]


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
