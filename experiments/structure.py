"""Print the figures of the code's structure: files, lines, names that recur, import cycles, long functions.

    python -m experiments.structure [ROOT]

ROOT is a checkout (default: the current folder). The figures come from the syntax tree; nothing is imported.
The first column counts `nas`, the second the four product packages together. An importer is a module of the four
packages. A cycle is a set of modules that import each other; it is counted once with the imports that run when a module
is loaded, and once with the imports inside functions and under TYPE_CHECKING too.
"""

from __future__ import annotations

import argparse
import ast
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

PACKAGES = ("search_space", "backbones", "nas", "reports")
CONVENTIONAL_NAMES = frozenset({"__init__", "__main__", "arguments", "command", "tables", "plots"})
SHORT_FILE_LINES = 60
LONG_FUNCTION_LINES = 60

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Import:
    """One imported name: its module as the statement spells it, and whether it runs when the importer is loaded."""

    module: str
    name: str  # "" for `import module`
    in_function: bool
    for_types: bool  # under `if TYPE_CHECKING`


@dataclass(frozen=True)
class Module:
    """A source file."""

    name: str  # dotted; a package's is its `__init__`'s
    path: Path
    text: str

    @cached_property
    def tree(self) -> ast.Module:
        """Return the syntax tree."""
        return ast.parse(self.text, str(self.path))

    @property
    def lines(self) -> int:
        """Return the number of lines."""
        return len(self.text.splitlines())

    @property
    def package(self) -> str:
        """Return the package that relative imports start from."""
        return self.name if self.path.name == "__init__.py" else self.name.rpartition(".")[0]

    @cached_property
    def imports(self) -> tuple[Import, ...]:
        """Return all imports, also those inside functions."""
        return tuple(_imports(self.tree, self.package))

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """Return the names of its classes, including those inside functions and classes."""
        return tuple(node.name for node in ast.walk(self.tree) if isinstance(node, ast.ClassDef))

    @cached_property
    def functions(self) -> tuple[Function, ...]:
        """Return all functions and methods."""
        return tuple(node for node in ast.walk(self.tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


@dataclass(frozen=True)
class Structure:
    """The modules to report on, among all modules that may import them."""

    modules: tuple[Module, ...]
    everything: tuple[Module, ...]

    @cached_property
    def edges(self) -> dict[str, set[str]]:
        """Return importer -> imported for the imports that run when the importer is loaded."""
        return _edges(self.everything, lambda i: not i.in_function and not i.for_types)

    @cached_property
    def all_edges(self) -> dict[str, set[str]]:
        """Return importer -> imported for all imports."""
        return _edges(self.everything, lambda i: True)

    @property
    def short_files(self) -> list[Module]:
        """Return the modules with at most SHORT_FILE_LINES lines."""
        return [m for m in self.modules if m.lines <= SHORT_FILE_LINES]

    @property
    def with_one_importer(self) -> list[str]:
        """Return the names of the modules that exactly one module imports."""
        importers = {m.name: sum(m.name in imported for imported in self.all_edges.values()) for m in self.modules}
        return [name for name, number in importers.items() if number == 1]

    @property
    def recurring_classes(self) -> dict[str, list[str]]:
        """Return class names that occur more than once, with their modules."""
        return _recurring((name, m.name) for m in self.modules for name in m.classes)

    @property
    def recurring_modules(self) -> dict[str, list[str]]:
        """Return unconventional module names that occur more than once, with their dotted names."""
        stems = ((m.path.stem, m.name) for m in self.modules)
        return _recurring((stem, name) for stem, name in stems if stem not in CONVENTIONAL_NAMES)

    @property
    def cycles(self) -> list[list[str]]:
        """Return the cycles of imports that run when a module is loaded."""
        return self._cycles(self.edges)

    @property
    def all_cycles(self) -> list[list[str]]:
        """Return the cycles, including those through imports inside functions and under TYPE_CHECKING."""
        return self._cycles(self.all_edges)

    @property
    def in_function_imports(self) -> int:
        """Return the number of names imported inside functions, including those of other libraries."""
        return sum(i.in_function for m in self.modules for i in m.imports)

    @property
    def long_functions(self) -> list[str]:
        """Return MODULE.FUNCTION (LINES) of every function over the limit, decorators and docstring included."""
        return [
            f"{m.name}.{f.name} ({lines})"
            for m in self.modules
            for f in m.functions
            if (lines := _length(f)) > LONG_FUNCTION_LINES
        ]

    def _cycles(self, edges: Mapping[str, Collection[str]]) -> list[list[str]]:
        names = {m.name for m in self.modules}
        return [cycle for cycle in strongly_connected(edges) if len(cycle) > 1 and not names.isdisjoint(cycle)]


def read(root: Path, packages: Collection[str] = PACKAGES) -> Structure:
    """Return the structure of some of a checkout's product packages, with the importers in all of them."""
    everything = tuple(
        Module(_dotted(path.relative_to(root)), path, path.read_text(encoding="utf-8"))
        for package in PACKAGES
        for path in sorted((root / package).rglob("*.py"))
    )
    return Structure(tuple(m for m in everything if m.name.partition(".")[0] in packages), everything)


def figures(structure: Structure) -> dict[str, str]:
    """Return the table's rows: label -> figure."""
    return {
        "files": f"{len(structure.modules)}",
        "lines": f"{sum(m.lines for m in structure.modules):,}",
        f"files of {SHORT_FILE_LINES} lines or fewer": f"{len(structure.short_files)}",
        "modules with exactly one importer": f"{len(structure.with_one_importer)}",
        "class names that recur": f"{len(structure.recurring_classes)}",
        "module names that recur": f"{len(structure.recurring_modules)}",
        "import cycles": _sizes(structure.cycles),
        "import cycles, in-function imports too": _sizes(structure.all_cycles),
        "in-function imports": f"{structure.in_function_imports}",
        f"functions over {LONG_FUNCTION_LINES} lines": f"{len(structure.long_functions)}",
    }


def strongly_connected(edges: Mapping[str, Collection[str]]) -> list[list[str]]:
    """Return the strongly connected components of a graph, each sorted (Tarjan 1972)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    components: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for successor in sorted(edges.get(node, ())):
            if successor not in index:
                visit(successor)
            if successor in stack:
                low[node] = min(low[node], low[successor])
        if low[node] == index[node]:
            at = stack.index(node)
            components.append(sorted(stack[at:]))
            del stack[at:]

    for node in sorted(edges):
        if node not in index:
            visit(node)
    return components


def _dotted(path: Path) -> str:
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imports(node: ast.AST, package: str, in_function: bool = False, for_types: bool = False) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (Import(alias.name, "", in_function, for_types) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            above = package.rsplit(".", child.level - 1)[0] if child.level else ""
            module = ".".join(filter(None, (above, child.module)))
            yield from (Import(module, alias.name, in_function, for_types) for alias in child.names)
        else:
            function = isinstance(child, Function | ast.Lambda)
            types = isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING")
            yield from _imports(child, package, in_function or function, for_types or types)


def _edges(modules: Iterable[Module], counts: Callable[[Import], bool]) -> dict[str, set[str]]:
    modules = tuple(modules)
    names = {m.name for m in modules}

    def target(i: Import) -> str | None:
        return next((name for name in (f"{i.module}.{i.name}", i.module) if name in names), None)

    return {m.name: {t for i in m.imports if counts(i) and (t := target(i))} - {m.name} for m in modules}


def _recurring(pairs: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    places: defaultdict[str, list[str]] = defaultdict(list)
    for name, place in pairs:
        places[name].append(place)
    return {name: modules for name, modules in sorted(places.items()) if len(modules) > 1}


def _length(function: Function) -> int:
    first = min([function.lineno, *(d.lineno for d in function.decorator_list)])
    return (function.end_lineno or first) - first + 1


def _sizes(cycles: Collection[Collection[str]]) -> str:
    pairs = sum(len(cycle) == 2 for cycle in cycles)
    larger = sorted(len(cycle) for cycle in cycles if len(cycle) > 2)
    return f"{pairs} pairs" + (f", {', '.join(f'1 of {n}' for n in larger)}" if larger else "")


def _print(root: Path) -> None:
    nas, product = read(root, ["nas"]), read(root)
    columns = figures(nas), figures(product)
    print(f"{'':<42}{'nas':>18}{'all':>18}")
    for row in columns[0]:
        print(f"{row:<42}{columns[0][row]:>18}{columns[1][row]:>18}")
    details = {
        "class names that recur in nas": [f"{n}: {', '.join(at)}" for n, at in nas.recurring_classes.items()],
        "module names that recur in nas": [f"{n}: {', '.join(at)}" for n, at in nas.recurring_modules.items()],
        "import cycles": [", ".join(cycle) for cycle in product.cycles],
        "import cycles, in-function imports too": [", ".join(cycle) for cycle in product.all_cycles],
        "long functions": product.long_functions,
    }
    for title, rows in details.items():
        print(f"\n{title}\n" + "\n".join(f"  {row}" for row in rows or ["none"]))


def main() -> None:
    """Print the table and the names behind it."""
    parser = argparse.ArgumentParser(description="Print figures of the code's structure.")
    parser.add_argument("root", nargs="?", type=Path, default=Path(), help="a checkout (default: the current folder)")
    _print(parser.parse_args().root)


if __name__ == "__main__":
    main()
