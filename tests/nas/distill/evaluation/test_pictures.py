"""Contact sheets: what is on them, that colours can be compared, and that files which are none are refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from backbones import build
from nas.distill.evaluation.explained_variance import explained_variance
from nas.distill.evaluation.pictures import IMAGES, Colors, contact_sheet
from nas.distill.trainer import Distiller
from nas.study.config import DistillConfig
from nas.study.contact_sheet import IMAGE, OWN, STUDENT, TEACHER, TILE_PX, ContactSheet, SheetError
from search_space import preset
from tests.nas.distill.targets_builder import targets

CONFIG = DistillConfig(img_size=32, batch_size=16, warmup_steps=2, precision="fp32", rung_steps=(4, 8))
KINDS = ((IMAGE, ""), (TEACHER, "colour"), (STUDENT, "colour"), (OWN, ""))


def distance(sheet: ContactSheet) -> float:
    """Mean difference of the teacher's colours and the student's."""
    teacher, student = (sheet.tiles[KINDS.index((kind, "colour"))].astype(float) for kind in (TEACHER, STUDENT))
    return float(np.abs(teacher - student).mean())


def test_the_better_a_teacher_is_learnt_the_closer_are_the_colours(tmp_path: Path) -> None:
    known = replace(targets(tmp_path), class_names=("dark", "bright"))
    torch.manual_seed(0)
    run = Distiller(build(preset("eradio_femto")), known, CONFIG, seed=0)
    before = contact_sheet(run.averaged, known, "cpu")
    run.train_until(60)
    run.close()
    after = contact_sheet(run.averaged, known, "cpu")
    assert distance(after) < distance(before) / 2
    assert after.rows == KINDS
    assert after.tiles.shape == (4, IMAGES, TILE_PX, TILE_PX, 3)
    assert set(after.columns) == {"dark", "bright"}, "the images are spread over the classes"
    assert after.columns == before.columns
    assert (after.tiles[:2] == before.tiles[:2]).all(), "images and teacher are the same for every student"
    after.write(tmp_path / "a.png")
    read = ContactSheet.read(tmp_path / "a.png")
    assert (read.rows, read.columns) == (after.rows, after.columns)
    assert (read.tiles == after.tiles).all()
    assert [path.name for path in tmp_path.glob("*.*")] == ["a.png"]


def test_fewer_images_than_columns_are_all_shown(tmp_path: Path) -> None:
    few = targets(tmp_path, train=32, val=3)
    run = Distiller(build(preset("eradio_femto")), few, CONFIG, seed=0)
    sheet = contact_sheet(run.averaged, few, "cpu")
    run.close()
    assert sheet.columns == ("", "", "")
    shown = {tile[::2, ::2].tobytes() for tile in sheet.tiles[0]}  # 32 px images, each pixel twice
    assert shown == {image.transpose(1, 2, 0).tobytes() for image in few.val.images}


def test_large_images_are_evaluated_and_painted_a_few_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A student is evaluated at the end of its training; 200 images of 1024 px at a time would fill a GPU of 80 GB."""
    known = targets(tmp_path, train=32, val=4)
    run = Distiller(build(preset("eradio_femto")), known, CONFIG, seed=0)
    run.close()
    sizes: list[int] = []
    run.averaged.backbone.stem.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))  # type: ignore[union-attr]
    monkeypatch.setattr("nas.distill.evaluation.explained_variance._PIXELS", 3 * 32**2)
    explained = explained_variance(run.averaged, known.val, "cpu")
    sheet = contact_sheet(run.averaged, known, "cpu")
    assert sizes == [3, 1] * 2
    assert sheet.tiles.shape[:2] == (4, 4)
    assert explained["colour"].keys() == {"summary", "spatial"}


def test_colours_are_the_same_for_any_rotation_of_the_channels() -> None:
    maps = torch.randn(20, 6, 3, 3, generator=torch.Generator().manual_seed(0)) * torch.arange(1, 7).view(1, 6, 1, 1)
    rotation = torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(1)))[0]
    turned = torch.einsum("kc,nchw->nkhw", rotation, maps)
    plain, other = Colors.fit(maps).paint(maps).astype(int), Colors.fit(turned).paint(turned).astype(int)
    for colour in range(3):  # a direction's sign is a convention, which turns with the channels
        ours, theirs = plain[..., colour], other[..., colour]
        same, flipped = np.abs(ours - theirs).max(), np.abs(ours - (255 - theirs)).max()
        assert min(same, flipped) <= 1


@pytest.mark.parametrize("make", ["no image", "no words", "wrong rows", "too large"])
def test_what_is_no_contact_sheet_is_refused_by_name(make: str, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    sheet = ContactSheet((("image", ""),), ("one", "two"), np.zeros((1, 2, TILE_PX, TILE_PX, 3), dtype=np.uint8))
    if make == "no image":
        path.write_bytes(b"GIF89a" + bytes(100))
    elif make == "no words":
        Image.new("RGB", (TILE_PX, TILE_PX)).save(path)
    elif make == "too large":
        Image.new("L", (TILE_PX * 65, 1)).save(path)
    else:
        replace(sheet, rows=sheet.rows * 3).write(path)
    with pytest.raises(SheetError, match=r"a\.png"):
        ContactSheet.read(path)
