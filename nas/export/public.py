"""What a card may tell of a command or a data set: a folder that is handed on is read by strangers. Pure."""

from __future__ import annotations

import re
import shlex
from pathlib import PurePath

from nas.disclosure import public_url

_URL = re.compile(r"(.*?)(https?://.*)", re.DOTALL)
_PATH = re.compile(r"([^/]*[=:])?(/.*)", re.DOTALL)


def public_command(command: str) -> str:
    """A command line without what its URLs sign with, and without the places of this machine's files."""
    try:
        words = shlex.split(command)
    except ValueError:  # a study tells it, and may tell anything
        words = command.split()
    return shlex.join(public_name(word) for word in words)


def public_name(name: str) -> str:
    """The same of a data set's name or one word; absolute paths keep their last part."""
    return "::".join(_public(part) for part in name.split("::"))


def _public(part: str) -> str:
    if found := _URL.fullmatch(part):
        return found[1] + public_url(found[2])
    if found := _PATH.fullmatch(part):
        return f"{found[1] or ''}.../{PurePath(found[2]).name}"
    return part
