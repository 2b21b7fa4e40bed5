"""Stored views: plain first, the rest augmented; image and mask move together; a function of seed and index alone."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from nas.data import DataError, Sample, augment, open_images
from nas.data.augment import (
    COLOR_JITTER,
    CROP_AREA,
    CROP_RATIO,
    UNCHANGED,
    Augmentation,
    apply,
    random_augmentation,
)
from tests.nas.data.builders import SHARED

SAME_COLORS = {"brightness": 1.0, "contrast": 1.0, "saturation": 1.0}
seeds = st.integers(0, 2**32 - 1)


def opened(count=6, number=3, seed=1, size_px=64):
    return open_images("builtin", "train", count, seed, size_px, Path("unused"), views=number)


@pytest.fixture(scope="module")
def images():
    return opened()


def scene(size_px=96):
    """Two areas; the mask's value is 1 where the image is red and 2 where it is blue."""
    mask = np.ones((size_px, size_px), dtype=np.uint8)
    mask[:, size_px // 3 :] = 2
    mask[size_px // 2 :, : size_px // 2] = 2
    image = np.zeros((size_px, size_px, 3), dtype=np.uint8)
    image[..., 0], image[..., 2] = (mask == 1) * 200, (mask == 2) * 200
    return Sample(image, 5, mask)


def test_plain_images_come_first_then_one_view_of_each_after_the_other(images):
    plain = open_images("builtin", "train", 6, 1, 64, Path("unused"))
    assert len(images) == 18
    for i in range(6):
        assert images.augmentation(i) == UNCHANGED
        np.testing.assert_array_equal(images.read(i).image, plain.read(i).image)
        np.testing.assert_array_equal(images.read(i).mask, plain.read(i).mask)
        assert [images.read(i + 6 * number).label for number in range(3)] == [plain.read(i).label] * 3
    assert len({images.augmentation(i) for i in range(18)}) == 13


def test_a_view_does_not_depend_on_how_many_there_are(images):
    many = opened(number=5)
    assert [many.augmentation(i) for i in range(18)] == [images.augmentation(i) for i in range(18)]
    for i in (7, 17):
        np.testing.assert_array_equal(many.read(i).image, images.read(i).image)


@pytest.mark.parametrize("other", [{"number": 2}, {"seed": 2}])
def test_fingerprint_tells_sets_apart(images, other):
    assert opened().fingerprint == images.fingerprint
    assert opened(**other).fingerprint != images.fingerprint


@pytest.mark.parametrize(
    ("constant", "value"), [("CROP_AREA", (0.3, 1.0)), ("COLOR_JITTER", 0.2), ("VERSION", 2), ("FLIP_SHARE", 0.1)]
)
def test_fingerprint_follows_the_recipe(images, monkeypatch, constant, value):
    before = images.fingerprint
    monkeypatch.setattr(augment, constant, value)
    assert opened().fingerprint != before


@given(seeds, st.integers(0, 10**9), st.integers(1, 100))
def test_a_random_augmentation_lies_in_its_bounds_and_is_pure(seed, image, number):
    view = random_augmentation(seed, image, number)
    assert view == random_augmentation(seed, image, number)
    left, upper, right, lower = view.box
    width, height = right - left, lower - upper
    assert 0 <= left < right <= 1 + 1e-12
    assert 0 <= upper < lower <= 1 + 1e-12
    assert CROP_RATIO[0] - 1e-9 <= width / height <= CROP_RATIO[1] + 1e-9
    assert width * height >= CROP_AREA[0] * CROP_RATIO[0] - 1e-9  # what sticks out is cut off
    assert all(abs(scale - 1) <= COLOR_JITTER for scale in view[2:])


def test_views_use_their_full_ranges():
    drawn = [random_augmentation(0, image, 1) for image in range(400)]
    assert 0.4 < np.mean([view.flipped for view in drawn]) < 0.6
    centers = np.array([(view.box[0] + view.box[2], view.box[1] + view.box[3]) for view in drawn]) / 2
    np.testing.assert_allclose(centers.mean(0), 0.5, atol=0.02)
    areas = [(right - left) * (lower - upper) for left, upper, right, lower in (view.box for view in drawn)]
    assert min(areas) < 0.45
    assert max(areas) > 0.9
    ratios = [(right - left) / (lower - upper) for left, upper, right, lower in (view.box for view in drawn)]
    assert min(ratios) < 0.8
    assert max(ratios) > 1.25
    for scale in ("brightness", "contrast", "saturation"):
        values = [getattr(view, scale) for view in drawn]
        assert min(values) < 1 - 0.9 * COLOR_JITTER
        assert max(values) > 1 + 0.9 * COLOR_JITTER


@settings(max_examples=40, deadline=None)
@given(seeds, st.integers(0, 1000))
def test_image_and_mask_move_together(seed, image):
    view = random_augmentation(seed, image, 1)._replace(**SAME_COLORS)
    seen = apply(view, scene(), 64)
    clear = np.abs(seen.image[..., 0].astype(int) - seen.image[..., 2]) > 150  # the borders are blended
    assert clear.mean() > 0.85
    np.testing.assert_array_equal(np.where(seen.image[..., 0] > 100, 1, 2)[clear], seen.mask[clear])
    assert seen.label == 5


def test_box_and_flip_are_applied():
    """The left half, mirrored: expected pixels by slicing."""
    sample = scene(64)
    view = Augmentation((0.0, 0.25, 0.5, 0.75), True, **SAME_COLORS)
    seen = apply(view, sample, 32)
    np.testing.assert_array_equal(seen.mask, sample.mask[16:48, 0:32][:, ::-1])
    np.testing.assert_array_equal(seen.image, sample.image[16:48, 0:32][:, ::-1])


@pytest.mark.parametrize(
    ("scale", "expected"),
    [("brightness", [60, 120, 30]), ("contrast", None), ("saturation", None)],
)
def test_colors_are_scaled_and_masks_are_not(scale, expected):
    sample = scene(32)._replace(image=np.full((32, 32, 3), [120, 240, 60], dtype=np.uint8))
    sample.image[:16] //= 2
    seen = apply(UNCHANGED._replace(**{scale: 0.5}), sample, 32)
    np.testing.assert_array_equal(seen.mask, sample.mask)
    before, after = sample.image.astype(float), seen.image.astype(float)
    if scale == "brightness":
        assert after[20, 0].tolist() == expected
    if scale == "contrast":
        np.testing.assert_allclose(after[20, 0] - after[0, 0], (before[20, 0] - before[0, 0]) / 2, atol=1)
    if scale == "saturation":
        np.testing.assert_allclose(np.ptp(after[20, 0]), np.ptp(before[20, 0]) / 2, atol=1)


def test_a_crop_keeps_the_resolution_of_a_large_image(tmp_path):
    """A fine pattern of 300 px: a crop from the 64 px square would blur what the enlarged square still shows."""
    stripes = np.zeros((300, 300, 3), dtype=np.uint8)
    stripes[:, np.arange(300) // 4 % 2 == 0] = 255
    for i in range(20):
        Image.fromarray(stripes).save(tmp_path / f"{i}.png")
    images = open_images(f"imagefolder:{tmp_path}", "train", 1, 0, 64, tmp_path, views=9)
    closest = min(range(1, 9), key=lambda i: images.augmentation(i).box[2] - images.augmentation(i).box[0])
    flat = images.augmentation(closest)._replace(**SAME_COLORS)
    sharp, blurred = (apply(flat, images.plain.read_sizes(0, [px])[px], 64).image.std() for px in (96, 64))
    assert sharp > 1.15 * blurred


@pytest.mark.parametrize(("split", "number"), [("val", 2), ("train", 0)])
def test_views_of_validation_images_or_none_at_all_are_refused(split, number):
    with pytest.raises(DataError, match=rf"--views: {number} of each {split} image; allowed: 1 or more of train"):
        open_images("builtin", split, 4, 0, 64, Path("unused"), views=number)


@pytest.mark.skipif(not (SHARED / "camvid").is_dir(), reason=f"no {SHARED}/camvid: set BACKBONE_NAS_SHARED")
def test_views_of_camvid_invent_no_class():
    root = SHARED / "camvid"
    uri = f"webdataset:{root}/train-*.tar::{root}/val-*.tar#ignore=11"
    images = open_images(uri, "train", 8, 0, 64, Path("unused"), views=2)
    for i in range(8, 16):
        assert set(np.unique(images.read(i).mask)) <= {*range(11), 255}
