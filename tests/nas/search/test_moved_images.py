"""A study is continued with its images in another folder, and with no others."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from nas.cache import CacheError
from nas.retrain.__main__ import main as retrain
from nas.search import study_opening
from nas.search.config_file import FILE_NAME, config_text, read_options
from nas.search.settings import command_of, resume_command
from nas.storage.store import Store, read_study
from nas.study.config import DistillConfig, SearchConfig
from nas.study.records import StudyRecord
from nas.study.training_files import PLAN
from nas.train.training_settings import TrainingPlan
from nas.train.training_settings import command_of as train_command_of
from nas.validation import ConfigError
from search_space import SPACES, preset
from tests.nas.analysis.builders import REFERENCE, new_store, small_study
from tests.nas.backend.real_targets import open_real_targets, study_of
from tests.nas.study.builders import search_config

IMAGES = 24


def config_of(photos: Path) -> SearchConfig:
    return search_config(
        reference=REFERENCE, baselines=(REFERENCE,), data=f"imagefolder:{photos}", train_images=IMAGES,
        val_images=IMAGES, teachers="hed", distill=DistillConfig(rung_steps=(2, 4), batch_size=4, precision="fp32"),
    )  # fmt: skip


@pytest.fixture(scope="module")
def anna(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The images, as they lie where the search began."""
    folder = tmp_path_factory.mktemp("anna")
    pixels = np.random.default_rng(0).integers(0, 256, (2 * IMAGES, 64, 64, 3), dtype=np.uint8)
    for i, image in enumerate(pixels):
        path = folder / ("train" if i < IMAGES else "val") / f"{i}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(image).save(path)
    return folder


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def study(anna: Path, cache: Path) -> StudyRecord:
    config = config_of(anna)
    info = study_of(open_real_targets(config, cache), config)
    space = {name: list(values) for name, values in SPACES[config.space].choices().items()}
    return replace(small_study(), info=replace(info, space=space))


@pytest.fixture
def run(study: StudyRecord, anna: Path, tmp_path: Path) -> Path:
    new_store(tmp_path / "run", study).close()
    (tmp_path / "run" / FILE_NAME).write_text(config_text(config_of(anna).to_dict(), {"workers": 1}))
    return tmp_path / "run"


@pytest.fixture
def ben(anna: Path, tmp_path: Path) -> Iterator[Path]:
    """The same images in another folder, while the first one is gone."""
    shutil.copytree(anna, tmp_path / "ben")
    gone = anna.rename(anna.with_name("gone"))
    yield tmp_path / "ben"
    gone.rename(anna)


def exchange_an_image(folder: Path) -> None:
    """Replace an image by another one of the same name."""
    first, second = sorted((folder / "train").iterdir())[:2]
    shutil.copy(first, second)


def test_a_search_is_resumed_with_its_images_in_another_folder(
    run: Path, anna: Path, ben: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ben.parent)
    options = {"resume": str(run), "data": "imagefolder:ben", "cache": str(cache), "extend": 5}
    command = command_of(options, "")
    assert command.config == replace(config_of(anna), data=f"imagefolder:{ben}", budget=17)
    targets, _ = study_opening.open_targets(command, Console(quiet=True), print, study_opening.recorded_info(command))
    assert len(targets.train) == IMAGES
    assert f"--data imagefolder:{ben}" in resume_command(command)
    with Store.open(run) as store:
        study_opening.extend_study(store, command)
    options = read_options(run / FILE_NAME)
    assert (options["data"], options["budget"]) == (f"imagefolder:{anna}", 17)
    assert f"--data imagefolder:{ben}" in resume_command(command), "an extension keeps the recorded place too"
    assert read_study(run).info.config["data"] == f"imagefolder:{anna}"


def test_a_search_is_not_resumed_with_other_images(run: Path, ben: Path, tmp_path: Path) -> None:
    exchange_an_image(ben)
    command = command_of({"resume": str(run), "data": f"imagefolder:{ben}", "cache": str(tmp_path / "cache")}, "")
    with pytest.raises(CacheError, match=rf"the images of 'imagefolder:{ben}' are not those .* --data"):
        study_opening.open_targets(command, Console(quiet=True), print, study_opening.recorded_info(command))
    assert not list((tmp_path / "cache").rglob("*.json")), "before its teachers run"


def test_another_kind_of_source_is_refused(run: Path, anna: Path) -> None:
    with pytest.raises(ConfigError, match=f"these differ: data: imagefolder:{anna} -> builtin"):
        command_of({"resume": str(run), "data": "builtin"}, "")


def test_a_retraining_takes_its_images_from_another_folder(
    run: Path, ben: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    timed: list[str] = []

    def interrupt(*_: object, **__: object) -> None:
        timed.append("the targets are open")
        raise KeyboardInterrupt

    monkeypatch.setattr("nas.retrain.retiming.time_models", interrupt)
    words = [str(run), "--seeds", "1", "--near-misses", "0", "--cache", str(cache), "--device", "cpu"]
    assert retrain(words) == 2
    assert "no such folder" in capsys.readouterr().err
    assert retrain([*words, "--data", f"imagefolder:{ben}"]) == 130
    assert len(timed) == 1
    exchange_an_image(ben)
    assert retrain([*words, "--data", f"imagefolder:{ben}"]) == 2
    assert f"the images of 'imagefolder:{ben}' are not those" in capsys.readouterr().err


def test_a_training_is_resumed_with_its_images_in_another_folder(
    run: Path, ben: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (run / PLAN).write_text(json.dumps(TrainingPlan(REFERENCE, preset(REFERENCE).to_dict()).to_dict()))
    monkeypatch.chdir(ben.parent)
    session_of = train_command_of({"resume": str(run), "data": "imagefolder:ben"}, "").session
    assert session_of.config.data == f"imagefolder:{ben}"
    with Store.open(run, read_only=True) as store:
        assert store.info == study_opening.recorded_info(session_of)
