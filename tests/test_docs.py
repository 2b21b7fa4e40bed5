"""What the docs show works: every command of the tutorial, every line of code, every link."""

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
    """The fenced blocks of a language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


def run(command: list[str], folder: Path) -> None:
    """As a person who stands in `folder` would, with a cache of its own."""
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


def test_code_that_shows_how_to_extend_runs(tmp_path: Path) -> None:
    run([sys.executable, "-c", "\n".join(blocks(ROOT / "docs" / "extending.md", "python"))], tmp_path)


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
