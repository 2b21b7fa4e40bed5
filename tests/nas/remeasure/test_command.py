"""Run the command through its entry point: bad input, and a tiny study that is really measured again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from nas.measure import Measured, MeasurementError
from nas.measure.service import MeasurementService
from nas.remeasure import measuring
from nas.remeasure.__main__ import main
from nas.remeasure.arguments import RemeasureSettings
from nas.remeasure.command import begin_remeasuring, measure
from nas.storage.store import Store
from tests.nas.analysis.builders import POINTS, new_store, small_study
from tests.nas.remeasure.test_measuring import FakeService, key_of


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
        (["RUN", "--name", "../x"], "--name: '../x'"),
        (["RUN", "--name", "retraining"], "--name: 'retraining' is reserved"),
        (["RUN", "--plot", "x.gif"], ".png or .svg or .pdf"),
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
    assert "2 of 4 networks" in err
    assert "2 models measured both times" in out
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
    assert "nothing to measure" in capsys.readouterr().err
    assert main([*words, "--batch-size", "3", "--name", whole.name]) == 2
    assert "batch: 2 -> 3" in capsys.readouterr().err


def test_two_commands_of_one_name_keep_both_measurements(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "MeasurementService", FakeService({}))
    new_store(tmp_path, small_study())
    both = [RemeasureSettings(tmp_path, trials, "cpu", name="one") for trials in ("1", "2")]
    with Store.open(tmp_path) as store:
        begun = [begin_remeasuring(store, settings, "c") for settings in both]
        for settings, (_, remeasuring, newest) in zip(both, begun, strict=True):
            measure(remeasuring, newest, store, settings, "c")
        (kept,) = store.remeasurements()
    assert set(kept.measurements) == {0, 1, 2}


def test_a_second_command_of_one_name_is_refused_while_the_first_measures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    new_store(tmp_path, small_study())
    words = [str(tmp_path), "--device", "cpu", "--name", "one", "--trials"]
    codes: list[int] = []

    class MeetsAnother(FakeService):
        def __call__(self, threads: int | None) -> FakeService:
            if not self.opened:
                self.opened = 1
                codes.append(main([*words, "2"]))
            return super().__call__(threads)

    monkeypatch.setattr(measuring, "MeasurementService", MeetsAnother({}))
    assert main([*words, "1"]) == 0
    assert codes == [2]
    refusal = f"error: another backbone-nas remeasure measures 'one' in {str(tmp_path)!r}; wait for it"
    assert refusal in capsys.readouterr().err
    assert main([*words, "2"]) == 0
    (kept,) = Store.open(tmp_path).remeasurements()
    assert set(kept.measurements) == {0, 1, 2}


def test_a_remeasurement_without_a_measured_candidate_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    study = small_study()
    new_store(tmp_path, study)
    hang = MeasurementError("hang", "no result after 9 s")
    errors: dict[str, Exception] = {key_of(trial): hang for trial in study.trials[1:]}
    words = [str(tmp_path), "--device", "cpu"]
    monkeypatch.setattr(measuring, "MeasurementService", FakeService(errors))
    for more in ([], [], ["--overwrite"]):
        assert main([*words, *more]) == 1
        error = "failed: no candidate could be measured: hang: no result after 9 s; --overwrite tries again\n"
        assert capsys.readouterr().err.endswith(error)
    del errors[key_of(study.trials[2])]
    assert main([*words, "--overwrite"]) == 0  # one was measured, and the table has the others' reasons
