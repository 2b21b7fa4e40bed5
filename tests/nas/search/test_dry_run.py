"""A dry run: one line a check, nothing run, nothing left."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

import pytest
import torch

from nas.numbers import plural
from nas.search import dry_run
from nas.search.__main__ import main
from nas.search.config_file import FILE_NAME
from nas.search.preconditions import check_image_count
from nas.study.config import DistillConfig, SearchConfig
from nas.validation import ConfigError
from tests.nas.data.builders import png
from tests.nas.doctor import gpus
from tests.nas.study.builders import search_config
from tests.nas.study.searches import new_store
from tests.nas.teachers.holes import shapes_of, write_holes

SMALL = ["--dry-run", "--device", "cpu", "--train-images", "64", "--val-images", "8"]


def checks(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, tuple[str, str]]]:
    """Return the exit code, and "ok" or "problem" with the details of each check."""
    code = main(arguments)
    printed = capsys.readouterr().out.splitlines()
    lines = [line for line in printed if line.startswith(("ok ", "warning ", "problem "))]
    problems = list(dict.fromkeys(line for line in lines if line.startswith("problem ")))
    end = (
        f"nothing was run; {plural(len(problems), 'problem')}:" if problems else "nothing was run; the search can start"
    )
    assert printed[-1 - len(problems) :] == [end, *problems]
    lines = lines[: len(lines) - len(problems)]
    split = [line.split(maxsplit=1) for line in lines]
    return code, {rest.partition(": ")[0]: (state, rest.partition(": ")[2]) for state, rest in split}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def test_a_search_that_can_start(here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    batch = ["--batch-size", "16", "--cache", str(tmp_path / "cache")]
    code, found = checks([*SMALL, *batch], capsys)
    assert code == 0
    assert {name: state for name, (state, _) in found.items()} == dict.fromkeys(
        (
            "device",
            "teachers",
            *(f"teacher {name}" for name in ("lite0", "hed", "xfeat")),
            "data",
            "race",
            "run folder",
            "disk",
        ),
        "ok",
    )
    assert "64 images to train on" in found["data"][1]
    assert list(here.iterdir()) == []
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("arguments", "check", "words"),
    [
        (
            ["--teachers", "vit_small_patch14_reg4_dinov2.lvd142m", "--teacher-weights",
             "vit_small_patch14_reg4_dinov2.lvd142m=missing.safetensors"],
            "teacher vit_small_patch14_reg4_dinov2.lvd142m",
            "missing.safetensors",
        ),
        (["--max-params", "5"], "limits", "--max-params"),
        (["--data", "imagefolder:/no/such/folder"], "data", "/no/such/folder"),
        (["--run", "/proc/nowhere/run"], "run folder", "/proc/nowhere/run"),
        (["--address", "127.0.0.1:1", "--rung-steps", "5,10"], "cluster", "127.0.0.1:1"),
        (["--storage", "postgresql://me@127.0.0.1:1/nas"], "database", "127.0.0.1"),
    ],
)  # fmt: skip
def test_what_is_missing_is_one_line_and_code_2(
    arguments: list[str], check: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = [] if "--cache" in arguments else ["--cache", str(tmp_path / "cache")]
    code, found = checks([*SMALL, *arguments, *cache], capsys)
    assert code == 2
    assert [name for name, (state, _) in found.items() if state == "problem"] == [check]
    assert words in found[check][1]


@pytest.mark.parametrize(("train", "val", "state"), [(60, 10, "warning"), (90, 10, "problem")])
def test_a_truncated_data_set_stands_out(
    train: int, val: int, state: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for split, count in (("train", 40), ("val", 10)):
        (tmp_path / "images" / split / "a").mkdir(parents=True)
        for i in range(count):
            (tmp_path / "images" / split / "a" / f"{i}.png").write_bytes(png(i))
    counts = ["--train-images", str(train), "--val-images", str(val), "--batch-size", "8"]
    data = ["--data", f"imagefolder:{tmp_path / 'images'}", "--cache", str(tmp_path / "cache")]
    code, found = checks(["--dry-run", "--device", "cpu", *counts, *data], capsys)
    assert found["data"][0] == state
    assert code == (2 if state == "problem" else 0)
    assert "40" in found["data"][1]
    assert ("--train-images 40 --val-images 10" in found["data"][1]) is (state == "problem")


def test_gpus_for_one_process_each_are_a_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    driver = gpus.install(monkeypatch)
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda device=None: (9, 0))
    words = [*SMALL[:1], *SMALL[3:], "--batch-size", "16", "--cache", str(tmp_path / "cache"), "--device", "cuda"]
    words += ["--runtime", "eager+fp32", "--rung-steps", "2,4", "--train-images", "64"]
    assert checks(words, capsys)[1]["device"][0] == "ok"
    driver.mode = 3
    state, line = checks(words, capsys)[1]["device"]
    assert state == "problem"
    assert line.endswith("nvidia-smi -c 0")


def test_defaults_ask_for_no_number_of_images() -> None:
    assert "500 of 3,000" in check_image_count(SearchConfig(), 500, 100)
    assert check_image_count(SearchConfig(), 3000, 600) == ""
    assert check_image_count(SearchConfig(), 3000, 599) == "builtin: only 599 of 600 images held out"


@pytest.mark.parametrize(
    ("ranks", "train", "val", "advice"),
    [
        (1, 20, 5, "found 20 images to train on; a training batch takes 32. Add images, or give --batch-size 20"),
        (4, 23, 5, "give --batch-size 20"),
        (4, 7, 5, "a training batch takes 32. Add images"),
        (1, 32, 1, "found 1 held-out images; a score needs 2 or more. Add images"),
    ],
)
def test_images_that_no_training_can_do_with_are_refused_with_advice(
    ranks: int, train: int, val: int, advice: str
) -> None:
    with pytest.raises(ConfigError) as refusal:
        check_image_count(SearchConfig(distill=DistillConfig(ranks=ranks)), train, val)
    assert str(refusal.value).endswith(advice)


DINO = "vit_small_patch14_reg4_dinov2.lvd142m"


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


@pytest.mark.usefixtures("offline")
def test_weights_that_cannot_be_downloaded_are_a_problem(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, found = checks([*SMALL, "--teachers", f"lite0,{DINO}@224", "--cache", str(tmp_path / "cache")], capsys)
    assert code == 2
    assert [name for name, (state, _) in found.items() if state == "problem"] == [f"teacher {DINO}@224"]
    line = found[f"teacher {DINO}@224"][1]
    assert f"hf download timm/{DINO} model.safetensors" in line
    assert f"--teacher-weights {DINO}=FILE" in line
    assert re.search(r"about 0\.09 GB|about 0\.088 GB", line)


@pytest.mark.usefixtures("offline")
def test_files_of_weights_are_those_of_the_network(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    right = write_holes(tmp_path / "right.safetensors", shapes_of(DINO))
    wrong = write_holes(tmp_path / "wrong.safetensors", shapes_of("vit_base_patch14_reg4_dinov2.lvd142m"))
    for file, state in ((right, "ok"), (wrong, "problem")):
        flags = ["--teachers", f"{DINO}@224", "--teacher-weights", f"{DINO}={file}"]
        code, found = checks([*SMALL, *flags, "--cache", str(tmp_path / "cache")], capsys)
        assert code == (0 if state == "ok" else 2)
        assert found[f"teacher {DINO}@224"][0] == state
    assert "does not fit" in found[f"teacher {DINO}@224"][1]


@pytest.mark.skipif(torch.cuda.is_available(), reason="PyTorch sees a CUDA device here")
def test_without_the_node_s_gpus_everything_else_is_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    more = [
        "--data",
        "builtin",
        "--train-images",
        "300",
        "--val-images",
        "8",
        "--cache",
        str(tmp_path / "cache"),
        "--teachers",
        "builtin",
    ]
    code, found = checks(["--recipe", "cifar10-1gpu", "--dry-run", "--storage", "postgresql://a@h/b", *more], capsys)
    assert code == 2
    assert {name for name, (state, _) in found.items() if state == "problem"} == {"device", "database"}
    assert "--recipe cifar10-1gpu" in found["device"][1]
    assert "node" in found["device"][1]
    assert "psycopg" in found["database"][1]


def test_a_full_disk_is_found_before_it_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(dry_run.shutil, "disk_usage", lambda path: usage)
    code, found = checks([*SMALL, "--cache", str(tmp_path / "cache")], capsys)
    assert code == 2
    assert found["disk"][0] == "problem"


def test_a_folder_that_holds_a_study_is_a_problem(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    new_store(tmp_path / "run", search_config()).close()
    before = sorted(path.name for path in (tmp_path / "run").iterdir())
    code, found = checks([*SMALL, "--run", str(tmp_path / "run"), "--cache", str(tmp_path / "cache")], capsys)
    assert code == 2
    assert "--resume" in found["run folder"][1]
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == before
    assert not (tmp_path / "run" / FILE_NAME).exists()
