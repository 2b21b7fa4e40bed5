"""The code's names and imports lead to one place each."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import grimp
import numpy as np
from scipy.sparse.csgraph import connected_components

ROOT = Path(__file__).parents[1]
PACKAGES = ("search_space", "backbones", "nas", "reports")
CONVENTIONAL_NAMES = {"__init__", "__main__", "arguments", "command", "options", "tables", "plots"}
LONG_FUNCTION_LINES = 60


def nodes(*packages: str) -> Iterator[tuple[str, Any]]:
    """Yield the nodes of the packages' syntax trees, each with the name of its file."""
    for path in (path for package in packages for path in (ROOT / package).rglob("*.py")):
        yield from ((path.name, node) for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))))


def recurring(names: Iterable[str]) -> list[str]:
    return [name for name, times in Counter(names).items() if times > 1]


def test_no_class_name_occurs_twice() -> None:
    assert recurring(node.name for _, node in nodes("nas") if isinstance(node, ast.ClassDef)) == []


def test_no_module_name_occurs_twice_outside_the_conventional_ones() -> None:
    stems = (path.stem for package in ("nas", "reports") for path in (ROOT / package).rglob("*.py"))
    assert recurring(stem for stem in stems if stem not in CONVENTIONAL_NAMES) == []


def test_no_modules_import_each_other() -> None:
    """Imports inside functions and under TYPE_CHECKING count too."""
    graph = grimp.build_graph(*PACKAGES, cache_dir=None)
    imports = {module: graph.find_modules_directly_imported_by(module) for module in sorted(graph.modules)}
    matrix = np.array([[other in imported for other in imports] for imported in imports.values()])
    _, components = connected_components(matrix, connection="strong")
    in_cycles = recurring(components)
    assert [module for module, component in zip(imports, components, strict=True) if component in in_cycles] == []


def test_no_function_is_over_the_limit() -> None:
    """With its decorators and its docstring."""
    functions = [each for each in nodes(*PACKAGES) if isinstance(each[1], ast.FunctionDef | ast.AsyncFunctionDef)]
    ends = [(file, f.name, f.end_lineno, min(part.lineno for part in (f, *f.decorator_list))) for file, f in functions]
    assert [(file, name) for file, name, last, first in ends if last - first + 1 > LONG_FUNCTION_LINES] == []
