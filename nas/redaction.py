"""Redaction: commands, data sets and URLs without their secrets, for reports, cards, messages and stored studies.

An http(s) URL loses its user, password and query, which may hold a signature; the URL of a database loses its
passwords. Nothing here raises an error, whatever the text, and nothing checks a URL: what cannot be parsed may hold
a secret all the same.

``TRAIN::VAL`` holds two patterns. ``::`` separates them, except inside the authority of a URL, from ``://`` to the next
slash: ``https://[2001:db8::1]/a.tar::https://[::1]:8080/b.tar`` names two hosts by their IPv6 addresses.
"""

from __future__ import annotations

import re
import shlex
from pathlib import PurePath

_SEPARATOR = re.compile(r"https?://[^\s/?#]*|(?P<separator>::)", re.IGNORECASE)
_DATABASE = re.compile(
    r"(?=(?:postgres(?:ql)?|mysql|mariadb)(?:\+\w+)?:/)", re.IGNORECASE
)  # of a path, // has become /
_PATH_IN_A_CALL = re.compile(r"(['\"])(/.*?)\1")
# With the blanks in quotes. Apostrophes open none; escaped quotes neither, or text of them would take quadratic time.
_WORD = re.compile(r"""(?:(?<![\w\\])'(?:\\.|[^'\\\n])*'|(?<![\w\\])"(?:\\.|[^"\\\n])*"|\S)+""")
_FILE = re.compile(r"([^/]*[=:])?(/.*)", re.DOTALL)


def _url_pattern(end: str) -> re.Pattern[str]:
    """Compile the pattern of an http(s) URL that a character of `end` ends too; its groups are what may be shown."""
    host = rf"(?:(?!https?:/)[^/?#{end}])*"
    path = rf"(?:(?!::|https?:/)[^?#{end}])*"
    query = rf"(?:(?!::)[^#{end}])*"
    return re.compile(rf"(https?:/+)(?:[^/?#]*@)?({host}{path})(?:\?{query})?", re.IGNORECASE)


_URL_OF_A_WORD = _url_pattern("")
_URL_IN_A_TEXT = _url_pattern(r"'\"")


def split_patterns(text: str) -> list[str]:
    """Split ``TRAIN::VAL`` at its separators."""
    parts, start = [], 0
    for match in _SEPARATOR.finditer(text):
        if match["separator"]:
            parts.append(text[start : match.start()])
            start = match.end()
    return [*parts, text[start:]]


def public_word(word: str) -> str:
    """Remove the secrets from a URL, a data set's name or one word of a command, in which only ``::`` ends a URL."""
    return _public(word, _URL_OF_A_WORD)


def public_text(text: str) -> str:
    """Remove the secrets from free text, in which a quote, or white space outside quotes, ends a URL as well."""
    for words in (r"\S+", _WORD):  # each alone first: a URL in quotes may stand behind another one
        text = re.sub(words, lambda match: _public(match[0], _URL_IN_A_TEXT), text)
    return text


def card_command(command: str) -> str:
    """Return a command as a model card shows it: without secrets and without the folders of this machine.

    A command is a command line or, if it starts with "nas.api.", a call in Python.
    """
    if command.startswith("nas.api."):
        return _PATH_IN_A_CALL.sub(lambda match: repr(card_name(match[2])), public_text(command))
    try:
        words = shlex.split(command)
    except ValueError:  # the command comes out of a study, which may hold anything
        words = command.split()
    return shlex.join(card_name(word) for word in words)


def card_name(name: str) -> str:
    """Return a data set's name or one word as a model card shows it: of absolute paths only the last part."""
    return "::".join(_without_folders(public_word(part)) for part in split_patterns(name))


def _without_folders(part: str) -> str:
    match = None if "://" in part else _FILE.fullmatch(part)
    return part if match is None else f"{match[1] or ''}.../{PurePath(match[2]).name}"


def _public(text: str, url: re.Pattern[str]) -> str:
    return "".join(map(_without_passwords, _DATABASE.split(url.sub(r"\1\2", text))))


def _without_passwords(url: str) -> str:
    """Remove the passwords from a database's URL and what follows it; its user stays."""
    if not _DATABASE.match(url):
        return url
    scheme, slashes, rest = re.split(r"(:/+)", url, maxsplit=1)
    rest = re.sub(r"\A([^:/@]*)[:@].*@", r"\1@", rest, flags=re.DOTALL)  # to the last @: an earlier one is a password's
    rest = re.sub(r"(?i)(?<=[?&])(?:ssl)?password=[^&#]*(?:&|(?=#|\Z))", "", rest)
    return f"{scheme}{slashes}{re.sub(r'[?&](?=#|$)', '', rest)}"
