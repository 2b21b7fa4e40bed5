"""Every option of every command with every kind of nonsense, made from the parsers: a new option is in it at once."""

from __future__ import annotations

import argparse
import os
import random
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, get_args

import pytest

from nas.__main__ import COMMANDS, main
from nas.flags import item_of, kind_of
from nas.profile.arguments import SPACE_ONLY
from nas.search.config_file import TABLES
from nas.study.config import DistillConfig, Group, SearchConfig
from nas.study.limits import LIMITS
from nas.validation import declared

LIMIT_S = 5.0  # of processor time: the tests of a busy machine must not fail
DEEP = "[" * 5000
NUMBERS = (
    *("nan", "inf", "-inf", "1e999", "-1", "9" * 30, "9" * 5000, "-" + "9" * 30, "1e30", "abc", "", " "),
    *("true", "0x10", "1;2", "½", "--", "None", DEEP, "\x1b[31m1", "\udcff", "1\n2"),
)
NOT_WHOLE = ("1.5", "1e3", "0.1")
TEXTS = (
    *("", " ", "--", "-", "nan", "%s%n{}", "\x1b[31mred", "a\nb", "\udcff", "x" * 5000, "../" * 1500),
    *("/dev/zero", "/dev/null", "FIFO", "FOLDER", "FOLDER/.json", "no/such/file.json", "pipe:rm -rf x"),
    *(DEEP, ",", "=", "a=", "=b", "@", "::", "timm:", "timm:resnet18.zzz", "imagefolder:"),
    *("webdataset:/x/{0000..99999999999}.tar", "postgresql://u:A@B@host/n"),
)
SECRET = "B@"  # the end of a password that holds an @
# What a command line needs besides the option that is tried; RUN is a folder without a study. For a new command, say
# also where its work begins, which is replaced: what is not refused would run.
BASES: dict[str, tuple[str, ...]] = {
    "doctor": ("--gpu",),
    "cache": (),
    "plan": ("--device", "cpu"),
    "search": ("--device", "cpu"),
    "profile": ("--arch", "eradio_femto", "--device", "cpu"),
    "replay": ("nasbench201", "--latency", "no.csv:column"),
    "report": ("RUN",),
    "compare": ("RUN", "RUN"),
    "race": ("RUN",),
    "retrain": ("RUN",),
    "remeasure": ("RUN", "--device", "cpu"),
    "select": ("RUN",),
    "train": ("eradio_femto", "--train-steps", "5", "--device", "cpu"),
    "export": ("RUN", "--format", "onnx"),
}
PILOT_BASE = ("--pilot", "--device", "cpu")
SPACE_BASE = ("--space", "micro", "--device", "cpu", "--measure-seconds", "9")
# Where the work of a command begins that reads no study.
WORK = (
    *("nas.search.session.search", "nas.plan.search_plan.plan_search", "nas.plan.pilot.run_pilot"),
    *("nas.cache.command.manage_cache", "nas.train.command.train"),
    *("nas.profile.command.profile", "nas.replay.command.replay", "nas.doctor.command.examine"),
)


@dataclass(frozen=True)
class Trial:
    """One command line with nonsense.

    Args:
        words: The command line.
        flag: The option that is tried.
        refused: Whether the value itself has to be refused, by a message with the flag's name.
    """

    words: tuple[str, ...]
    flag: str
    refused: bool


def actions() -> Iterator[tuple[tuple[str, ...], argparse.Action]]:
    """Yield the words before the options, as ("cache", "build"), with each option and argument of all commands."""
    for command in COMMANDS:
        parser = command.parser()
        below = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
        for action in parser._actions:
            if action not in below:
                yield (command.name,), action
        for name, sub in ((name, sub) for group in below for name, sub in group.choices.items()):
            yield from (((command.name, name), action) for action in sub._actions)


def command_lines() -> Iterator[Trial]:
    """Yield a command line for each option and kind of nonsense."""
    for command, action in actions():
        if isinstance(action, argparse._HelpAction):
            continue
        base = SPACE_BASE if command == ("profile",) and action.dest in SPACE_ONLY else BASES[command[0]]
        base = PILOT_BASE if command == ("plan",) and action.dest in ("pilot_models", "run") else base
        flag = action.option_strings[0] if action.option_strings else ""
        for value, refused in values_of(action):
            tried = (f"{flag}={value}",) if flag else (value,)
            rest = base if flag else base[1:]
            yield Trial((*command, *rest, *tried), flag, refused)


def values_of(action: argparse.Action) -> Iterator[tuple[str, bool]]:
    """Yield nonsense for an option, and whether it has to be refused."""
    if action.nargs == 0:
        yield "1", True
    elif action.dest == "distill":
        yield from ((text, True) for text in recipe_settings())
        yield from ((text, True) for text in TEXTS)
    elif number := number_of(action):
        more = () if number is float else NOT_WHOLE
        yield from ((text, True) for text in (*NUMBERS, *more))
    else:
        yield from ((text, bool(action.choices) or not text.strip()) for text in TEXTS)


def number_of(action: argparse.Action) -> type | None:
    """The type of number that an option takes, or its list has."""
    hint = action.type.args[0] if isinstance(action.type, partial) else None
    while kind_of(hint) is tuple:
        hint = item_of(hint)
    return kind_of(hint) if kind_of(hint) in (int, float) else None


def recipe_settings() -> Iterator[str]:
    """Yield KEY=VALUE with a JSON value that the recipe's setting cannot have."""
    plain = ("NaN", "Infinity", "-1", "1e999", "9" * 30, "9" * 5000, "null", '""', "", DEEP, '{"a": NaN}', "[[]]")
    for key, hint in declared(DistillConfig).items():
        for value in plain:
            yield f"{key}={value}"
        if kind_of(hint) is not bool:
            yield f"{key}=true"


def toml_values() -> Iterator[tuple[str, str]]:
    """Yield a config file with a value that its setting cannot have, and the setting's name."""
    others = ("limits", "distill", "specs")  # two have tables of their own, and specs that nothing names are not read
    settings = {name: hint for name, hint in declared(SearchConfig).items() if name not in others}
    tables: dict[str, Mapping[str, Any]] = {"": settings, "run": TABLES["run"], "plan": TABLES["plan"]}
    tables |= {"distill": declared(DistillConfig), "limits": LIMITS, "groups": declared(Group)}
    yield f"seed = {DEEP}", "not TOML"
    group = {"teachers": '["lite0"]', "batch_size": "32", "img_size": "[64]", "rate": "1"}
    for table, keys in tables.items():
        for key, hint in keys.items():
            values = ["nan", "inf", "-1", "9" * 30, '""', "[[]]", "1979-05-27", '["\\u0000", ""]', "{ a = nan }"]
            values += [] if kind_of(hint) is bool else ["true"]
            for value in values:
                if table == "groups":
                    items = ", ".join(f"{name} = {each}" for name, each in {**group, key: value}.items())
                    yield f"[distill]\ngroups = [{{ {items} }}]", key
                else:
                    yield (f"[{table}]\n" if table else "") + f"{key} = {value}", key


def config_files(folder: Path) -> Iterator[Trial]:
    """Yield a search for each config file, which it writes."""
    for number, (text, key) in enumerate(toml_values()):
        path = folder / f"{number}.toml"
        path.write_text(text)
        yield Trial(("search", "--config", str(path), "--device", "cpu"), key, True)


def bare_numbers(hint: Any) -> bool:
    """Return whether a type has a number without a range."""
    if hasattr(hint, "__metadata__"):
        return False
    return hint in (int, float) or any(bare_numbers(part) for part in get_args(hint))


class Accepted(ValueError):
    """What the replaced work of a command raises."""


def prepared(folder: Path, patch: pytest.MonkeyPatch) -> None:
    """Go to an empty folder with a run folder without a study and a FIFO; a command that is not refused ends there."""

    def accept(*given: object) -> int:
        raise Accepted("accepted")

    for name in WORK:
        patch.setattr(name, accept)
    patch.setenv("BACKBONE_NAS_CACHE", str(folder / "cache"))
    patch.chdir(folder)
    Path("RUN").mkdir()
    Path("FOLDER/.json").mkdir(parents=True)
    os.mkfifo("FIFO")


def fault(trial: Trial, capsys: pytest.CaptureFixture[str]) -> str | None:
    """Run a command line, and return what is wrong with its end; None where nothing is."""
    began_s = time.process_time()
    try:
        code: object = main(trial.words)
    except SystemExit as ended:
        code = ended.code
    except BaseException as error:
        return f"traceback: {type(error).__name__}: {str(error)[:200]}"
    seconds, (out, err) = time.process_time() - began_s, capsys.readouterr()
    if code != 2:
        return f"code {code}: {err[:200]!r}"
    if err.count("\n") != 1 or not err.startswith("error: ") or out:
        return f"not one line on stderr: {err[:300]!r}"
    if SECRET in err:
        return f"a password: {err!r}"
    if trial.refused and trial.flag not in err:
        return f"not refused by its name: {err[:200]!r}"
    return None if seconds < LIMIT_S else f"{seconds:.1f} s"


def faults(trials: list[Trial], capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Run command lines, and return those that end wrongly, with what is wrong."""
    # What is wrong is run again: the first one of a process may have imported what takes seconds.
    found = ((trial, fault(trial, capsys) and fault(trial, capsys)) for trial in trials)
    return [f"{' '.join(trial.words)[:200]!r}: {wrong}" for trial, wrong in found if wrong]


def sample(trials: list[Trial], number: int) -> list[Trial]:
    """Return some of the command lines: each option in turn, with a kind of nonsense drawn at random."""
    rng = random.Random(0)
    by_option: dict[tuple[str, str], list[Trial]] = {}
    for trial in trials:
        by_option.setdefault((trial.words[0], trial.flag), []).append(trial)
    chosen = [rng.choice(each) for each in by_option.values()]
    return rng.sample(chosen, min(number, len(chosen)))
