"""Live teachers give the student what a cache would, and new views of the images in every epoch."""

from __future__ import annotations

import errno
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from backbones import build
from nas.cache import CacheError, open_targets
from nas.cache.targets import Targets
from nas.data import CorruptImage, open_images
from nas.data.dataset import DataUnavailable, decode
from nas.distill.batches import Batch, BatchPlan, CachedSource, Schedule
from nas.distill.live import LiveSource, LiveTeachers
from nas.distill.trainer import Distiller
from nas.study.config import DistillConfig, Group
from nas.teachers.base import TeacherOutput, run_teacher
from search_space import preset

TEACHERS = "lite0,hed"
IMAGES = 32
CPU = torch.device("cpu")
GROUP = Group(("lite0", "hed"), 16, (64,))


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def targets(cache: Path) -> Targets:
    """Return exact targets of all train images."""
    return open_targets(
        "builtin", TEACHERS, root=cache, train_images=IMAGES, val_images=16, image_px=64, grid=4, seed=0,
        storage="fp32", share=1.0,
    )  # fmt: skip


@pytest.fixture(scope="module")
def plain(targets: Targets, cache: Path) -> LiveSource:
    """Return a source of the images as they are."""
    return LiveSource(live(cache, augment=False), targets, CPU)


@pytest.fixture(scope="module")
def augmented(targets: Targets, cache: Path) -> LiveSource:
    return LiveSource(live(cache), targets, CPU)


def live(cache: Path, **settings: object) -> LiveTeachers:
    usual = {"data": "builtin", "images": IMAGES, "teachers": TEACHERS, "root": cache}
    return LiveTeachers(**{**usual, **settings})  # type: ignore[arg-type]


def batch(source: LiveSource | CachedSource, step: int = 1) -> Batch:
    plan = Schedule((GROUP,), len(source), 0)[step]
    return source.read(plan, plan.rows, CPU)


def test_without_augmentation_batches_are_those_of_an_exact_cache(targets: Targets, plain: LiveSource) -> None:
    assert len(plain) == IMAGES
    mine, theirs = batch(plain), batch(CachedSource(targets.train))
    assert torch.equal(mine.images, theirs.images)
    heads = {f"{teacher}/{head}" for teacher in ("lite0", "hed") for head in ("summary", "spatial")}
    assert mine.targets.keys() == theirs.targets.keys() == heads
    for name, values in mine.targets.items():
        torch.testing.assert_close(values, theirs.targets[name], rtol=1e-3, atol=1e-3)


@pytest.mark.slow
def test_live_targets_are_computed_in_the_precision_of_the_cache(targets: Targets, cache: Path) -> None:
    rounded = open_targets(
        "builtin", TEACHERS, root=cache, train_images=IMAGES, val_images=16, image_px=64, grid=4, seed=0,
        precision="bf16", storage="fp32", share=1.0,
    )  # fmt: skip
    theirs = batch(CachedSource(rounded.train)).targets
    mine = batch(LiveSource(live(cache, augment=False), rounded, CPU)).targets
    fp32 = replace(rounded, teachers={n: replace(t, precision="fp32") for n, t in rounded.teachers.items()})
    exact = batch(LiveSource(live(cache, augment=False), fp32, CPU)).targets
    for name, values in mine.items():
        torch.testing.assert_close(values, theirs[name], rtol=1e-3, atol=1e-3)
        assert not torch.allclose(exact[name], theirs[name], rtol=1e-3, atol=1e-3), "in fp32 they are others"


def test_a_student_has_the_losses_of_an_exact_cache(targets: Targets, plain: LiveSource) -> None:
    config = DistillConfig(batch_size=16, precision="fp32", rung_steps=(2,))
    losses = []
    for source in (None, plain):
        torch.manual_seed(0)
        run = Distiller(build(preset("eradio_femto")), targets, config, seed=0, source=source)
        run.train_until(2)
        run.close()
        losses.append(run.losses)
    for mine, theirs in zip(*losses, strict=True):
        assert mine == pytest.approx(theirs, rel=1e-3)


def test_every_epoch_has_views_of_its_own_which_a_second_source_repeats(
    targets: Targets, cache: Path, plain: LiveSource, augmented: LiveSource
) -> None:
    source, again = augmented, LiveSource(live(cache), targets, CPU)
    first = BatchPlan(GROUP, np.arange(8), 64, epoch=0)
    later = first._replace(epoch=1)
    one, two = (source.read(plan, plan.rows, CPU) for plan in (first, later))
    assert not torch.equal(one.images, two.images)
    assert not torch.equal(one.images, plain.read(first, first.rows, CPU).images)
    assert torch.equal(two.images, again.read(later, later.rows, CPU).images)
    assert source.fingerprint == again.fingerprint
    assert one.images.shape == targets.train.images[:8].shape
    for name, values in one.targets.items():
        assert not torch.allclose(values, two.targets[name], atol=0.01), "the teacher sees the view, too"


def test_smaller_students_see_the_same_views(augmented: LiveSource) -> None:
    large = BatchPlan(GROUP, np.arange(4), 64)
    small = augmented.read(large._replace(image_px=32), large.rows, CPU)
    whole = augmented.read(large, large.rows, CPU)
    assert small.images.shape[-1] == 32
    assert torch.equal(small.targets["hed/spatial"], whole.targets["hed/spatial"])


def test_an_image_that_cannot_be_decoded_is_replaced_by_the_next(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    rng = np.random.default_rng(0)
    for i in range(30):
        Image.fromarray(rng.integers(0, 255, (40, 40, 3), dtype=np.uint8)).save(photos / f"{i:02d}.png")
    settings = live(tmp_path, data=f"imagefolder:{photos}", teachers="hed", augment=False)
    exact = open_targets(
        settings.data, "hed", root=tmp_path, train_images=IMAGES, val_images=16, image_px=64, grid=4, seed=0
    )  # fmt: skip
    source = LiveSource(settings, exact, CPU)
    plan = BatchPlan(Group(("hed",), 4, (64,)), np.arange(4), 64)
    before = source.read(plan, plan.rows, CPU).images
    names = open_images(settings.data, "train", IMAGES, 0, 64, tmp_path).names  # type: ignore[attr-defined]
    (photos / names[1]).write_bytes(b"no image")
    after = source.read(plan, plan.rows, CPU).images
    assert torch.equal(after, before[[0, 2, 2, 3]])


@pytest.fixture(scope="module")
def gray_photographs(tmp_path_factory: pytest.TempPathFactory) -> tuple[LiveSource, BatchPlan]:
    """Return a source of photographs of one gray value each, which its teacher sees at 128 px and its student at 64."""
    root = tmp_path_factory.mktemp("gray")
    (root / "photographs").mkdir()
    for i in range(30):
        Image.new("RGB", (150, 150), (8 * i,) * 3).save(root / "photographs" / f"{i:02d}.png")
    settings = live(root, data=f"imagefolder:{root}/photographs", teachers="lite0", augment=False)
    exact = open_targets(settings.data, "lite0", root=root, train_images=8, val_images=4, image_px=64, grid=4, seed=0)
    return LiveSource(settings, exact, CPU), BatchPlan(Group(("lite0",), 4, (64,)), np.arange(4), 64)


@pytest.mark.parametrize("failing", [0, 2])
def test_student_and_teacher_see_the_same_photographs_whichever_read_fails(
    failing: int, gray_photographs: tuple[LiveSource, BatchPlan], monkeypatch: pytest.MonkeyPatch
) -> None:
    (source, plan), reads, seen = gray_photographs, count(), []

    def decode_but_one(content: Any, name: str) -> Image.Image:
        if next(reads) == failing:
            raise CorruptImage(f"--data: cannot decode image {name}: damaged for a moment")
        return decode(content, name)

    def note(teacher: object, images: Tensor, grid: int, device: torch.device) -> dict[str, Tensor]:
        seen.append(images[:, 0, 0, 0].tolist())
        return {}

    monkeypatch.setattr("nas.data.folder.decode", decode_but_one)
    monkeypatch.setattr("nas.distill.live._LiveTeacher.targets", note)
    student = source.read(plan, plan.rows, CPU).images[:, 0, 0, 0]
    assert seen == [(63.75 * student + 127.5).round().int().tolist()]


@pytest.mark.parametrize("augment", [False, True])
def test_a_photograph_is_decoded_once_for_all_sizes(
    augment: bool, gray_photographs: tuple[LiveSource, BatchPlan], monkeypatch: pytest.MonkeyPatch
) -> None:
    (source, plan), names = gray_photographs, []
    monkeypatch.setattr("nas.data.folder.decode", lambda content, name: names.append(name) or decode(content, name))
    monkeypatch.setattr(source, "_augment", augment)
    source.read(plan, plan.rows, CPU)
    assert len(names) == len(set(names)) == len(plan.rows)


def test_one_batch_at_a_time_is_computed_on_a_device(plain: LiveSource, monkeypatch: pytest.MonkeyPatch) -> None:
    """The readers of a training ask for two batches at a time, whose activations would not fit together."""
    plan, under_way, most = BatchPlan(GROUP, np.arange(2), 64), [], []

    def slowly(*arguments: Any) -> TeacherOutput:
        under_way.append(1)
        most.append(len(under_way))
        time.sleep(0.05)
        under_way.pop()
        return run_teacher(*arguments)

    monkeypatch.setattr("nas.distill.live.run_teacher", slowly)
    with ThreadPoolExecutor(2) as readers:
        list(readers.map(lambda _: plain.read(plan, plan.rows, CPU), range(4)))
    assert set(most) == {1}
    assert len(most) >= 4


def test_a_network_disk_that_stays_away_ends_the_training_and_names_the_file(
    gray_photographs: tuple[LiveSource, BatchPlan], monkeypatch: pytest.MonkeyPatch
) -> None:
    source, plan = gray_photographs
    monkeypatch.setattr("nas.data.dataset.RETRY_S", (0.0, 0.0))

    def stale(path: Path, *arguments: object) -> None:
        raise OSError(errno.ESTALE, "Stale file handle", str(path))

    monkeypatch.setattr(Path, "open", stale)
    with pytest.raises(DataUnavailable, match=r"cannot read '/.*/\d\d.png': Stale file handle"):
        source.read(plan, plan.rows, CPU)


def test_other_images_and_other_augmentation_are_another_training(
    targets: Targets, cache: Path, plain: LiveSource, augmented: LiveSource
) -> None:
    fewer = LiveSource(live(cache, images=IMAGES - 1), targets, CPU)
    assert len({augmented.fingerprint, fewer.fingerprint, plain.fingerprint}) == 3


def test_teachers_that_are_not_those_of_the_cache_are_refused(targets: Targets, cache: Path) -> None:
    other = replace(targets, teachers={**targets.teachers, "hed": replace(targets.teachers["hed"], fingerprint="0")})
    with pytest.raises(CacheError, match="teacher hed: its weights or its preprocessing are not those of the cache"):
        LiveSource(live(cache), other, CPU)


def test_a_teacher_that_computes_other_features_is_refused(
    targets: Targets, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nas.distill.live.activation_fingerprint", lambda teacher: (0.5,) * 16)
    with pytest.raises(CacheError, match="teacher lite0: it computes other features now than for the cache"):
        LiveSource(live(cache), targets, CPU)
