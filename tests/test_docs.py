"""The docs are true: commands of the tutorial and all code run; links and the file tree lead to files."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.waiting import PATIENCE_S

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: Path, language: str) -> list[str]:
    """Return the fenced blocks of a language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


def run(command: list[str], folder: Path) -> None:
    """Run a command in `folder` as a user would, with a cache of its own."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "BACKBONE_NAS_CACHE": str(folder / "cache")}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 0, (command, done.stderr[-2000:])


@pytest.mark.slow
def test_every_command_of_the_tutorial_works(tmp_path: Path) -> None:
    tutorial = ROOT / "docs" / "tutorial.md"
    for block in blocks(tutorial, "bash"):
        for line in block.replace("\\\n", " ").splitlines():
            python, *arguments = line.split()
            assert python == "python"
            run([sys.executable, *arguments], tmp_path)
    for code in blocks(tutorial, "python"):
        run([sys.executable, "-c", code], tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"cache", "runs", "winner"}
    assert (tmp_path / "runs/first/report.html").stat().st_size > 100_000


@pytest.mark.parametrize(
    "page", [pytest.param("README.md", marks=pytest.mark.slow), "docs/extending.md"], ids=lambda page: page
)
def test_code_runs(page: str, tmp_path: Path) -> None:
    run([sys.executable, "-c", "\n".join(blocks(ROOT / page, "python"))], tmp_path)


def paths_of_tree(tree: str) -> list[str]:
    """Return the paths in a file tree whose entries are indented by two spaces a level."""
    paths, folders = [], [""]
    for indent, name in re.findall(r"^( *)(\S+)", tree, re.MULTILINE):
        del folders[len(indent) // 2 + 1 :]
        paths.append(folders[-1] + name)
        folders.append(folders[-1] + name)
    return paths


def test_file_tree_has_every_package_and_no_file_that_is_gone() -> None:
    section = (ROOT / "README.md").read_text().partition("## File tree")[2]
    paths = paths_of_tree(section.split("```\n")[1])
    assert [path for path in paths if not (ROOT / path).exists()] == []
    packages = {f"{path.parent.relative_to(ROOT)}/" for path in (ROOT / "nas").rglob("__init__.py")}
    assert packages - set(paths) == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_of_a_page_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if re.match(r"https?://", target):
            continue
        name, _, anchor = target.partition("#")
        path = (page.parent / name) if name else page
        assert path.exists(), target
        if anchor:
            titles = re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}, target
