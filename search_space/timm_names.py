"""The names of timm's networks, recorded in timm_names.json: importing timm takes seconds.

A network that this process registered is known too. Where another version of timm is installed than the recorded one,
no name is refused here, and timm itself decides when it is imported. `names_to_record` in
tests/search_space/test_timm_names.py returns what the file has to be.
"""

from __future__ import annotations

import difflib
import json
import sys
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from search_space.checks import SpecError

PREFIX = "timm:"
RECORDED = Path(__file__).with_suffix(".json")
_EXAMPLES = ("resnet18", "convnext_atto")  # where no name is similar


def check_timm_name(name: str) -> None:
    """Raise SpecError for a name that timm surely does not have; it may have a tag after a dot."""
    if may_be_timm_name(name):
        return
    architecture, _, tag = name.partition(".")
    if not may_be_timm_name(architecture):
        raise unknown_network(name)
    near = [known for known in tagged_names() if known.partition(".")[0] == architecture][:3]
    hint = f"; it has {', '.join(near)}" if near else ""
    raise SpecError(f"arch: timm's {architecture} has no weights of the name {tag!r}{hint}")


def unknown_network(name: str) -> SpecError:
    """Return the error of a name that is none of timm's, with similar ones."""
    near = difflib.get_close_matches(name.partition(".")[0], _networks(), n=3) or _EXAMPLES
    return SpecError(f"arch: timm has no model {name!r}; similar: {', '.join(near)}; all: timm.list_models()")


def may_be_timm_name(name: str) -> bool:
    """Return whether timm has the network NAME or NAME.TAG, or may have it."""
    architecture, _, tag = name.partition(".")
    timm = sys.modules.get("timm")
    if timm is not None and timm.is_model(architecture) and architecture not in _networks():
        return True  # this process registered it, or this version of timm has it
    if not is_recorded_version():
        return True
    return architecture in _networks() and (not tag or tag in _networks()[architecture])


def is_other_name(name: str) -> bool:
    """Return whether a network is none of timm's own: this process has registered it."""
    return is_recorded_version() and name not in _networks()


@cache
def tagged_names() -> tuple[str, ...]:
    """Return the recorded networks with weights, as NAME.TAG."""
    return tuple(f"{name}.{tag}" for name, tags in _networks().items() for tag in tags)


@cache
def is_recorded_version() -> bool:
    """Return whether the installed timm is the version whose names are recorded."""
    try:
        return version("timm") == _recorded()[0]
    except PackageNotFoundError:
        return False


def _networks() -> dict[str, list[str]]:
    """Return the tags of each recorded network."""
    return _recorded()[1]


@cache
def _recorded() -> tuple[str, dict[str, list[str]]]:
    recorded = json.loads(RECORDED.read_text())
    return recorded["version"], recorded["networks"]
