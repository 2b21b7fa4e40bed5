"""Zero-shot end to end: real photographs, a small CLIP of seeded weights with both towers, a real cache."""

from __future__ import annotations

import builtins
import json
import logging
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from nas.cache import open_targets
from nas.cache.targets import Targets, load_targets
from nas.distill.evaluation.tasks import student_metrics, teacher_metrics
from nas.distill.evaluation.zero_shot import (
    add_texts,
    embed_class_names,
    embedded_texts,
    texts_path,
    words,
    zero_shot_accuracy,
)
from nas.teachers import load_teachers, specs
from nas.teachers.text import TEXT_TOWERS, text_embeddings, zero_shot
from tests.nas.distill.known import recalling
from tests.nas.distill.targets_builder import photo_crops
from tests.nas.teachers import small_networks

open_clip = pytest.importorskip("open_clip", reason="open_clip_torch is an optional extra")

CLIP = "small_clip.laion2b"
CONFIG = {
    "embed_dim": 512,
    "vision_cfg": {"image_size": 224, "layers": 2, "width": 48, "patch_size": 16, "head_width": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}
CLASSES = ("cup", "great_cat", "space_suit")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    """A file with both towers, known to timm and open_clip by name."""
    small_networks.register()
    folder = tmp_path_factory.mktemp("open_clip")
    (folder / "small_for_zero_shot.json").write_text(json.dumps(CONFIG))
    open_clip.add_model_config(folder)
    logging.getLogger().setLevel(logging.WARNING)
    torch.manual_seed(5)
    model = open_clip.create_model("small_for_zero_shot")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "ln_" not in name:
                parameter.normal_(std=0.1)
    path = folder / "both.safetensors"
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, path)
    TEXT_TOWERS[CLIP] = ("small_for_zero_shot", "")
    yield {CLIP: path}
    del TEXT_TOWERS[CLIP]


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Crops of three photographs, a folder each: the folders' names are the classes'."""
    root = tmp_path_factory.mktemp("photographs")
    for i, crop in enumerate(photo_crops(90, 0, 64)):
        folder = root / CLASSES[int(crop.mean()) % 3]
        folder.mkdir(exist_ok=True)
        Image.fromarray(crop.transpose(1, 2, 0)).save(folder / f"{i}.png")
    return f"imagefolder:{root}"


@pytest.fixture(scope="module")
def made(weights: dict[str, Path], photographs: str, tmp_path_factory: pytest.TempPathFactory) -> Targets:
    """The cache, its class names not embedded yet."""
    return cached(photographs, f"{CLIP},xfeat", weights, tmp_path_factory.mktemp("cache"))


def cached(images: str, teachers: str, weights: dict[str, Path], root: Path) -> Targets:
    return open_targets(
        images, teachers, root=root, train_images=60, val_images=20, image_px=32, grid=2, seed=0, weights=weights
    )


def prepared(targets: Targets, teachers: str, weights: dict[str, Path]) -> list[str]:
    """What the driver does; the lines that it says."""
    said: list[str] = []
    embed_class_names(targets, specs(teachers, weights), weights, say=said.append)
    return said


def test_a_student_that_predicts_the_teacher_is_as_accurate_as_the_teacher(
    made: Targets, weights: dict[str, Path]
) -> None:
    """And neither has a number before the names were embedded."""
    student = recalling(made, CLIP)
    assert not [name for name in student_metrics(student, made, "cpu") if "zero_shot" in name]
    assert prepared(made, f"{CLIP},xfeat", weights) == []
    asked, ceiling = student_metrics(student, made, "cpu"), teacher_metrics(made, CLIP)["zero_shot"]
    assert asked[f"zero_shot/{CLIP}"] == ceiling
    assert "zero_shot/xfeat" not in asked
    assert "zero_shot" not in teacher_metrics(made, "xfeat")

    predictions = zero_shot(own_summaries(made, weights), text_embeddings(CLIP, words(made), weights))
    assert made.val.labels is not None
    truth = torch.from_numpy(made.val.labels[:])
    assert len(predictions.unique()) > 1, "the test could not fail"
    # Of the live network and of its int8 targets: a borderline image may fall on the other side.
    assert ceiling == pytest.approx(float((predictions == truth).float().mean()), abs=1.5 / len(truth))
    wrong = zero_shot_accuracy(made, CLIP, torch.from_numpy(-made.val.summary[CLIP][:]))
    assert wrong != ceiling


def own_summaries(made: Targets, weights: dict[str, Path]) -> torch.Tensor:
    """The teacher run on the held-out images."""
    images = torch.from_numpy(made.val.images[:]).float() / 255
    with torch.inference_mode():
        summary: torch.Tensor = load_teachers(CLIP, weights)[0](images).summary
    return summary


def test_names_are_embedded_once_and_said_with_spaces(
    made: Targets, weights: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared(made, CLIP, weights)
    path = texts_path(made, CLIP)
    assert path is not None
    texts = np.load(path, allow_pickle=False)
    expected = text_embeddings(CLIP, ["cup", "great cat", "space suit"], weights)
    np.testing.assert_allclose(texts, expected.numpy(), atol=1e-6)
    monkeypatch.setattr(open_clip, "create_model", None)  # nobody needs it any more
    assert prepared(made, CLIP, weights) == []
    renamed = replace(made, class_names=("mug", "great_cat", "space_suit"))
    assert texts_path(renamed, CLIP) != path, "other names, other embeddings"


def test_a_copy_of_the_cache_that_was_made_before_gets_the_embeddings(
    weights: dict[str, Path], photographs: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As on the nodes of a cluster, each with its copy: else their trials would lack the metric."""
    first = cached(photographs, f"{CLIP},xfeat", weights, tmp_path / "cache")
    copies = [shutil.copytree(tmp_path / "cache", tmp_path / name) for name in ("copy", "full")]
    copy, full = (load_targets(folder / first.path.name) for folder in copies)
    assert embedded_texts(first) == {}
    prepared(first, CLIP, weights)
    texts = embedded_texts(first)
    assert list(texts) == [CLIP]
    predicted = torch.from_numpy(first.val.summary[CLIP][:])
    assert zero_shot_accuracy(copy, CLIP, predicted) is None
    add_texts(copy, texts)
    assert zero_shot_accuracy(copy, CLIP, predicted) == zero_shot_accuracy(first, CLIP, predicted) is not None
    add_texts(copy, texts)
    path = texts_path(full, CLIP)
    assert path is not None
    assert not caplog.records
    with mock.patch("nas.distill.evaluation.zero_shot.ArrayWriter", side_effect=OSError(28, "No space left on device")):
        add_texts(full, texts)
    assert f"no zero-shot accuracy through {CLIP} here: cannot write {path.parent}" in caplog.text


@pytest.mark.parametrize("lacking", ["class names", "labels"])
def test_what_the_images_lack_is_one_line(made: Targets, weights: dict[str, Path], lacking: str) -> None:
    without: dict[str, Any] = {
        "class names": replace(made, class_names=None),
        "labels": replace(made, val=replace(made.val, labels=None)),
    }
    line = f"no zero-shot accuracy through {CLIP}: the images have no {lacking}"
    assert prepared(without[lacking], f"{CLIP},xfeat", weights) == [line]
    assert prepared(without[lacking], "xfeat", {}) == [], "nothing is missed without a CLIP"


def test_ids_are_no_names_for_a_text_tower(made: Targets, weights: dict[str, Path]) -> None:
    for names in (("n01440764", "n01443537", "n01484850"), ("0", "1", "2")):
        (line,) = prepared(replace(made, class_names=names), CLIP, weights)
        assert names[0] in line
    assert prepared(replace(made, class_names=("n01440764", "7", "tench")), CLIP, weights) == []


def test_without_open_clip_a_line_says_what_to_install(
    made: Targets, weights: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def absent(name: str, *arguments: Any) -> Any:
        if name == "open_clip":
            raise ImportError(name)
        return real(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", absent)
    renamed = replace(made, class_names=("a", "b", "c"))
    (line,) = prepared(renamed, f"{CLIP},xfeat", weights)
    assert line.startswith(f"no zero-shot accuracy through {CLIP}: ")
    assert "pip install open_clip_torch" in line
    assert "\n" not in line
    assert not [name for name in student_metrics(recalling(renamed, CLIP), renamed, "cpu") if "zero_shot" in name]
