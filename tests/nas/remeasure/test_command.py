"""Run the command through its entry point: bad input, and a tiny study that is really measured again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from nas.measure import Measured
from nas.measure.service import MeasurementService
from nas.remeasure import measuring
from nas.remeasure.__main__ import main
from nas.storage.store import Store
from tests.nas.analysis.builders import POINTS, new_store, small_study


@pytest.fixture(autouse=True)
def own_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a study to measure again, and one in which only a baseline is complete."""
    folder = tmp_path_factory.mktemp("studies")
    new_store(folder / "run", small_study())
    new_store(folder / "empty", replace(small_study(), trials=small_study().trials[:1]))
    return folder


@pytest.fixture
def shared_service(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Share one service between both runs of a test: each takes seconds to start."""
    with MeasurementService(1) as service:
        monkeypatch.setattr(service, "close", lambda: None)
        monkeypatch.setattr(measuring, "MeasurementService", lambda threads: service)
        yield
        monkeypatch.undo()


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["nowhere"], "no such run folder"),
        (["EMPTY"], "no trial that was measured and trained to its last rung"),
        (["RUN", "--runtime", "fast"], "'fast'"),
        (["RUN", "--device", "cuda:9"], "device: 'cuda:9' is not available here"),
        (["RUN", "--trials", "77"], "trial 77"),
        (["RUN", "--batch-size", "0"], "--batch-size: 0: must be"),
        (["RUN", "--img-size", "65"], "--img-size: 65: must be a multiple of 32"),
        (["RUN", "--name", "../x"], "--name: '../x'"),
        (["RUN", "--name", "retraining"], "--name: 'retraining' is reserved for the timings of backbone-nas retrain"),
        (["RUN", "--plot", "x.gif"], ".png, .svg, .pdf"),
        (["RUN", "--plot", "nowhere/x.png"], "no such folder 'nowhere'"),
    ],
)
def test_bad_input_is_one_line(words: list[str], error: str, studies: Path, capsys: pytest.CaptureFixture[str]) -> None:
    places = {"RUN": str(studies / "run"), "EMPTY": str(studies / "empty")}
    try:
        code = main([places.get(word, word) for word in words])
    except SystemExit as ended:
        code = int(str(ended.code))
    output = capsys.readouterr().err
    assert code == 2
    assert output.startswith("error: ")
    assert error in output
    assert output.count("\n") == 1


def third_is_cut_off(measured: Measured, path: Path, saved: list[Path]) -> None:
    if len(saved) == 2:
        raise KeyboardInterrupt
    saved.append(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(measured.samples))


def test_a_study_measured_again_for_real(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, shared_service: None
) -> None:
    study, run = small_study({n: POINTS[n] for n in range(4)}), tmp_path / "run"
    new_store(run, study)
    words = [str(run), "--device", "cpu", "--batch-size", "2", "--measure-seconds", "0.2", "--threads", "1"]
    with pytest.MonkeyPatch.context() as patch:
        saved: list[Path] = []
        patch.setattr(measuring, "save_samples", lambda m, path: third_is_cut_off(m, path, saved))
        assert main(words) == 130
    out, err = capsys.readouterr()
    assert "2 of 4 candidates" in err
    assert "2 candidates measured both times" in out
    (kept,) = Store.open(run).remeasurements()
    assert (kept.name, len(kept.measurements)) == ("cpu-b2-64px-eager+fp32+channels-last+fused", 2)

    assert main([*words, "--json", "--plot", str(tmp_path / "fronts.png")]) == 0
    output = json.loads(capsys.readouterr().out)
    (whole,) = Store.open(run).remeasurements()
    assert {n: whole.measurements[n] for n in kept.measurements} == kept.measurements  # not measured twice
    assert set(whole.measurements) == set(range(4))
    assert {p.stem for p in (run / "samples" / f"remeasurement-{whole.name}").iterdir()} == {
        t.arch_id for t in study.trials
    }
    assert whole.measurements[0] == whole.floor
    assert whole.measurements[1].batch == 2
    assert [candidate["trial"] for candidate in output["candidates"]] == [1, 2, 0, 3]
    assert output["setting"]["arm"] == "eager+fp32+channels-last+fused"
    assert (tmp_path / "fronts.png").stat().st_size > 10_000

    monkeypatch.setattr(measuring, "MeasurementService", None)  # a measurement would fail
    assert main(words) == 0
    assert main([*words, "--batch-size", "3", "--name", whole.name]) == 2
    assert "batch: 2 -> 3" in capsys.readouterr().err
