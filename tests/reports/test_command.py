import shutil
from pathlib import Path

import optuna
import pytest

from nas.records import Study, TrialState
from nas.store import Store, read_study
from reports.__main__ import main
from reports.page import build_report
from reports.summary import summarize
from search_space import SPACES, ArchSpec
from tests.reports import synthetic


@pytest.fixture(scope="module")
def stored(tmp_path_factory) -> Path:
    """The folder of a small finished study, stored as `nas.search` stores it."""
    folder: Path = tmp_path_factory.mktemp("stored") / "run"
    store_study(synthetic.study(6, baselines=False, only=TrialState.COMPLETE), folder)
    return folder


def store_study(study: Study, folder: Path) -> Store:
    """A study of the space "micro" in `folder`."""
    space = SPACES["micro"]
    store = Store.create(folder, study.info, optuna.samplers.RandomSampler(seed=0))
    for record in study.trials:
        store.ask(space.choices(), fixed=space.encode(ArchSpec.from_dict(record.spec)))
        store.save(record, (record.quality or 0.0, record.measurement.ratio if record.measurement else 0.0))
    return store


@pytest.fixture
def run(stored, tmp_path) -> Path:
    return shutil.copytree(stored, tmp_path / "run")


def test_writes_the_report_and_the_figures(run, tmp_path, capsys):
    assert main([str(run), "--figures", str(tmp_path / "figures")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == str(run / "report.html")
    assert lines[-1].startswith("6 evaluated, front of ")
    assert (tmp_path / "figures" / "front.pdf").is_file()
    assert "trial 3" in (run / "report.html").read_text()


def test_out_chooses_the_file_and_leaves_no_scraps(run, tmp_path, capsys):
    out = tmp_path / "page.html"
    assert main([str(run), "--out", str(out)]) == 0
    assert out.is_file()
    assert not (run / "report.html").exists()
    assert build_report(run) == run / "report.html"
    assert not list(tmp_path.rglob("*.tmp"))


@pytest.mark.parametrize("make", ["missing", "empty", "garbage"])
def test_unreadable_studies_are_one_line_and_exit_code_2(make, tmp_path, capsys):
    folder = tmp_path / "run"
    if make != "missing":
        folder.mkdir()
    if make == "garbage":
        (folder / "study.db").write_bytes(b"not a database" * 100)
    assert main([str(folder)]) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("error: ")
    assert printed.err.count("\n") == 1
    assert printed.out == ""


def test_a_place_that_cannot_be_written_is_one_line(run, tmp_path, capsys):
    assert main([str(run), "--out", str(tmp_path / "nowhere" / "page.html")]) == 2
    assert "cannot open" in capsys.readouterr().err


def test_a_stored_study_reads_back_as_it_was(run):
    summary = summarize(read_study(run))
    assert summary.evaluated == 6
