"""An export appears complete or not at all, and replaces only earlier exports."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nas.cli import FAILED
from nas.export import to_timm
from nas.export.__main__ import main
from nas.export.bundle import complete_folder
from tests.nas.export.builders import TIMM, Made, refusal


def test_an_export_is_replaced_and_nothing_else(made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    words = [str(made.run), *TIMM, "--out", str(out)]
    out.mkdir()
    assert main(words) == 0  # an empty folder is free
    assert main(words) == 0
    (out / "notes").mkdir()
    (out / "notes" / "mine").touch()
    assert "has a file that no export wrote, 'notes/mine'" in refusal(words, capsys)
    assert main([*words, "--overwrite"]) == 0
    assert not (out / "notes").exists()
    (out / "export.json").unlink()
    assert "is neither empty nor an export" in refusal(words, capsys)
    assert (out / "model.safetensors").exists()
    assert main([*words, "--overwrite"]) == 0
    assert (out / "export.json").exists()
    (tmp_path / "file").touch()
    assert "is not a folder" in refusal([*words[:-1], str(tmp_path / "file"), "--overwrite"], capsys)
    for holder in (made.run, made.run.parent, made.run / "weights"):
        assert "contains the study" in refusal([*words[:-1], str(holder), "--overwrite"], capsys)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "out"]


def test_a_longer_trained_export_is_replaced_only_if_asked(
    made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    words = [str(made.run), *TIMM, "--out", str(out)]
    assert main(words) == 0
    about = json.loads((out / "export.json").read_text())
    steps = about["weights"]["result"]["steps"]
    about["weights"]["result"]["steps"] = steps + 1
    (out / "export.json").write_text(json.dumps(about))
    error = refusal(words, capsys)
    assert f"of {steps + 1} steps" in error
    assert f"of {steps};" in error
    assert main([*words, "--overwrite"]) == 0
    assert json.loads((out / "export.json").read_text())["weights"]["result"]["steps"] == steps


def test_a_folder_appears_complete_or_not_at_all(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write = to_timm.write

    def breaks(*given: object) -> None:
        write(*given)  # type: ignore[arg-type]
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(to_timm, "write", breaks)
    words = [str(made.run), *TIMM, "--out", str(tmp_path / "out")]
    assert "No space left" in refusal(words, capsys, FAILED)
    assert not list(tmp_path.iterdir())
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "export.json").write_text('{"format": "backbone-nas-export/1"}')
    assert "No space left" in refusal(words, capsys, FAILED)
    assert [p.name for p in tmp_path.rglob("*")] == ["out", "export.json"]
    with pytest.raises(KeyboardInterrupt):
        _interrupted(tmp_path / "other")
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def _interrupted(out: Path) -> None:
    with complete_folder(out, lambda: None) as folder:
        (folder / "half").touch()
        raise KeyboardInterrupt


@pytest.mark.parametrize("at", [1, 2])
def test_ctrl_c_during_the_exchange_loses_no_folder(at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python raises KeyboardInterrupt right after the system call during which Ctrl-C arrived."""
    out, renames, rename = tmp_path / "out", [0], Path.rename
    out.mkdir()
    (out / "old").touch()

    def interrupted(path: Path, target: Path) -> None:
        rename(path, target)
        renames[0] += 1
        if renames[0] == at:
            raise KeyboardInterrupt

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt), complete_folder(out, lambda: None) as folder:
        (folder / "new").touch()
    assert [p.name for p in out.iterdir()] == ["old" if at == 1 else "new"]
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_a_folder_created_meanwhile_is_kept(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write = to_timm.write

    def meanwhile(*given: object) -> object:
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "thesis").touch()
        return write(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(to_timm, "write", meanwhile)
    assert "is neither empty nor an export" in refusal([str(made.run), *TIMM, "--out", str(tmp_path / "out")], capsys)
    assert [p.name for p in tmp_path.rglob("*")] == ["out", "thesis"]


def test_impossible_folders_are_refused_before_any_work(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "file").touch()
    monkeypatch.chdir(tmp_path / "a" / "b")
    monkeypatch.setattr("nas.export.command.trained_weights", None)
    for where in (".", "..", str(tmp_path / "a" / "b")):
        assert "is the current folder, or contains it" in refusal([str(made.run), *TIMM, "--out", where], capsys)
    for where in (tmp_path / "file" / "out", Path("/proc/out")):
        assert "--out: cannot write into" in refusal([str(made.run), *TIMM, "--out", str(where)], capsys)
    assert not list((tmp_path / "a" / "b").iterdir())
