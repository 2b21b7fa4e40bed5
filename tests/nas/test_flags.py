"""``runs/latest``, the default study."""

from __future__ import annotations

from pathlib import Path

import pytest

from nas.__main__ import main
from nas.flags import LATEST, link_latest, linked_as_latest, run_folder
from nas.storage.location import holds_study


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_latest_is_the_last_study_wherever_its_folder_is(here: Path) -> None:
    for path in ("runs/first", "runs/second", "elsewhere/third"):
        Path(path).mkdir(parents=True)
        link_latest(Path(path))
        assert run_folder(LATEST) == Path(path)
    assert [entry.name for entry in Path("runs").iterdir() if entry.is_symlink()] == ["latest"]


def test_a_study_outside_the_current_folder_has_its_whole_path(
    here: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    outside = tmp_path_factory.mktemp("outside")
    link_latest(outside)
    assert run_folder(LATEST) == outside.resolve()


def test_a_search_is_the_latest_from_its_start_and_the_earlier_study_again_if_it_leaves_none(here: Path) -> None:
    first, second, third = (Path(f"runs/{name}") for name in ("first", "second", "third"))
    for path in (first, second, third):
        path.mkdir(parents=True)

    def interrupt(run: Path) -> None:
        with linked_as_latest(run, holds_study):
            assert run_folder(LATEST) == run
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupt(first)
    assert not Path(LATEST).is_symlink(), "there was no earlier study"
    with linked_as_latest(second, holds_study):
        (second / "study.db").touch()
    with pytest.raises(KeyboardInterrupt):
        interrupt(third)
    assert run_folder(LATEST) == second


def test_a_search_that_prepares_its_images_has_no_finished_trial(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = here / "runs/mine/logs/search.log"
    log.parent.mkdir(parents=True)
    log.touch()
    link_latest(Path("runs/mine"))
    assert main(["export", "--format", "timm"]) == 2
    assert capsys.readouterr().err.startswith("error: the search in runs/mine has no finished trial yet; ")


def test_a_folder_named_latest_is_not_replaced(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / LATEST).mkdir(parents=True)
    link_latest(here / "runs/mine")
    assert not (here / LATEST).is_symlink()
    assert capsys.readouterr().err.startswith("runs/latest could not be set")
    assert [entry.name for entry in (here / "runs").iterdir()] == ["latest"]


def test_a_folder_that_is_no_study_says_where_there_are_some(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "runs/mine").mkdir(parents=True)
    for expected in ("name the run folder of a search", "it has run folders, such as 'runs/mine'"):
        assert main(["select", "runs"]) == 2
        assert capsys.readouterr().err.endswith(f"{expected}\n")
        (here / "runs/mine/study.db").touch()
    with pytest.raises(SystemExit, match="2"):
        main(["select", "runs/mine/study.db"])
    assert "'runs/mine/study.db' is a file; name the run folder that has it" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["retrain", "select", "report", "export --format timm", "search --resume"])
def test_without_a_study_the_default_is_one_line_and_code_2(
    command: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for expected in ("no search that was started in this folder has begun a trial", "which is gone"):
        with pytest.raises(SystemExit, match="2"):
            main(command.split())
        error = capsys.readouterr().err
        assert expected in error
        assert error.count("\n") == 1
        (here / "runs").mkdir(exist_ok=True)
        if not (here / LATEST).is_symlink():
            (here / LATEST).symlink_to("gone")
