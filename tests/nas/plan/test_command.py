"""The command, with real teachers, steps and measurements."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from nas.cache import open_targets
from nas.measure import DeviceError, MeasurementError
from nas.plan import search_plan
from nas.plan.__main__ import main
from nas.plan.arguments import parse
from nas.plan.teacher_costs import material_counted, material_here
from nas.search.__main__ import main as search
from nas.stage_progress import StageProgress
from nas.study.config import SearchConfig
from nas.terminal import stderr_console
from tests.nas.data.builders import png
from tests.nas.doctor import gpus

IMAGES = ["--train-images", "64", "--val-images", "32"]
SMALL = ["--budget", "6", "--rung-steps", "4,8", *IMAGES, "--measure-seconds", "0.3"]
CLIP = "vit_base_patch16_clip_224.laion2b"
ASSUMED = ["--assume-tflops", "989", "--device", "cuda", "--space", "full", "--sampler", "random"]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(search_plan, "_COUNTED", 5)  # of 64 architectures, whose costs take seconds to count
    return tmp_path / "here"


def planned(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    assert main([*arguments, "--json"]) == 0
    plan: dict[str, object] = json.loads(capsys.readouterr().out)
    return plan


@pytest.mark.slow
def test_probe_of_this_machine(
    tmp_path: Path, elsewhere: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    monkeypatch.setattr(search_plan, "_PROBED", 1)
    arguments = [*SMALL, "--cache", str(cache), "--gpus", "3"]
    plan = planned(arguments, capsys)
    figures = plan["figures"]
    for key in ("step_s", "evaluate_s", "measure_s", "teacher_s.lite0"):
        assert figures[key]["basis"] == "measured"
        assert figures[key]["value"] > 0
    assert figures["teacher_s.hed"]["note"].startswith("96 forward passes")
    assert figures["trial_s.1"]["value"] > figures["trial_s.0"]["value"] > figures["measure_s"]["value"]
    assert [c["devices"] for c in plan["clusters"]] == [1, 3]
    assert all(c["reached"][0] == 6 and c["fits"] is None for c in plan["clusters"])
    assert any("noise of the same shapes" in note for note in plan["notes"])
    assert list(elsewhere.iterdir()) == [], "a plan leaves nothing where runs are kept"
    images = {"train_images": 64, "val_images": 32, "image_px": 64, "grid": 4, "seed": 0}
    open_targets("builtin", "builtin", root=cache, **images)
    progress = StageProgress(stderr_console())
    built = material_here(SearchConfig(train_images=64, val_images=32), {}, cache, progress)
    assert built.targets is not None
    assert [(t.passes, t.seconds, t.note) for t in built.teachers] == [(0, 0.0, "cached already")] * 3


def test_a_gpu_for_one_process_is_refused_before_its_teachers_run(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = parse(["--device", "cpu"])
    gpus.install_exclusive(monkeypatch)
    monkeypatch.delattr(search_plan, "material_here")
    on_gpu = replace(settings, config=replace(settings.config, device="cuda"))
    with pytest.raises(DeviceError, match="compute mode EXCLUSIVE_PROCESS"):
        search_plan.plan_search(on_gpu, StageProgress(stderr_console()))


def test_device_that_is_not_here(elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    am_radio = [*ASSUMED, "--teachers", CLIP, "--budget", "9", "--teacher-precision", "bf16"]
    plan = planned([*am_radio, "--mfu", "0.5", "--assume-measure-seconds", "9"], capsys)
    figures = plan["figures"]
    assert "Teachers compute in bf16 (--teacher-precision)." in plan["notes"]
    assert figures["step_s"]["basis"] == figures["teachers_s"]["basis"] == figures["busy_s"]["basis"] == "assumed"
    assert figures["measure_s"]["value"] == 9
    twice = planned([*am_radio, "--mfu", "0.25"], capsys)["figures"]
    assert twice["teachers_s"]["value"] == pytest.approx(2 * figures["teachers_s"]["value"])
    exact = planned([*am_radio[:-1], "fp32", "--mfu", "0.5"], capsys)
    assert exact["figures"]["teachers_s"]["value"] > 7 * figures["teachers_s"]["value"]
    assert figures["read_bytes_s"]["value"] == pytest.approx(2 * twice["read_bytes_s"]["value"])
    assert exact["figures"]["step_s"]["value"] == figures["step_s"]["value"], "of the students"
    assert any("their peak is assumed to be 15 times lower" in note for note in exact["notes"])
    assert list(elsewhere.iterdir()) == []


def test_trainings_wait_for_a_disk_that_all_workers_share(capsys: pytest.CaptureFixture[str]) -> None:
    flags = [*ASSUMED, "--budget", "9", "--gpus"]
    free = planned([*flags, "2"], capsys)
    asked = free["figures"]["read_bytes_s"]["value"] / 1e9

    def limited(gpus: str, share: float) -> dict[str, Any]:
        return planned([*flags, gpus, "--read-gb-per-second", str(share * asked)], capsys)

    def longest_s(plan: dict[str, Any]) -> float:
        return float(plan["figures"]["trial_s.2"]["value"])

    assert longest_s(limited("2", 100)) == pytest.approx(longest_s(free))
    scarce = limited("2", 0.001)
    assert longest_s(scarce) > 50 * free["figures"]["trial_s.2"]["high"]
    assert longest_s(limited("2", 0.0005)) == pytest.approx(2 * longest_s(scarce), rel=0.01)
    assert longest_s(limited("20", 0.001)) == pytest.approx(10 * longest_s(scarce), rel=0.01)
    assert scarce["clusters"][0]["search_s"] > 20 * free["clusters"][0]["search_s"]
    notes = [plan["figures"]["read_bytes_s"]["note"] for plan in (free, scarce)]
    assert re.search(r"; 8 of 8 architectures wait .* in [\d.]+ s \(--read-gb-per-second\)", notes[1])
    assert "wait" not in notes[0]


def test_a_signed_url_is_printed_without_its_signature(capsys: pytest.CaptureFixture[str]) -> None:
    url = "https://bucket.example/{0..3}.tar"
    plan = planned([*ASSUMED, "--budget", "9", "--data", f"{url}?X-Amz-Signature=5ec4e7"], capsys)
    settings = plan["settings"]
    assert isinstance(settings, dict)
    assert settings["data"].startswith(url)
    assert "5ec4e7" not in json.dumps(plan)


def test_a_deadline_before_the_first_trial_is_a_no(capsys: pytest.CaptureFixture[str]) -> None:
    teachers = ["--teachers", CLIP, "--train-images", "99999999", "--budget", "9"]
    assert main([*ASSUMED, *teachers, "--max-hours", "0.1", "--json"]) == 1
    plan = json.loads(capsys.readouterr().out)
    assert {cluster["fits"] for cluster in plan["clusters"] if cluster["devices"] <= 8} == {0}


def test_few_architectures_within_the_limits_are_counted_alone(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search_plan, "_COUNTED", 16)
    figures = planned(["--assume-tflops", "9", "--budget", "9", "--max-params", "3e5"], capsys)["figures"]
    (architectures,) = re.findall(r"median \(range\) of (\d+) architectures", figures["step_s"]["note"])
    assert 15 < int(architectures) < 15 + 9, "with the reference and the baselines"
    assert figures["infeasible"]["value"] > 2


@pytest.mark.skipif(torch.cuda.is_available(), reason="PyTorch sees a CUDA device here")
def test_a_file_for_a_device_that_is_not_here_needs_an_assumption(
    elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (elsewhere / "mine.toml").write_text('device = "cuda"\ntrain_images = 64\n[distill]\nrung_steps = [4, 8]\n')
    assert main(["--config", "mine.toml"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    for words in ("--config mine.toml", "--assume-tflops", "[plan]"):
        assert words in line


def test_search_takes_the_plan_as_a_shorthand(capsys: pytest.CaptureFixture[str]) -> None:
    flags = [*ASSUMED, "--budget", "9", "--ask-seconds", "0.5", "--json"]
    assert search([*flags, "--plan"]) == 0
    from_search = json.loads(capsys.readouterr().out)
    plan = planned(flags[:-1], capsys)
    assert from_search["settings"] == plan["settings"]
    assert from_search["figures"].keys() == plan["figures"].keys()


def write_images(folder: Path, count: int, corrupt: int = 0) -> str:
    """Write images, some of which cannot be decoded, and return their URI."""
    folder.mkdir()
    for i in range(count):
        (folder / f"{i:03}.png").write_bytes(b"no image" if i < corrupt else png(i))
    return f"imagefolder:{folder}"


@pytest.mark.parametrize(
    ("count", "words"),
    [
        (20, "images to train on; a training batch takes 32"),
        (100, "of 400 images to train on, and .* held out; check the path and the shards"),
    ],
)
def test_a_plan_refuses_the_images_that_the_search_would_refuse(
    elsewhere: Path, capsys: pytest.CaptureFixture[str], count: int, words: str
) -> None:
    data = ["--data", write_images(elsewhere / "images", count), "--train-images", "400", "--val-images", "90"]
    assert main([*data, "--teachers", "xfeat", "--cache", "cache"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert re.search(words, captured.err.strip().splitlines()[-1])


def test_a_teacher_whose_weights_are_elsewhere_needs_the_disk_of_its_build(elsewhere: Path) -> None:
    config = SearchConfig(teachers="vit_base_patch16_clip_quickgelu_224.openai", train_images=64, val_images=32)
    (cost,) = material_here(config, {}, elsewhere, StageProgress(stderr_console())).teachers
    (counted,) = material_counted(config, {}, None).teachers
    assert (cost.passes, cost.seconds) == (96, None)
    assert cost.temporary_bytes == counted.temporary_bytes == 64 * (512 + 16 * 768) * 4
    assert cost.kept_bytes == counted.kept_bytes == 96 * (512 + 16 * 768) / 4


def test_a_plan_counts_the_images_that_are_there_and_says_that_they_are_few(elsewhere: Path) -> None:
    config = SearchConfig(
        data=write_images(elsewhere / "images", 100), teachers="xfeat", train_images=100, val_images=30
    )
    found = material_here(config, {}, elsewhere / "cache", StageProgress(stderr_console()))
    train = 100 - found.val_images
    assert found.teachers[0].passes == 100
    assert 15 < found.val_images < 30
    assert found.warning.endswith(
        f"only {train} of 100 images to train on, and {found.val_images} of 30 images held out"
    )


@pytest.mark.parametrize(
    ("command", "error"),
    [(main, MeasurementError("failed", "two\nlines")), (lambda words: search([*words, "--plan"]), MemoryError())],
)
def test_a_probe_that_fails_is_one_line_and_a_failure(
    command: Callable[[list[str]], int],
    error: Exception,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(search_plan, "material_here", fail)  # where teachers are built
    assert command(["--budget", "9"]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.strip().splitlines()
    assert line.startswith("error: ")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--resume", "somewhere"], "--resume"),
        (["--run", "somewhere"], "--run"),
        (["--ask-seconds", "inf"], "--ask-seconds: inf: must be"),
        (["--gpus", "1000000000000"], "--gpus: 1000000000000: must be"),
        (["--assume-tflops", "9", "--gpus", "16,4", "--distill", "ranks=8"], "--gpus: 4: must be 8 or more"),
        (["--budget", "100000"], "--budget: 100000: a plan simulates 5,000"),
        (["--mfu", "0.3"], "--mfu: only with --assume-tflops"),
        (["--assume-tflops", "9", "--workers", "2"], "--workers: does not go with --assume-tflops"),
        (["--teachers", "nobody"], "nobody"),
    ],
)
def test_bad_input_is_one_line(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code: object = main(arguments)
    except SystemExit as ended:  # what the parser itself refuses
        code = ended.code
    assert code == 2
    captured = capsys.readouterr()
    assert words in captured.err
    assert len(captured.err.strip().splitlines()) == 1
    assert captured.out == ""
