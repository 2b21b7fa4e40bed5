"""Users read the field's words: in every command's help, in messages, the report, the docs."""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path

import pytest

from tests.words import messages, seen_text, wrong_words

ROOT = Path(__file__).parents[1]
IN_DOCS = (page for page in (ROOT / "docs").rglob("*.md") if "_build" not in page.parts)
PAGES = [*(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")), *IN_DOCS]
TEMPLATES = [path for path in (ROOT / "reports/templates").iterdir() if path.suffix in (".j2", ".js")]
MODULES = [
    path for package in ("search_space", "backbones", "nas", "reports") for path in (ROOT / package).rglob("*.py")
]


def dotted(module: Path) -> str:
    return ".".join(module.relative_to(ROOT).with_suffix("").parts).removesuffix(".__main__")


def is_command(module: Path) -> bool:
    """Whether people start a module: it is a package's program, or reads options when it is run as one."""
    text = module.read_text()
    return module.name == "__main__.py" or ('__name__ == "__main__"' in text and "parse" in text)


def help_of(command: str, capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The help of a command, and of each command below it."""
    sys.argv = [command, *words, "--help"]
    with pytest.raises(SystemExit, match="0"):
        runpy.run_module(command, run_name="__main__", alter_sys=True)
    text = capsys.readouterr().out
    below = re.search(r"^  \{([\w,-]+)\}", text, re.MULTILINE)
    return text + "".join(help_of(command, capsys, name) for name in (below[1].split(",") if below else ()))


@pytest.mark.filterwarnings("ignore::RuntimeWarning:runpy")  # the module is there already
@pytest.mark.parametrize("command", sorted(dotted(path) for path in MODULES if is_command(path)))
def test_help(command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", sys.argv)
    assert wrong_words(help_of(command, capsys)) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_docs(page: Path) -> None:
    assert wrong_words(page.read_text()) == []


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda path: path.name)
def test_templates(template: Path) -> None:
    assert wrong_words(seen_text(template)) == []


def test_messages() -> None:
    found = {
        str(path.relative_to(ROOT)): [
            hit for line, text in messages(path.read_text()) for hit in wrong_words(text, line)
        ]
        for path in MODULES
    }
    assert {path: hits for path, hits in found.items() if hits} == {}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("It goes on.\nTwo Nets beside it", ["goes on", "Nets", "beside"]),
        ("the study is normalised, its colours are grey", ["normalised", "colours", "grey"]),
        ("ImageNet and https://example.net, an internet network, otherwise precise", []),
        ("knowledge is fine, Knowledge is a class; an Arm is a runtime", ["Knowledge", "Arm"]),
        ("nas.finals and net_name", ["finals", "net_name"]),
    ],
)
def test_words_are_found_whole_and_in_either_case(text: str, words: list[str]) -> None:
    assert [hit.word for hit in wrong_words(text)] == words


def test_what_only_the_machine_reads_is_left_out_and_lines_keep_their_numbers(tmp_path: Path) -> None:
    page, script, code = (
        tmp_path / "a.j2",
        tmp_path / "a.js",
        '"""A net."""\n"net"\nraise E(f"a {net}\\nnet", "x net")\n',
    )
    page.write_text("<p class='net'>{{ net.finals }}\n{# beside #}{% if arm %}once more</p>\n<script>net</script>\n")
    script.write_text('const net = 1;\nshow(`a ${net} beside`, "arm");\n')
    assert wrong_words(seen_text(page)) == [(2, "once more", "again")]
    assert [(hit.line, hit.word) for hit in wrong_words(seen_text(script))] == [(2, "beside"), (2, "arm")]
    assert [text for _, text in messages(code)] == ["x net"]
