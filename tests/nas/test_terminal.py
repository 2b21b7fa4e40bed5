"""What a command writes: nothing that controls a terminal, to whatever is left of its standard streams."""

from __future__ import annotations

import ast
import io
import logging
import os
import subprocess
import sys
import unicodedata
from dataclasses import replace
from pathlib import Path

import pytest
from rich.table import Table

from nas.cli import exit_code
from nas.command_log import announce, log_to
from nas.select.__main__ import main as select
from nas.study.records import StudyRecord, TrialRecord
from nas.terminal import REPLACEMENT, SafeConsole, visible
from reports.__main__ import main as report
from reports.compare.__main__ import main as compare
from tests.nas.analysis.builders import new_store, small_study
from tests.waiting import PATIENCE_S

ROOT = Path(__file__).parents[2]
WRITERS = ("print", "Console", "rich.print", "sys.stdout.write", "sys.stderr.write")
# A window title, an erased screen, a second line of output, text set from right to left, half a character.
ATTACK = "a\x1b]0;owned\x07\x1b[2J\x9b31m\r\x7f\u202e[/bold][red]"


def controls(text: str) -> list[str]:
    return [c for c in text if (unicodedata.category(c) in ("Cc", "Cs") and c != "\n") or c == "\u202e"]


def test_a_text_keeps_its_lines_and_loses_its_control_characters() -> None:
    assert visible("a\tb\nα±—🙂") == "a\tb\nα±—🙂"
    assert visible("E\u2011RADIO") == "E-RADIO"
    assert visible("\x1b[2Jx\r\x07\x9b\udcff") == f"{REPLACEMENT}[2Jx{4 * REPLACEMENT}"
    assert controls(visible(ATTACK)) == []


def test_a_console_shows_texts_as_they_are_in_tables_too() -> None:
    shown = io.StringIO()
    table = Table(title=ATTACK, caption=ATTACK)
    table.add_column(ATTACK)
    table.add_row(ATTACK)
    console = SafeConsole(file=shown, width=120)
    console.print(table, ATTACK)
    assert controls(shown.getvalue()) == []
    assert shown.getvalue().count("[/bold]") == 5
    lines = [line for line in shown.getvalue().splitlines() if line.startswith(("┃", "│"))]
    assert len({len(line) for line in lines}) == 1


def test_a_terminal_gets_rich_s_own_sequences_only() -> None:
    shown = io.StringIO()
    SafeConsole(file=shown, force_terminal=True, color_system="standard").print("\x1b[32mred", style="red")
    assert shown.getvalue() == f"\x1b[31m{REPLACEMENT}[32mred\x1b[0m\n"


def hostile_study() -> StudyRecord:
    study = small_study()

    def spoiled(trial: TrialRecord) -> TrialRecord:
        measured = replace(trial.measurement, device=ATTACK, arm=ATTACK) if trial.measurement else None
        return replace(trial, reason=ATTACK, measurement=measured)

    info = replace(study.info, name=ATTACK, reference=ATTACK, command=ATTACK)
    return StudyRecord(info, tuple(map(spoiled, study.trials)))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    new_store(tmp_path / "run\x1b[2J", hostile_study())
    return tmp_path / "run\x1b[2J"


def test_an_answer_and_a_refusal_show_no_control_of_a_study_s_text(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert select([str(run)]) == 0
    assert select([str(run), "--max-latency-ms", "1e-9"]) == 1
    with pytest.raises(SystemExit):
        select([str(run), "--no\x1b[2J"])
    shown = capsys.readouterr()
    assert REPLACEMENT in shown.out
    assert REPLACEMENT in shown.err
    assert controls(shown.out + shown.err) == []


@pytest.mark.slow
def test_pages_of_such_a_study_are_written_and_their_paths_are_shown(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page, both = tmp_path / "page\x1b[2J.html", tmp_path / "both\r.html"
    new_store(tmp_path / "other\x1b[2J", hostile_study())
    assert report([str(run), "--out", str(page)]) == 0
    assert compare([str(run), str(tmp_path / "other\x1b[2J"), "--out", str(both)]) == 0
    assert controls(capsys.readouterr().out) == []
    assert set(controls(page.read_text() + both.read_text())) <= {"\t"}, "a tab is in the charts' library"


def test_neither_a_message_nor_a_line_of_the_log_controls_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def work() -> int:
        log_to(tmp_path, "search", ATTACK)
        announce(ATTACK, logging.getLogger("nas.somewhere"))
        raise ValueError(ATTACK)

    assert exit_code(work) == 2
    assert capsys.readouterr().err.count("owned") == 2
    assert controls((tmp_path / "logs" / "search.log").read_text()) == []


def test_all_output_passes_one_module() -> None:
    """A `print` or a console of rich's own would show a study's text as it is."""
    files = [path for package in ("nas", "reports") for path in (ROOT / package).rglob("*.py")]
    calls = {
        f"{path.relative_to(ROOT)}: {ast.unparse(node.func)}"
        for path in files
        if path != ROOT / "nas" / "terminal.py" and any(f"{name}(" in path.read_text() for name in WRITERS)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in WRITERS
    }
    assert len(files) > 100
    assert calls == set()


# What is left of the standard streams


def in_a_shell(code: str, redirection: str) -> subprocess.CompletedProcess[str]:
    """Run Python code in a process of its own, as a shell starts it."""
    line = f'set -o pipefail; "$PYTHON" -c "$CODE" {redirection}'
    variables = {**os.environ, "PYTHON": sys.executable, "CODE": code, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        ["bash", "-c", line], env=variables, capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )


COMMAND = """
import sys
from nas.cli import exit_code
from nas.terminal import stdout_console
from nas.terminal import write_line

def work():
    for _ in range(9):
        write_line(99_999 * "x")
        stdout_console().print(99_999 * "y")
    return 7

sys.exit(exit_code(work))
"""


@pytest.mark.parametrize("redirection", ["| head -c 1 > /dev/null", "| true", ">&-", "2>&1 | head -1 > /dev/null"])
def test_a_command_whose_reader_leaves_ends_with_its_own_answer(redirection: str) -> None:
    done = in_a_shell(COMMAND, redirection)
    assert (done.returncode, done.stderr) == (7, "")


@pytest.mark.parametrize(("words", "code"), [("--help", 0), ("--version", 0), ("nothing", 2)])
def test_the_program_s_own_lines_may_lose_their_reader_too(words: str, code: int) -> None:
    done = in_a_shell(f"import sys; from nas.__main__ import main; sys.exit(main(['{words}']))", "2>&1 | true")
    assert (done.returncode, done.stderr) == (code, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_result_that_the_disk_does_not_take_is_an_error() -> None:
    done = in_a_shell(COMMAND, "> /dev/full")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: the output cannot be written: ")


def test_a_file_does_not_get_the_number_of_a_closed_stream(tmp_path: Path) -> None:
    file = tmp_path / "study"
    code = (
        "import os, sys; from nas.cli import exit_code\n"
        f"def work():\n    file = open({str(file)!r}, 'w')\n    os.write(1, b'from a library')\n"
        "    os.write(2, b'from a library')\n    print('a line', file=sys.stderr)\n    return file.fileno()\n"
        "sys.exit(exit_code(work))"
    )
    assert in_a_shell(code, "<&- >&- 2>&-").returncode > 2
    assert file.read_text() == ""


def test_children_have_the_streams_that_the_command_was_started_without() -> None:
    child = "import os, sys; sys.exit(len([os.fstat(number) for number in range(3)]))"
    code = (
        "import subprocess, sys; from nas.cli import exit_code\n"
        f"sys.exit(exit_code(lambda: subprocess.run([sys.executable, '-c', {child!r}]).returncode))"
    )
    assert in_a_shell(code, "<&- >&- 2>&-").returncode == 3
