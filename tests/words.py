"""Words that were private to this project, each with the field's word; where users read, only the latter may stand.

The right-hand sides are those of the vocabulary in the contributors' guide. A pattern is a whole word in either case,
unless it begins with "(?-i:", and has its plural.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

PRIVATE_WORDS = {
    "arm": "runtime",
    "asker": "trial proposer",
    "beside": "next to, along with, in addition to",
    "contender": "subject",
    "crew": "training pool",
    "desk": "settings",
    "embedded": "built-in",
    "finals": "retraining",
    "finalist": "retrained candidate",
    "(?:go|goes|going|gone|went) on": "continue, resume",
    "hand(?:s|ed|ing)? back": "release",
    "hollow": "without weights",
    "in vain": "without effect",
    "(?-i:Knowledge)": "cost model",
    "ledger": "time spent",
    "(?<![.])net": "architecture (a spec), candidate (in a search), model (trained)",
    "net[-_ ]name": "name",
    "nursery": "fork server",
    "of before": "from earlier",
    "once more": "again",
    "plates": "figures",
    "quality": "distillation score",
    "qualities": "distillation scores",
    "re-?rank(?:s|ed|ing)?": "re-measure",
    "stand-?in": "synthetic target",
    "standing": "trial table, summary, status",
    "tall(?:y|ies)": "counts, statistics",
    "told": "given, passed, reported",
    "workbench": "trial context",
    "yardstick": "reference score",
}
BRITISH_SPELLING = {
    "artefact": "artifact",
    "behaviour": "behavior",
    "(?:cancel|label|level|model|signal|travel)l(?:ed|ing)": "one l",
    "catalogue": "catalog",
    "centre(?:d)?": "center",
    "colour(?:s|ed|ing)?": "color",
    "favour(?:ed|ite)?": "favor",
    "grey": "gray",
    "licence": "license",
    "metres?": "meter",
    "neighbour(?:ing|hood)?": "neighbor",
    "programme": "program",
    r"\w*(?:character|crystall|factor|general|harmon|initial|local|maxim|memor|minim|neutral|normal|optim|organ|parallel"
    r"|penal|quant|random|recogn|regular|serial|special|standard|summar|symbol|synchron|token|util|visual)"
    r"is(?:e|ed|es|ing|ations?|ers?)": "-ize",
    "towards": "toward",
    "whilst": "while",
}
_WORDS = PRIVATE_WORDS | BRITISH_SPELLING
_PATTERNS = {re.compile(rf"\b(?i:{pattern})s?\b"): better for pattern, better in _WORDS.items()}
_ANY = re.compile(rf"\b(?i:{'|'.join(_WORDS)})s?\b")


class Hit(NamedTuple):
    """A word that should be another."""

    line: int
    word: str
    better: str


def wrong_words(text: str, first_line: int = 1) -> list[Hit]:
    """Return every private word and British spelling in a text."""
    lines = [(n, line) for n, line in enumerate(text.splitlines(), first_line) if _ANY.search(line)]
    found = [
        (n, m.start(), m[0], right) for n, line in lines for p, right in _PATTERNS.items() for m in p.finditer(line)
    ]
    return [Hit(number, word, right) for number, _, word, right in sorted(found)]


def messages(source: str) -> Iterator[tuple[int, str]]:
    """Yield line and text of every string of a module that has several words and is no docstring."""
    tree = ast.parse(source)
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        text = node.value if isinstance(node, ast.Constant) and id(node) not in docstrings else None
        if isinstance(text, str) and " " in text.strip():
            yield node.lineno, text


def seen_text(template: Path) -> str:
    """Return a template without what only the machine reads: Jinja's code, tags, identifiers of scripts and styles."""
    text = template.read_text()
    return _script_strings(text) if template.suffix == ".js" else _blank(_MARKUP, text)


_MARKUP = r"\{#.*?#\}|\{%.*?%\}|\{\{.*?\}\}|<script.*?</script>|<style.*?</style>|<[^>]*>"
_COMMENT_OR_STRING = r"""//[^\n]*|/\*.*?\*/|"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*'|`(?:[^`\\]|\\.)*`"""


def _blank(pattern: str, text: str) -> str:
    """Replace matches by their line breaks, so that lines keep their numbers."""
    return re.sub(pattern, lambda match: " " + "\n" * match[0].count("\n"), text, flags=re.DOTALL)


def _script_strings(text: str) -> str:
    """Return the strings of a script, on their lines, without what templates compute."""
    kept, at = [], 0
    for match in re.finditer(_COMMENT_OR_STRING, text, re.DOTALL):
        string = match[0] if match[0][0] in "\"'`" else "\n" * match[0].count("\n")
        kept += ["\n" * text.count("\n", at, match.start()), " ", _blank(r"\$\{[^}]*\}", string)]
        at = match.end()
    return "".join(kept)
