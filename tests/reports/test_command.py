"""The command `backbone-nas report` on a stored study."""

import re
import shutil
from pathlib import Path

import pytest

from nas.storage.store import read_study
from nas.study.objectives import objectives
from nas.study.records import TrialState
from reports.__main__ import main
from reports.summary import summarize
from tests.reports import synthetic


@pytest.fixture
def run(stored, tmp_path) -> Path:
    return shutil.copytree(stored, tmp_path / "run")


def test_writes_the_report_and_the_figures_and_prints_their_paths(run, tmp_path, capsys):
    """The front of another machine is drawn behind, with a caution."""
    study = synthetic.study(6, baselines=False, only=TrialState.COMPLETE)
    synthetic.store_study(synthetic.timed(study, lambda t: {"device": "another CPU"}), tmp_path / "other")
    behind = ["--behind", str(tmp_path / "other")]
    assert main([str(run), *behind]) == 2
    assert "--behind" in capsys.readouterr().err, "it needs figures"
    assert main([str(run), *behind, "--figures", str(tmp_path / "figures")]) == 0
    shown = capsys.readouterr().out
    assert "--behind: Throughput was measured differently" in shown
    lines = shown.splitlines()
    assert lines[0] == str(run / "report.html")
    assert str(tmp_path / "figures" / "front.pdf") in lines
    assert (tmp_path / "figures" / "front.pdf").is_file()
    assert "trial 3" in (run / "report.html").read_text()
    summary = summarize(read_study(run))
    assert re.findall(r"\d[\d.]*", lines[-1]) == ["6", str(len(summary.front)), f"{summary.hypervolume:.4f}"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"reference": "timm:resnet18"}, "Throughput is relative to different reference models"),
        ({"objectives": objectives(("score", "params"), "both")}, "a comparison needs score and throughput"),
    ],
)
def test_a_front_that_cannot_be_compared_is_not_drawn_behind(changes, words, run, tmp_path, capsys):
    other, figures = tmp_path / "other", tmp_path / "figures"
    study = synthetic.study(6, baselines=False, only=TrialState.COMPLETE)
    synthetic.store_study(synthetic.with_info(study, **changes), other)
    before = {path.name for path in run.iterdir()}
    assert main([str(run), "--behind", str(other), "--figures", str(figures)]) == 2
    assert words in capsys.readouterr().err
    assert not figures.exists()
    assert {path.name for path in run.iterdir()} - before <= {"logs"}


def test_out_chooses_the_file_and_no_temporary_file_stays(run, tmp_path):
    out = tmp_path / "page.html"
    assert main([str(run), "--out", str(out)]) == 0
    assert [path.name for path in tmp_path.rglob("*.html*")] == ["page.html"]
    assert {path.name for path in tmp_path.iterdir()} == {"run", "page.html"}


@pytest.mark.parametrize("make", ["empty", "garbage"])
def test_unreadable_studies_are_one_line_and_exit_code_2(make, tmp_path, capsys):
    folder = tmp_path / "run"
    folder.mkdir()
    if make == "garbage":
        (folder / "study.db").write_bytes(b"not a database" * 100)
    assert main([str(folder)]) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("error: ")
    assert printed.err.count("\n") == 1
    assert printed.out == ""


@pytest.mark.parametrize(
    ("flag", "name", "words"),
    [
        ("--csv", "RUN/study.db", "must end in .csv"),
        ("--csv", "RUN/history.csv", "is the history of this training"),
        ("--figures", "RUN/study.db", "is a file; name a folder"),
        ("--out", "RUN", "must end in"),
        ("--csv", "RUN/no/trials.csv", "no such folder"),
    ],
)
def test_no_output_replaces_a_file_of_the_study(flag, name, words, run, capsys):
    before = (run / "study.db").read_bytes()
    try:
        code = main([str(run), flag, name.replace("RUN", str(run))])
    except SystemExit as stopped:
        code = stopped.code
    (line,) = capsys.readouterr().err.splitlines()
    assert code == 2
    assert line.startswith(f"error: {flag}: ")
    assert words in line
    assert (run / "study.db").read_bytes() == before
    assert not (run / "report.html").exists(), "bad outputs are refused before the report is written"
