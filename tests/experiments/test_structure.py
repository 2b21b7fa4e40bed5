"""The script that counts the code's structure, on a small tree whose figures are known."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments.structure import Structure, figures, read, strongly_connected

FILES = {
    "search_space/__init__.py": "",
    "nas/__init__.py": "",
    "nas/a.py": "from nas import b\n\nclass Plan:\n    pass\n",
    "nas/b.py": "import nas.a\nfrom nas.sub.table import one\n",
    "nas/sub/__init__.py": "",
    "nas/sub/__main__.py": "from ..c import two\nfrom .table import one\n",
    "nas/sub/table.py": "class Plan:\n    pass\n\ndef one():\n    import json\n    from ..c import two\n",
    "nas/c.py": "from nas.sub import table\n\ntwo = 2\n" + "# comment\n" * 60,
    "reports/__init__.py": "",
    "reports/table.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import nas.c\n",
    "backbones/__main__.py": "@property\ndef long():\n" + "    pass\n" * 59,
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


@pytest.fixture
def nas(root: Path) -> Structure:
    return read(root, ["nas"])


def test_files_and_lines_are_those_of_the_packages_asked_for(nas: Structure) -> None:
    assert figures(nas)["files"] == "7"
    assert figures(nas)["lines"] == f"{4 + 2 + 2 + 6 + 63}"
    assert [m.name for m in nas.modules if m not in nas.short_files] == ["nas.c"]


def test_importers_are_counted_in_all_packages_and_resolve_names_and_relative_imports(nas: Structure) -> None:
    assert nas.all_edges["nas.sub.__main__"] == {"nas.c", "nas.sub.table"}
    assert nas.all_edges["reports.table"] == {"nas.c"}
    assert nas.with_one_importer == ["nas.a", "nas.b"]


def test_names_recur_within_the_packages_asked_for(nas: Structure, root: Path) -> None:
    assert nas.recurring_classes == {"Plan": ["nas.a", "nas.sub.table"]}
    assert nas.recurring_modules == {}
    assert read(root).recurring_modules == {"table": ["nas.sub.table", "reports.table"]}


def test_a_cycle_through_a_function_is_told_apart(nas: Structure) -> None:
    assert nas.cycles == [["nas.a", "nas.b"]]
    assert sorted(nas.all_cycles) == [["nas.a", "nas.b"], ["nas.c", "nas.sub.table"]]
    assert nas.in_function_imports == 2


def test_a_functions_lines_are_counted_with_its_decorators(root: Path) -> None:
    assert read(root).long_functions == ["backbones.__main__.long (61)"]


def test_a_larger_cycle_is_one_component() -> None:
    edges = {"a": ["b"], "b": ["c"], "c": ["a", "d"], "d": ["e"], "e": ["d"], "f": ["a"]}
    assert sorted(strongly_connected(edges)) == [["a", "b", "c"], ["d", "e"], ["f"]]
