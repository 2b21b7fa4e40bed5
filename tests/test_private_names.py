"""Private names of Optuna and Ray: each stands in the list in the docstring of `nas`, and none that is not used."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import nas

LIBRARIES = {"optuna", "ray"}
DOCUMENTED = {"_asdict", "_replace", "_exit"}  # of named tuples and of os: public in spite of their names


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name not in DOCUMENTED


def imported(tree: ast.AST) -> Iterator[str]:
    """Dotted names of what a module imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def private_names(source: str) -> set[str]:
    """Return the private names that a module which imports Optuna or Ray takes from elsewhere."""
    tree = ast.parse(source)
    foreign = [name for name in imported(tree) if name.partition(".")[0] in LIBRARIES]
    if not foreign:
        return set()
    names = {part for name in foreign for part in name.split(".")}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and not (
            isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
        ):
            names.add(node.attr)
        elif isinstance(node, ast.keyword) and node.arg:
            names.add(node.arg)
    return {name for name in names if is_private(name)}


def test_the_list_is_whole_and_has_no_name_too_many() -> None:
    used = set[str]()
    for path in Path(*nas.__path__).rglob("*.py"):
        used |= private_names(path.read_text())
    listed = {name for name in re.findall(r"\b_\w+", nas.__doc__ or "") if is_private(name)}
    assert used == listed


def test_names_of_ones_own_are_not_counted() -> None:
    source = "from ray._private import services\nclass A:\n    def f(self):\n        self._own._theirs(_x=1)\n"
    assert private_names(source) == {"_private", "_theirs", "_x"}
    assert private_names("import torch\ntorch._dynamo") == set()
