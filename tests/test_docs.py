"""The docs are true: commands are parsed by the real parsers, code runs, links lead somewhere, the site builds.

A fenced block of bash or Python is run unless a comment in the line before it says what it needs beyond a checkout:
``<!-- needs: gpu, hub -->``. Pages are run in the folder that the first tutorial leaves. Command lines of
marked blocks are parsed too.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import NamedTuple

import pytest

from nas.__main__ import COMMANDS
from tests.waiting import PATIENCE_S

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
IN_DOCS = sorted(page for page in DOCS.rglob("*.md") if "_build" not in page.parts)
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *IN_DOCS]
TUTORIAL = DOCS / "tutorials" / "first_search.md"
PARSERS = {command.name: command.parser for command in COMMANDS}
NEEDS = {"gpu", "hub", "cluster", "database", "data", "network", "time"}
LANGUAGES = {"bash", "python", "console", "text", "bibtex", "toml"}


def name_of(page: Path) -> str:
    """Return a page's path in the repository."""
    return str(page.relative_to(ROOT))


class Block(NamedTuple):
    """A fenced block: its language, what it needs, and its text without the list's indentation."""

    language: str
    needs: frozenset[str]
    text: str


def blocks(page: Path) -> list[Block]:
    """Return the fenced blocks of a page, in order."""
    pattern = r"(?:^ *<!-- needs: (?P<needs>[\w, ]+) -->\n)?^(?P<indent> *)```(?P<language>\w*)\n(?P<text>.*?)^ *```$"
    found = re.finditer(pattern, page.read_text(), re.DOTALL | re.MULTILINE)
    return [
        Block(
            m["language"], frozenset((m["needs"] or "").replace(" ", "").split(",")) - {""}, textwrap.dedent(m["text"])
        )
        for m in found
    ]


def commands(page: Path, language: str = "bash") -> Iterator[list[str]]:
    """Yield the words of every line of our commands in a page's shell blocks and inline code."""
    text = page.read_text()
    lines = [line for b in blocks(page) if b.language == language for line in b.text.replace("\\\n", " ").splitlines()]
    lines += re.findall(r"`(backbone-nas \w+ [^`]*--[^`]*)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    for line in lines:
        words = shlex.split(line, comments=True)
        if (
            words
            and (start := next((i for i, word in enumerate(words[:3]) if word == "backbone-nas"), None)) is not None
        ):
            yield [word for word in words[start + 1 :] if word != "&"]


def refusal(words: list[str]) -> str:
    """Return why a command's own parser refuses its words, as if all folders existed; empty if it takes them."""
    with pytest.MonkeyPatch.context() as patch, redirect_stderr(StringIO()) as error, redirect_stdout(StringIO()):
        patch.setattr(Path, "is_dir", lambda path: True)
        try:
            PARSERS[words[0]]().parse_args(words[1:])
        except SystemExit as end:
            return error.getvalue() if end.code else ""
    return ""


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_command_of_a_page_is_parsed_by_its_parser(page: Path) -> None:
    found = list(commands(page))
    assert [words for words in found if words[0] not in PARSERS] == []
    refused = {shlex.join(words): refusal(words) for words in found if "..." not in words}
    assert {words: why for words, why in refused.items() if why} == {}


def test_a_command_with_a_flag_that_does_not_exist_is_found() -> None:
    assert not refusal(["search", "--budget", "4"])
    assert "--image-px" in refusal(["search", "--image-px", "64"])


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_blocks_say_what_they_are_and_need(page: Path) -> None:
    for block in blocks(page):
        if "file tree" in page.read_text().lower() and not block.language:
            continue
        assert block.language in LANGUAGES, block
        assert block.needs <= NEEDS, block


def run(words: list[str], folder: Path) -> None:
    """Run a command in `folder` as a user would, with a cache of its own."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "BACKBONE_NAS_CACHE": str(folder.parent / "cache")}
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 0, (words, done.stderr[-2000:])


def runnable(page: Path, language: str) -> list[str]:
    """Return the unmarked blocks of a page in a language."""
    return [block.text for block in blocks(page) if block.language == language and not block.needs]


def run_page(page: Path, folder: Path) -> None:
    """Run the unmarked bash blocks of a page, line by line, then its Python blocks as one program."""
    if not (folder / "experiments").exists():
        (folder / "experiments").symlink_to(ROOT / "experiments")  # what the results are recomputed from
    for block in runnable(page, "bash"):
        for line in block.replace("\\\n", " ").splitlines():
            program, *words = shlex.split(line, comments=True)
            assert program in ("backbone-nas", "python"), line
            run([sys.executable, *(["-m", "nas"] if program == "backbone-nas" else []), *words], folder)
    if code := runnable(page, "python"):
        run([sys.executable, "-c", "\n".join(code)], folder)


@pytest.fixture(scope="module")
def after_tutorial(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which somebody has done the first tutorial."""
    folder = tmp_path_factory.mktemp("docs") / "here"
    folder.mkdir()
    run_page(TUTORIAL, folder)
    assert {"runs", "winner"} <= {path.name for path in folder.iterdir()}
    assert (folder / "runs/first/report.html").stat().st_size > 100_000
    return folder


WITH_CODE = [page for page in PAGES if runnable(page, "bash") or runnable(page, "python")]
WITHOUT_A_STUDY = [DOCS / name for name in ("how-to/extending.md", "how-to/backbones_library.md")]


@pytest.mark.slow
@pytest.mark.parametrize("page", WITHOUT_A_STUDY, ids=name_of)
def test_blocks_of_a_page_without_a_study_run(page: Path, tmp_path: Path) -> None:
    run_page(page, tmp_path)


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.machine
@pytest.mark.parametrize("page", [p for p in WITH_CODE if p not in WITHOUT_A_STUDY and p != TUTORIAL], ids=name_of)
def test_blocks_of_a_page_run(page: Path, after_tutorial: Path) -> None:
    run_page(page, after_tutorial)


LISTED_LINES = 150  # a longer module is in the tree
PARTS_OF_A_COMMAND = {"__init__", "__main__", "arguments", "command", "tables", "plots"}  # in many packages


def paths_of_tree(tree: str) -> list[str]:
    """Return the paths in a file tree whose entries are indented by two spaces a level."""
    paths, folders = [], [""]
    for indent, name in re.findall(r"^( *)(\S+)", tree, re.MULTILINE):
        del folders[len(indent) // 2 + 1 :]
        paths.append(folders[-1] + name)
        folders.append(folders[-1] + name)
    return paths


def test_file_tree_has_every_package_and_no_file_that_is_gone() -> None:
    section = (DOCS / "explanation/architecture.md").read_text().partition("## File tree")[2]
    paths = paths_of_tree(section.split("```\n")[1])
    assert [path for path in paths if not (ROOT / path).exists()] == []
    packages = {f"{path.parent.relative_to(ROOT)}/" for path in (ROOT / "nas").rglob("__init__.py")}
    assert packages - set(paths) == set()
    sources = [
        path for folder in ("search_space", "backbones", "nas", "reports") for path in ROOT.glob(f"{folder}/**/*.py")
    ]
    long = [path for path in sources if len(path.read_text().splitlines()) >= LISTED_LINES]
    own = [path for path in long if path.stem not in PARTS_OF_A_COMMAND and path.parent.name != "layers"]
    assert [path.name for path in own if not re.search(rf"(?<!\w){path.name}", section)] == []


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_of_a_page_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if re.match(r"https?://", target):
            continue
        name, _, anchor = target.partition("#")
        path = (page.parent / name) if name else page
        assert path.exists(), target
        assert not anchor or anchor in anchors(path), target


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_no_word_is_lost_as_an_html_tag(page: Path) -> None:
    text = re.sub(r"^ *```.*?^ *```$|`[^`\n]*`", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    assert re.findall(r"(?<!\\)<(?!/?small>)/?[a-zA-Z][^>\n]*>", text) == []


def test_every_page_is_in_the_index() -> None:
    listed = set(re.findall(r"\]\(([\w/-]+\.md)\)", (DOCS / "index.md").read_text()))
    assert {str(page.relative_to(DOCS)) for page in IN_DOCS} - {"index.md"} == listed
