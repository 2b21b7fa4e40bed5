"""Our own modules copied beside each other, so that who reads a folder needs to install none of this project.

transformers takes the code of a folder from flat files that import each other relatively: `backbones.layers.conv`
becomes backbones_layers_conv.py. What is copied is the source as it is, but for the imports between our modules.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterable
from importlib import import_module

PACKAGES = ("search_space", "backbones", "nas")
_HEADER = "# Copied from {module} of backbone-nas (Apache-2.0); imports made relative.\n"


def copied(module: str, name: str) -> dict[str, str]:
    """File name -> source: `module` as `name`.py, and everything of ours that it needs."""
    files: dict[str, str] = {}
    waiting, seen = [module], {module}
    while waiting:
        current = waiting.pop()
        source, needed = relative(inspect.getsource(import_module(current)))
        files[f"{name if current == module else flat(current)}.py"] = _HEADER.format(module=current) + source
        waiting += sorted(needed - seen)
        seen |= needed
    return files


def relative(source: str) -> tuple[str, set[str]]:
    """A module's source with its imports of ours made relative and flat; the modules that it imports."""
    lines = source.splitlines(keepends=True)
    needed: set[str] = set()
    for node in sorted(_ours(ast.parse(source)), key=lambda n: -n.lineno):
        homes: dict[str, list[ast.alias]] = {}
        for alias in node.names:
            homes.setdefault(_home(str(node.module), alias.name), []).append(alias)
        needed |= set(homes)
        made = [ast.unparse(ast.ImportFrom(flat(home), names, 1)) for home, names in sorted(homes.items())]
        indent = " " * node.col_offset
        lines[node.lineno - 1 : node.end_lineno] = [f"{indent}{line}\n" for line in made]
    return "".join(lines), needed


def flat(module: str) -> str:
    """The name that a module's copy has, without .py."""
    return module.replace(".", "_")


def _ours(tree: ast.Module) -> Iterable[ast.ImportFrom]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in PACKAGES:
            yield node


def _home(module: str, name: str) -> str:
    """The module that defines a name which a package hands on."""
    found = import_module(module)
    return str(getattr(found, name).__module__) if hasattr(found, "__path__") else module
